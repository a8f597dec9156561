//! A job of the farm as the Video object that clients read.

use schemas::{
    GpuMicros,
    task::{TaskKind, Variant},
    video::{Eta, Reason, Shot, Status, Usage, Video, VideoError},
};

use super::eta::Foretold;
use crate::{
    admission::{JobRecord, Lineage, Operation, START_NOW},
    core::{
        explain::Waiting,
        rows::{JobState, ReservationState},
    },
    forecast::Interval,
    pricing::PriceSettings,
    store::read::{JobView, LiveJob, ReservationView, TaskView},
};

/// What is shown beside the committed job.
#[derive(Default)]
pub struct Beside<'a> {
    /// What only the dispatcher's memory knows of a job that has not ended.
    pub live: Option<&'a LiveJob>,
    pub foretold: Option<Foretold>,
    pub price: PriceSettings,
    pub now_ms: i64,
}

/// The object of a job.
///
/// A record of an older version that cannot be read is an invariant broken: its fields are then
/// empty, the job itself stays reachable.
pub fn video(view: &JobView, beside: &Beside<'_>) -> Video {
    let (live, now_ms) = (beside.live, beside.now_ms);
    let record = record(view);
    let status = status(view.state);
    let live = live.filter(|_| !status.is_terminal());
    let (steps_done, steps_total) = steps(view, live, &record);
    Video {
        id: view.id.to_string(),
        object: "video".into(),
        model: record.model.clone(),
        status,
        progress: progress(view),
        created_at: view.created_at_ms.div_euclid(1_000),
        completed_at: view
            .ended_at_ms
            .filter(|_| status == Status::Completed)
            .map(|ms| ms.div_euclid(1_000)),
        expires_at: None,
        prompt: Some(record.prompt.clone()),
        seconds: record.seconds.to_string(),
        size: record.size.clone(),
        remixed_from_video_id: remixed_from(&record.lineage),
        operation: operation(record.lineage.operation).into(),
        source_video_id: record.lineage.source.clone(),
        error: view
            .error
            .as_ref()
            .filter(|_| status == Status::Failed)
            .map(|error| VideoError {
                code: error.code.clone(),
                message: error.message.clone(),
            }),
        seed: view.seed,
        steps: Some(record.shot_steps),
        native_size: record.native_size.clone(),
        resolved_model: record.resolved_model.clone(),
        metadata: record.metadata.clone(),
        attempt: attempt(view),
        // One that was granted since the last commit was the next in line.
        queue_position: live
            .filter(|_| status == Status::Queued)
            .map(|live| live.queue_position.unwrap_or(1)),
        eta: match (live, &beside.foretold) {
            (Some(_), Some(foretold)) => foretold.eta(now_ms),
            _ => Eta::default(),
        },
        shots: shots(view, live, &record),
        steps_done,
        steps_total,
        usage: usage(view, &record, &beside.price),
        priority: record.priority.name().into(),
        start: record.window.clone().unwrap_or_else(|| START_NOW.into()),
        not_before: record.not_before,
        deadline: record.deadline,
        devices: record.devices.unwrap_or(1),
        waiting: live
            .and_then(|live| live.waiting.as_ref())
            .map(|why| why.code().into()),
        reason: live
            .and_then(|live| live.waiting.as_ref())
            .map(|why| reason(why, beside.foretold.map(|f| f.interval), now_ms)),
        warnings: record.warnings,
    }
}

/// An extension is another film; only what shows the same anew is a remix.
fn remixed_from(lineage: &Lineage) -> Option<String> {
    let is_remade = matches!(lineage.operation, Operation::Remix | Operation::Edit);
    lineage.source.clone().filter(|_| is_remade)
}

fn operation(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "create",
        Operation::Remix => "remix",
        Operation::Edit => "edit",
        Operation::Extend => "extend",
    }
}

/// Why a task waits, as clients read it. What was foretold of its start says better than the farm's quick guess when a
/// device is free.
pub fn reason(why: &Waiting, interval: Option<Interval>, now_ms: i64) -> Reason {
    let mut why = why.clone();
    let starts = interval.and_then(|interval| interval.starts);
    if let (Waiting::DevicesBusy { earliest_ms, .. }, Some([_, start_ms, _])) = (&mut why, starts) {
        *earliest_ms = Some(start_ms);
    }
    let mut blocker = serde_json::to_value(&why).expect("a reason holds only texts and numbers");
    if let Some(fields) = blocker.as_object_mut() {
        fields.remove("code"); // told beside it
    }
    Reason {
        code: why.code().into(),
        message: why.words(now_ms),
        blocker,
        eta_unknown: why.has_no_end(),
    }
}

/// The job as it was when it was committed, also when an agent has taken it since.
pub fn at_creation(mut view: JobView) -> JobView {
    view.state = JobState::Waiting;
    view.progress = 0;
    for task in &mut view.tasks {
        let waits = match task.kind {
            TaskKind::Render => "ready",
            TaskKind::Assemble => "blocked",
        };
        (task.state, task.attempt, task.step) = (waits.into(), 0, 0);
    }
    view
}

