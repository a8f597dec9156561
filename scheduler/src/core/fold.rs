//! Memory from rows: how a scheduler starts, and what a failed commit falls back to.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Farm, Job, Task,
    agent::Agent,
    budget::BudgetRow,
    capacity::CapacityRow,
    costs::{CostRow, Costs},
    decay::Decayed,
    expiry::ExpiryRow,
    limits::{Limits, RECENT_MS},
    queue::Queue,
    quota::QuotaRow,
    rows::{
        AccountRow, AgentRow, AgentState, Balance, CheckpointRow, DedupeRow, IdempotencyRow,
        JobRow, LoanRow, ReservationRow, TaskRow, TaskState,
    },
    start::Expected,
    task::LiveLease,
    timers::{Timer, Timers},
};
use schemas::{AccountId, Digest, GpuMicros};

/// All rows that memory is folded from: jobs that live or ended within `RECENT_MS`, with what hangs on them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    pub term: u64,
    pub seq: i64,
    pub jobs: Vec<JobRow>,
    pub tasks: Vec<TaskRow>,
    pub checkpoints: Vec<CheckpointRow>,
    pub reservations: Vec<ReservationRow>,
    pub accounts: Vec<AccountRow>,
    pub balances: Vec<(AccountId, Balance)>,
    pub agents: Vec<AgentRow>,
    pub dedupe: Vec<DedupeRow>,
    pub idempotency: Vec<IdempotencyRow>,
    pub usage: Vec<(AccountId, Decayed)>,
    pub quotas: Vec<QuotaRow>,
    pub budgets: Vec<BudgetRow>,
    pub capacities: Vec<CapacityRow>,
    pub expiries: Vec<ExpiryRow>,
    pub loans: Vec<LoanRow>,
    /// Keys and amounts of all grants.
    pub grants: Vec<((AccountId, String), GpuMicros)>,
    /// Hash of the last entry of the ledger.
    pub chain: Option<Digest>,
    pub costs: Vec<CostRow>,
}

/// A snapshot whose rows do not belong together.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the database names {what} {id} of a job that it does not hold")]
pub struct Inconsistent {
    pub what: &'static str,
    pub id: String,
}

impl Farm {
    /// A farm without jobs or agents.
    pub fn empty(limits: Limits, term: u64) -> Self {
        Self {
            limits,
            term,
            seq: 0,
            jobs: BTreeMap::new(),
            tasks: BTreeMap::new(),
            reservations: BTreeMap::new(),
            accounts: BTreeMap::new(),
            balances: BTreeMap::new(),
            agents: BTreeMap::new(),
            dedupe: BTreeMap::new(),
            idempotency: BTreeMap::new(),
            quotas: BTreeMap::new(),
            budgets: BTreeMap::new(),
            capacities: BTreeMap::new(),
            expiries: BTreeMap::new(),
            loans: BTreeMap::new(),
            grants: BTreeMap::new(),
            chain: None,
            costs: Costs::default(),
            busy: BTreeMap::new(),
            queue: Queue::default(),
            timers: Timers::default(),
            loads: BTreeMap::new(),
            stopped: BTreeMap::new(),
            pool_used: BTreeMap::new(),
            eligible: BTreeMap::new(),
            short_since: BTreeMap::new(),
            recent: BTreeMap::new(),
            planned: BTreeMap::new(),
            prices: Default::default(),
            promises: BTreeMap::new(),
            handovers: BTreeMap::new(),
            buckets: BTreeMap::new(),
            now: 0,
            writes: Vec::new(),
            wake: false,
            attempts_ended: Vec::new(),
            to_cancel: BTreeSet::new(),
            finished: Vec::new(),
        }
    }

    /// Every live lease gets a full time to live from `now`, and every agent time to be heard.
    pub fn fold(limits: Limits, snapshot: Snapshot, now: i64) -> Result<Self, Inconsistent> {
        let mut farm = Self::empty(limits, snapshot.term);
        farm.seq = snapshot.seq;
        farm.now = now;
        farm.accounts = by(snapshot.accounts, |row| row.id);
        farm.fold_shares(snapshot.usage);
        farm.balances = snapshot.balances.into_iter().collect();
        farm.quotas = by(snapshot.quotas, |row| row.account);
        farm.grants = snapshot.grants.into_iter().collect();
        farm.budgets = by(snapshot.budgets, |row| row.account);
        farm.capacities = by(snapshot.capacities, |row| (row.account, row.pool.clone()));
        farm.expiries = by(snapshot.expiries, |row| (row.account, row.key.clone()));
        farm.loans = by(snapshot.loans, |row| row.key.clone());
        farm.fold_budgets();
        for row in farm.expiries.values().cloned().collect::<Vec<_>>() {
            farm.arm_expiry(&row);
        }
        farm.chain = snapshot.chain;
        farm.costs = Costs::from_rows(snapshot.costs);
        farm.fold_jobs(snapshot.jobs, snapshot.reservations);
        farm.fold_tasks(snapshot.tasks)?;
        farm.fold_checkpoints(snapshot.checkpoints)?;
        farm.fold_agents(snapshot.agents);
        farm.fold_kept(snapshot.dedupe, snapshot.idempotency);
        farm.recount_capacity();
        Ok(farm)
    }

    fn fold_shares(&mut self, usage: Vec<(AccountId, Decayed)>) {
        for row in self.accounts.values() {
            self.queue.add_account(row.id, row.parent, row.weight);
        }
        for (account, usage) in usage {
            self.queue.set_usage(account, usage);
        }
    }

