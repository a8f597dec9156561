//! The discrete-event loop: time jumps from one event to the next, and every decision is the core's.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use schemas::{
    AccountId, Digest, GpuMicros, JobId, TaskId,
    agent::{Directive, HeartbeatAnswer, WeightsInfo, WriteAnswer},
    task::{AssembleSpec, RenderSpec, TaskSpec},
};
use uuid::Uuid;

use super::{
    dice::Dice,
    node::{Node, Work},
    report::{FilmRecord, Recorder, Report},
    scenario::{Arrivals, Scenario},
};
use crate::core::{
    Farm,
    command::{Command, LeaseReply, Reply},
    limits::Limits,
    quota::{QuotaChange, QuotaOrder},
    rows::{AccountRow, JobState, Level, NewJob, NewTask},
    write::Write,
};

#[cfg(test)]
use crate::store::events::StoredEvent;

const HOUR_MS: f64 = 3_600_000.0;
const WEIGHTS: &str = "model";
/// Streams of chance, so that a change of one does not move the others.
const ARRIVALS: u64 = 1;
const SERVICE: u64 = 2;
const FAILURES: u64 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Submit(usize),
    /// A heartbeat of a node in this life.
    Beat {
        node: usize,
        life: u64,
    },
    /// A device is done with the work of this epoch.
    Done {
        node: usize,
        device: usize,
        epoch: u64,
    },
    /// A device reaches the step boundary at which it gives its work back.
    Yielded {
        node: usize,
        device: usize,
        epoch: u64,
    },
    Dies(usize),
    Returns(usize),
    Sample,
}

/// A film that will be submitted.
struct Film {
    at_ms: i64,
    tenant: usize,
    arrivals: Arrivals,
}

pub struct World<'a> {
    scenario: &'a Scenario,
    farm: Farm,
    limits: Limits,
    now: i64,
    end_ms: i64,
    seq: u64,
    events: BinaryHeap<Reverse<(i64, u64, Event)>>,
    nodes: Vec<Node>,
    films: Vec<Film>,
    shot_s: BTreeMap<JobId, f64>,
    service: Dice,
    failures: Dice,
    recorder: Recorder,
    wake: bool,
    #[cfg(test)]
    log: Vec<StoredEvent>,
}

#[cfg(test)]
fn logged(write: &Write) -> Option<StoredEvent> {
    match write {
        Write::InsertEvent(row) => Some(StoredEvent {
            seq: row.seq,
            at_ms: row.at_ms,
            payload: row.payload.clone(),
        }),
        _ => None,
    }
}

impl<'a> World<'a> {
    pub fn new(scenario: &'a Scenario) -> Self {
        let windows = scenario.windows.iter().map(|(name, window)| {
            let window = window.window(name, scenario.to_h);
            (name.clone(), window.expect("the scenario was checked"))
        });
        let limits = Limits {
            windows: windows.collect(),
            ..Limits::default()
        };
        let nodes: Vec<Node> = scenario
            .nodes
            .iter()
            .enumerate()
            .flat_map(|(at, group)| (0..group.count).map(move |_| (at, group)))
            .enumerate()
            .map(|(index, (at, group))| Node::new(index, at, group))
            .collect();
        let films = films(scenario);
        let devices = nodes.iter().map(|node| node.devices.len()).sum();
        let mut world = Self {
            scenario,
            farm: Farm::empty(limits.clone(), 1),
            limits,
            now: ms(scenario.from_h),
            end_ms: ms(scenario.to_h),
            seq: 0,
            events: BinaryHeap::new(),
            service: Dice::new(scenario.seed, SERVICE),
            failures: Dice::new(scenario.seed, FAILURES),
            recorder: Recorder::new(scenario, devices),
            nodes,
            films,
            shot_s: BTreeMap::new(),
            wake: false,
            #[cfg(test)]
            log: Vec::new(),
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for row in accounts(self.scenario) {
            self.apply(Command::AddAccount(row));
        }
        for (index, tenant) in self.scenario.tenants.iter().enumerate() {
            for (pool, rule) in &tenant.capacity {
                let change = QuotaChange::Capacity {
                    pool: pool.clone(),
                    limits: Some([rule.nominal, rule.borrow, rule.lend]),
                };
                let order = QuotaOrder {
                    actor: "scenario".into(),
                    account: account(index),
                    change,
                };
                self.apply(Command::OrderQuota(Box::new(order)));
            }
        }
        for node in 0..self.nodes.len() {
            self.start(node);
            self.plan_death(node);
        }
        for (index, group) in self.scenario.nodes.iter().enumerate() {
            let first = self.nodes.iter().position(|node| node.group == index);
            if let (Some(node), Some(at_h)) = (first, group.dies_at_h) {
                self.plan(ms(at_h), Event::Dies(node));
            }
        }
        for index in 0..self.films.len() {
            self.plan(self.films[index].at_ms, Event::Submit(index));
        }
        self.plan(self.now, Event::Sample);
    }

    pub fn play(mut self) -> Report {
        self.play_on();
        self.recorder
            .report(self.scenario, self.now.min(self.end_ms))
    }

    /// The log that a farm with this story would have.
    #[cfg(test)]
    pub fn log(mut self) -> Vec<StoredEvent> {
        self.play_on();
        self.log
    }

    fn play_on(&mut self) {
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            self.tick_until(at);
            if at > self.end_ms || self.recorder.is_complete() {
                break;
            }
            self.now = at;
            self.happen(event);
            self.feed();
        }
    }

