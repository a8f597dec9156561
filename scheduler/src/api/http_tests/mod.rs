//! The Videos API through its real router, on a real database, with a scripted agent.

mod content;
mod create;
mod derive;
mod estimate;
mod keys;
mod nodes;
mod quota;
mod reading;
mod repeats;
mod uploaded;

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use schemas::{
    AccountId, AgentId, BootId, Digest,
    agent::{
        Device, FailureClass, Hello, LeaseOffer, LeaseRequest, Outcome, Report, WeightsInfo,
        WriteAnswer,
    },
    task::{Artefact, TaskSpec, Variant},
};
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt;
use uuid::Uuid;

use super::{ApiSettings, ApiState, RateSettings, videos_api};
use crate::{
    artifacts::Artifacts,
    core::{
        command::LeaseReply,
        rows::{AccountRow, KeyRow, Level, Priority},
    },
    dispatcher::{Dispatcher, Stops},
    forecast::Forecaster,
    metrics::Metrics,
    store::Store,
};

const KEY: &str = "sk-test";
const ADMIN_KEY: &str = "sk-admin";
/// May send priority `normal` at most.
const MODEST_KEY: &str = "sk-modest";
const FOREIGN_KEY: &str = "sk-foreign";
const REVOKED_KEY: &str = "sk-revoked";
/// Steps that the agents of these tests report for each task.
const STEPS_RUN: u32 = 12;

/// A farm without agents, and the API in front of it.
struct Farm {
    router: Router,
    dispatcher: Dispatcher,
    forecaster: Forecaster,
    metrics: Metrics,
    store: Store,
    artifacts: Artifacts,
    stops: Stops,
    boot: BootId,
    polls: AtomicU64,
    _folder: TempDir,
}

/// An answer, read whole.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    bytes: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.bytes)))
    }

    fn header(&self, name: &str) -> &str {
        let value = self
            .headers
            .get(name)
            .unwrap_or_else(|| panic!("no header {name}"));
        value.to_str().unwrap()
    }

    fn id(&self) -> String {
        assert_eq!(
            self.status,
            StatusCode::OK,
            "{:?}",
            String::from_utf8_lossy(&self.bytes)
        );
        self.json()["id"].as_str().unwrap().to_owned()
    }

    /// Status and code of an error whose body has the four keys.
    fn error(&self) -> (u16, String) {
        let json = self.json();
        let error = json["error"].as_object().unwrap();
        for key in ["message", "type", "param", "code"] {
            assert!(error.contains_key(key), "{key} is missing: {json}");
        }
        (
            self.status.as_u16(),
            error["code"].as_str().unwrap().to_owned(),
        )
    }
}

impl Farm {
    async fn start() -> Self {
        Self::with(ApiSettings {
            rates: RateSettings {
                writes_per_minute: NonZeroU32::new(10_000).unwrap(),
                reads_per_minute: NonZeroU32::new(10_000).unwrap(),
            },
            blocked_phrases: vec!["forbidden thing".into()],
            ..ApiSettings::default()
        })
        .await
    }

    async fn with(settings: ApiSettings) -> Self {
        let folder = TempDir::new().unwrap();
        let store = Store::open(crate::store::testing::database(folder.path()))
            .await
            .unwrap();
        let artifacts = Artifacts::in_folder(folder.path()).unwrap();
        let (stops, metrics) = (Stops::default(), Metrics::new().unwrap());
        let counted = metrics.clone();
        let (dispatcher, writer) = Dispatcher::start(
            store.clone(),
            crate::settings::Settings::default().limits().unwrap(),
            metrics,
            stops.clone(),
        )
        .await
        .unwrap();
        tokio::spawn(writer);
        add_keys(&dispatcher).await;
        let forecaster = Forecaster::new(dispatcher.clone(), counted.clone());
        let state = ApiState::new(
            dispatcher.clone(),
            store.clone(),
            artifacts.clone(),
            forecaster.clone(),
            settings,
            stops.serving.clone(),
        );
        Self {
            router: videos_api(state),
            dispatcher,
            forecaster,
            metrics: counted,
            store,
            artifacts,
            stops,
            boot: BootId(Uuid::now_v7()),
            polls: AtomicU64::new(0),
            _folder: folder,
        }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        assert!(
            parts.headers["x-request-id"]
                .to_str()
                .unwrap()
                .starts_with("req_")
        );
        assert_eq!(parts.headers["openai-version"], "2020-10-01");
        for name in ["openai-processing-ms", "openai-organization"] {
            assert!(parts.headers.contains_key(name), "{name}");
        }
        Answer {
            status: parts.status,
            headers: parts.headers,
            bytes,
        }
    }

    async fn call(&self, method: Method, path: &str) -> Answer {
        self.send(request(method, path, &[]).body(Body::empty()).unwrap())
            .await
    }

