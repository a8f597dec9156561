//! Seeded simulation: random commands, lost and repeated messages, crashes, torn commits, broken devices,
//! lying agents, operators.
//!
//! Whatever happens, the invariants of the model hold after every step; and when the faults stop,
//! every job ends. A failure prints its seed; add it to `KEPT` when it is fixed.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{civil, tz::TimeZone};
use schemas::{
    BootId, Digest, GpuMicros, JobId,
    agent::{
        AgentOrder, CheckpointRef, CheckpointReport, Device, DeviceSample, Directive, FailureClass,
        Heartbeat, HeartbeatAnswer, Hello, LeaseProgress, LeaseRef, LeaseRequest, MemoryTold,
        Outcome as Ending, Phase, ProbeOutcome, ProbeReport, Report, Times, WriteAnswer,
    },
    task::{Artefact, TaskKind, Variant},
};
use uuid::Uuid;

use super::{
    Farm,
    agent::agent_id,
    budget::{AtLimit, BudgetRule, Period},
    command::{Command, LeaseReply, Reply},
    limits::{CLAIMS_MAX, Limits, PREEMPT_LOOKED_AT},
    model::{FOREIGN, Model, PROJECT, SECOND, accounts, job, weights, widen},
    nodes::{NodeChange, NodeOrder},
    quota::{LimitsChange, QuotaChange, QuotaOrder},
    rows::{AgentState, Band, Dedupe, JobError, NewJob},
    users::User,
    windows::{AtEnd, EVERY_DAY, Window},
    write::Write,
};

/// Seeds that once found a fault.
const KEPT: &[u64] = &[61];
/// Seeds of one run of the tests; `DAILIES_SIMULATION_SEEDS` asks for more. A seed injects over a hundred faults.
const SEEDS: u64 = 100;
const STEPS: u32 = 300;
/// Names, how many devices each has, and the memory of each of these.
const NODES: [(&str, u32, u64); 3] = [("a", 4, 8), ("b", 2, 16), ("c", 1, 32)];
const STEPS_OF_A_SHOT: u32 = 8;
/// Where one seed of so many, this one of them, has owners who hold films back.
const PAUSES: (u64, u64) = (4, 3);
/// Where one seed of so many, this one of them, submits a batch in the place of its eighth job.
const BATCHES: (u64, u64) = (8, 3);

const WINDOW: &str = "mostly";

/// Open but for ten minutes after ten past midnight; what runs then stops.
fn window() -> Window {
    Window {
        zone: TimeZone::UTC,
        weekdays: EVERY_DAY.to_vec(),
        start: civil::time(0, 20, 0, 0),
        end: civil::time(0, 10, 0, 0),
        at_end: AtEnd::Yield,
        fit: false,
        prices: None,
    }
}

/// SplitMix64: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.roll() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

struct Node {
    name: &'static str,
    boot: u128,
    poll_id: u64,
    devices: u32,
    memory_bytes: u64,
    /// By the device that asked for it.
    work: BTreeMap<u32, Work>,
}

#[derive(Clone)]
struct Work {
    lease: LeaseRef,
    kind: TaskKind,
    step: u32,
}

struct Simulation {
    dice: Dice,
    limits: Limits,
    farm: Farm,
    model: Model,
    now: i64,
    nodes: Vec<Node>,
    jobs: u128,
    /// Every lease that was ever granted, for late messages.
    past: Vec<Work>,
    commits: Vec<(i64, Vec<Write>)>,
    /// Torn commits, crashes, kills, drains, clock jumps, late messages.
    faults: u64,
    preemptions: u64,
    /// Grants of groups.
    wide: u64,
    /// Steps at which a claim stood.
    claims: u64,
    has_batch: bool,
    /// Its own dice, so that seeds without owners who hold films back play as they always did.
    pauses: Option<Dice>,
    /// Times that a film was held back.
    paused: u64,
    /// Steps at which jobs were packed.
    packed: u64,
    /// Submits without the quota for them.
    over_quota: u64,
    /// Probes that devices were asked for.
    probes: u64,
}