    /// The core's own timers that come before the next event.
    fn tick_until(&mut self, at: i64) {
        while let Some(due) = self.farm.next_deadline().filter(|due| *due < at) {
            self.now = self.now.max(due);
            self.apply(Command::Tick);
            self.feed();
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Submit(index) => self.submit(index),
            Event::Beat { node, life } => self.beat(node, life),
            Event::Done {
                node,
                device,
                epoch,
            } => self.done(node, device, epoch),
            Event::Yielded {
                node,
                device,
                epoch,
            } => self.yielded(node, device, epoch),
            Event::Dies(node) => self.dies(node),
            Event::Returns(node) => {
                self.start(node);
                self.plan_death(node);
            }
            Event::Sample => {
                self.recorder.sample(self.now);
                self.plan(self.now + self.recorder.every_ms(), Event::Sample);
            }
        }
    }

    fn plan(&mut self, at_ms: i64, event: Event) {
        self.seq += 1;
        self.events.push(Reverse((at_ms, self.seq, event)));
    }

    fn apply(&mut self, command: Command) -> Reply {
        let outcome = self.farm.apply(command, self.now);
        #[cfg(test)]
        self.log.extend(outcome.writes.iter().filter_map(logged));
        self.wake |= outcome.wake;
        for write in &outcome.writes {
            if let Write::UpdateJob { row, .. } = write
                && row.state == JobState::Failed
            {
                self.recorder.given_up(row.id, self.now);
            }
        }
        outcome.reply
    }

    fn start(&mut self, node: usize) {
        self.stop_all(node);
        let hello = self.nodes[node].start();
        self.apply(Command::Hello(Box::new(hello)));
        self.recorder
            .devices_up(self.nodes[node].devices.len() as i64, self.now);
        self.plan_beat(node);
    }

    fn plan_beat(&mut self, node: usize) {
        let life = self.nodes[node].life;
        self.plan(
            self.now + self.limits.heartbeat_ms,
            Event::Beat { node, life },
        );
    }

    fn stop_all(&mut self, node: usize) {
        for slot in &mut self.nodes[node].devices {
            if let Some(work) = slot.stop() {
                self.recorder.stopped(work.job, work.devices, self.now);
            }
        }
    }

    fn plan_death(&mut self, node: usize) {
        if let Some(mtbf_h) = self.scenario.nodes[self.nodes[node].group].mtbf_h {
            let hours = self.failures.exponential(mtbf_h);
            self.plan(self.now + ms(hours), Event::Dies(node));
        }
    }

    /// The node falls silent; the farm learns of it when leases and heartbeats run out.
    fn dies(&mut self, node: usize) {
        if !self.nodes[node].up {
            return;
        }
        self.nodes[node].up = false;
        self.stop_all(node);
        self.recorder
            .devices_up(-(self.nodes[node].devices.len() as i64), self.now);
        let repair_h = self.scenario.nodes[self.nodes[node].group].repair_h;
        self.plan(self.now + ms(repair_h), Event::Returns(node));
        self.recorder.node_died();
    }

    fn submit(&mut self, index: usize) {
        let film = &self.films[index];
        let job = job(self.scenario, film, index);
        let id = job.id;
        self.shot_s.insert(id, film.arrivals.shot_s);
        self.recorder.submitted(FilmRecord::new(
            id,
            film.tenant,
            film.arrivals.band,
            self.now,
        ));
        self.apply(Command::Submit(Box::new(job)));
        self.wake = true;
    }

