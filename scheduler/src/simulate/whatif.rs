//! The recorded load on another farm: more devices, other quotas, other rules.
//!
//! Submits, cancels and what happened to nodes are inputs; who gets which device is decided anew. An
//! attempt takes as long as the recorded one of the same number, then as another one of its task, then
//! as one drawn from those of its shape, always on the same class of device; then as the farm had
//! measured such work on that class.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use schemas::{
    AgentId, BootId, Digest, TaskId,
    agent::{
        CheckpointRef, Device, Directive, FailureClass, Heartbeat, HeartbeatAnswer, Hello,
        LeaseOffer, LeaseProgress, LeaseRef, LeaseRequest, Outcome, Phase, Report,
    },
    task::{Artefact, TaskKind, TaskSpec, Variant},
};
use uuid::Uuid;

use super::{dice::Dice, replay::Logged, watch::Watch};
use crate::core::{
    Farm,
    agent::agent_id,
    command::{Command, LeaseReply, Reply},
    costs::Costs,
    event::Event,
    limits::Limits,
    quota::QuotaOrder,
};

/// Stream of chance for times that were not recorded.
const SERVICE: u64 = 11;
/// Steps of work whose spec does not say how many.
const STEPS: u32 = 40;

/// What is another way than it was.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Nodes of one device each, there from the beginning of the time on.
    pub devices: Vec<(u32, String)>,
    /// Orders that an operator gives at the beginning of the time.
    pub quota: Vec<QuotaOrder>,
    /// Of the times that were not recorded.
    pub seed: u64,
}

/// Plays the log, whose farm had measured `costs`, with the change from `from_ms` on; until then the farm is as it was recorded.
///
/// # Errors
/// A text that says which change cannot be made.
pub fn play(
    (log, costs): (&[Logged], &Costs),
    limits: &Limits,
    change: &Change,
    (from_ms, to_ms): (i64, i64),
    watch: &mut Watch,
) -> Result<(), String> {
    let mut world = World::new(log, costs, limits, change.seed);
    let (before, after) = log.split_at(log.partition_point(|event| event.at_ms <= from_ms));
    for logged in before {
        world.input(logged, watch);
    }
    world.run_until(from_ms, watch);
    world.change(change, watch)?;
    for logged in after.iter().take_while(|event| event.at_ms < to_ms) {
        world.input(logged, watch);
    }
    world.run_until(to_ms, watch);
    Ok(())
}

/// How long attempts took, and how they ended if not well.
#[derive(Default)]
struct Recorded {
    attempts: BTreeMap<(TaskId, u32, String), (i64, Option<FailureClass>)>,
    tasks: BTreeMap<(TaskId, String), i64>,
    /// By kind and size of the work and class of the device, so that what is alike is drawn from.
    alike: BTreeMap<(String, String), Vec<i64>>,
}

struct Node {
    hello: Hello,
    up: bool,
    /// What each of its devices works at.
    work: BTreeMap<u32, Work>,
}

#[derive(Clone)]
struct Work {
    lease: LeaseRef,
    kind: TaskKind,
    from_ms: i64,
    end_ms: i64,
    /// Share of the task that was done before.
    done: f64,
    fails: Option<FailureClass>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Beat(AgentId),
    End(AgentId, u32, u32),
}

struct World {
    farm: Farm,
    limits: Limits,
    now: i64,
    due: BinaryHeap<Reverse<(i64, Due)>>,
    nodes: BTreeMap<AgentId, Node>,
    /// Device and node names of the log; a stopped node is dark until it is heard of again.
    recorded: Recorded,
    costs: Costs,
    /// Every node that the log knows, as it was.
    hellos: Vec<Hello>,
    done: BTreeMap<TaskId, f64>,
    dice: Dice,
    polls: u64,
}

impl World {
    fn new(log: &[Logged], costs: &Costs, limits: &Limits, seed: u64) -> Self {
        let mut farm = Farm::empty(limits.clone(), 1);
        farm.know_memory(costs);
        Self {
            farm,
            limits: limits.clone(),
            now: 0,
            due: BinaryHeap::new(),
            nodes: BTreeMap::new(),
            recorded: recorded(log),
            costs: costs.clone(),
            hellos: hellos(log),
            done: BTreeMap::new(),
            dice: Dice::new(seed, SERVICE),
            polls: 0,
        }
    }

