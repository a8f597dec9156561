//! Convolutions and resnets of the video autoencoder.

use kernels::conv::{ConvWeights, Prologue, SpacePad, scratch_values};
use kernels::conv3d::{Conv3dOptions, TimePad, conv3d};
use kernels::{Device, KernelError, Tensor};

use crate::convolution::Source;
use crate::weights::WeightsError;

use super::five;
use super::stream::{Delay, Frames, Seam};

/// The kernel of every convolution.
pub(super) const KERNEL: [usize; 3] = [3, 3, 3];

/// Added to the mean square in every norm.
const NORM_EPS: f32 = 1e-8;

/// Norm and activation in front of most convolutions.
pub(super) const NORM_SILU: Prologue = Prologue::PixelNormSilu { eps: NORM_EPS };

/// What all convolutions of one network share.
#[derive(Debug, Clone)]
pub(super) struct Borders {
    pub device: Device,
    pub time: TimePad,
    pub space: SpacePad,
}

impl Borders {
    pub fn new(device: &Device, causal: bool, space: SpacePad) -> Self {
        let time = if causal {
            TimePad::Causal
        } else {
            TimePad::Copies
        };
        Self {
            device: device.clone(),
            time,
            space,
        }
    }

    /// Values of activations that a convolution of so many frames of [rows, columns] takes beside its operands.
    pub fn copies(
        &self,
        weights: &ConvWeights,
        images: (usize, [usize; 2]),
        prologue: Prologue,
    ) -> usize {
        scratch_values(&self.device, weights, images, self.space, prologue)
    }

    /// `conv(prologue(x)) + residual`
    pub fn conv(
        &self,
        x: &Tensor,
        weights: &ConvWeights,
        prologue: Prologue,
        residual: Option<&Tensor>,
    ) -> Result<Tensor, KernelError> {
        let [b, t, h, w, _] = five(x)?;
        let mut out = Tensor::activations(&self.device, &[b, t, h, w, weights.out_channels()])?;
        let options = Conv3dOptions {
            time: self.time,
            space: self.space,
            prologue,
        };
        conv3d(&self.device, x, weights, options, residual, &mut out)?;
        Ok(out)
    }
}

/// Reads the convolution `KEY.conv`.
pub(super) fn load_conv(
    source: Source<'_>,
    key: &str,
    in_channels: usize,
    out_channels: usize,
) -> Result<ConvWeights, WeightsError> {
    source.conv(&format!("{key}.conv"), out_channels, in_channels, &KERNEL)
}

/// Two convolutions around which the input is carried on.
#[derive(Debug)]
pub(super) struct Resnet {
    conv1: ConvWeights,
    conv2: ConvWeights,
}

impl Resnet {
    /// Reads `PREFIX.resnets.0` to `count - 1`.
    pub fn load_all(
        source: Source<'_>,
        prefix: &str,
        channels: usize,
        count: usize,
    ) -> Result<Vec<Self>, WeightsError> {
        let load = |i| {
            let conv = |name| {
                load_conv(
                    source,
                    &format!("{prefix}.resnets.{i}.{name}"),
                    channels,
                    channels,
                )
            };
            Ok(Self {
                conv1: conv("conv1")?,
                conv2: conv("conv2")?,
            })
        };
        (0..count).map(load).collect()
    }

    /// Its two convolutions.
    pub fn convolutions(&self) -> [&ConvWeights; 2] {
        [&self.conv1, &self.conv2]
    }

    /// Channels of all its tensors.
    pub fn channels(&self) -> usize {
        self.conv1.in_channels()
    }

    /// A whole clip.
    pub fn forward(&self, borders: &Borders, x: Tensor) -> Result<Tensor, KernelError> {
        let inner = borders.conv(&x, &self.conv1, NORM_SILU, None)?;
        borders.conv(&inner, &self.conv2, NORM_SILU, Some(&x))
    }
    /// The next frames of a clip; gives those that are ready.
    pub fn push(
        &self,
        borders: &Borders,
        state: &mut ResnetState,
        x: Tensor,
        are_last: bool,
    ) -> Result<Tensor, KernelError> {
        let frames = Frames { x: &x, are_last };
        let first = state
            .conv1
            .conv(borders, &frames, &self.conv1, NORM_SILU, None)?;
        state.carried.put(&borders.device, x)?;
        let frames = Frames {
            x: &first,
            are_last,
        };
        let carried = Some(&mut state.carried);
        state
            .conv2
            .conv(borders, &frames, &self.conv2, NORM_SILU, carried)
    }
}

/// What a resnet keeps of a clip's past.
#[derive(Debug, Default)]
pub(super) struct ResnetState {
    conv1: Seam,
    conv2: Seam,
    carried: Delay,
}
