//! The core alone: decisions at each depth of the queue, the memory of a waiting job, preemption, a night.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jiff::{civil, tz::TimeZone};
use schemas::{
    AccountId, Digest,
    agent::{CheckpointRef, Directive, HeartbeatAnswer, LeaseOffer, Outcome, Report},
    task::TaskKind,
};

use super::{
    Plan, Row,
    population::{accounts, beat, hello, job, poll, success},
    sample::{Sample, resident_bytes},
};
use crate::core::{
    Farm,
    command::{Command, LeaseReply, Reply},
    limits::Limits,
    quota::{QuotaChange, QuotaOrder},
    rows::Band,
    windows::{AtEnd, EVERY_DAY, Window},
};

/// Everything about the core; resident memory is only told where the system tells it.
pub fn measure(plan: &Plan) -> Vec<Row> {
    let mut bench = Bench::new(plan, MORNING_MS);
    let mut rows = Vec::new();
    for depth in &plan.waiting {
        rows.extend(bench.fill(*depth));
        rows.extend(bench.decide(*depth));
    }
    // Beside the first: what that had taken would be taken again, and not be seen to grow.
    rows.extend(night(plan));
    rows.push(bench.copy());
    drop(bench);
    rows.push(preempt(plan));
    rows
}

/// Ten at night to six in the morning, UTC.
fn overnight() -> Window {
    Window {
        zone: TimeZone::UTC,
        weekdays: EVERY_DAY.to_vec(),
        start: civil::time(22, 0, 0, 0),
        end: civil::time(6, 0, 0, 0),
        at_end: AtEnd::Finish,
        fit: false,
        prices: None,
    }
}

/// When others begin, and the evening before the night: the films come within two minutes.
const MORNING_MS: i64 = 1_000;
const EVENING_MS: i64 = OPENS_MS - 180_000;
/// Ten at night, and eight the next morning, of the first day.
const OPENS_MS: i64 = 22 * 3_600_000;
const DEADLINE_MS: i64 = 32 * 3_600_000;

/// A farm with rules of capacity, and its night: a batch that comes in the evening, the opening of its
/// window, and decisions after that.
fn night(plan: &Plan) -> Vec<Row> {
    let mut bench = Bench::new(plan, EVENING_MS);
    bench.share_out();
    bench.occupy(FREE_NODES.min(plan.nodes / 2));
    bench.at_night = true;
    let depth = plan.waiting.iter().copied().max().unwrap_or(0);
    let mut rows = bench.fill(depth);
    while bench.now + 5_000 < OPENS_MS {
        bench.now += 5_000;
        bench.stay_alive();
    }
    bench.now = OPENS_MS;
    let began = Instant::now();
    bench.apply(Command::Tick);
    let name = format!("opening of the night, {depth} waiting");
    let took_ms = began.elapsed().as_secs_f64() * 1e3;
    rows.push(Row::new(name, took_ms, "ms", bench.conditions()));
    rows.extend(bench.decide(depth));
    rows
}

/// Nodes that stay free while the others work, of all.
const FREE_NODES: u64 = 10;

struct Bench<'a> {
    plan: &'a Plan,
    farm: Farm,
    now: i64,
    /// Jobs submitted, polls sent.
    jobs: u64,
    polls: u64,
    waiting: u64,
    /// What the busy nodes work at, by node.
    running: Vec<Vec<LeaseOffer>>,
    heard_ms: i64,
    /// Films are for the night.
    at_night: bool,
}

impl<'a> Bench<'a> {
    fn new(plan: &'a Plan, now: i64) -> Self {
        let windows = BTreeMap::from([("overnight".to_owned(), overnight())]);
        let limits = Limits {
            windows,
            ..Limits::default()
        };
        let mut bench = Self {
            plan,
            farm: Farm::empty(limits, 1),
            now,
            jobs: 0,
            polls: 0,
            waiting: 0,
            running: Vec::new(),
            heard_ms: now,
            at_night: false,
        };
        for row in accounts(plan) {
            bench.apply(Command::AddAccount(row));
        }
        for node in 0..plan.nodes {
            bench.apply(Command::Hello(Box::new(hello(plan, node))));
        }
        bench
    }

