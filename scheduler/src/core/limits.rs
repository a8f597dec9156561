//! Numbers that bound the farm. Times are milliseconds.

use std::collections::BTreeMap;

use schemas::agent::FailureClass;

use super::windows::Window;

/// Render tasks in one film: 20 takes, the longer ones in several parts.
pub const SHOTS_MAX: usize = 48;
/// Jobs that one fingerprint remembers; the oldest is forgotten first.
pub const DEDUPE_JOBS_MAX: usize = 64;
/// How long equal requests are remembered after the last of them.
pub const DEDUPE_MS: i64 = 900_000;
/// How long the answer to an `Idempotency-Key` is kept.
pub const IDEMPOTENCY_MS: i64 = 24 * 3_600_000;
/// How long an ended job stays in memory, so that repeated reports are known as such.
pub const RECENT_MS: i64 = 600_000;
/// Missed heartbeats that make an agent unresponsive.
pub const HEARTBEATS_MISSED: i64 = 3;
/// Heartbeats that may fail to name a lease; one of them can be a race with the grant.
pub const LEASE_UNNAMED_MAX: u32 = 2;
/// Checkpoints kept of a task: the last, and one before it in case the last is suspect.
pub const CHECKPOINTS_KEPT: usize = 2;
/// Checkpoints made this long before a device fault or NaN are not trusted.
pub const SUSPECT_MS: i64 = 300_000;
/// Nodes on which a task may fail before the task itself is to blame.
pub const POISON_NODES: usize = 3;
/// Nodes on which the same error may come before the task itself is to blame.
pub const POISON_NODES_ALIKE: usize = 2;
/// Different errors that a task remembers.
pub const SIGNATURES_MAX: usize = 16;
/// How long failures of tasks tell against a device.
pub const SUSPECT_SPAN_MS: i64 = 30 * 60_000;
/// Projects whose tasks failed on a device within that time; then it goes into quarantine.
pub const SUSPECT_PROJECTS: usize = 2;
/// Different tasks that failed on a device without a success between; then it goes into quarantine.
pub const SUSPECT_IN_A_ROW: usize = 3;
/// Share of the devices of a class that may go into quarantine within a span, in percent; at least one.
pub const QUARANTINE_PERCENT: usize = 20;
/// That span.
pub const QUARANTINE_SPAN_MS: i64 = 600_000;
/// When a device in quarantine is probed, after it came there and after each probe that failed; then an operator must.
pub const PROBE_DELAYS_MS: [i64; 3] = [600_000, 3_600_000, 6 * 3_600_000];
/// How long a healthy device may take to say what its class gives.
pub const REFERENCE_PATIENCE_MS: i64 = 300_000;
/// Without a step for this long, or ten times the slowest step, an attempt has stalled.
pub const STALL_MS: i64 = 60_000;
/// The same before the first step has been timed.
pub const STALL_FIRST_MS: i64 = 600_000;
/// How often a step may take its usual time before it has stalled.
pub const STALL_STEPS: i64 = 10;
/// Grants of a pool that the share of the aged lane is measured over.
pub const GRANTS_COUNTED: usize = 100;
/// Share of the grants that aged tasks may have before all others, in percent.
pub const AGED_PERCENT: usize = 25;
/// Least share of a pool's device time for urgent, standard and overnight work while there is any, in percent.
pub const FLOORS_PERCENT: [u32; 3] = [0, 20, 5];
/// Time in which device time that counts for a floor halves.
pub const FLOOR_HALF_LIFE_MS: i64 = 3_600_000;
/// Device time that a pool must have given lately before its floors hold, in microseconds.
pub const FLOOR_FROM_US: f64 = 600e6;
/// Eligible time after which a task of the band counts as aged.
pub const AGED_MS: [i64; 3] = [600_000, 4 * 3_600_000, 24 * 3_600_000];
/// Aged tasks that are looked at for one device.
pub const AGED_LOOKED_AT: usize = 64;
/// Urgent tasks for which devices are taken at a time.
pub const PREEMPT_LOOKED_AT: usize = 16;
/// From this share of its steps on, in percent, a task keeps its device.
pub const PROTECTED_PERCENT: u32 = 90;
/// Times that a task may be preempted; then it is protected for good.
pub const PREEMPTIONS_MAX: u32 = 3;
/// Share of the devices of a class that may be taken in a minute, in percent; at least one.
pub const PREEMPT_PERCENT_A_MINUTE: i64 = 2;
/// Devices that may be taken at once after a quiet time.
pub const PREEMPT_BURST: i64 = 4;
/// How long a lender is short of devices that are its own before it takes them back.
pub const RECLAIM_AFTER_MS: i64 = 10_000;
/// Rules of lenders that are short for which victims are looked for in one command.
pub const RECLAIMS_AT_ONCE: u32 = 4;
/// Tasks of a lender for which devices are taken back at a time.
pub const RECLAIM_LOOKED_AT: usize = 16;
/// How long a freed device is kept for the task it was freed for.
pub const HANDOVER_MS: i64 = 30_000;
/// How long a task that was preempted takes no device from others.
pub const NO_PING_PONG_MS: i64 = 300_000;
/// To save and upload a checkpoint.
pub const SAVE_MS: i64 = 1_000;
/// To load weights again that were evicted, when the attempt was never seen to load them.
pub const RELOAD_MS: i64 = 15_000;
/// Decode, mux and upload, when nothing better is known.
pub const TAIL_MS: i64 = 10_000;
/// How long work takes with nine chances in ten, in percent of what is expected, when nothing better is known.
pub const LATE_PERCENT: i64 = 150;
/// Claims at a time.
pub const CLAIMS_MAX: usize = 8;
/// A claim that is expected to be free at once is believed for this long.
pub const CLAIM_LEAST_MS: i64 = 60_000;
/// Groups of which it is known since when other work goes before them.
pub const PASSED_MAX: usize = 64;
/// Tasks that are looked at for one device that is claimed for another.
pub const BACKFILL_LOOKED_AT: u32 = 64;
/// Longest wait before a retry.
pub const BACKOFF_MAX_MS: i64 = 300_000;

