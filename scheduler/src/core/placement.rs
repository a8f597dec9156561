//! Which waiting task a device gets: the first in the queue that fits it, with other free devices of its node
//! where the task needs a group.

use std::collections::BTreeMap;

use schemas::{
    AgentId,
    agent::{LeaseOffer, LeaseRef, LeaseRequest},
    task::{Artefact, TaskKind, TaskSpec},
};

use super::{
    Farm, Observed,
    command::LeaseReply,
    explain::Waiting,
    group::Group,
    limits::BACKFILL_LOOKED_AT,
    preempt::Kept,
    queue::{Class, Found, Verdict},
    recent::Recent,
    rows::{AgentRow, AgentState, AttemptRow, Band, Holder, TaskRow, TaskState},
    task::LiveLease,
    timers::Timer,
    write::Write,
};
use schemas::TaskId;

/// How the classes of devices begin that are no GPU.
pub(super) const CPU_CLASS: &str = "cpu";

/// Why a task cannot run on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    /// The agent lacks the weights.
    Weights,
    /// The agent lacks FFmpeg.
    Ffmpeg,
    /// The node cannot run one task on so many devices.
    GroupSize,
    /// Fewer devices of the node are free than the group needs.
    Group,
    /// Another task has claimed the device, and this one would not end before.
    Claimed,
    /// The task ran out of memory on a device as small as this one.
    Memory,
    /// Work of its kind needs more memory than the device has.
    Size,
    /// The task failed on the node and another one can do it.
    Avoided,
    /// CPU work while GPU work waits and a CPU can do it.
    CpuWork,
    /// Its account has as much as it may at once.
    Capped,
}

/// What a device may get, and the first group that could not have it because too few others are free.
struct Picked {
    found: Option<(Found, Group)>,
    passed: Option<TaskId>,
}

impl Farm {
    pub(super) fn lease(&mut self, request: LeaseRequest) -> LeaseReply {
        let Some(agent) = self.agents.get(&request.agent) else {
            return LeaseReply::UnknownAgent;
        };
        let row = &agent.row;
        match row.state {
            _ if row.boot != request.boot => return LeaseReply::UnknownAgent,
            _ if row.drained => return LeaseReply::Idle(Waiting::AgentDrains),
            AgentState::Gone => return LeaseReply::UnknownAgent,
            _ => {}
        }
        if !row.devices.iter().any(|d| d.index == request.device) {
            return LeaseReply::Idle(Waiting::NoCapableDevice {
                needs: format!(
                    "device {}, which the agent did not announce",
                    request.device
                ),
            });
        }
        if let Some(task) = self.busy.get(&(request.agent, request.device)) {
            return self.lease_again(*task, &request);
        }
        if row.health.quarantined.contains_key(&request.device) {
            return self.lease_in_quarantine(request.agent, request.device);
        }
        if !row.is_open() {
            return LeaseReply::Idle(Waiting::NothingWaits);
        }
        match self.kept_for(request.agent, request.device) {
            Kept::For(task, group) => {
                self.recent_of(request.agent, request.device).note(false);
                return self.grant(task, &request, group);
            }
            Kept::NotYet => return LeaseReply::Idle(Waiting::NothingWaits),
            Kept::No => {}
        }
        if let Some((task, group)) = self.due_claim(&request) {
            self.recent_of(request.agent, request.device).note(false);
            return self.grant(task, &request, group);
        }
        match self.pick_or_claim(&request) {
            Some((Found { task, aged }, group)) => {
                self.recent_of(request.agent, request.device).note(aged);
                self.grant(task, &request, group)
            }
            None if self.wants_reference(request.agent, request.device) => LeaseReply::Probe,
            None => LeaseReply::Idle(Waiting::NothingWaits),
        }
    }

    /// A poll whose answer was lost gets its grant again; another one must wait for the device.
    fn lease_again(&self, task: TaskId, request: &LeaseRequest) -> LeaseReply {
        match self.task_at(task).row.state {
            TaskState::Leased(holder)
                if (holder.boot, holder.device, holder.poll_id)
                    == (request.boot, request.device, request.poll_id) =>
            {
                self.offer(task, holder)
            }
            _ => LeaseReply::Idle(Waiting::DevicesBusy {
                devices: 1,
                earliest_ms: None,
            }),
        }
    }

    fn due_claim(&mut self, request: &LeaseRequest) -> Option<(TaskId, Group)> {
        self.drop_claims();
        self.claim_due(request.agent, request.device)
    }

    /// What the device gets; a group that is overtaken too long claims devices first.
    fn pick_or_claim(&mut self, request: &LeaseRequest) -> Option<(Found, Group)> {
        let picked = self.pick(request.agent, request.device);
        if let (Some(_), Some(group)) = (picked.found, picked.passed)
            && self.pass_over(group)
        {
            self.keep_progress(); // which the claim was placed by
            self.claimed = true;
            return self.pick(request.agent, request.device).found;
        }
        picked.found
    }

