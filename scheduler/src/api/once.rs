//! One request, one job: what a retried request and an `Idempotency-Key` are recognised by.
//!
//! The clients repeat a POST whose answer was lost and say only how often (`x-stainless-retry-count`).
//! The farm's core keeps the memory of jobs and errors in the transaction of the job; this file names
//! requests for it, and makes a repeated one wait while the first still runs.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use http::{HeaderMap, HeaderName};

use super::{ApiState, auth::Caller, error::ApiError, inflight::Entered};
use crate::{
    admission::{Code, Refusal, VideoRequest},
    core::rows::{Dedupe, Fingerprint, Idempotency},
};

const RETRY_COUNT: HeaderName = HeaderName::from_static("x-stainless-retry-count");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// How long a retry waits for the request that it repeats.
const RETRY_PATIENCE: Duration = Duration::from_secs(10);
/// How long a request waits for another one with the same idempotency key.
const KEY_PATIENCE: Duration = Duration::from_secs(30);
const KEY_CHARS_MAX: usize = 255;
/// Fingerprints whose errors wait for the database to come back.
const UNSAVED_MAX: usize = 4_096;

/// How often the client has repeated this request.
pub fn retry_count(headers: &HeaderMap) -> u32 {
    let count = headers
        .get(RETRY_COUNT)
        .and_then(|value| value.to_str().ok());
    count.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The names under which a request is remembered, and its place among those that run.
#[derive(Debug)]
pub struct Once {
    pub fingerprint: Fingerprint,
    pub retry_count: u32,
    pub idempotency: Option<Idempotency>,
    _running: Vec<Entered>,
}

impl Once {
    /// Names a request and waits for equal ones that still run.
    pub async fn begin(
        state: &ApiState,
        caller: &Caller,
        headers: &HeaderMap,
        path: &str,
        request: &VideoRequest,
    ) -> Result<Self, ApiError> {
        let fingerprint = hex::encode(request.fingerprint(&caller.key, "POST", path));
        let retry_count = retry_count(headers);
        let idempotency = idempotency(caller, headers, path, request)?;
        let mut running = Vec::new();
        if let Some(idempotency) = &idempotency {
            let alone = state
                .edge
                .in_flight
                .enter_alone(&idempotency.scope, KEY_PATIENCE)
                .await;
            running.push(alone.ok_or_else(key_in_progress)?);
        } else if retry_count > 0 {
            state
                .edge
                .in_flight
                .wait(&fingerprint, RETRY_PATIENCE)
                .await;
        }
        running.push(state.edge.in_flight.enter(fingerprint.clone()));
        Ok(Self {
            fingerprint,
            retry_count,
            idempotency,
            _running: running,
        })
    }

    /// An idempotency key wins over the rule for retries.
    pub fn dedupe(&self) -> Option<Dedupe> {
        let retry_count = if self.idempotency.is_some() {
            0
        } else {
            self.retry_count
        };
        Some(Dedupe {
            fingerprint: self.fingerprint.clone(),
            retry_count,
        })
    }

    /// Hands over errors that were answered while the database was away.
    pub async fn save_errors(&self, state: &ApiState) -> Result<(), ApiError> {
        while state.edge.unsaved_errors.take(&self.fingerprint) {
            if let Err(error) = state.dispatcher.note_error(self.fingerprint.clone()).await {
                state.edge.unsaved_errors.add(&self.fingerprint);
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Remembers how a request was refused: errors that a client repeats, so that its retry may make
    /// a job; other refusals under the idempotency key, so that they are answered again.
    pub async fn refused(&self, state: &ApiState, error: &ApiError) {
        if error.is_retryable() {
            if state
                .dispatcher
                .note_error(self.fingerprint.clone())
                .await
                .is_err()
            {
                state.edge.unsaved_errors.add(&self.fingerprint);
            }
        } else if let Some(key) = &self.idempotency {
            let kept = serde_json::json!({
                "status": error.refusal.code.status(),
                "body": super::error::body(&error.refusal),
            });
            let kept =
                state
                    .dispatcher
                    .keep_answer(key.scope.clone(), key.fingerprint.clone(), kept);
            if let Err(error) = kept.await {
                tracing::warn!(%error, "an answer was not kept for its idempotency key");
            }
        }
    }
}

/// The key with its scope; another body under the same key is recognised by the fingerprint.
fn idempotency(
    caller: &Caller,
    headers: &HeaderMap,
    path: &str,
    request: &VideoRequest,
) -> Result<Option<Idempotency>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let printable = |key: &&str| {
        let graphic = key.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        graphic && (1..=KEY_CHARS_MAX).contains(&key.len())
    };
    let Some(key) = value.to_str().ok().filter(printable) else {
        return Err(Refusal::wrong_value(
            "Idempotency-Key",
            format!("it has 1 to {KEY_CHARS_MAX} printable ASCII characters"),
        )
        .into());
    };
    let project = caller.project.to_string();
    Ok(Some(Idempotency {
        scope: format!("{project} POST {path} {key}"),
        fingerprint: hex::encode(request.fingerprint(&project, "POST", path)),
    }))
}

fn key_in_progress() -> ApiError {
    Refusal::new(
        Code::IdempotencyInProgress,
        "A request with this idempotency key is still running; try again shortly.",
    )
    .into()
}

/// Errors answered while the database could not be written, by fingerprint.
#[derive(Debug, Default)]
pub struct UnsavedErrors(Mutex<BTreeMap<Fingerprint, u32>>);

impl UnsavedErrors {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Fingerprint, u32>> {
        self.0
            .lock()
            .expect("no code panics while it holds this lock")
    }

    fn add(&self, fingerprint: &str) {
        let mut all = self.lock();
        if all.len() < UNSAVED_MAX || all.contains_key(fingerprint) {
            *all.entry(fingerprint.to_owned()).or_default() += 1;
        }
    }

    /// Takes one error out; false when there is none.
    fn take(&self, fingerprint: &str) -> bool {
        let mut all = self.lock();
        let Some(count) = all.get_mut(fingerprint) else {
            return false;
        };
        *count -= 1;
        if *count == 0 {
            all.remove(fingerprint);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use schemas::AccountId;
    use uuid::Uuid;

    use super::*;
    use crate::core::rows::Priority;

    fn caller(project: u128, key: &str) -> Caller {
        Caller {
            key: key.into(),
            project: AccountId(Uuid::from_u128(project)),
            slug: "p".into(),
            key_name: "k".into(),
            admin: false,
            priority_max: Priority::Urgent,
        }
    }

    fn key(caller: &Caller, value: &str, prompt: &str) -> Result<Option<Idempotency>, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(
            IDEMPOTENCY_KEY,
            HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
        let request = VideoRequest {
            prompt: prompt.into(),
            ..VideoRequest::default()
        };
        idempotency(caller, &headers, "/v1/videos", &request)
    }

    #[test]
    fn keys_of_a_project_are_shared_by_its_api_keys() {
        let ask = |caller: &Caller, prompt: &str| key(caller, "k", prompt).unwrap().unwrap();
        let first = ask(&caller(1, "a"), "p");
        let second = ask(&caller(1, "b"), "p");
        assert_eq!(
            (&first.scope, &first.fingerprint),
            (&second.scope, &second.fingerprint)
        );
        assert_ne!(first.scope, ask(&caller(2, "a"), "p").scope);
        assert_ne!(first.fingerprint, ask(&caller(1, "a"), "q").fingerprint);
    }

    #[test]
    fn keys_are_printable_and_short() {
        assert!(key(&caller(1, "a"), &"k".repeat(255), "p").is_ok());
        for bad in ["", "\u{e4}", &"k".repeat(256)] {
            assert!(key(&caller(1, "a"), bad, "p").is_err(), "{bad}");
        }
    }

    #[test]
    fn unsaved_errors_are_spent_one_by_one() {
        let errors = UnsavedErrors::default();
        errors.add("a");
        errors.add("a");
        assert!(errors.take("a") && errors.take("a") && !errors.take("a") && !errors.take("b"));
    }
}
