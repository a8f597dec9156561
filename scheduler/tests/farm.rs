//! A scripted agent speaks HTTP with a real scheduler on a real database.

use std::path::Path;

use reqwest::{Method, StatusCode};
use scheduler::{
    Running, Scheduler, Settings,
    core::rows::{Band, JobState, NewJob, NewTask},
    settings::FarmSettings,
    store::{DatabaseUrl, read::JobView},
};
use schemas::{
    AccountId, BootId, Digest, GpuMicros, JobId, TaskId,
    agent::{
        CheckpointRef, CheckpointReport, Device, DrainNotice, FailureClass, Heartbeat,
        HeartbeatAnswer, Hello, LeaseAnswer, LeaseOffer, LeaseProgress, LeaseRef, LeaseRequest,
        Outcome, Phase, Report, WeightsInfo, Welcome, WriteAnswer,
    },
    task::{Artefact, AssembleSpec, RenderSpec, TaskKind, TaskSpec, Variant},
};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

fn settings(data: &Path) -> Settings {
    Settings {
        listen: ([127, 0, 0, 1], 0).into(),
        data: data.to_path_buf(),
        farm: FarmSettings {
            start_ttl_ms: 2_000,
            lease_ttl_ms: 2_400,
            heartbeat_ms: 800,
            long_poll_ms: 20_000,
            drain_finish_ms: 1_000,
            progress_write_ms: 0,
            ..FarmSettings::default()
        },
        database: database(data),
        ..Settings::default()
    }
}

/// On the PostgreSQL server that `cargo xtask test` names, or beside the other data.
fn database(data: &Path) -> Option<DatabaseUrl> {
    let server = std::env::var("DAILIES_TEST_POSTGRES").ok()?;
    let letters = data.display().to_string();
    let name: String = letters
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    let url = server.replacen("/?", &format!("/{name}?"), 1);
    Some(url.parse().unwrap())
}

/// A server notices a moment later than the file system that the scheduler before has gone.
async fn start(data: &Path) -> Running {
    Scheduler::stand_by(settings(data)).await.unwrap()
}

async fn project(farm: &Running) -> AccountId {
    farm.store().keys().await.unwrap()[0].project
}

fn job(project: AccountId, shots: u32) -> NewJob {
    let task = |spec, inputs, estimate| NewTask {
        id: TaskId(Uuid::now_v7()),
        spec,
        inputs,
        estimate: GpuMicros(estimate),
        reads: Vec::new(),
    };
    let render = |shot| {
        TaskSpec::Render(RenderSpec {
            shot,
            weights: "builtin".into(),
            prompt: "a red ball falls".into(),
            negative_prompt: String::new(),
            width: 96,
            height: 64,
            frames: 17,
            fps: 8,
            seed: 7,
            steps: Some(8),
            guidance_scale: None,
            first_frame: None,
            given: None,
            devices: 1,
        })
    };
    let mut tasks: Vec<NewTask> = (0..shots)
        .map(|shot| task(render(shot), vec![], 6_000_000))
        .collect();
    let film = AssembleSpec {
        shots,
        width: 96,
        height: 64,
        fps: 8,
        shot_frames: vec![16; shots as usize],
        before: None,
    };
    let all = (0..shots).collect();
    tasks.push(task(TaskSpec::Assemble(film), all, 1_000_000));
    NewJob {
        id: JobId(Uuid::now_v7()),
        project,
        request: serde_json::json!({"prompt": "a red ball falls"}),
        seed: u64::MAX,
        band: Band::Standard,
        tasks,
        hold: GpuMicros(20_000_000),
        rank: 0,
        window: None,
        user: None,
        not_before_ms: None,
        deadline_ms: None,
        dedupe: None,
        idempotency: None,
    }
}

/// Plain HTTP is all that these tests speak; who does TLS has to be named all the same.
fn http() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().tls_certs_only([]);
    client.build().unwrap()
}

/// An agent that does what the test says, when it says it.
struct Agent {
    http: reqwest::Client,
    base: String,
    token: String,
    name: &'static str,
    boot: BootId,
    welcome: Welcome,
    poll_id: u64,
}

