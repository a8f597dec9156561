//! Claims: devices of a node that are kept for a group which other work would overtake for ever.
//!
//! ```text
//! other work goes before a group -> for CLAIM_AFTER_MS -> it claims the devices of one node that are free soonest
//!   -> others start there only what ends before (backfill) -> all are free -> granted
//!                                                        '-> lapsed -> placed anew
//! ```
//! Any group may claim, not only one of half a node: devices that come free one by one never make a smaller group
//! either. Times are those with nine chances in ten. A claim binds work of its own band and of later ones; once its
//! task is aged it binds all.
//!
//! Not stored: a claim holds nothing that a new leader could lose or hold twice. What it forgets costs the group at
//! most [`Limits::claim_after_ms`](super::limits::Limits::claim_after_ms) again.

use std::collections::BTreeMap;

use schemas::{AgentId, TaskId};

use super::{
    Farm,
    costs::{PRIOR_COUNT, Part, key},
    group::Group,
    limits::{CLAIM_LEAST_MS, CLAIMS_MAX, LATE_PERCENT, PASSED_MAX},
    outlook::Plan,
    rows::{AgentRow, TaskRow},
    timers::Timer,
};

/// Nine chances in ten.
const LATE_PERMILLE: u32 = 900;

/// Devices that a task waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub agent: AgentId,
    pub group: Group,
    /// When all of them are expected to be free.
    pub starts_ms: i64,
    /// From then on it is placed anew: the prediction was wrong by as much as itself.
    pub lapses_ms: i64,
}

/// What claims are, for whoever looks ahead.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// By the task that has it; each has one.
    pub placed: BTreeMap<TaskId, Claim>,
    /// Groups that other work went before, and since when.
    pub passed: BTreeMap<TaskId, i64>,
}

impl Farm {
    /// Something else goes before this group. Answers whether the group has a claim because of that.
    pub(super) fn pass_over(&mut self, task: TaskId) -> bool {
        let (now, after_ms) = (self.now, self.limits.claim_after_ms);
        if !self.claims.passed.contains_key(&task) {
            let passed = std::mem::take(&mut self.claims.passed);
            let waits = passed.into_iter().filter(|(id, _)| self.could_start(*id));
            self.claims.passed = waits.take(PASSED_MAX - 1).collect();
        }
        let since_ms = *self.claims.passed.entry(task).or_insert(now);
        let is_due = now - since_ms >= after_ms;
        is_due && !self.claims.placed.contains_key(&task) && self.place_claim(task)
    }

    fn place_claim(&mut self, task: TaskId) -> bool {
        let row = &self.task_at(task).row;
        let nodes = self.agents.values().map(|agent| &agent.row);
        let capable: Vec<&AgentRow> = nodes
            .filter(|node| self.takes(node, row) && !row.failed_on.contains(&node.id))
            .collect();
        let is_claimed = |node: &AgentRow| {
            let mut placed = self.claims.placed.values();
            placed.any(|claim| claim.agent == node.id)
        };
        // Half of the nodes are everybody's; of one node it may be that one.
        let claimed = capable.iter().filter(|node| is_claimed(node)).count();
        let may = self.claims.placed.len() < CLAIMS_MAX && claimed < (capable.len() / 2).max(1);
        let drained = capable.iter().filter_map(|node| {
            let (starts_ms, group) = self.drained(node, row)?;
            Some((starts_ms, node.id, group))
        });
        let Some((starts_ms, agent, group)) = drained.min_by_key(|(at, id, _)| (*at, *id)) else {
            return false;
        };
        if !may {
            return false;
        }
        let wait_ms = (starts_ms - self.now).max(CLAIM_LEAST_MS);
        let lapses_ms = self.now + 2 * wait_ms;
        let claim = Claim {
            agent,
            group,
            starts_ms,
            lapses_ms,
        };
        self.claims.placed.insert(task, claim);
        self.timers.arm(lapses_ms, Timer::Claim);
        true
    }

