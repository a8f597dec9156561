//! From a copy of the farm to a forecast: one run with the middle times, sixteen with drawn ones and drawn failures. Pure but for `stop`.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use schemas::{AccountId, JobId, task::TaskSpec};

use super::{
    Intervals,
    interval::{Interval, SAMPLED_MIN, moment},
};
use crate::core::{
    calibration::Correction,
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
    /// It was not; it begins behind those of its account, then.
    Start(i64),
    /// Its account had none; the first of them begins then.
    Next(i64),
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
    pub(crate) next: [Option<i64>; 3],
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
        match self.lines.get(&(account, band)) {
            Some(line) if ahead > 0 => behind(line, ahead).map(Foreseen::Start),
            _ => self.next[band as usize].map(Foreseen::Next),
        }
    }

    /// What the farm has learnt of forecasts of this band and class.
    pub fn correction(&self, band: Band, pool: &str) -> Correction {
        self.costs.correction(band, pool)
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
    let Some(mut middle) = run(outlook, probes, &services, None, stop) else {
        return Forecast::default();
    };
    extend(&mut middle, outlook, probes);
    let mut sampled = Vec::new();
    for seed in 0..SAMPLED_RUNS {
        match run(outlook, probes, &services, Some(seed), stop) {
            // One that was stopped says nothing of what it did not reach.
            Some(ahead) if !stop() => sampled.push(ahead),
            _ => break,
        }
    }
    let typical = typical(&middle, &sampled);
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
        lines: lines(typical),
        next: Band::ALL.map(|band| next(typical, band)),
        costs: outlook.frame.prices.costs.clone(),
    }
}

/// A run that was stopped goes on in the same stride: so many jobs in such a time, in the order of their bands.
fn extend(run: &mut Ahead, outlook: &Outlook, probes: &[NewJob]) {
    let Some(until) = run.stopped_ms else {
        return;
    };
    let ended = run
        .jobs
        .values()
        .filter(|job| job.ends_ms.is_some())
        .count() as i64;
    if ended == 0 {
        return;
    }
    let stride = ((until - outlook.frame.now) / ended).max(1);
    let known = outlook
        .jobs
        .iter()
        .map(|copy| (copy.job.band, copy.job.seq, copy.job.id));
    let asked = probes.iter().map(|probe| (probe.band, i64::MAX, probe.id));
    let mut order: Vec<_> = known.chain(asked).collect();
    order.sort_by_key(|(band, seq, _)| (*band, *seq));
    let mut at = until;
    for (_, _, id) in order {
        let Some(job) = run.jobs.get_mut(&id).filter(|job| job.ends_ms.is_none()) else {
            continue;
        };
        job.starts_ms = job.starts_ms.or(Some(at));
        at += stride;
        job.ends_ms = Some(at);
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
    // The n-th grant of a run draws the same whatever the task is called: equal queues have equal forecasts.
    let grants = Cell::new(0);
    let draw = || {
        grants.set(grants.get() + 1);
        seed.map_or(MIDDLE, |seed| drawn(seed, grants.get()))
    };
    let running = outlook.running();
    let fails = outlook.frame.fail_permille;
    // Some attempts of a drawn run are lost, and their time with them; most farms lose so few that the middle has none.
    let serve = |spec: &TaskSpec, class: &str, step| {
        let plan = Plan::new(&services.of(spec, class), step, draw());
        match seed.is_some() && fails > 0 && draw() < fails {
            true => plan.after_a_loss(draw()),
            false => plan,
        }
    };
    let ahead = forward(
        outlook,
        probes,
        &serve,
        &|task| {
            let plan = |rest: &Rest| rest.plan(&services.of(&rest.spec, &rest.class), draw());
            running.get(&task).map_or_else(Plan::default, plan)
        },
        stop,
    );
    ahead
        .inspect_err(|error| tracing::debug!(%error, "a copy of the farm cannot be played"))
        .ok()
}

/// SplitMix64 of run and grant, in thousandths.
fn drawn(seed: u64, grant: u64) -> u32 {
    let mut z = (seed << 32 | grant).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) % 1_000) as u32
}

/// The run whose last grant is neither early nor late among those that were drawn.
fn typical<'a>(middle: &'a Ahead, sampled: &'a [Ahead]) -> &'a Ahead {
    let mut runs: Vec<&Ahead> = sampled.iter().collect();
    runs.sort_by_key(|run| run.grants.last().map(|grant| grant.at_ms));
    match runs.len() < SAMPLED_MIN {
        true => middle,
        false => runs[(runs.len() - 1) / 2],
    }
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
