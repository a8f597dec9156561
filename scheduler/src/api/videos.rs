//! The calls on `/v1/videos`: create, estimate, list, retrieve, cancel, delete.

use axum::{
    Extension, Json,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use schemas::{
    JobId,
    video::{DeletedVideo, Status, Video, VideoList},
};

use super::{
    ApiState,
    auth::Caller,
    body::read_fields,
    derive,
    error::ApiError,
    estimate,
    eta::{Foretold, poll_after_ms},
    frame::with_rate,
    limits::{Rate, Take},
    models::catalogue,
    object::{self, Beside},
    once::retry_count,
    page::page_request,
    read::{Many, read_many, read_request},
    read_given::take_id,
    submit::make,
};
use crate::{
    admission::{Catalogue, Refusal, VideoRequest},
    core::calibration::Promise,
    store::read::{After, JobView},
};

const PATH: &str = "/v1/videos";
const POLL_AFTER_MS: HeaderName = HeaderName::from_static("openai-poll-after-ms");
/// How long a repeated DELETE of a deleted video is answered like the first.
const DELETED_AGAIN_MS: i64 = 900_000;
/// How long the id of a deleted video keeps its place in the list.
const CURSOR_MS: i64 = 30 * 24 * 3_600_000;

/// `POST /v1/videos`
pub async fn create(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let headers = request.headers().clone();
    let asked = match ask(&state, &caller, request).await {
        Ok(asked) => asked,
        Err(error) => return error.into_response(),
    };
    let answer = create_asked(&state, &caller, &headers, &asked).await;
    with_rate(
        answer.unwrap_or_else(IntoResponse::into_response),
        asked.rate,
    )
}

async fn create_asked(
    state: &ApiState,
    caller: &Caller,
    headers: &HeaderMap,
    asked: &Asked,
) -> Result<Response, ApiError> {
    let rate = asked.rate.check();
    match &asked.wish {
        Ok(wish) if !wish.dry_run => {
            asked.many.refuse()?;
            let at = (PATH, headers);
            make(state, caller, at, wish, &asked.catalogue, rate).await
        }
        _ => {
            rate?;
            answer_estimate(state, caller, asked).await
        }
    }
}

/// `POST /v1/videos/estimate`
pub async fn estimate(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let asked = match ask(&state, &caller, request).await {
        Ok(asked) => asked,
        Err(error) => return error.into_response(),
    };
    let answer = match asked.rate.check() {
        Ok(()) => answer_estimate(&state, &caller, &asked).await,
        Err(error) => Err(error),
    };
    with_rate(
        answer.unwrap_or_else(IntoResponse::into_response),
        asked.rate,
    )
}

/// A request that was read and counted.
struct Asked {
    wish: Result<VideoRequest, Refusal>,
    many: Many,
    catalogue: Catalogue,
    rate: Rate,
}

async fn ask(state: &ApiState, caller: &Caller, request: Request) -> Result<Asked, ApiError> {
    let mut fields = read_fields(request).await;
    let many = fields
        .as_mut()
        .map_or_else(|_| Ok(Many::default()), read_many);
    let film = fields
        .as_mut()
        .map_or_else(|_| Ok(None), |fields| take_id(fields, "video_reference"));
    let mut wish = many
        .as_ref()
        .map_err(Clone::clone)
        .and_then(|_| fields.and_then(read_request));
    if let Ok(wish) = &mut wish {
        derive::name_film(state, caller, film?, wish).await?;
    }
    let catalogue = catalogue(state).await?;
    let named = wish.as_ref().ok().and_then(|wish| wish.model.as_deref());
    let model = catalogue.get(named.unwrap_or(&catalogue.default_model));
    // Unknown names share one bucket, so that they cannot fill the memory.
    let model = model.map_or("", |model| &model.name);
    let rate = state
        .edge
        .limits
        .take(caller.project, Take::Write { model });
    Ok(Asked {
        wish,
        many: many.unwrap_or_default(),
        catalogue,
        rate,
    })
}

async fn answer_estimate(
    state: &ApiState,
    caller: &Caller,
    asked: &Asked,
) -> Result<Response, ApiError> {
    let wish = asked.wish.as_ref().map_err(Clone::clone)?;
    let of = |prompt: &String| VideoRequest {
        prompt: prompt.clone(),
        ..wish.clone()
    };
    let wishes = match asked.many.prompts.is_empty() {
        true => vec![wish.clone()],
        false => asked.many.prompts.iter().map(of).collect(),
    };
    let asked = estimate::Asked {
        wishes,
        count: asked.many.count,
        catalogue: &asked.catalogue,
    };
    Ok(Json(estimate::answer(state, caller, asked).await?).into_response())
}

/// The answer that shows a job by its id.
pub async fn shown(state: &ApiState, caller: &Caller, id: JobId) -> Result<Response, ApiError> {
    let view = state.store.job(caller.project, id).await?;
    show(
        state,
        &view.ok_or_else(|| ApiError::video_not_found(&id.to_string()))?,
    )
    .await
}

/// The answer that shows a job.
pub async fn show(state: &ApiState, view: &JobView) -> Result<Response, ApiError> {
    Ok(Json(video(state, view).await?).into_response())
}

/// The object of a job, with what memory knows of it.
pub async fn video(state: &ApiState, view: &JobView) -> Result<Video, ApiError> {
    Ok(foretold(state, view).await?.0)
}

/// The same, with what it foretells.
pub async fn foretold(
    state: &ApiState,
    view: &JobView,
) -> Result<(Video, Option<Promise>), ApiError> {
    let live = match view.state.is_terminal() {
        true => None,
        false => state.dispatcher.live(view.id).await?,
    };
    let (forecast, now_ms) = (state.forecaster.latest(), state.dispatcher.now_ms());
    let foretold = live
        .as_ref()
        .map(|live| Foretold::new(live, &forecast, now_ms));
    let promise = live.as_ref().zip(foretold.as_ref());
    let promise = promise.and_then(|(live, foretold)| foretold.promise(live));
    let beside = Beside {
        live: live.as_ref(),
        foretold,
        price: state.price().clone(),
        now_ms,
    };
    Ok((object::video(view, &beside), promise))
}

/// A job of the caller's project; any other id is not found.
pub async fn find(state: &ApiState, caller: &Caller, id: &str) -> Result<JobView, ApiError> {
    let not_found = || ApiError::video_not_found(id);
    let job: JobId = id.parse().map_err(|_| not_found())?;
    state
        .store
        .job(caller.project, job)
        .await?
        .ok_or_else(not_found)
}

/// `GET /v1/videos/{id}`
pub async fn retrieve(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let view = find(&state, &caller, &id).await?;
    let video = video(&state, &view).await?;
    let poll_after = poll_after_ms(&video.eta, state.dispatcher.now_ms());
    let waits = matches!(video.status, Status::Queued | Status::InProgress);
    let mut response = Json(video).into_response();
    if waits {
        response
            .headers_mut()
            .insert(POLL_AFTER_MS, HeaderValue::from(poll_after));
    }
    Ok(response)
}

/// `GET /v1/videos`
pub async fn list(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Json<VideoList>, ApiError> {
    let asked = page_request(&uri)?;
    let after = match &asked.after {
        Some(id) => Some(cursor(&state, &caller, id).await?),
        None => None,
    };
    let page = state
        .store
        .jobs_page(caller.project, after, asked.limit, asked.order)
        .await?;
    let mut data = Vec::with_capacity(page.jobs.len());
    for view in &page.jobs {
        data.push(video(&state, view).await?);
    }
    let id = |video: Option<&Video>| video.map(|video| video.id.clone());
    Ok(Json(VideoList {
        object: "list".into(),
        first_id: id(data.first()),
        last_id: id(data.last()),
        has_more: page.has_more && !data.is_empty(),
        data,
    }))
}

/// The place behind a video; one that was deleted keeps its place for a while.
async fn cursor(state: &ApiState, caller: &Caller, id: &str) -> Result<After, ApiError> {
    let unknown = || Refusal::wrong_value("after", "no such video; use the 'last_id' of a page");
    let job: JobId = id.parse().map_err(|_| unknown())?;
    if let Some(grave) = state.store.tombstone(caller.project, job).await?
        && state.dispatcher.now_ms() - grave.deleted_at_ms > CURSOR_MS
    {
        return Err(unknown().into());
    }
    Ok(state
        .store
        .cursor(caller.project, job)
        .await?
        .ok_or_else(unknown)?)
}

/// `POST /v1/videos/{id}/cancel`
pub async fn cancel(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let view = find(&state, &caller, &id).await?;
    // However it ended (now, before, or long ago), the store has the last word.
    state.dispatcher.cancel(caller.project, view.id).await?;
    shown(&state, &caller, view.id).await
}

/// `POST /v1/videos/{id}/pause`: nothing of it starts, and what renders stops at its next step.
pub async fn pause(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let view = find(&state, &caller, &id).await?;
    let by = caller.key_name.clone();
    state.dispatcher.pause(caller.project, view.id, by).await?;
    shown(&state, &caller, view.id).await
}

/// `POST /v1/videos/{id}/resume`
pub async fn resume(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let view = find(&state, &caller, &id).await?;
    state.dispatcher.resume(caller.project, view.id).await?;
    shown(&state, &caller, view.id).await
}

/// `DELETE /v1/videos/{id}`
pub async fn delete(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<DeletedVideo>, ApiError> {
    match find(&state, &caller, &id).await {
        Ok(view) => state.dispatcher.delete(caller.project, view.id).await?,
        Err(error) => match deleted_just_now(&state, &caller, &id, &headers).await? {
            true => {}
            false => return Err(error),
        },
    }
    Ok(Json(DeletedVideo {
        id,
        object: "video.deleted".into(),
        deleted: true,
    }))
}

/// The answer to a DELETE was lost and the client repeats it.
async fn deleted_just_now(
    state: &ApiState,
    caller: &Caller,
    id: &str,
    headers: &HeaderMap,
) -> Result<bool, ApiError> {
    let Ok(job) = id.parse() else {
        return Ok(false);
    };
    if retry_count(headers) == 0 {
        return Ok(false);
    }
    let grave = state.store.tombstone(caller.project, job).await?;
    let now_ms = state.dispatcher.now_ms();
    Ok(grave.is_some_and(|grave| now_ms - grave.deleted_at_ms < DELETED_AGAIN_MS))
}
