//! Numbers that bound the farm. Times are milliseconds.

use schemas::agent::FailureClass;

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