    /// The devices of a node that make a group soonest, and when.
    fn drained(&self, node: &AgentRow, row: &TaskRow) -> Option<(i64, Group)> {
        let mut by_class: BTreeMap<&str, Vec<(i64, u32)>> = BTreeMap::new();
        let room = self.room_for(row);
        for device in node.open_devices().filter(|device| room.holds(device)) {
            let at = (node.id, device.index);
            if self.claim_on(at).is_none() {
                let running = self.busy.get(&at);
                let left_ms = running.map_or(0, |id| self.late_left_ms(*id));
                let of_class = by_class.entry(&device.class).or_default();
                of_class.push((left_ms, device.index));
            }
        }
        let groups = by_class.into_values().filter_map(|mut devices| {
            devices.sort_unstable();
            devices.truncate(row.devices() as usize);
            let left_ms = devices.last()?.0;
            let group = Group::of(devices.into_iter().map(|(_, index)| index).collect())?;
            (group.count() == row.devices()).then_some((self.now + left_ms, group))
        });
        groups.min_by_key(|(at, _)| *at)
    }

    /// Drops claims of tasks that do not wait any more, on devices that left, and those that lapsed.
    pub(super) fn drop_claims(&mut self) {
        if self.claims.placed.is_empty() {
            return;
        }
        let placed = std::mem::take(&mut self.claims.placed);
        let before = placed.len();
        let holds = |(id, claim): &(TaskId, Claim)| {
            let node = self.agents.get(&claim.agent).map(|agent| &agent.row);
            let open = |device: &u32| node.is_some_and(|node| node.is_open_on(*device));
            self.now < claim.lapses_ms
                && self.could_start(*id)
                && claim.group.devices().iter().all(open)
        };
        let kept: BTreeMap<_, _> = placed.into_iter().filter(holds).collect();
        self.wake |= kept.len() < before; // its devices are for others again
        self.claims.placed = kept;
    }

    /// The task that has claimed this free device, once all of its group are free.
    pub(super) fn claim_due(&self, agent: AgentId, device: u32) -> Option<(TaskId, Group)> {
        let (task, _) = self.claim_on((agent, device))?;
        let may = self.could_start(task) && self.capped(task).is_none();
        let group = may.then(|| self.fit(task, agent, device).ok())?;
        group.map(|group| (task, group))
    }

    /// Who has claimed the device.
    pub(super) fn claim_on(&self, at: (AgentId, u32)) -> Option<(TaskId, &Claim)> {
        let mut placed = self.claims.placed.iter();
        let found = placed.find(|(_, claim)| claim.agent == at.0 && claim.group.contains(at.1));
        found.map(|(task, claim)| (*task, claim))
    }

    /// A claim of another task keeps this one from the device: it would not end before.
    pub(super) fn is_claimed_against(&self, at: (AgentId, u32), task: TaskId) -> bool {
        let Some((by, claim)) = self.claim_on(at) else {
            return false;
        };
        by != task
            && self.binds(by, task)
            && self.now + self.late_ms(task, self.pool_of(at.0, at.1)) > claim.starts_ms
    }

    fn binds(&self, by: TaskId, task: TaskId) -> bool {
        let of = |id| self.job_at(self.task_at(id).row.job);
        let Some(starts_ms) = self.task_at(by).queued_ms else {
            return false;
        };
        let is_aged = self.aged_at_ms(of(by), starts_ms) <= self.now;
        (of(by).row.band <= of(task).row.band || is_aged) && self.capped(by).is_none()
    }

    /// How long a task that starts now takes on a device of this class.
    fn late_ms(&self, id: TaskId, class: &str) -> i64 {
        let task = self.task_at(id);
        let measured = self.costs.sketch(&key(&task.row.spec, class), Part::Step);
        match measured.is_some_and(|sketch| sketch.count() >= PRIOR_COUNT) {
            true => {
                let service = self.prices().service(&task.row.spec, class);
                Plan::new(&service, task.resume_step(), LATE_PERMILLE).total_ms()
            }
            false => task.row.estimate.0 / 1_000 * LATE_PERCENT / 100,
        }
    }

    /// Until a running task is done.
    fn late_left_ms(&self, id: TaskId) -> i64 {
        self.left_ms(id).saturating_mul(LATE_PERCENT) / 100
    }
}
