//! Creating videos: what is accepted, what is refused, and what it becomes.

use std::io::Cursor;

use proptest::{prelude::*, strategy::ValueTree};
use serde_json::json;

use super::*;

const CONTRACT_KEYS: [&str; 13] = [
    "id",
    "object",
    "model",
    "status",
    "progress",
    "created_at",
    "completed_at",
    "expires_at",
    "prompt",
    "seconds",
    "size",
    "remixed_from_video_id",
    "error",
];

#[tokio::test]
async fn a_prompt_as_form_or_json_becomes_a_queued_video() {
    let farm = Farm::start().await;
    let form = form(&[("prompt", "a ball\r\nfalls")], &BTreeMap::new());
    let from_form = farm.send(form_request("/v1/videos", form)).await;
    let from_json = farm
        .post("/v1/videos", json!({"prompt": "a ball\nfalls"}))
        .await;
    for answer in [&from_form, &from_json] {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.header("openai-organization"), "studio");
        let video = answer.json();
        assert!(
            CONTRACT_KEYS.iter().all(|key| video.get(key).is_some()),
            "{video}"
        );
        assert_eq!(video["status"], "queued");
        assert_eq!(video["seconds"], "4");
        assert_eq!(video["size"], "720x1280");
        assert_eq!(video["model"], "sora-2");
        assert_eq!(video["prompt"], "a ball\nfalls");
        assert_eq!(video["native_size"], "64x112");
        assert_eq!(video["progress"], 0);
        assert!(video["seed"].is_u64());
    }
    assert_ne!(from_form.json()["seed"], from_json.json()["seed"]);
}

#[tokio::test]
async fn a_priority_is_shown_and_priced() {
    let farm = Farm::start().await;
    let mut held = Vec::new();
    for priority in ["low", "normal", "high", "urgent"] {
        let asked = json!({"prompt": "a ball", "priority": priority});
        let video = farm.post("/v1/videos", asked).await.json();
        assert_eq!(video["priority"], priority, "{video}");
        held.push(video["usage"]["reserved_gpu_seconds"].as_f64().unwrap());
    }
    let normal = held[1];
    let factors: Vec<f64> = held
        .iter()
        .map(|held| (held / normal * 100.0).round() / 100.0)
        .collect();
    assert_eq!(factors, [0.5, 1.0, 1.0, 2.0]);
}

#[tokio::test]
async fn instants_are_read_in_both_forms_and_one_that_cannot_be_kept_is_refused() {
    let farm = Farm::start().await;
    let wish = json!({
        "prompt": "a ball", "not_before": "2100-01-31T08:00:00+01:00", "deadline": 4_105_195_200_i64,
    });
    let made = farm.post("/v1/videos", wish).await.json();
    assert_eq!(made["not_before"], 4_105_062_000_i64);
    assert_eq!(made["deadline"], 4_105_195_200_i64);
    assert_eq!(made["waiting"], "start_later");
    assert_eq!(made["usage"]["saved"], Value::Null);
    for (wrong, param) in [
        (json!({"prompt": "a", "deadline": 1_000}), "deadline"),
        (json!({"prompt": "a", "deadline": -1}), "deadline"),
        (
            json!({"prompt": "a", "not_before": 1e14 as i64}),
            "not_before",
        ),
        (
            json!({"prompt": "a", "not_before": 4_105_195_200_i64, "deadline": 4_105_062_000_i64}),
            "deadline",
        ),
    ] {
        let answer = farm.post("/v1/videos", wrong.clone()).await;
        assert_eq!(answer.error(), (400, "invalid_value".into()));
        assert_eq!(answer.json()["error"]["param"], param, "{wrong}");
        if wrong["deadline"] != -1 && param == "deadline" {
            let verdict = farm.post("/v1/videos/estimate", wrong).await.json();
            assert_eq!(verdict["reasons"][0]["error"]["param"], "deadline");
        }
    }
    let odd = json!({"prompt": "a", "deadline": "tomorrow"});
    let answer = farm.post("/v1/videos", odd).await;
    assert_eq!(answer.error(), (400, "invalid_type".into()));
    assert_eq!(farm.count().await, 1);
}

#[tokio::test]
async fn a_start_names_a_window_and_halves_the_price() {
    let farm = Farm::start().await;
    let now = farm
        .post("/v1/videos", json!({"prompt": "a ball"}))
        .await
        .json();
    assert_eq!(now["start"], "now");
    let refused = farm
        .post("/v1/videos", json!({"prompt": "a ball", "start": "lunch"}))
        .await;
    assert_eq!(refused.status, 400);
    let error = refused.json();
    assert_eq!(error["error"]["param"], "start", "{error}");
    let said = error["error"]["message"].as_str().unwrap();
    assert!(said.contains("'now' and 'overnight'"), "{said}");
    let night = farm
        .post(
            "/v1/videos",
            json!({"prompt": "a ball", "start": "overnight"}),
        )
        .await
        .json();
    assert_eq!(night["start"], "overnight");
    let held = |video: &serde_json::Value| video["usage"]["reserved_gpu_seconds"].as_f64().unwrap();
    assert!((held(&night) / held(&now) - 0.5).abs() < 0.01, "{night}");
}

