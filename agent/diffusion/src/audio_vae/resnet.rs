//! Convolutions and resnets of the audio autoencoder.

use kernels::conv::{ConvWeights, Prologue};
use kernels::conv2d::{Conv2dOptions, conv2d};
use kernels::{Device, KernelError, Tensor};

use crate::convolution::Source;
use crate::weights::WeightsError;

use super::four;

/// Norm and activation in front of most convolutions.
pub(super) const NORM_SILU: Prologue = Prologue::PixelNormSilu { eps: 1e-6 };

/// The padding of a 3x3 convolution that sees no later row.
pub(super) const CAUSAL: Conv2dOptions = Conv2dOptions {
    top: 2,
    bottom: 0,
    left: 1,
    right: 1,
    stride: 1,
    prologue: Prologue::None,
};

/// A 1x1 convolution.
const POINT: Conv2dOptions = Conv2dOptions {
    top: 0,
    bottom: 0,
    left: 0,
    right: 0,
    stride: 1,
    prologue: Prologue::None,
};

/// `conv(prologue(x)) + residual`
pub(super) fn conv(
    device: &Device,
    x: &Tensor,
    weights: &ConvWeights,
    options: Conv2dOptions,
    residual: Option<&Tensor>,
) -> Result<Tensor, KernelError> {
    let [batch, time, bins, _] = four(x)?;
    let [out_time, out_bins] = options.out_size(weights, time, bins).unwrap_or_default();
    let mut out =
        Tensor::activations(device, &[batch, out_time, out_bins, weights.out_channels()])?;
    conv2d(device, x, weights, options, residual, &mut out)?;
    Ok(out)
}

/// Reads the 3x3 convolution `KEY.conv`.
pub(super) fn load_conv(
    source: Source<'_>,
    key: &str,
    in_channels: usize,
    out_channels: usize,
) -> Result<ConvWeights, WeightsError> {
    source.conv(&format!("{key}.conv"), out_channels, in_channels, &[3, 3])
}

/// Two convolutions around which the input is carried on, through a third where widths differ.
#[derive(Debug)]
pub(super) struct Resnet {
    conv1: ConvWeights,
    conv2: ConvWeights,
    skip: Option<ConvWeights>,
}

impl Resnet {
    /// Reads the resnet at `prefix`.
    pub fn load(
        source: Source<'_>,
        prefix: &str,
        in_channels: usize,
        out_channels: usize,
    ) -> Result<Self, WeightsError> {
        let skip = if in_channels == out_channels {
            None
        } else {
            let key = format!("{prefix}.nin_shortcut.conv");
            Some(source.conv(&key, out_channels, in_channels, &[1, 1])?)
        };
        Ok(Self {
            conv1: load_conv(
                source,
                &format!("{prefix}.conv1"),
                in_channels,
                out_channels,
            )?,
            conv2: load_conv(
                source,
                &format!("{prefix}.conv2"),
                out_channels,
                out_channels,
            )?,
            skip,
        })
    }

    /// Reads `PREFIX.0` to `count - 1`; the first takes `in_channels`.
    pub fn load_all(
        source: Source<'_>,
        prefix: &str,
        [in_channels, out_channels]: [usize; 2],
        count: usize,
    ) -> Result<Vec<Self>, WeightsError> {
        let load = |i: usize| {
            let first = if i == 0 { in_channels } else { out_channels };
            Self::load(source, &format!("{prefix}.{i}"), first, out_channels)
        };
        (0..count).map(load).collect()
    }

    pub fn forward(&self, device: &Device, x: &Tensor) -> Result<Tensor, KernelError> {
        let normed = Conv2dOptions {
            prologue: NORM_SILU,
            ..CAUSAL
        };
        let inner = conv(device, x, &self.conv1, normed, None)?;
        match &self.skip {
            None => conv(device, &inner, &self.conv2, normed, Some(x)),
            Some(skip) => {
                let carried = conv(device, x, skip, POINT, None)?;
                conv(device, &inner, &self.conv2, normed, Some(&carried))
            }
        }
    }
}
