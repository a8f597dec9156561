//! A task without a device makes a running one of a lower band give way, one denoising step later.
//!
//! ```text
//! task waits -> a victim is told to yield -> it releases with its checkpoint
//!            -> its device is kept for the task -> granted
//! ```
//! Urgent tasks take from standard and overnight work, standard tasks from overnight work; fair shares take nothing.
//! The victim goes on from its checkpoint when a device is free, and loses no step. Its preemption is written when it
//! is told, so a new leader, which has forgotten whom it yields for, still knows how often it gave way; that leader
//! takes no device before victims of the one before it have had their time.

use schemas::{
    AgentId, TaskId,
    agent::Phase,
    task::{TaskKind, TaskSpec},
};

use super::{
    Farm, Observed,
    limits::{
        HANDOVER_MS, NO_PING_PONG_MS, PREEMPT_BURST, PREEMPT_LOOKED_AT, PREEMPT_PERCENT_A_MINUTE,
        PREEMPTIONS_MAX, PROTECTED_PERCENT, RELOAD_MS, SAVE_MS, TAIL_MS,
    },
    placement::{can, has_room},
    rows::{AgentState, Band, TaskState},
    task::YieldWhy,
};

const MINUTE_MS: i64 = 60_000;
/// Tokens are counted in thousandths.
const TOKEN: i64 = 1_000;

/// A device that was freed for a task and is kept for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handover {
    pub task: TaskId,
    pub until_ms: i64,
}

/// How often devices of a class may be taken away: a bucket that fills slowly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    tokens: i64,
    at_ms: i64,
}

impl Farm {
    /// Finds a victim for each task that may take a device and has none to come.
    pub(super) fn preempt(&mut self) {
        if self.takes_none || self.now < self.preempt_from_ms {
            return;
        }
        for band in [Band::Urgent, Band::Standard] {
            let below: u32 = self.leased[band as usize + 1..].iter().sum();
            if below > 0 && self.queue.has(band) {
                self.preempt_for(band);
            }
        }
    }

    fn preempt_for(&mut self, band: Band) {
        let mut taken = Vec::new();
        for task in self.queue.first(band, PREEMPT_LOOKED_AT) {
            if self.is_served(task)
                || self.gave_way_lately(task)
                || self.capped(task).is_some()
                || self.free_device(task, &mut taken)
            {
                continue;
            }
            let victim = self.cheapest_victim(task, |id| {
                self.job_at(self.task_at(id).row.job).row.band > band
            });
            if let Some(victim) = victim.filter(|victim| self.take_token(*victim)) {
                self.keep_progress();
                self.take_device(victim, YieldWhy::For(task));
            }
        }
    }

    /// Tells the victim to yield its device for the task, and writes that it had to.
    pub(super) fn take_device(&mut self, victim: TaskId, why: YieldWhy) {
        let now = self.now;
        let band = self.job_at(self.task_at(victim).row.job).row.band;
        self.observed.push(Observed::Preempted(band));
        self.change_task(victim, |row| {
            row.preemptions += 1;
            row.preempted_at_ms = Some(now);
        });
        self.order_yield(victim, why);
    }

    /// No ping-pong: what was preempted does not preempt at once.
    fn gave_way_lately(&self, task: TaskId) -> bool {
        let at = self.task_at(task).row.preempted_at_ms;
        at.is_some_and(|at| at + NO_PING_PONG_MS > self.now)
    }

    /// A victim yields for the task, or a device is kept for it.
    pub(super) fn is_served(&self, task: TaskId) -> bool {
        self.freed_for(task).is_some()
    }

