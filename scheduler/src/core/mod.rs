//! The farm's state and every decision about it: pure, `apply(command, now)` in, reply and writes out.
//!
//! No IO, no clock, no randomness. Memory is a fold of the rows in the database ([`fold`]);
//! each change of a row is also a [`Write`], so a rebuilt farm equals the live one.
//!
//! One file an entity: [`submit`], [`job`], [`task`], [`agent`], [`ledger`]; who comes first is
//! in [`queue`], who gets it in [`placement`], why something waits in [`waiting`].

pub mod agent;
mod backlog;
pub mod budget;
pub mod calibration;
pub mod capacity;
mod caps;
mod cheap;
pub mod claims;
pub mod command;
pub mod costs;
pub mod decay;
pub mod event;
pub mod expiry;
pub mod explain;
mod failure;
pub mod fold;
pub mod forward;
pub mod group;
pub mod health;
mod job;
mod ledger;
pub mod limits;
mod line;
pub mod live;
mod loans;
pub mod memory;
pub mod nodes;
pub mod outlook;
pub mod packed;
mod pause;
mod placement;
mod pools;
mod preempt;
pub mod prices;
mod probe;
mod queue;
pub mod quota;
mod recent;
mod reclaim;
pub mod rows;
pub mod samples;
pub mod shapes;
pub mod sketch;
mod start;
mod submit;
pub mod tariff;
mod task;
mod timers;
mod usage;
pub mod users;
mod victims;
mod waiting;
pub mod windows;
pub mod write;

#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
pub(crate) mod simulation;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};

use schemas::{
    AccountId, AgentId, Digest, GpuMicros, JobId, TaskId, agent::FailureClass, task::TaskSpec,
};

use self::{
    agent::Agent,
    backlog::{Backlog, LineId},
    budget::BudgetRow,
    calibration::{Finished, Promise},
    capacity::CapacityRow,
    caps::Load,
    claims::Claims,
    command::{Command, Reply},
    costs::{Costs, size},
    event::Event,
    expiry::ExpiryRow,
    health::Suspicion,
    limits::Limits,
    memory::Needs,
    preempt::{Bucket, Handover},
    probe::Golden,
    queue::{Class, Entry, Place, Queue},
    quota::QuotaRow,
    recent::Recent,
    rows::{
        AccountRow, Balance, Band, CheckpointRow, DedupeRow, Fingerprint, GoldenKey, Holder,
        IdempotencyRow, JobRow, JobState, LoanRow, ReservationRow, TaskRow, TaskState,
    },
    samples::SampleRow,
    shapes::Shapes,
    start::Expected,
    task::LiveLease,
    timers::{Timer, Timers},
    write::{TaskGuard, Write},
};

/// All of the farm that decisions need. Jobs that ended long ago are only in the database; most that
/// wait are packed, see [`backlog`].
#[derive(Clone, Debug)]
pub struct Farm {
    limits: Limits,
    /// Grows with each start; leases outlive it.
    term: u64,
    /// Numbers jobs, ledger entries and events in commit order.
    seq: i64,
    jobs: BTreeMap<JobId, Job>,
    tasks: BTreeMap<TaskId, Task>,
    reservations: BTreeMap<JobId, ReservationRow>,
    accounts: BTreeMap<AccountId, AccountRow>,
    balances: BTreeMap<AccountId, Balance>,
    agents: BTreeMap<AgentId, Agent>,
    dedupe: BTreeMap<Fingerprint, DedupeRow>,
    idempotency: BTreeMap<String, IdempotencyRow>,
    quotas: BTreeMap<AccountId, QuotaRow>,
    budgets: BTreeMap<AccountId, BudgetRow>,
    capacities: BTreeMap<(AccountId, String), CapacityRow>,
    expiries: BTreeMap<(AccountId, String), ExpiryRow>,
    loans: BTreeMap<String, LoanRow>,
    /// Every grant that was ever made, by its key: a second arrival is known.
    grants: BTreeMap<(AccountId, String), GpuMicros>,
    /// Hash of the last entry of the ledger.
    chain: Option<Digest>,
    shapes: Shapes,
    backlog: Backlog,
    /// What each class of device gives for the probe.
    golden: Golden,
    /// What work took so far.
    costs: Costs,