    fn beat(&mut self, node: usize, life: u64) {
        if !self.nodes[node].up || self.nodes[node].life != life {
            return;
        }
        let beat = self.nodes[node].beat(self.farm.term(), self.now);
        let reply = self.apply(Command::Heartbeat(Box::new(beat)));
        match reply {
            Reply::Beat(HeartbeatAnswer::Beat { directives, .. }) => {
                for answer in directives {
                    self.obey(node, answer.task, &answer.directive);
                }
                self.plan_beat(node);
            }
            _ => {
                self.recorder
                    .devices_up(-(self.nodes[node].devices.len() as i64), self.now);
                self.start(node);
            }
        }
    }

    fn obey(&mut self, node: usize, task: TaskId, directive: &Directive) {
        let slots = &mut self.nodes[node].devices;
        let holds = |work: &Work| work.lease.task == task;
        let Some(device) = slots
            .iter()
            .position(|slot| slot.work.as_ref().is_some_and(holds))
        else {
            return;
        };
        let slot = &mut slots[device];
        let work = slot.work.as_mut().expect("its work was just looked at");
        match directive {
            Directive::Continue { .. } => {}
            Directive::Yield { .. } if work.yields => {}
            Directive::Yield { .. } => {
                work.yields = true;
                let (at, epoch) = (work.boundary_ms(self.now), slot.epoch);
                self.plan(
                    at,
                    Event::Yielded {
                        node,
                        device,
                        epoch,
                    },
                );
            }
            Directive::Abandon { .. } => {
                let (job, devices) = (work.job, work.devices);
                slot.stop();
                self.recorder.stopped(job, devices, self.now);
                self.wake = true;
            }
        }
    }

    fn done(&mut self, node: usize, device: usize, epoch: u64) {
        let slot = &mut self.nodes[node].devices[device];
        if slot.epoch != epoch {
            return;
        }
        let work = slot.stop().expect("an epoch with an end has work");
        let report = work.succeeded(self.now);
        let ends_film = report_ends_film(&report);
        let reply = self.apply(Command::Report(Box::new(report)));
        self.recorder.stopped(work.job, work.devices, self.now);
        if ends_film && matches!(reply, Reply::Written(WriteAnswer::Accepted)) {
            self.recorder.finished(work.job, self.now);
        }
        self.wake = true;
    }

    fn yielded(&mut self, node: usize, device: usize, epoch: u64) {
        let slot = &mut self.nodes[node].devices[device];
        if slot.epoch != epoch {
            return;
        }
        let work = slot.stop().expect("an epoch with a boundary has work");
        self.apply(Command::Report(Box::new(work.released(self.now))));
        self.recorder.stopped(work.job, work.devices, self.now);
        self.recorder.yielded(work.job);
        self.wake = true;
    }

    /// Free devices ask for work, as they do by long poll, until nothing changes.
    fn feed(&mut self) {
        while std::mem::take(&mut self.wake) {
            for node in 0..self.nodes.len() {
                for device in 0..self.nodes[node].devices.len() {
                    if self.nodes[node].up && self.nodes[node].devices[device].work.is_none() {
                        self.poll(node, device);
                    }
                }
            }
        }
    }

    fn poll(&mut self, node: usize, device: usize) {
        let request = self.nodes[node].poll(device);
        let Reply::Leased(LeaseReply::Offer { offer, .. }) = self.apply(Command::Lease(request))
        else {
            return;
        };
        let (shot_s, speed) = (self.shot_s[&offer.job], self.nodes[node].speed);
        let work = Work::new(
            &offer,
            shot_s,
            speed,
            self.scenario.spread,
            &mut self.service,
            self.now,
        );
        let slot = &mut self.nodes[node].devices[device];
        slot.epoch += 1;
        let (ends_ms, epoch) = (work.ends_ms(), slot.epoch);
        self.recorder.started(work.job, work.devices, self.now);
        let saved = self.farm.saved(work.job);
        self.recorder.saved(work.job, saved);
        slot.work = Some(work);
        self.plan(
            ends_ms,
            Event::Done {
                node,
                device,
                epoch,
            },
        );
    }
}

fn report_ends_film(report: &schemas::agent::Report) -> bool {
    use schemas::{agent::Outcome, task::Variant};
    matches!(&report.outcome, Outcome::Succeeded { artefacts, .. } if artefacts.iter().any(|a| a.variant == Variant::Film))
}

