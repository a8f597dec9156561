//! What every attempt on this node needs: weights, FFmpeg, settings, counters.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kernels::{KernelError, Team};

use crate::{catalogue::Catalogue, metrics::Metrics, mux::Ffmpeg, settings::Settings};

impl Studio {
    /// The threads of so many of this node's devices; `None` where one device is all of the processor.
    ///
    /// # Errors
    /// As [`Team::new`].
    pub fn team(&self, devices: usize) -> Result<Option<Team>, KernelError> {
        match self.settings.device_count() {
            1 => Ok(None),
            _ => Team::new(self.settings.threads_of(devices.max(1))).map(Some),
        }
    }
}

impl Studio {
    /// Whether the device that this node's weights lie on still works.
    ///
    /// # Errors
    /// As [`kernels::Device::check`].
    pub fn check(&self) -> Result<(), KernelError> {
        self.catalogue.device().check()
    }
}

pub struct Studio {
    pub catalogue: Catalogue,
    pub ffmpeg: Ffmpeg,
    pub settings: Settings,
    pub metrics: Metrics,
    pub tails: Tails,
}

/// How long decoding takes here, as it was seen last.
#[derive(Debug, Default)]
pub struct Tails(Mutex<Option<f64>>);

/// Part that a new measurement has in what is expected.
const NEWEST: f64 = 0.3;

impl Tails {
    /// A clip with so many pixels in all its frames was decoded.
    pub fn learn(&self, pixels: u64, took: Duration) {
        let newest = took.as_secs_f64() / pixels.max(1) as f64;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(known.map_or(newest, |old| old + NEWEST * (newest - old)));
    }

    /// `None` before the first.
    pub fn expected(&self, pixels: u64) -> Option<Duration> {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.map(|seconds| Duration::from_secs_f64(seconds * pixels as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_decoding_is_learnt_by_the_pixel() {
        let tails = Tails::default();
        assert_eq!(tails.expected(100), None);
        tails.learn(100, Duration::from_secs(1));
        assert_eq!(tails.expected(300), Some(Duration::from_secs(3)));
        tails.learn(100, Duration::from_secs(2));
        assert_eq!(tails.expected(100), Some(Duration::from_millis(1_300)));
    }
}
