//! The production core run ahead of time over a copy of its state: when each job begins and ends.
//!
//! Every decision is [`Farm::apply`]'s own. Only time is played: a granted task reports after what its plan says,
//! no job comes, and what fails is only a plan that takes longer. Agents beat only while an urgent task waits, so that it can take a device.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use schemas::{
    AccountId, AgentId, Digest, JobId, TaskId,
    agent::{
        CheckpointRef, Directive, Heartbeat, HeartbeatAnswer, LeaseProgress, LeaseRef,
        LeaseRequest, Outcome, Phase, Report,
    },
    task::{Artefact, TaskKind, TaskSpec, Variant},
};

use super::{
    Farm,
    command::{Command, LeaseReply, Reply},
    explain::Waiting,
    fold::Inconsistent,
    limits::Limits,
    outlook::{Outlook, Plan},
    rows::{AgentState, Band, JobState, NewJob, TaskState},
};

/// Leases and silences end beyond every forecast.
const FAR_MS: i64 = 100 * 365 * 86_400_000;
/// How far ahead is looked.
const HORIZON_MS: i64 = 30 * 86_400_000;
const PPM: u64 = 1_000_000;

/// What the run knows of a job at its end; absent where it was not reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Foretold {
    pub starts_ms: Option<i64>,
    pub ends_ms: Option<i64>,
}

/// One grant of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub at_ms: i64,
    pub account: AccountId,
    pub band: Band,
}

/// A run ahead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ahead {
    pub jobs: BTreeMap<JobId, Foretold>,
    /// Grants of Render tasks, in their order.
    pub grants: Vec<Grant>,
    /// Why each probe waits, once free devices have asked for work; absent when it began at once.
    pub reasons: Vec<Option<Waiting>>,
    /// When the first device has nothing to do.
    pub idle_ms: Option<i64>,
    /// Until when it was played, if it was told to stop before all was over.
    pub stopped_ms: Option<i64>,
}

/// What a task takes on a device of this class, from this step on.
pub type Serve<'a> = dyn Fn(&TaskSpec, &str, u32) -> Plan + 'a;
/// What is left of a running task.
pub type Left<'a> = dyn Fn(TaskId) -> Plan + 'a;

/// Plays the copy, with `probes` submitted at its beginning, until all jobs have ended or `stop` says so.
///
/// # Errors
/// A copy whose rows do not belong together.
pub fn forward(
    outlook: &Outlook,
    probes: &[NewJob],
    serve: &Serve<'_>,
    left: &Left<'_>,
    stop: &dyn Fn() -> bool,
) -> Result<Ahead, Inconsistent> {
    let mut run = Run::new(outlook, serve)?;
    for probe in probes {
        run.jobs.insert(probe.id, Foretold::default());
        run.apply(Command::Submit(Box::new(probe.clone())));
    }
    run.resume(left);
    run.feed();
    run.ahead.reasons = probes
        .iter()
        .map(|probe| run.farm.job_reason(probe.id))
        .collect();
    Ok(run.play(stop))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A device is done with the work of this epoch.
    Done(Device, u64),
    /// It reaches the step boundary at which it gives its work back.
    Yielded(Device, u64),
    Beat,
}

type Device = (AgentId, u32);

struct Slot {
    class: String,
    epoch: u64,
    work: Option<Work>,
}

struct Work {
    lease: LeaseRef,
    kind: TaskKind,
    job: JobId,
    began_ms: i64,
    plan: Plan,
    yields: bool,
}

struct Run<'a> {
    farm: Farm,
    serve: &'a Serve<'a>,
    now: i64,
    until: i64,
    seq: u64,
    events: BinaryHeap<Reverse<(i64, u64, Event)>>,
    slots: BTreeMap<Device, Slot>,
    jobs: BTreeMap<JobId, Foretold>,
    ahead: Ahead,
    ended: usize,
    /// Time runs this many millionths slower, because no part of a device can be left away.
    dilation_ppm: u64,
    began: i64,
    polls: u64,
    beats: bool,
    wake: bool,
}

