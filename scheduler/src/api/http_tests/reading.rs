//! Keys, lists, states, cancel, delete, models, and paths that do not exist.

use serde_json::json;

use super::*;

#[tokio::test]
async fn only_a_live_key_of_the_project_sees_its_videos() {
    let farm = Farm::start().await;
    let id = farm.create("a ball").await;
    let path = format!("/v1/videos/{id}");
    let with = |value: &str| {
        let headers = [("authorization", value)];
        request(Method::GET, &path, &headers)
            .body(Body::empty())
            .unwrap()
    };
    let bare = Request::builder().uri(&path).body(Body::empty()).unwrap();
    assert_eq!(
        farm.send(bare).await.error(),
        (401, "invalid_api_key".into())
    );
    for bad in [
        "Bearer sk-wrong",
        "Bearer sk-revoked",
        "Basic sk-test",
        "sk-test",
    ] {
        let answer = farm.send(with(bad)).await;
        assert_eq!(answer.error(), (401, "invalid_api_key".into()), "{bad}");
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
    }
    let foreign = farm.send(with("Bearer sk-foreign")).await;
    assert_eq!(foreign.error(), (404, "not_found".into()));
    assert_eq!(foreign.header("openai-organization"), "others");
    assert_eq!(farm.send(with("Bearer sk-test")).await.status, 200);
}

#[tokio::test]
async fn pages_walk_through_all_videos_in_both_orders() {
    let farm = Farm::start().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(farm.create(&format!("ball {n}")).await);
    }
    for order in ["asc", "desc"] {
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let page = farm
                .get(&format!("/v1/videos?limit=2&order={order}&after={after}"))
                .await;
            let page = page.json();
            assert_eq!(page["object"], "list");
            let data = page["data"].as_array().unwrap();
            assert_eq!(page["first_id"], data[0]["id"]);
            assert_eq!(page["last_id"], data[data.len() - 1]["id"]);
            seen.extend(
                data.iter()
                    .map(|video| video["id"].as_str().unwrap().to_owned()),
            );
            after = page["last_id"].as_str().unwrap().to_owned();
            if page["has_more"] == json!(false) {
                break;
            }
            // A new job must not shift the pages of a walk from new to old.
            if order == "desc" && seen.len() == 2 {
                farm.create("another ball").await;
            }
        }
        let mut expected = ids.clone();
        if order == "desc" {
            expected.reverse();
        }
        assert_eq!(seen, expected, "{order}");
    }
}

#[tokio::test]
async fn empty_pages_and_lost_places() {
    let farm = Farm::start().await;
    let empty =
        json!({"object": "list", "data": [], "first_id": null, "last_id": null, "has_more": false});
    assert_eq!(farm.get("/v1/videos").await.json(), empty);
    let (first, second) = (farm.create("a").await, farm.create("b").await);
    assert_eq!(farm.get("/v1/videos?limit=0").await.json(), empty);
    farm.call(Method::DELETE, &format!("/v1/videos/{second}"))
        .await
        .id();
    let page = farm.get(&format!("/v1/videos?after={second}")).await.json();
    assert_eq!(page["data"][0]["id"], json!(first));
    let unknown = schemas::JobId(Uuid::from_u128(1));
    for after in ["video_1", &unknown.to_string()] {
        let answer = farm.get(&format!("/v1/videos?after={after}")).await;
        assert_eq!(answer.error(), (400, "invalid_value".into()));
        assert_eq!(answer.json()["error"]["param"], "after");
    }
    assert_eq!(
        farm.get("/v1/videos?limit=101").await.error().1,
        "invalid_value"
    );
    assert_eq!(
        farm.get("/v1/videos?page=2").await.error().1,
        "unknown_parameter"
    );
}

