//! What only memory knows: live progress, queue places, the farm's weights and counts.

use std::{collections::BTreeMap, iter, sync::Arc};

use schemas::{
    AccountId, JobId, TaskId,
    agent::{DeviceSample, Phase, WeightsInfo},
    task::{TaskKind, TaskSpec},
};

use super::{
    Farm,
    explain::Waiting,
    memory::{self, NeedView},
    outlook::Rest,
    placement::is_cpu_class,
    prices::PriceBook,
    rows::{AgentState, Band, JobRow, JobState, TaskRow, TaskState},
    task::LiveLease,
};

/// A job that has not ended, as memory sees it.
#[derive(Clone, Debug)]
pub struct LiveJob {
    pub id: JobId,
    /// Who is served: the user or the project.
    pub account: AccountId,
    pub band: Band,
    pub prices: PriceBook,
    /// 1-based place among jobs that wait; absent once one of its tasks was granted.
    pub queue_position: Option<u64>,
    /// Why its first unfinished task waits; absent while a task runs.
    pub waiting: Option<Waiting>,
    pub tasks: Vec<LiveTask>,
    /// Devices of agents online, at least 1 for arithmetic with it.
    pub devices: u32,
    /// Eligible shots of its account and band before its own.
    pub own_ahead: u64,
}

/// One task of a live job, in task order.
#[derive(Clone, Debug)]
pub struct LiveTask {
    pub index: u32,
    pub kind: TaskKind,
    /// Absent unless leased.
    pub phase: Option<Phase>,
    pub step: u32,
    pub steps: u32,
    /// Unix milliseconds of its grant, when leased.
    pub granted_at_ms: Option<i64>,
    /// It could run, and waits.
    pub is_ready: bool,
    pub spec: Arc<TaskSpec>,
    /// Where it stands while it runs.
    pub rest: Option<Rest>,
    /// Steps that are saved.
    pub saved: u32,
    pub is_done: bool,
}

/// Counts for the metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub tasks: BTreeMap<&'static str, u64>,
    pub waiting: BTreeMap<&'static str, u64>,
    pub agents: BTreeMap<&'static str, u64>,
    pub leases: u64,
    /// By band.
    pub eligible: BTreeMap<&'static str, u64>,
    /// Devices in quarantine, by cause.
    pub quarantined: BTreeMap<&'static str, u64>,
    /// Microseconds of all orgs together: `available`, `held`, `spent`, `granted`.
    pub ledger_us: BTreeMap<&'static str, i64>,
    /// Last readings of GPUs, with the name of their node.
    pub gpus: Vec<(String, DeviceSample)>,
    /// Memory that each kind of work needs.
    pub memory: Vec<NeedView>,
}

impl Farm {
    /// `None` for a job that has ended or is not known.
    pub fn live(&self, id: JobId) -> Option<LiveJob> {
        let Some(job) = self.jobs.get(&id) else {
            return self.live_packed(id);
        };
        if job.row.state.is_terminal() {
            return None;
        }
        let waits = job.row.state == JobState::Waiting;
        Some(LiveJob {
            id,
            account: job.row.account(),
            band: job.row.band,
            prices: self.prices(),
            queue_position: waits.then(|| self.waiting_before(job.row.seq) + 1),
            waiting: self.job_waiting(&job.tasks),
            tasks: job.tasks.iter().map(|task| self.live_task(*task)).collect(),
            own_ahead: self.own_ahead_of(&job.tasks),
            devices: self.devices_online().max(1),
        })
    }

    fn live_packed(&self, id: JobId) -> Option<LiveJob> {
        let whole = self.packed(id)?;
        let tasks = whole.tasks.iter().map(|row| live_row(row, None, None, 0));
        Some(LiveJob {
            id,
            account: whole.job.account(),
            band: whole.job.band,
            prices: self.prices(),
            queue_position: Some(self.waiting_before(whole.job.seq) + 1),
            waiting: self.packed_waiting(&whole),
            tasks: tasks.collect(),
            own_ahead: self.own_ahead_of_packed(&whole),
            devices: self.devices_online().max(1),
        })
    }

    /// Jobs before the one with this number that have not begun.
    fn waiting_before(&self, seq: i64) -> u64 {
        let before = |row: &JobRow| row.seq < seq && row.state == JobState::Waiting;
        let unpacked = self.jobs.values().filter(|job| before(&job.row)).count();
        unpacked as u64 + self.backlog.before(seq).jobs
    }

    fn job_waiting(&self, tasks: &[TaskId]) -> Option<Waiting> {
        let runs = |id: &TaskId| matches!(self.task_at(*id).row.state, TaskState::Leased(_));
        match tasks.iter().any(runs) {
            true => None,
            false => tasks.iter().find_map(|task| self.waiting(*task)),
        }
    }

    fn live_task(&self, id: TaskId) -> LiveTask {
        let task = self.task_at(id);
        live_row(
            &task.row,
            task.live.as_ref(),
            self.rest(id),
            task.resume_step(),
        )
    }

