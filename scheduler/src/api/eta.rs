//! When a job will be done, from what the farm knows of it now. Pure.
//!
//! Rest of a task: measured step time where there is one, its estimate where there is none.
//! Shots spread over the devices, `Assemble` comes after all of them, and the jobs before it first.

use schemas::{task::TaskKind, video::Eta};

use crate::{
    core::explain::Waiting,
    store::read::{LiveJob, LiveTask},
};

/// The 90th percentile is this much further away than the median, in percent, plus a second.
const P90_PERCENT: i64 = 150;
/// Share of a Render task that comes after its last step: decode, write, upload; in percent.
const AFTER_STEPS_PERCENT: i64 = 30;

/// The interval in which the job ends; nulls while nothing in the farm could work on it.
pub fn eta(live: &LiveJob, now_ms: i64) -> Eta {
    if matches!(
        live.waiting,
        Some(Waiting::NoCapableDevice { .. } | Waiting::ModelMissing { .. })
    ) {
        return Eta::default();
    }
    let devices = i64::from(live.devices.max(1));
    let ahead_ms = live.ahead.0 / 1_000 / devices;
    let started_ms = live
        .tasks
        .iter()
        .filter_map(|task| task.granted_at_ms)
        .min();
    let opens_ms = match live.waiting {
        Some(Waiting::WindowClosed { opens_ms, .. }) => opens_ms,
        _ => now_ms,
    };
    let starts_ms = match live.queue_position {
        Some(_) => opens_ms.max(now_ms) + ahead_ms,
        None => started_ms.unwrap_or(now_ms),
    };
    let wait_ms = starts_ms.max(now_ms) - now_ms;
    let rest_ms = wait_ms + rest_ms(live, now_ms, devices);
    Eta {
        starts_at: Some(starts_ms / 1_000),
        completes_at_p50: Some((now_ms + rest_ms).div_euclid(1_000) + 1),
        completes_at_p90: Some((now_ms + rest_ms * P90_PERCENT / 100).div_euclid(1_000) + 2),
        ..Eta::default()
    }
}

/// Milliseconds of work left, from now, with this many devices.
fn rest_ms(live: &LiveJob, now_ms: i64, devices: i64) -> i64 {
    let of = |kind| {
        live.tasks
            .iter()
            .filter(move |task| task.kind == kind && !task.done)
    };
    let renders: Vec<i64> = of(TaskKind::Render)
        .map(|task| task_rest_ms(task, now_ms))
        .collect();
    let longest = renders.iter().copied().max().unwrap_or(0);
    let spread = renders.iter().sum::<i64>() / devices;
    let assemble: i64 = of(TaskKind::Assemble)
        .map(|task| task_rest_ms(task, now_ms))
        .sum();
    spread.max(longest) + assemble
}

fn task_rest_ms(task: &LiveTask, now_ms: i64) -> i64 {
    let whole_ms = task.estimate.0 / 1_000;
    let Some(granted_ms) = task.granted_at_ms else {
        return whole_ms;
    };
    let steps_left = i64::from(task.steps.saturating_sub(task.step));
    match task.step_ms {
        Some(step_ms) if task.steps > 0 => {
            let steps_ms = i64::from(step_ms) * i64::from(task.steps);
            let after_ms = if steps_left > 0 || task.kind == TaskKind::Render {
                steps_ms * AFTER_STEPS_PERCENT / 100
            } else {
                0
            };
            steps_left * i64::from(step_ms) + after_ms
        }
        // Without a measure: what the estimate leaves, and never nothing.
        _ => (whole_ms - (now_ms - granted_ms)).max(whole_ms / 10),
    }
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
    use schemas::GpuMicros;

    use super::*;

    const NOW: i64 = 1_000_000;

    fn task(index: u32, kind: TaskKind, estimate_s: i64) -> LiveTask {
        LiveTask {
            index,
            kind,
            phase: None,
            step: 0,
            steps: 10,
            step_ms: None,
            granted_at_ms: None,
            estimate: GpuMicros(estimate_s * 1_000_000),
            done: false,
        }
    }

    fn job(tasks: Vec<LiveTask>) -> LiveJob {
        LiveJob {
            queue_position: None,
            waiting: None,
            tasks,
            devices: 1,
            ahead: GpuMicros(0),
        }
    }

    #[test]
    fn a_waiting_job_starts_after_those_before_it() {
        let tasks = vec![
            task(0, TaskKind::Render, 10),
            task(1, TaskKind::Assemble, 2),
        ];
        let live = LiveJob {
            queue_position: Some(3),
            ahead: GpuMicros(20_000_000),
            ..job(tasks)
        };
        let eta = eta(&live, NOW);
        assert_eq!(eta.starts_at, Some(1_020));
        assert_eq!(eta.completes_at_p50, Some(1_033));
        assert!(eta.completes_at_p90 > eta.completes_at_p50);
    }

    #[test]
    fn measured_steps_replace_the_estimate_and_devices_share_shots() {
        let running = LiveTask {
            step: 4,
            step_ms: Some(1_000),
            granted_at_ms: Some(NOW - 5_000),
            ..task(0, TaskKind::Render, 100)
        };
        // 6 steps of 1 s and 30 % of ten steps.
        assert_eq!(eta(&job(vec![running]), NOW).completes_at_p50, Some(1_010));
        let shots = || (0..4).map(|i| task(i, TaskKind::Render, 10)).collect();
        assert_eq!(eta(&job(shots()), NOW).completes_at_p50, Some(1_041));
        let two = LiveJob {
            devices: 2,
            ..job(shots())
        };
        assert_eq!(eta(&two, NOW).completes_at_p50, Some(1_021));
    }

    #[test]
    fn a_job_that_nothing_can_render_has_no_eta() {
        let live = LiveJob {
            waiting: Some(Waiting::ModelMissing {
                weights: "x".into(),
            }),
            ..job(vec![task(0, TaskKind::Render, 10)])
        };
        assert_eq!(eta(&live, NOW), Eta::default());
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
