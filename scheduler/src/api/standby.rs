//! What a scheduler answers while another one leads: it reads by itself and hands the rest on.
//!
//! Films, their lists and their bytes on S3 come from the database and the artefact store. Everything
//! else (commands, live progress, agents, files in the leader's folder) goes to the leader's address,
//! as the leader wrote it beside its term. While nobody leads the answer is 503.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{ApiSettings, ApiState, error::ApiError, videos_api};
use crate::{
    artifacts::{Artifacts, ArtifactsUrl},
    core::live::Counts,
    dispatcher::Dispatcher,
    forecast::Forecaster,
    metrics::Metrics,
    outbound::{self, Outbound, first_cause},
    store::{DatabaseUrl, Store},
};

/// Seconds after which somebody may lead.
const RETRY_AFTER_S: u32 = 2;
/// Marks a request that a standby has handed on: the next one must answer it or refuse it.
const FORWARDED: HeaderName = HeaderName::from_static("dailies-forwarded");
/// Headers that concern one connection and not what goes through it.
const OF_A_CONNECTION: [HeaderName; 7] = [
    header::CONNECTION,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What a standby works with; cheap to clone.
#[derive(Clone, Debug)]
pub struct Standby(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: DatabaseUrl,
    artifacts: Artifacts,
    bytes_here: bool,
    api: ApiSettings,
    metrics: Metrics,
    http: Outbound<Body>,
    stop: CancellationToken,
    /// Absent until the database is there in this version's schema.
    reads: OnceCell<Reads>,
}

#[derive(Clone, Debug)]
struct Reads {
    store: Store,
    videos: Router,
}

/// 503 with the time after which another try is worth it.
fn nobody_leads(why: &str) -> ApiError {
    ApiError::overloaded(why).with(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S))
}

impl Standby {
    /// `stop` ends open event streams.
    pub fn new(
        database: DatabaseUrl,
        artifacts: Artifacts,
        api: ApiSettings,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Self {
        let bytes_here = matches!(artifacts.url(), ArtifactsUrl::S3 { .. });
        Self(Arc::new(Inner {
            database,
            artifacts,
            bytes_here,
            api,
            metrics,
            http: outbound::plain(),
            stop,
            reads: OnceCell::new(),
        }))
    }

    /// Ends its connections to the database.
    pub async fn close(&self) {
        if let Some(reads) = self.0.reads.get() {
            reads.store.close().await;
        }
    }

    async fn reads(&self) -> Result<&Reads, ApiError> {
        let inner = &*self.0;
        let open = || async {
            let store = Store::open_to_read(&inner.database).await?;
            let store = store
                .ok_or_else(|| nobody_leads("The database is not ready yet; try again shortly."))?;
            let dispatcher = Dispatcher::follower(inner.metrics.clone(), inner.stop.clone());
            let forecaster = Forecaster::new(dispatcher.clone(), inner.metrics.clone());
            let state = ApiState::new(
                dispatcher,
                store.clone(),
                inner.artifacts.clone(),
                forecaster,
                inner.api.clone(),
                inner.stop.clone(),
            );
            let videos = videos_api(state);
            Ok::<_, ApiError>(Reads { store, videos })
        };
        inner.reads.get_or_try_init(open).await
    }

    /// Whether the database or the artefact store has the whole answer.
    fn answers(&self, method: &Method, path: &str) -> bool {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let mut parts = path.strip_prefix("/v1/videos").unwrap_or("?").split('/');
        let word = (parts.next(), parts.next(), parts.next(), parts.next());
        reads
            && match word {
                (Some(""), None, ..) => true,
                (Some(""), Some(id), None, _) => id.starts_with("video_"),
                (Some(""), Some(_), Some("content"), None) => self.0.bytes_here,
                _ => false,
            }
    }

    async fn forward(&self, store: &Store, request: Request) -> Result<Response, ApiError> {
        let gone = "No scheduler leads at this moment; try again shortly.";
        let leader = store.leader_address().await?;
        let (mut parts, body) = request.into_parts();
        let Some(leader) = leader.filter(|_| !parts.headers.contains_key(FORWARDED)) else {
            return Err(nobody_leads(gone));
        };
        let rest = parts.uri.path_and_query();
        let to = format!("{leader}{}", rest.map_or("/", |rest| rest.as_str()));
        parts.uri = Uri::try_from(to).map_err(|_| {
            tracing::error!(leader, "the leader's address cannot be called");
            nobody_leads("The leader's address cannot be called; tell the operator.")
        })?;
        strip(&mut parts.headers);
        parts
            .headers
            .insert(FORWARDED, HeaderValue::from_static("1"));
        let asked = self.0.http.request(Request::from_parts(parts, body));
        let answer = tokio::select! {
            answer = asked => answer,
            // This scheduler leads now: who waits for the one before asks again.
            () = self.0.stop.cancelled() => return Err(nobody_leads(gone)),
        };
        match answer {
            Ok(mut answer) => {
                strip(answer.headers_mut());
                Ok(answer.map(Body::new))
            }
            Err(error) => {
                let cause = first_cause(&error);
                tracing::warn!(leader, cause, "the leader does not answer");
                Err(nobody_leads(gone))
            }
        }
    }
}

fn strip(headers: &mut HeaderMap) {
    for name in OF_A_CONNECTION {
        headers.remove(name);
    }
}

/// Every path.
pub fn standby_api(standby: Standby) -> Router {
    Router::new().fallback(answer).with_state(standby)
}

async fn answer(State(standby): State<Standby>, request: Request) -> Result<Response, ApiError> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    if path == "/metrics" {
        return Ok(metrics_text(&standby.0.metrics));
    }
    let reads = standby.reads().await?;
    if path == "/healthz" {
        let leader = reads.store.leader_address().await?;
        let body = serde_json::json!({"status": "ok", "role": "standby", "leader": leader});
        return Ok(Json(body).into_response());
    }
    if standby.answers(&method, &path) {
        let answer = reads.videos.clone().oneshot(request).await;
        return Ok(answer.unwrap_or_else(|never| match never {}));
    }
    standby.forward(&reads.store, request).await
}

