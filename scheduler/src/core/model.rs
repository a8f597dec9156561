//! A store in memory for tests of the core: it takes writes as the database does, guards included.

use std::collections::{BTreeMap, BTreeSet};

use schemas::{
    AccountId, Digest, GpuMicros, JobId, TaskId,
    task::{AssembleSpec, RenderSpec, TaskSpec},
};
use uuid::Uuid;

use super::{
    Farm,
    budget::BudgetRow,
    capacity::CapacityRow,
    costs::{CostKey, CostRow},
    decay::Decayed,
    event::EventRow,
    expiry::ExpiryRow,
    fold::Snapshot,
    limits::{Limits, PREEMPTIONS_MAX},
    quota::{AuditRow, GRANT, QuotaRow, chained},
    rows::{
        AccountRow, AgentRow, AttemptRow, Balance, Band, CheckpointRow, DedupeRow, Fingerprint,
        GoldenKey, IdempotencyRow, JobRow, JobState, LedgerRow, Level, LoanRow, NewJob, NewTask,
        NoticeRow, OutboxRow, ReservationRow, ReservationState, TaskRow, TaskState,
    },
    samples::SampleRow,
    shapes::shape_of,
    write::Write,
};

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub jobs: BTreeMap<JobId, JobRow>,
    pub tasks: BTreeMap<TaskId, TaskRow>,
    pub attempts: BTreeMap<(TaskId, u32), AttemptRow>,
    pub checkpoints: BTreeMap<(TaskId, u32), CheckpointRow>,
    pub reservations: BTreeMap<JobId, ReservationRow>,
    pub ledger: Vec<LedgerRow>,
    pub balances: BTreeMap<AccountId, Balance>,
    pub usage: BTreeMap<AccountId, Decayed>,
    pub accounts: BTreeMap<AccountId, AccountRow>,
    pub agents: BTreeMap<schemas::AgentId, AgentRow>,
    pub dedupe: BTreeMap<Fingerprint, DedupeRow>,
    pub idempotency: BTreeMap<String, IdempotencyRow>,
    pub outbox: Vec<OutboxRow>,
    pub quotas: BTreeMap<AccountId, QuotaRow>,
    pub budgets: BTreeMap<AccountId, BudgetRow>,
    pub capacities: BTreeMap<(AccountId, String), CapacityRow>,
    pub expiries: BTreeMap<(AccountId, String), ExpiryRow>,
    pub loans: BTreeMap<String, LoanRow>,
    pub audit: Vec<AuditRow>,
    pub shapes: Vec<TaskSpec>,
    /// Jobs that have not begun, packed where they can be.
    pub waiting: BTreeMap<JobId, Option<Vec<u8>>>,
    pub events: Vec<EventRow>,
    pub notices: Vec<NoticeRow>,
    pub golden: BTreeMap<GoldenKey, Digest>,
    pub samples: BTreeMap<(schemas::AgentId, u32, i64), SampleRow>,
    pub costs: BTreeMap<CostKey, CostRow>,
    pub removed: Vec<JobId>,
    pub seq: i64,
    pub term: u64,
}

impl Model {
    /// Takes a whole group, or panics where the database would have refused it.
    pub fn commit(&mut self, seq: i64, writes: &[Write]) {
        self.seq = seq;
        for write in writes {
            self.run(write.clone());
        }
    }

