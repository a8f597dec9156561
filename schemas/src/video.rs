//! Objects of the Videos API, as clients read them (see the API's own documents for meaning).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Queued,
    InProgress,
    Completed,
    Failed,
    Cancelled,
}

impl Status {
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// One film and its state. The first thirteen keys are the compatible contract and are always present.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Video {
    pub id: String,
    /// Always `video`.
    pub object: String,
    pub model: String,
    pub status: Status,
    /// 0 to 100; 100 only when the content can be downloaded.
    pub progress: u8,
    /// Unix seconds, like every time in this object.
    pub created_at: i64,
    pub completed_at: Option<i64>,
    pub expires_at: Option<i64>,
    pub prompt: Option<String>,
    /// A decimal number in a string.
    pub seconds: String,
    /// `WxH`.
    pub size: String,
    pub remixed_from_video_id: Option<String>,
    pub error: Option<VideoError>,

    /// `create`, `remix`, `edit` or `extend`.
    #[serde(default)]
    pub operation: String,
    /// The video that this one was made of.
    #[serde(default)]
    pub source_video_id: Option<String>,
    pub seed: u64,
    #[serde(default)]
    pub steps: Option<u32>,
    /// Size that the model renders at before FFmpeg scales to `size`.
    pub native_size: String,
    /// Weights behind the name in `model`.
    pub resolved_model: String,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// Attempt of the latest running task; grows when work moves.
    #[serde(default)]
    pub attempt: Option<u32>,
    /// 1-based; null unless queued.
    #[serde(default)]
    pub queue_position: Option<u64>,
    #[serde(default)]
    pub eta: Eta,
    #[serde(default)]
    pub shots: Vec<Shot>,
    /// Denoising steps done and of how many, over all shots.
    #[serde(default)]
    pub steps_done: u32,
    #[serde(default)]
    pub steps_total: u32,
    #[serde(default)]
    pub usage: Usage,
    #[serde(default)]
    pub warnings: Vec<Warning>,
    /// `low`, `normal`, `high` or `urgent`.
    #[serde(default)]
    pub priority: String,
    /// `now`, or the window in which it may start.
    #[serde(default)]
    pub start: String,
    /// Unix seconds before which nothing of it starts.
    #[serde(default)]
    pub not_before: Option<i64>,
    /// Unix seconds by which it begins, or fails.
    #[serde(default)]
    pub deadline: Option<i64>,
    /// Devices of one node that work on each shot at once.
    #[serde(default = "one_device")]
    pub devices: u32,
    /// Why it waits, as a code such as `fair_share` or `window_closed`; null unless it does.
    #[serde(default)]
    pub waiting: Option<String>,
    /// The same with its cause and in words; null unless it waits.
    #[serde(default)]
    pub reason: Option<Reason>,
}

fn one_device() -> u32 {
    1
}

/// When it begins and ends, as expected. All null: nobody can say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eta {
    pub starts_at: Option<i64>,
    pub completes_at_p50: Option<i64>,
    pub completes_at_p90: Option<i64>,
    /// The early and late ends of the interval; it is right four times in five.
    #[serde(default)]
    pub starts_at_p10: Option<i64>,
    #[serde(default)]
    pub starts_at_p90: Option<i64>,
    #[serde(default)]
    pub completes_at_p10: Option<i64>,
}

/// Why a video waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    pub code: String,
    /// For people; follows "waits: ".
    pub message: String,
    /// What it waits for, by the names of the code; times are Unix milliseconds.
    pub blocker: serde_json::Value,
    /// Nothing that the farm has now will end the wait.
    pub eta_unknown: bool,
}

/// An amount of money.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Money {
    pub value: f64,
    /// Lower-case code, such as `usd`.
    pub currency: String,
}

/// The answer to `POST /v1/videos/estimate`: what a request would cost and when it would be done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Always `video.estimate`.
    pub object: String,
    pub model: String,
    /// Films that it is for, all together.
    #[serde(default = "one")]
    pub count: u32,
    /// Whether create would take it; if not, `reasons` says why.
    pub accepted: bool,
    /// The errors that create would answer.
    pub reasons: Vec<ErrorBody>,
    /// Expected price; null while the operator has set none.
    pub price: Option<Money>,
    /// The most that it may cost: the price of what is held.
    #[serde(default)]
    pub price_at_most: Option<Money>,
    pub gpu_seconds: Option<GpuSeconds>,
    /// 1-based place that it would have.
    pub queue_position: Option<u64>,
    /// Start of the first film, end of the last.
    pub eta: Eta,
    /// Films that would not have begun by their deadline, and so would fail; `eta` is that of the others.
    #[serde(default)]
    pub late: u32,
    /// Why it would wait; null if it would start at once.
    #[serde(default)]
    pub reason: Option<Reason>,
    pub quota_after: Option<QuotaAfter>,
    /// Name it as `quote` in a create to get this price; absent where create would refuse.
    #[serde(default)]
    pub quote: Option<String>,
    /// Unix seconds; until then the quote holds.
    pub valid_until: i64,
}

fn one() -> u32 {
    1
}

/// Quota in seconds of a device: expected, and the most that is charged, which is what is held.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GpuSeconds {
    pub p50: f64,
    pub p90: f64,
}

/// What is left of the tightest limit above the caller.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuotaAfter {
    pub gpu_seconds_remaining: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shot {
    pub id: String,
    pub index: u32,
    pub status: Status,
    pub progress: u8,
    pub seconds: String,
    pub seed: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// `reserved`, `posted` or `voided`.
    pub state: String,
    pub reserved_gpu_seconds: f64,
    pub gpu_seconds: f64,
    pub video_seconds: f64,
    /// What waiting for a cheaper hour of its window saved, in the unit of the farm's prices.
    #[serde(default)]
    pub saved: Option<f64>,
    /// What was charged, at most what was held; null while the operator has set no price.
    #[serde(default)]
    pub cost: Option<Money>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    pub code: String,
    pub message: String,
    pub param: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoError {
    pub code: String,
    pub message: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VideoList {
    pub object: String,
    pub data: Vec<Video>,
    pub first_id: Option<String>,
    pub last_id: Option<String>,
    pub has_more: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedVideo {
    pub id: String,
    /// Always `video.deleted`.
    pub object: String,
    pub deleted: bool,
}

/// The body of every answer that is not 2xx.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    pub message: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub param: Option<String>,
    pub code: Option<String>,
}
