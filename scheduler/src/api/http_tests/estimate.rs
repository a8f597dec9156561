//! Before you say yes: price, place and end of a film that was not made, and whether they come true.

use schemas::agent::{MemoryTold, Times};
use serde_json::json;

use super::*;
use crate::metrics::Metrics;

const EIGHT_SECONDS: u64 = 8_000_000;

impl Farm {
    /// Ends a leased task as an agent that measures would: a shot in eight seconds of its device.
    async fn finish_timed(&self, offer: &LeaseOffer) {
        let (variants, times) = match &offer.spec {
            TaskSpec::Render(_) => (
                vec![Variant::Shot],
                Times {
                    encode_us: Some(1_000_000),
                    steps_us: Some(6_000_000),
                    decode_us: Some(1_000_000),
                    mux_us: Some(100_000),
                    upload_us: Some(100_000),
                    load_us: None,
                },
            ),
            TaskSpec::Assemble(_) => (
                vec![Variant::Film, Variant::Thumbnail, Variant::Spritesheet],
                Times {
                    mux_us: Some(2_000_000),
                    upload_us: Some(100_000),
                    ..Times::default()
                },
            ),
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
        let report = Report {
            lease: offer.lease,
            outcome: Outcome::Succeeded {
                artefacts,
                device_us: EIGHT_SECONDS,
                steps_run: STEPS_RUN,
                times,
                memory: MemoryTold {
                    foretold_bytes: Some(300 << 20),
                    peak_bytes: Some(200 << 20),
                },
            },
        };
        let answer = self.dispatcher.report(report).await.unwrap();
        assert_eq!(answer, WriteAnswer::Accepted);
    }

    async fn estimate(&self, body: Value) -> Value {
        let answer = self.post("/v1/videos/estimate", body).await;
        assert_eq!(
            answer.status,
            200,
            "{:?}",
            String::from_utf8_lossy(&answer.bytes)
        );
        answer.json()
    }
}

fn seconds(value: &Value) -> i64 {
    value
        .as_i64()
        .unwrap_or_else(|| panic!("{value} is no time"))
}

#[tokio::test]
async fn an_estimate_equals_the_reservation_of_an_unchanged_queue_and_makes_nothing() {
    let farm = Farm::start().await;
    farm.agent(&[]).await;
    let waits = farm.create("the first").await;
    farm.forecaster.refresh().await.unwrap();
    for asked in [
        json!({"prompt": "a ball", "priority": "urgent"}),
        json!({"prompt": "a ball", "seconds": "8", "size": "1280x720"}),
        json!({"prompt": "a ball"}),
    ] {
        let before = farm.count().await;
        let estimate = farm.estimate(asked.clone()).await;
        let mut dry = asked.clone();
        dry["dry_run"] = json!(true);
        let dry = farm.post("/v1/videos", dry).await.json();
        assert_eq!(farm.count().await, before, "an estimate made a job");
        for key in [
            "gpu_seconds",
            "queue_position",
            "model",
            "accepted",
            "price",
        ] {
            assert_eq!(dry[key], estimate[key], "{key}");
        }
        let made = farm.post("/v1/videos", asked).await.json();
        assert_eq!(
            estimate["gpu_seconds"]["p90"],
            made["usage"]["reserved_gpu_seconds"]
        );
        assert_eq!(estimate["queue_position"], made["queue_position"]);
        farm.forecaster.refresh().await.unwrap();
        let made = farm
            .get(&format!("/v1/videos/{}", made["id"].as_str().unwrap()))
            .await
            .json();
        for key in ["starts_at", "completes_at_p50"] {
            let (foretold, shown) = (seconds(&estimate["eta"][key]), seconds(&made["eta"][key]));
            assert!(
                foretold.abs_diff(shown) <= 2,
                "{key}: {foretold} and {shown}"
            );
        }
    }
    assert_eq!(
        farm.get(&format!("/v1/videos/{waits}")).await.json()["queue_position"],
        1
    );
}

#[tokio::test]
async fn what_was_measured_becomes_the_estimate_and_outlives_a_restart() {
    let farm = Farm::start().await;
    let agent = farm.agent(&[]).await;
    let asked = json!({"prompt": "a ball"});
    let before = farm.estimate(asked.clone()).await["gpu_seconds"]["p50"]
        .as_f64()
        .unwrap();
    for _ in 0..30 {
        farm.create("a ball").await;
        while let Some(offer) = farm.lease(agent).await {
            farm.finish_timed(&offer).await;
        }
    }
    let after = farm.estimate(asked).await["gpu_seconds"]["p50"]
        .as_f64()
        .unwrap();
    // Thirty films of 8 + 2 s: 20 of 50 parts are still what was believed.
    let blended = before.powf(0.4) * 10f64.powf(0.6);
    assert!(
        (after / blended - 1.0).abs() < 0.08,
        "{before} became {after}, not {blended}"
    );
    let memory = "/v1/organization/memory";
    assert_eq!(farm.get(memory).await.status, 403);
    let asked = request(Method::GET, memory, &[("authorization", "Bearer sk-admin")]);
    let needs = farm.send(asked.body(Body::empty()).unwrap()).await.json();
    let need = &needs["data"][0];
    assert_eq!(needs["data"].as_array().unwrap().len(), 1, "{needs}");
    assert_eq!(
        (&need["weights"], &need["peaks"]),
        (&json!("builtin"), &json!(30))
    );
    // Nine tenths of what was foretold, and 5 % are left free.
    assert_eq!(need["device_bytes"], (270u64 << 20) * 100 / 95);
    let counts = farm.dispatcher.counts().await.unwrap();
    let text = Metrics::new().unwrap().render(&counts).unwrap();
    let gauge = text
        .lines()
        .find(|line| line.starts_with("dailies_memory_needed_bytes{"));
    assert!(gauge.unwrap().ends_with(" 298016336"), "{text}");
    let stored = farm.store.load(farm.dispatcher.now_ms()).await.unwrap();
    let live = farm.dispatcher.prices().await.unwrap();
    assert_eq!(live.costs.rows(), stored.costs);
    let known = stored.costs.iter().find(|row| row.memory.peaks.len() == 30);
    assert_eq!(known.unwrap().memory.need_bytes(), Some(270 << 20));
    assert!(
        stored.costs.iter().any(|row| row.key.weights == "builtin"),
        "{:?}",
        stored.costs
    );
}

#[tokio::test]
async fn many_films_are_estimated_at_once_as_a_number_or_by_their_prompts() {
    let farm = Farm::start().await;
    farm.agent(&[]).await;
    let one = farm.estimate(json!({"prompt": "a ball"})).await;
    let ten = farm
        .estimate(json!({"prompt": "a ball", "count": 10}))
        .await;
    let prompts: Vec<String> = (0..10).map(|n| format!("ball {n}")).collect();
    let listed = farm.estimate(json!({"prompts": prompts})).await;
    let p50 = |estimate: &Value| estimate["gpu_seconds"]["p50"].as_f64().unwrap();
    for many in [&ten, &listed] {
        assert_eq!(many["count"], 10);
        assert!((p50(many) - 10.0 * p50(&one)).abs() < 0.01);
        assert_eq!(many["eta"]["starts_at"], one["eta"]["starts_at"]);
        let left = |estimate: &Value| {
            let eta = &estimate["eta"];
            seconds(&eta["completes_at_p50"]) - seconds(&eta["starts_at"])
        };
        assert!(left(many) > 8 * left(&one), "{many}");
    }
    let blocked = json!({"prompts": ["a ball", "a forbidden thing"]});
    let blocked = farm.estimate(blocked).await;
    assert_eq!(blocked["accepted"], false);
    assert_eq!(blocked["reasons"][0]["error"]["param"], "prompts[1]");
    for (body, param) in [
        (json!({"prompt": "a ball", "count": 0}), "count"),
        (json!({"prompt": "a ball", "count": 1_001}), "count"),
        (json!({"prompts": []}), "prompts"),
        (json!({"prompts": [5]}), "prompts[0]"),
    ] {
        let refused = farm.post("/v1/videos/estimate", body.clone()).await;
        assert_eq!(refused.error().0, 400, "{body}");
        assert_eq!(refused.json()["error"]["param"], param, "{body}");
    }
    let create = farm
        .post("/v1/videos", json!({"prompt": "a ball", "count": 2}))
        .await;
    assert_eq!(create.error(), (400, "invalid_value".into()));
    assert_eq!(farm.count().await, 0);
}

#[tokio::test]
async fn a_waiting_video_says_why_because_of_what_and_until_when() {
    let farm = Farm::start().await;
    let lonely = farm.create("nobody can").await;
    farm.forecaster.refresh().await.unwrap();
    let video = farm.get(&format!("/v1/videos/{lonely}")).await.json();
    assert_eq!(video["waiting"], "model_missing");
    assert_eq!(video["reason"]["code"], "model_missing");
    assert_eq!(video["reason"]["blocker"], json!({"weights": "builtin"}));
    assert_eq!(video["reason"]["eta_unknown"], true);
    assert!(video["eta"]["completes_at_p50"].is_null(), "{video}");
    let agent = farm.agent(&[]).await;
    let second = farm.create("the second").await;
    assert!(farm.lease(agent).await.is_some());
    farm.forecaster.refresh().await.unwrap();
    let running = farm.get(&format!("/v1/videos/{lonely}")).await.json();
    assert!(running["reason"].is_null(), "{running}");
    let video = farm.get(&format!("/v1/videos/{second}")).await.json();
    assert_eq!(video["reason"]["code"], "devices_busy");
    let said = video["reason"]["message"].as_str().unwrap();
    assert!(
        said.starts_with("the only device for it is busy; one is free in"),
        "{said}"
    );
    let at = |video: &Value, key| seconds(&video["eta"][key]);
    assert!(at(&video, "starts_at") >= at(&running, "completes_at_p10") - 1);
    assert!(at(&video, "completes_at_p10") <= at(&video, "completes_at_p50"));
    assert!(at(&video, "completes_at_p50") < at(&video, "completes_at_p90"));
}

#[tokio::test]
async fn an_estimate_counts_the_films_that_would_miss_their_deadline() {
    let farm = Farm::start().await;
    farm.agent(&[]).await;
    let now = farm.dispatcher.now_ms() / 1_000;
    let asked = |left_s: i64, count: u32| json!({"prompt": "a ball", "count": count, "deadline": now + left_s});
    let answer = farm
        .post("/v1/videos/estimate", asked(60, 200))
        .await
        .json();
    let late = answer["late"].as_u64().unwrap();
    assert!((1..200).contains(&late), "{answer}");
    assert!(!answer["eta"]["completes_at_p90"].is_null(), "{answer}");
    let all = farm
        .post("/v1/videos/estimate", asked(1_000_000, 20))
        .await
        .json();
    assert_eq!(all["late"], 0, "{all}");
}

#[tokio::test]
async fn a_new_job_is_placed_in_the_last_forecast_before_there_is_a_newer_one() {
    let farm = Farm::start().await;
    farm.agent(&[]).await;
    for _ in 0..3 {
        farm.create("one of three").await;
    }
    farm.forecaster.refresh().await.unwrap();
    let last = farm.get("/v1/videos?limit=1").await.json()["data"][0].clone();
    let created = farm
        .post("/v1/videos", json!({"prompt": "the fourth"}))
        .await
        .json();
    let starts = |video: &Value| seconds(&video["eta"]["starts_at"]);
    assert!(starts(&created) > starts(&last), "{created} {last}");
    farm.forecaster.refresh().await.unwrap();
    let id = created["id"].as_str().unwrap();
    let seen = farm.get(&format!("/v1/videos/{id}")).await.json();
    assert!(
        starts(&created).abs_diff(starts(&seen)) <= 3,
        "{created} {seen}"
    );
}

#[tokio::test]
async fn what_was_foretold_is_compared_with_the_truth() {
    let farm = Farm::start().await;
    let agent = farm.agent(&[]).await;
    farm.forecaster.refresh().await.unwrap();
    farm.create("a ball").await;
    while let Some(offer) = farm.lease(agent).await {
        farm.finish_timed(&offer).await;
    }
    let page = farm
        .metrics
        .render(&farm.dispatcher.counts().await.unwrap())
        .unwrap();
    // A film that takes seconds by its formula was done at once: outside, and early.
    for line in [
        "dailies_eta_jobs_total{band=\"standard\",inside=\"false\"} 1",
        "dailies_eta_error_seconds_count{band=\"standard\",side=\"early\"} 1",
        "dailies_price_error_ratio_count{band=\"standard\"} 1",
    ] {
        assert!(page.contains(line), "{line} is missing in {page}");
    }
}

#[tokio::test]
async fn prices_are_in_money_once_the_operator_has_set_one() {
    let farm = Farm::with(ApiSettings {
        price: crate::pricing::PriceSettings {
            per_gpu_hour: Some(3_600.0),
            currency: "eur".into(),
        },
        ..ApiSettings::default()
    })
    .await;
    let estimate = farm.estimate(json!({"prompt": "a ball"})).await;
    assert_eq!(estimate["price"]["currency"], "eur");
    let (price, time) = (&estimate["price"]["value"], &estimate["gpu_seconds"]["p50"]);
    assert!(
        (price.as_f64().unwrap() - time.as_f64().unwrap()).abs() < 1e-4,
        "{estimate}"
    );
    let video = farm
        .post("/v1/videos", json!({"prompt": "a ball"}))
        .await
        .json();
    let (cost, held) = (
        &video["usage"]["cost"]["value"],
        &video["usage"]["reserved_gpu_seconds"],
    );
    assert!(
        (cost.as_f64().unwrap() - held.as_f64().unwrap()).abs() < 1e-4,
        "{video}"
    );
    assert_eq!(estimate["price_at_most"], video["usage"]["cost"]);
}

#[tokio::test]
async fn a_film_that_names_a_quote_has_its_price_whatever_is_measured_since() {
    let farm = Farm::start().await;
    let agent = farm.agent(&[]).await;
    let before = farm.estimate(json!({"prompt": "a ball"})).await;
    let quote = before["quote"].as_str().unwrap();
    let left = seconds(&before["valid_until"]) - farm.dispatcher.now_ms() / 1_000;
    assert!((298..=300).contains(&left), "{before}");
    for _ in 0..30 {
        farm.create("a ball").await;
        while let Some(offer) = farm.lease(agent).await {
            farm.finish_timed(&offer).await;
        }
    }
    let after = farm.estimate(json!({"prompt": "a ball"})).await;
    assert_ne!(after["gpu_seconds"], before["gpu_seconds"]);
    let held = |video: &Value| video["usage"]["reserved_gpu_seconds"].clone();
    let body = json!({"prompt": "another ball", "quote": quote});
    let quoted = farm.post("/v1/videos", body).await.json();
    assert_eq!(held(&quoted), before["gpu_seconds"]["p90"]);
    let plain = json!({"prompt": "another ball"});
    let plain = farm.post("/v1/videos", plain).await.json();
    assert_eq!(held(&plain), after["gpu_seconds"]["p90"]);

    for (body, code) in [
        (
            json!({"prompt": "a", "seconds": "8", "quote": quote}),
            "invalid_value",
        ),
        (json!({"prompt": "a", "quote": "quote_0"}), "quote_expired"),
        (
            json!({"prompt": "a", "quote": quote, "dry_run": true}),
            "invalid_value",
        ),
    ] {
        let refused = farm.post("/v1/videos", body.clone()).await;
        assert_eq!(refused.error(), (400, code.into()), "{body}");
        assert_eq!(refused.json()["error"]["param"], "quote", "{body}");
    }
    let blocked = farm.estimate(json!({"prompt": "a forbidden thing"})).await;
    assert!(
        blocked["quote"].is_null(),
        "no price for what is not taken: {blocked}"
    );
}
