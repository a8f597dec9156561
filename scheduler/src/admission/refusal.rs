//! Why a request is not accepted: a value with a code, the field it is about, and what to do.

use std::fmt;

/// A refusal, as the caller reads it. The API turns the code into an HTTP status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: Code,
    pub param: Option<String>,
    pub message: String,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal;)*) => {
        /// The error codes of the Videos API that this server answers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word on the wire.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status that goes with it.
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }
        }
    };
}

codes! {
    MissingRequiredParameter = "missing_required_parameter", 400;
    InvalidType = "invalid_type", 400;
    InvalidValue = "invalid_value", 400;
    UnknownParameter = "unknown_parameter", 400;
    AmbiguousArray = "ambiguous_array", 400;
    InvalidJson = "invalid_json", 400;
    InvalidMultipart = "invalid_multipart", 400;
    InvalidImage = "invalid_image", 400;
    InvalidImageUrl = "invalid_image_url", 400;
    ModerationBlocked = "moderation_blocked", 400;
    VideoNotReady = "video_not_ready", 400;
    VideoFailed = "video_failed", 400;
    InvalidVideo = "invalid_video", 400;
    ExtensionLimitExceeded = "extension_limit_exceeded", 400;
    IdempotencyKeyReused = "idempotency_key_reused", 400;
    QuoteExpired = "quote_expired", 400;
    InvalidApiKey = "invalid_api_key", 401;
    InsufficientPermissions = "insufficient_permissions", 403;
    NotFound = "not_found", 404;
    ModelNotFound = "model_not_found", 404;
    UnknownUrl = "unknown_url", 404;
    AssetExpired = "asset_expired", 404;
    MethodNotAllowed = "method_not_allowed", 405;
    IdempotencyInProgress = "idempotency_in_progress", 409;
    RequestTooLarge = "request_too_large", 413;
    UnsupportedMediaType = "unsupported_media_type", 415;
    RangeNotSatisfiable = "range_not_satisfiable", 416;
    RateLimitExceeded = "rate_limit_exceeded", 429;
    QueueFull = "queue_full", 429;
    InsufficientQuota = "insufficient_quota", 429;
    ServerError = "server_error", 500;
    /// The database or the artefact store cannot take it now; the same request may pass later.
    Overloaded = "overloaded", 503;
}

impl Refusal {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            param: None,
            message: message.into(),
        }
    }

    pub fn about(self, param: impl Into<String>) -> Self {
        Self {
            param: Some(param.into()),
            ..self
        }
    }

    pub fn missing(param: &str) -> Self {
        Self::new(
            Code::MissingRequiredParameter,
            format!("Missing required parameter: '{param}'."),
        )
        .about(param)
    }

    /// `why` completes the sentence, e.g. "expected a string, but got an integer".
    pub fn wrong_type(param: &str, why: &str) -> Self {
        Self::new(
            Code::InvalidType,
            format!("Invalid type for '{param}': {why}."),
        )
        .about(param)
    }

    /// `why` names what is allowed.
    pub fn wrong_value(param: &str, why: impl fmt::Display) -> Self {
        Self::new(
            Code::InvalidValue,
            format!("Invalid value for '{param}': {why}."),
        )
        .about(param)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.text(), self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_word_and_an_error_status() {
        for (i, code) in Code::ALL.iter().enumerate() {
            assert!((400..600).contains(&code.status()));
            assert!(
                Code::ALL[..i]
                    .iter()
                    .all(|other| other.text() != code.text())
            );
        }
    }
}
