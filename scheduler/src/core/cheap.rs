//! Which hour of a window a job takes when its hours have prices: the cheapest that is not full yet.
//!
//! Jobs are planned one by one as they come. The work that is planned for an hour fills it up to what
//! the devices can do in it; the next job takes the next cheapest. Only time before the latest start is used,
//! and a job that found no hour may start at once: cheapness never costs a deadline or a night.

use schemas::JobId;

use super::{
    Farm,
    packed::Whole,
    rows::{JobState, NewJob, TaskState},
    start::{Expected, latest_start_ms, until_ms},
    tariff::{HOUR_MS, Series},
};

/// Openings that are looked through for a cheap hour.
const OPENINGS_MAX: usize = 15;

impl Farm {
    /// The start of the job in the cheapest hour with room; notes what it fills there.
    pub(super) fn cheapest_start(
        &mut self,
        job: &NewJob,
        from: i64,
        expected: Expected,
    ) -> Option<i64> {
        let name = job.window.clone()?;
        let window = self.limits.windows.get(&name)?;
        let series = window.prices.clone()?;
        let mut starts = Vec::new();
        for opening in window.openings(from).take(OPENINGS_MAX) {
            let until = until_ms(window, opening, expected.late_ms())
                .min(latest_start_ms(job.deadline_ms, expected).unwrap_or(i64::MAX));
            add_starts(&mut starts, opening.opens_ms.max(from), until);
            if job.deadline_ms.is_none() && !starts.is_empty() {
                break; // without a deadline the next night is as good as it gets
            }
        }
        starts.sort_by_key(|at| (mean_price(&series, *at, expected), *at));
        let now_hour = self.now.div_euclid(HOUR_MS);
        self.planned.retain(|(_, hour), _| *hour >= now_hour);
        let room_us = i64::from(self.devices_online().max(1)) * HOUR_MS * 1_000;
        let start = starts.into_iter().find(|at| {
            let planned = self.planned.get(&(name.clone(), at.div_euclid(HOUR_MS)));
            planned.is_none_or(|us| us.saturating_add(expected.all_us) <= room_us)
        })?;
        self.plan(&name, start, expected.all_us);
        Some(start)
    }

    fn plan(&mut self, window: &str, start_ms: i64, device_us: i64) {
        let hour = (window.to_owned(), start_ms.div_euclid(HOUR_MS));
        *self.planned.entry(hour).or_default() += device_us;
    }

    /// After a rebuild: what was planned before stays planned.
    pub(super) fn note_planned(&mut self, whole: &Whole) {
        let (JobState::Waiting, Some(_), Some(window)) = (
            whole.job.state,
            whole.job.could_start_ms,
            whole.job.window.as_deref(),
        ) else {
            return;
        };
        for task in &whole.tasks {
            match task.state {
                TaskState::Ready { eligible_at_ms, .. } if eligible_at_ms > self.now => {
                    self.plan(window, eligible_at_ms, task.device_us());
                }
                _ => {}
            }
        }
    }

    /// What a job that has begun lately saved by waiting for a cheaper hour.
    pub fn saved(&self, id: JobId) -> Option<i64> {
        self.jobs.get(&id)?.row.saved
    }

    /// What a job that begins now has saved by waiting for this hour.
    pub(super) fn saved_now(&self, id: JobId) -> Option<i64> {
        let job = self.job_at(id);
        let could_start_ms = job.row.could_start_ms?;
        let series = self.window_of(&job.row)?.prices.as_ref()?;
        Some(series.saved(job.expected.all_us, could_start_ms, self.now))
    }
}

/// The beginning and each full hour of `[opens, until)`.
fn add_starts(starts: &mut Vec<i64>, opens: i64, until: i64) {
    let mut at = opens;
    while at < until {
        starts.push(at);
        at = (at.div_euclid(HOUR_MS) + 1) * HOUR_MS;
    }
}

/// Mean price of the hours that the job runs in, when all of it runs on one device.
fn mean_price(series: &Series, start_ms: i64, expected: Expected) -> i64 {
    let hours = (expected.all_us / 1_000 / HOUR_MS + 1).min(24);
    let sum: i64 = (0..hours).map(|h| series.at(start_ms + h * HOUR_MS)).sum();
    sum / hours
}
