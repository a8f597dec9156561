//! What only memory knows: live progress, queue places, the farm's weights and counts.

use std::collections::BTreeMap;

use schemas::{
    GpuMicros, JobId, TaskId,
    agent::{Phase, WeightsInfo},
    task::TaskKind,
};

use super::{
    Farm,
    explain::Waiting,
    rows::{AgentState, JobState, TaskRow, TaskState},
    task::LiveLease,
};

/// A job that has not ended, as memory sees it.
#[derive(Clone, Debug)]
pub struct LiveJob {
    /// 1-based place among jobs that wait; absent once one of its tasks was granted.
    pub queue_position: Option<u64>,
    /// Why its first unfinished task waits; absent while a task runs.
    pub waiting: Option<Waiting>,
    pub tasks: Vec<LiveTask>,
    /// Devices of agents online, at least 1 for arithmetic with it.
    pub devices: u32,
    /// Expected device time of all jobs before it that have not ended.
    pub ahead: GpuMicros,
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
    /// Milliseconds a step, as its agent measures it.
    pub step_ms: Option<u32>,
    /// Unix milliseconds of its grant, when leased.
    pub granted_at_ms: Option<i64>,
    pub estimate: GpuMicros,
    pub done: bool,
}

/// Counts for the metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub tasks: BTreeMap<&'static str, u64>,
    pub waiting: BTreeMap<&'static str, u64>,
    pub agents: BTreeMap<&'static str, u64>,
    pub leases: u64,
    pub eligible: u64,
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
        let (waiting_before, ahead) = self.before(job.row.seq);
        Some(LiveJob {
            queue_position: waits.then_some(waiting_before + 1),
            waiting: self.job_waiting(&job.tasks),
            tasks: job.tasks.iter().map(|task| self.live_task(*task)).collect(),
            devices: self.devices_online().max(1),
            ahead,
        })
    }

    fn live_packed(&self, id: JobId) -> Option<LiveJob> {
        let whole = self.packed(id)?;
        let (waiting_before, ahead) = self.before(whole.job.seq);
        let tasks = whole.tasks.iter().map(|row| live_row(row, None));
        Some(LiveJob {
            queue_position: Some(waiting_before + 1),
            waiting: self.packed_waiting(&whole),
            tasks: tasks.collect(),
            devices: self.devices_online().max(1),
            ahead,
        })
    }

    /// Of the jobs before the one with this number: how many wait, and the device time that all of
    /// them are expected to take.
    fn before(&self, seq: i64) -> (u64, GpuMicros) {
        let packed = self.backlog.before(seq);
        let (mut waiting, mut ahead_us) = (packed.jobs, packed.estimate_us);
        for job in self.jobs.values() {
            if job.row.seq < seq && !job.row.state.is_terminal() {
                waiting += u64::from(job.row.state == JobState::Waiting);
                ahead_us = ahead_us.saturating_add(self.work_left_us(&job.tasks));
            }
        }
        (waiting, GpuMicros(ahead_us))
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
        live_row(&task.row, task.live.as_ref())
    }

    fn work_left_us(&self, tasks: &[TaskId]) -> i64 {
        let left = |id: &TaskId| {
            let row = &self.task_at(*id).row;
            match row.state.is_terminal() {
                true => 0,
                false => row.estimate.0,
            }
        };
        tasks.iter().map(left).sum()
    }

    fn devices_online(&self) -> u32 {
        let online = |a: &&super::agent::Agent| a.row.state == AgentState::Online;
        let devices = self.agents.values().filter(online);
        devices.map(|a| a.row.devices.len() as u32).sum()
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
            leases: self.busy.len() as u64,
            eligible: self.queue.len() as u64,
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
        for agent in self.agents.values() {
            *counts.agents.entry(agent.row.state.name()).or_default() += 1;
        }
        counts
    }
}

fn live_row(row: &TaskRow, live: Option<&LiveLease>) -> LiveTask {
    LiveTask {
        index: row.index,
        kind: row.kind(),
        phase: live.map(|live| live.phase),
        step: live.map_or(row.step, |live| live.step),
        steps: live.map_or(row.steps, |live| live.steps),
        step_ms: live.and_then(|live| live.step_ms),
        granted_at_ms: match row.state {
            TaskState::Leased(holder) => Some(holder.granted_at_ms),
            _ => None,
        },
        estimate: row.estimate,
        done: matches!(row.state, TaskState::Succeeded { .. }),
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
