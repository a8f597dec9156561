//! Request rates: one bucket for each project and model, and one for each project's reads.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::StateInformationMiddleware,
    state::keyed::DashMapStateStore,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use schemas::AccountId;
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use crate::admission::{Code, Refusal};

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit-requests");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining-requests");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset-requests");
/// Requests between two clean-ups of full buckets.
const CLEAN_EVERY: u32 = 1_000;

/// Requests a minute; also how many may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateSettings {
    /// Everything but reads, for each project and model.
    pub writes_per_minute: NonZeroU32,
    /// GET and HEAD, for each project.
    pub reads_per_minute: NonZeroU32,
}

impl Default for RateSettings {
    fn default() -> Self {
        Self {
            writes_per_minute: NonZeroU32::new(60).expect("60 is not zero"),
            reads_per_minute: NonZeroU32::new(1_200).expect("1200 is not zero"),
        }
    }
}

type Buckets = RateLimiter<
    (AccountId, String),
    DashMapStateStore<(AccountId, String)>,
    DefaultClock,
    StateInformationMiddleware,
>;

/// All buckets of this process.
pub struct Limits {
    writes: Buckets,
    reads: Buckets,
    settings: RateSettings,
    since_clean: AtomicU32,
}

impl std::fmt::Debug for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limits")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Which bucket a request takes from.
#[derive(Clone, Copy, Debug)]
pub enum Take<'a> {
    Read,
    /// The name of a known model, or empty for requests without one.
    Write {
        model: &'a str,
    },
}

/// The state of a bucket after a request; goes into the answer's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub limit: u32,
    pub remaining: u32,
    /// Until the bucket is full again.
    pub reset_ms: u64,
    /// Set when the bucket was empty: until one request passes.
    pub wait_ms: Option<u64>,
}

impl Limits {
    pub fn new(settings: RateSettings) -> Self {
        let buckets = |per_minute| {
            RateLimiter::dashmap(Quota::per_minute(per_minute))
                .with_middleware::<StateInformationMiddleware>()
        };
        Self {
            writes: buckets(settings.writes_per_minute),
            reads: buckets(settings.reads_per_minute),
            settings,
            since_clean: AtomicU32::new(0),
        }
    }

    pub fn take(&self, project: AccountId, take: Take) -> Rate {
        self.clean_sometimes();
        let (buckets, limit, model) = match take {
            Take::Read => (&self.reads, self.settings.reads_per_minute, ""),
            Take::Write { model } => (&self.writes, self.settings.writes_per_minute, model),
        };
        let limit = limit.get();
        match buckets.check_key(&(project, model.to_owned())) {
            Ok(snapshot) => {
                let remaining = snapshot.remaining_burst_capacity();
                Rate {
                    limit,
                    remaining,
                    reset_ms: full_in_ms(limit, remaining),
                    wait_ms: None,
                }
            }
            Err(until) => {
                let wait = until.wait_time_from(buckets.clock().now());
                let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
                Rate {
                    limit,
                    remaining: 0,
                    reset_ms: full_in_ms(limit, 0),
                    wait_ms: Some(wait_ms),
                }
            }
        }
    }

    /// Buckets that are full again need no memory.
    fn clean_sometimes(&self) {
        if self.since_clean.fetch_add(1, Ordering::Relaxed) >= CLEAN_EVERY {
            self.since_clean.store(0, Ordering::Relaxed);
            self.writes.retain_recent();
            self.reads.retain_recent();
        }
    }
}

fn full_in_ms(limit: u32, remaining: u32) -> u64 {
    u64::from(limit.saturating_sub(remaining)) * 60_000 / u64::from(limit)
}

impl Rate {
    /// Refuses a request that found its bucket empty.
    pub fn check(&self) -> Result<(), ApiError> {
        let Some(wait_ms) = self.wait_ms else {
            return Ok(());
        };
        let message = format!(
            "Rate limit reached: {} requests a minute. Try again in {}.",
            self.limit,
            duration(wait_ms)
        );
        Err(ApiError::from(Refusal::new(Code::RateLimitExceeded, message)).retry_after_ms(wait_ms))
    }

    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(LIMIT, HeaderValue::from(self.limit));
        headers.insert(REMAINING, HeaderValue::from(self.remaining));
        let reset = duration(self.reset_ms);
        headers.insert(
            RESET,
            HeaderValue::try_from(reset).expect("digits and letters"),
        );
    }
}

/// `12ms`, `1s`, `6m0s`, `1h0m0s`.
fn duration(ms: u64) -> String {
    let seconds = ms.div_ceil(1_000);
    let (h, m, s) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match (h, m) {
        _ if ms < 1_000 => format!("{ms}ms"),
        (0, 0) => format!("{s}s"),
        (0, m) => format!("{m}m{s}s"),
        (h, m) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn durations_read_as_clients_expect() {
        for (ms, text) in [
            (0, "0ms"),
            (12, "12ms"),
            (1_000, "1s"),
            (1_001, "2s"),
            (360_000, "6m0s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }

    #[test]
    fn a_bucket_empties_and_reads_do_not_take_from_writes() {
        let two = NonZeroU32::new(2).unwrap();
        let limits = Limits::new(RateSettings {
            writes_per_minute: two,
            reads_per_minute: two,
        });
        let project = AccountId(Uuid::from_u128(1));
        let write = |model| limits.take(project, Take::Write { model });
        assert_eq!((write("a").remaining, write("a").remaining), (1, 0));
        let third = write("a");
        assert!(third.check().is_err());
        assert!(third.wait_ms.unwrap() <= 30_000 && third.reset_ms == 60_000);
        assert!(write("b").check().is_ok());
        assert!(limits.take(project, Take::Read).check().is_ok());
        assert!(
            limits
                .take(AccountId(Uuid::from_u128(2)), Take::Write { model: "a" })
                .check()
                .is_ok()
        );
    }
}
