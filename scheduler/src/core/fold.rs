//! Memory from rows: how a scheduler starts, and what a failed commit falls back to.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Farm,
    agent::Agent,
    backlog::Backlog,
    budget::BudgetRow,
    capacity::CapacityRow,
    claims::Claims,
    costs::{CostRow, Costs},
    decay::Decayed,
    expiry::ExpiryRow,
    limits::{Limits, RECENT_MS},
    memory::Needs,
    packed::{Whole, head, pack, split_first, unpack},
    queue::Queue,
    quota::QuotaRow,
    rows::{
        AccountRow, AgentRow, AgentState, Balance, Band, CheckpointRow, DedupeRow, GoldenKey,
        IdempotencyRow, JobRow, LoanRow, ReservationRow, TaskRow, TaskState,
    },
    shapes::{ShapeId, Shapes},
    task::LiveLease,
    timers::{Timer, Timers},
};
use schemas::{AccountId, Digest, GpuMicros, JobId, task::TaskSpec};

/// All rows that memory is folded from: jobs that live or ended within `RECENT_MS`, with what hangs on
/// them. Jobs that wait may come packed instead of as rows.
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
    pub shapes: Vec<(ShapeId, TaskSpec)>,
    /// Packed jobs, one after the other in each part.
    pub waiting: Vec<Vec<u8>>,
    /// What each class of device gives for the probe, sorted.
    pub golden: Vec<(GoldenKey, Digest)>,
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
            shapes: Shapes::default(),
            backlog: Backlog::default(),
            golden: BTreeMap::new(),
            costs: Costs::default(),
            busy: BTreeMap::new(),
            queue: Queue::default(),
            timers: Timers::default(),
            loads: BTreeMap::new(),
            leased: [0; 3],
            quarantined: BTreeSet::new(),
            needs: Needs::default(),
            cpu_nodes: BTreeSet::new(),
            stopped: BTreeMap::new(),
            pool_used: BTreeMap::new(),
            eligible: BTreeMap::new(),
            eligible_packed: BTreeMap::new(),
            short_since: BTreeMap::new(),
            recent: BTreeMap::new(),
            attempts_seen: [0; 2],
            planned: BTreeMap::new(),
            prices: Default::default(),
            promises: BTreeMap::new(),
            handovers: BTreeMap::new(),
            claims: Claims::default(),
            yielding: BTreeSet::new(),
            buckets: BTreeMap::new(),
            preempt_from_ms: 0,
            suspicions: BTreeMap::new(),
            stopped_told: BTreeMap::new(),
            references_asked: BTreeMap::new(),
            minutes: BTreeMap::new(),
            now: 0,
            writes: Vec::new(),
            wake: false,
            attempts_ended: Vec::new(),
            taken: None,
            takes_none: false,
            observed: Vec::new(),
            claimed: false,
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
        farm.golden = snapshot.golden.into_iter().collect();
        farm.needs = Needs::of(&snapshot.costs);
        farm.costs = Costs::from_rows(snapshot.costs);
        farm.fold_shapes(&snapshot.shapes)?;
        let rows = (snapshot.jobs, snapshot.tasks, snapshot.reservations);
        let packed = farm.fold_jobs(rows)?;
        farm.fold_waiting(&packed, &snapshot.waiting)?;
        farm.fold_checkpoints(snapshot.checkpoints)?;
        farm.fold_agents(snapshot.agents);
        farm.fold_kept(snapshot.dedupe, snapshot.idempotency);
        if !farm.busy.is_empty() {
            farm.preempt_from_ms = now + farm.limits.yield_grace_ms;
        }
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

    fn fold_shapes(&mut self, shapes: &[(ShapeId, TaskSpec)]) -> Result<(), Inconsistent> {
        for (number, shape) in shapes {
            if self.shapes.intern(shape).1 != Some(*number) {
                return Err(Inconsistent {
                    what: "a shape out of its place, number",
                    id: number.to_string(),
                });
            }
        }
        Ok(())
    }

    /// Enters jobs that came as rows; answers those that can be packed.
    fn fold_jobs(
        &mut self,
        (jobs, mut tasks, reservations): (Vec<JobRow>, Vec<TaskRow>, Vec<ReservationRow>),
    ) -> Result<Vec<Vec<u8>>, Inconsistent> {
        tasks.sort_by_key(|row| (row.job, row.index));
        let mut tasks_of: BTreeMap<JobId, Vec<TaskRow>> = BTreeMap::new();
        for mut row in tasks {
            if let Some(shape) = self.shapes.share(&row.spec) {
                row.spec = shape;
            }
            tasks_of.entry(row.job).or_default().push(row);
        }
        let mut reservations = by(reservations, |row| row.job);
        let mut packed = Vec::new();
        for job in jobs {
            if job.ended_at_ms.is_some_and(|at| at + RECENT_MS <= self.now) {
                continue;
            }
            let id = job.id;
            let (Some(tasks), Some(reservation)) = (tasks_of.remove(&id), reservations.remove(&id))
            else {
                return Err(Inconsistent {
                    what: "no tasks or reservation",
                    id: id.to_string(),
                });
            };
            let whole = Whole {
                job,
                tasks,
                reservation,
            };
            match pack(&whole, &self.shapes) {
                Some(bytes) => packed.push(bytes),
                None => self.fold_job(whole),
            }
        }
        Ok(packed)
    }

    fn fold_job(&mut self, whole: Whole) {
        if let Some(at) = whole.job.ended_at_ms {
            let id = whole.job.id;
            self.timers.arm(at + RECENT_MS, Timer::Forget(id));
        }
        let expires_at_ms = self.now + self.limits.lease_ttl_ms;
        let leased: Vec<_> = whole
            .tasks
            .iter()
            .filter(|row| matches!(row.state, TaskState::Leased(_)))
            .map(|row| row.id)
            .collect();
        self.note_planned(&whole);
        self.enter(whole, None);
        for id in leased {
            self.timers.arm(expires_at_ms, Timer::Lease(id));
            let mut live = LiveLease::new(expires_at_ms, self.now);
            let task = self.task_at_mut(id);
            (live.first_step, live.step, live.steps) =
                (task.row.step, task.row.step, task.row.steps);
            task.live = Some(live);
        }
    }

    /// Packed jobs join their lines in the order of their submission; the first of each are unpacked.
    fn fold_waiting(&mut self, packed: &[Vec<u8>], stored: &[Vec<u8>]) -> Result<(), Inconsistent> {
        let unreadable = |seq: i64| Inconsistent {
            what: "a packed job that cannot be read, number",
            id: seq.to_string(),
        };
        let mut all: Vec<(i64, &[u8])> = Vec::new();
        for mut part in packed.iter().chain(stored).map(Vec::as_slice) {
            while !part.is_empty() {
                let before = all.last().map_or(0, |(seq, _)| *seq);
                all.push(split_first(&mut part).ok_or_else(|| unreadable(before + 1))?);
            }
        }
        all.sort_unstable_by_key(|(seq, _)| *seq);
        for (seq, bytes) in all {
            let head = head(bytes, &self.shapes).ok_or_else(|| unreadable(seq))?;
            if head.is_planned {
                let whole = unpack(bytes, &self.shapes).expect("it was read before");
                self.note_planned(&whole);
            }
            let line = self.line(&head.line);
            self.backlog.push(line, &head, bytes);
        }
        for band in Band::ALL {
            self.queue.note_packed(band, self.backlog.ready(band));
        }
        for line in self.backlog.line_ids() {
            self.advance_line(line);
        }
        Ok(())
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
            self.index_health(id);
            self.index_cpu(id);
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
        let whole = Snapshot {
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
            golden: self.golden.clone().into_iter().collect(),
            ..self.frame()
        };
        whole.with(self.all_packed())
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
            shapes: self.shapes.rows(),
            ..Snapshot::default()
        }
    }
}

impl Snapshot {
    /// The same with these jobs as rows, all rows in the order of their ids.
    pub(super) fn with(mut self, jobs: impl Iterator<Item = Whole>) -> Self {
        for whole in jobs {
            self.jobs.push(whole.job);
            self.tasks.extend(whole.tasks);
            self.reservations.push(whole.reservation);
        }
        self.jobs.sort_by_key(|row| row.id);
        self.tasks.sort_by_key(|row| row.id);
        self.reservations.sort_by_key(|row| row.job);
        self
    }
}

fn by<K: Ord, V>(rows: Vec<V>, key: impl Fn(&V) -> K) -> BTreeMap<K, V> {
    rows.into_iter().map(|row| (key(&row), row)).collect()
}
