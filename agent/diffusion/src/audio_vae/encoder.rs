//! Spectrograms to latents.

use kernels::conv::ConvWeights;
use kernels::conv2d::Conv2dOptions;
use kernels::stft_mel::{MelScale, MelWeights, stft_mel};
use kernels::{Device, KernelError, Tensor};

use crate::convolution::{Source, refused};
use crate::weights::{Component, WeightsError};

use super::config::{self, Layout};
use super::resnet::{CAUSAL, NORM_SILU, Resnet, conv, load_conv};
use super::{COMPRESSION, Statistics, four};

/// Samples of a spectrogram's window.
const N_FFT: usize = 1024;

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
    mel: MelWeights,
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
        let scale = MelScale {
            rate: layout.sample_rate,
            n_fft: N_FFT,
            hop: layout.hop,
            bins: layout.bins,
        };
        let mid = |i| Resnet::load(source, &format!("encoder.mid.block_{i}"), width, width);
        let moments = layout.latent_channels * if layout.double { 2 } else { 1 };
        Ok(Self {
            statistics,
            device: device.clone(),
            mel: MelWeights::slaney(device, scale).map_err(|error| refused("mel", error))?,
            conv_in: load_conv(source, "encoder.conv_in", layout.in_channels, base)?,
            levels,
            mid: vec![mid(1)?, mid(2)?],
            conv_out: load_conv(source, "encoder.conv_out", width, moments)?,
            layout,
        })
    }

    /// Bytes of the tables that no file has.
    pub(crate) fn table_bytes(&self) -> u64 {
        self.mel.bytes()
    }

    /// Channels and mel bins of a spectrogram.
    pub fn spectrum(&self) -> (usize, usize) {
        (self.layout.in_channels, self.layout.bins)
    }

    /// Samples per second and channels of the sound that is encoded.
    pub fn hears(&self) -> (u32, usize) {
        (self.layout.sample_rate, self.layout.in_channels)
    }

    /// Rows of the spectrogram of so many samples of a channel.
    pub(super) fn rows(&self, samples: usize) -> usize {
        self.mel.frames(samples)
    }

    /// Channels that each level gets and has, and whether it halves rows and bins.
    pub(super) fn widths(&self) -> impl Iterator<Item = (usize, usize, bool)> {
        let widths = &self.layout.widths;
        let before = std::iter::once(self.layout.packed()).chain(widths.iter().copied());
        let halves = self.levels.iter().map(|level| level.downsample.is_some());
        let both = before.zip(widths.iter().copied()).zip(halves);
        both.map(|((before, width), halves)| (before, width, halves))
    }

    /// Tokens that interleaved samples cover whole.
    pub fn tokens(&self, samples: usize) -> usize {
        let rows = self.mel.frames(samples / self.layout.in_channels);
        rows.saturating_sub(1) / COMPRESSION + 1
    }

    /// Encodes interleaved samples into the sampler's normalised latents: as many tokens as the
    /// sound covers whole, at most `tokens`.
    ///
    /// # Errors
    /// [`KernelError::Unsupported`] for less than half a window of sound.
    pub fn heard(&self, samples: &[f32], tokens: usize) -> Result<Vec<f32>, KernelError> {
        let (device, channels) = (&self.device, self.layout.in_channels);
        let length = samples.len() / channels;
        let sample = |at: usize| samples[at % length * channels + at / length];
        let values = (0..length * channels).map(sample).collect();
        let wave = Tensor::from_f32(device, &[channels, length], values)?;
        let (rows, bins) = (self.mel.frames(length), self.layout.bins);
        let mut mel = Tensor::zeros_f32(device, &[channels, rows, bins])?;
        stft_mel(device, &wave, &self.mel, &mut mel)?;
        // The first token covers one row, every other one four.
        let used = COMPRESSION * (tokens.clamp(1, self.tokens(samples.len())) - 1) + 1;
        let mel_values = mel.values()?;
        let value = |at: usize| {
            let (position, channel) = (at / channels, at % channels);
            mel_values[channel * rows * bins + position]
        };
        let values = (0..used * bins * channels).map(value).collect();
        self.latents(&Tensor::from_f32(
            device,
            &[1, used, bins, channels],
            values,
        )?)
    }

    /// Encodes a log-mel spectrogram F32 [1, time, mel, channel] into the sampler's normalised
    /// latents [ceil(time/4), channel*bin]: the means, no noise drawn.
    ///
    /// # Errors
    /// [`KernelError::Shape`] for other mel bins or channels.
    pub fn latents(&self, mel: &Tensor) -> Result<Vec<f32>, KernelError> {
        Ok(self.statistics.pack(&self.encode(mel)?.values()?))
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
        let values = moments.values()?;
        let rows = values.chunks_exact(channels);
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