/// All commits of a run and the farm at its end, for other stores to compare with.
pub(crate) struct History {
    pub commits: Vec<(i64, Vec<Write>)>,
    pub farm: Farm,
    pub limits: Limits,
    pub now: i64,
}

/// A run with this seed that stops in the middle of things.
pub(crate) fn history(seed: u64) -> History {
    let mut simulation = Simulation::new(seed);
    for at in 0..simulation.nodes.len() {
        simulation.hello(at, false);
    }
    for _ in 0..STEPS {
        simulation.step();
    }
    simulation.apply(Command::Tick, false);
    History {
        commits: simulation.commits,
        farm: simulation.farm,
        limits: simulation.limits,
        now: simulation.now,
    }
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let limits = Limits {
            preempt_min_run_ms: 0,
            preempt_min_steps: 0,
            preempt_gain_ms: 0,
            claim_after_ms: 5_000,
            windows: BTreeMap::from([(WINDOW.into(), window())]),
            ..Limits::default()
        };
        let mut model = Model {
            term: 1,
            ..Model::default()
        };
        let mut farm = Farm::empty(limits.clone(), 1);
        let mut commits = Vec::new();
        for row in accounts() {
            let outcome = farm.apply(Command::AddAccount(row), 0);
            model.commit(farm.seq(), &outcome.writes);
            commits.push((farm.seq(), outcome.writes));
        }
        let node = |(name, devices, memory_bytes)| Node {
            name,
            boot: 1,
            poll_id: 0,
            devices,
            memory_bytes,
            work: BTreeMap::new(),
        };
        Self {
            dice: Dice(seed),
            limits,
            farm,
            model,
            now: 1_000,
            nodes: NODES[..1 + seed as usize % NODES.len()]
                .iter()
                .map(|known| node(*known))
                .collect(),
            jobs: 0,
            past: Vec::new(),
            commits,
            faults: 0,
            preemptions: 0,
            wide: 0,
            claims: 0,
            has_batch: seed % BATCHES.0 == BATCHES.1,
            pauses: (seed % PAUSES.0 == PAUSES.1).then_some(Dice(!seed)),
            paused: 0,
            packed: 0,
            over_quota: 0,
            probes: 0,
        }
    }

    /// One command; `None` when the commit was torn and the farm fell back to the database.
    fn apply(&mut self, command: Command, torn: bool) -> Option<Reply> {
        let fenced = self.is_fenced(&command);
        let outcome = self.farm.apply(command, self.now);
        if torn {
            self.faults += 1;
            self.farm = self.model.fold(&self.limits, self.now);
            return None;
        }
        self.check_claims();
        let before = fenced.then(|| self.model.tasks.clone());
        self.model.commit(self.farm.seq(), &outcome.writes);
        if !outcome.writes.is_empty() {
            self.model.check(&self.farm, &self.limits, self.now);
        }
        if let (Some(before), Reply::Written(WriteAnswer::Accepted)) = (before, &outcome.reply) {
            panic!("a fenced write was accepted: {before:?}");
        }
        self.commits.push((self.farm.seq(), outcome.writes));
        Some(outcome.reply)
    }

    /// No device is claimed twice.
    fn check_claims(&mut self) {
        let claims: Vec<_> = self.farm.claims.placed.values().collect();
        let mut devices = BTreeSet::new();
        for claim in &claims {
            for device in claim.group.devices() {
                assert!(devices.insert((claim.agent, *device)), "claimed twice");
            }
        }
        assert!(claims.len() <= CLAIMS_MAX, "too many claims");
        self.claims += claims.len() as u64;
        self.packed += u64::from(self.farm.all_packed().next().is_some());
    }

    /// Whether a write names an attempt that the database does not have as the live one.
    fn is_fenced(&self, command: &Command) -> bool {
        let lease = match command {
            Command::Checkpoint(report) => &report.lease,
            Command::Report(report) => &report.lease,
            _ => return false,
        };
        let attempt = self.model.attempts.get(&(lease.task, lease.attempt));
        !attempt.is_some_and(|a| {
            a.ended_at_ms.is_none() && (a.holder.agent, a.holder.boot) == (lease.agent, lease.boot)
        })
    }

    fn step(&mut self) {
        let torn = self.dice.one_in(20);
        let kind = self.dice.below(18);
        self.faults += u64::from((3..=7).contains(&kind) || kind >= 16);
        match kind {
            0 | 1 => self.submit(torn),
            2 => self.end_job(torn),
            3 => self.crash(),
            4 => {
                // A machine that was asleep comes back hours later.
                let longest_ms = if self.dice.one_in(4) {
                    4 * 3_600_000
                } else {
                    40_000
                };
                self.now += self.dice.below(longest_ms) as i64;
            }
            5 => self.late_message(torn),
            6 => {
                let node = self.dice.below(self.nodes.len());
                self.nodes[node].boot += 1;
                self.nodes[node].work.clear(); // killed
                self.hello(node, torn);
            }
            7 => {
                let node = self.dice.below(self.nodes.len());
                let agent = agent_id(self.nodes[node].name);
                let boot = None;
                self.apply(Command::Drain { agent, boot }, torn);
            }
            8 => self.order_quota(torn),
            15 => self.order_node(torn),
            16 => self.break_device(torn),
            17 => self.lie(torn),
            _ => {
                let node = self.dice.below(self.nodes.len());
                self.live(node, torn);
            }
        }
        self.pause_or_resume();
        if self.dice.one_in(3) {
            self.now += self.dice.below(6_000) as i64;
        }
    }

    fn submit(&mut self, torn: bool) {
        self.jobs += 1;
        let shots = 1 + self.dice.below(3) as u32;
        let mut new = job(self.jobs, shots);
        new.project = [PROJECT, PROJECT, SECOND, FOREIGN][self.dice.below(4)];
        new.band = match self.dice.below(10) {
            0 => Band::Urgent,
            1..=3 => Band::Overnight,
            _ => Band::Standard,
        };
        let devices = [1, 1, 1, 2, 4][self.dice.below(5)];
        widen(&mut new, devices);
        new.rank = self.dice.below(2) as i32;
        if new.project == PROJECT && self.dice.one_in(2) {
            let user = ["ann", "bob"][self.dice.below(2)];
            new.user = Some(User::new(PROJECT, "project", user));
        }
        new.window = self.dice.one_in(6).then(|| WINDOW.into());
        let later = |dice: &mut Dice, ms| dice.one_in(6).then(|| dice.below(ms) as i64);
        new.not_before_ms = later(&mut self.dice, 60_000).map(|ms| self.now + ms);
        new.deadline_ms = later(&mut self.dice, 900_000).map(|ms| self.now + ms);
        if self.jobs == 8 && self.has_batch {
            self.submit_twins(&new, (shots, devices));
        }
        if self.dice.one_in(3) {
            new.dedupe = Some(Dedupe {
                fingerprint: format!("f{}", self.dice.below(3)),
                retry_count: self.dice.below(2) as u32,
            });
        }
        let reply = self.apply(Command::Submit(Box::new(new)), torn);
        let refusal = format!("{reply:?}");
        self.over_quota += u64::from(refusal.contains("OverQuota"));
    }

    /// A batch of films like this one: more than a line keeps unpacked.
    fn submit_twins(&mut self, like: &NewJob, (shots, devices): (u32, u32)) {
        for _ in 0..PREEMPT_LOOKED_AT + 8 {
            self.jobs += 1;
            let fresh = job(self.jobs, shots);
            let mut twin = NewJob {
                id: fresh.id,
                tasks: fresh.tasks,
                ..like.clone()
            };
            widen(&mut twin, devices);
            self.apply(Command::Submit(Box::new(twin)), false);
        }
    }

    /// An operator grants a little, or changes limits, of any account.
    fn order_quota(&mut self, torn: bool) {
        let accounts = accounts();
        let account = accounts[self.dice.below(accounts.len())].id;
        let change = match self.dice.below(7) {
            0 => QuotaChange::Budget((!self.dice.one_in(3)).then(|| BudgetRule {
                limit: GpuMicros(10_000_000 + self.dice.below(90_000_000) as i64),
                period: [Period::Month, Period::Days(1)][self.dice.below(2)],
                zone: TimeZone::UTC,
                at_limit: [AtLimit::Complete, AtLimit::Cancel][self.dice.below(2)],
            })),
            1 | 2 => {
                let mut below = |n| self.dice.below(n) as u32;
                let limits = [below(3), below(3), below(3)];
                QuotaChange::Capacity {
                    pool: "cpu".into(),
                    limits: (!self.dice.one_in(4)).then_some(limits),
                }
            }
            3 => QuotaChange::Limits(LimitsChange {
                metered: Some(self.dice.one_in(2)),
                overdraft: Some(GpuMicros(self.dice.below(9_000_000) as i64)),
                jobs_max: Some(Some(1 + self.dice.below(4) as u32)),
                devices_max: Some(Some(1 + self.dice.below(3) as u32)),
                weight: Some(1 + self.dice.below(3) as u32),
                lend: Some(GpuMicros(self.dice.below(90_000_000) as i64)),
                borrow: Some(GpuMicros(self.dice.below(90_000_000) as i64)),
            }),
            _ => QuotaChange::Grant {
                name: format!("g{}", self.dice.below(40)),
                amount: GpuMicros(50_000_000),
                expires_at_ms: (self.dice.one_in(2))
                    .then(|| self.now + 1 + self.dice.below(600_000) as i64),
            },
        };
        let actor = "operator".into();
        let order = QuotaOrder {
            actor,
            account,
            change,
        };
        self.apply(Command::OrderQuota(Box::new(order)), torn);
    }

    /// An operator takes a node out of work or brings it back.
    fn order_node(&mut self, torn: bool) {
        let why = "test".to_string();
        let device = [None, Some(0), Some(1), Some(9)][self.dice.below(4)];
        let change = match self.dice.below(6) {
            0 => NodeChange::Cordon { why },
            1 => NodeChange::Quarantine { device, why },
            2 | 3 => NodeChange::Release { device },
            _ => NodeChange::Uncordon,
        };
        let node = self.nodes[self.dice.below(self.nodes.len())].name;
        self.apply(node_order(node, change), torn);
    }

    /// The hardware of a node says that it is broken.
    fn break_device(&mut self, torn: bool) {
        let at = self.dice.below(self.nodes.len());
        let sample = DeviceSample {
            index: [0, 0, 1, 9][self.dice.below(4)],
            xids: vec![[13, 31, 79, 94][self.dice.below(4)]],
            ecc_uncorrected: Some(self.dice.below(3) as u64),
            ..DeviceSample::default()
        };
        let leases = self.nodes[at].work.values().map(progress).collect();
        self.tell(at, leases, vec![sample], torn);
    }

    /// An agent names leases of others, says that a probe passed which nobody asked for, or succeeds with nothing.
    fn lie(&mut self, torn: bool) {
        let at = self.dice.below(self.nodes.len());
        let all = self.nodes.iter().flat_map(|node| node.work.values());
        let stolen: Vec<Work> = all.cloned().collect();
        match self.dice.below(3) {
            0 => {
                let mut leases: Vec<LeaseProgress> = stolen.iter().map(progress).collect();
                for stolen in &mut leases {
                    stolen.lease.agent = agent_id(self.nodes[at].name);
                }
                self.tell(at, leases, vec![], torn);
            }
            1 => self.report_probe((at, 0), b"made up", torn),
            _ => {
                let Some(work) = stolen.first() else { return };
                let outcome = Ending::Succeeded {
                    artefacts: vec![],
                    device_us: u64::MAX,
                    steps_run: u32::MAX,
                    times: Times::default(),
                    memory: MemoryTold {
                        foretold_bytes: Some(u64::MAX),
                        peak_bytes: Some(u64::MAX),
                    },
                };
                let lease = LeaseRef {
                    agent: agent_id(self.nodes[at].name),
                    ..work.lease
                };
                self.apply(Command::Report(Box::new(Report { lease, outcome })), torn);
            }
        }
    }

    fn report_probe(&mut self, (at, device): (usize, u32), latents: &[u8], torn: bool) {
        let node = &self.nodes[at];
        let outcome = match latents {
            b"" => ProbeOutcome::Failed {
                message: "two runs differ".into(),
            },
            latents => ProbeOutcome::Rendered {
                digest: Digest::of(latents),
            },
        };
        let report = ProbeReport {
            agent: agent_id(node.name),
            boot: BootId(Uuid::from_u128(node.boot)),
            device,
            outcome,
        };
        self.apply(Command::Probed(report), torn);
    }

    /// A device gets work only while nothing keeps it from that.
    fn check_open(&self, at: usize, group: &[u32]) {
        let row = &self.model.agents[&agent_id(self.nodes[at].name)];
        assert_eq!(row.state, AgentState::Online);
        let out = |device| row.health.quarantined.contains_key(device);
        let kept = row.drained || row.health.cordon.is_some() || group.iter().any(out);
        assert!(!kept, "work for {row:?}");
    }

    fn end_job(&mut self, torn: bool) {
        let id = JobId(Uuid::from_u128(
            1 + self.dice.below(self.jobs as usize + 1) as u128,
        ));
        let project = self.model.jobs.get(&id).map_or(PROJECT, |job| job.project);
        let job = id;
        let command = match self.dice.one_in(2) {
            true => Command::Cancel { project, job },
            false => Command::Delete { project, job },
        };
        self.apply(command, torn);
    }

    fn pause_or_resume(&mut self) {
        let jobs = self.jobs as usize + 1;
        let Some(dice) = self.pauses.as_mut().filter(|_| jobs > 1) else {
            return;
        };
        let (acts, holds) = (dice.one_in(6), !dice.one_in(3));
        let job = JobId(Uuid::from_u128(1 + dice.below(jobs) as u128));
        let row = self.model.jobs.get(&job);
        let project = row.map_or(PROJECT, |row| row.project);
        let by = "owner".to_owned();
        let command = match holds {
            true => Command::Pause { project, job, by },
            false => Command::Resume { project, job },
        };
        if acts {
            self.paused += u64::from(holds);
            self.apply(command, false);
        }
    }

    fn crash(&mut self) {
        self.model.term += 1;
        self.farm = self.model.fold(&self.limits, self.now);
    }

    /// A message of long ago arrives again.
    fn late_message(&mut self, torn: bool) {
        if self.past.is_empty() {
            return;
        }
        let at = self.dice.below(self.past.len());
        let work = self.past[at].clone();
        let command = self.ending(&work);
        self.apply(command, torn);
    }

    fn hello(&mut self, node: usize, torn: bool) {
        let node = &self.nodes[node];
        let device = |index| Device {
            index,
            class: "cpu".into(),
            memory_bytes: node.memory_bytes,
        };
        let hello = Hello {
            name: node.name.into(),
            boot: BootId(Uuid::from_u128(node.boot)),
            version: "test".into(),
            devices: (0..node.devices).map(device).collect(),
            weights: vec![weights()],
            ffmpeg: Some("5.1".into()),
            group_max: node.devices,
        };
        self.apply(Command::Hello(Box::new(hello)), torn);
    }

    /// A node does the next thing that a healthy agent would, or now and then something worse.
    fn live(&mut self, at: usize, torn: bool) {
        let device = self.dice.below(self.nodes[at].devices as usize) as u32;
        let Some(work) = self.nodes[at].work.get(&device).cloned() else {
            return self.poll((at, device), torn);
        };
        match self.dice.below(12) {
            0..=4 => self.beat(at, torn),
            5 => {
                let command = self.checkpoint(&work);
                self.apply(command, torn);
            }
            6 => {
                let command = self.ending(&work);
                // A reply that is lost is asked for again, as an agent does.
                if self.apply(command.clone(), torn).is_none() {
                    self.apply(command, false);
                }
                self.nodes[at].work.remove(&device);
            }
            _ => {
                if let Some(work) = self.nodes[at].work.get_mut(&device) {
                    work.step = (work.step + 1).min(STEPS_OF_A_SHOT);
                }
            }
        }
    }

    fn poll(&mut self, (at, device): (usize, u32), torn: bool) {
        let node = &mut self.nodes[at];
        let fresh = !self.dice.one_in(4);
        node.poll_id += u64::from(fresh);
        let request = LeaseRequest {
            agent: agent_id(node.name),
            boot: BootId(Uuid::from_u128(node.boot)),
            device,
            poll_id: node.poll_id,
        };
        if self.commits.len().is_multiple_of(4) {
            self.check_order(request.clone());
        }
        match self.apply(Command::Lease(request), torn) {
            Some(Reply::Leased(LeaseReply::UnknownAgent)) => {
                self.nodes[at].boot += 1;
                self.hello(at, false);
            }
            Some(Reply::Leased(LeaseReply::Offer { offer, .. })) => {
                if fresh {
                    self.check_open(at, &offer.devices);
                }
                self.wide += u64::from(offer.devices.len() > 1);
                let work = Work {
                    lease: offer.lease,
                    kind: offer.spec.kind(),
                    step: offer.checkpoint.map_or(0, |c| c.step),
                };
                self.past.push(work.clone());
                self.nodes[at].work.insert(device, work);
            }
            Some(Reply::Leased(LeaseReply::Probe)) => {
                self.probes += 1;
                let latents: &[u8] = match self.dice.below(4) {
                    0 => b"",
                    1 => b"wrong",
                    _ => b"right",
                };
                self.report_probe((at, device), latents, torn);
            }
            _ => self.beat(at, false),
        }
    }

    /// A farm that packs no job gives the device the same work.
    fn check_order(&self, request: LeaseRequest) {
        let given = |mut farm: Farm| {
            let outcome = farm.apply(Command::Lease(request.clone()), self.now);
            match outcome.reply {
                Reply::Leased(LeaseReply::Offer { offer, .. }) => Some(offer.lease),
                _ => None,
            }
        };
        let mut whole = self.farm.clone();
        whole.unpack_all();
        assert_eq!(given(self.farm.clone()), given(whole));
    }

    fn tell(
        &mut self,
        at: usize,
        leases: Vec<LeaseProgress>,
        devices: Vec<DeviceSample>,
        torn: bool,
    ) -> Option<Reply> {
        let node = &self.nodes[at];
        let beat = Heartbeat {
            agent: agent_id(node.name),
            boot: BootId(Uuid::from_u128(node.boot)),
            term: 1,
            leases,
            devices,
        };
        self.apply(Command::Heartbeat(Box::new(beat)), torn)
    }

    fn beat(&mut self, at: usize, torn: bool) {
        let leases = self.nodes[at].work.values().map(progress).collect();
        let sample = DeviceSample {
            temperature_c: Some(60),
            ..DeviceSample::default()
        };
        let reply = self.tell(at, leases, vec![sample], torn);
        let Some(Reply::Beat(HeartbeatAnswer::Beat {
            directives, order, ..
        })) = reply
        else {
            if reply.is_some() {
                self.begin_anew(at);
            }
            return;
        };
        for told in directives {
            let named = |work: &&Work| work.lease.task == told.task;
            let Some(work) = self.nodes[at].work.values().find(named).cloned() else {
                continue;
            };
            match told.directive {
                Directive::Continue { .. } => continue,
                Directive::Abandon { .. } => {}
                Directive::Yield { .. } => self.give_back(&work),
            }
            let node = &mut self.nodes[at];
            node.work.retain(|_, other| other.lease != work.lease);
        }
        if order == AgentOrder::Drain {
            self.begin_anew(at);
        }
    }

    fn begin_anew(&mut self, at: usize) {
        self.nodes[at].work.clear();
        self.nodes[at].boot += 1;
        self.hello(at, false);
    }

    fn give_back(&mut self, work: &Work) {
        let checkpoint = Some(CheckpointRef {
            step: work.step,
            digest: Digest::of(&work.step.to_le_bytes()),
        });
        let (reason, device_us) = ("told to".into(), 5);
        let outcome = Ending::Released {
            checkpoint,
            reason,
            device_us,
        };
        let report = Box::new(Report {
            lease: work.lease,
            outcome,
        });
        self.apply(Command::Report(report), false);
    }

    /// What a healthy agent tells of memory, and now and then a number that no device has.
    fn memory(&mut self, work: &Work) -> MemoryTold {
        let told = |dice: &mut Dice| match dice.below(16) {
            0 => u64::MAX,
            1 => 1 << 40,
            bytes => bytes as u64,
        };
        match work.kind {
            TaskKind::Assemble => MemoryTold::default(),
            TaskKind::Render => MemoryTold {
                foretold_bytes: Some(told(&mut self.dice)),
                peak_bytes: self.dice.one_in(2).then(|| told(&mut self.dice)),
            },
        }
    }

    fn checkpoint(&mut self, work: &Work) -> Command {
        Command::Checkpoint(CheckpointReport {
            lease: work.lease,
            checkpoint: CheckpointRef {
                step: work.step,
                digest: Digest::of(&work.step.to_le_bytes()),
            },
        })
    }

    fn ending(&mut self, work: &Work) -> Command {
        let classes = [
            FailureClass::OutOfMemory,
            FailureClass::DeviceFault,
            FailureClass::Numeric,
            FailureClass::Stalled,
        ];
        let outcome = match self.dice.below(8) {
            3 if self.dice.one_in(4) => Ending::Failed {
                cause: classes[self.dice.below(classes.len())],
                message: format!("test {}", ["a", "b", "c"][self.dice.below(3)]),
                peak_bytes: Some(self.dice.below(4) as u64),
            },
            0 => Ending::Released {
                checkpoint: None,
                reason: "test".into(),
                device_us: 5,
            },
            1 => Ending::Failed {
                cause: FailureClass::Io,
                message: "test".into(),
                peak_bytes: None,
            },
            2 if self.dice.one_in(4) => Ending::Failed {
                cause: FailureClass::Internal,
                message: "test".into(),
                peak_bytes: None,
            },
            _ => success(work, self.memory(work)),
        };
        let lease = work.lease;
        Command::Report(Box::new(Report { lease, outcome }))
    }

    /// No more faults: healthy nodes and time end every job.
    fn settle(&mut self) {
        let jobs: Vec<_> = self.model.jobs.values().cloned().collect();
        for row in jobs.iter().filter(|row| row.paused.is_some()) {
            let (project, job) = (row.project, row.id);
            self.apply(Command::Resume { project, job }, false);
        }
        for account in self.model.accounts.keys().copied().collect::<Vec<_>>() {
            for change in [
                QuotaChange::Limits(LimitsChange {
                    devices_max: Some(None), // a group may need more
                    ..LimitsChange::default()
                }),
                QuotaChange::Budget(None),
                QuotaChange::Capacity {
                    pool: "cpu".into(),
                    limits: None,
                },
            ] {
                let actor = "operator".into();
                let order = QuotaOrder {
                    actor,
                    account,
                    change,
                };
                self.apply(Command::OrderQuota(Box::new(order)), false);
            }
        }
        for at in 0..self.nodes.len() {
            self.nodes[at].boot += 1;
            self.nodes[at].work.clear();
            self.hello(at, false);
            let name = self.nodes[at].name;
            self.apply(node_order(name, NodeChange::Uncordon), false);
            self.apply(
                node_order(name, NodeChange::Release { device: None }),
                false,
            );
        }
        for _ in 0..20_000 {
            if self.model.jobs.values().all(|job| job.state.is_terminal()) {
                return;
            }
            for at in 0..self.nodes.len() {
                for device in 0..self.nodes[at].devices {
                    match self.nodes[at].work.remove(&device) {
                        Some(work) => {
                            let memory = self.memory(&work);
                            let (lease, outcome) = (work.lease, success(&work, memory));
                            let report = Box::new(Report { lease, outcome });
                            self.apply(Command::Report(report), false);
                        }
                        None => self.poll((at, device), false),
                    }
                }
                self.beat(at, false);
            }
            self.now += 1_000;
        }
        panic!("jobs did not end: {:?}", self.farm.durable().tasks);
    }
}

