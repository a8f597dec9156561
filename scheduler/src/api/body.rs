//! Reads a request body: JSON or a form, with limits, to a tree of fields.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{DefaultBodyLimit, FromRequest, Multipart, Request},
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;

use super::{
    form,
    node::{Fields, Node},
};
use crate::admission::{Code, Refusal};

const JSON_BYTES_MAX: usize = 24 << 20;
const FORM_BYTES_MAX: usize = 32 << 20;
/// A body over its limit is read on up to here before the answer, because a client that is cut off
/// in mid-send sees a broken connection and tries again.
const DRAIN_BYTES_MAX: usize = 64 << 20;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);
/// The longest silence in mid-body.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// The first part of a buffer that was sent as numbers.
const BUFFER_PART: &[u8] = b"name=\"input_reference[0]\"";

enum Encoding {
    Json,
    Form,
}

/// Reads the whole body and parses it by its content type.
pub async fn read_fields(request: Request) -> Result<Fields, Refusal> {
    let (parts, body) = request.into_parts();
    let bytes = |limit| collect(body, limit);
    match encoding(&parts.headers)? {
        Encoding::Json => json(
            &bytes(JSON_BYTES_MAX)
                .await
                .map_err(|end| end.refusal("JSON"))?,
        ),
        Encoding::Form => {
            let whole = bytes(FORM_BYTES_MAX).await.map_err(|end| match end {
                End::TooLarge(start) if contains(&start, BUFFER_PART) => form::buffer_refusal(),
                end => end.refusal("multipart"),
            })?;
            let mut request = Request::from_parts(parts, Body::from(whole));
            // The limit has been kept above.
            DefaultBodyLimit::disable().apply(&mut request);
            let form = Multipart::from_request(request, &())
                .await
                .map_err(|error| {
                    Refusal::new(Code::InvalidMultipart, format!("{}.", error.body_text()))
                })?;
            form::read_form(form).await
        }
    }
}

/// An empty body is `{}`, whatever its type; so is one without a type.
fn encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let value = headers
        .get(header::CONTENT_TYPE)
        .map(|value| value.to_str().unwrap_or_default());
    let essence = value.map(|v| {
        v.split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase()
    });
    match essence.as_deref() {
        None | Some("application/json") => Ok(Encoding::Json),
        Some("multipart/form-data") => Ok(Encoding::Form),
        Some(other) => {
            let shown: String = other.chars().take(80).collect();
            Err(Refusal::new(
                Code::UnsupportedMediaType,
                format!(
                    "Unsupported content type '{shown}': send 'application/json' or \
                     'multipart/form-data'."
                ),
            ))
        }
    }
}

fn json(bytes: &[u8]) -> Result<Fields, Refusal> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Fields::new());
    }
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| {
        Refusal::new(
            Code::InvalidJson,
            format!("The body is not valid JSON: {error}."),
        )
    })?;
    match Node::from(value) {
        Node::Object(fields) => Ok(fields),
        other => Err(Refusal::new(
            Code::InvalidType,
            format!(
                "Invalid type for the body: expected an object, but got {}.",
                other.kind()
            ),
        )),
    }
}

/// Why a body did not arrive whole.
enum End {
    /// With what came before the limit.
    TooLarge(Bytes),
    Broken,
}

impl End {
    fn refusal(&self, what: &str) -> Refusal {
        match self {
            Self::TooLarge(start) => Refusal::new(
                Code::RequestTooLarge,
                format!(
                    "The body is too large: at most {} bytes of {what} are read.",
                    start.len()
                ),
            ),
            Self::Broken => Refusal::new(
                Code::InvalidValue,
                format!("The {what} body did not arrive whole."),
            ),
        }
    }
}