    fn run(&mut self, write: Write) {
        match write {
            Write::InsertJob { row, .. } => fresh(self.jobs.insert(row.id, row)),
            Write::UpdateJob { was, row } => {
                let old = self.jobs.insert(row.id, row).expect("no such job");
                assert_eq!(old.state, was);
            }
            Write::RemoveJob { project, job, .. } => self.remove(project, job),
            Write::InsertTask { row, spec } => {
                assert_eq!(*row.spec, shape_of(&spec));
                fresh(self.tasks.insert(row.id, row));
            }
            Write::InsertShape { number, shape } => {
                assert_eq!(number as usize, self.shapes.len());
                self.shapes.push(shape);
            }
            Write::InsertWaiting { job, packed, .. } => fresh(self.waiting.insert(job, packed)),
            Write::WaitAsRows(job) => {
                drop(self.waiting.get_mut(&job).expect("it waits").take());
            }
            Write::RemoveWaiting(job) => drop(self.waiting.remove(&job).expect("it waited")),
            Write::UpdateTask { was, row } => {
                let old = self.tasks.insert(row.id, row).expect("no such task");
                assert_eq!((old.state.name(), old.attempt), (was.state, was.attempt));
            }
            Write::InsertAttempt(row) => {
                fresh(self.attempts.insert((row.task, row.number), row));
            }
            Write::EndAttempt(row) => {
                let old = self.attempts.insert((row.task, row.number), row);
                assert_eq!(old.expect("no such attempt").ended_at_ms, None);
            }
            Write::InsertCheckpoint(row) => {
                fresh(self.checkpoints.insert((row.task, row.at.step), row));
            }
            Write::RemoveCheckpoint { task, step } => {
                self.checkpoints.remove(&(task, step)).expect("no such row");
            }
            Write::InsertReservation(row) => fresh(self.reservations.insert(row.job, row)),
            Write::UpdateReservation { was, row } => {
                let old = self.reservations.insert(row.job, row).expect("no such row");
                assert_eq!(old.state, was);
            }
            Write::InsertLedger(row) => {
                let twice = |old: &&LedgerRow| (old.account, &old.key) == (row.account, &row.key);
                assert_eq!(self.ledger.iter().find(twice), None);
                assert!(row.amount > GpuMicros::ZERO);
                assert_eq!(row.hash, chained(self.chain(), &row), "the chain broke");
                self.ledger.push(row);
            }
            Write::PutBalance { account, was, now } => {
                self.check_hold(account, was.unwrap_or_default(), now);
                assert_eq!(self.balances.insert(account, now), was);
            }
            Write::PutUsage { account, usage } => drop(self.usage.insert(account, usage)),
            Write::PutCost(row) => drop(self.costs.insert(row.key.clone(), row)),
            Write::InsertAgent(row) => fresh(self.agents.insert(row.id, row)),
            Write::UpdateAgent { was, row } => {
                let old = self.agents.insert(row.id, row).expect("no such agent");
                assert_eq!(old.state, was);
            }
            Write::InsertAccount(row) => fresh(self.accounts.insert(row.id, row)),
            Write::PutQuota(row) => drop(self.quotas.insert(row.account, row)),
            Write::PutBudget(row) => drop(self.budgets.insert(row.account, *row)),
            Write::RemoveBudget(account) => drop(self.budgets.remove(&account)),
            Write::PutCapacity(row) => {
                drop(self.capacities.insert((row.account, row.pool.clone()), row));
            }
            Write::RemoveCapacity { account, pool } => {
                self.capacities.remove(&(account, pool));
            }
            Write::PutExpiry(row) => {
                drop(self.expiries.insert((row.account, row.key.clone()), row));
            }
            Write::PutLoan(row) => drop(self.loans.insert(row.key.clone(), row)),
            Write::RemoveLoan(key) => drop(self.loans.remove(&key).expect("no such loan")),
            Write::PutWeight { account, weight } => {
                self.accounts.get_mut(&account).unwrap().weight = weight;
            }
            Write::InsertAudit(row) => self.audit.push(row),
            Write::PutDedupe(row) => drop(self.dedupe.insert(row.fingerprint.clone(), row)),
            Write::PutIdempotency(row) => {
                drop(self.idempotency.insert(row.scope.clone(), row));
            }
            Write::InsertOutbox(row) => self.outbox.push(row),
            Write::InsertEvent(row) => {
                assert!(self.events.last().is_none_or(|last| last.seq < row.seq));
                self.events.push(row);
            }
            Write::InsertNotice(row) => self.notices.push(row),
            Write::InsertGolden { key, digest } => fresh(self.golden.insert(key, digest)),
            Write::PutSample(row) => {
                let key = (row.agent, row.device, row.minute_ms);
                drop(self.samples.insert(key, *row));
            }
            Write::InsertKey(_)
            | Write::RevokeKey { .. }
            | Write::KeepArtefacts { .. }
            | Write::KeepInputs { .. }
            | Write::DropArtefacts { .. } => {}
        }
    }