#[tokio::test]
async fn waiting_jobs_say_when_to_ask_again() {
    let farm = Farm::start().await;
    let path = format!("/v1/videos/{}", farm.create("a ball").await);
    // Without any device there is no ETA.
    let waiting = farm.get(&path).await;
    assert_eq!(waiting.header("openai-poll-after-ms"), "5000");
    assert_eq!(waiting.json()["eta"]["completes_at_p50"], json!(null));
    let agent = farm.agent(&[]).await;
    let poll: u64 = farm
        .get(&path)
        .await
        .header("openai-poll-after-ms")
        .parse()
        .unwrap();
    assert!((500..=15_000).contains(&poll));
    let offer = farm.lease(agent).await.unwrap();
    let running = farm.get(&path).await;
    assert_eq!(running.json()["status"], "in_progress");
    assert!(running.headers.contains_key("openai-poll-after-ms"));
    assert!(running.json()["eta"]["completes_at_p50"].is_i64());
    farm.finish(&offer).await;
    farm.render_all().await;
    let done = farm.get(&path).await;
    assert_eq!(
        (&done.json()["status"], &done.json()["progress"]),
        (&json!("completed"), &json!(100))
    );
    assert!(!done.headers.contains_key("openai-poll-after-ms"));
    assert!(done.json()["completed_at"].is_i64());
    assert_eq!(done.json()["usage"]["state"], "posted");
}

#[tokio::test]
async fn a_failed_render_is_a_failed_video_and_not_an_http_error() {
    let farm = Farm::start().await;
    let id = farm.create("a ball").await;
    let agent = farm.agent(&[]).await;
    farm.fail(&farm.lease(agent).await.unwrap()).await;
    let answer = farm.get(&format!("/v1/videos/{id}")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["status"], "failed");
    assert!(answer.json()["error"]["code"].is_string());
    assert!(answer.json()["error"]["message"].is_string());
    assert!(answer.json()["progress"].as_u64().unwrap() < 100);
    let content = farm.get(&format!("/v1/videos/{id}/content")).await;
    assert_eq!(content.error(), (400, "video_failed".into()));
}

#[tokio::test]
async fn cancel_ends_a_job_at_once_and_changes_no_ended_one() {
    let farm = Farm::start().await;
    let id = farm.create("a ball").await;
    let agent = farm.agent(&[]).await;
    let offer = farm.lease(agent).await.unwrap();
    let path = format!("/v1/videos/{id}/cancel");
    let cancel = request(Method::POST, &path, &[("content-type", "application/json")]);
    let cancelled = farm.send(cancel.body(Body::empty()).unwrap()).await;
    assert_eq!(cancelled.json()["status"], "cancelled");
    let outcome = Outcome::Succeeded {
        artefacts: Vec::new(),
        device_us: 0,
        steps_run: 0,
        times: Default::default(),
        memory: Default::default(),
    };
    let late = farm
        .dispatcher
        .report(Report {
            lease: offer.lease,
            outcome,
        })
        .await
        .unwrap();
    assert!(matches!(late, WriteAnswer::Refused { .. }));
    assert_eq!(
        farm.call(Method::POST, &path).await.json()["status"],
        "cancelled"
    );
    let unknown = farm.call(Method::POST, "/v1/videos/video_1/cancel").await;
    assert_eq!(unknown.error(), (404, "not_found".into()));
}

#[tokio::test]
async fn a_paused_video_says_so_until_it_is_resumed() {
    let farm = Farm::start().await;
    let id = farm.create("a ball").await;
    let paused = farm
        .call(Method::POST, &format!("/v1/videos/{id}/pause"))
        .await
        .json();
    assert_eq!(paused["status"], "queued");
    assert_eq!(paused["reason"]["code"], "job_paused");
    let agent = farm.agent(&[]).await;
    assert!(farm.lease(agent).await.is_none());
    let path = format!("/v1/videos/{id}/resume");
    let resumed = farm.call(Method::POST, &path).await.json();
    assert_ne!(resumed["reason"]["code"], "job_paused");
    assert!(farm.lease(agent).await.is_some());
    let unknown = farm.call(Method::POST, "/v1/videos/video_1/pause").await;
    assert_eq!(unknown.error(), (404, "not_found".into()));
}