async fn collect(mut body: Body, limit: usize) -> Result<Bytes, End> {
    let mut whole = BytesMut::new();
    while let Some(data) = next(&mut body).await? {
        let room = limit - whole.len();
        if data.len() > room {
            whole.extend_from_slice(&data[..room]);
            // Both ends of the drain are fine: the answer follows in any case.
            let _ = tokio::time::timeout(DRAIN_TIME_MAX, drain(&mut body, limit)).await;
            return Err(End::TooLarge(whole.freeze()));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

async fn drain(body: &mut Body, mut read: usize) {
    while read < DRAIN_BYTES_MAX {
        match next(body).await {
            Ok(Some(data)) => read += data.len(),
            Ok(None) | Err(_) => return,
        }
    }
}

/// Reads a body that nothing will look at, so that its sender gets to read the answer.
pub async fn discard(mut body: Body) {
    // A sender that is too slow or sends too much is cut off.
    let _ = tokio::time::timeout(DRAIN_TIME_MAX, drain(&mut body, 0)).await;
}

/// The next piece of data; `None` at the end.
async fn next(body: &mut Body) -> Result<Option<Bytes>, End> {
    loop {
        let frame = tokio::time::timeout(IDLE_MAX, body.frame())
            .await
            .map_err(|_| End::Broken)?;
        match frame {
            None => return Ok(None),
            Some(Err(_)) => return Err(End::Broken),
            Some(Ok(frame)) => {
                // Trailers are not data.
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(content_type: Option<&str>, body: impl Into<Body>) -> Result<Fields, Refusal> {
        let mut request = Request::builder().method("POST").uri("/v1/videos");
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        read_fields(request.body(body.into()).unwrap()).await
    }

    fn code(result: Result<Fields, Refusal>) -> &'static str {
        result.map_or_else(|refusal| refusal.code.text(), |_| "ok")
    }

    #[tokio::test]
    async fn json_bodies() {
        let json = Some("application/json; charset=utf-8");
        assert_eq!(code(read(json, "").await), "ok");
        assert_eq!(code(read(None, "{}").await), "ok");
        assert_eq!(code(read(json, "{\"a\":").await), "invalid_json");
        assert_eq!(code(read(json, "[1]").await), "invalid_type");
        assert_eq!(code(read(json, vec![0xff, 0xfe]).await), "invalid_json");
        assert_eq!(
            code(read(Some("text/plain"), "x").await),
            "unsupported_media_type"
        );
        assert_eq!(code(read(json, vec![b' '; JSON_BYTES_MAX]).await), "ok");
        assert_eq!(
            code(read(json, vec![b' '; JSON_BYTES_MAX + 1]).await),
            "request_too_large"
        );
    }

    #[tokio::test]
    async fn forms_with_files_in_any_order() {
        let body = "--B\r\nContent-Disposition: form-data; name=\"input_reference\"; filename=\"\u{e4}%22.png\"\r\nContent-Type: text/plain\r\n\r\nbytes\r\n\
            --B\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\na\r\nb\r\n--B--\r\n";
        let fields = read(Some("multipart/form-data; boundary=B"), body)
            .await
            .unwrap();
        assert_eq!(fields["prompt"], Node::Text("a\nb".into()));
        assert_eq!(
            fields["input_reference"],
            Node::File(Bytes::from_static(b"bytes"))
        );
    }

    fn part(name: &str, value: &str) -> String {
        format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    }

    #[tokio::test]
    async fn broken_and_oversize_forms() {
        let form = Some("multipart/form-data; boundary=B");
        assert_eq!(
            code(read(Some("multipart/form-data"), "x").await),
            "invalid_multipart"
        );
        assert_eq!(code(read(form, "nonsense").await), "invalid_multipart");
        assert_eq!(code(read(form, part("a", "b")).await), "invalid_multipart");
        let long = part("prompt", &"x".repeat(form::TEXT_BYTES_MAX + 1)) + "--B--\r\n";
        assert_eq!(code(read(form, long).await), "request_too_large");
        let many = part("x[]", "1").repeat(form::PARTS_MAX + 1) + "--B--\r\n";
        assert_eq!(code(read(form, many).await), "request_too_large");
        let nameless = "--B\r\nContent-Type: text/plain\r\n\r\nx\r\n--B--\r\n";
        assert_eq!(code(read(form, nameless).await), "invalid_multipart");
        assert_eq!(
            code(read(form, vec![b'x'; FORM_BYTES_MAX + 1]).await),
            "request_too_large"
        );
        let buffer = part("input_reference[0]", "80") + &"x".repeat(FORM_BYTES_MAX);
        assert_eq!(code(read(form, buffer).await), "invalid_type");
    }
}
