//! When a job will be done: the forecast where it waits, its own progress where it runs. Pure.

use schemas::{task::TaskKind, video::Eta};

use crate::{
    core::{
        calibration::{Correction, Promise},
        explain::Waiting,
        outlook::Plan,
        prices::PriceBook,
    },
    forecast::{Forecast, Foreseen, Interval},
    store::read::{LiveJob, LiveTask},
};

/// What is known of a job's end: the interval as it was foretold, and what the farm has learnt of such forecasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foretold {
    pub interval: Interval,
    pub correction: Correction,
}

impl Foretold {
    /// Of a job that has not ended.
    pub fn new(live: &LiveJob, forecast: &Forecast, now_ms: i64) -> Self {
        let left: Vec<Left> = live
            .tasks
            .iter()
            .map(|task| left(task, &live.prices))
            .collect();
        Self {
            interval: interval(live, &left, forecast, now_ms),
            correction: forecast.correction(live.band, &pool(live)),
        }
    }

    pub fn eta(&self, now_ms: i64) -> Eta {
        self.interval.eta(self.correction, now_ms)
    }

    /// To be compared with the truth; absent when nothing can be said.
    pub fn promise(&self, live: &LiveJob) -> Option<Promise> {
        Some(Promise {
            foretold_ms: self.interval.ends?,
            correction: self.correction,
            pool: pool(live),
        })
    }
}

/// What is left of a task: early, middle and late.
type Left = (TaskKind, [i64; 3]);
/// In thousandths.
const EARLY_TO_LATE: [u32; 3] = [100, 500, 900];

/// Of a task that waits: on the devices that most could do it.
fn left(task: &LiveTask, prices: &PriceBook) -> Left {
    if task.is_done {
        return (task.kind, [0; 3]);
    }
    let class = match &task.rest {
        Some(rest) => rest.class.clone(),
        None => prices.pools(&task.spec).remove(0).class,
    };
    let service = prices.service(&task.spec, &class);
    let plan = |permille| match &task.rest {
        Some(rest) => rest.plan(&service, permille),
        None => Plan::new(&service, task.saved, permille),
    };
    (
        task.kind,
        EARLY_TO_LATE.map(|permille| plan(permille).total_ms()),
    )
}

/// Class of most devices that can render it.
fn pool(live: &LiveJob) -> String {
    let first = live.tasks.first();
    first.map_or(String::new(), |task| {
        live.prices.pools(&task.spec).remove(0).class
    })
}

/// Nothing while nothing in the farm could work on it.
fn interval(live: &LiveJob, left: &[Left], forecast: &Forecast, now_ms: i64) -> Interval {
    if live.waiting.as_ref().is_some_and(|why| why.has_no_end()) {
        return Interval::default();
    }
    let begun_ms = live
        .tasks
        .iter()
        .filter_map(|task| task.granted_at_ms)
        .min();
    let waits = live.tasks.iter().any(|task| task.is_ready);
    // The look ahead may be of before the job came, and may then know no such rule for it.
    let held_ms = now_ms.max(match live.waiting {
        Some(Waiting::WindowClosed { opens_ms, .. }) => opens_ms,
        Some(Waiting::StartLater { at_ms }) => at_ms,
        Some(Waiting::BudgetStopped { until_ms, .. }) => until_ms,
        _ => now_ms,
    });
    let foreseen = forecast.foresee(live.id, live.account, live.band, live.own_ahead);
    match (begun_ms, foreseen) {
        // All that can run runs: its own progress says more than an older look ahead.
        (Some(begun_ms), _) if !waits => own(live, left, begun_ms, now_ms),
        (_, Some(Foreseen::Job(interval))) => interval.at(now_ms),
        (_, Some(Foreseen::Start(start))) => own(live, left, start.max(held_ms), now_ms),
        (_, Some(Foreseen::Next(start))) => {
            // Those of its account that came meanwhile are taken to be like it.
            let shot_ms = left.first().map_or(0, |(_, left_ms)| left_ms[1]);
            let wait_ms = shot_ms * live.own_ahead as i64 / i64::from(live.devices.max(1));
            own(live, left, start.max(held_ms) + wait_ms, now_ms)
        }
        (_, None) => Interval::default(),
    }
}

/// From its start, or from now if that is later, alone on the devices.
fn own(live: &LiveJob, left: &[Left], starts_ms: i64, now_ms: i64) -> Interval {
    let from = starts_ms.max(now_ms);
    let group = live.tasks.iter().map(|task| task.spec.devices()).max();
    let at_once = live.devices / group.unwrap_or(1).max(1);
    Interval {
        starts: Some([starts_ms; 3]),
        ends: Some([0, 1, 2].map(|at| from + rest_ms(at_once, left, at))),
    }
}

/// Milliseconds of work left with so many groups of devices: shots side by side, then the film.
fn rest_ms(at_once: u32, left: &[Left], at: usize) -> i64 {
    let of = |kind| {
        let of = left.iter().filter(move |(other, _)| *other == kind);
        of.map(move |(_, left_ms)| left_ms[at])
    };
    let longest = of(TaskKind::Render).max().unwrap_or(0);
    let spread = of(TaskKind::Render).sum::<i64>() / i64::from(at_once.max(1));
    spread.max(longest) + of(TaskKind::Assemble).sum::<i64>()
}

