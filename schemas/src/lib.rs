//! Words that cross a process: ids, tasks, the agent protocol and the Videos API objects.
//!
//! Types, and the one file format that several crates read ([`mp4`]): no clock, no randomness.
//! Start with [`task`] (what work is), then [`agent`] (how an agent asks for it and reports it), then [`video`] (what a user sees).

pub mod agent;
pub mod digest;
pub mod given;
pub mod ids;
pub mod keys;
pub mod money;
pub mod mp4;
pub mod node;
pub mod quota;
pub mod task;
pub mod video;

pub use digest::Digest;
pub use ids::{AccountId, AgentId, BootId, JobId, TaskId};
pub use money::GpuMicros;