    fn change(&mut self, change: &Change, watch: &mut Watch) -> Result<(), String> {
        for order in &change.quota {
            let command = Command::OrderQuota(Box::new(order.clone()));
            if let Reply::Ordered(Err(why)) = self.apply(command, watch) {
                return Err(why.to_string());
            }
        }
        for (count, class) in &change.devices {
            let alike = |hello: &&Hello| hello.devices.iter().any(|d| d.class == *class);
            let Some(like) = self.hellos.iter().find(alike).cloned() else {
                let classes = self.hellos.iter().flat_map(|hello| &hello.devices);
                let known: BTreeSet<&str> = classes.map(|device| device.class.as_str()).collect();
                let known: Vec<&str> = known.into_iter().collect();
                return Err(format!(
                    "the farm had no device of class '{class}'; it had {}",
                    known.join(", ")
                ));
            };
            for number in 0..*count {
                let device = like.devices.iter().find(|device| device.class == *class);
                let hello = Hello {
                    name: format!("what-if-{class}-{number}"),
                    boot: BootId(Uuid::from_u128(1)),
                    devices: device
                        .map(|device| Device {
                            index: 0,
                            ..device.clone()
                        })
                        .into_iter()
                        .collect(),
                    ..like.clone()
                };
                self.hello(hello, watch);
            }
        }
        Ok(())
    }

    fn apply(&mut self, command: Command, watch: &mut Watch) -> Reply {
        let outcome = self.farm.apply(command, self.now);
        watch.saw(self.now, &outcome.writes);
        if outcome.wake {
            self.poll_all(watch);
        }
        outcome.reply
    }

    /// What was recorded and does not depend on decisions.
    fn input(&mut self, logged: &Logged, watch: &mut Watch) {
        self.run_until(logged.at_ms, watch);
        match logged.event.clone() {
            Event::Submit { .. }
            | Event::Cancel { .. }
            | Event::Pause { .. }
            | Event::Resume { .. }
            | Event::Delete { .. }
            | Event::Account { .. }
            | Event::Quota { .. }
            | Event::Node { .. } => {
                if let Some(command) = logged.event.clone().command() {
                    self.apply(command, watch);
                }
            }
            Event::Hello { hello } => self.hello(*hello, watch),
            Event::Heartbeat { beat } => {
                if let Some(node) = self.nodes.get_mut(&beat.agent).filter(|node| !node.up) {
                    node.up = true;
                    self.later(0, Due::Beat(beat.agent));
                }
            }
            Event::Silent { agents } => {
                for node in agents {
                    if let Some(node) = self.nodes.get_mut(&node) {
                        node.up = false;
                        node.work.clear();
                    }
                }
            }
            Event::Drain { agent, boot } => {
                self.apply(Command::Drain { agent, boot }, watch);
            }
            _ => {}
        }
    }

    fn hello(&mut self, hello: Hello, watch: &mut Watch) {
        let id = agent_id(&hello.name);
        let node = Node {
            hello: hello.clone(),
            up: true,
            work: BTreeMap::new(),
        };
        // The same life again goes on with what it works at.
        let old = self.nodes.insert(id, node);
        if let Some(old) = old.filter(|old| old.hello.boot == hello.boot) {
            self.nodes.get_mut(&id).expect("just entered").work = old.work;
        } else {
            self.later(self.limits.heartbeat_ms, Due::Beat(id));
        }
        self.apply(Command::Hello(Box::new(hello)), watch);
        self.poll_all(watch);
    }

    fn later(&mut self, ms: i64, due: Due) {
        self.due.push(Reverse((self.now + ms, due)));
    }

    fn run_until(&mut self, until: i64, watch: &mut Watch) {
        while let Some(Reverse((at, due))) = self.due.peek().copied() {
            if at > until {
                break;
            }
            self.due.pop();
            self.now = self.now.max(at);
            match due {
                Due::Beat(node) => self.beat(node, watch),
                Due::End(node, device, attempt) => self.end(node, device, attempt, watch),
            }
        }
        self.now = self.now.max(until);
    }

