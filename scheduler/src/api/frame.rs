//! Around every request of the Videos API: its id and time, the key, the rate, the common headers.

use std::{any::Any, time::Instant};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use uuid::Uuid;

use super::{
    ApiState, auth,
    body::discard,
    error::ApiError,
    limits::{Rate, Take},
};
use crate::admission::{Code, Refusal};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const PROCESSING_MS: HeaderName = HeaderName::from_static("openai-processing-ms");
const ORGANIZATION: HeaderName = HeaderName::from_static("openai-organization");
const VERSION: HeaderName = HeaderName::from_static("openai-version");
const VERSION_VALUE: HeaderValue = HeaderValue::from_static("2020-10-01");
/// The organisation of an answer to nobody in particular.
const NO_ORGANIZATION: HeaderValue = HeaderValue::from_static("dailies");

pub async fn frame(State(state): State<ApiState>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = format!("req_{}", Uuid::now_v7().simple());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (response, organization) = match auth::caller(&state, request.headers()).await {
        Err(error) => {
            discard(request.into_body()).await;
            (error.into_response(), NO_ORGANIZATION)
        }
        Ok(caller) => {
            let slug = HeaderValue::try_from(caller.slug.as_str()).unwrap_or(NO_ORGANIZATION);
            let rate = rate(&state, &caller, &method, &path);
            request.extensions_mut().insert(caller);
            let response = match rate.map(|rate| (rate, rate.check())) {
                Some((rate, Err(error))) => {
                    discard(request.into_body()).await;
                    with_rate(error.into_response(), rate)
                }
                Some((rate, Ok(()))) => with_rate(next.run(request).await, rate),
                None => next.run(request).await,
            };
            (response, slug)
        }
    };
    let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::debug!(%id, %method, path, status = response.status().as_u16(), elapsed_ms, "request");
    finish(response, &id, elapsed_ms, organization)
}

/// `None` for calls that take from the bucket of their model themselves.
fn rate(state: &ApiState, caller: &auth::Caller, method: &Method, path: &str) -> Option<Rate> {
    let take = match *method {
        Method::GET | Method::HEAD => Take::Read,
        Method::POST if matches!(path, "/v1/videos" | "/v1/videos/estimate") => return None,
        _ => Take::Write { model: "" },
    };
    Some(state.edge.limits.take(caller.project, take))
}

/// Says how full the bucket is.
pub fn with_rate(mut response: Response, rate: Rate) -> Response {
    rate.write(response.headers_mut());
    response
}

fn finish(
    mut response: Response,
    id: &str,
    elapsed_ms: u64,
    organization: HeaderValue,
) -> Response {
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(
        REQUEST_ID,
        HeaderValue::try_from(id).expect("letters, digits and _"),
    );
    headers.insert(PROCESSING_MS, HeaderValue::from(elapsed_ms));
    headers.insert(ORGANIZATION, organization);
    headers.insert(VERSION, VERSION_VALUE);
    response
}

/// 404 for a path that nothing answers.
pub async fn unknown_url(request: Request) -> ApiError {
    let advice = advice(request.uri().path());
    let asked = discarded(request).await;
    Refusal::new(Code::UnknownUrl, format!("Invalid URL ({asked}){advice}")).into()
}

/// What to do in place of a call that this server does not have.
fn advice(path: &str) -> &'static str {
    let Some(path) = path
        .strip_prefix("/v1")
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
    else {
        return ". Paths begin with /v1: the base_url of a client ends in it.";
    };
    let mut words = path.split('/').filter(|word| !word.is_empty());
    match (words.next(), words.next()) {
        (Some("videos"), Some("characters")) => {
            ". This server has no characters; describe in each prompt who is seen."
        }
        (Some("webhook_endpoints" | "webhook_event_types"), _) => {
            ". This server sends no webhooks; poll the video, or read /v1/videos/{id}/events."
        }
        (Some("files" | "uploads"), _) => {
            ". This server keeps no files; send them with the request that needs them."
        }
        (Some("batches"), _) => {
            ". This server has no batches; send a create for each film, with start 'overnight' for half the price."
        }
        _ => "",
    }
}

/// 405; the router adds `Allow`.
pub async fn method_not_allowed(request: Request) -> ApiError {
    let asked = discarded(request).await;
    Refusal::new(
        Code::MethodNotAllowed,
        format!("Not allowed: {asked}; the 'Allow' header lists what is."),
    )
    .into()
}

/// Method and path of a request whose body nobody wants.
async fn discarded(request: Request) -> String {
    let path: String = request.uri().path().chars().take(200).collect();
    let asked = format!("{} {path}", request.method());
    discard(request.into_body()).await;
    asked
}

/// A bug in a handler ends one request, not the process.
pub fn panicked(cause: Box<dyn Any + Send>) -> Response {
    let text = cause
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| cause.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    tracing::error!(cause = text, "a request handler panicked");
    let error = Refusal::new(
        Code::ServerError,
        "The server had an error while it worked on your request. Try again; if it stays, report \
         the request id.",
    );
    ApiError::from(error).into_response()
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn a_panic_is_a_500_with_the_error_body() {
        for cause in [Box::new("why") as Box<dyn Any + Send>, Box::new(5)] {
            assert_eq!(panicked(cause).status(), StatusCode::INTERNAL_SERVER_ERROR);
        }
    }
}