impl Agent {
    async fn join(farm: &Running, name: &'static str) -> Self {
        let mut agent = Self {
            http: http(),
            base: farm.url(),
            token: farm.agent_token().to_string(),
            name,
            boot: BootId(Uuid::now_v7()),
            welcome: Welcome {
                agent: schemas::AgentId(Uuid::nil()),
                term: 0,
                heartbeat_ms: 0,
                lease_ttl_ms: 0,
            },
            poll_id: 0,
        };
        agent.welcome = agent.call("hello", &agent.hello()).await;
        agent
    }

    fn hello(&self) -> Hello {
        Hello {
            name: self.name.into(),
            boot: self.boot,
            version: "test".into(),
            devices: vec![Device {
                index: 0,
                class: "cpu".into(),
                memory_bytes: 1 << 30,
            }],
            weights: vec![WeightsInfo {
                name: "builtin".into(),
                digest: Digest::of(b"weights"),
                title: "Built-in".into(),
                sizes: vec![(96, 64)],
                fps: 8,
                frames_default: 17,
                frames_max: 65,
                frames_step: 4,
                steps: 8,
                vocabulary: vec!["ball".into()],
            }],
            ffmpeg: Some("5.1".into()),
            group_max: 1,
        }
    }

    async fn send<Q: Serialize>(&self, call: &str, body: &Q) -> reqwest::Response {
        self.http
            .post(format!("{}/agent/v1/{call}", self.base))
            .bearer_auth(&self.token)
            .json(body)
            .send()
            .await
            .unwrap()
    }

    async fn call<Q: Serialize, A: DeserializeOwned>(&self, call: &str, body: &Q) -> A {
        let answer = self.send(call, body).await;
        assert_eq!(answer.status(), StatusCode::OK, "{call}");
        answer.json().await.unwrap()
    }

    async fn poll(&mut self) -> LeaseAnswer {
        self.poll_id += 1;
        self.poll_again().await
    }

    async fn poll_again(&self) -> LeaseAnswer {
        let request = LeaseRequest {
            agent: self.welcome.agent,
            boot: self.boot,
            device: 0,
            poll_id: self.poll_id,
        };
        self.call("lease", &request).await
    }

    async fn lease(&mut self) -> LeaseOffer {
        match self.poll().await {
            LeaseAnswer::Offer(offer) => *offer,
            other => panic!("no offer but {other:?}"),
        }
    }

    /// Waits for work as a real agent does, with a heartbeat beside the poll.
    async fn lease_while_beating(&mut self) -> LeaseOffer {
        self.poll_id += 1;
        let mut period = tokio::time::interval(std::time::Duration::from_millis(400));
        let poll = self.poll_again();
        tokio::pin!(poll);
        loop {
            tokio::select! {
                answer = &mut poll => match answer {
                    LeaseAnswer::Offer(offer) => return *offer,
                    other => panic!("no offer but {other:?}"),
                },
                _ = period.tick() => {
                    self.beat_for(vec![]).await;
                }
            }
        }
    }

    async fn beat(&self, lease: LeaseRef, step: u32) -> HeartbeatAnswer {
        let progress = LeaseProgress {
            lease,
            phase: Phase::Denoise,
            step,
            steps: 8,
            step_ms: Some(700),
        };
        self.beat_for(vec![progress]).await
    }

    async fn beat_for(&self, leases: Vec<LeaseProgress>) -> HeartbeatAnswer {
        let beat = Heartbeat {
            agent: self.welcome.agent,
            boot: self.boot,
            term: self.welcome.term,
            leases,
            devices: vec![],
        };
        self.call("heartbeat", &beat).await
    }

    async fn upload(&self, lease: LeaseRef, bytes: &[u8], digest: Digest) -> reqwest::Response {
        let query = serde_json::to_value(lease).unwrap();
        let query: Vec<String> = query
            .as_object()
            .unwrap()
            .iter()
            .map(|(k, v)| format!("{k}={}", v.to_string().trim_matches('"')))
            .collect();
        let url = format!(
            "{}/agent/v1/artefacts/{digest}?{}",
            self.base,
            query.join("&")
        );
        self.http
            .request(Method::PUT, url)
            .bearer_auth(&self.token)
            .body(bytes.to_vec())
            .send()
            .await
            .unwrap()
    }

    async fn store(&self, lease: LeaseRef, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let answer = self.upload(lease, bytes, digest).await;
        let answer: WriteAnswer = answer.json().await.unwrap();
        assert_eq!(answer, WriteAnswer::Accepted);
        digest
    }

