//! The vocoder: log-mel spectrograms to sound.
//!
//! `LTX2Vocoder` is one generator. `LTX2VocoderWithBWE` makes sound at a lower rate with a first
//! generator and lets a second one add what is missing above (bandwidth extension).

mod bandwidth;
mod config;
mod generator;
mod memory;
mod snake;

#[cfg(test)]
mod tests;

use kernels::{Device, KernelError, Tensor};

use crate::convolution::Source;
use crate::weights::{Component, WeightsError};

use bandwidth::Bandwidth;
use generator::Generator;

/// A vocoder of either class, on a device.
#[derive(Debug)]
pub struct Vocoder {
    device: Device,
    generator: Generator,
    bandwidth: Option<Bandwidth>,
    sample_rate: u32,
}

impl Vocoder {
    /// Reads the component; its class decides whether there is a bandwidth extension.
    ///
    /// # Errors
    /// A [`WeightsError`] that names the file and the class, field or tensor.
    pub fn load(component: &Component, device: &Device) -> Result<Self, WeightsError> {
        let class = component.expect_class(&["LTX2Vocoder", "LTX2VocoderWithBWE"])?;
        let (source, fields) = (Source { component, device }, component.config());
        let device = device.clone();
        if class == "LTX2Vocoder" {
            let generator = Generator::load(source, "", config::plain(fields)?)?;
            let sample_rate = fields.get("output_sampling_rate", 24_000)?;
            fields.warn_unread();
            return Ok(Self {
                device,
                generator,
                bandwidth: None,
                sample_rate,
            });
        }
        let generator = Generator::load(source, "vocoder.", config::first(fields)?)?;
        let bandwidth = Bandwidth::load(source, config::bandwidth(fields)?)?;
        fields.warn_unread();
        let sample_rate = bandwidth.sample_rate();
        Ok(Self {
            device,
            generator,
            bandwidth: Some(bandwidth),
            sample_rate,
        })
    }

    /// Samples per second of the sound.
    pub fn sample_rate(&self) -> u32 {
        self.sample_rate
    }

    /// Channels of the sound.
    pub fn channels(&self) -> usize {
        self.bandwidth
            .as_ref()
            .map_or(self.generator.out_channels(), Bandwidth::out_channels)
    }

    /// Channels and mel bins of a spectrogram.
    pub fn spectrum(&self) -> (usize, usize) {
        let channels = self.generator.out_channels();
        (channels, self.generator.in_features() / channels)
    }

    /// Turns a log-mel spectrogram F32 [1, time, mel, channel] into sound F32 [1, sample, channel],
    /// which is interleaved as it lies.
    ///
    /// # Errors
    /// [`KernelError::Shape`] for other mel bins or channels, [`KernelError::OutOfMemory`].
    pub fn wave(&self, mel: &Tensor) -> Result<Tensor, KernelError> {
        let [batch, time, bins, channels] = mel.expect_rank("vocoder", "mel")?;
        let features = bins * channels;
        let mel_values = mel.values()?;
        let value = |at: usize| {
            let (row, feature) = (at / features, at % features);
            mel_values[row * features + feature % bins * channels + feature / bins]
        };
        let values = (0..mel.count()).map(value).collect();
        let mel = Tensor::from_f32(&self.device, &[batch, time, features], values)?;
        let wave = self.generator.forward(&self.device, &mel)?;
        match &self.bandwidth {
            Some(bandwidth) => bandwidth.extend(&self.device, wave),
            None => Ok(wave),
        }
    }
}
