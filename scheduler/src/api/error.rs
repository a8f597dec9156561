//! Errors on the wire: the body with its four keys, the status, and when to try again.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use schemas::video::{ErrorBody, ErrorDetail};

use crate::{
    admission::{Code, Refusal},
    artifacts::ArtifactError,
    dispatcher::DispatchError,
    store::StoreError,
};

pub const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
pub const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// The least wait that is ever asked for: 0 makes one client retry at once.
const RETRY_AFTER_MS_MIN: u64 = 50;
/// A longer wait would be slept through by one client and ignored by another.
const RETRY_AFTER_MS_MAX: u64 = 60_000;
/// Wait after a fault of the database or the store.
const FAULT_RETRY_MS: u64 = 1_000;

/// A refusal on its way out.
#[derive(Debug)]
pub struct ApiError {
    pub refusal: Refusal,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl ApiError {
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Asks the client to wait; a wait over a minute is not worth a connection.
    pub fn retry_after_ms(self, ms: u64) -> Self {
        let asked = self.with(
            RETRY_AFTER_MS,
            HeaderValue::from(ms.max(RETRY_AFTER_MS_MIN)),
        );
        if ms > RETRY_AFTER_MS_MAX {
            return asked.with(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        asked
    }

    /// The database or the store cannot do it now.
    pub fn overloaded(message: &str) -> Self {
        Self::from(Refusal::new(Code::Overloaded, message)).retry_after_ms(FAULT_RETRY_MS)
    }

    pub fn video_not_found(id: &str) -> Self {
        let shown: String = id.chars().take(80).collect();
        Refusal::new(
            Code::NotFound,
            format!("Video with id '{shown}' not found."),
        )
        .about("video_id")
        .into()
    }

    /// What clients repeat on their own.
    pub fn is_retryable(&self) -> bool {
        matches!(self.refusal.code.status(), 408 | 409 | 429 | 500..)
    }
}

/// The `type` of an error body.
fn kind(code: Code) -> &'static str {
    match (code, code.status()) {
        (Code::InsufficientQuota, _) => "insufficient_quota",
        (_, 429) => "rate_limit_error",
        (_, 403) => "permission_error",
        (_, 500..) => "server_error",
        _ => "invalid_request_error",
    }
}

/// The body of an answer that is not 2xx; also what the estimate lists.
pub fn body(refusal: &Refusal) -> ErrorBody {
    ErrorBody {
        error: ErrorDetail {
            message: refusal.message.clone(),
            kind: kind(refusal.code).to_owned(),
            param: refusal.param.clone(),
            code: Some(refusal.code.text().to_owned()),
        },
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let code = refusal.code;
        let error = Self {
            refusal,
            headers: Vec::new(),
        };
        match code {
            Code::InsufficientQuota => error.with(SHOULD_RETRY, HeaderValue::from_static("false")),
            Code::IdempotencyInProgress => error.retry_after_ms(500),
            // The rest of the body is not worth reading.
            Code::RequestTooLarge => {
                error.with(header::CONNECTION, HeaderValue::from_static("close"))
            }
            _ => error,
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "a read failed");
        Self::overloaded("The database cannot be read right now; try again shortly.")
    }
}

impl From<DispatchError> for ApiError {
    fn from(error: DispatchError) -> Self {
        tracing::warn!(%error, "a command was not taken");
        let text = error.to_string();
        let mut letters = text.chars();
        let sentence = letters
            .next()
            .map(|first| first.to_uppercase().to_string() + letters.as_str());
        Self::overloaded(&format!("{}.", sentence.unwrap_or_default()))
    }
}

impl From<ArtifactError> for ApiError {
    fn from(error: ArtifactError) -> Self {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "the artefact store failed"
        );
        match error {
            ArtifactError::NotFound(_) => {
                Refusal::new(Code::AssetExpired, "The file is no longer stored.").into()
            }
            ArtifactError::Full { .. } => Self::overloaded(
                "The disk of the server is full; nothing was stored. Try again when its operator \
                 has freed some space.",
            ),
            _ => {
                Self::overloaded("The artefact store cannot be used right now; try again shortly.")
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.refusal.code.status())
            .expect("every code has an error status");
        let headers: HeaderMap = self.headers.into_iter().collect();
        (status, headers, Json(body(&self.refusal))).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_four_keys_and_the_type_of_their_status() {
        for (code, kind) in [
            (Code::InvalidValue, "invalid_request_error"),
            (Code::InvalidApiKey, "invalid_request_error"),
            (Code::MethodNotAllowed, "invalid_request_error"),
            (Code::RateLimitExceeded, "rate_limit_error"),
            (Code::InsufficientQuota, "insufficient_quota"),
            (Code::Overloaded, "server_error"),
        ] {
            let json = serde_json::to_value(body(&Refusal::new(code, "m"))).unwrap();
            let error = json["error"].as_object().unwrap();
            assert_eq!(error.len(), 4);
            assert_eq!(error["type"], kind);
            assert!(error["param"].is_null());
        }
    }

    #[test]
    fn a_full_disk_is_said_and_worth_another_try() {
        let url = "file:/somewhere".parse().unwrap();
        let error = ApiError::from(ArtifactError::Full { url });
        assert_eq!(error.refusal.code, Code::Overloaded);
        assert!(error.refusal.message.contains("disk of the server is full"));
        assert!(!error.refusal.message.contains("/somewhere"));
        let response = error.into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[RETRY_AFTER_MS], "1000");
    }

    #[test]
    fn waits_are_never_zero_and_long_ones_are_not_retried() {
        let error = |ms| {
            let error = ApiError::from(Refusal::new(Code::Overloaded, "m"));
            error.retry_after_ms(ms).into_response().headers().clone()
        };
        assert_eq!(error(0)[RETRY_AFTER_MS], "50");
        assert!(error(60_000).get(SHOULD_RETRY).is_none());
        assert_eq!(error(60_001)[SHOULD_RETRY], "false");
    }
}