    async fn checkpoint(&self, lease: LeaseRef, step: u32) -> WriteAnswer {
        let digest = self
            .store(lease, format!("latents {step}").as_bytes())
            .await;
        let checkpoint = CheckpointRef { step, digest };
        let report = CheckpointReport { lease, checkpoint };
        self.call("checkpoint", &report).await
    }

    /// Names what is stored already.
    async fn checkpoint_again(&self, lease: LeaseRef, step: u32, digest: Digest) -> WriteAnswer {
        let checkpoint = CheckpointRef { step, digest };
        let report = CheckpointReport { lease, checkpoint };
        self.call("checkpoint", &report).await
    }

    async fn succeed(&self, lease: LeaseRef, variants: &[Variant]) -> WriteAnswer {
        for variant in variants {
            self.store(lease, content(lease, *variant).as_bytes()).await;
        }
        self.report_success(lease, artefacts(lease, variants)).await
    }

    async fn report_success(&self, lease: LeaseRef, artefacts: Vec<Artefact>) -> WriteAnswer {
        let outcome = Outcome::Succeeded {
            artefacts,
            device_us: 2_000_000,
            steps_run: 8,
            times: Default::default(),
            memory: Default::default(),
        };
        self.call("report", &Report { lease, outcome }).await
    }
}

fn content(lease: LeaseRef, variant: Variant) -> String {
    format!("{} of {}", variant.name(), lease.task)
}

fn artefacts(lease: LeaseRef, variants: &[Variant]) -> Vec<Artefact> {
    let artefact = |variant: &Variant| {
        let content = content(lease, *variant);
        Artefact {
            variant: *variant,
            digest: Digest::of(content.as_bytes()),
            bytes: content.len() as u64,
        }
    };
    variants.iter().map(artefact).collect()
}

const FILM: [Variant; 3] = [Variant::Film, Variant::Thumbnail, Variant::Spritesheet];

async fn view(farm: &Running, id: JobId) -> JobView {
    let project = project(farm).await;
    farm.store().job(project, id).await.unwrap().unwrap()
}

fn refused(answer: &WriteAnswer, why: &str) {
    match answer {
        WriteAnswer::Refused { why: said } => assert!(said.contains(why), "{said}"),
        other => panic!("{other:?} where a refusal with '{why}' is due"),
    }
}

#[tokio::test]
async fn a_lost_lease_is_resumed_from_its_checkpoint_and_the_film_is_published_once() {
    let data = tempfile::tempdir().unwrap();
    let farm = start(data.path()).await;
    let (mut first, mut second) = (Agent::join(&farm, "a").await, Agent::join(&farm, "b").await);
    let new = job(project(&farm).await, 1);
    let id = new.id;
    farm.dispatcher().submit(new).await.unwrap();

    let lost = first.lease().await;
    assert_eq!((lost.lease.attempt, lost.checkpoint), (1, None));
    first.beat(lost.lease, 4).await;
    assert_eq!(first.checkpoint(lost.lease, 4).await, WriteAnswer::Accepted);
    assert_eq!(view(&farm, id).await.state, JobState::Rendering);

    // The second agent's poll waits until the lease of the silent first one has run out.
    let offer = second.lease_while_beating().await;
    assert_eq!(offer.lease.attempt, 2);
    assert_eq!(offer.checkpoint.map(|c| c.step), Some(4));
    refused(
        &first.report_success(lost.lease, vec![]).await,
        "attempt 1 is fenced off: the current attempt is 2",
    );
    let late = first.upload(lost.lease, b"late", Digest::of(b"late")).await;
    refused(&late.json().await.unwrap(), "fenced off");

    second.beat(offer.lease, 8).await;
    let shot = second.succeed(offer.lease, &[Variant::Shot]).await;
    assert_eq!(shot, WriteAnswer::Accepted);
    let film = second.lease().await;
    assert_eq!(film.spec.kind(), TaskKind::Assemble);
    assert_eq!(film.inputs.len(), 1);
    assert_eq!(
        second.succeed(film.lease, &FILM).await,
        WriteAnswer::Accepted
    );
    let again = second.report_success(film.lease, artefacts(film.lease, &FILM));
    assert_eq!(again.await, WriteAnswer::Duplicate);

    let done = view(&farm, id).await;
    assert_eq!((done.state, done.progress), (JobState::Succeeded, 100));
    assert_eq!(done.artefacts.len(), 3);
    assert_eq!(done.reservation.posted, GpuMicros(4_000_000));
    assert_eq!(done.seed, u64::MAX);
    farm.shutdown().await;
}

