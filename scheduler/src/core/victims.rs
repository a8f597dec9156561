//! Which running work gives its devices to a task that takes them: the cheapest on one node, and only if it is worth it.

use std::collections::BTreeMap;

use schemas::{
    AgentId, TaskId,
    agent::Phase,
    task::{TaskKind, TaskSpec},
};

use super::{
    Farm,
    limits::{PREEMPTIONS_MAX, PROTECTED_PERCENT, RELOAD_MS, SAVE_MS},
    memory::Room,
    placement::can,
    rows::{AgentRow, TaskRow, TaskState},
};

/// Who must give way so that a task can start.
#[derive(Clone, Debug)]
pub(super) struct Taking {
    pub victims: Vec<TaskId>,
    /// Free devices that the task needs besides.
    pub free: Vec<(AgentId, u32)>,
    cost_ms: i64,
}

/// Devices of one class on a node: the free ones, and how many each task has that may give way.
#[derive(Default)]
struct Offered {
    free: Vec<(AgentId, u32)>,
    busy: BTreeMap<TaskId, u32>,
}

impl Farm {
    /// The running work that loses least by giving its devices to `task`, of that which `may` give way by who it is;
    /// none if that is not worth it. Whoever reclaims devices picks victims with this as well.
    pub(super) fn cheapest_taking(
        &self,
        task: TaskId,
        may: impl Fn(TaskId) -> bool,
    ) -> Option<Taking> {
        let (natural_ms, taking) = match self.task_at(task).row.devices() {
            1 => self.cheapest_device(task, may),
            _ => self.cheapest_group(task, &may),
        }?;
        let worth = natural_ms > taking.cost_ms + self.limits.preempt_gain_ms;
        worth.then_some(taking)
    }

    /// When a device is free by itself, and whose would cost least.
    fn cheapest_device(&self, task: TaskId, may: impl Fn(TaskId) -> bool) -> Option<(i64, Taking)> {
        let room = self.room_for(&self.task_at(task).row);
        let capable: Vec<TaskId> = self
            .running()
            .filter(|id| self.runs_where_it_could(*id, task, room))
            .collect();
        let natural_ms = capable.iter().map(|id| self.left_ms(*id)).min()?;
        let victims = capable
            .into_iter()
            .filter(|id| may(*id) && self.may_yield(*id));
        let victim = victims.min_by_key(|id| self.victim_order(*id, task))?;
        let taking = Taking {
            victims: vec![victim],
            free: Vec::new(),
            cost_ms: self.yield_cost_ms(victim, task),
        };
        Some((natural_ms, taking))
    }

    /// When a whole group is free by itself, and whose would cost least.
    fn cheapest_group(&self, task: TaskId, may: &impl Fn(TaskId) -> bool) -> Option<(i64, Taking)> {
        let row = &self.task_at(task).row;
        let nodes = self.agents.values().map(|agent| &agent.row);
        let (mut natural_ms, mut best) = (i64::MAX, None::<Taking>);
        for node in nodes.filter(|node| !row.failed_on.contains(&node.id) && self.takes(node, row))
        {
            natural_ms = natural_ms.min(self.group_free_in_ms(node, row).unwrap_or(i64::MAX));
            let taking = self.taking_on(node, task, may);
            let cheaper = |taking: &Taking| {
                best.as_ref()
                    .is_none_or(|best| taking.cost_ms < best.cost_ms)
            };
            best = taking.filter(cheaper).or(best);
        }
        Some((natural_ms, best?))
    }

    /// Until so many devices of one class of the node are free by themselves.
    pub(super) fn group_free_in_ms(&self, node: &AgentRow, row: &TaskRow) -> Option<i64> {
        let mut by_class: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        let room = self.room_for(row);
        for device in node.open_devices().filter(|device| room.holds(device)) {
            let running = self.busy.get(&(node.id, device.index));
            let left_ms = running.map_or(0, |id| self.left_ms(*id));
            by_class.entry(&device.class).or_default().push(left_ms);
        }
        let whole = by_class.into_values().filter_map(|mut left| {
            left.sort_unstable();
            left.get(row.devices() as usize - 1).copied()
        });
        whole.min()
    }

    /// Who would have to give way on this node, beside what is free there.
    fn taking_on(
        &self,
        node: &AgentRow,
        task: TaskId,
        may: &impl Fn(TaskId) -> bool,
    ) -> Option<Taking> {
        let row = &self.task_at(task).row;
        let mut by_class: BTreeMap<&str, Offered> = BTreeMap::new();
        let room = self.room_for(row);
        for device in node.open_devices().filter(|device| room.holds(device)) {
            let at = (node.id, device.index);
            let Offered { free, busy } = by_class.entry(&device.class).or_default();
            match self.busy.get(&at) {
                None if self.is_free_for(at, task) => free.push(at),
                None => {}
                Some(id) if may(*id) && self.may_yield(*id) => *busy.entry(*id).or_default() += 1,
                Some(_) => {}
            }
        }
        let takings = by_class
            .into_values()
            .filter_map(|Offered { mut free, busy }| {
                free.truncate(row.devices() as usize);
                let victims = self.fewest(task, busy, row.devices() - free.len() as u32)?;
                let cost = |id: &TaskId| self.yield_cost_ms(*id, task);
                Some(Taking {
                    cost_ms: victims.iter().map(cost).sum(),
                    victims,
                    free,
                })
            });
        takings.min_by_key(|taking| taking.cost_ms)
    }

    /// Victims with so many devices together, the cheapest first; none without all of them, or where none are needed.
    fn fewest(
        &self,
        task: TaskId,
        busy: BTreeMap<TaskId, u32>,
        needed: u32,
    ) -> Option<Vec<TaskId>> {
        let mut order: Vec<(TaskId, u32)> = busy.into_iter().collect();
        order.sort_by_key(|(id, devices)| {
            let (cost_ms, newest, id) = self.victim_order(*id, task);
            (cost_ms / i64::from(*devices), newest, id)
        });
        let (mut victims, mut found) = (Vec::new(), 0);
        for (id, devices) in order {
            if found < needed {
                victims.push((id, devices));
                found += devices;
            }
        }
        // A larger one that came late may have made smaller ones needless.
        victims.retain(|(_, devices)| match found - devices >= needed {
            true => {
                found -= devices;
                false
            }
            false => true,
        });
        let enough = found >= needed && needed > 0;
        enough.then(|| victims.into_iter().map(|(id, _)| id).collect())
    }

    /// Of equal ones the newest attempt.
    fn victim_order(&self, id: TaskId, task: TaskId) -> (i64, std::cmp::Reverse<i64>, TaskId) {
        let newest = std::cmp::Reverse(self.granted_at_ms(id));
        (self.yield_cost_ms(id, task), newest, id)
    }

    /// Device time that is lost when the victim yields: its checkpoint, a part of a step, and loading its weights
    /// again where the other task's replace them, on each of its devices.
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
        let devices = i64::from(self.task_at(victim).row.devices());
        (SAVE_MS + self.step_ms(victim) + reload_ms) * devices
    }

    fn runs_where_it_could(&self, running: TaskId, task: TaskId, room: Room<'_>) -> bool {
        let TaskState::Leased(holder) = self.task_at(running).row.state else {
            return false;
        };
        let node = &self.agents[&holder.agent].row;
        let row = &self.task_at(task).row;
        let device = node.device(holder.device);
        node.is_open_on(holder.device)
            && can(node, row).is_ok()
            && device.is_some_and(|device| room.holds(device))
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
}