    /// Every free device asks, node by node.
    fn poll_all(&mut self, watch: &mut Watch) {
        let free: Vec<(AgentId, u32)> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.up)
            .flat_map(|(id, node)| node.hello.devices.iter().map(|d| (*id, d.index)))
            .filter(|(id, device)| !self.nodes[id].work.contains_key(device))
            .collect();
        for (id, device) in free {
            self.polls += 1;
            let request = LeaseRequest {
                agent: id,
                boot: self.nodes[&id].hello.boot,
                device,
                poll_id: self.polls,
            };
            let outcome = self.farm.apply(Command::Lease(request), self.now);
            watch.saw(self.now, &outcome.writes);
            if let Reply::Leased(LeaseReply::Offer { offer, .. }) = outcome.reply {
                self.begin(id, device, &offer);
            }
        }
    }

    fn begin(&mut self, id: AgentId, device: u32, offer: &LeaseOffer) {
        let (task, attempt) = (offer.lease.task, offer.lease.attempt);
        let done = self.done.get(&task).copied().unwrap_or(0.0);
        let class = self
            .nodes
            .get(&id)
            .and_then(|node| class(&node.hello, device));
        let (whole_ms, fails) = self.time(task, attempt, &offer.spec, &class.unwrap_or_default());
        let left_ms = ((whole_ms as f64 * (1.0 - done)) as i64).max(1);
        let work = Work {
            lease: offer.lease,
            kind: offer.spec.kind(),
            from_ms: self.now,
            end_ms: self.now + left_ms,
            done,
            fails,
        };
        self.later(left_ms, Due::End(id, device, attempt));
        if let Some(node) = self.nodes.get_mut(&id) {
            node.work.insert(device, work);
        }
    }

    /// How long this attempt takes on a device of this class, and how it ends if not well.
    fn time(
        &mut self,
        task: TaskId,
        attempt: u32,
        spec: &TaskSpec,
        class: &str,
    ) -> (i64, Option<FailureClass>) {
        let (recorded, class) = (&self.recorded, class.to_string());
        if let Some(same) = recorded.attempts.get(&(task, attempt, class.clone())) {
            return *same;
        }
        if let Some(ms) = recorded.tasks.get(&(task, class.clone())) {
            return (*ms, None);
        }
        let share = self.dice.share();
        let alike = recorded.alike.get(&(shape(spec), class.clone()));
        let alike = alike.map_or(&[][..], Vec::as_slice);
        let drawn = (share * alike.len() as f64).ceil() as usize;
        let ms = alike.get(drawn.saturating_sub(1)).copied();
        let measured = || {
            let mut prices = self.farm.prices();
            prices.costs = self.costs.clone();
            let whole = prices.service(spec, &class).whole(0);
            (whole.at((share * 1e3) as u32) / 1_000).cast_signed()
        };
        (ms.unwrap_or_else(measured), None)
    }

    fn end(&mut self, id: AgentId, device: u32, attempt: u32, watch: &mut Watch) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        let (at, is_it) = (self.now, |work: &Work| work.lease.attempt == attempt);
        if !node
            .work
            .get(&device)
            .is_some_and(|work| is_it(work) && work.end_ms <= at)
        {
            return;
        }
        let work = node.work.remove(&device).expect("it was just looked at");
        let outcome = match work.fails {
            Some(cause) => Outcome::Failed {
                cause,
                message: "as it was recorded".into(),
                peak_bytes: None,
            },
            None => succeeded(&work, self.now),
        };
        let lease = work.lease;
        self.apply(Command::Report(Box::new(Report { lease, outcome })), watch);
        self.poll_all(watch);
    }

    fn beat(&mut self, id: AgentId, watch: &mut Watch) {
        let Some(node) = self.nodes.get(&id).filter(|node| node.up) else {
            return;
        };
        let leases = node.work.values().map(|work| work.progress(self.now));
        let beat = Heartbeat {
            agent: id,
            boot: node.hello.boot,
            term: self.farm.term(),
            leases: leases.collect(),
            devices: Vec::new(),
        };
        let reply = self.apply(Command::Heartbeat(Box::new(beat)), watch);
        self.later(self.limits.heartbeat_ms, Due::Beat(id));
        let Reply::Beat(HeartbeatAnswer::Beat { directives, .. }) = reply else {
            return;
        };
        for told in directives {
            match told.directive {
                Directive::Continue { .. } => {}
                Directive::Abandon { .. } => drop(self.stop(id, told.task)),
                Directive::Yield { reason } => self.give_back(id, told.task, reason, watch),
            }
        }
    }

    fn stop(&mut self, id: AgentId, task: TaskId) -> Option<Work> {
        let node = self.nodes.get_mut(&id)?;
        let device = node.work.iter().find(|(_, work)| work.lease.task == task);
        let device = *device?.0;
        node.work.remove(&device)
    }

    fn give_back(&mut self, id: AgentId, task: TaskId, reason: String, watch: &mut Watch) {
        let Some(work) = self.stop(id, task) else {
            return;
        };
        let told = work.progress(self.now);
        self.done.insert(task, work.share(self.now));
        let checkpoint = Some(CheckpointRef {
            step: told.step,
            digest: Digest::of(task.0.as_bytes()),
        });
        let outcome = Outcome::Released {
            checkpoint: checkpoint.filter(|at| at.step > 0),
            reason,
            device_us: ((self.now - work.from_ms) * 1_000).cast_unsigned(),
        };
        let lease = work.lease;
        self.apply(Command::Report(Box::new(Report { lease, outcome })), watch);
        self.poll_all(watch);
    }
}

