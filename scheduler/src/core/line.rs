//! Jobs enter memory and leave the lines: the only place that packs and unpacks them.

use std::collections::BTreeMap;

use schemas::{AccountId, JobId};

use super::{
    Farm, Job, Task,
    backlog::{LineId, Sum},
    packed::{Head, Line, Whole, head, pack, unpack},
    queue::Place,
    rows::{Band, JobState, TaskRow},
    start::{Expected, opening, start_ms},
    timers::Timer,
};

impl Farm {
    /// Takes a job that nobody has begun: packed, if one like it waits before it.
    /// Answers its packed form, which the database keeps for the next start.
    pub(super) fn join_line(&mut self, whole: Whole) -> Option<Vec<u8>> {
        let packed = pack(&whole, &self.shapes);
        let placed = packed
            .as_deref()
            .and_then(|bytes| head(bytes, &self.shapes));
        let Some((bytes, head)) = packed.as_deref().zip(placed) else {
            self.enter(whole, None);
            return packed;
        };
        let line = self.line(&head.line);
        match self.backlog.has_heads(line) {
            true => {
                self.backlog.push(line, &head, bytes);
                self.note_packed(head.line.account, head.line.band);
            }
            false => self.enter(whole, Some(line)),
        }
        packed
    }

    /// The line of this kind; a new one is awake if its jobs could start now.
    pub(super) fn line(&mut self, line: &Line) -> LineId {
        self.backlog.find(line).unwrap_or_else(|| {
            let id = self.backlog.add(line.clone());
            self.turn_line(id);
            id
        })
    }

    /// Wakes a line or lays it to rest, as its time says, and looks at it again when that changes.
    pub(super) fn turn_line(&mut self, id: LineId) {
        let Some(line) = self.backlog.line(id) else {
            return; // its timer outlived it
        };
        let (account, band, wishes) = (line.account, line.band, &line.wishes);
        let (now, own_ms) = (self.now, wishes.starts_ms.unwrap_or(i64::MIN));
        let named = wishes.window.as_deref();
        let window = named.and_then(|name| self.limits.windows.get(name));
        let starts_ms = window.map_or(own_ms, |w| start_ms(w, own_ms, now, wishes.late_ms));
        let is_awake = starts_ms <= now;
        let turns_ms = match is_awake {
            true => window.and_then(|w| opening(w, now, wishes.late_ms).map(|(_, until)| until)),
            false => Some(starts_ms),
        };
        if let Some(at_ms) = turns_ms {
            self.timers.arm(at_ms, Timer::Line(id));
        }
        self.backlog.wake(id, is_awake);
        self.note_packed(account, band);
    }

    /// What is packed of an account and a band has changed: whoever counts it hears of it.
    pub(super) fn note_packed(&mut self, account: AccountId, band: Band) {
        self.queue.note_packed(band, self.backlog.ready(band));
        self.count_packed(account);
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

    /// A command names the job: it must have its rows in memory. Answers its line, which has one too many then.
    pub(super) fn unpack(&mut self, id: JobId) -> Option<LineId> {
        let line = self.backlog.line_of(id)?;
        let bytes = self.backlog.take(id)?;
        let whole = self.unpacked(&bytes);
        self.backlog.forget(id);
        self.note_packed(whole.job.account(), whole.job.band);
        self.enter(whole, Some(line));
        Some(line)
    }

    /// Every job of the account and those below it gets its rows in memory.
    pub(super) fn unpack_below(&mut self, account: AccountId) {
        let packed = self.backlog.by_account();
        let below = packed.filter(|(of, _)| self.path(*of).contains(&account));
        let jobs: Vec<JobId> = below
            .map(|(_, bytes)| self.unpacked(bytes).job.id)
            .collect();
        for id in jobs {
            self.unpack(id);
        }
    }

    /// A job that was in no line while it waited takes its place in the one that it belongs to.
    pub(super) fn rejoin_line(&mut self, id: JobId) {
        let whole = self.whole(id);
        if let Some(head) = self.head(&whole) {
            let line = self.line(&head.line);
            self.job_at_mut(id).line = Some(line);
            self.backlog.count_head(line, 1);
            self.trim_line(line);
        }
    }

    /// Of unpacked jobs only so many as stand for the line stay so: those that came first.
    pub(super) fn trim_line(&mut self, line: LineId) {
        while self.backlog.is_overfull(line) {
            let heads = self.jobs.values().filter(|job| job.line == Some(line));
            let Some(last) = heads.max_by_key(|job| job.row.seq) else {
                return;
            };
            self.pack_again(last.row.id, line);
        }
    }

    /// One of the first of a line goes back among the packed ones.
    fn pack_again(&mut self, id: JobId, line: LineId) {
        let whole = self.whole(id);
        let packed = pack(&whole, &self.shapes).zip(self.head(&whole));
        let (bytes, head) = packed.expect("what stands for a line is like the rest of it");
        for task in &whole.tasks {
            self.unindex_task(task.id);
            self.tasks.remove(&task.id);
        }
        self.jobs.remove(&id);
        self.reservations.remove(&id);
        self.backlog.push(line, &head, &bytes);
        self.backlog.count_head(line, -1);
        self.note_packed(head.line.account, head.line.band);
    }

    fn whole(&self, id: JobId) -> Whole {
        let job = self.job_at(id);
        let tasks = job.tasks.iter().map(|task| self.task_at(*task).row.clone());
        Whole {
            job: job.row.clone(),
            tasks: tasks.collect(),
            reservation: self.reservations[&id].clone(),
        }
    }

    fn head(&self, whole: &Whole) -> Option<Head> {
        head(&pack(whole, &self.shapes)?, &self.shapes)
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
            self.backlog.forget(whole.job.id);
            self.note_packed(whole.job.account(), whole.job.band);
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
        for id in ids {
            self.unpack(id);
        }
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
            Some((rank, seq)) => self.backlog.ahead(account, band, rank, seq),
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
