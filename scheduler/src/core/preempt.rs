//! An urgent task without a device makes a running one give way, one denoising step later.
//!
//! ```text
//! urgent task waits -> a victim is told to yield -> it releases with its checkpoint
//!                   -> its device is kept for the urgent task -> granted
//! ```
//! The victim goes on from its checkpoint when a device is free, and loses no step.

use schemas::{AgentId, TaskId, agent::Phase, task::TaskKind};

use super::{
    Farm,
    limits::{
        HANDOVER_MS, PREEMPT_BURST, PREEMPT_LOOKED_AT, PREEMPT_PERCENT_A_MINUTE, PREEMPTIONS_MAX,
        PROTECTED_PERCENT, TAIL_MS,
    },
    placement::can,
    rows::{AgentState, Band, TaskState},
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
    /// Finds a victim for each urgent task that has no device to come.
    pub(super) fn preempt(&mut self) {
        if self.takes_none || !self.queue.has(Band::Urgent) {
            return;
        }
        let mut taken = Vec::new();
        for task in self.queue.first(Band::Urgent, PREEMPT_LOOKED_AT) {
            if self.is_served(task)
                || self.capped(task).is_some()
                || self.free_device(task, &mut taken)
            {
                continue;
            }
            if let Some(victim) = self.victim(task, |_, _| true) {
                self.keep_progress();
                let now = self.now;
                let live = self.live_mut(victim);
                live.tell_to_yield(now, "an urgent task needs the device");
                live.yield_for = Some(task);
            }
        }
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
            live.is_some_and(|live| live.yield_for == Some(task))
        };
        kept.map(|(device, _)| *device).or_else(|| {
            let mut busy = self.busy.iter();
            busy.find(|(_, id)| yields(id)).map(|(device, _)| *device)
        })
    }

    fn running(&self) -> impl Iterator<Item = TaskId> {
        self.busy.values().copied()
    }

    /// A device is free that may do the task; each serves one task.
    pub(super) fn free_device(&self, task: TaskId, taken: &mut Vec<(AgentId, u32)>) -> bool {
        let devices = self
            .agents
            .values()
            .filter(|a| a.row.state == AgentState::Online && !a.row.drained);
        let free = devices
            .flat_map(|a| a.row.devices.iter().map(|d| (a.row.id, d.index)))
            .filter(|at| !self.busy.contains_key(at) && !taken.contains(at) && !self.is_kept(*at))
            .find(|(agent, device)| self.fit(task, *agent, *device).is_ok());
        taken.extend(free);
        free.is_some()
    }

    fn is_kept(&self, device: (AgentId, u32)) -> bool {
        self.handovers
            .get(&device)
            .is_some_and(|h| h.until_ms > self.now)
    }

    /// The running task that loses least by giving its device to `task`, if that is worth it and allowed.
    pub(super) fn victim(
        &mut self,
        task: TaskId,
        may_be: impl Fn(&Self, TaskId) -> bool,
    ) -> Option<TaskId> {
        let capable: Vec<TaskId> = self
            .running()
            .filter(|id| self.runs_where_it_could(*id, task))
            .collect();
        let natural_ms = capable.iter().map(|id| self.left_ms(*id)).min()?;
        let mut victims: Vec<TaskId> = capable
            .into_iter()
            .filter(|id| self.may_yield(*id) && may_be(self, *id))
            .collect();
        // The cheapest loses the shortest step; of equal ones the newest attempt.
        victims.sort_by_key(|id| {
            (
                self.step_ms(*id),
                std::cmp::Reverse(self.granted_at_ms(*id)),
                *id,
            )
        });
        let victim = *victims.first()?;
        if natural_ms <= self.step_ms(victim) + self.limits.preempt_gain_ms
            || !self.take_token(victim)
        {
            return None;
        }
        Some(victim)
    }

    fn runs_where_it_could(&self, running: TaskId, task: TaskId) -> bool {
        let TaskState::Leased(holder) = self.task_at(running).row.state else {
            return false;
        };
        let node = &self.agents[&holder.agent].row;
        let row = &self.task_at(task).row;
        node.state == AgentState::Online
            && can(node, row).is_ok()
            && !row.failed_on.contains(&holder.agent)
    }

    fn may_yield(&self, id: TaskId) -> bool {
        let task = self.task_at(id);
        let Some(live) = &task.live else {
            return false;
        };
        let band = self.job_at(task.row.job).row.band;
        let ran_long = self.now - self.granted_at_ms(id) >= self.limits.preempt_min_run_ms
            && live.step >= live.first_step + self.limits.preempt_min_steps;
        let tail = live.step * 100 >= live.steps * PROTECTED_PERCENT
            || !matches!(live.phase, Phase::Encode | Phase::Denoise);
        let render = task.row.kind() == TaskKind::Render;
        render
            && band > Band::Urgent
            && live.yield_since_ms.is_none()
            && ran_long
            && !tail
            && task.row.preemptions < PREEMPTIONS_MAX
    }

    fn step_ms(&self, id: TaskId) -> i64 {
        let live = self.task_at(id).live.as_ref();
        live.and_then(|live| live.step_ms).unwrap_or(0).into()
    }

    fn granted_at_ms(&self, id: TaskId) -> i64 {
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

    fn take_token(&mut self, victim: TaskId) -> bool {
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
