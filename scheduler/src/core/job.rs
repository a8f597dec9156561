//! Jobs: begin, progress, publish, fail, cancel, delete, forget.

use schemas::{AccountId, JobId, TaskId, task::Artefact};

use super::{
    Farm,
    command::{Ended, Reply},
    limits::RECENT_MS,
    rows::{JobError, JobState, OutboxRow, TaskState},
    timers::Timer,
    write::Write,
};

/// Progress that rendering can reach before anything is published.
const PROGRESS_BEFORE_END: i128 = 99;
/// Share of a render task that its denoising steps are, in percent; the rest is decode and mux.
const STEPS_PERCENT: i128 = 90;

impl Farm {
    /// The first grant of one of its tasks.
    pub(super) fn begin_job(&mut self, id: JobId) {
        if self.job_at(id).row.state == JobState::Waiting {
            let saved = self.saved_now(id);
            self.change_job(id, |job| {
                job.state = JobState::Rendering;
                job.saved = saved;
            });
            self.announce(id, "video.started");
        }
    }

    /// Raises the written progress to what the tasks have reached; it never falls.
    pub(super) fn write_progress(&mut self, id: JobId) {
        let percent = self.percent(id);
        let now = self.now;
        let job = self.job_at_mut(id);
        job.progress_written_ms = now;
        if percent > job.row.progress && !job.row.state.is_terminal() {
            self.change_job(id, |job| job.progress = percent);
        }
    }

    /// Done parts of the tasks, weighted by their estimates.
    pub(super) fn percent(&self, id: JobId) -> u8 {
        let (mut done, mut all) = (0i128, 0i128);
        for task in &self.job_at(id).tasks {
            let task = self.task_at(*task);
            let weight = i128::from(task.row.estimate.0.max(1));
            all += weight * 100;
            done += weight * task.percent_done();
        }
        (PROGRESS_BEFORE_END * done / all.max(1)) as u8
    }

    /// The last task is done: one transaction publishes, charges and announces.
    pub(super) fn publish(&mut self, id: JobId) {
        let now = self.now;
        self.change_job(id, |job| {
            job.state = JobState::Succeeded;
            job.progress = 100;
            job.ended_at_ms = Some(now);
        });
        self.settle(id);
        self.announce(id, "video.completed");
        self.ended(id);
    }

    /// A task cannot be done: its siblings end, nothing is charged.
    pub(super) fn fail_job(&mut self, id: JobId, error: JobError) {
        if self.job_at(id).row.state.is_terminal() {
            return;
        }
        let now = self.now;
        self.change_job(id, |job| {
            job.state = JobState::Failed;
            job.ended_at_ms = Some(now);
            job.error = Some(error);
        });
        self.cancel_tasks(id);
        self.refund_all(id);
        self.void(id);
        self.writes.push(Write::DropArtefacts { job: id });
        self.announce(id, "video.failed");
        self.ended(id);
    }

    pub(super) fn cancel(&mut self, project: AccountId, id: JobId) -> Ended {
        match self.jobs.get(&id) {
            Some(job) if job.row.project != project => Ended::NotLive,
            Some(job) if job.row.state.is_terminal() => Ended::Before,
            Some(_) => {
                self.cancel_job(id);
                Ended::Now
            }
            None => Ended::NotLive,
        }
    }

    /// Its owner ends it: what was counted stays charged, the rest of the hold is given back.
    fn cancel_job(&mut self, id: JobId) {
        self.break_off(id, JobState::Cancelled, None);
        self.announce(id, "video.cancelled");
    }

    /// An operator's rule ends it; the money is as with a cancel.
    pub(super) fn stop_job(&mut self, id: JobId, error: JobError) {
        self.break_off(id, JobState::Failed, Some(error));
        self.announce(id, "video.failed");
    }

    fn break_off(&mut self, id: JobId, state: JobState, error: Option<JobError>) {
        let now = self.now;
        self.change_job(id, |job| {
            job.state = state;
            job.ended_at_ms = Some(now);
            job.error = error;
        });
        self.cancel_tasks(id);
        self.void(id);
        self.writes.push(Write::DropArtefacts { job: id });
        self.ended(id);
    }

    pub(super) fn delete(&mut self, project: AccountId, id: JobId) -> Reply {
        match self.jobs.get(&id) {
            Some(job) if job.row.project != project => return Reply::Deleted,
            Some(job) if !job.row.state.is_terminal() => self.cancel_job(id),
            _ => {}
        }
        self.forget(id);
        let at_ms = self.now;
        self.writes.push(Write::RemoveJob {
            project,
            job: id,
            at_ms,
        });
        Reply::Deleted
    }

    fn cancel_tasks(&mut self, id: JobId) {
        for task in self.job_at(id).tasks.clone() {
            let row = &self.task_at(task).row;
            if row.state.is_terminal() {
                continue;
            }
            if matches!(row.state, TaskState::Leased(_)) {
                self.end_attempt(task, "cancelled", None, None);
            }
            self.change_task(task, |row| row.state = TaskState::Cancelled);
            self.drop_checkpoints(task);
        }
    }

    /// Keeps the files of a finished task as long as its job.
    pub(super) fn keep_artefacts(&mut self, job: JobId, task: TaskId, artefacts: &[Artefact]) {
        self.writes.push(Write::KeepArtefacts {
            job,
            task,
            artefacts: artefacts.to_vec(),
        });
    }

    pub(super) fn announce(&mut self, job: JobId, kind: &str) {
        let project = self.job_at(job).row.project;
        self.announce_for(project, job, kind);
    }

    pub(super) fn announce_for(&mut self, project: AccountId, job: JobId, kind: &str) {
        let row = OutboxRow {
            seq: self.next_seq(),
            kind: kind.into(),
            job,
            project,
            at_ms: self.now,
        };
        self.writes.push(Write::InsertOutbox(row));
    }

    fn ended(&mut self, id: JobId) {
        self.keep_promise(id);
        self.timers.arm(self.now + RECENT_MS, Timer::Forget(id));
    }

    pub(super) fn forget_due(&mut self, id: JobId) {
        let due = |job: &super::Job| {
            job.row
                .ended_at_ms
                .is_some_and(|at| at + RECENT_MS <= self.now)
        };
        if self.jobs.get(&id).is_some_and(due) {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: JobId) {
        if let Some(job) = self.jobs.remove(&id) {
            for task in job.tasks {
                self.tasks.remove(&task);
            }
            self.reservations.remove(&id);
        }
    }
}

impl super::Task {
    /// Part of the task that is done, in percent.
    fn percent_done(&self) -> i128 {
        match self.row.state {
            TaskState::Succeeded { .. } => 100,
            _ if self.row.steps == 0 => 0,
            _ => STEPS_PERCENT * i128::from(self.row.step) / i128::from(self.row.steps),
        }
    }
}