    fn fold_jobs(&mut self, jobs: Vec<JobRow>, reservations: Vec<ReservationRow>) {
        for row in jobs {
            if let Some(at) = row.ended_at_ms {
                if at + RECENT_MS <= self.now {
                    continue;
                }
                self.timers.arm(at + RECENT_MS, Timer::Forget(row.id));
            }
            let job = Job {
                tasks: Vec::new(),
                progress_written_ms: self.now,
                expected: Expected::default(),
                row,
            };
            let id = job.row.id;
            self.jobs.insert(id, job);
            self.count_job(id, None);
            self.arm_deadline(id);
        }
        self.reservations = by(reservations, |row| row.job);
        self.reservations
            .retain(|job, _| self.jobs.contains_key(job));
    }

    fn fold_tasks(&mut self, mut rows: Vec<TaskRow>) -> Result<(), Inconsistent> {
        rows.sort_by_key(|row| (row.job, row.index));
        let expires_at_ms = self.now + self.limits.lease_ttl_ms;
        let mut ids = Vec::new();
        for row in rows {
            let Some(job) = self.jobs.get_mut(&row.job) else {
                continue; // ended just before RECENT_MS ago
            };
            job.tasks.push(row.id);
            job.expected.add(row.kind(), row.estimate);
            ids.push(row.id);
            let leased = matches!(row.state, TaskState::Leased(_));
            let mut live = LiveLease::new(expires_at_ms);
            (live.first_step, live.step, live.steps) = (row.step, row.step, row.steps);
            self.timers_for(&row, expires_at_ms);
            let task = Task {
                checkpoints: Vec::new(),
                live: leased.then_some(live),
                row,
            };
            self.tasks.insert(task.row.id, task);
        }
        for id in ids {
            self.index_task(id);
            self.note_planned(id);
        }
        let whole =
            |job: &Job| !job.tasks.is_empty() && self.reservations.contains_key(&job.row.id);
        match self.jobs.values().find(|job| !whole(job)) {
            Some(job) => Err(Inconsistent {
                what: "no tasks or reservation",
                id: job.row.id.to_string(),
            }),
            None => Ok(()),
        }
    }

    fn timers_for(&mut self, row: &TaskRow, expires_at_ms: i64) {
        if matches!(row.state, TaskState::Leased(_)) {
            self.timers.arm(expires_at_ms, Timer::Lease(row.id));
        }
    }

    fn fold_checkpoints(&mut self, mut rows: Vec<CheckpointRow>) -> Result<(), Inconsistent> {
        rows.sort_by_key(|row| (row.task, row.at.step));
        for row in rows {
            match self.tasks.get_mut(&row.task) {
                Some(task) => task.checkpoints.push(row),
                None => {
                    return Err(Inconsistent {
                        what: "a checkpoint of task",
                        id: row.task.to_string(),
                    });
                }
            }
        }
        Ok(())
    }

    fn fold_agents(&mut self, rows: Vec<AgentRow>) {
        for row in rows {
            let id = row.id;
            if row.state != AgentState::Gone {
                self.arm_silence(id);
            }
            self.agents.insert(id, Agent::new(row, self.now));
        }
    }

    fn fold_kept(&mut self, dedupe: Vec<DedupeRow>, idempotency: Vec<IdempotencyRow>) {
        for row in dedupe
            .into_iter()
            .filter(|row| row.expires_at_ms > self.now)
        {
            let timer = Timer::Dedupe(row.fingerprint.clone());
            self.timers.arm(row.expires_at_ms, timer);
            self.dedupe.insert(row.fingerprint.clone(), row);
        }
        for row in idempotency {
            if row.expires_at_ms > self.now {
                let timer = Timer::Idempotency(row.scope.clone());
                self.timers.arm(row.expires_at_ms, timer);
                self.idempotency.insert(row.scope.clone(), row);
            }
        }
    }

    /// All that a rebuild must bring back; leases' expiries and agents' last words are not stored.
    pub fn durable(&self) -> Snapshot {
        let tasks = || self.tasks.values();
        Snapshot {
            jobs: self.jobs.values().map(|job| job.row.clone()).collect(),
            tasks: tasks().map(|task| task.row.clone()).collect(),
            checkpoints: tasks().flat_map(|task| task.checkpoints.clone()).collect(),
            reservations: self.reservations.values().cloned().collect(),
            dedupe: self.dedupe.values().cloned().collect(),
            idempotency: self.idempotency.values().cloned().collect(),
            grants: self.grants.clone().into_iter().collect(),
            accounts: self.accounts.values().cloned().collect(),
            balances: self.balances.iter().map(|(id, b)| (*id, *b)).collect(),
            usage: self.used(),
            costs: self.costs.rows(),
            ..self.frame()
        }
    }

    /// The part of it that does not grow with jobs, grants and accounts.
    pub(super) fn frame(&self) -> Snapshot {
        Snapshot {
            term: self.term,
            seq: self.seq,
            agents: self
                .agents
                .values()
                .map(|agent| agent.row.clone())
                .collect(),
            quotas: self.quotas.values().copied().collect(),
            budgets: self.budgets.values().cloned().collect(),
            capacities: self.capacities.values().cloned().collect(),
            expiries: self.expiries.values().cloned().collect(),
            loans: self.loans.values().cloned().collect(),
            chain: self.chain,
            ..Snapshot::default()
        }
    }
}

fn by<K: Ord, V>(rows: Vec<V>, key: impl Fn(&V) -> K) -> BTreeMap<K, V> {
    rows.into_iter().map(|row| (key(&row), row)).collect()
}