    /// The device that is kept for the task, or that a victim gives up for it.
    pub(super) fn freed_for(&self, task: TaskId) -> Option<(AgentId, u32)> {
        let mut kept = self.handovers.iter();
        let kept = kept.find(|(_, h)| h.task == task && h.until_ms > self.now);
        let yields = |id: &TaskId| {
            let live = self.task_at(*id).live.as_ref();
            let yields = live.and_then(|live| live.yields);
            yields.is_some_and(|yields| yields.why.beneficiary() == Some(task))
        };
        kept.map(|(device, _)| *device).or_else(|| {
            let victim = self.yielding.iter().find(|id| yields(id))?;
            match self.task_at(*victim).row.state {
                TaskState::Leased(holder) => Some((holder.agent, holder.device)),
                _ => None,
            }
        })
    }

    fn running(&self) -> impl Iterator<Item = TaskId> {
        self.busy.values().copied()
    }

    /// A device is free that may do the task; each serves one task.
    pub(super) fn free_device(&self, task: TaskId, taken: &mut Vec<(AgentId, u32)>) -> bool {
        let rows = self.agents.values().map(|agent| &agent.row);
        let free = rows
            .flat_map(|row| row.open_devices().map(|d| (row.id, d.index)))
            .filter(|at| !self.busy.contains_key(at) && !taken.contains(at) && !self.is_kept(*at))
            .find(|(agent, device)| self.fit(task, *agent, *device).is_ok());
        taken.extend(free);
        free.is_some()
    }

    pub(super) fn is_kept(&self, device: (AgentId, u32)) -> bool {
        self.handovers
            .get(&device)
            .is_some_and(|h| h.until_ms > self.now)
    }

    /// The running task that loses least by giving its device to `task`, of those that `may` give way by who they are;
    /// none if that is not worth it. Whoever reclaims devices picks victims with this as well.
    pub(super) fn cheapest_victim(
        &self,
        task: TaskId,
        may: impl Fn(TaskId) -> bool,
    ) -> Option<TaskId> {
        let capable: Vec<TaskId> = self
            .running()
            .filter(|id| self.runs_where_it_could(*id, task))
            .collect();
        let natural_ms = capable.iter().map(|id| self.left_ms(*id)).min()?;
        let victims = capable
            .into_iter()
            .filter(|id| may(*id) && self.may_yield(*id));
        // Of equal ones the newest attempt.
        let cost = |id: &TaskId| {
            let newest = std::cmp::Reverse(self.granted_at_ms(*id));
            (self.yield_cost_ms(*id, task), newest, *id)
        };
        let victim = victims.min_by_key(cost)?;
        let worth = natural_ms > self.yield_cost_ms(victim, task) + self.limits.preempt_gain_ms;
        worth.then_some(victim)
    }

    /// Device time that is lost when the victim yields: its checkpoint, a part of a step, and loading its weights
    /// again where the other task's replace them. A task has one device.
    fn yield_cost_ms(&self, victim: TaskId, task: TaskId) -> i64 {
        let weights = |id: TaskId| match &*self.task_at(id).row.spec {
            TaskSpec::Render(spec) => Some(spec.weights.clone()),
            TaskSpec::Assemble(_) => None,
        };
        let evicts = weights(task).is_some_and(|other| weights(victim) != Some(other));
        let load_ms = self
            .task_at(victim)
            .live
            .as_ref()
            .and_then(|live| live.load_ms);
        let reload_ms = match evicts {
            true => load_ms.unwrap_or(RELOAD_MS),
            false => 0,
        };
        SAVE_MS + self.step_ms(victim) + reload_ms
    }

    fn runs_where_it_could(&self, running: TaskId, task: TaskId) -> bool {
        let TaskState::Leased(holder) = self.task_at(running).row.state else {
            return false;
        };
        let node = &self.agents[&holder.agent].row;
        let row = &self.task_at(task).row;
        let device = node.device(holder.device);
        node.is_open_on(holder.device)
            && can(node, row).is_ok()
            && device.is_some_and(|device| has_room(device, row))
            && !row.failed_on.contains(&holder.agent)
    }