    // Derived from the rows above.
    /// Every device of every group.
    busy: BTreeMap<(AgentId, u32), TaskId>,
    queue: Queue,
    timers: Timers,
    loads: BTreeMap<AccountId, Load>,
    /// Leases by the band of their job.
    leased: [u32; 3],
    quarantined: BTreeSet<(AgentId, u32)>,
    /// Memory that each kind of work needs.
    needs: Needs,
    /// Nodes whose CPU takes CPU work.
    cpu_nodes: BTreeSet<AgentId>,
    /// Accounts whose budget is used up, and until when.
    stopped: BTreeMap<AccountId, i64>,
    /// Devices by account and pool, and those that tasks wait for by account; only where there are capacity rules.
    pool_used: BTreeMap<AccountId, BTreeMap<String, u32>>,
    eligible: BTreeMap<AccountId, u32>,
    /// Of these, what is packed, by the account that it waits for itself.
    eligible_packed: BTreeMap<AccountId, u32>,
    prices: prices::Kept,

    // What only this leader knows.
    /// By pool.
    recent: BTreeMap<String, Recent>,
    /// Attempts that succeeded and that failed.
    attempts_seen: [u64; 2],
    /// Device time that is planned for an hour of a window whose hours have prices.
    planned: BTreeMap<(String, i64), i64>,
    promises: BTreeMap<JobId, Promise>,
    handovers: BTreeMap<(AgentId, u32), Handover>,
    claims: Claims,
    /// Running work that was told to give its device back.
    yielding: BTreeSet<TaskId>,
    buckets: BTreeMap<String, Bucket>,
    /// No device is taken before: those that the leader before asked may still be on their way.
    preempt_from_ms: i64,
    suspicions: BTreeMap<(AgentId, u32), Suspicion>,
    /// When the operator was told that a class of device has too many faults to be true.
    stopped_told: BTreeMap<String, i64>,
    /// When a device was asked what its class gives.
    references_asked: BTreeMap<GoldenKey, i64>,
    minutes: BTreeMap<(AgentId, u32), SampleRow>,
    /// Since when a lender lacks devices that are its own.
    short_since: BTreeMap<(AccountId, String), i64>,

    // Of the command that is being applied.
    now: i64,
    writes: Vec<Write>,
    wake: bool,
    attempts_ended: Vec<&'static str>,
    /// What was known of running work when some of it was told to give way.
    taken: Option<event::Known>,
    /// A replay says when devices may be taken.
    takes_none: bool,
    observed: Vec<Observed>,
    /// A claim was placed.
    claimed: bool,
    /// Accounts whose jobs a budget ends.
    to_cancel: BTreeSet<AccountId>,
    finished: Vec<Finished>,
}

#[derive(Clone, Debug)]
struct Job {
    row: JobRow,
    /// In task order.
    tasks: Vec<TaskId>,
    /// When progress was last written; not stored.
    progress_written_ms: i64,
    /// The line that it stands for while it waits; absent for one unlike all others.
    line: Option<LineId>,
    /// Of its tasks' estimates; not stored.
    expected: Expected,
}

#[derive(Clone, Debug)]
struct Task {
    row: TaskRow,
    /// Oldest first, at most [`limits::CHECKPOINTS_KEPT`].
    checkpoints: Vec<CheckpointRow>,
    /// What heartbeats tell about the lease; not stored.
    live: Option<LiveLease>,
    /// From when it could start, while it is in the queue; not stored.
    queued_ms: Option<i64>,
}

/// What a command led to.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub reply: Reply,
    pub writes: Vec<Write>,
    /// Devices that found nothing to do should ask again.
    pub wake: bool,
    /// Outcomes of attempts that ended, for the metrics.
    pub attempts_ended: Vec<&'static str>,
    /// What else the metrics count.
    pub observed: Vec<Observed>,
    /// Jobs that were published, beside what was foretold of them.
    pub finished: Vec<Finished>,
}

/// Something that happened while a command was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    Failed(FailureClass),
    Poisoned,
    /// A task was granted after so many milliseconds in which it could have run.
    Waited(Band, i64),
    /// A task of the band must give its device up.
    Preempted(Band),
}

impl Farm {
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The number of the last thing that was numbered; stored with each commit.
    pub fn seq(&self) -> i64 {
        self.seq
    }

    /// When to send [`Command::Tick`] if nothing else happens.
    pub fn next_deadline(&self) -> Option<i64> {
        self.timers.next_ms()
    }