impl Work {
    fn share(&self, now: i64) -> f64 {
        let ran = (now - self.from_ms) as f64 / (self.end_ms - self.from_ms).max(1) as f64;
        self.done + (1.0 - self.done) * ran.min(1.0)
    }

    fn progress(&self, now: i64) -> LeaseProgress {
        let left_ms = (self.end_ms - self.from_ms) as f64 / (1.0 - self.done).max(1e-3);
        LeaseProgress {
            lease: self.lease,
            phase: Phase::Denoise,
            step: (self.share(now) * f64::from(STEPS)) as u32,
            steps: STEPS,
            step_ms: Some((left_ms / f64::from(STEPS)) as u32),
        }
    }
}

fn succeeded(work: &Work, now: i64) -> Outcome {
    let variants: &[Variant] = match work.kind {
        TaskKind::Render => &[Variant::Shot],
        TaskKind::Assemble => &[Variant::Film, Variant::Thumbnail, Variant::Spritesheet],
    };
    let artefact = |variant: &Variant| Artefact {
        variant: *variant,
        digest: Digest::of(work.lease.task.0.as_bytes()),
        bytes: 1,
    };
    Outcome::Succeeded {
        artefacts: variants.iter().map(artefact).collect(),
        device_us: ((now - work.from_ms) * 1_000).cast_unsigned(),
        steps_run: STEPS,
        times: Default::default(),
        memory: Default::default(),
    }
}

/// Work is alike when it has the same shape: the JSON of a spec without words.
fn shape(spec: &TaskSpec) -> String {
    serde_json::to_string(spec).unwrap_or_default()
}

/// Class of a device of this node.
fn class(hello: &Hello, index: u32) -> Option<String> {
    let mut devices = hello.devices.iter();
    let device = devices.find(|device| device.index == index)?;
    Some(device.class.clone())
}

fn hellos(log: &[Logged]) -> Vec<Hello> {
    let hello = |logged: &Logged| match &logged.event {
        Event::Hello { hello } => Some(Hello::clone(hello)),
        _ => None,
    };
    log.iter().filter_map(hello).collect()
}

fn recorded(log: &[Logged]) -> Recorded {
    let (mut found, mut granted) = (Recorded::default(), BTreeMap::new());
    let mut nodes: BTreeMap<AgentId, &Hello> = BTreeMap::new();
    let mut shapes = BTreeMap::new();
    for logged in log {
        match &logged.event {
            Event::Submit { job } => {
                let shape_of = |task: &crate::core::rows::NewTask| (task.id, shape(&task.spec));
                shapes.extend(job.tasks.iter().map(shape_of));
            }
            Event::Hello { hello } => {
                nodes.insert(agent_id(&hello.name), hello);
            }
            Event::Grant {
                task,
                attempt,
                request,
            } => {
                let hello = nodes.get(&request.agent);
                let class = hello.and_then(|hello| class(hello, request.device));
                granted.insert((*task, *attempt), (logged.at_ms, class.unwrap_or_default()));
            }
            Event::Report { report } => {
                let (task, attempt) = (report.lease.task, report.lease.attempt);
                let Some((from_ms, class)) = granted.get(&(task, attempt)) else {
                    continue;
                };
                let key = (task, attempt, class.clone());
                let ms = logged.at_ms - from_ms;
                match report.outcome {
                    Outcome::Succeeded { .. } => {
                        found.attempts.insert(key, (ms, None));
                        found.tasks.insert((task, class.clone()), ms);
                        if let Some(shape) = shapes.get(&task) {
                            let alike = (String::clone(shape), class.clone());
                            found.alike.entry(alike).or_default().push(ms);
                        }
                    }
                    Outcome::Failed { cause, .. } => {
                        found.attempts.insert(key, (ms, Some(cause)));
                    }
                    Outcome::Released { .. } => {}
                }
            }
            _ => {}
        }
    }
    found
}
