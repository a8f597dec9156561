//! What a scheduler answers while another one leads: try again, shortly or elsewhere.

use axum::Router;
use http::{HeaderValue, header};

use super::error::ApiError;

/// Seconds after which a standby may lead.
const RETRY_AFTER_S: u32 = 2;

/// 503 for every request.
pub fn standby_api() -> Router {
    Router::new().fallback(stands_by)
}

async fn stands_by() -> ApiError {
    ApiError::overloaded("This scheduler stands by while another one leads; try again shortly.")
        .with(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use http::{Request, StatusCode};
    use tower::ServiceExt;

    #[tokio::test]
    async fn a_standby_refuses_everything_and_says_when_to_come_back() {
        for (method, path) in [
            ("POST", "/v1/videos"),
            ("GET", "/healthz"),
            ("GET", "/v1/none"),
        ] {
            let request = Request::builder().method(method).uri(path);
            let request = request.body(Body::empty()).unwrap();
            let answer = standby_api().oneshot(request).await.unwrap();
            assert_eq!(
                answer.status(),
                StatusCode::SERVICE_UNAVAILABLE,
                "{method} {path}"
            );
            assert_eq!(answer.headers()[header::RETRY_AFTER], "2");
        }
    }
}