fn node_order(node: &str, change: NodeChange) -> Command {
    Command::OrderNode(Box::new(NodeOrder {
        actor: "operator".into(),
        node: node.into(),
        change,
    }))
}

fn progress(work: &Work) -> LeaseProgress {
    LeaseProgress {
        lease: work.lease,
        phase: Phase::Denoise,
        step: work.step,
        steps: STEPS_OF_A_SHOT,
        step_ms: Some(1_000),
    }
}

fn success(work: &Work, memory: MemoryTold) -> Ending {
    let variants: &[Variant] = match work.kind {
        TaskKind::Render => &[Variant::Shot],
        TaskKind::Assemble => &[Variant::Film, Variant::Thumbnail, Variant::Spritesheet],
    };
    let artefacts = variants.iter().map(|variant| Artefact {
        variant: *variant,
        digest: Digest::of(work.lease.task.0.as_bytes()),
        bytes: 1,
    });
    Ending::Succeeded {
        artefacts: artefacts.collect(),
        device_us: 3_000_000,
        steps_run: STEPS_OF_A_SHOT,
        times: Times {
            encode_us: Some(200_000),
            steps_us: Some(2_500_000),
            decode_us: Some(300_000),
            mux_us: Some(50_000),
            upload_us: Some(u64::from(work.lease.attempt)),
            load_us: None,
        },
        memory,
    }
}

