//! The audio autoencoder: log-mel spectrograms to latents (causal in time) and back.
//!
//! Spectrograms and what lies between are [batch 1, time, mel, channel]; all convolutions are
//! two-dimensional, zero padded, with all padding in time before the first row. A resnet is
//! `skip(x) + conv(silu(pn(conv(silu(pn(x))))))`, pn being the pixel norm. The sampler's packed
//! latents are [token, channel * mel bins], index `channel * bins + bin`.

mod config;
mod decoder;
mod encoder;
mod memory;
mod resnet;

#[cfg(test)]
mod tests;

use kernels::{Device, KernelError, Tensor};

use crate::weights::{Component, WeightsError};

pub use decoder::AudioDecoder;
pub use encoder::AudioEncoder;

/// Spectrogram rows, and mel bins, that one latent covers (the first row of a clip counts once).
pub const COMPRESSION: usize = 4;

/// Mean and deviation of every packed latent channel over the training data.
#[derive(Debug, Clone)]
struct Statistics {
    mean: Vec<f32>,
    deviation: Vec<f32>,
    /// Mel bins of a latent.
    bins: usize,
}

impl Statistics {
    fn load(
        component: &Component,
        device: &Device,
        packed: usize,
        bins: usize,
    ) -> Result<Self, WeightsError> {
        Ok(Self {
            mean: component.values(device, "latents_mean", &[packed])?,
            deviation: component.values(device, "latents_std", &[packed])?,
            bins,
        })
    }

    fn channels(&self) -> usize {
        self.mean.len() / self.bins
    }

    /// Normalised [token, channel*bins] to [token, bin, channel] of the decoder's scale.
    fn unpack(&self, latents: &[f32]) -> Vec<f32> {
        let (packed, channels) = (self.mean.len(), self.channels());
        let value = |at: usize| {
            let (token, inner) = (at / packed, at % packed);
            let from = inner % channels * self.bins + inner / channels;
            latents[token * packed + from] * self.deviation[from] + self.mean[from]
        };
        (0..latents.len() / packed * packed).map(value).collect()
    }

    /// [token, bin, channel] of the encoder's scale to normalised [token, channel*bins].
    fn pack(&self, latents: &[f32]) -> Vec<f32> {
        let (packed, channels) = (self.mean.len(), self.channels());
        let value = |at: usize| {
            let (token, to) = (at / packed, at % packed);
            let from = to % self.bins * channels + to / self.bins;
            (latents[token * packed + from] - self.mean[to]) / self.deviation[to]
        };
        (0..latents.len() / packed * packed).map(value).collect()
    }
}

/// Dimensions of a four-dimensional tensor.
fn four(x: &Tensor) -> Result<[usize; 4], KernelError> {
    x.expect_rank("audio_vae", "x")
}
