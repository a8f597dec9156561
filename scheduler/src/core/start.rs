//! When a task may start: at once, after an instant, or while the window of its job is open.
//!
//! A window allows a start: what has begun goes on after it closes, also on another device after a failure, and a film
//! whose shots are done is put together at any hour. What could not start waits for the next opening.
//! A window with `at_end = yield` also stops what runs when it closes; that goes on the next night.
//!
//! A task's row says from when it may start by its own wish. When the window lets it is worked out from that and the
//! clock: nights that pass change no row.

use schemas::{GpuMicros, JobId, TaskId, task::TaskKind};

use super::{
    Farm, Job,
    command::Refusal,
    explain::Waiting,
    limits::{AGED_MS, LATE_PERCENT},
    rows::{JobError, JobRow, JobState, NewJob, TaskState},
    task::YieldWhy,
    timers::Timer,
    windows::{AtEnd, Opening, Window},
};

/// What a job is expected to take, in microseconds of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Expected {
    /// All of its tasks, one after the other.
    pub all_us: i64,
    longest_render_us: i64,
    assemble_us: i64,
}

impl Expected {
    pub fn add(&mut self, kind: TaskKind, estimate: GpuMicros) {
        self.all_us = self.all_us.saturating_add(estimate.0);
        match kind {
            TaskKind::Render => self.longest_render_us = self.longest_render_us.max(estimate.0),
            TaskKind::Assemble => self.assemble_us = estimate.0,
        }
    }

    /// Until it is done with nine chances in ten, with a device for each shot.
    pub fn late_ms(self) -> i64 {
        late_ms(self.longest_render_us.saturating_add(self.assemble_us))
    }

    /// The same with one device for all.
    fn late_alone_ms(self) -> i64 {
        late_ms(self.all_us)
    }
}

/// Rounded up by at most a sixteenth, so that jobs which are about alike are the same to the order of service.
fn late_ms(us: i64) -> i64 {
    let ms = us.max(0) / 1_000 * LATE_PERCENT / 100;
    let step = 1 << ms.max(1).ilog2().saturating_sub(4);
    ms.saturating_add(step - 1) / step * step
}

/// Until when work that takes so long may start in an opening: to its end, or so early that it probably fits.
pub(super) fn until_ms(window: &Window, opening: Opening, late_ms: i64) -> i64 {
    match window.fit {
        true => opening.closes_ms - late_ms,
        false => opening.closes_ms,
    }
}

/// The first opening in which such work may still start at `from` or later, and until when.
fn usable(window: &Window, from: i64, late_ms: i64) -> Option<(Opening, i64)> {
    let mut openings = window.openings(from);
    openings.find_map(|opening| {
        let until = until_ms(window, opening, late_ms);
        (opening.opens_ms.max(from) < until).then_some((opening, until))
    })
}

/// The same; work that fits into no opening has the whole of the next. `None` for a window that does not open.
pub(super) fn opening(window: &Window, from: i64, late_ms: i64) -> Option<(Opening, i64)> {
    let whole = |next: Opening| (next, next.closes_ms);
    usable(window, from, late_ms).or_else(|| window.next(from).map(whole))
}

/// From when work that may start at `own_ms` by its own wish may do so, seen from `now`: within an opening it is the
/// instant at which it could first have started there. A window that never opens holds nothing back.
pub(super) fn start_ms(window: &Window, own_ms: i64, now: i64, late_ms: i64) -> i64 {
    let found = opening(window, own_ms.max(now), late_ms);
    found.map_or(own_ms, |(opening, _)| opening.opens_ms.max(own_ms))
}

impl Farm {
    /// Windows that a job may name, sorted.
    pub fn window_names(&self) -> Vec<String> {
        self.limits.windows.keys().cloned().collect()
    }

    /// A window that the settings no longer have holds nothing back.
    pub(super) fn window_of(&self, job: &JobRow) -> Option<&Window> {
        self.limits.windows.get(job.window.as_ref()?)
    }

    /// Why a job with these wishes would never begin.
    pub(super) fn never_starts(
        &self,
        window: Option<&str>,
        not_before_ms: Option<i64>,
        deadline_ms: Option<i64>,
        expected: Expected,
    ) -> Option<Refusal> {
        let mut starts_ms = self.now.max(not_before_ms.unwrap_or(self.now));
        if let Some(window) = window.and_then(|name| self.limits.windows.get(name)) {
            match usable(window, starts_ms, expected.late_ms()) {
                Some((opening, _)) => starts_ms = starts_ms.max(opening.opens_ms),
                None if window.fit => {
                    let takes = match expected.late_ms() / 60_000 + 1 {
                        1 => "a minute".to_owned(),
                        minutes => format!("{minutes} minutes"),
                    };
                    let why =
                        format!("it may take {takes}, and no opening of its window is that long");
                    return Some(Refusal::NeverStarts {
                        param: "start",
                        why,
                    });
                }
                None => {}
            }
        }
        let why = match deadline_ms? {
            at if at <= self.now => "its deadline has passed".into(),
            at if at <= starts_ms => format!(
                "it may not begin before {}, which is after its deadline",
                instant(starts_ms)
            ),
            _ => return None,
        };
        Some(Refusal::NeverStarts {
            param: "deadline",
            why,
        })
    }

