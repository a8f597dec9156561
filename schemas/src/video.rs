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
    /// Why it waits, as a code such as `fair_share` or `window_closed`; null unless it does.
    #[serde(default)]
    pub waiting: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Eta {
    pub starts_at: Option<i64>,
    pub completes_at_p50: Option<i64>,
    pub completes_at_p90: Option<i64>,
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
#[derive(Clone, Debug, Serialize, Deserialize)]
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