    fn may_yield(&self, id: TaskId) -> bool {
        let task = self.task_at(id);
        let Some(live) = &task.live else {
            return false;
        };
        let ran_long = self.now - self.granted_at_ms(id) >= self.limits.preempt_min_run_ms
            && live.step >= live.first_step + self.limits.preempt_min_steps;
        let tail = live.step * 100 >= live.steps * PROTECTED_PERCENT
            || !matches!(live.phase, Phase::Encode | Phase::Denoise);
        let render = task.row.kind() == TaskKind::Render;
        render
            && live.yields.is_none()
            && ran_long
            && !tail
            && task.row.preemptions < PREEMPTIONS_MAX
    }

    fn step_ms(&self, id: TaskId) -> i64 {
        let live = self.task_at(id).live.as_ref();
        live.and_then(|live| live.step_ms).unwrap_or(0).into()
    }

    pub(super) fn granted_at_ms(&self, id: TaskId) -> i64 {
        match self.task_at(id).row.state {
            TaskState::Leased(holder) => holder.granted_at_ms,
            _ => self.now,
        }
    }

    /// Until its device is free by itself.
    pub(super) fn left_ms(&self, id: TaskId) -> i64 {
        let task = self.task_at(id);
        match &task.live {
            Some(live) if live.phase == Phase::Denoise && live.step_ms.is_some() => {
                i64::from(live.steps.saturating_sub(live.step)) * self.step_ms(id) + TAIL_MS
            }
            Some(live) if matches!(live.phase, Phase::Decode | Phase::Mux | Phase::Upload) => {
                TAIL_MS
            }
            _ => (task.row.estimate.0 / 1000 - (self.now - self.granted_at_ms(id))).max(0),
        }
    }

    pub(super) fn take_token(&mut self, victim: TaskId) -> bool {
        let TaskState::Leased(holder) = self.task_at(victim).row.state else {
            return false;
        };
        let class_of = |devices: &[schemas::agent::Device]| {
            devices
                .iter()
                .find(|d| d.index == holder.device)
                .map(|d| d.class.clone())
        };
        let class = class_of(&self.agents[&holder.agent].row.devices).unwrap_or_default();
        let of_class = |a: &super::agent::Agent| {
            a.row.devices.iter().filter(|d| d.class == class).count() as i64
        };
        let devices: i64 = self
            .agents
            .values()
            .filter(|a| a.row.state == AgentState::Online)
            .map(of_class)
            .sum();
        let a_minute = (devices * PREEMPT_PERCENT_A_MINUTE * TOKEN / 100).max(TOKEN);
        let (now, full) = (self.now, PREEMPT_BURST * TOKEN);
        let bucket = self.buckets.entry(class).or_insert(Bucket {
            tokens: full,
            at_ms: now,
        });
        bucket.tokens = (bucket.tokens + a_minute * (now - bucket.at_ms) / MINUTE_MS).min(full);
        bucket.at_ms = now;
        let enough = bucket.tokens >= TOKEN;
        if enough {
            bucket.tokens -= TOKEN;
        }
        enough
    }

    /// The victim has given its device back: it is kept for the task it was taken for.
    pub(super) fn hand_over(&mut self, agent: AgentId, device: u32, task: TaskId) {
        let until_ms = self.now + HANDOVER_MS;
        self.handovers
            .insert((agent, device), Handover { task, until_ms });
        self.wake = true;
    }

    /// The task that this device is kept for, while it could start on it.
    pub(super) fn kept_for(&mut self, agent: AgentId, device: u32) -> Option<TaskId> {
        let Handover { task, until_ms } = *self.handovers.get(&(agent, device))?;
        let could_start = self.tasks.get(&task).is_some_and(|t| match t.row.state {
            TaskState::Ready { eligible_at_ms, .. } => eligible_at_ms <= self.now,
            _ => false,
        });
        if until_ms > self.now
            && could_start
            && self.capped(task).is_none()
            && self.fit(task, agent, device).is_ok()
        {
            return Some(task);
        }
        self.handovers.remove(&(agent, device));
        None
    }
}