    fn apply(&mut self, command: Command) -> Reply {
        self.farm.apply(command, self.now).reply
    }

    /// Every org has its part of the devices, and lends and borrows what is idle.
    fn share_out(&mut self) {
        let orgs: Vec<AccountId> = accounts(self.plan)
            .into_iter()
            .filter(|row| row.parent.is_none())
            .map(|row| row.id)
            .collect();
        let devices = self.plan.nodes as u32 * self.plan.devices_a_node;
        let pool = hello(self.plan, 0).devices[0].class.clone();
        for account in &orgs {
            let order = QuotaOrder {
                actor: "bench".into(),
                account: *account,
                change: QuotaChange::Capacity {
                    pool: pool.clone(),
                    limits: Some([devices / orgs.len() as u32, devices, devices]),
                },
            };
            self.apply(Command::OrderQuota(Box::new(order)));
        }
    }

    /// Gives work to all nodes but the first `free` ones.
    fn occupy(&mut self, free: u64) {
        let devices = u64::from(self.plan.devices_a_node);
        self.running = vec![Vec::new(); self.plan.nodes as usize];
        for device in free * devices..self.plan.nodes * devices {
            let command = self.submit(Band::Standard);
            self.apply(command);
            let offer = self.lease(device);
            self.running[(device / devices) as usize].push(*offer);
        }
    }

    /// The device with this number asks for work.
    fn lease(&mut self, device: u64) -> Box<LeaseOffer> {
        let mut request = poll(self.plan, device);
        self.polls += 1;
        request.poll_id = self.polls;
        offered(self.apply(Command::Lease(request)))
    }

    /// Submits until so many jobs wait: what one takes in time and in memory.
    fn fill(&mut self, depth: u64) -> Vec<Row> {
        let (count, before) = (depth - self.waiting, resident_bytes());
        let mut sample = Sample::default();
        for _ in 0..count {
            let command = self.submit(Band::Standard);
            self.stay_alive();
            let began = Instant::now();
            self.apply(command);
            sample.add(began.elapsed());
        }
        self.waiting = depth;
        let told = self.conditions();
        let kind = if self.at_night { "for the night, " } else { "" };
        let name = format!("submit in the core, {kind}{depth} waiting");
        let mut rows = vec![Row::new(name, sample.mean_ns() / 1e3, "us", told.clone())];
        let grown = before.zip(resident_bytes());
        if let Some((before, after)) = grown.filter(|(before, after)| after > before) {
            let bytes = (after - before) as f64 / count as f64;
            let kind = if self.at_night {
                "job for the night"
            } else {
                "job"
            };
            let name = format!("memory of a waiting {kind}, {depth} waiting");
            let told = format!("{told}; growth of resident memory by {count} jobs");
            rows.push(Row::new(name, bytes, "B", told));
        }
        rows
    }

    fn submit(&mut self, band: Band) -> Command {
        self.jobs += 1;
        self.now += i64::from(self.jobs.is_multiple_of(10));
        let mut job = job(self.plan, self.jobs, band);
        if self.at_night {
            job.window = Some("overnight".into());
            job.deadline_ms = Some(DEADLINE_MS);
        }
        Command::Submit(Box::new(job))
    }

    fn conditions(&self) -> String {
        let plan = self.plan;
        format!(
            "{} devices on {} nodes, {} projects in {} orgs, 1 shot a job",
            plan.nodes * u64::from(plan.devices_a_node),
            plan.nodes,
            plan.accounts,
            plan.orgs
        )
    }