    /// From when the tasks of a new job may start by its own wish, if not at once; an hour that is cheap is one, too.
    /// With when it could start if it waited for none.
    pub(super) fn plan_start(&mut self, job: &NewJob, expected: Expected) -> [Option<i64>; 2] {
        let now = self.now;
        let later = |at: &i64| *at > now;
        let from = job.not_before_ms.filter(later).unwrap_or(now);
        let name = job.window.as_deref();
        let window = name.and_then(|name| self.limits.windows.get(name));
        let Some(window) = window.filter(|window| window.prices.is_some()) else {
            return [Some(from).filter(later), None];
        };
        let could_start_ms = start_ms(window, from, now, expected.late_ms());
        let starts_ms = self.cheapest_start(job, from, expected).unwrap_or(from);
        [Some(starts_ms).filter(later), Some(could_start_ms)]
    }

    /// Whether its window says when this task may run.
    fn is_held(&self, id: TaskId) -> Option<(&Job, &Window)> {
        let row = &self.task_at(id).row;
        let job = self.job_at(row.job);
        let window = self.window_of(&job.row)?;
        let yields = window.at_end == AtEnd::Yield && row.kind() == TaskKind::Render;
        (job.row.state == JobState::Waiting || yields).then_some((job, window))
    }

    /// From when a task that is ready at `own_ms` may start.
    pub(super) fn starts_ms(&self, id: TaskId, own_ms: i64) -> i64 {
        match self.is_held(id) {
            Some((job, window)) => start_ms(window, own_ms, self.now, job.expected.late_ms()),
            None => own_ms,
        }
    }

    /// A task is looked at again when its window closes on it, and at once where its job is paused while it runs.
    pub(super) fn arm_close(&mut self, id: TaskId) {
        if self.is_paused(id) {
            self.timers.arm(self.now, Timer::Closes(id));
            return;
        }
        let Some((job, window)) = self.is_held(id) else {
            return;
        };
        let at_ms = match self.task_at(id).row.state {
            TaskState::Leased(_) if window.at_end == AtEnd::Finish => return,
            TaskState::Leased(_) => match window.next(self.now) {
                Some(opening) if opening.is_open(self.now) => opening.closes_ms,
                // It runs though the window has closed: a scheduler that was down has missed that.
                _ => self.now,
            },
            _ => match opening(window, self.now, job.expected.late_ms()) {
                Some((_, until_ms)) => until_ms,
                None => return,
            },
        };
        self.timers.arm(at_ms, Timer::Closes(id));
    }

    /// What has not started by now waits for the next night; what runs goes on or stops, as the window says.
    pub(super) fn window_closes(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get(&id) else {
            return;
        };
        match task.row.state {
            TaskState::Ready { .. } => {
                self.unindex_task(id);
                self.index_task(id);
            }
            TaskState::Leased(_) => self.stop_at_close(id),
            _ => {}
        }
    }

    fn stop_at_close(&mut self, id: TaskId) {
        let now = self.now;
        let open = |window: &Window| window.next(now).is_some_and(|o| o.is_open(now));
        let closed = self
            .is_held(id)
            .is_some_and(|(_, window)| window.at_end == AtEnd::Yield && !open(window));
        if self.is_paused(id) {
            self.order_yield(id, YieldWhy::Paused);
        } else if closed {
            self.order_yield(id, YieldWhy::WindowClosed);
        }
    }

    /// From when a task that could start at `starts_ms` counts as aged. What gave way or failed does not begin to wait
    /// anew; a window holds its night's work back until it opens; a deadline leaves time to render before it.
    pub(super) fn aged_at_ms(&self, job: &Job, starts_ms: i64) -> i64 {
        let row = &job.row;
        let since_ms = match row.window {
            Some(_) => starts_ms,
            None => row
                .created_at_ms
                .max(row.not_before_ms.unwrap_or(row.created_at_ms)),
        };
        let aged_at_ms = AGED_MS[row.band as usize] + since_ms;
        match latest_start_ms(row.deadline_ms, job.expected) {
            Some(latest_ms) => aged_at_ms.min(latest_ms),
            None => aged_at_ms,
        }
    }

    pub(super) fn arm_deadline(&mut self, id: JobId) {
        let row = &self.job_at(id).row;
        if let (JobState::Waiting, Some(at_ms)) = (row.state, row.deadline_ms) {
            self.timers.arm(at_ms, Timer::Deadline(id));
        }
    }

    /// Nobody waits any more for a film that has not begun by its deadline. What has begun is finished.
    pub(super) fn deadline_due(&mut self, id: JobId) {
        let missed = self.jobs.get(&id).is_some_and(|job| {
            let due = job.row.deadline_ms.is_some_and(|at| at <= self.now);
            due && job.row.state == JobState::Waiting
        });
        if missed {
            self.fail_job(
                id,
                JobError {
                    code: DEADLINE_PASSED.into(),
                    message:
                        "Its deadline passed before a device was free for it; nothing is charged."
                            .into(),
                },
            );
        }
    }

    /// Why a task whose job may not start yet waits.
    pub(super) fn starts_later(&self, job: JobId, at_ms: i64) -> Waiting {
        let row = &self.job_at(job).row;
        let own_wish = row
            .not_before_ms
            .is_some_and(|not_before| not_before > self.now);
        let cheaper = row.could_start_ms.is_some_and(|could| could <= self.now);
        match &row.window {
            Some(window) if !own_wish && !cheaper => Waiting::WindowClosed {
                window: window.clone(),
                opens_ms: at_ms,
            },
            _ => Waiting::StartLater { at_ms },
        }
    }
}

/// Code of a job that missed its deadline.
const DEADLINE_PASSED: &str = "deadline_passed";

/// Last instant at which a job with a deadline begins in time, with one device for all of it.
pub(super) fn latest_start_ms(deadline_ms: Option<i64>, expected: Expected) -> Option<i64> {
    Some(deadline_ms? - expected.late_alone_ms())
}

/// For people: an instant in UTC to the minute.
fn instant(ms: i64) -> String {
    let at = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}
