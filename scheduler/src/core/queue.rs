//! Which task comes first. Bands, floors and fair share will order accounts before this order.

use std::collections::BTreeSet;

use schemas::{TaskId, task::TaskKind};

use super::rows::JobState;

/// Place of an eligible task: the smallest is served first.
///
/// Assemble first (it ends a job), then tasks of jobs that have begun, then submission order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    lane: Lane,
    job_seq: i64,
    index: u32,
    pub task: TaskId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Assemble,
    Begun,
    Waiting,
}

impl Place {
    pub fn new(kind: TaskKind, job: JobState, job_seq: i64, index: u32, task: TaskId) -> Self {
        let lane = match (kind, job) {
            (TaskKind::Assemble, _) => Lane::Assemble,
            (TaskKind::Render, JobState::Waiting) => Lane::Waiting,
            (TaskKind::Render, _) => Lane::Begun,
        };
        Self {
            lane,
            job_seq,
            index,
            task,
        }
    }
}

/// Eligible tasks in the order of service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    places: BTreeSet<Place>,
}

impl Queue {
    pub fn insert(&mut self, place: Place) {
        self.places.insert(place);
    }

    pub fn remove(&mut self, place: &Place) {
        self.places.remove(place);
    }

    pub fn iter(&self) -> impl Iterator<Item = &Place> {
        self.places.iter()
    }

    /// Eligible tasks before this place.
    pub fn before(&self, place: &Place) -> impl Iterator<Item = &Place> {
        self.places.range(..*place)
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }
}