#[tokio::test]
async fn a_scheduler_that_dies_goes_on_with_the_same_leases() {
    let data = tempfile::tempdir().unwrap();
    let farm = start(data.path()).await;
    let mut agent = Agent::join(&farm, "a").await;
    let new = job(project(&farm).await, 1);
    let id = new.id;
    farm.dispatcher().submit(new).await.unwrap();
    let offer = agent.lease().await;
    agent.beat(offer.lease, 3).await;
    agent.checkpoint(offer.lease, 3).await;
    let progress = view(&farm, id).await.progress;
    assert!(progress > 0);
    farm.shutdown().await;

    let farm = start(data.path()).await;
    agent.base = farm.url();
    let answer = agent.beat(offer.lease, 5).await;
    let HeartbeatAnswer::Beat {
        term, directives, ..
    } = answer
    else {
        panic!("{answer:?}");
    };
    assert_eq!(term, offer.lease.term + 1);
    assert!(
        format!("{directives:?}").contains("Continue"),
        "{directives:?}"
    );
    assert!(view(&farm, id).await.progress >= progress);
    assert_eq!(
        agent.succeed(offer.lease, &[Variant::Shot]).await,
        WriteAnswer::Accepted
    );
    let film = agent.lease().await;
    agent.succeed(film.lease, &FILM).await;
    assert_eq!(view(&farm, id).await.state, JobState::Succeeded);
    farm.shutdown().await;
}

#[tokio::test]
async fn a_lost_reply_to_a_poll_strands_nothing() {
    let data = tempfile::tempdir().unwrap();
    let farm = start(data.path()).await;
    let mut agent = Agent::join(&farm, "a").await;
    farm.dispatcher()
        .submit(job(project(&farm).await, 2))
        .await
        .unwrap();
    let first = agent.lease().await;
    let LeaseAnswer::Offer(again) = agent.poll_again().await else {
        panic!("the grant is repeated");
    };
    assert_eq!(again.lease, first.lease);
    assert!(again.ttl_ms > 0 && again.ttl_ms <= 2_000);
    farm.shutdown().await;
}

#[tokio::test]
async fn uploads_and_reports_are_refused_with_a_reason() {
    let data = tempfile::tempdir().unwrap();
    let farm = start(data.path()).await;
    let mut agent = Agent::join(&farm, "a").await;
    farm.dispatcher()
        .submit(job(project(&farm).await, 1))
        .await
        .unwrap();
    let lease = agent.lease().await.lease;

    let digest = Digest::of(b"what was promised");
    let answer = agent.upload(lease, b"something else", digest).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let text = answer.text().await.unwrap();
    assert!(text.contains("wrong_digest"), "{text}");

    let missing = Artefact {
        variant: Variant::Shot,
        digest,
        bytes: 17,
    };
    let answer = agent.report_success(lease, vec![missing]).await;
    refused(&answer, "is not stored");
    let checkpoint = CheckpointRef { step: 2, digest };
    let report = CheckpointReport { lease, checkpoint };
    refused(&agent.call("checkpoint", &report).await, "is not stored");

    agent.token = "at_wrong".into();
    let answer = agent.send("hello", &agent.hello()).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    farm.shutdown().await;
}

