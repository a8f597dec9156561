//! `GET /v1/videos/{id}/events`: the state of a job as server-sent events, until it ends.
//!
//! The first event is the present state. Ids count from 1 within the life of a job's state: an event
//! is made from the committed state and from live progress, so a client that comes back with
//! `Last-Event-ID` simply gets the present state under the next id.

use std::{convert::Infallible, time::Duration};

use axum::{
    Extension,
    extract::{Path, State},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use schemas::{
    agent::Phase,
    task::TaskKind,
    video::{Status, Video},
};

use super::{
    ApiState,
    auth::Caller,
    error::ApiError,
    videos::{find, video},
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// How often the state is looked at; so progress comes at most twice a second.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const PING_EVERY: Duration = Duration::from_secs(15);

pub async fn stream(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    find(&state, &caller, &id).await?;
    let last_id = headers
        .get(LAST_EVENT_ID)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let stop = state.edge.stop.clone();
    let events = events(Watch {
        state,
        caller,
        id,
        last_id: last_id.unwrap_or(0),
        seen: None,
    });
    let sse = Sse::new(events.take_until(stop.cancelled_owned()))
        .keep_alive(KeepAlive::new().interval(PING_EVERY).text("ping"));
    let mut response = sse.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

/// One client's view of a job.
struct Watch {
    state: ApiState,
    caller: Caller,
    id: String,
    last_id: u64,
    seen: Option<Video>,
}

fn events(watch: Watch) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(Some(watch), |watch| async move {
        let mut watch = watch?;
        loop {
            if watch.seen.is_some() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            // A deleted job ends the stream; so does a database that is away: the client comes back.
            let view = find(&watch.state, &watch.caller, &watch.id).await.ok()?;
            let now = video(&watch.state, &view).await.ok()?;
            let Some(event) = watch.news(&now).await else {
                continue;
            };
            let ended = now.status.is_terminal();
            watch.seen = Some(now);
            return Some((Ok(event), (!ended).then_some(watch)));
        }
    })
}

impl Watch {
    /// The event that tells what has changed; `None` when nothing has.
    async fn news(&mut self, now: &Video) -> Option<Event> {
        let (name, data) = match &self.seen {
            Some(seen) if seen.status == now.status => {
                let moved = (seen.progress, seen.steps_done) != (now.progress, now.steps_done);
                (moved).then_some(())?;
                ("video.progress", self.progress(now).await)
            }
            _ => (status_event(now.status), serde_json::to_value(now).ok()?),
        };
        self.last_id += 1;
        Event::default()
            .id(self.last_id.to_string())
            .event(name)
            .json_data(data)
            .ok()
    }

    async fn progress(&self, now: &Video) -> serde_json::Value {
        let job = self.id.parse().ok();
        let live = match job {
            Some(job) => self.state.dispatcher.live(job).await.ok().flatten(),
            None => None,
        };
        let running = live
            .as_ref()
            .and_then(|live| live.tasks.iter().find(|t| t.phase.is_some()));
        let shot = running.filter(|task| task.kind == TaskKind::Render);
        serde_json::json!({
            "id": now.id,
            "progress": now.progress,
            "stage": running.map(|task| stage(task.kind, task.phase)),
            "step": now.steps_done,
            "steps": now.steps_total,
            "shot_index": shot.map(|task| task.index),
            "eta": now.eta,
        })
    }
}

fn status_event(status: Status) -> &'static str {
    match status {
        Status::Queued | Status::InProgress => "video.status",
        Status::Completed => "video.completed",
        Status::Failed => "video.failed",
        Status::Cancelled => "video.cancelled",
    }
}

fn stage(kind: TaskKind, phase: Option<Phase>) -> &'static str {
    match (kind, phase) {
        (TaskKind::Assemble, _) => "assemble",
        (TaskKind::Render, Some(Phase::Denoise)) => "sample",
        (TaskKind::Render, Some(Phase::Decode | Phase::Mux | Phase::Upload)) => "decode",
        (TaskKind::Render, _) => "encode",
    }
}
