//! A copy of what runs and waits, to look ahead with: taken in pages, so that no decision waits for it.
//!
//! A copy need not be of one moment: what changes between two pages only makes the forecast a little older.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use schemas::{
    AccountId, GpuMicros, JobId, TaskId,
    agent::Phase,
    task::{TaskKind, TaskSpec},
};

use super::{
    Farm,
    claims::Claims,
    costs::{Service, Spread},
    decay::Decayed,
    fold::Snapshot,
    limits::Limits,
    packed::Whole,
    prices::PriceBook,
    rows::{
        AccountRow, CheckpointRow, JobRow, ReservationRow, ReservationState, TaskRow, TaskState,
    },
};

/// Attempts without a failure that a farm is believed to have had before the first.
const BELIEVED_ATTEMPTS: u64 = 20;
/// How far a measured step is from those to come, in percent.
const STEP_PERCENT: [u64; 4] = [95, 100, 110, 130];

/// The farm without its jobs; accounts are copied into it page by page.
#[derive(Clone, Debug)]
pub struct Frame {
    pub now: i64,
    pub limits: Limits,
    pub rows: Snapshot,
    pub prices: PriceBook,
    pub claims: Claims,
    /// How many attempts of a thousand fail.
    pub fail_permille: u32,
}

/// A job that has not ended, with all that a look ahead needs of it.
#[derive(Clone, Debug)]
pub struct LiveCopy {
    pub job: JobRow,
    pub tasks: Vec<TaskRow>,
    pub checkpoints: Vec<CheckpointRow>,
    pub running: Vec<(TaskId, Rest)>,
}

/// The last job of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    Rows(JobId),
    /// Its line and its number there.
    Packed(u32, i64),
}

/// Where a running task stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Rest {
    pub spec: Arc<TaskSpec>,
    /// Class of its device.
    pub class: String,
    pub phase: Phase,
    /// Since the phase began.
    pub elapsed_ms: i64,
    pub step: u32,
    pub steps: u32,
    /// As its agent measures it.
    pub step_ms: Option<u32>,
}

/// How a task spends its time from here on, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub before_ms: i64,
    /// The step at which it begins, and of how many.
    pub step: u32,
    pub steps: u32,
    pub step_ms: i64,
    pub after_ms: i64,
}

impl Plan {
    /// Of a task that is granted with `step` steps behind it.
    pub fn new(service: &Service, step: u32, permille: u32) -> Self {
        let ms = |spread: Spread| ms(spread.at(permille));
        Self {
            before_ms: ms(service.encode),
            step: step.min(service.steps),
            steps: service.steps,
            step_ms: ms(service.step),
            after_ms: ms(service.decode) + ms(service.finish),
        }
    }

    /// The same when an attempt before it was lost after this part of it, in thousandths.
    pub fn after_a_loss(self, permille: u32) -> Self {
        let lost_ms = self.total_ms() * i64::from(permille) / 1_000;
        Self {
            before_ms: self.before_ms + lost_ms,
            ..self
        }
    }

    pub fn total_ms(&self) -> i64 {
        let steps = i64::from(self.steps.saturating_sub(self.step));
        self.before_ms + steps * self.step_ms + self.after_ms
    }
}

impl Rest {
    /// What is left of it; a part that takes longer than it should is believed to be nearly over.
    pub fn plan(&self, service: &Service, permille: u32) -> Plan {
        let whole = |spread: Spread| ms(spread.at(permille));
        let begun = |spread: Spread| (whole(spread) - self.elapsed_ms).max(whole(spread) / 10);
        let (decode, finish) = (whole(service.decode), whole(service.finish));
        let step_ms = match self.step_ms {
            Some(measured) => {
                let spread =
                    Spread(STEP_PERCENT.map(|percent| u64::from(measured) * percent / 100));
                spread.at(permille) as i64
            }
            None => whole(service.step),
        };
        let (before_ms, after_ms) = match (self.spec.kind(), self.phase) {
            (TaskKind::Assemble, Phase::Upload) => (0, begun(service.finish)),
            (TaskKind::Assemble, _) => (0, begun(service.decode) + finish),
            (_, Phase::Encode) => (begun(service.encode), decode + finish),
            (_, Phase::Denoise) => (0, decode + finish),
            (_, Phase::Decode) => (0, begun(service.decode) + finish),
            (_, Phase::Mux | Phase::Upload) => (0, begun(service.finish)),
        };
        let steps = match self.steps {
            0 => service.steps,
            steps => steps,
        };
        let is_denoising = matches!(self.phase, Phase::Encode | Phase::Denoise);
        Plan {
            before_ms,
            step: if is_denoising {
                self.step.min(steps)
            } else {
                steps
            },
            steps,
            step_ms,
            after_ms,
        }
    }
}

fn ms(us: u64) -> i64 {
    i64::try_from(us.div_ceil(1_000)).unwrap_or(i64::MAX / 1_024)
}

impl Farm {
    /// Accounts, agents, limits and prices, without the jobs.
    pub fn outlook_frame(&self) -> Frame {
        Frame {
            now: self.now,
            limits: self.limits.clone(),
            rows: self.frame(),
            prices: self.prices(),
            claims: self.claims.clone(),
            fail_permille: self.fail_permille(),
        }
    }

