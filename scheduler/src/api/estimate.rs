//! What a request would cost and whether it would be accepted, without making a job. Pure.

use schemas::video::{ErrorBody, Eta};
use serde::Serialize;

use super::error::{ApiError, body};
use crate::admission::Order;

/// How long the answer may be relied on.
const VALID_S: i64 = 60;

#[derive(Debug, Serialize)]
pub struct Estimate {
    object: &'static str,
    model: String,
    accepted: bool,
    /// The errors that create would answer.
    reasons: Vec<ErrorBody>,
    /// Prices in money are set by no one yet; device time is what quota counts.
    price: Option<()>,
    gpu_seconds: Option<GpuSeconds>,
    queue_position: Option<u64>,
    eta: Eta,
    quota_after: Option<()>,
    valid_until: i64,
}

#[derive(Debug, Serialize)]
struct GpuSeconds {
    p50: f64,
    /// What would be held.
    p90: f64,
}

pub fn estimate(model: &str, verdict: &Result<Order, ApiError>, now_s: i64) -> Estimate {
    let order = verdict.as_ref().ok();
    Estimate {
        object: "video.estimate",
        model: model.to_owned(),
        accepted: order.is_some(),
        reasons: verdict
            .as_ref()
            .err()
            .map(|error| body(&error.refusal))
            .into_iter()
            .collect(),
        price: None,
        gpu_seconds: order.map(|order| GpuSeconds {
            p50: order.price().as_secs_f64(),
            p90: order.hold.as_secs_f64(),
        }),
        queue_position: None,
        eta: Eta::default(),
        quota_after: None,
        valid_until: now_s + VALID_S,
    }
}