    fn remove(&mut self, project: AccountId, id: JobId) {
        if self.jobs.get(&id).is_some_and(|job| job.project == project) {
            self.jobs.remove(&id);
            self.tasks.retain(|_, task| task.job != id);
            self.removed.push(id);
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        let of_job = |row: &&ReservationRow| self.jobs.contains_key(&row.job);
        Snapshot {
            term: self.term,
            seq: self.seq,
            jobs: self.jobs.values().cloned().collect(),
            tasks: self.tasks.values().cloned().collect(),
            checkpoints: self.checkpoints.values().cloned().collect(),
            reservations: self.reservations.values().filter(of_job).cloned().collect(),
            accounts: self.accounts.values().cloned().collect(),
            balances: self.balances.iter().map(|(id, b)| (*id, *b)).collect(),
            agents: self.agents.values().cloned().collect(),
            dedupe: self.dedupe.values().cloned().collect(),
            idempotency: self.idempotency.values().cloned().collect(),
            usage: self
                .usage
                .iter()
                .map(|(id, usage)| (*id, *usage))
                .filter(|(_, usage)| *usage != Decayed::default())
                .collect(),
            quotas: self.quotas.values().copied().collect(),
            budgets: self.budgets.values().cloned().collect(),
            capacities: self.capacities.values().cloned().collect(),
            expiries: self.expiries.values().cloned().collect(),
            loans: self.loans.values().cloned().collect(),
            grants: self.grants(),
            chain: self.chain(),
            shapes: (0..).zip(self.shapes.iter().cloned()).collect(),
            waiting: Vec::new(),
            golden: self.golden.clone().into_iter().collect(),
            costs: self.costs.values().cloned().collect(),
        }
    }

    pub fn fold(&self, limits: &Limits, now: i64) -> Farm {
        Farm::fold(limits.clone(), self.snapshot(), now).unwrap()
    }

    /// As a database is read: jobs that can be packed come packed, not as rows.
    fn fold_packed(&self, limits: &Limits, now: i64) -> Farm {
        let mut snapshot = self.snapshot();
        let packed = |job: &JobId| self.waiting.get(job).is_some_and(Option::is_some);
        snapshot.jobs.retain(|row| !packed(&row.id));
        snapshot.tasks.retain(|row| !packed(&row.job));
        snapshot.reservations.retain(|row| !packed(&row.job));
        snapshot.waiting = self.waiting.values().flatten().cloned().collect();
        Farm::fold(limits.clone(), snapshot, now).unwrap()
    }

    /// What must hold after every commit, whatever happened.
    pub fn check(&self, live: &Farm, limits: &Limits, now: i64) {
        let rebuilt = self.fold(limits, now);
        assert_eq!(rebuilt.durable(), live.durable(), "rebuilt and live differ");
        if self.seq % 8 == 0 {
            let packed = self.fold_packed(limits, now);
            assert_eq!(packed.durable(), live.durable(), "packed and live differ");
            assert_eq!(packed.queue, live.queue, "the packed queues differ");
        }
        let waiting = self
            .jobs
            .values()
            .filter(|job| job.state == JobState::Waiting);
        assert!(waiting.map(|job| &job.id).eq(self.waiting.keys()));
        assert_eq!(rebuilt.queue, live.queue, "the queues differ");
        assert_eq!(rebuilt.busy, live.busy, "the busy devices differ");
        assert_eq!(rebuilt.loads, live.loads, "the counted loads differ");
        assert_eq!(rebuilt.leased, live.leased, "the counted leases differ");
        assert_eq!(rebuilt.quarantined, live.quarantined, "quarantines differ");
        assert_eq!(rebuilt.needs, live.needs, "known needs of memory differ");
        assert_eq!(rebuilt.cpu_nodes, live.cpu_nodes, "nodes with CPUs differ");
        let counted = |farm: &Farm| {
            let used = farm.pool_used.iter().flat_map(|(account, pools)| {
                let used = pools.iter().filter(|(_, used)| **used > 0);
                used.map(|(pool, used)| (*account, pool.clone(), *used))
            });
            let used: Vec<_> = used.collect();
            let waiting: Vec<_> = farm
                .eligible
                .clone()
                .into_iter()
                .filter(|(_, n)| *n > 0)
                .collect();
            (used, waiting)
        };
        assert_eq!(counted(&rebuilt), counted(live), "the counted pools differ");
        assert_eq!(rebuilt.stopped, live.stopped, "the stopped budgets differ");
        self.check_attempts();
        self.check_groups();
        self.check_money();
        for job in self.jobs.values() {
            let ended = job.state.is_terminal();
            assert_eq!(ended, job.ended_at_ms.is_some());
            assert_eq!(job.progress == 100, job.state == JobState::Succeeded);
        }
    }

    /// One live lease a task, and the attempt that is open is the one that the task has.
    fn check_attempts(&self) {
        for task in self.tasks.values() {
            let attempts = self.attempts.values().filter(|a| a.task == task.id);
            let open: Vec<u32> = attempts
                .clone()
                .filter(|a| a.ended_at_ms.is_none())
                .map(|a| a.number)
                .collect();
            match task.state {
                TaskState::Leased(_) => assert_eq!(open, [task.attempt]),
                _ => assert_eq!(open, [0; 0]),
            }
            assert!(task.preemptions <= PREEMPTIONS_MAX, "preempted too often");
            let won = attempts.filter(|a| a.outcome.as_deref() == Some("succeeded"));
            assert!(won.count() <= 1, "two results of a task");
        }
    }

    /// A group is granted whole, on devices of one node and class that its agent has, none of them twice.
    fn check_groups(&self) {
        let mut held = BTreeSet::new();
        for task in self.tasks.values() {
            let TaskState::Leased(holder) = task.state else {
                continue;
            };
            assert_eq!(holder.group.count(), task.devices(), "a part of a group");
            assert!(holder.group.contains(holder.device));
            for device in holder.group.devices() {
                assert!(held.insert((holder.agent, *device)), "held twice");
            }
            let devices = &self.agents[&holder.agent].devices;
            let classes = devices
                .iter()
                .filter(|device| holder.group.contains(device.index));
            let classes: BTreeSet<_> = classes.map(|device| &device.class).collect();
            assert_eq!(classes.len(), 1, "a group of several classes");
        }
    }

    /// The entries explain the balances; they sum to zero; what is held is what jobs hold.
    fn check_money(&self) {
        for (account, balance) in &self.balances {
            let mut folded = Balance::default();
            for entry in self.ledger.iter().filter(|entry| entry.account == *account) {
                folded.bucket(entry.from).0 -= entry.amount.0;
                folded.bucket(entry.to).0 += entry.amount.0;
            }
            assert_eq!(folded, *balance, "entries and balance differ");
            let parts = [
                balance.available,
                balance.held,
                balance.spent,
                balance.mint,
                balance.loan,
            ];
            let sum: i64 = parts.iter().map(|part| part.0).sum();
            assert_eq!(sum, 0, "the ledger does not sum to zero");
            let owed = self.loans.values().map(|loan| match *account {
                id if id == loan.lender => loan.left.0,
                id if id == loan.borrower => -loan.left.0,
                _ => 0,
            });
            assert_eq!(
                balance.loan.0,
                owed.sum::<i64>(),
                "loans and balance differ"
            );
            let below = |row: &&ReservationRow| self.is_below(row.account, *account);
            let pending = self.reservations.values().filter(below);
            let held: i64 = pending
                .inspect(|row| assert!(row.held.0 >= 0 && row.posted <= row.reserved))
                .inspect(|row| {
                    let pending = row.state == ReservationState::Pending;
                    assert!(pending || row.held == GpuMicros::ZERO);
                })
                .map(|row| row.held.0)
                .sum();
            assert_eq!(balance.held.0, held, "holds and reservations differ");
        }
        let loans: i64 = self.balances.values().map(|balance| balance.loan.0).sum();
        assert_eq!(loans, 0, "loans do not sum to zero");
    }
}

impl Model {
    fn chain(&self) -> Option<Digest> {
        self.ledger.last().map(|row| row.hash)
    }