#[tokio::test]
async fn delete_removes_queued_running_and_finished_videos() {
    let farm = Farm::start().await;
    let finished = farm.create("a").await;
    farm.render_all().await;
    let (running, queued) = (farm.create("b").await, farm.create("c").await);
    let agent = farm.agent(&[]).await;
    farm.lease(agent).await.unwrap();
    for id in [finished, running, queued] {
        let path = format!("/v1/videos/{id}");
        let typed = request(
            Method::DELETE,
            &path,
            &[("content-type", "application/json")],
        );
        let deleted = farm.send(typed.body(Body::empty()).unwrap()).await;
        assert_eq!(
            deleted.json(),
            json!({"id": id, "object": "video.deleted", "deleted": true})
        );
        assert_eq!(farm.get(&path).await.error(), (404, "not_found".into()));
        assert_eq!(
            farm.call(Method::DELETE, &path).await.error(),
            (404, "not_found".into())
        );
        let again = request(Method::DELETE, &path, &[("x-stainless-retry-count", "1")]);
        let again = farm.send(again.body(Body::empty()).unwrap()).await;
        assert_eq!(again.json()["deleted"], true);
    }
    assert_eq!(farm.count().await, 0);
    let never = schemas::JobId(Uuid::from_u128(1)).to_string();
    let path = format!("/v1/videos/{never}");
    let again = request(Method::DELETE, &path, &[("x-stainless-retry-count", "1")]);
    let again = farm.send(again.body(Body::empty()).unwrap()).await;
    assert_eq!(again.error(), (404, "not_found".into()));
}

#[tokio::test]
async fn models_are_listed_and_found() {
    let farm = Farm::start().await;
    let list = farm.get("/v1/models").await.json();
    assert_eq!(list["object"], "list");
    let ids: Vec<_> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["id"].clone())
        .collect();
    assert_eq!(ids, ["builtin", "sora-2", "sora-2-pro"]);
    let model = farm.get("/v1/models/sora-2").await.json();
    assert_eq!(
        (&model["object"], &model["owned_by"]),
        (&json!("model"), &json!("dailies"))
    );
    assert_eq!(model["shutdown_date"], json!(null));
    assert_eq!(
        model["capabilities"]["seconds"],
        json!(["4", "8", "12", "16", "20"])
    );
    let unknown = farm.get("/v1/models/sora-9").await;
    assert_eq!(unknown.error(), (404, "model_not_found".into()));
}

#[tokio::test]
async fn what_is_not_served_is_404_or_405_with_the_error_body() {
    let farm = Farm::start().await;
    for (method, path) in [
        (Method::GET, "/v1"),
        (Method::GET, "/v1/"),
        (Method::POST, "/v1/uploads"),
        (Method::GET, "/v1/videos/characters"),
        (Method::GET, "/v1/files"),
    ] {
        let answer = farm.call(method.clone(), path).await;
        assert_eq!(
            answer.error(),
            (404, "unknown_url".into()),
            "{method} {path}"
        );
    }
    for (path, advice) in [
        ("/v1/videos/characters", "describe in each prompt"),
        ("/v1/webhook_endpoints", "poll the video"),
        ("/v1/batches/batch_1", "a create for each film"),
        ("/v1/files", "with the request"),
    ] {
        let answer = farm.get(path).await.json();
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(advice), "{message}");
    }
    let put = farm.call(Method::PUT, "/v1/videos").await;
    assert_eq!(put.error(), (405, "method_not_allowed".into()));
    assert_eq!(put.header("allow"), "GET,HEAD,POST");
    let estimate = farm.get("/v1/videos/estimate").await;
    assert_eq!(
        (estimate.error().0, estimate.header("allow")),
        (405, "POST")
    );
    assert_eq!(
        farm.get("/v1/videos/video_1").await.error(),
        (404, "not_found".into())
    );
}

#[tokio::test]
async fn events_start_with_the_present_state_and_close_after_the_end() {
    let farm = Farm::start().await;
    let id = farm.create("a ball").await;
    let path = format!("/v1/videos/{id}/events");
    farm.call(Method::POST, &format!("/v1/videos/{id}/cancel"))
        .await
        .id();
    let headers = [("last-event-id", "4")];
    let answer = farm
        .send(
            request(Method::GET, &path, &headers)
                .body(Body::empty())
                .unwrap(),
        )
        .await;
    assert_eq!(answer.header("content-type"), "text/event-stream");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("x-accel-buffering"), "no");
    let text = String::from_utf8(answer.bytes.to_vec()).unwrap();
    assert!(
        text.contains("id: 5\n") && text.contains("event: video.cancelled\n"),
        "{text}"
    );
    assert_eq!(text.matches("event:").count(), 1);
    assert_eq!(farm.get("/v1/videos/video_1/events").await.error().0, 404);
}
