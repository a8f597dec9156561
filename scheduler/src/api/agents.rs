//! The agent protocol under `/agent/v1`; its table is in `schemas::agent`.
//!
//! Errors have the same body as those of the Videos API. A refusal of a write is an answer, not an error.

use std::time::Duration;

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Path, Query, Request, State, rejection::JsonRejection},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{post, put},
};
use futures::TryStreamExt;
use http::{HeaderMap, StatusCode, header};
use schemas::{
    Digest,
    agent::{
        CheckpointReport, DrainNotice, Heartbeat, HeartbeatAnswer, Hello, LeaseAnswer, LeaseRef,
        LeaseRequest, Outcome, ProbeReport, Report, Welcome, WriteAnswer,
    },
    task::Artefact,
    video::{ErrorBody, ErrorDetail},
};

use crate::{
    artifacts::{ArtifactError, Artifacts, BoxError},
    core::command::LeaseReply,
    dispatcher::{DispatchError, Dispatcher},
    metrics::Metrics,
};

/// JSON bodies of agents: a hello with a long vocabulary is the largest.
const JSON_BYTES_MAX: usize = 4 << 20;
/// When to try again while the writer is busy or folds anew.
const RETRY_AFTER_S: &str = "1";

/// What the agent protocol needs; cheap to clone.
#[derive(Clone, Debug)]
pub struct AgentApi {
    dispatcher: Dispatcher,
    artifacts: Artifacts,
    metrics: Metrics,
    /// BLAKE3 of the agent token; comparing two hashes takes the same time whatever they are.
    token: blake3::Hash,
    long_poll: Duration,
}

