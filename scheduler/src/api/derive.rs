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
    body::read_fields_and_film,
    error::ApiError,
    estimate,
    film::Film,
    models::catalogue,
    read::{Derived, Parent, read_derived},
    submit::make,
    videos::find,
};
use crate::{
    admission::{
        Catalogue, Code, Continuation, JobRecord, Lineage, Operation, Refusal, Source,
        VideoRequest, unknown_model,
    },
    artifacts::Upload,
    core::rows::JobState,
    store::read::JobView,
};

/// `POST /v1/videos/{id}/remix`
pub async fn remix(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let call = Call::read(&state, request, Operation::Remix, Some(id)).await?;
    call.answer(&state, &caller).await
}

/// `POST /v1/videos/edits`
pub async fn edit(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    let call = Call::read(&state, request, Operation::Edit, None).await?;
    call.answer(&state, &caller).await
}

/// `POST /v1/videos/extensions`
pub async fn extend(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    let call = Call::read(&state, request, Operation::Extend, None).await?;
    call.answer(&state, &caller).await
}

/// One call, read.
struct Call {
    operation: Operation,
    path: String,
    headers: HeaderMap,
    video: Parent,
    wish: VideoRequest,
}

impl Call {
    async fn read(
        state: &ApiState,
        request: Request,
        operation: Operation,
        video: Option<String>,
    ) -> Result<Self, ApiError> {
        let (path, headers) = (request.uri().path().to_owned(), request.headers().clone());
        let fields = read_fields_and_film(request, state.artifacts.waiting_room()).await?;
        let Derived { video, wish } = read_derived(fields, operation, video)?;
        Ok(Self {
            operation,
            path,
            headers,
            video,
            wish,
        })
    }

    async fn answer(self, state: &ApiState, caller: &Caller) -> Result<Response, ApiError> {
        let catalogue = catalogue(state).await?;
        let found = match self.video {
            Parent::Own(id) => finished(state, caller, id, &catalogue).await?,
            Parent::Sent(film) => sent(film, self.wish.model.as_deref(), &catalogue).await?,
        };
        let wish = match self.operation {
            Operation::Extend => extension(self.wish, &found),
            _ => remade(self.wish, &found),
        };
        let wish = VideoRequest {
            model: Some(found.model),
            size: Some(found.size),
            lineage: Lineage {
                operation: self.operation,
                source: found.id,
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

/// The video that another is made of.
struct Found {
    /// Of one of the farm's own.
    id: Option<String>,
    model: String,
    size: String,
    seconds: u32,
    frames: u32,
    /// How often it was extended.
    extensions: u32,
    /// Share that is made anew when the call does not say.
    strength: f64,
    film: Source,
}

/// A finished video of the caller's project.
async fn finished(
    state: &ApiState,
    caller: &Caller,
    id: String,
    catalogue: &Catalogue,
) -> Result<Found, ApiError> {
    let view = find(state, caller, &id).await?;
    let film = film_of(&view)?;
    let record: JobRecord = serde_json::from_value(view.request).map_err(|error| {
        tracing::error!(job = %view.id, %error, "the record of a job cannot be read");
        Refusal::new(
            Code::ServerError,
            "The record of this video cannot be read.",
        )
    })?;
    let model = catalogue.get(&record.model);
    let fps = model.map_or(record.fps, |model| model.clip.fps);
    Ok(Found {
        id: Some(id),
        frames: record.seconds * fps,
        model: record.model,
        size: record.size,
        seconds: record.seconds,
        extensions: record.extensions,
        strength: model.map_or(1.0, |model| model.remix_strength),
        film,
    })
}

/// A film that came with the request, for the model that it names.
async fn sent(film: Upload, model: Option<&str>, catalogue: &Catalogue) -> Result<Found, ApiError> {
    let film = Film::measure(film).await?;
    let name = model.unwrap_or(&catalogue.default_model);
    let model = catalogue.get(name);
    let model = model.ok_or_else(|| unknown_model(name, catalogue).about("model"))?;
    Ok(Found {
        id: None,
        model: name.to_owned(),
        size: model.nearest_size(film.size).to_string(),
        seconds: film.whole_seconds(),
        frames: film.frames(model.clip.fps),
        extensions: 0,
        strength: model.remix_strength,
        film: film.source,
    })
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
        Some(film) => Ok(Source::stored(film.digest)),
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
        None => wish.strength.or(Some(found.strength)),
    };
    VideoRequest {
        seconds: Some(found.seconds.to_string()),
        video_reference: Some(found.film.clone()),
        strength,
        ..wish
    }
}

fn extension(wish: VideoRequest, found: &Found) -> VideoRequest {
    VideoRequest {
        continues: Some(Continuation {
            source: found.film.clone(),
            seconds: found.seconds,
            frames: found.frames,
            extensions: found.extensions,
        }),
        ..wish
    }
}
