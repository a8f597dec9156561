//! How right forecasts were: each is kept until its job ends, and what was missed corrects those to come.
//!
//! The score of a finished job is how many half-widths of its interval the true end was before or behind the middle.
//! An interval from the score that a tenth of all jobs stay below to that which a tenth are above is right four times
//! in five, also where the forecast leans to one side (conformal prediction).
//! Scores are kept by band and class of device, as sketches beside the costs.

use schemas::{GpuMicros, JobId};

use super::{
    Farm,
    command::Reply,
    costs::{CostKey, Costs, PRIOR_COUNT, Part},
    rows::{Band, JobState},
    sketch::Sketch,
};

/// Share of jobs that should end before the late end of their interval; as many behind its early end.
const LATE_PERMILLE: u32 = 900;
const PERMILLE: i64 = 1_000;
/// An interval is never narrower than this on either side.
const HALF_MIN_MS: i64 = 500;
/// Forecasts that are kept at a time; those of a long queue tell no more than those of its beginning.
const PROMISES_MAX: usize = 10_000;
/// Half-widths, in thousandths, beyond which a score tells no more.
const SCORE_MAX: u64 = 20_000;
/// What such a row is called where others name a shape.
const SHAPE: &str = "eta";

/// What was foretold of a job when it was made; Unix milliseconds, before it was corrected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Early, middle and late.
    pub foretold_ms: [i64; 3],
    pub correction: Correction,
    /// Class of device that it was foretold for.
    pub pool: String,
}

/// A finished job beside what was foretold of it, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finished {
    pub band: Band,
    /// Absent when nothing was foretold.
    pub eta: Option<EtaError>,
    /// What was charged over what was expected.
    pub price_ratio: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EtaError {
    /// Above zero: later than the middle.
    pub error_ms: i64,
    pub is_inside: bool,
}

/// Where early, middle and late of an interval truly are: in thousandths of its half-widths from its middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correction([i64; 3]);

impl Default for Correction {
    /// As it was foretold.
    fn default() -> Self {
        Self([-PERMILLE, 0, PERMILLE])
    }
}

impl Correction {
    /// Early, middle and late of an interval, corrected.
    pub fn of(self, [early, middle, late]: [i64; 3]) -> [i64; 3] {
        self.0.map(|place| {
            let half = match place < 0 {
                true => middle - early,
                false => late - middle,
            };
            let off = i128::from(half.max(HALF_MIN_MS)) * i128::from(place) / i128::from(PERMILLE);
            middle.saturating_add(i64::try_from(off).unwrap_or(i64::MAX / 4))
        })
    }
}

impl Costs {
    /// What the farm has learnt of forecasts of this band and class.
    pub fn correction(&self, band: Band, pool: &str) -> Correction {
        let key = scores(band, pool);
        let (Some(early), Some(late)) = (
            self.sketch(&key, Part::Early),
            self.sketch(&key, Part::Late),
        ) else {
            return Correction::default();
        };
        let count = late.count().max(1);
        // A little more than nine in ten, because the next job is one more.
        let most = (LATE_PERMILLE * (count + 1)).div_ceil(count).min(1_000);
        let places = [(1_000 - most).max(1), 500, most].map(|permille| {
            let at = |sketch: &Sketch, permille| {
                sketch.quantile(permille).unwrap_or(0).min(SCORE_MAX) as i64
            };
            // Each job has a score on its side and none on the other.
            match (at(late, permille), at(early, 1_000 - permille.min(999))) {
                (0, early) => -early,
                (late, _) => late,
            }
        });
        let (prior, count) = (i64::from(PRIOR_COUNT), i64::from(count));
        let believed = Correction::default().0;
        Correction(std::array::from_fn(|at| {
            (prior * believed[at] + count * places[at]) / (prior + count)
        }))
    }
}

fn scores(band: Band, pool: &str) -> CostKey {
    CostKey {
        weights: band.name().into(),
        class: pool.into(),
        shape: SHAPE.into(),
    }
}

impl Promise {
    /// Half-widths before and behind the middle, in thousandths; one of them is 0.
    fn scores(&self, ended_ms: i64) -> [(Part, u64); 2] {
        let score = |off: i64, half: i64| {
            let off = off.max(0).unsigned_abs() * PERMILLE.unsigned_abs();
            off / half.max(HALF_MIN_MS).unsigned_abs()
        };
        let [early, middle, late] = self.foretold_ms;
        [
            (Part::Early, score(middle - ended_ms, middle - early)),
            (Part::Late, score(ended_ms - middle, late - middle)),
        ]
    }
}

impl Farm {
    /// Remembers what was foretold of a job. Only this leader knows it: after a crash the job is not counted.
    pub(super) fn promise(&mut self, job: JobId, promise: Promise) -> Reply {
        let live = match self.jobs.get(&job) {
            Some(job) => !job.row.state.is_terminal(),
            None => self.backlog.holds(job),
        };
        if live && self.promises.len() < PROMISES_MAX {
            self.promises.entry(job).or_insert(promise);
        }
        Reply::Done
    }

    /// A job has ended: its forecast is compared with the truth.
    pub(super) fn keep_promise(&mut self, id: JobId) {
        let promise = self.promises.remove(&id);
        let row = &self.job_at(id).row;
        let (band, state) = (row.band, row.state);
        if state != JobState::Succeeded {
            return;
        }
        let now = self.now;
        let eta = promise.map(|promise| {
            let [early, middle, late] = promise.correction.of(promise.foretold_ms);
            self.add_numbers(&scores(band, &promise.pool), &promise.scores(now));
            EtaError {
                error_ms: now - middle,
                is_inside: (early..=late).contains(&now),
            }
        });
        let price_ratio = self.price_ratio(id);
        self.finished.push(Finished {
            band,
            eta,
            price_ratio,
        });
    }

    fn price_ratio(&self, id: JobId) -> f64 {
        let sum = |part: fn(&super::rows::TaskRow) -> GpuMicros| -> f64 {
            let tasks = self.job_at(id).tasks.iter();
            tasks
                .map(|task| part(&self.task_at(*task).row).0 as f64)
                .sum()
        };
        sum(|row| row.used) / sum(|row| row.estimate).max(1.0)
    }
}

#[cfg(test)]
#[path = "tests/calibration.rs"]
mod tests;