/// What the settings may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the receipt of the last accepted renewal.
    pub lease_ttl_ms: i64,
    /// First expiry of a grant, until a heartbeat names it.
    pub start_ttl_ms: i64,
    pub heartbeat_ms: i64,
    /// How long an agent may take to give up a task after it was told to yield.
    pub yield_grace_ms: i64,
    /// A draining agent may end a task that needs at most this long.
    pub drain_finish_ms: i64,
    /// Silence after which an agent without leases is gone.
    pub gone_after_ms: i64,
    /// Progress of a job is written at most this often.
    pub progress_write_ms: i64,
    /// How long an attempt runs before its device may be taken.
    pub preempt_min_run_ms: i64,
    /// Steps that an attempt runs before its device may be taken.
    pub preempt_min_steps: u32,
    /// A device is only taken if that starts the urgent task at least this much sooner.
    pub preempt_gain_ms: i64,
    /// How long other work goes before a group until it claims devices.
    pub claim_after_ms: i64,
    /// Windows that a job may name.
    pub windows: BTreeMap<String, Window>,
    /// Cost of a token relative to the built-in model, in parts per million, by name of weights; until it was measured.
    pub rate_ppm: BTreeMap<String, u64>,
}

impl Limits {
    /// Silence after which an agent counts as unresponsive.
    pub fn silence_ms(&self) -> i64 {
        HEARTBEATS_MISSED * self.heartbeat_ms
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lease_ttl_ms: 30_000,
            start_ttl_ms: 15_000,
            heartbeat_ms: 5_000,
            yield_grace_ms: 60_000,
            drain_finish_ms: 10_000,
            gone_after_ms: 600_000,
            progress_write_ms: 5_000,
            preempt_min_run_ms: 60_000,
            preempt_min_steps: 3,
            preempt_gain_ms: 20_000,
            claim_after_ms: 300_000,
            windows: BTreeMap::new(),
            rate_ppm: BTreeMap::new(),
        }
    }
}

/// Failures of a class that a task survives.
pub fn budget(class: FailureClass) -> u32 {
    match class {
        FailureClass::Rejected => 0,
        FailureClass::Numeric => 1,
        FailureClass::OutOfMemory | FailureClass::Stalled | FailureClass::Internal => 2,
        FailureClass::DeviceFault | FailureClass::Lost => 5,
        FailureClass::Io => 8,
    }
}