    fn grants(&self) -> Vec<((AccountId, String), GpuMicros)> {
        let mut grants: Vec<_> = self
            .ledger
            .iter()
            .filter(|row| row.key.starts_with(GRANT))
            .map(|row| ((row.account, row.key.clone()), row.amount))
            .collect();
        grants.sort();
        grants
    }

    /// A hold never takes a metered account below its limit.
    fn check_hold(&self, account: AccountId, was: Balance, now: Balance) {
        if let Some(quota) = self.quotas.get(&account)
            && quota.metered
            && now.held > was.held
        {
            assert!(
                now.available.0 >= -quota.overdraft.0,
                "held what was not there"
            );
        }
    }

    fn is_below(&self, project: AccountId, account: AccountId) -> bool {
        project == account
            || self.accounts[&project]
                .parent
                .is_some_and(|up| self.is_below(up, account))
    }
}

fn fresh<T>(old: Option<T>) {
    assert!(old.is_none(), "inserted twice");
}

/// The only project of these tests and its org.
pub const PROJECT: AccountId = AccountId(Uuid::from_u128(2));
const ORG: AccountId = AccountId(Uuid::from_u128(1));

/// Another project of the org, and one of another org with a double weight.
pub const SECOND: AccountId = AccountId(Uuid::from_u128(3));
pub const FOREIGN: AccountId = AccountId(Uuid::from_u128(5));
const FOREIGN_ORG: AccountId = AccountId(Uuid::from_u128(4));

pub fn accounts() -> [AccountRow; 5] {
    let row = |id, parent, level, name: &str| AccountRow {
        id,
        parent,
        level,
        name: name.into(),
        created_at_ms: 0,
        weight: 1,
    };
    [
        row(ORG, None, Level::Org, "org"),
        row(PROJECT, Some(ORG), Level::Project, "project"),
        row(SECOND, Some(ORG), Level::Project, "second"),
        AccountRow {
            weight: 2,
            ..row(FOREIGN_ORG, None, Level::Org, "foreign-org")
        },
        row(FOREIGN, Some(FOREIGN_ORG), Level::Project, "foreign"),
    ]
}

/// A job with ids made of its number; shot `n` is task `number * 100 + n`.
pub fn job(number: u128, shots: u32) -> NewJob {
    let task = |index: u32, spec, inputs| NewTask {
        id: TaskId(Uuid::from_u128(number * 100 + u128::from(index))),
        spec,
        inputs,
        estimate: GpuMicros(6_000_000),
        reads: Vec::new(),
    };
    let mut tasks: Vec<NewTask> = (0..shots)
        .map(|shot| task(shot, TaskSpec::Render(render(shot)), vec![]))
        .collect();
    let film = AssembleSpec {
        shots,
        width: 96,
        height: 64,
        fps: 8,
        shot_frames: vec![16; shots as usize],
        before: None,
    };
    tasks.push(task(shots, TaskSpec::Assemble(film), (0..shots).collect()));
    NewJob {
        id: JobId(Uuid::from_u128(number)),
        project: PROJECT,
        request: serde_json::Value::Null,
        seed: 7,
        band: Band::Standard,
        tasks,
        hold: GpuMicros(10_000_000),
        rank: 0,
        window: None,
        user: None,
        not_before_ms: None,
        deadline_ms: None,
        dedupe: None,
        idempotency: None,
    }
}

/// Each shot of the job needs so many devices.
pub fn widen(job: &mut NewJob, devices: u32) {
    for task in &mut job.tasks {
        if let TaskSpec::Render(spec) = &mut task.spec {
            spec.devices = devices;
        }
    }
}

/// Each shot of the job has so many frames.
pub fn stretch(job: &mut NewJob, frames: u32) {
    for task in &mut job.tasks {
        if let TaskSpec::Render(spec) = &mut task.spec {
            spec.frames = frames;
        }
    }
}

fn render(shot: u32) -> RenderSpec {
    RenderSpec {
        shot,
        weights: "builtin".into(),
        prompt: "a red ball falls".into(),
        negative_prompt: String::new(),
        width: 96,
        height: 64,
        frames: 17,
        fps: 8,
        seed: 7,
        steps: None,
        guidance_scale: None,
        first_frame: None,
        given: None,
        devices: 1,
    }
}

pub fn weights() -> schemas::agent::WeightsInfo {
    schemas::agent::WeightsInfo {
        name: "builtin".into(),
        digest: Digest::of(b"weights"),
        title: "Built-in".into(),
        sizes: vec![(96, 64)],
        fps: 8,
        frames_default: 17,
        frames_max: 65,
        frames_step: 4,
        steps: 8,
        vocabulary: Vec::new(),
    }
}
