//! Jobs enter memory and leave the lines: the only place that packs and unpacks them.

use std::collections::BTreeMap;

use schemas::{AccountId, JobId};

use super::{
    Farm, Job, Task,
    backlog::{LineId, Sum},
    packed::{Whole, head, pack, unpack},
    queue::Place,
    rows::{Band, JobState, TaskRow},
    start::Expected,
};

impl Farm {
    /// Takes a job that nobody has begun: packed, if one like it waits before it.
    /// Answers its packed form, which the database keeps for the next start.
    pub(super) fn join_line(&mut self, whole: Whole) -> Option<Vec<u8>> {
        let packed = pack(&whole, &self.shapes);
        let placed = packed
            .as_deref()
            .and_then(|bytes| head(bytes, &self.shapes));
        match (&packed, placed) {
            (Some(bytes), Some(head)) if self.backlog.has_heads(&head.line) => {
                self.backlog.push(&head, bytes);
                self.queue
                    .note_packed(head.line.band, self.backlog.ready(head.line.band));
            }
            (_, placed) => {
                let line = placed.map(|head| self.backlog.line(head.line));
                self.enter(whole, line);
            }
        }
        packed
    }

    /// All of a job's rows enter memory.
    pub(super) fn enter(&mut self, whole: Whole, line: Option<LineId>) {
        let id = whole.job.id;
        if let Some(line) = line {
            self.backlog.count_head(line, 1);
        }
        let mut expected = Expected::default();
        for task in &whole.tasks {
            expected.add(task.kind(), task.estimate);
        }
        self.reservations.insert(id, whole.reservation);
        self.jobs.insert(
            id,
            Job {
                tasks: whole.tasks.iter().map(|task| task.id).collect(),
                progress_written_ms: self.now,
                line,
                expected,
                row: whole.job,
            },
        );
        self.count_job(id, None);
        let ids: Vec<_> = whole.tasks.iter().map(|task| task.id).collect();
        for row in whole.tasks {
            self.tasks.insert(row.id, Task::new(row));
        }
        for task in ids {
            self.index_task(task);
        }
        self.arm_deadline(id);
    }

    /// A command names the job: it must have its rows in memory.
    pub(super) fn unpack(&mut self, id: JobId) {
        if let Some(bytes) = self.backlog.take(id) {
            let whole = self.unpacked(&bytes);
            self.backlog.forget(id);
            self.queue
                .note_packed(whole.job.band, self.backlog.ready(whole.job.band));
            self.enter(whole, None);
        }
    }

    /// Every job of the account and those below it gets its rows in memory.
    pub(super) fn unpack_below(&mut self, account: AccountId) {
        let packed = self.backlog.by_account();
        let below = packed.filter(|(of, _)| self.path(*of).contains(&account));
        let jobs: Vec<JobId> = below
            .map(|(_, bytes)| self.unpacked(bytes).job.id)
            .collect();
        jobs.into_iter().for_each(|id| self.unpack(id));
    }

    /// Capacity rules count what each account has waiting: while there are any, nothing is packed.
    pub(super) fn pack_or_not(&mut self) {
        self.backlog.allow(self.capacities.is_empty());
        match self.capacities.is_empty() {
            true => self.pack_all(),
            false => {
                for line in self.backlog.line_ids() {
                    self.advance_line(line);
                }
            }
        }
    }

    /// Packs what waits behind the first of each line again.
    fn pack_all(&mut self) {
        let mut waiting: Vec<(LineId, i64, JobId)> = self
            .jobs
            .values()
            .filter_map(|job| Some((job.line?, job.row.seq, job.row.id)))
            .collect();
        waiting.sort_unstable();
        for (line, _, id) in waiting {
            // From the first on: as soon as there are enough before it, a job is one of the rest.
            if let Some(whole) = self.take_out(id, line) {
                self.join_line(whole);
            }
        }
    }