#[derive(Debug, thiserror::Error)]
enum AgentError {
    #[error("the agent token is missing or wrong")]
    Token,
    #[error("the body is not what this call takes: {0}")]
    Body(#[from] JsonRejection),
    #[error("an artefact is named by its digest: {0}")]
    Digest(#[from] schemas::digest::BadDigest),
    #[error("{0}")]
    Hello(crate::core::command::Refusal),
    #[error(transparent)]
    Dispatch(#[from] DispatchError),
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

type Answer<T> = Result<Json<T>, AgentError>;
type Sent<T> = Result<Json<T>, JsonRejection>;

impl AgentApi {
    pub fn new(
        dispatcher: Dispatcher,
        artifacts: Artifacts,
        metrics: Metrics,
        token: &str,
        long_poll: Duration,
    ) -> Self {
        Self {
            dispatcher,
            artifacts,
            metrics,
            token: blake3::hash(token.as_bytes()),
            long_poll,
        }
    }

    /// Whether all of these are stored with these sizes.
    async fn stored(&self, artefacts: &[Artefact]) -> Result<Option<String>, ArtifactError> {
        for artefact in artefacts {
            match self.artifacts.size(artefact.digest).await? {
                Some(bytes) if bytes == artefact.bytes => {}
                Some(bytes) => {
                    return Ok(Some(format!(
                        "artefact {} has {bytes} bytes, not {}",
                        artefact.digest, artefact.bytes
                    )));
                }
                None => return Ok(Some(format!("artefact {} is not stored", artefact.digest))),
            }
        }
        Ok(None)
    }
}

/// Paths from `/agent/v1` on.
pub fn agent_api(state: AgentApi) -> Router {
    let calls = Router::new()
        .route("/hello", post(hello))
        .route("/lease", post(lease))
        .route("/heartbeat", post(heartbeat))
        .route("/checkpoint", post(checkpoint))
        .route("/report", post(report))
        .route("/drain", post(drain))
        .route("/probe", post(probe))
        .layer(DefaultBodyLimit::max(JSON_BYTES_MAX))
        .route("/artefacts/{digest}", put(upload).get(download))
        .layer(middleware::from_fn_with_state(state.clone(), check_token))
        .with_state(state);
    Router::new().nest("/agent/v1", calls)
}

async fn check_token(State(api): State<AgentApi>, request: Request, next: Next) -> Response {
    let sent = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    match sent {
        Some(token) if blake3::hash(token.as_bytes()) == api.token => next.run(request).await,
        _ => AgentError::Token.into_response(),
    }
}

async fn hello(State(api): State<AgentApi>, body: Sent<Hello>) -> Answer<Welcome> {
    let Json(hello) = body?;
    let welcome = api.dispatcher.hello(hello).await?;
    welcome.map(Json).map_err(AgentError::Hello)
}

/// The lease runs from when the request came in: the agent counts from when it sent it, which was before.
async fn lease(State(api): State<AgentApi>, body: Sent<LeaseRequest>) -> Answer<LeaseAnswer> {
    let Json(request) = body?;
    let received_ms = api.dispatcher.now_ms();
    let reply = api.dispatcher.lease(request, api.long_poll).await?;
    Ok(Json(match reply {
        LeaseReply::Offer {
            mut offer,
            expires_at_ms,
        } => {
            offer.ttl_ms = (expires_at_ms - received_ms).max(0) as u64;
            LeaseAnswer::Offer(offer)
        }
        LeaseReply::Idle(why) => LeaseAnswer::Idle {
            why: why.code().into(),
        },
        LeaseReply::Probe => LeaseAnswer::Probe,
        LeaseReply::UnknownAgent => LeaseAnswer::UnknownAgent,
    }))
}

async fn heartbeat(State(api): State<AgentApi>, body: Sent<Heartbeat>) -> Answer<HeartbeatAnswer> {
    let Json(beat) = body?;
    Ok(Json(api.dispatcher.heartbeat(beat).await?))
}

async fn drain(State(api): State<AgentApi>, body: Sent<DrainNotice>) -> Answer<WriteAnswer> {
    let Json(notice) = body?;
    api.dispatcher
        .drain(notice.agent, Some(notice.boot))
        .await?;
    Ok(Json(WriteAnswer::Accepted))
}

async fn probe(State(api): State<AgentApi>, body: Sent<ProbeReport>) -> Answer<WriteAnswer> {
    let Json(report) = body?;
    Ok(Json(api.dispatcher.probed(report).await?))
}

async fn checkpoint(
    State(api): State<AgentApi>,
    body: Sent<CheckpointReport>,
) -> Answer<WriteAnswer> {
    let Json(report) = body?;
    let digest = report.checkpoint.digest;
    if api.artifacts.size(digest).await?.is_none() {
        return Ok(not_stored(format!("checkpoint {digest} is not stored")));
    }
    Ok(Json(api.dispatcher.checkpoint(report).await?))
}

async fn report(State(api): State<AgentApi>, body: Sent<Report>) -> Answer<WriteAnswer> {
    let Json(mut report) = body?;
    match &mut report.outcome {
        Outcome::Succeeded { artefacts, .. } => {
            if let Some(why) = api.stored(artefacts).await? {
                return Ok(not_stored(why));
            }
        }
        Outcome::Released { checkpoint, .. } => {
            let digest = checkpoint.map(|c| c.digest);
            if let Some(digest) = digest
                && api.artifacts.size(digest).await?.is_none()
            {
                *checkpoint = None; // the release stands, its checkpoint does not
            }
        }
        Outcome::Failed { .. } => {}
    }
    Ok(Json(api.dispatcher.report(report).await?))
}

fn not_stored(why: String) -> Json<WriteAnswer> {
    Json(WriteAnswer::Refused { why })
}

/// Streams to the disk while hashing. Fenced before the first byte; the bytes of an attempt that
/// loses its lease meanwhile are unreferenced and swept.
async fn upload(
    State(api): State<AgentApi>,
    Path(digest): Path<String>,
    Query(lease): Query<LeaseRef>,
    body: Body,
) -> Answer<WriteAnswer> {
    let digest: Digest = digest.parse()?;
    let stream = Box::pin(body.into_data_stream().map_err(BoxError::from));
    if let Err(refusal) = api.dispatcher.check_leased(lease).await? {
        return Ok(not_stored(refusal.to_string()));
    }
    let bytes = api.artifacts.put_stream(digest, stream).await?;
    api.metrics.uploaded_bytes.inc_by(bytes);
    Ok(Json(WriteAnswer::Accepted))
}

async fn download(
    State(api): State<AgentApi>,
    Path(digest): Path<String>,
) -> Result<Response, AgentError> {
    let digest: Digest = digest.parse()?;
    let bytes = api.artifacts.size(digest).await?;
    let bytes = bytes.ok_or(ArtifactError::NotFound(digest))?;
    let stream = api.artifacts.open(digest, 0..bytes).await?;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_LENGTH, bytes.into());
    let octets = http::HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, octets);
    Ok((headers, Body::from_stream(stream)).into_response())
}

impl AgentError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::Body(rejection) => rejection.status(),
            Self::Digest(_) => StatusCode::BAD_REQUEST,
            Self::Hello(_) => StatusCode::CONFLICT,
            Self::Dispatch(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Artifact(error) => match error {
                ArtifactError::NotFound(_) => StatusCode::NOT_FOUND,
                ArtifactError::WrongDigest { .. } | ArtifactError::BrokenOff(_) => {
                    StatusCode::BAD_REQUEST
                }
                ArtifactError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                ArtifactError::Full { .. } => StatusCode::INSUFFICIENT_STORAGE,
                ArtifactError::Io { .. }
                | ArtifactError::Store { .. }
                | ArtifactError::Refused { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Token => "invalid_agent_token",
            Self::Body(_) => "invalid_json",
            Self::Digest(_) => "invalid_value",
            Self::Hello(_) => "stale_boot",
            Self::Dispatch(_) => "overloaded",
            Self::Artifact(ArtifactError::NotFound(_)) => "not_found",
            Self::Artifact(ArtifactError::WrongDigest { .. }) => "wrong_digest",
            Self::Artifact(ArtifactError::Full { .. }) => "disk_full",
            Self::Artifact(_) => "artefact_store",
        }
    }
}

impl IntoResponse for AgentError {
    fn into_response(self) -> Response {
        let status = self.status();
        if status.is_server_error() {
            tracing::warn!(status = status.as_u16(), cause = ?self, "agent call: {self}");
        }
        let kind = match status.is_server_error() {
            true => "server_error",
            false => "invalid_request_error",
        };
        let body = ErrorBody {
            error: ErrorDetail {
                message: self.to_string(),
                kind: kind.into(),
                param: None,
                code: Some(self.code().into()),
            },
        };
        let mut response = (status, Json(body)).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let wait = http::HeaderValue::from_static(RETRY_AFTER_S);
            response.headers_mut().insert(header::RETRY_AFTER, wait);
        }
        response
    }
}
