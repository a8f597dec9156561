//! How right forecasts were: each is kept until its job ends, and what was missed widens those to come.
//!
//! The score of a finished job is how many half-widths of its interval the true end was from the middle. An interval
//! that is as wide as the score that four jobs in five stay below is right four times in five (conformal prediction).
//! Scores are kept by band and class of device, as sketches beside the costs.

use schemas::{GpuMicros, JobId};

use super::{
    Farm,
    command::Reply,
    costs::{CostKey, Costs, PRIOR_COUNT, Part},
    rows::{Band, JobState},
};

/// Share of jobs that should end inside their interval.
const INSIDE_PERMILLE: u64 = 800;
const PERMILLE: u64 = 1_000;
/// An interval is never narrower than this on either side.
const HALF_MIN_MS: i64 = 500;
/// Nor wider than this many times what the forecast gave.
const WIDENING_MAX: u64 = 20_000;
/// Forecasts that are kept at a time; those of a long queue tell no more than those of its beginning.
const PROMISES_MAX: usize = 10_000;
/// What such a row is called where others name a shape.
const SHAPE: &str = "eta";

/// What was foretold of a job when it was made; Unix milliseconds, before it was widened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    pub early_ms: i64,
    pub middle_ms: i64,
    pub late_ms: i64,
    /// How much it was widened, in thousandths.
    pub widened: u64,
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

/// Early and late end of an interval around its middle.
pub fn widen(early: i64, middle: i64, late: i64, widened: u64) -> (i64, i64) {
    let half = |half: i64| {
        let half = i128::from(half.max(HALF_MIN_MS)) * i128::from(widened);
        i64::try_from(half / i128::from(PERMILLE)).unwrap_or(i64::MAX / 4)
    };
    (
        middle.saturating_sub(half(middle - early)),
        middle.saturating_add(half(late - middle)),
    )
}

impl Costs {
    /// How much wider than foretold an interval of this band and class must be, in thousandths.
    pub fn widening(&self, band: Band, pool: &str) -> u64 {
        let Some(scores) = self.sketch(&late(band, pool), Part::Late) else {
            return PERMILLE;
        };
        let count = u64::from(scores.count().max(1));
        // The share is a little more than four in five, because the next job is one more.
        let share = (INSIDE_PERMILLE * (count + 1))
            .div_ceil(count)
            .min(PERMILLE);
        let measured = scores.quantile(share as u32).unwrap_or(PERMILLE);
        let prior = u64::from(PRIOR_COUNT);
        ((prior * PERMILLE + count * measured.min(WIDENING_MAX)) / (prior + count)).max(1)
    }
}

fn late(band: Band, pool: &str) -> CostKey {
    CostKey {
        weights: band.name().into(),
        class: pool.into(),
        shape: SHAPE.into(),
    }
}

impl Promise {
    /// Half-widths from the middle, in thousandths.
    fn score(&self, ended_ms: i64) -> u64 {
        let off = ended_ms - self.middle_ms;
        let half = match off < 0 {
            true => self.middle_ms - self.early_ms,
            false => self.late_ms - self.middle_ms,
        };
        off.unsigned_abs() * PERMILLE / half.max(HALF_MIN_MS).unsigned_abs()
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
            let (early, late_ms) = widen(
                promise.early_ms,
                promise.middle_ms,
                promise.late_ms,
                promise.widened,
            );
            let score = (Part::Late, promise.score(now));
            self.add_numbers(&late(band, &promise.pool), &[score]);
            EtaError {
                error_ms: now - promise.middle_ms,
                is_inside: (early..=late_ms).contains(&now),
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
