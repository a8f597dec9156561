//! A job that its owner holds back: nothing of it starts until it is resumed, and it stands in nobody's way.

use schemas::{AccountId, JobId, TaskId, task::TaskKind};

use super::{
    Farm,
    command::Reply,
    rows::{JobRow, JobState, Paused},
    write::Write,
};

impl Farm {
    /// Once more, or of a job that has ended, it changes nothing.
    pub(super) fn pause(&mut self, project: AccountId, id: JobId, by: String) -> Reply {
        let since_ms = self.now;
        let may = |row: &JobRow| row.paused.is_none() && !row.state.is_terminal();
        if self.is_of(project, id, may) {
            self.leave_line(id);
            if self.job_at(id).row.state == JobState::Waiting {
                self.writes.push(Write::WaitAsRows(id));
            }
            self.set_paused(id, Some(Paused { by, since_ms }));
        }
        Reply::Done
    }

    pub(super) fn resume(&mut self, project: AccountId, id: JobId) -> Reply {
        if self.is_of(project, id, |row| row.paused.is_some()) {
            self.set_paused(id, None);
            if self.job_at(id).row.state == JobState::Waiting {
                self.rejoin_line(id);
            }
        }
        Reply::Done
    }

    fn is_of(&self, project: AccountId, id: JobId, may: impl Fn(&JobRow) -> bool) -> bool {
        let row = self.jobs.get(&id).map(|job| &job.row);
        row.is_some_and(|row| row.project == project && may(row))
    }

    fn set_paused(&mut self, id: JobId, paused: Option<Paused>) {
        let tasks = self.job_at(id).tasks.clone();
        tasks.iter().for_each(|task| self.unindex_task(*task));
        self.change_job(id, |row| row.paused = paused);
        tasks.iter().for_each(|task| self.index_task(*task));
    }

    /// A film whose shots are done is joined all the same: that takes seconds.
    pub(super) fn is_paused(&self, id: TaskId) -> bool {
        let row = &self.task_at(id).row;
        row.kind() == TaskKind::Render && self.job_at(row.job).row.paused.is_some()
    }
}
