//! What the config of the audio autoencoder says, checked.

use crate::weights::{Config, WeightsError};

use super::COMPRESSION;

/// Sizes of the encoder and the decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// Channels of each level, finest first.
    pub widths: Vec<usize>,
    /// Resnets of each level of the encoder; the decoder has one more.
    pub resnets: usize,
    pub in_channels: usize,
    pub out_channels: usize,
    pub latent_channels: usize,
    /// The encoder also gives logarithms of variances.
    pub double: bool,
    /// Mel bins of a spectrogram.
    pub bins: usize,
    /// Samples per second of the sound that spectrograms are made from.
    pub sample_rate: u32,
    /// Samples between rows of a spectrogram.
    pub hop: usize,
}

impl Layout {
    /// Values of a packed latent.
    pub fn packed(&self) -> usize {
        self.latent_channels * self.latent_bins()
    }

    /// Mel bins of a latent.
    pub fn latent_bins(&self) -> usize {
        self.bins / COMPRESSION
    }
}

pub(super) fn read(config: &Config) -> Result<Layout, WeightsError> {
    config.require("norm_type", "pixel".to_owned())?;
    config.require("causality_axis", "height".to_owned())?;
    config.require("mid_block_add_attention", false)?;
    if !config
        .get::<Vec<usize>>("attn_resolutions", Vec::new())?
        .is_empty()
    {
        return Err(config.refuse("attn_resolutions", "attention is not supported, only null"));
    }
    config.ignore(&["resolution", "dropout", "is_causal"]);
    let base: usize = config.get("base_channels", 128)?;
    let factors: Vec<usize> = config.get("ch_mult", vec![1, 2, 4])?;
    if factors.len() != 3 || factors.contains(&0) {
        let reason = format!("{factors:?} is not supported, only three levels");
        return Err(config.refuse("ch_mult", reason));
    }
    let layout = Layout {
        widths: factors.iter().map(|factor| base * factor).collect(),
        resnets: config.get("num_res_blocks", 2)?,
        in_channels: config.get("in_channels", 2)?,
        out_channels: config.get("output_channels", 2)?,
        latent_channels: config.get("latent_channels", 8)?,
        double: config.get("double_z", true)?,
        bins: config.get("mel_bins", 64)?,
        sample_rate: config.get("sample_rate", 16_000)?,
        hop: config.get("mel_hop_length", 160)?,
    };
    if layout.bins == 0 || !layout.bins.is_multiple_of(COMPRESSION) {
        return Err(config.refuse("mel_bins", format!("{} is no multiple of 4", layout.bins)));
    }
    // The statistics are one value per packed channel, but stored with `base_channels` entries.
    if base == 0 || base != layout.packed() {
        let reason = format!(
            "{base} is not latent_channels * mel_bins / 4 = {}",
            layout.packed()
        );
        return Err(config.refuse("base_channels", reason));
    }
    Ok(layout)
}