#[tokio::test]
async fn an_agent_that_lies_repeats_or_mixes_up_its_reports_changes_nothing() {
    let data = tempfile::tempdir().unwrap();
    let farm = start(data.path()).await;
    let (mut honest, liar) = (Agent::join(&farm, "a").await, Agent::join(&farm, "b").await);
    let new = job(project(&farm).await, 1);
    let id = new.id;
    farm.dispatcher().submit(new).await.unwrap();
    let lease = honest.lease().await.lease;
    let shot = artefacts(lease, &[Variant::Shot]);
    honest
        .store(lease, content(lease, Variant::Shot).as_bytes())
        .await;
    let made_up = BootId(Uuid::now_v7());
    let lies = [
        LeaseRef {
            agent: liar.welcome.agent,
            boot: liar.boot,
            ..lease
        },
        LeaseRef {
            attempt: lease.attempt + 1,
            ..lease
        },
        LeaseRef {
            attempt: 0,
            ..lease
        },
        LeaseRef {
            boot: made_up,
            ..lease
        },
        LeaseRef {
            term: lease.term + 9,
            ..lease
        },
        LeaseRef {
            task: TaskId(Uuid::now_v7()),
            ..lease
        },
    ];
    let failed = |message: &str| Outcome::Failed {
        cause: FailureClass::Rejected,
        message: message.into(),
        peak_bytes: None,
    };
    let released = Outcome::Released {
        checkpoint: None,
        reason: "drained".into(),
        device_us: 1,
    };
    for lie in lies {
        refused(&liar.report_success(lie, shot.clone()).await, "");
        for outcome in [failed("so that the job fails"), released.clone()] {
            let report = Report {
                lease: lie,
                outcome,
            };
            refused(&liar.call("report", &report).await, "");
        }
        let checkpoint = CheckpointRef {
            step: 7,
            digest: shot[0].digest,
        };
        let report = CheckpointReport {
            lease: lie,
            checkpoint,
        };
        refused(&liar.call("checkpoint", &report).await, "");
        let upload = liar.upload(lie, b"fraud", Digest::of(b"fraud")).await;
        refused(&upload.json().await.unwrap(), "");
    }
    let told = format!("{:?}", liar.beat(lies[0], 8).await);
    assert!(told.contains("Abandon"), "{told}");
    let told = format!("{:?}", honest.beat(lease, 4).await);
    assert!(told.contains("Continue"), "{told}");

    // Reports that overtook each other, and again.
    assert_eq!(honest.checkpoint(lease, 4).await, WriteAnswer::Accepted);
    refused(&honest.checkpoint(lease, 2).await, "");
    assert_eq!(honest.checkpoint(lease, 4).await, WriteAnswer::Duplicate);
    let done = honest.report_success(lease, shot.clone()).await;
    assert_eq!(done, WriteAnswer::Accepted);
    refused(&honest.checkpoint_again(lease, 6, shot[0].digest).await, "");
    for outcome in [failed("late"), released] {
        let report = Report { lease, outcome };
        refused(&honest.call("report", &report).await, "");
    }
    let again = honest.report_success(lease, shot).await;
    assert_eq!(again, WriteAnswer::Duplicate);

    let film = honest.lease().await.lease;
    assert_eq!(honest.succeed(film, &FILM).await, WriteAnswer::Accepted);
    let done = view(&farm, id).await;
    assert_eq!(done.state, JobState::Succeeded);
    assert_eq!(done.reservation.posted, GpuMicros(4_000_000));
    assert_eq!(farm.store().check_ledger().await.unwrap(), []);
    farm.shutdown().await;
}

#[tokio::test]
async fn artefacts_are_downloaded_as_they_were_uploaded() {
    let data = tempfile::tempdir().unwrap();
    let farm = start(data.path()).await;
    let mut agent = Agent::join(&farm, "a").await;
    farm.dispatcher()
        .submit(job(project(&farm).await, 1))
        .await
        .unwrap();
    let lease = agent.lease().await.lease;
    let bytes = vec![7; 3 << 20]; // above axum's usual limit
    let digest = agent.store(lease, &bytes).await;
    assert_eq!(agent.store(lease, &bytes).await, digest);
    let get = |digest: String| {
        agent
            .http
            .get(format!("{}/agent/v1/artefacts/{digest}", agent.base))
            .bearer_auth(&agent.token)
            .send()
    };
    let answer = get(digest.to_string()).await.unwrap();
    assert_eq!(answer.bytes().await.unwrap(), bytes);
    let missing = get(Digest::of(b"none").to_string()).await.unwrap();
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    let crooked = get("..%2f..%2fapi-key".into()).await.unwrap();
    assert_eq!(crooked.status(), StatusCode::BAD_REQUEST);
    farm.shutdown().await;
}

#[tokio::test]
async fn a_drained_agent_gets_no_more_work_and_its_new_life_does() {
    let data = tempfile::tempdir().unwrap();
    let farm = start(data.path()).await;
    let mut agent = Agent::join(&farm, "a").await;
    farm.dispatcher()
        .submit(job(project(&farm).await, 2))
        .await
        .unwrap();
    let offer = agent.lease().await;
    let notice = DrainNotice {
        agent: agent.welcome.agent,
        boot: agent.boot,
    };
    let _: WriteAnswer = agent.call("drain", &notice).await;
    let answer = agent.beat(offer.lease, 1).await;
    assert!(format!("{answer:?}").contains("Yield"), "{answer:?}");
    let outcome = Outcome::Released {
        checkpoint: None,
        reason: "drained".into(),
        device_us: 1,
    };
    let lease = offer.lease;
    let released: WriteAnswer = agent.call("report", &Report { lease, outcome }).await;
    assert_eq!(released, WriteAnswer::Accepted);
    let same_life = agent.send("hello", &agent.hello()).await;
    assert_eq!(same_life.status(), StatusCode::CONFLICT);

    let mut agent = Agent::join(&farm, "a").await;
    assert_eq!(agent.lease().await.lease.attempt, 2);
    farm.shutdown().await;
}

