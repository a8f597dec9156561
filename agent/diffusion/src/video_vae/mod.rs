//! The video autoencoder: frames to latents (causal in time) and back.
//!
//! Everything is [batch 1, time, height, width, channel]. A resnet is
//! `x + conv(silu(pn(conv(silu(pn(x))))))`, pn being the pixel norm; a block is an upsampler and
//! then resnets, or resnets and then a downsampler. How many blocks of which kind, and so how many
//! frames and pixels a latent covers, is read from the config.

mod config;
mod decoder;
mod encoder;
mod memory;
mod resnet;
mod stream;
mod tiling;

#[cfg(test)]
mod tests;

use kernels::{Device, KernelError, Tensor};

use crate::weights::{Component, WeightsError};

pub use config::Compression;
pub use decoder::{OnFrames, VideoDecoder};
pub use encoder::VideoEncoder;
pub use tiling::{Tiles, Tiling};

/// Mean and deviation of every latent channel over the training data.
#[derive(Debug, Clone)]
pub(crate) struct Statistics {
    mean: Vec<f32>,
    deviation: Vec<f32>,
}

impl Statistics {
    /// Reads `latents_mean` and `latents_std` of `channels` values; `scaling` multiplies what was
    /// normalised.
    fn load(
        component: &Component,
        device: &Device,
        channels: usize,
        scaling: f32,
    ) -> Result<Self, WeightsError> {
        let mean = component.values(device, "latents_mean", &[channels])?;
        let std = component.values(device, "latents_std", &[channels])?;
        Ok(Self {
            mean,
            deviation: std.iter().map(|std| std / scaling).collect(),
        })
    }

    /// From the sampler's scale to the decoder's.
    pub(crate) fn denormalise(&self, latents: &[f32]) -> Vec<f32> {
        let rows = latents.chunks_exact(self.mean.len());
        let row = |row: &[f32]| -> Vec<f32> {
            let terms = row.iter().zip(&self.deviation).zip(&self.mean);
            terms
                .map(|((z, deviation), mean)| z * deviation + mean)
                .collect()
        };
        rows.flat_map(row).collect()
    }

    /// From the encoder's scale to the sampler's.
    pub(crate) fn normalise(&self, latents: &[f32]) -> Vec<f32> {
        let rows = latents.chunks_exact(self.mean.len());
        let row = |row: &[f32]| -> Vec<f32> {
            let terms = row.iter().zip(&self.deviation).zip(&self.mean);
            terms
                .map(|((z, deviation), mean)| (z - mean) / deviation)
                .collect()
        };
        rows.flat_map(row).collect()
    }
}

/// Dimensions of a five-dimensional tensor.
fn five(x: &Tensor) -> Result<[usize; 5], KernelError> {
    x.expect_rank("video_vae", "x")
}