impl<'a> Run<'a> {
    fn new(outlook: &Outlook, serve: &'a Serve<'a>) -> Result<Self, Inconsistent> {
        let frame = &outlook.frame;
        let limits = Limits {
            lease_ttl_ms: FAR_MS,
            start_ttl_ms: FAR_MS,
            heartbeat_ms: FAR_MS,
            gone_after_ms: FAR_MS,
            yield_grace_ms: FAR_MS,
            progress_write_ms: FAR_MS,
            ..frame.limits.clone()
        };
        let mut farm = Farm::fold(limits, outlook.snapshot(), frame.now)?;
        farm.know_memory(&frame.prices.costs);
        farm.preempt_from_ms = 0; // no leader has changed
        farm.claims = frame.claims.clone();
        let (slots, dilation_ppm) = slots(&farm, outlook.share_ppm);
        let jobs = outlook.jobs.iter().map(|copy| {
            let begun = copy.tasks.iter().filter_map(|task| match task.state {
                TaskState::Leased(holder) => Some(holder.granted_at_ms),
                _ => None,
            });
            let starts_ms = match copy.job.state {
                JobState::Waiting => None,
                _ => Some(begun.min().unwrap_or(frame.now)),
            };
            (
                copy.job.id,
                Foretold {
                    starts_ms,
                    ends_ms: None,
                },
            )
        });
        Ok(Self {
            jobs: jobs.collect(),
            farm,
            serve,
            now: frame.now,
            began: frame.now,
            until: frame.now + HORIZON_MS,
            seq: 0,
            events: BinaryHeap::new(),
            slots,
            ahead: Ahead::default(),
            ended: 0,
            dilation_ppm,
            polls: 0,
            beats: false,
            wake: true,
        })
    }

    /// Devices go on with what they do.
    fn resume(&mut self, left: &Left<'_>) {
        let busy: Vec<(Device, TaskId)> =
            self.farm.busy.iter().map(|(at, id)| (*at, *id)).collect();
        for (device, id) in busy {
            let row = &self.farm.task_at(id).row;
            let TaskState::Leased(holder) = row.state else {
                continue;
            };
            if holder.device != device.1 {
                continue; // the lease is its lead's
            }
            let silent = self
                .farm
                .agents
                .get(&holder.agent)
                .is_none_or(|agent| agent.row.state == AgentState::Unresponsive);
            if silent {
                continue; // nobody knows when it goes on
            }
            let work = Work {
                lease: LeaseRef {
                    task: id,
                    attempt: row.attempt,
                    term: self.farm.term,
                    agent: holder.agent,
                    boot: holder.boot,
                },
                kind: row.kind(),
                job: row.job,
                began_ms: self.now,
                plan: left(id),
                yields: false,
            };
            self.begin(device, work);
        }
    }

    fn play(mut self, stop: &dyn Fn() -> bool) -> Ahead {
        while self.ended < self.jobs.len() {
            if stop() {
                self.ahead.stopped_ms = Some(self.now);
                break;
            }
            let event = self.events.peek().map(|Reverse((at, _, _))| *at);
            let due = self.farm.next_deadline().filter(|due| *due < self.until);
            let Some(next) = [event, due].into_iter().flatten().min() else {
                break;
            };
            self.now = self.now.max(next);
            if event == Some(next) {
                let Some(Reverse((_, _, event))) = self.events.pop() else {
                    break;
                };
                self.happen(event);
            } else {
                self.apply(Command::Tick);
            }
            self.feed();
        }
        let (began, dilation) = (self.began, self.dilation_ppm);
        // A job's own time ran slower too; its wait is what it is.
        let own = |foretold: Foretold| Foretold {
            ends_ms: foretold.ends_ms.map(|ends| {
                let starts = foretold.starts_ms.unwrap_or(began).max(began);
                starts + (ends - starts) * PPM as i64 / dilation.max(1) as i64
            }),
            ..foretold
        };
        self.ahead.jobs = self
            .jobs
            .into_iter()
            .map(|(id, job)| (id, own(job)))
            .collect();
        self.ahead
    }

    fn apply(&mut self, command: Command) -> Reply {
        let outcome = self.farm.apply(command, self.now);
        self.wake |= outcome.wake;
        outcome.reply
    }

    fn plan(&mut self, at_ms: i64, event: Event) {
        self.seq += 1;
        self.events
            .push(Reverse((at_ms.max(self.now), self.seq, event)));
    }

    fn begin(&mut self, device: Device, work: Work) {
        let total = work.plan.total_ms() as i128 * i128::from(self.dilation_ppm) / i128::from(PPM);
        let at = self.now + i64::try_from(total).unwrap_or(FAR_MS).clamp(0, FAR_MS);
        if let Some(slot) = self.slots.get_mut(&device) {
            slot.epoch += 1;
            slot.work = Some(work);
            let epoch = slot.epoch;
            self.plan(at, Event::Done(device, epoch));
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Done(device, epoch) => {
                if let Some(work) = self.take(device, epoch) {
                    self.done(&work);
                }
            }
            Event::Yielded(device, epoch) => {
                if let Some(work) = self.take(device, epoch) {
                    let step = work.step(self.now);
                    let checkpoint = (step > work.plan.step).then(|| CheckpointRef {
                        step,
                        digest: Digest::of(&step.to_le_bytes()),
                    });
                    let outcome = Outcome::Released {
                        checkpoint,
                        reason: String::new(),
                        device_us: work.device_us(self.now),
                    };
                    self.report(work.lease, outcome);
                }
            }
            Event::Beat => self.beat(),
        }
    }

