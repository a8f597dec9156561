//! The agent protocol: JSON over HTTP under `/agent/v1`, authorised by the agent token.
//!
//! | call | body | answer |
//! |---|---|---|
//! | `POST /agent/v1/hello` | [`Hello`] | [`Welcome`] |
//! | `POST /agent/v1/lease` (long poll) | [`LeaseRequest`] | [`LeaseAnswer`] |
//! | `POST /agent/v1/heartbeat` | [`Heartbeat`] | [`HeartbeatAnswer`] |
//! | `POST /agent/v1/checkpoint` | [`CheckpointReport`] | [`WriteAnswer`] |
//! | `POST /agent/v1/report` | [`Report`] | [`WriteAnswer`] |
//! | `POST /agent/v1/drain` | [`DrainNotice`] | [`WriteAnswer`] |
//! | `POST /agent/v1/probe` | [`ProbeReport`] | [`WriteAnswer`] |
//! | `PUT /agent/v1/artefacts/{digest}` | bytes, [`LeaseRef`] as query | [`WriteAnswer`] |
//! | `GET /agent/v1/artefacts/{digest}` | | bytes |
//!
//! Every write carries a [`LeaseRef`]; one with an old attempt or boot changes nothing.

use serde::{Deserialize, Serialize};

use crate::{
    AgentId, BootId, Digest, JobId, TaskId,
    task::{Artefact, TaskSpec},
};

/// First call of an agent's life, and again after it was away.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Name of the node, unique in the farm.
    pub name: String,
    pub boot: BootId,
    pub version: String,
    pub devices: Vec<Device>,
    /// Weights that this agent can render with.
    pub weights: Vec<WeightsInfo>,
    /// FFmpeg's version, when there is one: only then `Assemble` is offered.
    pub ffmpeg: Option<String>,
    /// Most devices that one shot can run on at once here; 1 from agents that do not say.
    #[serde(default = "one_device")]
    pub group_max: u32,
}

fn one_device() -> u32 {
    1
}

/// One GPU, or the CPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    pub index: u32,
    /// `cpu`, or the GPU's name as its driver gives it.
    pub class: String,
    /// Memory that work may use, in bytes (RAM for the CPU).
    pub memory_bytes: u64,
}

/// Weights that an agent holds, with what admission must know to accept a prompt for them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightsInfo {
    pub name: String,
    /// Digest over all files; part of what makes a checkpoint valid.
    pub digest: Digest,
    pub title: String,
    /// Native sizes, width by height in pixels.
    pub sizes: Vec<(u32, u32)>,
    pub fps: u32,
    pub frames_default: u32,
    pub frames_max: u32,
    /// Frames are `frames_step * k + 1`.
    pub frames_step: u32,
    /// Sampler steps that the weights recommend.
    pub steps: u32,
    /// Known words in lower case; empty when any word may be used.
    pub vocabulary: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Welcome {
    pub agent: AgentId,
    pub term: u64,
    pub heartbeat_ms: u64,
    pub lease_ttl_ms: u64,
}