    fn pick(&self, agent: AgentId, device: u32) -> Picked {
        let recent = self.recent.get(self.pool_of(agent, device));
        let aged_may_go = recent.is_none_or(Recent::aged_may_go);
        let aged_by = aged_may_go.then_some(self.now);
        let order = recent.map_or(Band::ALL, |recent| recent.order(&self.queue, self.now));
        let (mut group, mut passed, mut claimed) = (None, None, 0);
        let found = self.queue.find(aged_by, order, |place| {
            match self.fit(place.task, agent, device) {
                Ok(found) => {
                    group = Some(found);
                    Verdict::Take
                }
                Err(Misfit::Avoided | Misfit::Memory) => Verdict::Next,
                Err(Misfit::Capped) => Verdict::SkipAccount,
                // Shorter ones of its class may end before.
                Err(Misfit::Claimed) if claimed < BACKFILL_LOOKED_AT => {
                    claimed += 1;
                    Verdict::Next
                }
                Err(Misfit::Group) => {
                    passed = passed.or(Some(place.task));
                    Verdict::SkipClass
                }
                Err(_) => Verdict::SkipClass, // all of its class are alike in it
            }
        });
        Picked {
            found: found.zip(group),
            passed,
        }
    }

    /// The devices on which the task could start now, this free one among them.
    pub(super) fn fit(&self, task: TaskId, agent: AgentId, device: u32) -> Result<Group, Misfit> {
        let row = &self.task_at(task).row;
        let node = &self
            .agents
            .get(&agent)
            .expect("only agents that were found are asked")
            .row;
        can(node, row)?;
        let (at, room) = (node.device(device), self.room_for(row));
        match at.filter(|at| !room.holds(at)) {
            Some(at) if room.is_short_for_all(at) => return Err(Misfit::Size),
            Some(_) => return Err(Misfit::Memory),
            None => {}
        }
        if row.failed_on.contains(&agent) && self.other_node_can(row) {
            return Err(Misfit::Avoided);
        }
        if row.kind() == TaskKind::Assemble && !is_cpu(node, device) && self.gpu_work_waits(agent) {
            return Err(Misfit::CpuWork);
        }
        if self.capped(task).is_some()
            || self
                .over_capacity(task, self.pool_of(agent, device))
                .is_some()
        {
            return Err(Misfit::Capped);
        }
        if self.is_claimed_against((agent, device), task) {
            return Err(Misfit::Claimed);
        }
        match row.devices() {
            1 => Ok(Group::one(device)),
            _ => self.free_group(node, device, row).ok_or(Misfit::Group),
        }
    }

    /// As many free devices of one class as the task needs, this one among them; those kept for it come first.
    fn free_group(&self, node: &AgentRow, device: u32, task: &TaskRow) -> Option<Group> {
        let class = &node.device(device)?.class;
        let room = self.room_for(task);
        let alike = node
            .open_devices()
            .filter(|other| other.index != device && other.class == *class && room.holds(other));
        let free = alike.filter(|other| self.is_free_for((node.id, other.index), task.id));
        let mut others: Vec<u32> = free.map(|other| other.index).collect();
        others.sort_by_key(|other| !self.handovers.contains_key(&(node.id, *other)));
        others.truncate(task.devices() as usize - 1);
        others.push(device);
        Group::of(others).filter(|group| group.count() == task.devices())
    }

    /// Nothing runs on the device, and it is kept or claimed for nothing else.
    pub(super) fn is_free_for(&self, at: (AgentId, u32), task: TaskId) -> bool {
        let kept = self
            .handovers
            .get(&at)
            .filter(|kept| kept.until_ms > self.now);
        !self.busy.contains_key(&at)
            && kept.is_none_or(|kept| kept.task == task)
            && !self.is_claimed_against(at, task)
    }

    fn other_node_can(&self, row: &TaskRow) -> bool {
        self.agents
            .values()
            .any(|agent| !row.failed_on.contains(&agent.row.id) && self.takes(&agent.row, row))
    }

    /// Whether enough of the node's open devices could take the task.
    pub(super) fn takes(&self, node: &AgentRow, task: &TaskRow) -> bool {
        let room = self.room_for(task);
        let mut roomy = node.open_devices().filter(|device| room.holds(device));
        can(node, task).is_ok()
            && match task.devices() {
                1 => roomy.next().is_some(),
                devices => largest_class(roomy.map(|device| &*device.class)) >= devices,
            }
    }

    /// GPU work waits that this agent could do, and a CPU elsewhere can do the CPU work.
    fn gpu_work_waits(&self, agent: AgentId) -> bool {
        !self.cpu_nodes.is_empty()
            && self.queue.classes().any(|class| match class {
                Class::Render {
                    weights,
                    devices,
                    size,
                } => {
                    let node = &self.agents[&agent].row;
                    let room = self.needs.find(weights, *size, *devices);
                    node.weights.iter().any(|w| w.name == *weights)
                        && node.devices.iter().any(|device| room.holds(device))
                }
                Class::Assemble => false,
            })
    }

