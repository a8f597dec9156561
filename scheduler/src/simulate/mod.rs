//! What-if: the production core on a farm that exists only in numbers.
//!
//! [`Scenario`] says which nodes there are, who submits what and when, and how often nodes die.
//! [`run`] plays it through [`crate::core::Farm`], the same code that decides in production:
//! agents poll, beat, checkpoint, yield, die and come back; only rendering is replaced by its duration.
//! The same scenario and seed give the same report.

mod chart;
mod dice;
mod log;
mod node;
mod replay;
mod report;
mod scenario;
mod watch;
mod whatif;
mod world;

#[cfg(test)]
mod replay_tests;
#[cfg(test)]
mod tests;

pub use chart::svg;
pub use log::{LogError, Replayed, Scope, Wish, date, instant_ms, orders, replay};
pub use replay::{Check, Difference};
pub use report::{Report, Row, Sample};
pub use scenario::{
    Arrivals, NodeGroup, Scenario, ScenarioError, StoryCapacity, StoryWindow, Tenant,
};
pub use whatif::Change;

/// Plays the scenario to the end of its last job, or until its time is over.
///
/// # Errors
/// A scenario that names no devices or tenants, or numbers that make no sense.
pub fn run(scenario: &Scenario) -> Result<Report, ScenarioError> {
    scenario.check()?;
    Ok(world::World::new(scenario).play())
}
