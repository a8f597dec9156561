//! Quota: what a user without it is told, what only an operator may.

use serde_json::json;

use super::*;
use crate::core::quota::{LimitsChange, QuotaChange, QuotaOrder};

/// The project of [`KEY`].
const STUDIO: AccountId = AccountId(Uuid::from_u128(1));

impl Farm {
    async fn meter_studio(&self) {
        let order = QuotaOrder {
            actor: "test".into(),
            account: STUDIO,
            change: QuotaChange::Limits(LimitsChange {
                metered: Some(true),
                ..LimitsChange::default()
            }),
        };
        self.dispatcher.order_quota(order).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn without_quota_a_video_is_refused_for_good_and_no_job_is_made() {
    let farm = Farm::start().await;
    farm.meter_studio().await;
    let answer = farm.post("/v1/videos", json!({"prompt": "a ball"})).await;
    assert_eq!(answer.error(), (429, "insufficient_quota".into()));
    assert_eq!(answer.json()["error"]["type"], "insufficient_quota");
    assert_eq!(answer.header("x-should-retry"), "false");
    let message = answer.json()["error"]["message"].to_string();
    assert!(message.contains("'studio'"), "{message}");
    assert_eq!(farm.count().await, 0);
}

#[tokio::test]
async fn an_estimate_says_that_the_quota_would_not_do() {
    let farm = Farm::start().await;
    let wish = json!({"prompt": "a ball"});
    let fine = farm.post("/v1/videos/estimate", wish.clone()).await;
    assert_eq!(fine.json()["accepted"], true);
    farm.meter_studio().await;
    let answer = farm.post("/v1/videos/estimate", wish).await;
    assert_eq!(answer.status, 200);
    let verdict = answer.json();
    assert_eq!(verdict["accepted"], false);
    assert_eq!(verdict["reasons"][0]["error"]["code"], "insufficient_quota");
}