    fn take(&mut self, device: Device, epoch: u64) -> Option<Work> {
        let slot = self
            .slots
            .get_mut(&device)
            .filter(|slot| slot.epoch == epoch)?;
        slot.work.take()
    }

    fn done(&mut self, work: &Work) {
        let variants: &[Variant] = match work.kind {
            TaskKind::Render => &[Variant::Shot],
            TaskKind::Assemble => &[Variant::Film, Variant::Thumbnail, Variant::Spritesheet],
        };
        let file = |variant: &Variant| Artefact {
            variant: *variant,
            digest: Digest::of(&[]),
            bytes: 0,
        };
        let outcome = Outcome::Succeeded {
            artefacts: variants.iter().map(file).collect(),
            device_us: work.device_us(self.now),
            steps_run: work.plan.steps.saturating_sub(work.plan.step),
            times: Default::default(),
            memory: Default::default(),
        };
        self.report(work.lease, outcome);
        let over = self
            .farm
            .jobs
            .get(&work.job)
            .is_none_or(|job| job.row.state.is_terminal());
        if let Some(job) = self.jobs.get_mut(&work.job)
            && over
            && job.ends_ms.is_none()
        {
            job.ends_ms = Some(self.now);
            self.ended += 1;
        }
    }

    fn report(&mut self, lease: LeaseRef, outcome: Outcome) {
        self.apply(Command::Report(Box::new(Report { lease, outcome })));
        self.wake = true;
    }

    /// Free devices ask for work until nothing changes.
    fn feed(&mut self) {
        while std::mem::take(&mut self.wake) {
            let free = self.slots.iter().filter(|(_, slot)| slot.work.is_none());
            let free = free.map(|(device, _)| *device);
            let free: Vec<Device> = free.filter(|device| self.takes_work(*device)).collect();
            for device in free {
                if self.farm.queue.len() == 0 {
                    self.ahead.idle_ms = self.ahead.idle_ms.or(Some(self.now));
                    break;
                }
                self.poll(device);
            }
        }
        if self.farm.queue.has(Band::Urgent) && !self.beats {
            self.beats = true;
            self.plan(self.now, Event::Beat);
        }
    }

    /// Its agent is there, and no work of which nobody knows the end is on it.
    fn takes_work(&self, device: Device) -> bool {
        let agent = self.farm.agents.get(&device.0);
        let online = agent.is_some_and(|agent| agent.row.state == AgentState::Online);
        online && !self.farm.busy.contains_key(&device)
    }

    fn poll(&mut self, (agent, device): Device) {
        let Some(node) = self.farm.agents.get(&agent).map(|agent| &agent.row) else {
            return;
        };
        self.polls += 1;
        let request = LeaseRequest {
            agent,
            boot: node.boot,
            device,
            poll_id: u64::MAX - self.polls,
        };
        let Reply::Leased(LeaseReply::Offer { offer, .. }) = self.apply(Command::Lease(request))
        else {
            return;
        };
        let (now, kind) = (self.now, offer.spec.kind());
        let job = self.jobs.entry(offer.job).or_default();
        job.starts_ms = job.starts_ms.or(Some(now));
        let row = &self.farm.job_at(offer.job).row;
        if kind == TaskKind::Render {
            self.ahead.grants.push(Grant {
                at_ms: now,
                account: row.account(),
                band: row.band,
            });
        }
        let step = offer.checkpoint.map_or(0, |at| at.step);
        let class = &self.slots[&(agent, device)].class;
        let plan = (self.serve)(&offer.spec, class, step);
        let work = Work {
            lease: offer.lease,
            kind,
            job: offer.job,
            began_ms: now,
            plan,
            yields: false,
        };
        self.begin((agent, device), work);
    }

    /// All agents tell where they are and obey; again in a while, if an urgent task still waits.
    fn beat(&mut self) {
        self.beats = self.farm.queue.has(Band::Urgent);
        if !self.beats {
            return;
        }
        let agents: Vec<AgentId> = self.farm.agents.keys().copied().collect();
        for agent in agents {
            self.beat_of(agent);
        }
        let again = Limits::default().heartbeat_ms;
        self.plan(self.now + again, Event::Beat);
    }

