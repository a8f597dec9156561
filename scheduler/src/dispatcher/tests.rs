//! The dispatcher over a real database: groups, failed commits, wakeups, leaders.

use std::time::Duration;

use schemas::{
    BootId, Digest, JobId,
    agent::{
        Device, FailureClass, Heartbeat, Hello, LeaseOffer, LeaseProgress, LeaseRef, LeaseRequest,
        Outcome, Phase, Report, WriteAnswer,
    },
    task::{Artefact, TaskKind, Variant},
};
use uuid::Uuid;

use super::{DispatchError, Dispatcher, Stops};
use crate::{
    clock::Clock,
    core::{
        agent::agent_id,
        command::{Ended, LeaseReply, Submitted},
        limits::Limits,
        model::{PROJECT, accounts, job, weights},
        rows::JobState,
    },
    metrics::Metrics,
    simulate::{Scope, replay},
    store::{
        DatabaseUrl, Store, events,
        testing::{Outage, database, postgres},
    },
};

struct Running {
    folder: tempfile::TempDir,
    store: Store,
    dispatcher: Dispatcher,
    metrics: Metrics,
    stops: Stops,
    writer: tokio::task::JoinHandle<()>,
}

async fn running() -> Running {
    let folder = tempfile::tempdir().unwrap();
    let url = database(folder.path());
    running_on(folder, url).await
}

/// Another scheduler on the same database, whose clock is this far ahead.
async fn next_leader(store: &Store, ahead_ms: i64) -> Dispatcher {
    let started = Dispatcher::start_by(
        Clock::ahead_by(ahead_ms),
        store.clone(),
        Limits::default(),
        Metrics::new().unwrap(),
        Stops::default(),
    );
    let (dispatcher, writer) = started.await.unwrap();
    tokio::spawn(writer);
    dispatcher
}

async fn offer(dispatcher: &Dispatcher, poll_id: u64) -> LeaseOffer {
    match dispatcher
        .lease(poll(poll_id), Duration::from_secs(600))
        .await
    {
        Ok(LeaseReply::Offer { offer, .. }) => *offer,
        other => panic!("no offer but {other:?}"),
    }
}

async fn report(dispatcher: &Dispatcher, lease: LeaseRef, outcome: Outcome) -> WriteAnswer {
    let report = Report { lease, outcome };
    dispatcher.report(report).await.unwrap()
}

fn success(offer: &LeaseOffer) -> Outcome {
    let variants: &[Variant] = match offer.spec.kind() {
        TaskKind::Render => &[Variant::Shot],
        TaskKind::Assemble => &[Variant::Film, Variant::Thumbnail, Variant::Spritesheet],
    };
    let artefact = |variant: &Variant| Artefact {
        variant: *variant,
        digest: Digest::of(variant.name().as_bytes()),
        bytes: 1,
    };
    Outcome::Succeeded {
        artefacts: variants.iter().map(artefact).collect(),
        device_us: 2_000_000,
        steps_run: 8,
        times: Default::default(),
        memory: Default::default(),
    }
}

async fn running_on(folder: tempfile::TempDir, url: DatabaseUrl) -> Running {
    let store = Store::open(url).await.unwrap();
    let (metrics, stops) = (Metrics::new().unwrap(), Stops::default());
    let (dispatcher, writer) = Dispatcher::start(
        store.clone(),
        Limits::default(),
        metrics.clone(),
        stops.clone(),
    )
    .await
    .unwrap();
    let writer = tokio::spawn(writer);
    for row in accounts() {
        dispatcher.add_account(row).await.unwrap();
    }
    Running {
        folder,
        store,
        dispatcher,
        metrics,
        stops,
        writer,
    }
}

fn id(number: u128) -> JobId {
    JobId(Uuid::from_u128(number))
}