#[tokio::test]
async fn extensions_are_kept_and_shown() {
    let farm = Farm::start().await;
    let asked = json!({
        "prompt": "a ball", "model": "builtin", "seconds": 5, "size": "64x64", "seed": 42,
        "steps": 3, "guidance_scale": 2.0, "negative_prompt": "rain", "metadata": {"show": "pilot"},
    });
    let video = farm.post("/v1/videos", asked).await.json();
    assert_eq!(video["seed"], 42);
    assert_eq!(video["steps"], 3);
    assert_eq!(video["metadata"], json!({"show": "pilot"}));
    assert_eq!(video["warnings"][0]["code"], "split_into_shots");
    assert_eq!(video["shots"].as_array().unwrap().len(), 2);
    assert_eq!(video["queue_position"], 1);
    assert_eq!(video["usage"]["state"], "reserved");
    let agent = farm.agent(&[]).await;
    let offer = farm.lease(agent).await.unwrap();
    let TaskSpec::Render(spec) = offer.spec else {
        panic!("a shot comes first")
    };
    assert_eq!(
        (spec.seed, spec.steps, spec.guidance_scale),
        (42, Some(3), Some(2.0))
    );
    assert_eq!((spec.negative_prompt.as_str(), spec.frames), ("rain", 41));
}

#[tokio::test]
async fn a_reference_image_reaches_the_first_shot_as_an_artefact() {
    let farm = Farm::start().await;
    let mut png = Cursor::new(Vec::new());
    image::RgbImage::new(720, 1280)
        .write_to(&mut png, image::ImageFormat::Png)
        .unwrap();
    let files = BTreeMap::from([("input_reference", Bytes::from(png.into_inner()))]);
    let body = form(&[("prompt", "a ball")], &files);
    farm.send(form_request("/v1/videos", body)).await.id();
    let agent = farm.agent(&[]).await;
    let TaskSpec::Render(spec) = farm.lease(agent).await.unwrap().spec else {
        panic!("a shot")
    };
    let digest = spec.first_frame.unwrap();
    assert!(farm.artifacts.size(digest).await.unwrap().unwrap() > 0);
}

#[tokio::test]
async fn unknown_words_are_named_once_the_weights_are_known() {
    let farm = Farm::start().await;
    farm.agent(&["a", "red", "ball"]).await;
    let video = farm
        .post("/v1/videos", json!({"prompt": "a red unicorn"}))
        .await
        .json();
    let warning = &video["warnings"][0];
    assert_eq!(
        (&warning["code"], &warning["param"]),
        (&json!("unknown_words"), &json!("prompt"))
    );
    assert!(warning["message"].as_str().unwrap().contains("'unicorn'"));
    assert!(
        video["resolved_model"]
            .as_str()
            .unwrap()
            .starts_with("builtin@blake3:")
    );
}

#[tokio::test]
async fn bad_requests_are_refused_and_make_no_job() {
    let farm = Farm::start().await;
    for (body, status, code, param) in [
        (
            json!({}),
            400,
            "missing_required_parameter",
            json!("prompt"),
        ),
        (json!({"prompt": ""}), 400, "invalid_value", json!("prompt")),
        (
            json!({"prompt": "p", "seconds": "5"}),
            400,
            "invalid_value",
            json!("seconds"),
        ),
        (
            json!({"prompt": "p", "seconds": "8.0"}),
            400,
            "invalid_value",
            json!("seconds"),
        ),
        (
            json!({"prompt": "p", "size": "1x1"}),
            400,
            "invalid_value",
            json!("size"),
        ),
        (
            json!({"prompt": "p", "devices": 3}),
            400,
            "invalid_value",
            json!("devices"),
        ),
        (
            json!({"prompt": "p", "sise": "64x64"}),
            400,
            "unknown_parameter",
            json!("sise"),
        ),
        (
            json!({"prompt": "p", "model": "x"}),
            404,
            "model_not_found",
            json!("model"),
        ),
        (
            json!({"prompt": "a forbidden thing"}),
            400,
            "moderation_blocked",
            json!("prompt"),
        ),
        (
            json!({"prompt": "p", "input_reference": {"image_url": "http://169.254.169.254/"}}),
            400,
            "invalid_image_url",
            json!("input_reference"),
        ),
        (
            json!({"prompt": "p", "input_reference": {"image_url": "data:image/png;base64,aGk="}}),
            400,
            "invalid_image",
            json!("input_reference"),
        ),
    ] {
        let answer = farm.post("/v1/videos", body.clone()).await;
        assert_eq!(answer.error(), (status, code.to_owned()), "{body}");
        assert_eq!(answer.json()["error"]["param"], param, "{body}");
    }
    let broken = request(Method::POST, "/v1/videos", &[])
        .body(Body::from("{"))
        .unwrap();
    assert_eq!(
        farm.send(broken).await.error(),
        (400, "invalid_json".into())
    );
    let typed = request(Method::POST, "/v1/videos", &[])
        .header("content-type", "text/plain")
        .body(Body::from("x"))
        .unwrap();
    assert_eq!(
        farm.send(typed).await.error(),
        (415, "unsupported_media_type".into())
    );
    assert_eq!(farm.count().await, 0);
}

