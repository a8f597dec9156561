//! Repeated requests: lost answers, idempotency keys, and equal requests that are meant.

use schemas::{JobId, TaskId};
use serde_json::json;

use super::*;
use crate::{
    admission::{self, Catalogue, CatalogueSettings, Submission, VideoRequest},
    core::{
        command::Submitted,
        rows::{Dedupe, NewJob},
    },
    review::Blocklist,
};

const RETRY: (&str, &str) = ("x-stainless-retry-count", "1");

async fn create(farm: &Farm, prompt: &str, headers: &[(&str, &str)]) -> Answer {
    farm.post_with("/v1/videos", json!({"prompt": prompt}), headers)
        .await
}

#[tokio::test]
async fn equal_requests_are_two_jobs_but_a_retry_is_none() {
    let farm = Farm::start().await;
    let first = create(&farm, "p", &[]).await;
    let second = create(&farm, "p", &[]).await;
    assert_ne!(first.id(), second.id());
    let retry = create(&farm, "p", &[RETRY]).await;
    assert_eq!(retry.id(), second.id());
    assert_eq!(retry.header("x-dailies-deduplicated"), "true");
    assert_eq!(create(&farm, "p", &[RETRY]).await.id(), first.id());
    assert_eq!(farm.count().await, 2);
    // All are claimed now; and another prompt was never sent before.
    let third = create(&farm, "p", &[RETRY]).await;
    assert!(!third.headers.contains_key("x-dailies-deduplicated"));
    create(&farm, "q", &[RETRY]).await.id();
    assert_eq!(farm.count().await, 4);
}

#[tokio::test]
async fn a_retry_is_known_whatever_its_encoding() {
    let farm = Farm::start().await;
    let first = create(&farm, "p", &[]).await.id();
    let mut again = form_request("/v1/videos", form(&[("prompt", "p")], &BTreeMap::new()));
    again
        .headers_mut()
        .insert("x-stainless-retry-count", "1".parse().unwrap());
    assert_eq!(farm.send(again).await.id(), first);
}

#[tokio::test]
async fn a_retry_after_an_error_makes_its_own_job() {
    let farm = Farm::with(ApiSettings {
        rates: RateSettings {
            writes_per_minute: NonZeroU32::new(2).unwrap(),
            ..Default::default()
        },
        ..ApiSettings::default()
    })
    .await;
    // Two equal calls that succeed, and a third that is told to wait.
    let (first, second) = (
        create(&farm, "p", &[]).await.id(),
        create(&farm, "p", &[]).await.id(),
    );
    assert_eq!(create(&farm, "p", &[]).await.status, 429);
    // The bucket refills too slowly for a test, so the retry goes past it.
    let retried = farm.dispatcher.submit(retry_of("p")).await.unwrap();
    let Submitted::Created(third) = retried else {
        panic!("{retried:?}")
    };
    assert!(![first, second].contains(&third.to_string()));
    let again = farm.dispatcher.submit(retry_of("p")).await.unwrap();
    assert_eq!(again, Submitted::Deduplicated(third));
}

/// The job that the API hands over for a first retry with this prompt.
fn retry_of(prompt: &str) -> NewJob {
    let request = VideoRequest {
        prompt: prompt.into(),
        ..VideoRequest::default()
    };
    let catalogue = Catalogue::new(&CatalogueSettings::default(), &[]);
    let order = admission::decide(&request, &catalogue, &Blocklist::default(), 1).unwrap();
    let key = Digest::of(KEY.as_bytes()).to_string();
    let dedupe = Dedupe {
        fingerprint: hex::encode(request.fingerprint(&key, "POST", "/v1/videos")),
        retry_count: 1,
    };
    let submission = Submission {
        id: JobId(Uuid::now_v7()),
        project: AccountId(Uuid::from_u128(1)),
        user: None,
        dedupe: Some(dedupe),
        idempotency: None,
    };
    order.into_job(submission, || TaskId(Uuid::now_v7()))
}

#[tokio::test]
async fn four_equal_parallel_requests_are_four_jobs() {
    let farm = Farm::start().await;
    let calls = (0..4).map(|_| create(&farm, "p", &[]));
    let ids: std::collections::BTreeSet<String> = futures::future::join_all(calls)
        .await
        .iter()
        .map(Answer::id)
        .collect();
    assert_eq!(ids.len(), 4);
}

#[tokio::test]
async fn an_idempotency_key_answers_the_same_job_and_refuses_another_body() {
    let farm = Farm::start().await;
    let key = ("idempotency-key", "k-1");
    let first = create(&farm, "p", &[key]).await;
    assert!(!first.headers.contains_key("idempotent-replayed"));
    let replayed = create(&farm, "p", &[key, RETRY]).await;
    assert_eq!(replayed.id(), first.id());
    assert_eq!(replayed.header("idempotent-replayed"), "true");
    assert_eq!(
        create(&farm, "q", &[key]).await.error(),
        (400, "idempotency_key_reused".into())
    );
    let foreign = create(&farm, "p", &[key, ("authorization", "Bearer sk-foreign")]).await;
    assert_ne!(foreign.id(), first.id());
    assert_eq!(farm.count().await, 1);
    let long = "k".repeat(256);
    assert_eq!(
        create(&farm, "p", &[("idempotency-key", &long)])
            .await
            .error()
            .0,
        400
    );
}

#[tokio::test]
async fn parallel_requests_with_one_idempotency_key_are_one_job() {
    let farm = Farm::start().await;
    let calls = (0..4).map(|_| create(&farm, "p", &[("idempotency-key", "k")]));
    let ids: std::collections::BTreeSet<String> = futures::future::join_all(calls)
        .await
        .iter()
        .map(Answer::id)
        .collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(farm.count().await, 1);
}

#[tokio::test]
async fn a_retry_of_a_deleted_video_makes_a_new_one() {
    let farm = Farm::start().await;
    let first = create(&farm, "p", &[]).await.id();
    farm.call(Method::DELETE, &format!("/v1/videos/{first}"))
        .await
        .id();
    let retry = create(&farm, "p", &[RETRY]).await;
    assert_ne!(retry.id(), first);
    assert_eq!(farm.count().await, 1);
}