fn ms(hours: f64) -> i64 {
    (hours * HOUR_MS) as i64
}

/// All films in the order in which they come.
fn films(scenario: &Scenario) -> Vec<Film> {
    let mut dice = Dice::new(scenario.seed, ARRIVALS);
    let mut films = Vec::new();
    for (tenant, row) in scenario.tenants.iter().enumerate() {
        for arrivals in &row.arrivals {
            let (at_h, until_h) = (arrivals.at_h, arrivals.until_h.unwrap_or(arrivals.at_h));
            for _ in 0..arrivals.films {
                let at_ms = ms(at_h + dice.share() * (until_h - at_h));
                let arrivals = arrivals.clone();
                films.push(Film {
                    at_ms,
                    tenant,
                    arrivals,
                });
            }
        }
    }
    films.sort_by_key(|film| film.at_ms);
    films
}

fn account(tenant: usize) -> AccountId {
    AccountId(Uuid::from_u64_pair(2, tenant as u64))
}

/// One org above all tenants.
fn accounts(scenario: &Scenario) -> Vec<AccountRow> {
    let org = AccountId(Uuid::from_u64_pair(1, 0));
    let row = |id, parent, level, name: &str| AccountRow {
        id,
        parent,
        level,
        name: name.into(),
        created_at_ms: 0,
        weight: 1,
    };
    let tenants = scenario.tenants.iter().enumerate();
    std::iter::once(row(org, None, Level::Org, "farm"))
        .chain(tenants.map(|(index, tenant)| AccountRow {
            weight: tenant.weight,
            ..row(account(index), Some(org), Level::Project, &tenant.name)
        }))
        .collect()
}

fn job(scenario: &Scenario, film: &Film, index: usize) -> NewJob {
    let id = JobId(Uuid::from_u64_pair(3, index as u64));
    let row = &film.arrivals;
    let task = |place: u32, spec, inputs, seconds: f64| NewTask {
        id: TaskId(Uuid::from_u64_pair(index as u64 + 1, u64::from(place))),
        spec,
        inputs,
        estimate: GpuMicros((seconds * 1e6) as i64),
        reads: Vec::new(),
    };
    let mut tasks: Vec<NewTask> = (0..row.shots)
        .map(|shot| {
            task(
                shot,
                TaskSpec::Render(render(shot, row, index)),
                Vec::new(),
                row.shot_s / f64::from(row.devices),
            )
        })
        .collect();
    let film_spec = AssembleSpec {
        shots: row.shots,
        width: 1280,
        height: 720,
        fps: 24,
        shot_frames: vec![121; row.shots as usize],
        before: None,
    };
    tasks.push(task(
        row.shots,
        TaskSpec::Assemble(film_spec),
        (0..row.shots).collect(),
        1.0,
    ));
    let of_group = |task: &NewTask| task.estimate.0 * i64::from(task.spec.devices());
    let expected: i64 = tasks.iter().map(of_group).sum();
    NewJob {
        id,
        project: account(film.tenant),
        request: serde_json::Value::String(scenario.name.clone()),
        seed: index as u64,
        band: row.band,
        tasks,
        hold: GpuMicros(expected * 4),
        rank: 0,
        window: row.start.clone(),
        user: None,
        not_before_ms: None,
        deadline_ms: row.deadline_h.map(ms),
        dedupe: None,
        idempotency: None,
    }
}

fn render(shot: u32, row: &Arrivals, seed: usize) -> RenderSpec {
    RenderSpec {
        shot,
        weights: WEIGHTS.into(),
        prompt: String::new(),
        negative_prompt: String::new(),
        width: 1280,
        height: 720,
        frames: 121,
        fps: 24,
        seed: seed as u64,
        steps: Some(row.steps),
        guidance_scale: None,
        first_frame: None,
        given: None,
        devices: row.devices,
    }
}

/// What the simulated agents hold.
pub fn weights() -> WeightsInfo {
    WeightsInfo {
        name: WEIGHTS.into(),
        digest: Digest::of(WEIGHTS.as_bytes()),
        title: "Simulated".into(),
        sizes: vec![(1280, 720)],
        fps: 24,
        frames_default: 121,
        frames_max: 241,
        frames_step: 8,
        steps: 40,
        vocabulary: Vec::new(),
    }
}