    /// Keeps the set of nodes whose CPU takes CPU work as the rows have it.
    pub(super) fn index_cpu(&mut self, agent: AgentId) {
        let row = &self.agents[&agent].row;
        let cpu = row.open_devices().any(|d| is_cpu_class(&d.class));
        match row.ffmpeg.is_some() && cpu {
            true => self.cpu_nodes.insert(agent),
            false => self.cpu_nodes.remove(&agent),
        };
    }

    fn grant(&mut self, id: TaskId, request: &LeaseRequest, group: Group) -> LeaseReply {
        let holder = Holder {
            agent: request.agent,
            boot: request.boot,
            device: request.device,
            group,
            poll_id: request.poll_id,
            granted_at_ms: self.now,
        };
        self.handovers.retain(|_, kept| kept.task != id);
        self.claims.placed.remove(&id);
        self.claims.passed.remove(&id);
        let (step, could_ms) = (self.task_at(id).resume_step(), self.could_run_ms(id));
        let band = self.job_at(self.task_at(id).row.job).row.band;
        self.observed.push(Observed::Waited(band, could_ms));
        self.change_task(id, |row| {
            row.attempt += 1;
            row.step = step;
            row.state = TaskState::Leased(holder);
        });
        let (now, expires_at_ms) = (self.now, self.now + self.limits.start_ttl_ms);
        let task = self.task_at_mut(id);
        let mut live = LiveLease::new(expires_at_ms, now);
        (live.first_step, live.step, live.steps) = (task.row.step, task.row.step, task.row.steps);
        task.live = Some(live);
        let (job, number) = (task.row.job, task.row.attempt);
        self.timers.arm(expires_at_ms, Timer::Lease(id));
        self.charge_usage(id);
        self.writes.push(Write::InsertAttempt(AttemptRow {
            task: id,
            number,
            term: self.term,
            holder,
            ended_at_ms: None,
            outcome: None,
            message: None,
            device_us: None,
        }));
        self.begin_job(job);
        self.offer(id, holder)
    }

    /// For how long the task could have run and did not.
    fn could_run_ms(&self, id: TaskId) -> i64 {
        let since_ms = self.task_at(id).queued_ms;
        since_ms.map_or(0, |since_ms| self.now - since_ms)
    }

    fn offer(&self, id: TaskId, holder: Holder) -> LeaseReply {
        let task = self.task_at(id);
        let row = &task.row;
        let live = task.live.as_ref().expect("a leased task has its live part");
        let offer = LeaseOffer {
            lease: LeaseRef {
                task: id,
                attempt: row.attempt,
                term: self.term,
                agent: holder.agent,
                boot: holder.boot,
            },
            job: row.job,
            ttl_ms: 0,
            expires_at_ms: live.expires_at_ms,
            spec: TaskSpec::clone(&row.spec), // the dispatcher adds the words
            inputs: self.inputs(row),
            checkpoint: task.checkpoints.last().map(|c| c.at),
            devices: holder.group.into(),
        };
        LeaseReply::Offer {
            offer: Box::new(offer),
            expires_at_ms: live.expires_at_ms,
        }
    }

    /// Outputs of the tasks before, in the order of `inputs`.
    fn inputs(&self, row: &TaskRow) -> Vec<Artefact> {
        let tasks = &self.job_at(row.job).tasks;
        row.inputs
            .iter()
            .flat_map(|index| self.task_at(tasks[*index as usize]).row.output())
            .cloned()
            .collect()
    }
}

/// What the node lacks for the task, apart from time.
pub(super) fn can(node: &AgentRow, task: &TaskRow) -> Result<(), Misfit> {
    match &*task.spec {
        TaskSpec::Render(spec) if !node.weights.iter().any(|w| w.name == spec.weights) => {
            Err(Misfit::Weights)
        }
        TaskSpec::Render(spec) if spec.devices > 1 && spec.devices > node.largest_group() => {
            Err(Misfit::GroupSize)
        }
        TaskSpec::Render(_) => Ok(()),
        TaskSpec::Assemble(_) if node.ffmpeg.is_some() => Ok(()),
        TaskSpec::Assemble(_) => Err(Misfit::Ffmpeg),
    }
}

/// Devices of the class that has most of these.
fn largest_class<'a>(classes: impl Iterator<Item = &'a str>) -> u32 {
    let mut counts = BTreeMap::<&str, u32>::new();
    for class in classes {
        *counts.entry(class).or_default() += 1;
    }
    counts.into_values().max().unwrap_or(0)
}

impl AgentRow {
    /// Most devices that one task can have here.
    pub(super) fn largest_group(&self) -> u32 {
        match self.group_max {
            0 | 1 => 1,
            most => most.min(largest_class(
                self.devices.iter().map(|device| &*device.class),
            )),
        }
    }
}

pub(super) fn is_cpu_class(class: &str) -> bool {
    class.starts_with(CPU_CLASS)
}

fn is_cpu(node: &AgentRow, device: u32) -> bool {
    node.device(device)
        .is_some_and(|device| is_cpu_class(&device.class))
}
