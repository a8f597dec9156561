//! From a parsed request to a job of the farm, once: what `create` does between reading and answering.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use schemas::{GpuMicros, JobId, TaskId};
use uuid::Uuid;

use super::{
    ApiState,
    auth::Caller,
    error::ApiError,
    object::at_creation,
    once::Once,
    videos::{foretold, show, shown},
};
use crate::{
    admission::{self, Catalogue, Code, Order, Refusal, SEED_MAX, Submission, VideoRequest},
    core::{
        command::{Refusal as CoreRefusal, Submitted},
        rows::{Dedupe, NewJob},
        users::User,
    },
};

const DEDUPLICATED: HeaderName = HeaderName::from_static("x-dailies-deduplicated");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const TRUE: HeaderValue = HeaderValue::from_static("true");

/// Judges and submits; what was refused is remembered for retries and idempotency keys.
pub async fn make(
    state: &ApiState,
    caller: &Caller,
    (path, headers): (&str, &HeaderMap),
    wish: &VideoRequest,
    catalogue: &Catalogue,
    rate: Result<(), ApiError>,
) -> Result<Response, ApiError> {
    let once = Once::begin(state, caller, headers, path, wish).await?;
    let made = match rate {
        Ok(()) => submit(state, caller, &once, wish, catalogue).await,
        Err(error) => Err(error),
    };
    if let Err(error) = &made {
        once.refused(state, error).await;
    }
    made
}

async fn submit(
    state: &ApiState,
    caller: &Caller,
    once: &Once,
    wish: &VideoRequest,
    catalogue: &Catalogue,
) -> Result<Response, ApiError> {
    once.save_errors(state).await?;
    may_send(caller, wish)?;
    let mut order = decide(state, wish, catalogue).await?;
    let quoted = wish.quote.as_ref().map_or(Ok(()), |quote| {
        let now_ms = state.dispatcher.now_ms();
        let quotes = &state.edge.quotes;
        quotes.apply(quote, caller.project, &mut order, now_ms)
    });
    for file in &order.files {
        state.artifacts.put_upload(file).await?;
    }
    let job = order.into_job(
        Submission {
            id: JobId(Uuid::now_v7()),
            project: caller.project,
            user: user(caller, wish),
            dedupe: once.dedupe(),
            idempotency: once.idempotency.clone(),
        },
        || TaskId(Uuid::now_v7()),
    );
    match quoted {
        Ok(()) => answer_submit(state, caller, job).await,
        // What was answered before is answered again, however old its quote is by now.
        Err(refusal) => match state.dispatcher.kept_answer(job).await? {
            Some(kept) => answer(state, caller, kept).await,
            None => Err(refusal.into()),
        },
    }
}

/// A key has a highest priority.
pub fn may_send(caller: &Caller, wish: &VideoRequest) -> Result<(), ApiError> {
    if wish.priority <= caller.priority_max {
        return Ok(());
    }
    let (asked, most) = (wish.priority.name(), caller.priority_max.name());
    let message = format!(
        "This key may send priority '{most}' at most, not '{asked}'. An operator makes keys for \
         more with 'dailies keys create NAME --priority-max {asked}'."
    );
    Err(Refusal::new(Code::InsufficientPermissions, message)
        .about("priority")
        .into())
}

/// Who of the project asks.
pub fn user(caller: &Caller, wish: &VideoRequest) -> Option<User> {
    let text = wish.user.as_deref()?;
    Some(User::new(caller.project, &caller.slug, text))
}

/// Judges away from the event loop: a reference image takes its time to decode.
pub async fn decide(
    state: &ApiState,
    wish: &VideoRequest,
    catalogue: &Catalogue,
) -> Result<Order, ApiError> {
    let (edge, wish, catalogue) = (state.edge.clone(), wish.clone(), catalogue.clone());
    let seed = random_seed();
    tokio::task::spawn_blocking(move || {
        admission::decide(&wish, &catalogue, &edge.blocklist, seed).map_err(ApiError::from)
    })
    .await
    .expect("admission does not panic and the runtime runs while it serves")
}

/// From the operating system's randomness, by way of a fresh UUID.
fn random_seed() -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&blake3::hash(Uuid::now_v7().as_bytes()).as_bytes()[..8]);
    u64::from_le_bytes(first) & SEED_MAX
}