/// Names one attempt in every write: the fencing token and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRef {
    pub task: TaskId,
    /// Grows with each grant of the task; an older one is fenced off.
    pub attempt: u32,
    pub term: u64,
    pub agent: AgentId,
    pub boot: BootId,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseRequest {
    pub agent: AgentId,
    pub boot: BootId,
    pub device: u32,
    /// A repeated id in one boot gets the same grant, so a lost reply strands nothing.
    pub poll_id: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum LeaseAnswer {
    Offer(Box<LeaseOffer>),
    /// Nothing to do within the long poll.
    Idle {
        why: String,
    },
    /// Render the probe on this device and report what came out: a known recipe with [`PROBE_WEIGHTS`].
    Probe,
    /// The scheduler does not know this boot: say [`Hello`] again.
    UnknownAgent,
}

/// Weights that every agent has; a probe is rendered with them.
pub const PROBE_WEIGHTS: &str = "builtin";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProbeReport {
    pub agent: AgentId,
    pub boot: BootId,
    pub device: u32,
    pub outcome: ProbeOutcome,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum ProbeOutcome {
    /// Twice, with equal results.
    Rendered {
        /// Over latents, pictures and sound.
        digest: Digest,
    },
    Failed {
        message: String,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseOffer {
    pub lease: LeaseRef,
    pub job: JobId,
    /// Binding; counted by the agent from when it sent the request.
    pub ttl_ms: u64,
    /// Information only.
    pub expires_at_ms: i64,
    pub spec: TaskSpec,
    /// Outputs of the tasks before this one, in order (the shots, for `Assemble`).
    pub inputs: Vec<Artefact>,
    pub checkpoint: Option<CheckpointRef>,
    /// Devices of the group that it runs on, the one that asked among them; empty from a scheduler that
    /// knows no groups.
    #[serde(default)]
    pub devices: Vec<u32>,
}

/// A stored checkpoint: resume at `step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointRef {
    /// Steps that are done.
    pub step: u32,
    pub digest: Digest,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    pub agent: AgentId,
    pub boot: BootId,
    pub term: u64,
    pub leases: Vec<LeaseProgress>,
    pub devices: Vec<DeviceSample>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseProgress {
    pub lease: LeaseRef,
    pub phase: Phase,
    /// Denoising steps done, and of how many.
    pub step: u32,
    pub steps: u32,
    pub step_ms: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Load weights, encode the prompt.
    #[default]
    Encode,
    Denoise,
    Decode,
    /// FFmpeg.
    Mux,
    Upload,
}

/// One reading of one device; a field that its driver does not give is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSample {
    pub index: u32,
    pub utilisation_percent: Option<u32>,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    pub power_mw: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_limit_mw: Option<u32>,
    pub temperature_c: Option<u32>,
    pub sm_clock_mhz: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_clock_mhz: Option<u32>,
    /// What holds its clocks down now: `thermal`, `power`, `hardware` …; idling does not count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub throttled_by: Vec<String>,
    /// Memory errors since the driver was loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecc_corrected: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecc_uncorrected: Option<u64>,
    /// Xid events since the last heartbeat that was answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xids: Vec<u64>,
    /// Processes that compute on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// Whether it is cut into instances (MIG).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<bool>,
}

impl DeviceSample {
    pub fn is_throttled(&self) -> bool {
        !self.throttled_by.is_empty()
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum HeartbeatAnswer {
    Beat {
        term: u64,
        directives: Vec<LeaseDirective>,
        order: AgentOrder,
    },
    UnknownAgent,
}

/// The agent leaves (SIGTERM): give it no more work. What it holds it releases or ends itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainNotice {
    pub agent: AgentId,
    pub boot: BootId,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseDirective {
    pub task: TaskId,
    pub attempt: u32,
    pub directive: Directive,
}

/// What the agent does with a lease after a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Directive {
    /// Go on; the lease runs `ttl_ms` from when the heartbeat was sent.
    Continue { ttl_ms: u64 },
    /// At the next step boundary: checkpoint, upload, report `Released`.
    Yield { reason: String },
    /// Stop at once, delete scratch, report nothing.
    Abandon { reason: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentOrder {
    Run,
    /// Take no new work, end what runs, then leave.
    Drain,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckpointReport {
    pub lease: LeaseRef,
    pub checkpoint: CheckpointRef,
}

/// The end of an attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub lease: LeaseRef,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    Succeeded {
        artefacts: Vec<Artefact>,
        /// Device time that led to the result, for the charge: of a group, that of each of its devices.
        device_us: u64,
        /// Steps that this attempt ran itself (not those before its checkpoint).
        steps_run: u32,
        #[serde(default)]
        times: Times,
        #[serde(default)]
        memory: MemoryTold,
    },
    Released {
        checkpoint: Option<CheckpointRef>,
        reason: String,
        device_us: u64,
    },
    Failed {
        cause: FailureClass,
        /// For people, without paths or addresses of the node.
        message: String,
        /// Memory that the attempt would have needed, weights included, when it ran out of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peak_bytes: Option<u64>,
    },
}

/// What the parts of an attempt took, in microseconds, for estimates of others; what was not done is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Times {
    /// Opening the weights, told with the first shot that used them.
    pub load_us: Option<u64>,
    /// From the prompt to the first step.
    pub encode_us: Option<u64>,
    /// All steps that this attempt ran.
    pub steps_us: Option<u64>,
    pub decode_us: Option<u64>,
    /// FFmpeg: the shot file, or the film.
    pub mux_us: Option<u64>,
    pub upload_us: Option<u64>,
}

/// Memory of an attempt's device in bytes, weights included, for the placement of others like it; of a group, that of
/// all its devices together. What nobody can tell is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryTold {
    /// The least that the engine foretold to be enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foretold_bytes: Option<u64>,
    /// The most that it was seen to take at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
}

/// Why an attempt failed; each class has its own budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The user's input cannot be rendered; no retry.
    Rejected,
    OutOfMemory,
    /// NaN or infinite latents.
    Numeric,
    DeviceFault,
    /// Lease expired, boot ended, node gone.
    Lost,
    Stalled,
    /// Upload, store or FFmpeg pipe.
    Io,
    /// Panic or broken invariant in the agent.
    Internal,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum WriteAnswer {
    Accepted,
    /// Known already; nothing changed.
    Duplicate,
    /// The attempt, boot or term is not the current one: abandon the task.
    Refused {
        why: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_of_an_agent_that_tells_nothing_of_memory_is_read() {
        let told = r#"{"outcome":"succeeded","artefacts":[],"device_us":1,"steps_run":2}"#;
        let read: Outcome = serde_json::from_str(told).unwrap();
        let Outcome::Succeeded { memory, times, .. } = read else {
            panic!("{read:?}")
        };
        assert_eq!((memory, times), Default::default());
    }
}
