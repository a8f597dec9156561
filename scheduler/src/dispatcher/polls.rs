//! Polls that found nothing: they wait here, in the writer, until something may have come for them.
//!
//! So a film and its first lease are one commit, and a farm of thousands of free devices sends nothing
//! through the channel when one of them gets work.

use std::collections::BTreeMap;

use schemas::agent::LeaseRequest;
use tokio::time::Instant;

use super::Answer;
use crate::core::explain::Waiting;

/// A device that waits for work.
#[derive(Debug)]
pub(super) struct Poll {
    pub request: LeaseRequest,
    pub until: Instant,
    pub answer: Answer,
}

/// Those that wait, the one that must be answered first at the front.
#[derive(Default)]
pub(super) struct Polls {
    waiting: BTreeMap<(Instant, u64), (Poll, Waiting)>,
    last: u64,
    /// Something became eligible or free since they were asked.
    is_due: bool,
}

impl Polls {
    /// It found nothing for this reason.
    pub fn park(&mut self, poll: Poll, why: Waiting) {
        self.last += 1;
        self.waiting.insert((poll.until, self.last), (poll, why));
    }

    pub fn wake(&mut self) {
        self.is_due = true;
    }

    /// All of them, if there may be something for one.
    pub fn take_if_due(&mut self) -> Vec<(Poll, Waiting)> {
        match std::mem::take(&mut self.is_due) {
            true => std::mem::take(&mut self.waiting).into_values().collect(),
            false => Vec::new(),
        }
    }

    /// When the first must be answered.
    pub fn next(&self) -> Option<Instant> {
        self.waiting.keys().next().map(|(until, _)| *until)
    }

    /// One whose time is over.
    pub fn pop_over(&mut self, now: Instant) -> Option<(Poll, Waiting)> {
        let first = self.waiting.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}
