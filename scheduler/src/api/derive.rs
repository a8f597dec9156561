//! The calls that make a video of another: remix, edit, extension.

use axum::{
    Extension, Json,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
};
use http::HeaderMap;
use schemas::task::Variant;

use super::{
    ApiState,
    auth::Caller,
    body::read_fields,
    error::ApiError,
    estimate,
    models::catalogue,
    read::{Derived, read_derived},
    submit::make,
    videos::find,
};
use crate::{
    admission::{
        Catalogue, Code, Continuation, JobRecord, Lineage, Operation, Refusal, Source, VideoRequest,
    },
    core::rows::JobState,
    store::read::JobView,
};

/// Share of the noise that a remix begins with, where the request does not say.
const STRENGTH_DEFAULT: f64 = 0.6;

/// `POST /v1/videos/{id}/remix`
pub async fn remix(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let call = Call::read(request, Operation::Remix, Some(id)).await?;
    call.answer(&state, &caller).await
}

/// `POST /v1/videos/edits`
pub async fn edit(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    let call = Call::read(request, Operation::Edit, None).await?;
    call.answer(&state, &caller).await
}

/// `POST /v1/videos/extensions`
pub async fn extend(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    let call = Call::read(request, Operation::Extend, None).await?;
    call.answer(&state, &caller).await
}

/// One call, read.
struct Call {
    operation: Operation,
    path: String,
    headers: HeaderMap,
    /// Id of the video to make it of.
    video: String,
    wish: VideoRequest,
}

impl Call {
    async fn read(
        request: Request,
        operation: Operation,
        video: Option<String>,
    ) -> Result<Self, ApiError> {
        let (path, headers) = (request.uri().path().to_owned(), request.headers().clone());
        let Derived { video, wish } = read_derived(read_fields(request).await?, operation, video)?;
        Ok(Self {
            operation,
            path,
            headers,
            video,
            wish,
        })
    }

    async fn answer(self, state: &ApiState, caller: &Caller) -> Result<Response, ApiError> {
        let found = finished(state, caller, &self.video).await?;
        let catalogue = catalogue(state).await?;
        let wish = match self.operation {
            Operation::Extend => extension(self.wish, &found, &catalogue),
            _ => remade(self.wish, &found),
        };
        let wish = VideoRequest {
            model: Some(found.record.model.clone()),
            size: Some(found.record.size.clone()),
            lineage: Lineage {
                operation: self.operation,
                source: Some(self.video),
            },
            ..wish
        };
        if wish.dry_run {
            let asked = estimate::Asked {
                wishes: vec![wish],
                count: 1,
                catalogue: &catalogue,
            };
            return Ok(Json(estimate::answer(state, caller, asked).await?).into_response());
        }
        let at = (self.path.as_str(), &self.headers);
        make(state, caller, at, &wish, &catalogue, Ok(())).await
    }
}

/// A finished video of the caller's project.
struct Found {
    record: JobRecord,
    film: Source,
}

async fn finished(state: &ApiState, caller: &Caller, id: &str) -> Result<Found, ApiError> {
    let view = find(state, caller, id).await?;
    let film = film_of(&view)?;
    let record = serde_json::from_value(view.request).map_err(|error| {
        tracing::error!(job = %view.id, %error, "the record of a job cannot be read");
        Refusal::new(
            Code::ServerError,
            "The record of this video cannot be read.",
        )
    })?;
    Ok(Found { record, film })
}

fn film_of(view: &JobView) -> Result<Source, Refusal> {
    let refuse = |code, why| Err(Refusal::new(code, why).about("video"));
    match view.state {
        JobState::Succeeded => {}
        JobState::Failed | JobState::Cancelled => {
            return refuse(
                Code::VideoFailed,
                "The video has no film: it did not end well.",
            );
        }
        JobState::Waiting | JobState::Rendering => {
            return refuse(
                Code::VideoNotReady,
                "The video is not finished yet. Wait for it first.",
            );
        }
    }
    match view.artefact(Variant::Film) {
        Some(film) => Ok(Source {
            digest: film.digest,
            bytes: None,
        }),
        None => refuse(
            Code::AssetExpired,
            "The film of this video is not kept any more.",
        ),
    }
}

/// The film of a finished video, for a request that names one as what it is given.
pub async fn film(state: &ApiState, caller: &Caller, id: &str) -> Result<Source, ApiError> {
    let view = find(state, caller, id).await?;
    Ok(film_of(&view)?)
}

/// Gives a create call the film of the video that it names.
pub async fn name_film(
    state: &ApiState,
    caller: &Caller,
    id: Option<String>,
    wish: &mut VideoRequest,
) -> Result<(), ApiError> {
    if let Some(id) = id {
        wish.video_reference = Some(film(state, caller, &id).await?);
    }
    Ok(())
}

/// The same film by another prompt: from its noise on, or only a stretch of it.
fn remade(wish: VideoRequest, found: &Found) -> VideoRequest {
    let strength = match wish.retake {
        Some(_) => wish.strength,
        None => wish.strength.or(Some(STRENGTH_DEFAULT)),
    };
    VideoRequest {
        seconds: Some(found.record.seconds.to_string()),
        video_reference: Some(found.film.clone()),
        strength,
        ..wish
    }
}

fn extension(wish: VideoRequest, found: &Found, catalogue: &Catalogue) -> VideoRequest {
    let model = catalogue.get(&found.record.model);
    let fps = model.map_or(found.record.fps, |model| model.clip.fps);
    VideoRequest {
        continues: Some(Continuation {
            source: found.film.clone(),
            seconds: found.record.seconds,
            frames: found.record.seconds * fps,
            extensions: found.record.extensions,
        }),
        ..wish
    }
}