/// `openai-poll-after-ms`: the client keeps this interval for its whole loop.
pub fn poll_after_ms(eta: &Eta, now_ms: i64) -> i64 {
    match eta.completes_at_p50 {
        Some(at) => ((at * 1_000 - now_ms) / 10).clamp(500, 15_000),
        None => 5_000,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use schemas::{
        AccountId, JobId,
        task::{AssembleSpec, TaskSpec},
    };
    use uuid::Uuid;

    use super::*;
    use crate::core::rows::Band;

    const NOW: i64 = 1_000_000;

    fn task(index: u32, kind: TaskKind) -> LiveTask {
        LiveTask {
            index,
            kind,
            phase: None,
            step: 0,
            steps: 10,
            granted_at_ms: None,
            is_ready: kind == TaskKind::Render,
            spec: Arc::new(TaskSpec::Assemble(AssembleSpec {
                shots: 1,
                width: 64,
                height: 64,
                fps: 8,
                shot_frames: vec![8],
                before: None,
            })),
            rest: None,
            saved: 0,
            is_done: false,
        }
    }

    fn job(tasks: Vec<LiveTask>) -> LiveJob {
        LiveJob {
            id: JobId(Uuid::from_u128(1)),
            account: AccountId(Uuid::from_u128(2)),
            band: Band::Standard,
            prices: PriceBook::default(),
            queue_position: None,
            waiting: None,
            own_ahead: 0,
            tasks,
            devices: 1,
        }
    }

    fn left_s(kind: TaskKind, left_s: i64) -> Left {
        (kind, [left_s * 900, left_s * 1_000, left_s * 1_200])
    }

    fn ends(live: &LiveJob, left: &[Left], forecast: &Forecast) -> Option<[i64; 3]> {
        let ends = interval(live, left, forecast, NOW).ends;
        ends.map(|ends| ends.map(|at| (at - NOW) / 1_000))
    }

    #[test]
    fn a_job_that_waits_ends_as_it_was_foreseen() {
        let live = job(vec![task(0, TaskKind::Render)]);
        let left = [left_s(TaskKind::Render, 10)];
        let mut forecast = Forecast::default();
        assert_eq!(
            ends(&live, &left, &forecast),
            None,
            "before the first forecast"
        );
        let interval = Interval {
            starts: Some([NOW + 1_000, NOW + 2_000, NOW + 3_000]),
            ends: Some([NOW + 11_000, NOW + 12_000, NOW + 15_000]),
        };
        forecast.jobs.insert(live.id, interval);
        assert_eq!(ends(&live, &left, &forecast), Some([11, 12, 15]));
    }

    #[test]
    fn a_job_that_came_after_the_look_ahead_does_not_begin_before_it_may() {
        let mut live = job(vec![task(0, TaskKind::Render)]);
        let left = [left_s(TaskKind::Render, 10)];
        let mut forecast = Forecast::default();
        assert_eq!(ends(&live, &left, &forecast), None);
        forecast.next = [Some(NOW + 1_000); 3];
        assert_eq!(ends(&live, &left, &forecast), Some([10, 11, 13]));
        live.waiting = Some(Waiting::StartLater {
            at_ms: NOW + 60_000,
        });
        assert_eq!(ends(&live, &left, &forecast), Some([69, 70, 72]));
    }

    #[test]
    fn a_running_job_ends_by_its_own_progress_and_devices_share_shots() {
        let run = |index| LiveTask {
            granted_at_ms: Some(NOW - 5_000),
            is_ready: false,
            ..task(index, TaskKind::Render)
        };
        let (shot, film) = (left_s(TaskKind::Render, 10), left_s(TaskKind::Assemble, 2));
        let mut live = job(vec![run(0), task(1, TaskKind::Assemble)]);
        let forecast = Forecast::default();
        assert_eq!(ends(&live, &[shot, film], &forecast), Some([10, 12, 14]));
        live.tasks.insert(0, run(2));
        assert_eq!(
            ends(&live, &[shot, shot, film], &forecast),
            Some([19, 22, 26])
        );
        live.devices = 2;
        assert_eq!(
            ends(&live, &[shot, shot, film], &forecast),
            Some([10, 12, 14])
        );
    }

    #[test]
    fn a_job_that_nothing_can_render_has_no_eta() {
        let mut live = job(vec![task(0, TaskKind::Render)]);
        live.waiting = Some(Waiting::ModelMissing {
            weights: "x".into(),
        });
        let foretold = Foretold::new(&live, &Forecast::default(), NOW);
        assert_eq!(
            (foretold.eta(NOW), foretold.promise(&live)),
            (Eta::default(), None)
        );
        assert_eq!(poll_after_ms(&Eta::default(), NOW), 5_000);
    }

    #[test]
    fn the_poll_interval_is_a_tenth_of_the_rest_within_bounds() {
        let at = |s| Eta {
            completes_at_p50: Some(s),
            ..Eta::default()
        };
        assert_eq!(poll_after_ms(&at(1_050), NOW), 5_000);
        assert_eq!(poll_after_ms(&at(1_001), NOW), 500);
        assert_eq!(poll_after_ms(&at(0), NOW), 500);
        assert_eq!(poll_after_ms(&at(9_999), NOW), 15_000);
    }
}
