//! What every attempt on this node needs: weights, FFmpeg, settings, counters.

use crate::{catalogue::Catalogue, metrics::Metrics, mux::Ffmpeg, settings::Settings};

pub struct Studio {
    pub catalogue: Catalogue,
    pub ffmpeg: Ffmpeg,
    pub settings: Settings,
    pub metrics: Metrics,
}
