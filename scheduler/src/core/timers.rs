//! Instants at which something may be due. A timer that fires too early is armed again.

use std::collections::BTreeSet;

use schemas::{AccountId, AgentId, JobId, TaskId};

use super::rows::Fingerprint;

/// What to look at when its instant has come; the entity itself knows whether it is due.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A lease may have expired.
    Lease(TaskId),
    /// A task may start from now on: a backoff is over, its instant has come or its window opens.
    Eligible(TaskId),
    /// The window of a task may have closed: before it could start, or while it runs.
    Closes(TaskId),
    /// The packed jobs of a line may start from now on, or no more.
    Line(u32),
    /// A job may have missed its deadline.
    Deadline(JobId),
    /// A day of a budget has ended.
    Budget(AccountId),
    /// A grant may have expired.
    Expiry(AccountId, String),
    /// A lender may take devices back.
    Reclaim,
    /// A claim may have lapsed.
    Claim,
    /// An agent may have fallen silent.
    Agent(AgentId),
    /// An ended job may leave memory.
    Forget(JobId),
    Dedupe(Fingerprint),
    Idempotency(String),
}

#[derive(Clone, Debug, Default)]
pub struct Timers {
    due: BTreeSet<(i64, Timer)>,
}

impl Timers {
    pub fn arm(&mut self, at_ms: i64, timer: Timer) {
        self.due.insert((at_ms, timer));
    }

    pub fn next_ms(&self) -> Option<i64> {
        self.due.first().map(|(at_ms, _)| *at_ms)
    }

    /// Removes and answers one timer whose instant has come.
    pub fn pop(&mut self, now: i64) -> Option<Timer> {
        let (at_ms, _) = self.due.first()?;
        if *at_ms > now {
            return None;
        }
        self.due.pop_first().map(|(_, timer)| timer)
    }
}