#[tokio::test]
async fn a_rejected_task_fails_its_job_and_nothing_is_charged() {
    let data = tempfile::tempdir().unwrap();
    let farm = start(data.path()).await;
    let mut agent = Agent::join(&farm, "a").await;
    let new = job(project(&farm).await, 2);
    let id = new.id;
    farm.dispatcher().submit(new).await.unwrap();
    let shot = agent.lease().await.lease;
    agent.beat(shot, 8).await;
    agent.succeed(shot, &[Variant::Shot]).await;
    let lease = agent.lease().await.lease;
    let outcome = Outcome::Failed {
        cause: FailureClass::Rejected,
        message: "the first frame is not an image".into(),
        peak_bytes: None,
    };
    let _: WriteAnswer = agent.call("report", &Report { lease, outcome }).await;
    let failed = view(&farm, id).await;
    assert_eq!(failed.state, JobState::Failed);
    assert_eq!(
        failed.error.unwrap().message,
        "the first frame is not an image"
    );
    assert_eq!(failed.reservation.posted, failed.reservation.refunded);
    assert!(failed.artefacts.is_empty());
    farm.shutdown().await;
}

#[tokio::test]
async fn metrics_and_health_are_served() {
    let data = tempfile::tempdir().unwrap();
    let farm = start(data.path()).await;
    let agent = Agent::join(&farm, "a").await;
    let get = async |path: &str| {
        let url = format!("{}{path}", farm.url());
        agent
            .http
            .get(url)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    };
    assert!(get("/healthz").await.contains("ok"));
    // A client whose base_url lacks the /v1 is told so, in the words that SDKs show.
    let lost = get("/videos").await;
    assert!(
        lost.contains("unknown_url") && lost.contains("begin with /v1"),
        "{lost}"
    );
    let text = get("/metrics").await;
    assert!(
        text.contains("dailies_agents{state=\"online\"} 1"),
        "{text}"
    );
    assert!(text.contains("dailies_commits_total"), "{text}");
    farm.shutdown().await;
}

#[tokio::test]
async fn what_stops_a_start_is_said() {
    let data = tempfile::tempdir().unwrap();
    let farm = start(data.path()).await;
    let again = Scheduler::start(settings(data.path())).await.unwrap_err();
    assert!(again.to_string().contains("another scheduler"), "{again}");

    let other = tempfile::tempdir().unwrap();
    let taken = Settings {
        listen: farm.addr(),
        ..settings(other.path())
    };
    let error = Scheduler::start(taken).await.unwrap_err();
    assert!(error.to_string().contains("is in use"), "{error}");
    assert!(!other.path().join("dailies.db").exists());

    let file = other.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Scheduler::start(settings(&file)).await.unwrap_err();
    assert!(error.to_string().contains("cannot write"), "{error}");
    farm.shutdown().await;
}

#[tokio::test]
async fn the_first_key_is_made_once_and_kept() {
    let data = tempfile::tempdir().unwrap();
    let farm = start(data.path()).await;
    let key = farm.first_key().unwrap().to_string();
    let kept = std::fs::read_to_string(farm.api_key_file()).unwrap();
    assert_eq!(kept.trim(), key);
    let hash = scheduler::bootstrap::key_hash(&key);
    assert!(farm.store().key(&hash).await.unwrap().is_some());
    let token = farm.agent_token().to_string();
    farm.shutdown().await;
    let farm = start(data.path()).await;
    assert_eq!(farm.first_key(), None);
    assert_eq!(farm.agent_token(), token);
    farm.dispatcher().revoke_key(hash.clone()).await.unwrap();
    let revoked = farm.store().key(&hash).await.unwrap().unwrap();
    assert!(revoked.revoked_at_ms.is_some());
    farm.shutdown().await;
}