    /// As this leader has seen it; few attempts say little, so a farm is believed to fail at nothing first.
    fn fail_permille(&self) -> u32 {
        let [succeeded, failed] = self.attempts_seen;
        let permille = 1_000 * failed / (succeeded + failed + BELIEVED_ATTEMPTS);
        u32::try_from(permille).unwrap_or(1_000)
    }

    /// At most `limit` accounts behind `after`, with what they have had of the farm.
    pub fn outlook_accounts(
        &self,
        after: Option<AccountId>,
        limit: usize,
    ) -> Vec<(AccountRow, Decayed)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.accounts.range((from, Bound::Unbounded)).take(limit);
        rows.map(|(id, row)| (row.clone(), self.queue.usage(*id)))
            .collect()
    }

    /// At most `limit` jobs behind `after` that have not ended; with the last looked at, or `None` at the end.
    pub fn outlook_page(
        &self,
        after: Option<Looked>,
        limit: usize,
    ) -> (Vec<LiveCopy>, Option<Looked>) {
        let (mut copies, looked, last) = match after {
            None => self.page_of_rows(None, limit),
            Some(Looked::Rows(after)) => self.page_of_rows(Some(after), limit),
            Some(Looked::Packed(line, seq)) => return self.page_of_packed((line, seq), limit),
        };
        if looked == limit {
            return (copies, last.map(Looked::Rows));
        }
        // Behind the rows come the packed jobs; the oldest of each line first.
        let (packed, last) = self.page_of_packed((0, i64::MIN), limit - looked);
        copies.extend(packed);
        (copies, last)
    }

    fn page_of_packed(&self, after: (u32, i64), limit: usize) -> (Vec<LiveCopy>, Option<Looked>) {
        let (jobs, last) = self.packed_page(after, limit);
        let copy = |whole: Whole| LiveCopy {
            job: whole.job,
            tasks: whole.tasks,
            checkpoints: Vec::new(),
            running: Vec::new(),
        };
        let last = last.map(|(line, seq)| Looked::Packed(line, seq));
        (jobs.into_iter().map(copy).collect(), last)
    }

    /// Jobs with rows, how many were looked at, and the last of these.
    fn page_of_rows(
        &self,
        after: Option<JobId>,
        limit: usize,
    ) -> (Vec<LiveCopy>, usize, Option<JobId>) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut jobs = self.jobs.range((from, Bound::Unbounded));
        let (mut copies, mut looked, mut last) = (Vec::new(), 0, None);
        for (id, job) in jobs.by_ref().take(limit) {
            looked += 1;
            last = Some(*id);
            // What is paused may wait for ever.
            if !job.row.state.is_terminal() && job.row.paused.is_none() {
                copies.push(self.live_copy(&job.row, &job.tasks));
            }
        }
        (copies, looked, last)
    }

    fn live_copy(&self, job: &JobRow, tasks: &[TaskId]) -> LiveCopy {
        let all = || tasks.iter().map(|id| self.task_at(*id));
        LiveCopy {
            job: job.clone(),
            tasks: all().map(|task| task.row.clone()).collect(),
            checkpoints: all()
                .filter_map(|task| task.checkpoints.last().cloned())
                .collect(),
            running: tasks
                .iter()
                .filter_map(|id| Some((*id, self.rest(*id)?)))
                .collect(),
        }
    }

    /// Where a running task stands; `None` for one that does not run.
    pub fn rest(&self, id: TaskId) -> Option<Rest> {
        let task = self.task_at(id);
        let (TaskState::Leased(holder), Some(live)) = (&task.row.state, &task.live) else {
            return None;
        };
        let class = self.device_class(holder.agent, holder.device);
        Some(Rest {
            spec: Arc::clone(&task.row.spec),
            class: class.unwrap_or_default(),
            phase: live.phase,
            elapsed_ms: self.now - live.phase_since_ms.max(holder.granted_at_ms),
            step: live.step,
            steps: live.steps,
            step_ms: live.step_ms,
        })
    }
}

impl Frame {
    /// Takes a page of accounts in.
    pub fn add(&mut self, page: Vec<(AccountRow, Decayed)>) {
        for (row, usage) in page {
            if usage != Decayed::default() {
                self.rows.usage.push((row.id, usage));
            }
            self.rows.accounts.push(row);
        }
    }
}

/// A whole copy.
#[derive(Clone, Debug)]
pub struct Outlook {
    pub frame: Frame,
    pub jobs: Vec<LiveCopy>,
    /// Part of all jobs that are in it, in parts per million; the rest is played by a smaller farm.
    pub share_ppm: u64,
}

impl Outlook {
    pub(super) fn snapshot(&self) -> Snapshot {
        let mut rows = self.frame.rows.clone();
        for copy in &self.jobs {
            rows.jobs.push(copy.job.clone());
            rows.tasks.extend(copy.tasks.iter().cloned());
            rows.checkpoints.extend(copy.checkpoints.iter().cloned());
            rows.reservations.push(ReservationRow {
                job: copy.job.id,
                account: copy.job.account(),
                state: ReservationState::Pending,
                reserved: GpuMicros::ZERO,
                held: GpuMicros::ZERO,
                posted: GpuMicros::ZERO,
                refunded: GpuMicros::ZERO,
            });
        }
        // Money is no matter of time: what was accepted is played to its end.
        rows.loans.clear();
        rows.expiries.clear();
        rows
    }

    pub fn running(&self) -> BTreeMap<TaskId, Rest> {
        let all = self.jobs.iter().flat_map(|copy| copy.running.iter());
        all.cloned().collect()
    }
}