fn record(view: &JobView) -> JobRecord {
    serde_json::from_value(view.request.clone()).unwrap_or_else(|error| {
        tracing::error!(job = %view.id, %error, "the record of a job cannot be read");
        JobRecord::default()
    })
}

pub fn status(state: JobState) -> Status {
    match state {
        JobState::Waiting => Status::Queued,
        JobState::Rendering => Status::InProgress,
        JobState::Succeeded => Status::Completed,
        JobState::Failed => Status::Failed,
        JobState::Cancelled => Status::Cancelled,
    }
}

/// 100 says that the content can be downloaded, so nothing else may.
fn progress(view: &JobView) -> u8 {
    let published = view.state == JobState::Succeeded && view.artefact(Variant::Film).is_some();
    if published {
        100
    } else {
        view.progress.min(99)
    }
}

fn attempt(view: &JobView) -> Option<u32> {
    let leased = view.tasks.iter().filter(|task| task.state == "leased");
    let latest = leased.map(|task| task.attempt).max();
    latest
        .or_else(|| view.tasks.iter().map(|task| task.attempt).max())
        .filter(|&n| n > 0)
}

/// Steps done and of how many, over all shots.
fn steps(view: &JobView, live: Option<&LiveJob>, record: &JobRecord) -> (u32, u32) {
    let renders = || {
        view.tasks
            .iter()
            .filter(|task| task.kind == TaskKind::Render)
    };
    let total = |task: &TaskView| {
        if task.steps > 0 {
            task.steps
        } else {
            record.shot_steps
        }
    };
    renders().fold((0, 0), |(done, all), task| {
        (done + step(task, live, total(task)), all + total(task))
    })
}

/// Steps done of one shot; live values are fresher than the stored ones.
fn step(task: &TaskView, live: Option<&LiveJob>, total: u32) -> u32 {
    if task.state == "succeeded" {
        return total;
    }
    let fresh = live.and_then(|live| live.tasks.iter().find(|other| other.index == task.index));
    fresh
        .map_or(task.step, |fresh| fresh.step.max(task.step))
        .min(total)
}

fn shots(view: &JobView, live: Option<&LiveJob>, record: &JobRecord) -> Vec<Shot> {
    let renders = view
        .tasks
        .iter()
        .filter(|task| task.kind == TaskKind::Render);
    renders
        .zip(&record.shots)
        .map(|(task, shot)| {
            let status = shot_status(task);
            let steps = if task.steps > 0 {
                task.steps
            } else {
                record.shot_steps
            };
            let percent = step(task, live, steps) * 100 / steps.max(1);
            Shot {
                id: format!("shot_{}", task.index + 1),
                index: task.index,
                status,
                progress: match status {
                    Status::Completed => 100,
                    _ => u8::try_from(percent.min(99)).unwrap_or(99),
                },
                seconds: seconds(shot.frames, record.fps),
                seed: shot.seed,
            }
        })
        .collect()
}

/// A shot that was granted once is in progress until its end, whoever works on it.
fn shot_status(task: &TaskView) -> Status {
    match task.state.as_str() {
        "succeeded" => Status::Completed,
        "failed" => Status::Failed,
        "cancelled" => Status::Cancelled,
        _ if task.attempt > 0 => Status::InProgress,
        _ => Status::Queued,
    }
}

/// A decimal number without needless digits: `4`, `2.5`.
fn seconds(frames: u32, fps: u32) -> String {
    (f64::from(frames) / f64::from(fps.max(1))).to_string()
}

fn usage(view: &JobView, record: &JobRecord, price: &PriceSettings) -> Usage {
    let state = match view.reservation.state {
        ReservationState::Pending => "reserved",
        ReservationState::Posted => "posted",
        ReservationState::Voided => "voided",
    };
    let used: i64 = view
        .tasks
        .iter()
        .map(|task| task.used.0)
        .fold(0, i64::saturating_add);
    Usage {
        state: state.into(),
        reserved_gpu_seconds: view.reservation.reserved.as_secs_f64(),
        gpu_seconds: schemas::GpuMicros(used).as_secs_f64(),
        video_seconds: f64::from(record.seconds),
        saved: view.saved.map(|millionths| millionths as f64 / 1e6),
        cost: price.money(charged(&view.reservation)),
    }
}

/// What is or will be paid: what is held until the end, then what was posted and not given back.
fn charged(reservation: &ReservationView) -> GpuMicros {
    match reservation.state {
        ReservationState::Pending => reservation.reserved,
        _ => GpuMicros(reservation.posted.0 - reservation.refunded.0),
    }
}

#[cfg(test)]
mod tests {
    use schemas::{AccountId, JobId, TaskId, task::Artefact};
    use uuid::Uuid;

    use super::*;
    use crate::{admission::ShotRecord, core::rows::JobError};

