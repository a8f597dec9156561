//! From a copy of the farm to a forecast: one run with the middle times, sixteen with drawn ones. Pure but for `stop`.

use std::{cell::RefCell, collections::BTreeMap};

use schemas::{AccountId, JobId, TaskId, task::TaskSpec};

use super::{
    Intervals,
    interval::{Interval, moment},
};
use crate::core::{
    costs::{CostKey, Costs, Service, key},
    explain::Waiting,
    forward::{Ahead, forward},
    outlook::{Outlook, Plan, Rest},
    prices::PriceBook,
    rows::{Band, JobState, NewJob},
};

/// Runs with drawn times.
const SAMPLED_RUNS: u64 = 16;
/// The middle, in thousandths.
const MIDDLE: u32 = 500;

/// What is known of a job or a place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreseen {
    /// The job was in the copy.
    Job(Interval),
    /// It was not; it would begin then.
    Start(i64),
}

/// When each job begins and ends, as seen at one moment.
#[derive(Clone, Debug, Default)]
pub struct Forecast {
    /// Unix milliseconds; 0 before the first.
    pub made_at_ms: i64,
    pub jobs: Intervals,
    /// Probes in their order: when, and why not at once.
    pub probes: Vec<(Interval, Option<Waiting>)>,
    /// Jobs that wait, those that were not copied included.
    pub waiting: u64,
    /// Starts of each account's shots, by band.
    lines: BTreeMap<(AccountId, Band), Vec<i64>>,
    /// When a shot of an account without any would start, by band.
    next: [Option<i64>; 3],
    costs: Costs,
}

impl Forecast {
    /// The job itself, or the place behind `ahead` shots of its account.
    pub fn foresee(
        &self,
        job: JobId,
        account: AccountId,
        band: Band,
        ahead: u64,
    ) -> Option<Foreseen> {
        if let Some(interval) = self.jobs.get(&job) {
            return Some(Foreseen::Job(*interval));
        }
        let start = match self.lines.get(&(account, band)) {
            Some(line) if ahead > 0 => behind(line, ahead),
            _ => self.next[band as usize],
        };
        start.map(Foreseen::Start)
    }

    /// How much wider than the runs say intervals of this band and class are, in thousandths.
    pub fn widening(&self, band: Band, pool: &str) -> u64 {
        self.costs.widening(band, pool)
    }
}

/// The place behind the last of a line: as far from it as they are from each other.
fn behind(line: &[i64], ahead: u64) -> Option<i64> {
    let (first, last) = (line.first()?, line.last()?);
    let gap = (last - first) / (line.len() as i64 - 1).max(1);
    let more = (ahead as i64 - line.len() as i64).max(0) + 1;
    Some(last + gap.max(1) * more)
}

/// Looks ahead. An outlook that does not fit together gives an empty forecast.
pub fn predict(outlook: &Outlook, probes: &[NewJob], stop: &dyn Fn() -> bool) -> Forecast {
    let services = Services {
        prices: &outlook.frame.prices,
        known: RefCell::default(),
    };
    let Some(middle) = run(outlook, probes, &services, None, stop) else {
        return Forecast::default();
    };
    let mut sampled = Vec::new();
    for seed in 0..SAMPLED_RUNS {
        match run(outlook, probes, &services, Some(seed), stop) {
            // One that was stopped says nothing of what it did not reach.
            Some(ahead) if !stop() => sampled.push(ahead),
            _ => break,
        }
    }
    let now = outlook.frame.now;
    let interval = |id: &JobId| {
        let of = |at: fn(&crate::core::forward::Foretold) -> Option<i64>| {
            let drawn = sampled.iter().map(|run| run.jobs.get(id).and_then(at));
            moment(middle.jobs.get(id).and_then(at), drawn.collect(), now)
        };
        Interval {
            starts: of(|job| job.starts_ms),
            ends: of(|job| job.ends_ms),
        }
    };
    let jobs = outlook.jobs.iter().map(|copy| copy.job.id);
    let waiting = outlook
        .jobs
        .iter()
        .filter(|copy| copy.job.state == JobState::Waiting);
    Forecast {
        made_at_ms: now,
        jobs: jobs.map(|id| (id, interval(&id))).collect(),
        probes: probes
            .iter()
            .zip(&middle.reasons)
            .map(|(probe, why)| (interval(&probe.id), why.clone()))
            .collect(),
        waiting: waiting.count() as u64 * 1_000_000 / outlook.share_ppm.max(1),
        lines: lines(&middle),
        next: Band::ALL.map(|band| next(&middle, band)),
        costs: outlook.frame.prices.costs.clone(),
    }
}

/// Services by kind of work and device: a run asks thousands of times for a few of them.
struct Services<'a> {
    prices: &'a PriceBook,
    known: RefCell<BTreeMap<(CostKey, [u32; 3]), Service>>,
}

impl Services<'_> {
    fn of(&self, spec: &TaskSpec, class: &str) -> Service {
        let work = match spec {
            TaskSpec::Render(shot) => [0, shot.frames, shot.steps.unwrap_or(0)],
            TaskSpec::Assemble(film) => [film.shots, film.shot_frames.iter().sum(), 0],
        };
        let mut known = self.known.borrow_mut();
        *known
            .entry((key(spec, class), work))
            .or_insert_with(|| self.prices.service(spec, class))
    }
}

fn run(
    outlook: &Outlook,
    probes: &[NewJob],
    services: &Services<'_>,
    seed: Option<u64>,
    stop: &dyn Fn() -> bool,
) -> Option<Ahead> {
    let draw = |task: TaskId| seed.map_or(MIDDLE, |seed| drawn(seed, task));
    let running = outlook.running();
    let ahead = forward(
        outlook,
        probes,
        &|task, spec, class, step| Plan::new(&services.of(spec, class), step, draw(task)),
        &|task| {
            let plan = |rest: &Rest| rest.plan(&services.of(&rest.spec, &rest.class), draw(task));
            running.get(&task).map_or_else(Plan::default, plan)
        },
        stop,
    );
    ahead
        .inspect_err(|error| tracing::debug!(%error, "a copy of the farm cannot be played"))
        .ok()
}

/// SplitMix64 of run and task: a task is as slow in one run whenever it comes.
fn drawn(seed: u64, task: TaskId) -> u32 {
    let (high, low) = task.0.as_u64_pair();
    let mut z = high ^ low.rotate_left(32) ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) % 1_000) as u32
}

fn lines(run: &Ahead) -> BTreeMap<(AccountId, Band), Vec<i64>> {
    let mut lines: BTreeMap<_, Vec<i64>> = BTreeMap::new();
    for grant in &run.grants {
        lines
            .entry((grant.account, grant.band))
            .or_default()
            .push(grant.at_ms);
    }
    lines
}

/// The first grant of work that is not more urgent would have been for it; or an idle device is.
fn next(run: &Ahead, band: Band) -> Option<i64> {
    let mut grants = run.grants.iter().filter(|grant| grant.band >= band);
    let first = grants.next().map(|grant| grant.at_ms);
    [first, run.idle_ms].into_iter().flatten().min()
}