fn simulate(seed: u64) -> Simulation {
    let mut simulation = Simulation::new(seed);
    for at in 0..simulation.nodes.len() {
        simulation.hello(at, false);
    }
    for _ in 0..STEPS {
        simulation.step();
    }
    simulation.settle();
    simulation.preemptions = simulation
        .model
        .tasks
        .values()
        .map(|task| u64::from(task.preemptions))
        .sum();
    simulation
}

#[test]
fn the_invariants_hold_whatever_happens_and_every_job_ends() {
    let asked = std::env::var("DAILIES_SIMULATION_SEEDS").ok();
    let seeds = asked.map_or(SEEDS, |text| {
        text.parse().expect("DAILIES_SIMULATION_SEEDS is a number")
    });
    let (mut published, mut jobs, mut faults, mut preemptions) = (0, 0, 0, 0);
    let (mut over_quota, mut probes, mut quarantines, mut poisoned) = (0, 0, 0, 0);
    let (mut late, mut wide, mut claims, mut packed, mut paused) = (0, 0, 0, 0, 0);
    for seed in KEPT.iter().copied().chain(0..seeds) {
        let run = std::panic::catch_unwind(|| simulate(seed));
        let run = run.unwrap_or_else(|_| panic!("simulation with seed {seed} failed"));
        jobs += run.model.jobs.len();
        faults += run.faults;
        preemptions += run.preemptions;
        over_quota += run.over_quota;
        probes += run.probes;
        wide += run.wide;
        claims += run.claims;
        packed += run.packed;
        paused += run.paused;
        let told = |kind: &str| run.model.notices.iter().filter(|n| n.kind == kind).count();
        quarantines += told("quarantined");
        poisoned += told("poison");
        let events = run.model.outbox.iter();
        published += events.filter(|e| e.kind == "video.completed").count();
        let missed = |e: &JobError| e.code == "deadline_passed";
        let ended = run.model.jobs.values();
        late += ended
            .filter(|job| job.error.as_ref().is_some_and(missed))
            .count();
    }
    println!(
        "{faults} faults, {jobs} jobs, {published} films, {preemptions} preemptions, \
         {packed} steps with packed jobs"
    );
    assert!(
        faults >= 100 * seeds
            && jobs as u64 > 12 * seeds
            && published as u64 > 8 * seeds
            && preemptions > 0
            && over_quota > seeds
            && probes > 0
            && wide > seeds
            && claims > seeds
            && packed > seeds
            && paused > seeds
            && poisoned > 0
            && quarantines as u64 > seeds
            && late as u64 > seeds / 4,
        "{faults} faults, {jobs} jobs, {published} films, {preemptions} preemptions, \
         {over_quota} over quota, {probes} probes, {quarantines} quarantines, {poisoned} poisoned, {late} too late, {wide} groups, {claims} claims, {packed} steps with packed jobs, {paused} pauses"
    );
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let told = |seed| format!("{:?}", history(seed).commits);
    assert_eq!(told(11), told(11));
    assert_ne!(told(11), told(12));
}