    async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.post_with(path, body, &[]).await
    }

    async fn post_with(&self, path: &str, body: Value, headers: &[(&str, &str)]) -> Answer {
        let request = request(Method::POST, path, headers)
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        self.send(request).await
    }

    async fn create(&self, prompt: &str) -> String {
        self.post("/v1/videos", serde_json::json!({"prompt": prompt}))
            .await
            .id()
    }

    async fn count(&self) -> usize {
        self.get("/v1/videos?limit=100").await.json()["data"]
            .as_array()
            .unwrap()
            .len()
    }

    /// An agent that holds the built-in weights says hello.
    async fn agent(&self, vocabulary: &[&str]) -> AgentId {
        let hello = Hello {
            name: "node".into(),
            boot: self.boot,
            version: "0".into(),
            devices: vec![Device {
                index: 0,
                class: "cpu".into(),
                memory_bytes: 1 << 30,
            }],
            weights: vec![builtin(vocabulary)],
            ffmpeg: Some("5.1".into()),
            group_max: 1,
        };
        self.dispatcher.hello(hello).await.unwrap().unwrap().agent
    }

    async fn lease(&self, agent: AgentId) -> Option<LeaseOffer> {
        let request = LeaseRequest {
            agent,
            boot: self.boot,
            device: 0,
            poll_id: self.polls.fetch_add(1, Ordering::Relaxed),
        };
        match self
            .dispatcher
            .lease(request, std::time::Duration::ZERO)
            .await
            .unwrap()
        {
            LeaseReply::Offer { offer, .. } => Some(*offer),
            LeaseReply::Idle(_) | LeaseReply::Probe => None,
            LeaseReply::UnknownAgent => panic!("the agent has said hello"),
        }
    }

    /// Reports made-up files for a task.
    async fn finish(&self, offer: &LeaseOffer) {
        let variants = match &offer.spec {
            TaskSpec::Render(_) => vec![Variant::Shot],
            TaskSpec::Assemble(_) => vec![Variant::Film, Variant::Thumbnail, Variant::Spritesheet],
        };
        let mut artefacts = Vec::new();
        for variant in variants {
            let bytes = Bytes::from(format!("the {} of a test", variant.name()));
            let digest = self.artifacts.put_bytes(bytes.clone()).await.unwrap();
            artefacts.push(Artefact {
                variant,
                digest,
                bytes: bytes.len() as u64,
            });
        }
        let outcome = Outcome::Succeeded {
            artefacts,
            device_us: 1_000,
            steps_run: STEPS_RUN,
            times: Default::default(),
            memory: Default::default(),
        };
        let report = Report {
            lease: offer.lease,
            outcome,
        };
        assert_eq!(
            self.dispatcher.report(report).await.unwrap(),
            WriteAnswer::Accepted
        );
    }

    async fn fail(&self, offer: &LeaseOffer) {
        let outcome = Outcome::Failed {
            cause: FailureClass::Rejected,
            message: "too odd".into(),
            peak_bytes: None,
        };
        let report = Report {
            lease: offer.lease,
            outcome,
        };
        assert_eq!(
            self.dispatcher.report(report).await.unwrap(),
            WriteAnswer::Accepted
        );
    }

    /// Renders everything that waits.
    async fn render_all(&self) {
        let agent = self.agent(&[]).await;
        while let Some(offer) = self.lease(agent).await {
            self.finish(&offer).await;
        }
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        self.stops.serving.cancel();
        self.stops.writing.cancel();
    }
}

fn request(method: Method, path: &str, headers: &[(&str, &str)]) -> http::request::Builder {
    let keyed = headers.iter().any(|(name, _)| *name == "authorization");
    let mut builder = Request::builder().method(method).uri(path);
    if !keyed {
        builder = builder.header("authorization", format!("Bearer {KEY}"));
    }
    headers.iter().fold(builder, |builder, (name, value)| {
        builder.header(*name, *value)
    })
}

async fn add_keys(dispatcher: &Dispatcher) {
    for (number, name, keys) in [
        (
            1_u128,
            "studio",
            [KEY, ADMIN_KEY, REVOKED_KEY, MODEST_KEY].as_slice(),
        ),
        (2, "others", &[FOREIGN_KEY]),
    ] {
        let project = AccountId(Uuid::from_u128(number));
        let account = AccountRow {
            id: project,
            parent: None,
            level: Level::Project,
            name: name.into(),
            created_at_ms: 0,
            weight: 1,
        };
        dispatcher.add_account(account).await.unwrap();
        for key in keys {
            let row = KeyRow {
                hash: Digest::of(key.as_bytes()).to_string(),
                project,
                name: (*key).into(),
                created_at_ms: 0,
                revoked_at_ms: None,
                admin: *key == ADMIN_KEY,
                priority_max: match *key == MODEST_KEY {
                    true => Priority::Normal,
                    false => Priority::Urgent,
                },
            };
            dispatcher.add_key(row).await.unwrap();
        }
    }
    let revoked = Digest::of(REVOKED_KEY.as_bytes()).to_string();
    dispatcher.revoke_key(revoked).await.unwrap();
}

fn builtin(vocabulary: &[&str]) -> WeightsInfo {
    WeightsInfo {
        name: "builtin".into(),
        digest: Digest::of(b"weights"),
        title: "built-in procedural-world model".into(),
        sizes: vec![(64, 64), (112, 64), (64, 112)],
        fps: 16,
        frames_default: 65,
        frames_max: 65,
        frames_step: 4,
        steps: 12,
        vocabulary: vocabulary.iter().map(|word| (*word).to_owned()).collect(),
    }
}

/// A form with text fields and files (name, bytes).
fn form(texts: &[(&str, &str)], files: &BTreeMap<&str, Bytes>) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in texts {
        let part =
            format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        body.extend_from_slice(part.as_bytes());
    }
    for (name, bytes) in files {
        let head = format!(
            "--B\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"upload\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--B--\r\n");
    body
}

fn form_request(path: &str, body: Vec<u8>) -> Request<Body> {
    request(Method::POST, path, &[])
        .header("content-type", "multipart/form-data; boundary=B")
        .body(Body::from(body))
        .unwrap()
}
