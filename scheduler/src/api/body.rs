//! Reads a request body: JSON or a form, with limits, to a tree of fields.

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{DefaultBodyLimit, FromRequest, Multipart, Request},
};
use bytes::{Bytes, BytesMut};
use futures::{Stream, stream};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use tokio::sync::Mutex;

use super::{
    form,
    node::{Fields, Node},
};
use crate::admission::{Code, Refusal};

pub const JSON_BYTES_MAX: usize = 24 << 20;
const FORM_BYTES_MAX: usize = 32 << 20;
/// A form with a film.
const FILM_FORM_BYTES_MAX: usize = 544 << 20;
/// So much of a refused body is read on before the answer, because a client that is cut off in mid-send sees a broken
/// connection and tries again.
const DRAIN_BYTES_MAX: usize = 64 << 20;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);
/// The longest silence in mid-body.
const IDLE_MAX: Duration = Duration::from_secs(60);

enum Encoding {
    Json,
    Form,
}

/// Reads the whole body and parses it by its content type.
pub async fn read_fields(request: Request) -> Result<Fields, Refusal> {
    read(request, FORM_BYTES_MAX, None).await
}

/// Like [`read_fields`], where a form may hold a film: it lies in `folder` meanwhile.
pub async fn read_fields_and_film(request: Request, folder: PathBuf) -> Result<Fields, Refusal> {
    read(request, FILM_FORM_BYTES_MAX, Some(folder)).await
}

async fn read(
    request: Request,
    form_bytes_max: usize,
    folder: Option<PathBuf>,
) -> Result<Fields, Refusal> {
    let (parts, body) = request.into_parts();
    match encoding(&parts.headers)? {
        Encoding::Json => {
            let metered = Metered::new(body, JSON_BYTES_MAX);
            match metered.collect().await {
                Ok(whole) => json(&whole),
                Err(_) => Err(metered.refusal("JSON", None).await),
            }
        }
        Encoding::Form => {
            let metered = Metered::new(body, form_bytes_max);
            let body = Body::from_stream(metered.stream());
            let fields = read_form(Request::from_parts(parts, body), folder).await;
            match fields {
                Ok(fields) => Ok(fields),
                Err(parsed) => Err(metered.refusal("multipart", Some(parsed)).await),
            }
        }
    }
}

async fn read_form(mut request: Request, folder: Option<PathBuf>) -> Result<Fields, Refusal> {
    // The limit is kept by what the body comes through.
    DefaultBodyLimit::disable().apply(&mut request);
    let form = Multipart::from_request(request, &()).await;
    let form = form
        .map_err(|error| Refusal::new(Code::InvalidMultipart, format!("{}.", error.body_text())))?;
    form::read_form(form, folder).await
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
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum End {
    /// With the limit.
    #[error("it has more than {0} bytes")]
    TooLarge(usize),
    #[error("it broke off")]
    Broken,
}

impl End {
    fn refusal(&self, what: &str) -> Refusal {
        match self {
            Self::TooLarge(limit) => Refusal::new(
                Code::RequestTooLarge,
                format!("The body is too large: at most {limit} bytes of {what} are read."),
            ),
            Self::Broken => Refusal::new(
                Code::InvalidValue,
                format!("The {what} body did not arrive whole."),
            ),
        }
    }
}

/// A body that is read up to a limit, by whoever parses it; why that ended is known afterwards.
#[derive(Clone)]
struct Metered(Arc<Mutex<Meter>>);

struct Meter {
    body: Body,
    limit: usize,
    left: usize,
    /// More has come than the limit; who parses hears of it behind the limit.
    is_over: bool,
    /// What who parses was told.
    end: Option<End>,
}

impl Metered {
    fn new(body: Body, limit: usize) -> Self {
        Self(Arc::new(Mutex::new(Meter {
            body,
            limit,
            left: limit,
            is_over: false,
            end: None,
        })))
    }

    async fn next(&self) -> Result<Option<Bytes>, End> {
        let mut meter = self.0.lock().await;
        let data = match meter.is_over {
            true => Err(End::TooLarge(meter.limit)),
            false => next(&mut meter.body).await,
        };
        meter.end = data.as_ref().err().copied();
        Ok(data?.map(|mut data| {
            meter.is_over = data.len() > meter.left;
            data.truncate(meter.left);
            meter.left -= data.len();
            data
        }))
    }

    fn stream(&self) -> impl Stream<Item = Result<Bytes, End>> + Send + use<> {
        stream::try_unfold(self.clone(), |this| async move {
            // The parser takes whatever is ready before it looks at any: it shall get a piece at a time.
            tokio::task::yield_now().await;
            let data = this.next().await?;
            Ok(data.map(|data| (data, this)))
        })
    }

    async fn collect(&self) -> Result<Bytes, End> {
        let mut whole = BytesMut::new();
        while let Some(data) = self.next().await? {
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }

    /// What to answer where the body did not arrive whole, or was refused as `parsed`: after the rest was read away.
    async fn refusal(&self, what: &str, parsed: Option<Refusal>) -> Refusal {
        let mut meter = self.0.lock().await;
        let end = meter.end.unwrap_or(End::Broken);
        if !matches!(meter.end, Some(End::Broken)) {
            // Both ends of the drain are fine: the answer follows in any case.
            let _ = tokio::time::timeout(DRAIN_TIME_MAX, drain(&mut meter.body)).await;
        }
        parsed
            .filter(|_| meter.end.is_none())
            .unwrap_or_else(|| end.refusal(what))
    }
}

async fn drain(body: &mut Body) {
    let mut read = 0;
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
    let _ = tokio::time::timeout(DRAIN_TIME_MAX, drain(&mut body)).await;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::Upload;

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
            Node::File(Upload::of(Bytes::from_static(b"bytes")))
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
        let rest = part("input_reference[1]", "78").repeat(FORM_BYTES_MAX / 64);
        let buffer = part("input_reference[0]", "80") + &rest;
        assert!(buffer.len() > FORM_BYTES_MAX);
        let pieces = buffer.as_bytes().chunks(1 << 16);
        let pieces: Vec<_> = pieces
            .map(|piece| Ok::<_, End>(Bytes::copy_from_slice(piece)))
            .collect();
        let buffer = Body::from_stream(stream::iter(pieces));
        assert_eq!(code(read(form, buffer).await), "invalid_type");
    }
}
