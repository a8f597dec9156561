//! The farm's scheduler: the only writer of the database.

pub mod admission;
pub mod api;
pub mod artifacts;
pub mod bench;
pub mod bootstrap;
pub mod chores;
pub mod clock;
pub mod core;
pub mod dispatcher;
pub mod doctor;
pub mod forecast;
pub mod leader;
pub mod metrics;
mod outbound;
pub mod pricing;
pub mod review;
mod serve;
pub mod settings;
pub mod simulate;
pub mod store;
pub mod storyboard;

pub use serve::{Running, Scheduler, StartError};
pub use settings::Settings;