    /// Decides one command at `now` (Unix ms, never going back).
    pub fn apply(&mut self, command: Command, now: i64) -> Outcome {
        self.now = self.now.max(now);
        self.advance();
        let unpacked = command.job().and_then(|job| self.unpack(job));
        let event = Event::of(&command);
        let reply = match command {
            Command::Submit(job) => Reply::Submitted(self.submit(*job)),
            Command::Cancel { project, job } => Reply::Cancelled(self.cancel(project, job)),
            Command::Pause { project, job, by } => self.pause(project, job, by),
            Command::Resume { project, job } => self.resume(project, job),
            Command::Delete { project, job } => self.delete(project, job),
            Command::NoteError { fingerprint } => self.note_error(fingerprint),
            Command::KeepAnswer {
                scope,
                fingerprint,
                answer,
            } => self.keep_answer(scope, fingerprint, answer),
            Command::AddAccount(row) => self.add_account(row),
            Command::OrderQuota(order) => self.order_quota(*order),
            Command::AddKey(row) => self.done(Write::InsertKey(row)),
            Command::RevokeKey { hash } => {
                let at_ms = self.now;
                self.done(Write::RevokeKey { hash, at_ms })
            }
            Command::Hello(hello) => Reply::Welcomed(self.hello(*hello)),
            Command::Lease(request) => Reply::Leased(self.lease(request)),
            Command::Heartbeat(beat) => Reply::Beat(self.heartbeat(*beat)),
            Command::Checkpoint(report) => Reply::Written(self.checkpoint(report)),
            Command::Report(report) => Reply::Written(self.report(*report)),
            Command::Probed(report) => Reply::Written(self.probed(report)),
            Command::OrderNode(order) => self.order_node(*order),
            Command::Drain { agent, boot } => self.drain(agent, boot),
            Command::Promise { job, promise } => self.promise(job, promise),
            Command::Started | Command::Tick => Reply::Done,
        };
        if let Some(line) = unpacked {
            self.trim_line(line);
        }
        self.cancel_over_budget();
        self.preempt();
        self.reclaim();
        self.log(event, &reply);
        Outcome {
            reply,
            writes: std::mem::take(&mut self.writes),
            wake: std::mem::take(&mut self.wake),
            attempts_ended: std::mem::take(&mut self.attempts_ended),
            observed: std::mem::take(&mut self.observed),
            finished: std::mem::take(&mut self.finished),
        }
    }

    /// Does everything that is due at `self.now`. No tick is needed for it: a missed one is made up.
    fn advance(&mut self) {
        while let Some(timer) = self.timers.pop(self.now) {
            match timer {
                Timer::Lease(task) => self.lease_due(task),
                Timer::Eligible(task) => self.index_task(task),
                Timer::Closes(task) => self.window_closes(task),
                Timer::Line(line) => self.turn_line(line),
                Timer::Deadline(job) => self.deadline_due(job),
                Timer::Budget(account) => self.budget_due(account),
                Timer::Expiry(account, key) => self.expiry_due(account, key),
                Timer::Reclaim => {} // looked at after each command
                Timer::Claim => self.drop_claims(),
                Timer::Agent(agent) => self.agent_due(agent),
                Timer::Forget(job) => self.forget_due(job),
                Timer::Dedupe(fingerprint) => self.dedupe_due(fingerprint),
                Timer::Idempotency(scope) => self.idempotency_due(scope),
            }
        }
    }

    fn done(&mut self, write: Write) -> Reply {
        self.writes.push(write);
        Reply::Done
    }

    fn add_account(&mut self, row: AccountRow) -> Reply {
        self.accounts.insert(row.id, row.clone());
        self.queue.add_account(row.id, row.parent, row.weight);
        self.done(Write::InsertAccount(row))
    }

    fn next_seq(&mut self) -> i64 {
        self.seq += 1;
        self.seq
    }

    fn task_at(&self, id: TaskId) -> &Task {
        self.tasks
            .get(&id)
            .expect("ids inside the farm are of its tasks")
    }

    fn task_at_mut(&mut self, id: TaskId) -> &mut Task {
        self.tasks
            .get_mut(&id)
            .expect("ids inside the farm are of its tasks")
    }

    fn job_at(&self, id: JobId) -> &Job {
        self.jobs
            .get(&id)
            .expect("a task's job is in memory with it")
    }

    fn job_at_mut(&mut self, id: JobId) -> &mut Job {
        self.jobs
            .get_mut(&id)
            .expect("a task's job is in memory with it")
    }

    /// Changes a task's row, its places in the indexes and, as a write, its row in the database.
    fn change_task(&mut self, id: TaskId, edit: impl FnOnce(&mut TaskRow)) {
        self.unindex_task(id);
        let task = self.task_at_mut(id);
        let was = TaskGuard {
            state: task.row.state.name(),
            attempt: task.row.attempt,
        };
        edit(&mut task.row);
        let row = task.row.clone();
        if !matches!(row.state, TaskState::Leased(_)) && task.live.take().is_some() {
            self.wake = true; // its device is free
            self.yielding.remove(&id);
        }
        self.writes.push(Write::UpdateTask { was, row });
        self.index_task(id);
    }

