//! Latents to spectrograms.

use kernels::conv::ConvWeights;
use kernels::conv2d::Conv2dOptions;
use kernels::upsample_nearest::upsample_nearest;
use kernels::{Device, KernelError, Tensor};

use crate::convolution::Source;
use crate::weights::{Component, WeightsError};

use super::config::{self, Layout};
use super::resnet::{CAUSAL, NORM_SILU, Resnet, conv, load_conv};
use super::{Statistics, four};

/// The decoder of `AutoencoderKLLTX2Audio`, on a device.
#[derive(Debug)]
pub struct AudioDecoder {
    pub(super) layout: Layout,
    pub(super) statistics: Statistics,
    device: Device,
    conv_in: ConvWeights,
    mid: Vec<Resnet>,
    /// In order of execution: coarsest first.
    levels: Vec<Level>,
    conv_out: ConvWeights,
}

#[derive(Debug)]
struct Level {
    resnets: Vec<Resnet>,
    upsample: Option<ConvWeights>,
}

impl AudioDecoder {
    /// Reads the decoder's half of the component.
    ///
    /// # Errors
    /// A [`WeightsError`] that names the file and the field or tensor; norms other than `pixel`,
    /// attention, and causality along another axis are refused.
    pub fn load(component: &Component, device: &Device) -> Result<Self, WeightsError> {
        component.expect_class(&["AutoencoderKLLTX2Audio"])?;
        let layout = config::read(component.config())?;
        component.config().warn_unread();
        let source = Source { component, device };
        let statistics =
            Statistics::load(component, device, layout.packed(), layout.latent_bins())?;
        let (finest, coarsest) = (layout.widths[0], layout.widths[layout.widths.len() - 1]);
        let mid = |i| {
            Resnet::load(
                source,
                &format!("decoder.mid.block_{i}"),
                coarsest,
                coarsest,
            )
        };
        let mut levels = Vec::new();
        let mut width = coarsest;
        for (i, out_width) in layout.widths.iter().enumerate().rev() {
            levels.push(Level::load(
                source,
                i,
                [width, *out_width],
                layout.resnets + 1,
            )?);
            width = *out_width;
        }
        Ok(Self {
            statistics,
            device: device.clone(),
            conv_in: load_conv(source, "decoder.conv_in", layout.latent_channels, coarsest)?,
            mid: vec![mid(1)?, mid(2)?],
            levels,
            conv_out: load_conv(source, "decoder.conv_out", finest, layout.out_channels)?,
            layout,
        })
    }

    /// Values of a packed latent: channels times mel bins.
    pub fn packed_channels(&self) -> usize {
        self.layout.packed()
    }

    /// Channels and mel bins of a latent.
    pub fn latent(&self) -> (usize, usize) {
        (self.layout.latent_channels, self.layout.latent_bins())
    }

    /// Samples per second of the sound that spectrograms stand for.
    pub fn sample_rate(&self) -> u32 {
        self.layout.sample_rate
    }

    /// Samples between rows of a spectrogram.
    pub fn hop(&self) -> usize {
        self.layout.hop
    }

    /// Decodes the sampler's normalised latents [token, channel*bin] into a log-mel spectrogram F32
    /// [1, 4*tokens - 3, mel, channel].
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the latents are no whole tokens or there are none.
    pub fn spectrogram(&self, latents: &[f32]) -> Result<Tensor, KernelError> {
        let tokens = latents.len() / self.layout.packed();
        let values = self.statistics.unpack(latents);
        if values.len() != latents.len() || tokens == 0 {
            return Err(KernelError::Shape {
                op: "audio_vae",
                what: "latents",
                expected: format!("a multiple of {} values", self.layout.packed()),
                found: format!("{} values", latents.len()),
            });
        }
        let dims = [
            1,
            tokens,
            self.layout.latent_bins(),
            self.layout.latent_channels,
        ];
        self.decode(&Tensor::from_f32(&self.device, &dims, values)?)
    }

    /// Decodes latents F32 [1, token, bin, channel] of the autoencoder's own scale.
    ///
    /// # Errors
    /// [`KernelError::Shape`], [`KernelError::OutOfMemory`].
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor, KernelError> {
        let device = &self.device;
        let mut x = conv(device, latents, &self.conv_in, CAUSAL, None)?;
        for resnet in &self.mid {
            x = resnet.forward(device, &x)?;
        }
        for level in &self.levels {
            x = level.forward(device, x)?;
        }
        let normed = Conv2dOptions {
            prologue: NORM_SILU,
            ..CAUSAL
        };
        conv(device, &x, &self.conv_out, normed, None)
    }
}

impl Level {
    fn load(
        source: Source<'_>,
        index: usize,
        widths: [usize; 2],
        resnets: usize,
    ) -> Result<Self, WeightsError> {
        let prefix = format!("decoder.up.{index}");
        let upsample = match index {
            0 => None,
            _ => Some(load_conv(
                source,
                &format!("{prefix}.upsample.conv"),
                widths[1],
                widths[1],
            )?),
        };
        let resnets = Resnet::load_all(source, &format!("{prefix}.block"), widths, resnets)?;
        Ok(Self { resnets, upsample })
    }

    fn forward(&self, device: &Device, mut x: Tensor) -> Result<Tensor, KernelError> {
        for resnet in &self.resnets {
            x = resnet.forward(device, &x)?;
        }
        let Some(weights) = &self.upsample else {
            return Ok(x);
        };
        let [batch, time, bins, channels] = four(&x)?;
        let mut large = Tensor::activations(device, &[batch, 2 * time, 2 * bins, channels])?;
        upsample_nearest(device, &x, &mut large)?;
        // The reference drops the first row of the result; one row of padding less never makes it.
        conv(
            device,
            &large,
            weights,
            Conv2dOptions { top: 1, ..CAUSAL },
            None,
        )
    }
}