#[tokio::test]
async fn a_body_over_the_limit_is_read_to_its_end_and_refused() {
    let farm = Farm::start().await;
    let body = form(&[("prompt", &"x".repeat(33 << 20))], &BTreeMap::new());
    let answer = farm.send(form_request("/v1/videos", body)).await;
    assert_eq!(answer.error(), (413, "request_too_large".into()));
    assert_eq!(answer.header("connection"), "close");
}

#[tokio::test]
async fn an_estimate_says_what_create_would_and_makes_no_job() {
    let farm = Farm::start().await;
    let asked = json!({"prompt": "a ball", "dry_run": true});
    let dry = farm.post("/v1/videos", asked.clone()).await.json();
    let estimate = farm.post("/v1/videos/estimate", asked).await.json();
    for answer in [&dry, &estimate] {
        assert_eq!(answer["object"], "video.estimate");
        assert_eq!(answer["accepted"], true);
        assert_eq!(answer["model"], "sora-2");
        assert!(answer["gpu_seconds"]["p90"].as_f64() > answer["gpu_seconds"]["p50"].as_f64());
    }
    let refused = farm
        .post(
            "/v1/videos/estimate",
            json!({"prompt": "p", "seconds": "5"}),
        )
        .await;
    assert_eq!(refused.status, 200);
    assert_eq!(refused.json()["accepted"], false);
    assert_eq!(
        refused.json()["reasons"][0]["error"]["code"],
        "invalid_value"
    );
    let malformed = farm.post("/v1/videos/estimate", json!({"prompt": 5})).await;
    assert_eq!(malformed.error(), (400, "invalid_type".into()));
    assert_eq!(farm.count().await, 0);
}

#[tokio::test]
async fn requests_beyond_the_rate_are_told_to_wait() {
    let farm = Farm::with(ApiSettings {
        rates: RateSettings {
            writes_per_minute: NonZeroU32::new(2).unwrap(),
            reads_per_minute: NonZeroU32::new(3).unwrap(),
        },
        ..ApiSettings::default()
    })
    .await;
    let first = farm.post("/v1/videos", json!({"prompt": "p"})).await;
    assert_eq!(first.header("x-ratelimit-limit-requests"), "2");
    assert_eq!(first.header("x-ratelimit-remaining-requests"), "1");
    assert_eq!(first.header("x-ratelimit-reset-requests"), "30s");
    // A refused request counts too.
    assert_eq!(
        farm.post("/v1/videos", json!({"prompt": ""})).await.status,
        400
    );
    let third = farm.post("/v1/videos", json!({"prompt": "p"})).await;
    assert_eq!(third.error(), (429, "rate_limit_exceeded".into()));
    assert_eq!(third.json()["error"]["type"], "rate_limit_error");
    let wait: u64 = third.header("retry-after-ms").parse().unwrap();
    assert!((50..=30_000).contains(&wait));
    for _ in 0..3 {
        assert_eq!(farm.get("/v1/videos").await.status, 200);
    }
    assert_eq!(farm.get("/v1/videos").await.error().0, 429);
}

#[tokio::test]
async fn random_bodies_are_never_the_servers_fault() {
    let farm = Farm::start().await;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let bytes = prop_oneof![
        any::<Vec<u8>>(),
        "\\{\"(prompt|size|shots|metadata|seed)\":[\\[{\"0-9a-z,:\\]}]{0,30}\\}".prop_map(Into::into),
        "(--B(\r\n|--)|Content-Disposition: form-data; name=\"[a-z\\[\\]]{0,12}\"|\r\n|[a-z]{0,9}){0,12}"
            .prop_map(Into::into),
    ];
    for _ in 0..300 {
        let body: Vec<u8> = bytes.new_tree(&mut runner).unwrap().current();
        for kind in ["application/json", "multipart/form-data; boundary=B"] {
            let request = request(Method::POST, "/v1/videos", &[])
                .header("content-type", kind)
                .body(Body::from(body.clone()))
                .unwrap();
            let status = farm.send(request).await.status.as_u16();
            assert!(
                status < 500,
                "{status} for {:?}",
                String::from_utf8_lossy(&body)
            );
        }
    }
}