    /// Changes a job's row; its eligible tasks move to the places that the new state gives them.
    fn change_job(&mut self, id: JobId, edit: impl FnOnce(&mut JobRow)) {
        let job = self.job_at(id);
        let was = job.row.state;
        let mut row = job.row.clone();
        edit(&mut row);
        let moved = match row.state == was {
            true => Vec::new(),
            false => job.tasks.clone(),
        };
        for task in &moved {
            self.unindex_task(*task);
        }
        let began = was == JobState::Waiting && row.state != was;
        self.job_at_mut(id).row = row.clone();
        self.count_job(id, Some(was));
        self.writes.push(Write::UpdateJob { was, row });
        for task in moved {
            self.index_task(task);
        }
        if began {
            self.writes.push(Write::RemoveWaiting(id));
            self.leave_line(id);
        }
    }

    /// Where an eligible task stands in the queue.
    fn entry(&self, id: TaskId, starts_ms: i64) -> Entry {
        let row = &self.task_at(id).row;
        let whole = self.job_at(row.job);
        let job = &whole.row;
        Entry {
            account: job.account(),
            band: job.band,
            class: match &*row.spec {
                TaskSpec::Assemble(_) => Class::Assemble,
                TaskSpec::Render(spec) => Class::Render {
                    weights: spec.weights.clone(),
                    devices: spec.devices,
                    size: size(spec.width, spec.height, spec.frames),
                },
            },
            place: Place::new(row.kind(), job.state, job.rank, job.seq, row.index, id),
            aged_at_ms: self.aged_at_ms(whole, starts_ms),
        }
    }

    /// Enters a task where its state says that it can be found.
    fn index_task(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get(&id) else {
            return; // its timer outlived it
        };
        match &task.row.state {
            TaskState::Ready { .. } if self.is_paused(id) => {}
            TaskState::Ready { eligible_at_ms, .. } => {
                let starts_ms = self.starts_ms(id, *eligible_at_ms);
                if starts_ms > self.now {
                    self.timers.arm(starts_ms, Timer::Eligible(id));
                } else {
                    self.enqueue(id, starts_ms);
                }
            }
            TaskState::Leased(Holder { agent, group, .. }) => {
                for device in group.devices() {
                    self.busy.insert((*agent, *device), id);
                }
                self.count_device(id, 1);
                self.arm_close(id);
            }
            _ => {}
        }
    }

    fn enqueue(&mut self, id: TaskId, starts_ms: i64) {
        if self.task_at(id).queued_ms.is_none() {
            self.queue.insert(self.entry(id, starts_ms));
            self.task_at_mut(id).queued_ms = Some(starts_ms);
            self.count_eligible(id, 1);
        }
        self.arm_close(id);
        self.wake = true;
    }

    fn unindex_task(&mut self, id: TaskId) {
        match self.task_at(id).row.state {
            TaskState::Ready { .. } => {
                if let Some(starts_ms) = self.task_at_mut(id).queued_ms.take() {
                    self.queue.remove(&self.entry(id, starts_ms));
                    self.count_eligible(id, -1);
                }
            }
            TaskState::Leased(Holder { agent, group, .. }) => {
                for device in group.devices() {
                    self.busy.remove(&(agent, *device));
                }
                self.count_device(id, -1);
            }
            _ => {}
        }
    }

    /// Whether a device could begin with it now.
    fn could_start(&self, id: TaskId) -> bool {
        self.tasks
            .get(&id)
            .is_some_and(|task| task.queued_ms.is_some())
    }

    fn agent_name(&self, id: AgentId) -> String {
        match self.agents.get(&id) {
            Some(agent) => agent.row.name.clone(),
            None => id.to_string(),
        }
    }
}

/// The class as metrics and attempt rows name it.
pub fn class_name(class: FailureClass) -> &'static str {
    match class {
        FailureClass::Rejected => "rejected",
        FailureClass::OutOfMemory => "out_of_memory",
        FailureClass::Numeric => "numeric",
        FailureClass::DeviceFault => "device_fault",
        FailureClass::Lost => "lost",
        FailureClass::Stalled => "stalled",
        FailureClass::Io => "io",
        FailureClass::Internal => "internal",
    }
}