    fn own_ahead_of(&self, tasks: &[TaskId]) -> u64 {
        let ready = |id: &&TaskId| matches!(self.task_at(**id).row.state, TaskState::Ready { .. });
        let Some(first) = tasks.iter().find(ready) else {
            return 0;
        };
        let entry = self.entry(*first, self.now);
        self.own_ahead(entry.account, entry.band, &entry.place)
    }

    pub(super) fn devices_online(&self) -> u32 {
        let devices = self.agents.values().map(|a| a.row.open_devices().count());
        devices.sum::<usize>() as u32
    }

    /// Weights by name that agents have told of; where two differ, an online agent's are taken.
    pub fn weights(&self) -> Vec<WeightsInfo> {
        let mut agents: Vec<_> = self.agents.values().map(|agent| &agent.row).collect();
        agents.sort_by_key(|row| (row.state, row.id));
        let mut found = BTreeMap::new();
        for info in agents.iter().flat_map(|row| &row.weights) {
            found
                .entry(info.name.clone())
                .or_insert_with(|| info.clone());
        }
        found.into_values().collect()
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts {
            leases: self.leased.iter().copied().map(u64::from).sum(),
            ledger_us: self.ledger_us(),
            gpus: self.gpus(),
            memory: memory::views(&self.costs),
            ..Counts::default()
        };
        for (head, packed) in self.packed_lines() {
            let count = |map: &mut BTreeMap<_, u64>, what, tasks| {
                if tasks > 0 {
                    *map.entry(what).or_default() += tasks;
                }
            };
            count(&mut counts.tasks, "ready", packed.ready);
            count(&mut counts.tasks, "blocked", packed.blocked);
            let why = self.waiting_behind(head, packed.ready).code();
            count(&mut counts.waiting, why, packed.ready);
            let inputs = Waiting::InputsPending { tasks_left: 1 }.code();
            count(&mut counts.waiting, inputs, packed.blocked);
        }
        for (id, task) in &self.tasks {
            *counts.tasks.entry(task.row.state.name()).or_default() += 1;
            if let Some(waiting) = self.waiting(*id) {
                *counts.waiting.entry(waiting.code()).or_default() += 1;
            }
        }
        for band in Band::ALL {
            let waiting = self.queue.len_of(band) as u64;
            counts.eligible.insert(band.name(), waiting);
        }
        for row in self.agents.values().map(|agent| &agent.row) {
            *counts.agents.entry(row.condition()).or_default() += 1;
            for quarantine in row.health.quarantined.values() {
                let cause = quarantine.cause.name();
                *counts.quarantined.entry(cause).or_default() += 1;
            }
        }
        counts
    }

    /// What is held and spent is that of the orgs, whose balances hold those of their projects. What was granted
    /// and is left of it is that of the accounts that have a limit, the topmost of each path.
    fn ledger_us(&self) -> BTreeMap<&'static str, i64> {
        let parent = |id: &AccountId| self.accounts.get(id)?.parent;
        let is_limited = |id: &AccountId| self.quotas.get(id).is_some_and(|row| row.metered);
        let mut sums =
            BTreeMap::from(["available", "held", "spent", "granted"].map(|part| (part, 0)));
        let mut add = |part: &'static str, us: i64| *sums.entry(part).or_default() += us;
        for (account, balance) in &self.balances {
            let mut above = iter::successors(parent(account), parent);
            if above.clone().next().is_none() {
                add("held", balance.held.0);
                add("spent", balance.spent.0);
            }
            if is_limited(account) && !above.any(|id| is_limited(&id)) {
                add("available", balance.available.0);
                add("granted", -balance.mint.0);
            }
        }
        sums
    }

    fn gpus(&self) -> Vec<(String, DeviceSample)> {
        let mut gpus = Vec::new();
        for agent in self.agents.values() {
            for sample in &agent.samples {
                let device = agent.row.device(sample.index);
                if !device.is_some_and(|device| is_cpu_class(&device.class)) {
                    gpus.push((agent.row.name.clone(), sample.clone()));
                }
            }
        }
        gpus
    }
}

fn live_row(row: &TaskRow, live: Option<&LiveLease>, rest: Option<Rest>, saved: u32) -> LiveTask {
    LiveTask {
        index: row.index,
        kind: row.kind(),
        phase: live.map(|live| live.phase),
        step: live.map_or(row.step, |live| live.step),
        steps: live.map_or(row.steps, |live| live.steps),
        granted_at_ms: match row.state {
            TaskState::Leased(holder) => Some(holder.granted_at_ms),
            _ => None,
        },
        is_ready: matches!(row.state, TaskState::Ready { .. }),
        spec: Arc::clone(&row.spec),
        rest,
        saved,
        is_done: row.state.is_terminal(),
    }
}

impl AgentState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Draining => "draining",
            Self::Unresponsive => "unresponsive",
            Self::Gone => "gone",
        }
    }
}