    /// A free device asks, works and ends; a new job takes the place of one whose film is done.
    fn decide(&mut self, depth: u64) -> Vec<Row> {
        let free = FREE_NODES.min(self.plan.nodes / 2);
        if self.running.is_empty() {
            self.occupy(free);
        }
        let devices = free * u64::from(self.plan.devices_a_node);
        let mut sample = Sample::default();
        for n in 0..self.plan.decisions as u64 {
            let mut request = poll(self.plan, n % devices);
            self.polls += 1;
            request.poll_id = self.polls;
            self.stay_alive();
            let began = Instant::now();
            let reply = self.apply(Command::Lease(request));
            sample.add(began.elapsed());
            let offer = offered(reply);
            self.apply(Command::Report(Box::new(success(&offer))));
            if offer.spec.kind() == TaskKind::Assemble {
                let command = self.submit(Band::Standard);
                self.apply(command);
            }
        }
        let told = format!("{}; all but {devices} at work", self.conditions());
        [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)]
            .into_iter()
            .map(|(name, share)| {
                let kind = if self.at_night { "at night, " } else { "" };
                let name = format!("decision {name}, {kind}{depth} waiting");
                Row::new(name, sample.quantile_ns(share) / 1e3, "us", told.clone())
            })
            .collect()
    }

    /// Nodes that are not heard of for long would be given up.
    fn stay_alive(&mut self) {
        if self.now - self.heard_ms < 5_000 {
            return;
        }
        self.heard_ms = self.now;
        for node in 0..self.plan.nodes {
            let offers = self.running.get(node as usize);
            let beat = beat(node, offers.map_or(&[], Vec::as_slice), 5);
            self.apply(Command::Heartbeat(Box::new(beat)));
        }
    }

    /// What a forecast takes to copy the farm.
    fn copy(&self) -> Row {
        let began = Instant::now();
        let copy = self.farm.clone();
        let took = began.elapsed();
        drop(copy);
        let name = format!("copy of the farm, {} waiting", self.waiting);
        Row::new(name, took.as_secs_f64() * 1e3, "ms", self.conditions())
    }

    /// Applies one command that belongs to a preemption.
    fn step(&mut self, command: Command, took: &mut Duration) -> Reply {
        let began = Instant::now();
        let reply = self.apply(command);
        *took += began.elapsed();
        reply
    }
}

fn offered(reply: Reply) -> Box<LeaseOffer> {
    match reply {
        Reply::Leased(LeaseReply::Offer { offer, .. }) => offer,
        other => panic!("a job waits and a device is free, but: {other:?}"),
    }
}

/// An urgent film comes to a farm that is wholly at work: all that the core does until the film has
/// a device. The victim's step and the way of its checkpoint come on top.
fn preempt(plan: &Plan) -> Row {
    let mut bench = Bench::new(plan, MORNING_MS);
    bench.occupy(0);
    // Longer than work is left alone, and not so long without a step that it has stalled.
    for _ in 0..13 {
        bench.now += 5_000;
        bench.stay_alive();
    }
    let mut took = Duration::ZERO;
    let urgent = bench.submit(Band::Urgent);
    bench.step(urgent, &mut took);
    let (victim, device) = yielding(&mut bench, &mut took);
    let outcome = Outcome::Released {
        checkpoint: Some(CheckpointRef {
            step: STEP,
            digest: Digest::of(b"latents"),
        }),
        reason: "an urgent task".into(),
        device_us: 24_000_000,
    };
    let lease = victim.lease;
    bench.step(
        Command::Report(Box::new(Report { lease, outcome })),
        &mut took,
    );
    let mut request = poll(plan, device);
    request.poll_id = bench.polls + 1;
    let offer = offered(bench.step(Command::Lease(request), &mut took));
    assert_ne!(offer.job, victim.job, "the urgent film has the device");
    let name = "preempt to the first step of the urgent film";
    let told = format!("{}; core time of 4 commands", bench.conditions());
    Row::new(name, took.as_secs_f64() * 1e6, "us", told)
}

/// Where the victim stops.
const STEP: u32 = 6;

/// The heartbeat that is answered with `Yield`, and whose it was.
fn yielding(bench: &mut Bench, took: &mut Duration) -> (LeaseOffer, u64) {
    for (node, offers) in bench.running.clone().into_iter().enumerate() {
        let began = Instant::now();
        let beat = beat(node as u64, &offers, STEP);
        let answer = bench.apply(Command::Heartbeat(Box::new(beat)));
        let Reply::Beat(HeartbeatAnswer::Beat { directives, .. }) = answer else {
            panic!("a node of the farm is answered, not with {answer:?}");
        };
        let mut told = directives.iter();
        if let Some(at) = told.position(|d| matches!(d.directive, Directive::Yield { .. })) {
            *took += began.elapsed();
            let device = node as u64 * u64::from(bench.plan.devices_a_node) + at as u64;
            return (offers[at].clone(), device);
        }
    }
    panic!("an urgent film makes one node give a device back");
}