async fn hello(dispatcher: &Dispatcher) {
    let hello = Hello {
        name: "a".into(),
        boot: BootId(Uuid::from_u128(1)),
        version: "test".into(),
        devices: vec![Device {
            index: 0,
            class: "cpu".into(),
            memory_bytes: 1,
        }],
        weights: vec![weights()],
        ffmpeg: Some("6".into()),
        group_max: 1,
    };
    dispatcher.hello(hello).await.unwrap().unwrap();
}

fn poll(poll_id: u64) -> LeaseRequest {
    LeaseRequest {
        agent: agent_id("a"),
        boot: BootId(Uuid::from_u128(1)),
        device: 0,
        poll_id,
    }
}

#[tokio::test]
async fn many_submits_share_commits_and_none_is_lost() {
    let farm = running().await;
    let before = farm.metrics.commits.get();
    let submits = (1..=200).map(|number| farm.dispatcher.submit(job(number, 1)));
    for submitted in futures::future::join_all(submits).await {
        assert!(matches!(submitted, Ok(Submitted::Created(_))));
    }
    let commits = farm.metrics.commits.get() - before;
    assert!(commits < 100, "{commits} commits for 200 submits");
    for number in 1..=200 {
        let view = farm.store.job(PROJECT, id(number)).await.unwrap();
        assert!(view.is_some(), "job {number} was acknowledged");
    }
}

#[tokio::test]
async fn a_failed_commit_answers_retry_and_memory_falls_back_to_the_database() {
    let farm = running().await;
    farm.dispatcher.submit(job(1, 1)).await.unwrap();
    farm.store
        .execute("CREATE UNIQUE INDEX one_job ON job (project)")
        .await;
    let failed = farm.dispatcher.submit(job(2, 1)).await;
    assert_eq!(failed, Err(DispatchError::Retry));
    assert_eq!(farm.metrics.rebuilds.get(), 1);
    let live = farm.dispatcher.live(id(2)).await.unwrap();
    assert!(
        live.is_none(),
        "memory has forgotten what was not committed"
    );
    assert!(farm.dispatcher.live(id(1)).await.unwrap().is_some());

    farm.store.execute("DROP INDEX one_job").await;
    let again = farm.dispatcher.submit(job(2, 1)).await;
    assert_eq!(again, Ok(Submitted::Created(id(2))));
    assert_eq!(farm.dispatcher.cancel(PROJECT, id(2)).await, Ok(Ended::Now));
}

#[tokio::test]
async fn a_parked_poll_is_woken_by_a_submit() {
    let farm = running().await;
    hello(&farm.dispatcher).await;
    let long = Duration::from_secs(600);
    let parked = farm.dispatcher.lease(poll(1), long);
    let submit = async {
        tokio::task::yield_now().await;
        farm.dispatcher.submit(job(1, 1)).await
    };
    let (offer, submitted) = tokio::join!(parked, submit);
    assert!(matches!(offer, Ok(LeaseReply::Offer { .. })), "{offer:?}");
    submitted.unwrap();
}

#[tokio::test]
async fn a_film_and_its_first_lease_are_one_commit() {
    let farm = running().await;
    hello(&farm.dispatcher).await;
    let parked = farm.dispatcher.lease(poll(1), Duration::from_secs(600));
    let mut parked = std::pin::pin!(parked);
    assert!(futures::poll!(&mut parked).is_pending());
    farm.dispatcher.nodes().await.unwrap(); // behind the poll
    let before = farm.metrics.commits.get();
    farm.dispatcher.submit(job(1, 1)).await.unwrap();
    let Ok(LeaseReply::Offer { offer, .. }) = parked.await else {
        panic!("a film waits and a device is free");
    };
    assert_eq!(farm.metrics.commits.get() - before, 1);
    let specs = farm.store.specs(&[offer.lease.task]).await.unwrap();
    assert_eq!(specs[&offer.lease.task], offer.spec, "with all its words");
}

