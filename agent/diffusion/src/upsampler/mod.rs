//! The latent upsampler between two stages: video latents of twice the height and width.
//!
//! `conv -> gn -> silu -> resnets -> per-frame conv + pixel shuffle -> resnets -> conv`, a resnet
//! being `silu(x + gn(conv(silu(gn(conv(x))))))`. Everything is [batch 1, time, height, width,
//! channel] with zeros around it; a norm's groups span all frames. 2.0 names the middle layer
//! `upsampler.conv`, later versions `upsampler.0`; the blur that follows it in 2.0 does nothing at
//! whole factors, and other factors are refused.

mod adjust;
#[cfg(test)]
mod tests;

use kernels::conv::{ConvWeights, Prologue, SpacePad};
use kernels::conv3d::{Conv3dOptions, TimePad, conv3d};
use kernels::group_norm::{GroupNorm, group_norm};
use kernels::space_depth::{Write, depth_to_space};
use kernels::{Device, KernelError, Tensor};

use crate::convolution::Source;
use crate::weights::{Component, Config, WeightsError};

pub use adjust::{adain, tone_map};

/// The class that is supported.
const CLASS: &str = "LTX2LatentUpsamplerModel";
/// Groups of every norm.
const GROUPS: usize = 32;
/// Added to the variance in every norm.
const NORM_EPS: f32 = 1e-5;
/// Zeros on all sides.
const BORDERS: Conv3dOptions = Conv3dOptions {
    time: TimePad::Zero,
    space: SpacePad::Zero,
    prologue: Prologue::None,
};

/// The model `LTX2LatentUpsamplerModel`, on a device.
#[derive(Debug)]
pub struct Upsampler {
    device: Device,
    channels: usize,
    factor: usize,
    initial: NormedConv,
    before: Vec<ResBlock>,
    middle: ConvWeights,
    after: Vec<ResBlock>,
    last: ConvWeights,
}

/// What the config says.
struct Layout {
    channels: usize,
    width: usize,
    blocks: usize,
    factor: usize,
    middle: &'static str,
}

/// Reads the config; upsampling in time, two-dimensional blocks and broken factors are refused.
fn read(config: &Config) -> Result<Layout, WeightsError> {
    config.require("dims", 3)?;
    config.require("spatial_upsample", true)?;
    config.require("temporal_upsample", false)?;
    let rational = config.get("use_rational_resampler", true)?;
    let scale: f64 = config.get("rational_spatial_scale", 2.0)?;
    if rational && scale != 2.0 && scale != 4.0 {
        let reason = format!("{scale} is not supported, only 2 and 4");
        return Err(config.refuse("rational_spatial_scale", reason));
    }
    let width: usize = config.get("mid_channels", 1024)?;
    if width == 0 || !width.is_multiple_of(GROUPS) {
        let reason = format!("{width} is no multiple of {GROUPS}");
        return Err(config.refuse("mid_channels", reason));
    }
    Ok(Layout {
        channels: config.get("in_channels", 128)?,
        width,
        blocks: config.get("num_blocks_per_stage", 4)?,
        factor: if rational { scale as usize } else { 2 },
        middle: if rational {
            "upsampler.conv"
        } else {
            "upsampler.0"
        },
    })
}

/// Values of four bytes that loading an upsampler and running it over latents of this grid takes, with what it is given.
///
/// # Errors
/// [`WeightsError::Field`].
pub fn values(
    component: &Component,
    [frames, rows, columns]: [usize; 3],
) -> Result<usize, WeightsError> {
    let Layout {
        channels,
        width,
        blocks,
        factor,
        ..
    } = read(component.config())?;
    let plain = |by: usize| frames * rows * by * columns * by;
    let bordered = |by: usize| frames * (rows * by + 2) * (columns * by + 2);
    let (small, large, deep) = (plain(1), plain(factor), width * factor * factor);
    // A convolution's output, its norm, the residual, and what the convolution reads, with a border.
    let normed = |by| (3 * plain(by) + bordered(by)) * width;
    let middle = (small + bordered(1)) * width + small * deep;
    let shuffled = small * (width + deep) + large * width;
    let after = if blocks > 0 { normed(factor) } else { 0 };
    let last = (large + bordered(factor)) * width + large * channels;
    let kept = small * (channels + width + deep);
    let peak = normed(1)
        .max(middle)
        .max(shuffled)
        .max(kept + after.max(last));
    // While the largest tensor is repacked it is there twice.
    let loading = component.largest() as usize;
    Ok(component.value_count() as usize + loading.max(small * channels + peak))
}

/// Refuses an upsampler of other latents, or of another factor than two stages have.
///
/// # Errors
/// [`WeightsError::Field`], [`WeightsError::Class`].
pub fn check(component: &Component, channels: usize) -> Result<(), WeightsError> {
    component.expect_class(&[CLASS])?;
    let (config, layout) = (component.config(), read(component.config())?);
    if layout.channels != channels {
        let reason = format!("{}, but vae has {channels}", layout.channels);
        return Err(config.refuse("in_channels", reason));
    }
    if layout.factor != 2 {
        let reason = format!("{}, but two stages differ by 2", layout.factor);
        return Err(config.refuse("rational_spatial_scale", reason));
    }
    Ok(())
}

