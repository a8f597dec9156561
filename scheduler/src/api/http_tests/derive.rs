//! Videos that are made of others: remix, edit, extension, and a given film.

use serde_json::json;

use super::*;

#[tokio::test]
async fn a_finished_video_is_extended_and_the_total_is_answered() {
    let farm = Farm::start().await;
    let id = farm.create("a ball").await;
    let early = farm
        .post(
            "/v1/videos/extensions",
            json!({"prompt": "on", "video": {"id": &id}}),
        )
        .await;
    assert_eq!(early.error(), (400, "video_not_ready".into()));
    farm.render_all().await;
    let asked = json!({"prompt": "it rolls on", "seconds": "8", "video": {"id": &id}});
    let longer = farm.post("/v1/videos/extensions", asked).await.json();
    assert_eq!(
        (&longer["seconds"], &longer["status"]),
        (&json!("12"), &json!("queued"))
    );
    assert_eq!(
        (&longer["operation"], &longer["source_video_id"]),
        (&json!("extend"), &json!(id))
    );
    assert_eq!(longer["remixed_from_video_id"], json!(null));
    farm.render_all().await;
    let longer = longer["id"].as_str().unwrap();
    let video = farm.get(&format!("/v1/videos/{longer}")).await.json();
    assert_eq!(video["status"], "completed");
    let form = form(
        &[("prompt", "more"), ("video[id]", longer)],
        &BTreeMap::new(),
    );
    let third = farm
        .send(form_request("/v1/videos/extensions", form))
        .await
        .json();
    assert_eq!(third["seconds"], "16");
}

#[tokio::test]
async fn a_remix_and_an_edit_take_model_size_and_seconds_of_their_video() {
    let farm = Farm::start().await;
    let asked = json!({"prompt": "a ball", "size": "1280x720", "seconds": "8"});
    let id = farm.post("/v1/videos", asked).await.id();
    farm.render_all().await;
    let remix = farm
        .post(
            &format!("/v1/videos/{id}/remix"),
            json!({"prompt": "a cube"}),
        )
        .await
        .json();
    for (name, value) in [("size", "1280x720"), ("seconds", "8"), ("model", "sora-2")] {
        assert_eq!(remix[name], value);
    }
    assert_eq!(remix["remixed_from_video_id"], json!(id));
    let agent = farm.agent(&[]).await;
    let TaskSpec::Render(spec) = farm.lease(agent).await.unwrap().spec else {
        panic!("a shot")
    };
    // As the settings say of the built-in weights; the call said nothing.
    assert_eq!(spec.given().renoise, Some(0.95));
    assert!(spec.given().film.is_some() && spec.given().sound.is_some());
    let edit = json!({"prompt": "b", "video": {"id": &id}, "retake": {"from": 1, "to": 2, "what": "audio"}});
    let edit = farm.post("/v1/videos/edits", edit).await.json();
    assert_eq!(
        (&edit["operation"], &edit["remixed_from_video_id"]),
        (&json!("edit"), &json!(id))
    );
    let wrong = json!({"prompt": "b", "seconds": "4"});
    let wrong = farm.post(&format!("/v1/videos/{id}/remix"), wrong).await;
    assert_eq!(wrong.error(), (400, "unknown_parameter".into()));
    let nobody = farm
        .post(
            "/v1/videos/edits",
            json!({"prompt": "b", "video": {"id": "video_0"}}),
        )
        .await;
    assert_eq!(nobody.error(), (404, "not_found".into()));
    let missing = farm.post("/v1/videos/edits", json!({"prompt": "b"})).await;
    assert_eq!(missing.error(), (400, "missing_required_parameter".into()));
}

#[tokio::test]
async fn a_sound_and_a_film_reach_the_shot_as_artefacts_and_other_files_are_refused() {
    let farm = Farm::start().await;
    let send = async |name, bytes: &'static [u8]| {
        let files = BTreeMap::from([(name, Bytes::from_static(bytes))]);
        let body = form(&[("prompt", "a ball")], &files);
        farm.send(form_request("/v1/videos", body)).await
    };
    send("audio_reference", b"RIFF....WAVE").await.id();
    let agent = farm.agent(&[]).await;
    let TaskSpec::Render(spec) = farm.lease(agent).await.unwrap().spec else {
        panic!("a shot")
    };
    let digest = spec.given().sound.as_ref().unwrap().file;
    assert_eq!(farm.artifacts.size(digest).await.unwrap(), Some(12));
    let wrong = send("video_reference", b"RIFF....WAVE").await;
    assert_eq!(wrong.error(), (400, "invalid_video".into()));
}
