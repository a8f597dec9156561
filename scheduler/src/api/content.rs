//! `GET|HEAD /v1/videos/{id}/content`: the film and its pictures, whole or in part.

use axum::{
    Extension,
    body::Body,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use jiff::{Timestamp, fmt::rfc2822::DateTimePrinter};
use schemas::task::{Artefact, Variant};

use super::{
    ApiState,
    auth::Caller,
    error::ApiError,
    page::only_parameter,
    range::{Wanted, wanted},
    videos::find,
};
use crate::{
    admission::{Code, Refusal},
    core::rows::JobState,
    store::read::JobView,
};

const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const CACHE: HeaderValue = HeaderValue::from_static("private, max-age=3600");

pub async fn download(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let variant = variant(only_parameter(&uri, "variant")?.as_deref())?;
    let view = find(&state, &caller, &id).await?;
    let file = published(&view, variant)?;
    if state.artifacts.size(file.digest).await? != Some(file.bytes) {
        return Err(Refusal::new(Code::AssetExpired, "The file is no longer stored.").into());
    }
    let sha256 = state
        .edge
        .hashes
        .sha256(&state.artifacts, file.digest, file.bytes)
        .await?;
    let etag = format!("\"{sha256}\"");
    let mut answer = file_headers(&view, variant, &etag);
    let (status, range) = match wanted(&headers, &etag, file.bytes) {
        Wanted::NotModified => return Ok((StatusCode::NOT_MODIFIED, answer).into_response()),
        Wanted::Unsatisfiable => return Err(unsatisfiable(file.bytes)),
        Wanted::Whole => (StatusCode::OK, 0..file.bytes),
        Wanted::Part(range) => {
            let place = format!("bytes {}-{}/{}", range.start, range.end - 1, file.bytes);
            set(&mut answer, header::CONTENT_RANGE, &place);
            (StatusCode::PARTIAL_CONTENT, range)
        }
    };
    answer.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(variant.media_type()),
    );
    answer.insert(
        header::CONTENT_LENGTH,
        HeaderValue::from(range.end - range.start),
    );
    if method == Method::HEAD {
        return Ok((status, answer).into_response());
    }
    let stream = state.artifacts.open(file.digest, range).await?;
    Ok((status, answer, Body::from_stream(stream)).into_response())
}

fn variant(name: Option<&str>) -> Result<Variant, Refusal> {
    match name {
        None | Some("video") => Ok(Variant::Film),
        Some("thumbnail") => Ok(Variant::Thumbnail),
        Some("spritesheet") => Ok(Variant::Spritesheet),
        Some(_) => Err(Refusal::wrong_value(
            "variant",
            "supported values are 'video', 'thumbnail' and 'spritesheet'",
        )),
    }
}

fn published(view: &JobView, variant: Variant) -> Result<&Artefact, Refusal> {
    let refuse = |code, why: &str| {
        Err(Refusal::new(code, format!("Video '{}' {why}.", view.id)).about("video_id"))
    };
    match view.state {
        JobState::Waiting | JobState::Rendering => refuse(
            Code::VideoNotReady,
            "is not ready yet; poll it until its status is 'completed'",
        ),
        JobState::Failed => refuse(Code::VideoFailed, "has failed and has no content"),
        JobState::Cancelled => refuse(Code::VideoFailed, "was cancelled and has no content"),
        JobState::Succeeded => match view.artefact(variant) {
            Some(file) => Ok(file),
            None => refuse(Code::AssetExpired, "no longer has this file"),
        },
    }
}

fn file_headers(view: &JobView, variant: Variant, etag: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let name = format!("inline; filename=\"{}.{}\"", view.id, variant.extension());
    set(&mut headers, header::ETAG, etag);
    set(&mut headers, header::CONTENT_DISPOSITION, &name);
    set(&mut headers, header::ACCEPT_RANGES, "bytes");
    if let Some(date) = view.ended_at_ms.and_then(http_date) {
        set(&mut headers, header::LAST_MODIFIED, &date);
    }
    headers.insert(header::CACHE_CONTROL, CACHE);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    headers
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    headers.insert(
        name,
        HeaderValue::try_from(value).expect("hex, digits and plain words"),
    );
}

/// `Sun, 22 Nov 2026 15:00:00 GMT`; `None` outside the years that the format has.
fn http_date(ms: i64) -> Option<String> {
    let at = Timestamp::from_second(ms.div_euclid(1_000)).ok()?;
    DateTimePrinter::new().timestamp_to_rfc9110_string(&at).ok()
}

fn unsatisfiable(size: u64) -> ApiError {
    let range = HeaderValue::try_from(format!("bytes */{size}")).expect("digits and plain words");
    ApiError::from(Refusal::new(
        Code::RangeNotSatisfiable,
        format!("The range lies outside the file, which has {size} bytes."),
    ))
    .with(header::CONTENT_RANGE, range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_http_dates() {
        assert_eq!(
            http_date(1_795_360_142_999).as_deref(),
            Some("Sun, 22 Nov 2026 15:09:02 GMT")
        );
        assert_eq!(http_date(i64::MAX), None);
    }

    #[test]
    fn variants_have_names() {
        assert_eq!(variant(None), Ok(Variant::Film));
        assert_eq!(variant(Some("thumbnail")), Ok(Variant::Thumbnail));
        assert_eq!(
            variant(Some("film")).unwrap_err().param.as_deref(),
            Some("variant")
        );
    }
}