impl Upsampler {
    /// Reads the part `latent_upsampler`.
    ///
    /// # Errors
    /// A [`WeightsError`] that names the file and the field or tensor.
    pub fn load(component: &Component, device: &Device) -> Result<Self, WeightsError> {
        component.expect_class(&[CLASS])?;
        let layout = read(component.config())?;
        component.config().warn_unread();
        let source = Source { component, device };
        let (channels, width) = (layout.channels, layout.width);
        let blocks = |name: &str| -> Result<Vec<ResBlock>, WeightsError> {
            let load = |at| ResBlock::load(source, &format!("{name}.{at}"), width);
            (0..layout.blocks).map(load).collect()
        };
        let deep = width * layout.factor * layout.factor;
        let initial = ("initial_conv", "initial_norm");
        Ok(Self {
            device: device.clone(),
            channels,
            factor: layout.factor,
            initial: NormedConv::load(source, initial, channels, width)?,
            before: blocks("res_blocks")?,
            middle: source.conv(layout.middle, deep, width, &[3, 3])?,
            after: blocks("post_upsample_res_blocks")?,
            last: source.conv("final_conv", channels, width, &[3, 3, 3])?,
        })
    }

    /// Channels of a latent.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Upsamples latents F32 [1, f, h, w, channel] of the autoencoder's own scale.
    ///
    /// # Errors
    /// [`KernelError::Shape`] for another number of channels; [`KernelError::OutOfMemory`].
    pub fn forward(&self, latents: &Tensor) -> Result<Tensor, KernelError> {
        let device = &self.device;
        let mut x = self.initial.forward(device, latents, None)?;
        for block in &self.before {
            x = block.forward(device, x)?;
        }
        let deep = conv(device, &x, &self.middle)?;
        let [b, t, h, w, channels]: [usize; 5] = deep.expect_rank("upsampler", "x")?;
        let s = self.factor;
        let mut x = Tensor::activations(device, &[b, t, h * s, w * s, channels / (s * s)])?;
        depth_to_space(device, &deep, [1, s, s], Write::Set, &mut x)?;
        for block in &self.after {
            x = block.forward(device, x)?;
        }
        conv(device, &x, &self.last)
    }
}

fn conv(device: &Device, x: &Tensor, weights: &ConvWeights) -> Result<Tensor, KernelError> {
    let [b, t, h, w, _]: [usize; 5] = x.expect_rank("upsampler", "x")?;
    let mut out = Tensor::activations(device, &[b, t, h, w, weights.out_channels()])?;
    conv3d(device, x, weights, BORDERS, None, &mut out)?;
    Ok(out)
}

/// A convolution, the norm of its output and SiLU.
#[derive(Debug)]
struct NormedConv {
    conv: ConvWeights,
    weight: Tensor,
    bias: Tensor,
}

impl NormedConv {
    fn load(
        source: Source<'_>,
        (conv, norm): (&str, &str),
        in_channels: usize,
        out_channels: usize,
    ) -> Result<Self, WeightsError> {
        let affine = |name: &str| source.tensor(&format!("{norm}.{name}"), &[out_channels]);
        Ok(Self {
            conv: source.conv(conv, out_channels, in_channels, &[3, 3, 3])?,
            weight: affine("weight")?,
            bias: affine("bias")?,
        })
    }

    /// `silu(gn(conv(x)) + residual)`
    fn forward(
        &self,
        device: &Device,
        x: &Tensor,
        residual: Option<&Tensor>,
    ) -> Result<Tensor, KernelError> {
        let x = conv(device, x, &self.conv)?;
        let norm = GroupNorm {
            groups: GROUPS,
            eps: NORM_EPS,
            weight: &self.weight,
            bias: &self.bias,
            residual,
            silu: true,
        };
        let mut out = Tensor::activations(device, x.dims())?;
        group_norm(device, &x, norm, &mut out)?;
        Ok(out)
    }
}

/// Two normed convolutions around which the input is carried on.
#[derive(Debug)]
struct ResBlock {
    first: NormedConv,
    second: NormedConv,
}

impl ResBlock {
    fn load(source: Source<'_>, prefix: &str, width: usize) -> Result<Self, WeightsError> {
        let load = |number: u32| {
            let conv = format!("{prefix}.conv{number}");
            let norm = format!("{prefix}.norm{number}");
            NormedConv::load(source, (&conv, &norm), width, width)
        };
        Ok(Self {
            first: load(1)?,
            second: load(2)?,
        })
    }

    fn forward(&self, device: &Device, x: Tensor) -> Result<Tensor, KernelError> {
        let inner = self.first.forward(device, &x, None)?;
        self.second.forward(device, &inner, Some(&x))
    }
}
