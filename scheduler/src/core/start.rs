//! When a task may start: at once, or when the window of its job is open.
//!
//! A window allows a start: what has begun goes on after it closes, also on another device after a failure, and a film
//! whose shots are done is put together at any hour. What could not start waits for the next opening.

use schemas::TaskId;

use super::{
    Farm,
    rows::{JobRow, JobState, TaskState},
    timers::Timer,
};

impl Farm {
    /// Windows that a job may name, sorted.
    pub fn window_names(&self) -> Vec<String> {
        self.limits.windows.keys().cloned().collect()
    }

    /// From when tasks of this job may start, at the earliest now.
    pub(super) fn may_start_ms(&self, row: &JobRow) -> i64 {
        let window = row
            .window
            .as_ref()
            .and_then(|name| self.limits.windows.get(name));
        match window.and_then(|window| window.next(self.now)) {
            Some(opening) if row.state == JobState::Waiting => opening.opens_ms.max(self.now),
            // A window that the settings no longer have holds nothing back.
            _ => self.now,
        }
    }

    /// A task of a job that has not begun is looked at again when its window closes.
    pub(super) fn arm_close(&mut self, id: TaskId) {
        let job = &self.job_at(self.task_at(id).row.job).row;
        let window = job
            .window
            .as_ref()
            .and_then(|name| self.limits.windows.get(name));
        if let Some(opening) = window
            .filter(|_| job.state == JobState::Waiting)
            .and_then(|w| w.next(self.now))
        {
            self.timers.arm(opening.closes_ms, Timer::Closes(id));
        }
    }

    /// What has not started by now waits for the next night.
    pub(super) fn window_closes(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get(&id) else {
            return;
        };
        let TaskState::Ready { backoff, .. } = task.row.state else {
            return;
        };
        let eligible_at_ms = self.may_start_ms(&self.job_at(task.row.job).row);
        if eligible_at_ms > self.now {
            self.change_task(id, |row| {
                row.state = TaskState::Ready {
                    eligible_at_ms,
                    backoff,
                }
            });
        }
    }
}