    fn task(index: u32, kind: TaskKind, state: &str, attempt: u32, step: u32) -> TaskView {
        TaskView {
            id: TaskId(Uuid::from_u128(u128::from(index))),
            index,
            kind,
            state: state.into(),
            attempt,
            step,
            steps: 10,
            failures: 0,
            estimate: GpuMicros(1_000_000),
            used: GpuMicros(250_000),
        }
    }

    fn view(state: JobState) -> JobView {
        let record = JobRecord {
            model: "sora-2".into(),
            prompt: "p".into(),
            seconds: 8,
            size: "720x1280".into(),
            native_size: "64x112".into(),
            fps: 16,
            shot_steps: 10,
            shots: vec![
                ShotRecord {
                    frames: 64,
                    seed: 1,
                },
                ShotRecord {
                    frames: 40,
                    seed: 2,
                },
            ],
            ..JobRecord::default()
        };
        JobView {
            id: JobId(Uuid::from_u128(5)),
            project: AccountId(Uuid::from_u128(6)),
            request: serde_json::to_value(record).unwrap(),
            seed: 1,
            state,
            progress: 40,
            created_at_ms: 1_795_360_000_900,
            ended_at_ms: state.is_terminal().then_some(1_795_360_142_000),
            error: None,
            saved: None,
            tasks: vec![
                task(0, TaskKind::Render, "succeeded", 1, 10),
                task(1, TaskKind::Render, "leased", 2, 3),
                task(2, TaskKind::Assemble, "blocked", 0, 0),
            ],
            artefacts: Vec::new(),
            reservation: ReservationView {
                state: ReservationState::Pending,
                reserved: GpuMicros(4_500_000),
                posted: GpuMicros(0),
                refunded: GpuMicros(0),
            },
        }
    }

    #[test]
    fn all_thirteen_keys_are_there_and_seconds_is_a_string() {
        let json =
            serde_json::to_value(video(&view(JobState::Waiting), &Beside::default())).unwrap();
        for key in [
            "id",
            "object",
            "model",
            "status",
            "progress",
            "created_at",
            "completed_at",
            "expires_at",
            "prompt",
            "seconds",
            "size",
            "remixed_from_video_id",
            "error",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
        assert_eq!(json["seconds"], "8");
        assert_eq!(json["status"], "queued");
        assert_eq!(json["created_at"], 1_795_360_000);
        assert_eq!(json["native_size"], "64x112");
    }

    #[test]
    fn a_job_that_was_taken_at_once_is_still_shown_as_created() {
        let video = video(&at_creation(view(JobState::Rendering)), &Beside::default());
        assert_eq!((video.status, video.progress), (Status::Queued, 0));
        assert_eq!((video.attempt, video.steps_done), (None, 0));
        let queued = |shot: &Shot| (shot.status, shot.progress) == (Status::Queued, 0);
        assert!(video.shots.iter().all(queued));
    }

    #[test]
    fn a_running_job_shows_its_steps_shots_and_attempt() {
        let video = video(&view(JobState::Rendering), &Beside::default());
        assert_eq!(
            (video.status, video.progress, video.attempt),
            (Status::InProgress, 40, Some(2))
        );
        assert_eq!((video.steps_done, video.steps_total), (13, 20));
        let shots: Vec<_> = video
            .shots
            .iter()
            .map(|s| (s.id.as_str(), s.status, s.progress, s.seconds.as_str()))
            .collect();
        assert_eq!(
            shots,
            [
                ("shot_1", Status::Completed, 100, "4"),
                ("shot_2", Status::InProgress, 30, "2.5")
            ]
        );
        assert_eq!(video.usage.state, "reserved");
        assert_eq!(video.usage.gpu_seconds, 0.75);
    }

    #[test]
    fn only_a_job_with_a_film_is_at_100_and_only_a_failed_one_has_an_error() {
        let mut done = view(JobState::Succeeded);
        done.progress = 100;
        assert_eq!(video(&done, &Beside::default()).progress, 99);
        done.artefacts = vec![Artefact {
            variant: Variant::Film,
            digest: schemas::Digest::of(b"f"),
            bytes: 1,
        }];
        let shown = video(&done, &Beside::default());
        assert_eq!(
            (shown.progress, shown.completed_at),
            (100, Some(1_795_360_142))
        );
        let mut failed = view(JobState::Failed);
        failed.error = Some(JobError {
            code: "device_lost".into(),
            message: "m".into(),
        });
        let shown = video(&failed, &Beside::default());
        assert_eq!((shown.status, shown.completed_at), (Status::Failed, None));
        assert_eq!(shown.error.unwrap().code, "device_lost");
        assert_eq!(
            video(&view(JobState::Cancelled), &Beside::default()).status,
            Status::Cancelled
        );
    }

    #[test]
    fn a_record_that_cannot_be_read_still_shows_the_job() {
        let mut broken = view(JobState::Waiting);
        broken.request = serde_json::json!("?");
        assert_eq!(video(&broken, &Beside::default()).status, Status::Queued);
    }
}