#[tokio::test]
async fn a_poll_whose_agent_has_gone_takes_no_work() {
    let farm = running().await;
    hello(&farm.dispatcher).await;
    {
        let parked = farm.dispatcher.lease(poll(1), Duration::from_secs(600));
        let mut parked = std::pin::pin!(parked);
        assert!(futures::poll!(&mut parked).is_pending());
        farm.dispatcher.nodes().await.unwrap(); // behind the poll
    }
    farm.dispatcher.submit(job(1, 1)).await.unwrap();
    let offer = offer(&farm.dispatcher, 2).await;
    assert_eq!(offer.lease.attempt, 1, "nobody else had it");
}

#[tokio::test]
async fn a_poll_without_work_ends_in_time_and_says_why() {
    let farm = running().await;
    hello(&farm.dispatcher).await;
    let reply = farm
        .dispatcher
        .lease(poll(1), Duration::from_millis(1))
        .await;
    assert!(matches!(reply, Ok(LeaseReply::Idle(_))), "{reply:?}");
    let polls = farm
        .metrics
        .idle_polls
        .with_label_values(&["nothing_waits"]);
    assert_eq!(polls.get(), 1);
}

#[tokio::test]
async fn a_stop_ends_parked_polls_and_then_the_writer() {
    let farm = running().await;
    hello(&farm.dispatcher).await;
    let parked = farm.dispatcher.lease(poll(1), Duration::from_secs(600));
    let stop = async {
        tokio::task::yield_now().await;
        farm.stops.serving.cancel();
    };
    let (reply, ()) = tokio::join!(parked, stop);
    assert!(matches!(reply, Err(DispatchError::Closed)), "{reply:?}");
    farm.stops.writing.cancel();
    farm.writer.await.unwrap();
    let after = farm.dispatcher.submit(job(2, 1)).await;
    assert_eq!(after, Err(DispatchError::Closed));
}

#[tokio::test]
async fn a_leader_that_another_has_deposed_writes_no_more() {
    let farm = running().await;
    farm.store.take_term().await.unwrap();
    let refused = farm.dispatcher.submit(job(1, 1)).await;
    assert_eq!(refused, Err(DispatchError::Retry));
    farm.writer.await.unwrap();
    assert!(farm.store.job(PROJECT, id(1)).await.unwrap().is_none());
    let closed = farm.dispatcher.submit(job(2, 1)).await;
    assert_eq!(closed, Err(DispatchError::Closed));
}

#[tokio::test]
async fn a_database_that_goes_away_and_comes_back_loses_nothing_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let Some(url) = postgres(folder.path()) else {
        return;
    };
    let farm = running_on(folder, url).await;
    farm.dispatcher.submit(job(1, 1)).await.unwrap();

    let outage = Outage::begin(farm.folder.path()).await;
    for number in 2..=3 {
        let refused = farm.dispatcher.submit(job(number, 1)).await;
        assert_eq!(refused, Err(DispatchError::Retry));
    }
    let look = farm.dispatcher.live(id(1)).await;
    assert_eq!(look.err(), Some(DispatchError::Retry));
    assert!(farm.store.job(PROJECT, id(1)).await.is_err());

    outage.end().await;
    while farm.dispatcher.live(id(1)).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert!(farm.dispatcher.live(id(1)).await.unwrap().is_some());
    assert!(farm.dispatcher.live(id(2)).await.unwrap().is_none());
    let again = farm.dispatcher.submit(job(2, 1)).await;
    assert_eq!(again, Ok(Submitted::Created(id(2))));
    for number in 1..=2 {
        let view = farm.store.job(PROJECT, id(number)).await.unwrap();
        assert!(view.is_some(), "job {number} was acknowledged");
    }
}

#[tokio::test]
async fn an_agent_with_a_nul_in_its_words_does_not_stop_the_farm() {
    let farm = running().await;
    let hello = Hello {
        name: "a".into(),
        boot: BootId(Uuid::from_u128(1)),
        version: "1\0".into(),
        devices: Vec::new(),
        weights: Vec::new(),
        ffmpeg: Some("6\0".into()),
        group_max: 1,
    };
    farm.dispatcher.hello(hello).await.unwrap().unwrap();
    farm.dispatcher.submit(job(1, 1)).await.unwrap();
    assert_eq!(farm.metrics.rebuilds.get(), 0);
}

