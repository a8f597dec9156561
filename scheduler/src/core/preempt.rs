//! A task without a device makes a running one of a lower band give way, one denoising step later.
//!
//! ```text
//! task waits -> a victim is told to yield -> it releases with its checkpoint
//!            -> its device is kept for the task -> granted
//! ```
//! A task that needs a group takes from all that stand in its way on one node; what comes free first waits for the rest.
//! Who gives way is chosen in [`super::victims`].
//! Urgent tasks take from standard and overnight work, standard tasks from overnight work; fair shares take nothing.
//! The victim goes on from its checkpoint when a device is free, and loses no step. Its preemption is written when it
//! is told, so a new leader, which has forgotten whom it yields for, still knows how often it gave way; that leader
//! takes no device before victims of the one before it have had their time.

use schemas::{AgentId, TaskId, agent::Phase};

use super::{
    Farm, Observed,
    group::Group,
    limits::{
        HANDOVER_MS, NO_PING_PONG_MS, PREEMPT_BURST, PREEMPT_LOOKED_AT, PREEMPT_PERCENT_A_MINUTE,
        TAIL_MS,
    },
    placement::Misfit,
    rows::{AgentState, Band, Holder, TaskState},
    task::YieldWhy,
    victims::Taking,
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

/// What a polling device is kept for.
pub(super) enum Kept {
    No,
    /// A group of which not all devices are free yet.
    NotYet,
    For(TaskId, Group),
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
            let taking = self.cheapest_taking(task, |id| {
                self.job_at(self.task_at(id).row.job).row.band > band
            });
            if let Some(taking) = taking.filter(|taking| self.take_tokens(taking)) {
                self.take_devices(taking, task, YieldWhy::For(task));
            }
        }
    }

    /// Tells the victims to yield, and keeps what is free beside them for the task until they have.
    pub(super) fn take_devices(&mut self, taking: Taking, task: TaskId, why: YieldWhy) {
        self.keep_progress();
        let until_ms = self.now + self.limits.yield_grace_ms + HANDOVER_MS;
        for at in taking.free {
            self.handovers.insert(at, Handover { task, until_ms });
        }
        for victim in taking.victims {
            self.take_device(victim, why);
        }
    }

    /// Tells the victim to yield its device for the task, and writes that it had to.
    fn take_device(&mut self, victim: TaskId, why: YieldWhy) {
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

    /// A device that is kept for the task, or that a victim gives up for it.
    pub(super) fn freed_for(&self, task: TaskId) -> Option<(AgentId, u32)> {
        let mut kept = self.handovers.iter();
        let kept = kept.find(|(_, h)| h.task == task && h.until_ms > self.now);
        kept.map(|(device, _)| *device).or_else(|| {
            let mut yielding = self.yielding.iter();
            let victim = yielding.find(|id| self.yields_for(**id) == Some(task))?;
            match self.task_at(*victim).row.state {
                TaskState::Leased(holder) => Some((holder.agent, holder.device)),
                _ => None,
            }
        })
    }

    fn yields_for(&self, id: TaskId) -> Option<TaskId> {
        let yields = self.task_at(id).live.as_ref()?.yields?;
        yields.why.beneficiary()
    }

    /// Tasks that hold a lease, each once.
    pub(super) fn running(&self) -> impl Iterator<Item = TaskId> {
        let leads = self.busy.iter().filter(|((_, device), id)| {
            matches!(self.task_at(**id).row.state, TaskState::Leased(holder) if holder.device == *device)
        });
        leads.map(|(_, id)| *id)
    }

    /// Devices are free that may do the task; each serves one task.
    pub(super) fn free_device(&self, task: TaskId, taken: &mut Vec<(AgentId, u32)>) -> bool {
        let rows = self.agents.values().map(|agent| &agent.row);
        let free = rows
            .flat_map(|row| row.open_devices().map(|d| (row.id, d.index)))
            .filter(|at| !self.busy.contains_key(at) && !taken.contains(at) && !self.is_kept(*at))
            .find_map(|(agent, device)| Some((agent, self.fit(task, agent, device).ok()?)));
        let Some((agent, group)) = free else {
            return false;
        };
        taken.extend(group.devices().iter().map(|device| (agent, *device)));
        true
    }

    pub(super) fn is_kept(&self, device: (AgentId, u32)) -> bool {
        self.handovers
            .get(&device)
            .is_some_and(|h| h.until_ms > self.now)
    }

    pub(super) fn step_ms(&self, id: TaskId) -> i64 {
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

    /// One token for each victim, but never more than there can be.
    pub(super) fn take_tokens(&mut self, taking: &Taking) -> bool {
        let Some(victim) = taking.victims.first() else {
            return false;
        };
        let TaskState::Leased(holder) = self.task_at(*victim).row.state else {
            return false;
        };
        let price = (taking.victims.len() as i64).min(PREEMPT_BURST) * TOKEN;
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
        let enough = bucket.tokens >= price;
        if enough {
            bucket.tokens -= price;
        }
        enough
    }

    /// The victim has given its devices back: as many as are missing are kept for the task they were taken for.
    pub(super) fn hand_over(&mut self, holder: &Holder, task: TaskId) {
        let Some(wanted) = self.tasks.get(&task).map(|task| task.row.devices()) else {
            return; // its job was deleted
        };
        let victim = self.busy.get(&(holder.agent, holder.device)).copied();
        let others = |id: &TaskId| Some(*id) != victim && self.yields_for(*id) == Some(task);
        // Those that came first wait for the last.
        let patience_ms = match self.yielding.iter().any(others) {
            true => self.limits.yield_grace_ms,
            false => 0,
        };
        let until_ms = self.now + patience_ms + HANDOVER_MS;
        let mut kept = 0;
        for handover in self.handovers.values_mut().filter(|kept| kept.task == task) {
            handover.until_ms = until_ms;
            kept += 1;
        }
        for device in holder
            .group
            .devices()
            .iter()
            .take((wanted.saturating_sub(kept)) as usize)
        {
            let at = (holder.agent, *device);
            self.handovers.insert(at, Handover { task, until_ms });
        }
        self.wake = true;
    }

    /// The task that this free device is kept for, while it could start on it.
    pub(super) fn kept_for(&mut self, agent: AgentId, device: u32) -> Kept {
        let Some(Handover { task, until_ms }) = self.handovers.get(&(agent, device)).copied()
        else {
            return Kept::No;
        };
        if until_ms > self.now && self.could_start(task) && self.capped(task).is_none() {
            match self.fit(task, agent, device) {
                Ok(group) => return Kept::For(task, group),
                Err(Misfit::Group) => return Kept::NotYet,
                Err(_) => {}
            }
        }
        self.handovers.remove(&(agent, device));
        Kept::No
    }
}
