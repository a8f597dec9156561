//! Spectrograms to latents.

use kernels::conv::ConvWeights;
use kernels::conv2d::Conv2dOptions;
use kernels::{Device, KernelError, Tensor};

use crate::convolution::Source;
use crate::weights::{Component, WeightsError};

use super::config::{self, Layout};
use super::resnet::{CAUSAL, NORM_SILU, Resnet, conv, load_conv};
use super::{Statistics, four};

/// Padding of the convolution that halves time and mel.
const HALVE: Conv2dOptions = Conv2dOptions {
    left: 0,
    right: 1,
    stride: 2,
    ..CAUSAL
};

/// The encoder of `AutoencoderKLLTX2Audio`, on a device.
#[derive(Debug)]
pub struct AudioEncoder {
    layout: Layout,
    statistics: Statistics,
    device: Device,
    conv_in: ConvWeights,
    levels: Vec<Level>,
    mid: Vec<Resnet>,
    conv_out: ConvWeights,
}

#[derive(Debug)]
struct Level {
    resnets: Vec<Resnet>,
    downsample: Option<ConvWeights>,
}

impl AudioEncoder {
    /// Reads the encoder's half of the component.
    ///
    /// # Errors
    /// As [`super::AudioDecoder::load`].
    pub fn load(component: &Component, device: &Device) -> Result<Self, WeightsError> {
        component.expect_class(&["AutoencoderKLLTX2Audio"])?;
        let layout = config::read(component.config())?;
        let source = Source { component, device };
        let statistics =
            Statistics::load(component, device, layout.packed(), layout.latent_bins())?;
        // The first level keeps the width of `conv_in`, which is `base_channels`.
        let base = layout.packed();
        let mut levels = Vec::new();
        let mut width = base;
        for (i, out_width) in layout.widths.iter().enumerate() {
            let coarsest = i + 1 == layout.widths.len();
            levels.push(Level::load(
                source,
                i,
                [width, *out_width],
                layout.resnets,
                coarsest,
            )?);
            width = *out_width;
        }
        let mid = |i| Resnet::load(source, &format!("encoder.mid.block_{i}"), width, width);
        let moments = layout.latent_channels * if layout.double { 2 } else { 1 };
        Ok(Self {
            statistics,
            device: device.clone(),
            conv_in: load_conv(source, "encoder.conv_in", layout.in_channels, base)?,
            levels,
            mid: vec![mid(1)?, mid(2)?],
            conv_out: load_conv(source, "encoder.conv_out", width, moments)?,
            layout,
        })
    }

    /// Channels and mel bins of a spectrogram.
    pub fn spectrum(&self) -> (usize, usize) {
        (self.layout.in_channels, self.layout.bins)
    }

    /// Encodes a log-mel spectrogram F32 [1, time, mel, channel] into the sampler's normalised
    /// latents [ceil(time/4), channel*bin]: the means, no noise drawn.
    ///
    /// # Errors
    /// [`KernelError::Shape`] for other mel bins or channels.
    pub fn latents(&self, mel: &Tensor) -> Result<Vec<f32>, KernelError> {
        Ok(self.statistics.pack(self.encode(mel)?.f32s()))
    }

    /// Encodes a spectrogram into the means of the latents F32 [1, ceil(time/4), bin, channel], of
    /// the autoencoder's own scale.
    ///
    /// # Errors
    /// As [`AudioEncoder::latents`].
    pub fn encode(&self, mel: &Tensor) -> Result<Tensor, KernelError> {
        let (device, [_, time, _, _]) = (&self.device, four(mel)?);
        mel.expect_f32(
            "audio_vae",
            "mel",
            &[1, time, self.layout.bins, self.layout.in_channels],
        )?;
        let mut x = conv(device, mel, &self.conv_in, CAUSAL, None)?;
        for level in &self.levels {
            x = level.forward(device, x)?;
        }
        for resnet in &self.mid {
            x = resnet.forward(device, &x)?;
        }
        let normed = Conv2dOptions {
            prologue: NORM_SILU,
            ..CAUSAL
        };
        let moments = conv(device, &x, &self.conv_out, normed, None)?;
        let latent = self.layout.latent_channels;
        let [batch, tokens, bins, channels] = four(&moments)?;
        let rows = moments.f32s().chunks_exact(channels);
        let mean = rows.flat_map(|row| &row[..latent]).copied().collect();
        Tensor::from_f32(device, &[batch, tokens, bins, latent], mean)
    }
}

impl Level {
    fn load(
        source: Source<'_>,
        index: usize,
        widths: [usize; 2],
        resnets: usize,
        coarsest: bool,
    ) -> Result<Self, WeightsError> {
        let prefix = format!("encoder.down.{index}");
        let downsample = if coarsest {
            None
        } else {
            Some(load_conv(
                source,
                &format!("{prefix}.downsample"),
                widths[1],
                widths[1],
            )?)
        };
        let resnets = Resnet::load_all(source, &format!("{prefix}.block"), widths, resnets)?;
        Ok(Self {
            resnets,
            downsample,
        })
    }

    fn forward(&self, device: &Device, mut x: Tensor) -> Result<Tensor, KernelError> {
        for resnet in &self.resnets {
            x = resnet.forward(device, &x)?;
        }
        match &self.downsample {
            Some(weights) => conv(device, &x, weights, HALVE, None),
            None => Ok(x),
        }
    }
}