#[tokio::test]
async fn what_the_database_has_logged_is_decided_again_as_it_was() {
    let farm = running().await;
    hello(&farm.dispatcher).await;
    for number in 1..=3 {
        farm.dispatcher.submit(job(number, 1)).await.unwrap();
    }
    let ended = farm.dispatcher.cancel(PROJECT, id(1)).await.unwrap();
    assert_eq!(ended, Ended::Now);
    let reply = farm
        .dispatcher
        .lease(poll(1), Duration::ZERO)
        .await
        .unwrap();
    let LeaseReply::Offer { offer, .. } = reply else {
        panic!("two jobs wait, but the device got {reply:?}");
    };
    assert_eq!(offer.job, id(2));
    let url = database(farm.folder.path());
    let log = events::read(url, i64::MAX).await.unwrap().unwrap();
    assert!(log.iter().all(|event| !event.payload.contains("red ball")));
    let scope = Scope {
        from_ms: 0,
        to_ms: farm.dispatcher.now_ms() + 1_000,
        price_per_device_hour: 1.0,
    };
    let check = replay(&log, &scope, &Limits::default(), None)
        .unwrap()
        .check;
    assert_eq!((check.grants, check.difference), (1, None));
    assert_eq!(
        farm.store.cut_log(i64::MAX).await.unwrap(),
        log.len() as u64
    );
}

#[tokio::test]
async fn a_leader_whose_clock_is_hours_off_keeps_leases_retries_and_ends_every_job_once() {
    const HOURS: i64 = 5 * 3_600_000;
    for ahead_ms in [-HOURS, HOURS] {
        let farm = running().await;
        hello(&farm.dispatcher).await;
        for number in 1..=2 {
            farm.dispatcher.submit(job(number, 1)).await.unwrap();
        }
        let failed = offer(&farm.dispatcher, 1).await;
        let cause = FailureClass::Io;
        let message = "the disk was full".into();
        let outcome = Outcome::Failed {
            cause,
            message,
            peak_bytes: None,
        };
        let told = report(&farm.dispatcher, failed.lease, outcome).await;
        assert_eq!(told, WriteAnswer::Accepted);
        let held = offer(&farm.dispatcher, 2).await;

        let next = next_leader(&farm.store, ahead_ms).await;
        let progress = LeaseProgress {
            lease: held.lease,
            phase: Phase::Denoise,
            step: 3,
            steps: 8,
            step_ms: None,
        };
        let beat = Heartbeat {
            agent: agent_id("a"),
            boot: BootId(Uuid::from_u128(1)),
            term: held.lease.term,
            leases: vec![progress],
            devices: Vec::new(),
        };
        let told = format!("{:?}", next.heartbeat(beat).await.unwrap());
        assert!(told.contains("Continue"), "{ahead_ms}: {told}");
        // The old leader has not heard of it yet; its word no longer counts.
        let late = farm.dispatcher.cancel(PROJECT, id(1)).await;
        assert_eq!(late, Err(DispatchError::Retry));

        let done = report(&next, held.lease, success(&held)).await;
        assert_eq!(done, WriteAnswer::Accepted);
        for poll_id in 3..=5 {
            let work = offer(&next, poll_id).await;
            for told in [WriteAnswer::Accepted, WriteAnswer::Duplicate] {
                assert_eq!(report(&next, work.lease, success(&work)).await, told);
            }
        }
        for number in 1..=2 {
            let view = farm.store.job(PROJECT, id(number)).await.unwrap().unwrap();
            assert_eq!(view.state, JobState::Succeeded, "{ahead_ms}");
        }
        assert_eq!(farm.store.check_ledger().await.unwrap(), []);
    }
}