async fn answer_submit(
    state: &ApiState,
    caller: &Caller,
    job: NewJob,
) -> Result<Response, ApiError> {
    let again = NewJob {
        dedupe: job.dedupe.clone().map(|dedupe| Dedupe {
            retry_count: 0,
            ..dedupe
        }),
        ..job.clone()
    };
    match submit_once(state, job).await? {
        Submitted::Deduplicated(id) => match state.store.job(caller.project, id).await? {
            Some(view) => Ok(marked(show(state, &view).await?, DEDUPLICATED)),
            // The job was deleted meanwhile, so the retry is a new wish.
            None => match submit_once(state, again).await? {
                Submitted::Created(id) => created(state, caller, id).await,
                other => Err(refused(other)),
            },
        },
        submitted => answer(state, caller, submitted).await,
    }
}

async fn answer(
    state: &ApiState,
    caller: &Caller,
    submitted: Submitted,
) -> Result<Response, ApiError> {
    match submitted {
        Submitted::Created(id) => created(state, caller, id).await,
        Submitted::Replayed(id) => Ok(marked(shown(state, caller, id).await?, REPLAYED)),
        Submitted::ReplayedAnswer(kept) => Ok(marked(kept_answer(&kept), REPLAYED)),
        other => Err(refused(other)),
    }
}

/// A new job is `queued`, however fast an agent is.
async fn created(state: &ApiState, caller: &Caller, id: JobId) -> Result<Response, ApiError> {
    let view = state.store.job(caller.project, id).await?;
    let view = view.ok_or_else(|| ApiError::video_not_found(&id.to_string()))?;
    let (video, promise) = foretold(state, &at_creation(view)).await?;
    if let Some(promise) = promise {
        state.dispatcher.promise(id, promise).await?;
    }
    state.forecaster.tell();
    Ok(Json(video).into_response())
}

/// Submits; when the commit is in doubt, the database says whether the job is there.
async fn submit_once(state: &ApiState, job: NewJob) -> Result<Submitted, ApiError> {
    let (project, id) = (job.project, job.id);
    match state.dispatcher.submit(job).await {
        Ok(submitted) => Ok(submitted),
        Err(error) => match state.store.job(project, id).await {
            Ok(Some(_)) => Ok(Submitted::Created(id)),
            Ok(None) | Err(_) => Err(error.into()),
        },
    }
}

fn refused(submitted: Submitted) -> ApiError {
    match submitted {
        Submitted::Refused(refusal) => core_refused(&refusal),
        other => not_taken(&other),
    }
}

/// A refusal of the farm, as the caller reads it.
pub fn core_refused(refusal: &CoreRefusal) -> ApiError {
    match refusal {
        CoreRefusal::KeyReused => Refusal::new(
            Code::IdempotencyKeyReused,
            "This idempotency key was used with another request body; use a new key.",
        )
        .into(),
        CoreRefusal::NeverStarts { param, why } => Refusal::wrong_value(param, why.clone()).into(),
        CoreRefusal::OverBudget { account, until_ms } => over_budget(account, *until_ms).into(),
        CoreRefusal::OverQuota { account, short_by } => over_quota(account, *short_by).into(),
        other => not_taken(other),
    }
}

fn not_taken(why: &impl std::fmt::Debug) -> ApiError {
    tracing::error!(?why, "the farm refused a job that admission had accepted");
    Refusal::new(Code::ServerError, "The farm did not take the job.").into()
}

/// No wait helps: only the farm's operator can grant more.
fn over_quota(account: &str, short_by: GpuMicros) -> Refusal {
    Refusal::new(
        Code::InsufficientQuota,
        format!(
            "The quota of '{account}' does not suffice: {:.1} seconds of a device more are needed than \
             it has. Ask the operator of the farm for more.",
            short_by.as_secs_f64()
        ),
    )
}

/// Until the period ends, or the operator raises the budget.
fn over_budget(account: &str, until_ms: i64) -> Refusal {
    let until = jiff::Timestamp::from_millisecond(until_ms).unwrap_or_default();
    Refusal::new(
        Code::InsufficientQuota,
        format!(
            "The budget of '{account}' for this period is used up; it is looked at again at {}. \
             Ask the operator of the farm for more.",
            until.strftime("%Y-%m-%d %H:%M UTC")
        ),
    )
}

fn kept_answer(kept: &serde_json::Value) -> Response {
    let status = kept["status"]
        .as_u64()
        .and_then(|status| u16::try_from(status).ok());
    let status = status.and_then(|status| http::StatusCode::from_u16(status).ok());
    (
        status.unwrap_or(http::StatusCode::BAD_REQUEST),
        Json(&kept["body"]),
    )
        .into_response()
}

fn marked(mut response: Response, name: HeaderName) -> Response {
    response.headers_mut().insert(name, TRUE);
    response
}