    /// A job that waits leaves memory; `None` for one that stays because it is among the first.
    fn take_out(&mut self, id: JobId, line: LineId) -> Option<Whole> {
        self.backlog.count_head(line, -1);
        let job = self.jobs.get(&id)?.clone();
        job.tasks.iter().for_each(|task| self.unindex_task(*task));
        let rows = job.tasks.iter().filter_map(|task| self.tasks.remove(task));
        let tasks = rows.map(|task| task.row).collect();
        self.jobs.remove(&id);
        let reservation = self.reservations.remove(&id)?;
        Some(Whole {
            job: job.row,
            tasks,
            reservation,
        })
    }

    /// The job waits no more: the next one of its line takes its place.
    pub(super) fn leave_line(&mut self, id: JobId) {
        if let Some(line) = self.job_at_mut(id).line.take() {
            self.backlog.count_head(line, -1);
            self.advance_line(line);
        }
    }

    /// Unpacks as many jobs as the line must have unpacked.
    pub(super) fn advance_line(&mut self, line: LineId) {
        while let Some(bytes) = self.backlog.pop_if_due(line) {
            let whole = self.unpacked(&bytes);
            let band = whole.job.band;
            self.backlog.forget(whole.job.id);
            self.queue.note_packed(band, self.backlog.ready(band));
            self.enter(whole, Some(line));
        }
    }

    fn unpacked(&self, bytes: &[u8]) -> Whole {
        unpack(bytes, &self.shapes).expect("what was packed here can be unpacked")
    }

    /// The rows of a packed job, to look at.
    pub(super) fn packed(&self, id: JobId) -> Option<Whole> {
        Some(self.unpacked(self.backlog.bytes(id)?))
    }

    /// Every job has its rows in memory, as if nothing were ever packed.
    #[cfg(test)]
    pub fn unpack_all(&mut self) {
        let ids: Vec<_> = self.all_packed().map(|whole| whole.job.id).collect();
        ids.into_iter().for_each(|id| self.unpack(id));
    }

    /// Whether the job's rows are not in memory.
    #[cfg(test)]
    pub fn is_packed(&self, id: JobId) -> bool {
        self.backlog.holds(id)
    }

    /// At most so many packed jobs behind a place, line by line; with the place of the last.
    pub(super) fn packed_page(
        &self,
        after: (LineId, i64),
        limit: usize,
    ) -> (Vec<Whole>, Option<(LineId, i64)>) {
        let page: Vec<_> = self.backlog.behind(after).take(limit).collect();
        let last = page.last().map(|(at, _)| *at);
        let whole = page.iter().map(|(_, bytes)| self.unpacked(bytes));
        (whole.collect(), last)
    }

    /// Packed jobs as rows, in no order.
    pub(super) fn all_packed(&self) -> impl Iterator<Item = Whole> {
        self.backlog.all().map(|bytes| self.unpacked(bytes))
    }

    /// Eligible tasks of packed jobs that are served before this place.
    pub(super) fn packed_ahead(&self, account: AccountId, band: Band, place: &Place) -> u64 {
        match place.waits_since() {
            Some((rank, seq)) => self.backlog.ahead(account, band, rank, seq).ready,
            None => 0,
        }
    }

    /// The first task of the unpacked job that stands for a packed one.
    pub(super) fn head_of(&self, packed: JobId) -> Option<&TaskRow> {
        let line = self.backlog.line_of(packed)?;
        let stands = |job: &&Job| job.line == Some(line);
        let head = self.jobs.values().find(stands)?;
        Some(&self.task_at(*head.tasks.first()?).row)
    }

    /// Packed jobs by line, with the task that stands for all of them in the queue.
    pub(super) fn packed_lines(&self) -> impl Iterator<Item = (&TaskRow, Sum)> {
        let heads: BTreeMap<LineId, &Job> = self
            .jobs
            .values()
            .filter(|job| job.row.state == JobState::Waiting)
            .filter_map(|job| Some((job.line?, job)))
            .collect();
        self.backlog.sums().filter_map(move |(line, sum)| {
            let first = heads.get(&line)?.tasks.first()?;
            Some((&self.task_at(*first).row, sum))
        })
    }
}