fn metrics_text(metrics: &Metrics) -> Response {
    match metrics.render(&Counts::default()) {
        Ok(text) => {
            let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
            (kind, text).into_response()
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;
    use crate::store::testing::database;

    async fn standby(folder: &std::path::Path) -> Standby {
        let artifacts = Artifacts::in_folder(folder).unwrap();
        Standby::new(
            database(folder),
            artifacts,
            ApiSettings::default(),
            Metrics::new().unwrap(),
            CancellationToken::new(),
        )
    }

    async fn ask(standby: &Standby, method: &str, path: &str) -> Response {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Body::empty()).unwrap();
        standby_api(standby.clone()).oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn without_database_or_leader_it_says_when_to_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let standby = standby(folder.path()).await;
        let answer = ask(&standby, "GET", "/v1/videos").await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()[header::RETRY_AFTER], "2");

        let store = Store::open(database(folder.path())).await.unwrap();
        let term = store.take_term().await.unwrap();
        let answer = ask(&standby, "POST", "/v1/videos").await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        // Port 1 is nobody's: as if the leader had just died.
        store.advertise(term, "http://127.0.0.1:1").await.unwrap();
        let answer = ask(&standby, "POST", "/v1/videos").await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()[header::RETRY_AFTER], "2");

        let answer = ask(&standby, "GET", "/v1/videos").await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "it reads keys");
        for path in ["/healthz", "/metrics"] {
            assert_eq!(ask(&standby, "GET", path).await.status(), StatusCode::OK);
        }
    }

    #[tokio::test]
    async fn two_standbys_do_not_hand_a_request_to_and_fro() {
        let folder = tempfile::tempdir().unwrap();
        let standby = standby(folder.path()).await;
        let store = Store::open(database(folder.path())).await.unwrap();
        let term = store.take_term().await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = format!("http://{}", listener.local_addr().unwrap());
        store.advertise(term, &own).await.unwrap();
        let server = axum::serve(listener, standby_api(standby.clone()));
        tokio::spawn(server.into_future());
        let answer = ask(&standby, "POST", "/v1/videos").await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn it_answers_reads_and_hands_on_everything_else() {
        let folder = tempfile::tempdir().unwrap();
        let standby = standby(folder.path()).await;
        for (method, path, here) in [
            (Method::GET, "/v1/videos", true),
            (Method::GET, "/v1/videos/video_1", true),
            (Method::HEAD, "/v1/videos/video_1", true),
            (Method::GET, "/v1/videos/video_1/content", false), // in the leader's folder
            (Method::GET, "/v1/videos/video_1/events", false),
            (Method::GET, "/v1/videos/edits", false),
            (Method::POST, "/v1/videos", false),
            (Method::DELETE, "/v1/videos/video_1", false),
            (Method::GET, "/v1/videosome", false),
            (Method::GET, "/v1/models", false),
            (Method::POST, "/agent/v1/lease", false),
        ] {
            assert_eq!(standby.answers(&method, path), here, "{method} {path}");
        }
    }
}
