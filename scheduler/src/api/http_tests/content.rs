//! Downloads: variants, headers, ranges and conditions.

use serde_json::json;

use super::*;

const FILM: &[u8] = b"the film of a test";

async fn finished() -> (Farm, String) {
    let farm = Farm::start().await;
    let id = farm.create("a ball").await;
    farm.render_all().await;
    (farm, format!("/v1/videos/{id}/content"))
}

async fn with(farm: &Farm, path: &str, headers: &[(&str, &str)]) -> Answer {
    farm.send(
        request(Method::GET, path, headers)
            .body(Body::empty())
            .unwrap(),
    )
    .await
}

#[tokio::test]
async fn three_variants_with_their_headers() {
    let (farm, path) = finished().await;
    for (query, media, extension, text) in [
        ("", "video/mp4", "mp4", "the film of a test"),
        ("?variant=video", "video/mp4", "mp4", "the film of a test"),
        (
            "?variant=thumbnail",
            "image/webp",
            "webp",
            "the thumbnail of a test",
        ),
        (
            "?variant=spritesheet",
            "image/jpeg",
            "jpg",
            "the spritesheet of a test",
        ),
    ] {
        let accept = [("accept", "application/binary")];
        let answer = with(&farm, &format!("{path}{query}"), &accept).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.bytes, text.as_bytes());
        assert_eq!(answer.header("content-type"), media);
        assert_eq!(answer.header("content-length"), text.len().to_string());
        assert_eq!(answer.header("accept-ranges"), "bytes");
        assert_eq!(answer.header("cache-control"), "private, max-age=3600");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        let name = answer.header("content-disposition");
        assert!(name.starts_with("inline; filename=\"video_"), "{name}");
        assert!(name.ends_with(&format!(".{extension}\"")), "{name}");
        assert!(answer.header("last-modified").ends_with(" GMT"));
        let sha256 = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(text));
        assert_eq!(answer.header("etag"), format!("\"{sha256}\""));
        assert!(!answer.headers.contains_key("content-encoding"));
    }
    let other = farm.get(&format!("{path}?variant=audio")).await;
    assert_eq!(other.error(), (400, "invalid_value".into()));
    assert_eq!(other.json()["error"]["param"], "variant");
}

#[tokio::test]
async fn head_answers_the_headers_of_get() {
    let (farm, path) = finished().await;
    let (get, head) = (farm.get(&path).await, farm.call(Method::HEAD, &path).await);
    assert!(head.bytes.is_empty());
    for (name, value) in &get.headers {
        let changes = [
            "x-request-id",
            "openai-processing-ms",
            "x-ratelimit-remaining-requests",
        ];
        if !changes.contains(&name.as_str()) && name != "x-ratelimit-reset-requests" {
            assert_eq!(head.headers.get(name), Some(value), "{name}");
        }
    }
}

#[tokio::test]
async fn ranges_and_conditions() {
    let (farm, path) = finished().await;
    let etag = farm.get(&path).await.header("etag").to_owned();
    for (range, expected, place) in [
        ("bytes=0-2", &FILM[..3], "bytes 0-2/18"),
        ("bytes=4-7", &FILM[4..8], "bytes 4-7/18"),
        ("bytes=-4", &FILM[14..], "bytes 14-17/18"),
    ] {
        let part = with(&farm, &path, &[("range", range)]).await;
        assert_eq!((part.status.as_u16(), &part.bytes[..]), (206, expected));
        assert_eq!(part.header("content-range"), place);
        assert_eq!(part.header("content-length"), expected.len().to_string());
    }
    let several = with(&farm, &path, &[("range", "bytes=0-1,3-4")]).await;
    assert_eq!((several.status.as_u16(), &several.bytes[..]), (200, FILM));
    let beyond = with(&farm, &path, &[("range", "bytes=18-")]).await;
    assert_eq!(beyond.error(), (416, "range_not_satisfiable".into()));
    assert_eq!(beyond.header("content-range"), "bytes */18");
    let known = with(&farm, &path, &[("if-none-match", &etag)]).await;
    assert_eq!((known.status.as_u16(), known.bytes.len()), (304, 0));
    assert_eq!(known.header("etag"), etag);
    let fresh = with(&farm, &path, &[("range", "bytes=0-2"), ("if-range", &etag)]).await;
    assert_eq!(fresh.status, 206);
    let stale = with(
        &farm,
        &path,
        &[("range", "bytes=0-2"), ("if-range", "\"old\"")],
    )
    .await;
    assert_eq!((stale.status.as_u16(), &stale.bytes[..]), (200, FILM));
}

#[tokio::test]
async fn content_that_is_not_there_says_why() {
    let farm = Farm::start().await;
    let id = farm.create("a ball").await;
    let path = format!("/v1/videos/{id}/content");
    let queued = farm.get(&path).await;
    assert_eq!(queued.error(), (400, "video_not_ready".into()));
    assert_eq!(queued.json()["error"]["param"], json!("video_id"));
    farm.call(Method::POST, &format!("/v1/videos/{id}/cancel"))
        .await
        .id();
    assert_eq!(farm.get(&path).await.error(), (400, "video_failed".into()));
    assert_eq!(farm.get("/v1/videos/video_1/content").await.error().0, 404);
    let foreign = with(&farm, &path, &[("authorization", "Bearer sk-foreign")]).await;
    assert_eq!(foreign.error(), (404, "not_found".into()));
}