    fn beat_of(&mut self, agent: AgentId) {
        let now = self.now;
        let slots = self.slots.range((agent, 0)..=(agent, u32::MAX));
        let leases: Vec<LeaseProgress> = slots
            .filter_map(|(_, slot)| slot.work.as_ref())
            .map(|work| work.progress(now))
            .collect();
        let node = &self.farm.agents[&agent].row;
        if leases.is_empty() || node.state != AgentState::Online {
            return;
        }
        let beat = Heartbeat {
            agent,
            boot: node.boot,
            term: self.farm.term,
            leases,
            devices: Vec::new(),
        };
        let Reply::Beat(HeartbeatAnswer::Beat { directives, .. }) =
            self.apply(Command::Heartbeat(Box::new(beat)))
        else {
            return;
        };
        for told in directives {
            if let Directive::Yield { .. } = told.directive {
                self.give_up(agent, told.task);
            }
        }
    }

    fn give_up(&mut self, agent: AgentId, task: TaskId) {
        let slots = self.slots.range_mut((agent, 0)..=(agent, u32::MAX));
        for (device, slot) in slots {
            let Some(work) = slot.work.as_mut().filter(|work| work.lease.task == task) else {
                continue;
            };
            if !std::mem::replace(&mut work.yields, true) {
                let (at, device, epoch) = (work.boundary_ms(self.now), *device, slot.epoch);
                self.plan(at, Event::Yielded(device, epoch));
            }
            return;
        }
    }
}

impl Work {
    fn step(&self, now: i64) -> u32 {
        let run = (now - self.began_ms - self.plan.before_ms).max(0) / self.plan.step_ms.max(1);
        let run = u32::try_from(run).unwrap_or(u32::MAX);
        self.plan.step.saturating_add(run).min(self.plan.steps)
    }

    fn boundary_ms(&self, now: i64) -> i64 {
        let done = i64::from(self.step(now) - self.plan.step + 1);
        (self.began_ms + self.plan.before_ms + done * self.plan.step_ms).max(now + 1)
    }

    fn device_us(&self, now: i64) -> u64 {
        (now - self.began_ms).max(0).unsigned_abs() * 1_000
    }

    fn progress(&self, now: i64) -> LeaseProgress {
        let step = self.step(now);
        let phase = match self.kind {
            TaskKind::Assemble => Phase::Mux,
            TaskKind::Render if now < self.began_ms + self.plan.before_ms => Phase::Encode,
            TaskKind::Render if step < self.plan.steps => Phase::Denoise,
            TaskKind::Render => Phase::Decode,
        };
        LeaseProgress {
            lease: self.lease,
            phase,
            step,
            steps: self.plan.steps,
            step_ms: u32::try_from(self.plan.step_ms).ok(),
        }
    }
}

/// The devices that play, and how much slower time runs because they are too many for the jobs that are in the copy.
fn slots(farm: &Farm, share_ppm: u64) -> (BTreeMap<Device, Slot>, u64) {
    let mut classes: BTreeMap<String, Vec<Device>> = BTreeMap::new();
    for agent in farm.agents.values() {
        let online = agent.row.state == AgentState::Online;
        let plays = |index| online || farm.busy.contains_key(&(agent.row.id, index));
        for device in agent
            .row
            .devices
            .iter()
            .filter(|device| plays(device.index))
        {
            let of_class = classes.entry(device.class.clone()).or_default();
            of_class.push((agent.row.id, device.index));
        }
    }
    let (mut slots, mut wanted_ppm, mut kept) = (BTreeMap::new(), 0u64, 0u64);
    for (class, mut devices) in classes {
        // What runs goes on, whatever the share is.
        devices.sort_by_key(|device| !farm.busy.contains_key(device));
        let busy = devices
            .iter()
            .filter(|device| farm.busy.contains_key(device));
        let wanted = devices.len() as u64 * share_ppm.min(PPM);
        let keep = wanted.div_ceil(PPM).max(busy.count() as u64).max(1);
        (wanted_ppm, kept) = (wanted_ppm + wanted, kept + keep);
        for device in devices.into_iter().take(keep as usize) {
            slots.insert(
                device,
                Slot {
                    class: class.clone(),
                    epoch: 0,
                    work: None,
                },
            );
        }
    }
    let dilation = (kept * PPM * PPM).checked_div(wanted_ppm);
    (slots, dilation.unwrap_or(PPM).max(PPM))
}
