//! How object_store speaks to a server: over the scheduler's own HTTP client.

use std::{error::Error, io, time::Duration};

use async_trait::async_trait;
use http_body_util::BodyExt;
use hyper_util::client::legacy;
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
        HttpResponse, HttpResponseBody, HttpService,
    },
};
use tokio::time::timeout;
use tower_http::timeout::TimeoutBody;

use crate::outbound::Outbound;

/// A server that falls silent, before an answer or in the middle of one, is given up after this.
/// A film is read as slowly as its client reads it, so the whole of a transfer has no limit.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The client as object_store wants it.
#[derive(Clone, Debug)]
pub struct Connector(pub Outbound<HttpRequestBody>);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = timeout(SILENCE_MAX, self.0.request(request)).await;
        let answer = answer.map_err(|silence| HttpError::new(HttpErrorKind::Timeout, silence))?;
        let (parts, body) = answer.map_err(unanswered)?.into_parts();
        let body = TimeoutBody::new(SILENCE_MAX, body).map_err(broken_off);
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}

fn unanswered(error: legacy::Error) -> HttpError {
    let kind = match error.is_connect() {
        true => HttpErrorKind::Connect,
        false => kind(&error),
    };
    HttpError::new(kind, error)
}

fn broken_off(error: Box<dyn Error + Send + Sync>) -> HttpError {
    HttpError::new_boxed(HttpErrorKind::Interrupted, error)
}

/// Tells object_store which requests are worth another try.
fn kind(error: &(dyn Error + 'static)) -> HttpErrorKind {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<hyper::Error>()
            && (error.is_closed() || error.is_incomplete_message() || error.is_body_write_aborted())
        {
            return HttpErrorKind::Request;
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return match error.kind() {
                io::ErrorKind::TimedOut => HttpErrorKind::Timeout,
                _ => HttpErrorKind::Interrupted,
            };
        }
        cause = error.source();
    }
    HttpErrorKind::Unknown
}
