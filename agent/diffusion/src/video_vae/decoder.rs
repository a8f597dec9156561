//! Latents to frames.

use kernels::conv::{ConvWeights, Prologue};
use kernels::patchify::unpatchify;
use kernels::space_depth::{Strides, Write, depth_to_space};
use kernels::to_frames::to_frames;
use kernels::{DType, Device, KernelError, Tensor};

use crate::convolution::Source;
use crate::weights::{Component, WeightsError};

use super::config::{self, Block, COLOURS, Compression, Layout};
use super::resnet::{Borders, NORM_SILU, Resnet, load_conv};
use super::{Statistics, five};

/// The decoder of `AutoencoderKLLTX2Video`, on a device.
#[derive(Debug)]
pub struct VideoDecoder {
    layout: Layout,
    pub(super) statistics: Statistics,
    borders: Borders,
    conv_in: ConvWeights,
    mid: Vec<Resnet>,
    blocks: Vec<UpBlock>,
    conv_out: ConvWeights,
}

impl VideoDecoder {
    /// Reads the decoder's half of the component.
    ///
    /// # Errors
    /// A [`WeightsError`] that names the file and the field or tensor; `timestep_conditioning`,
    /// `decoder_inject_noise` and widths that change outside an upsampler are refused.
    pub fn load(component: &Component, device: &Device) -> Result<Self, WeightsError> {
        component.expect_class(&["AutoencoderKLLTX2Video"])?;
        let layout = config::decoder(component.config())?;
        let scaling = component.config().get("scaling_factor", 1.0)?;
        component.config().warn_unread();
        let statistics = Statistics::load(component, device, layout.latent_channels, scaling)?;
        let source = Source { component, device };
        let first = layout.blocks[0].in_channels;
        let last = layout.blocks[layout.blocks.len() - 1].out_channels;
        let pixels = COLOURS * layout.patch * layout.patch;
        let blocks = layout.blocks.iter().enumerate();
        Ok(Self {
            statistics,
            borders: Borders::new(device, layout.causal, layout.space),
            conv_in: load_conv(source, "decoder.conv_in", layout.latent_channels, first)?,
            mid: Resnet::load_all(source, "decoder.mid_block", first, layout.mid_resnets)?,
            blocks: blocks
                .map(|(i, block)| UpBlock::load(source, i, block))
                .collect::<Result<_, _>>()?,
            conv_out: load_conv(source, "decoder.conv_out", last, pixels)?,
            layout,
        })
    }

    /// Mean and deviation of the sampler's latents.
    pub(crate) fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Channels of a latent.
    pub fn latent_channels(&self) -> usize {
        self.layout.latent_channels
    }

    /// Where it runs.
    pub(super) fn device(&self) -> &Device {
        &self.borders.device
    }

    /// Frames and pixels that one latent covers.
    pub fn compression(&self) -> Compression {
        self.layout.compression
    }

    /// Decodes the sampler's normalised latents, [f*h*w, channel] with tokens in (frame, row,
    /// column) order, into RGB24 frames U8 [(f-1)*time+1, h*space, w*space, 3].
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the latents are not of the grid; [`KernelError::OutOfMemory`].
    pub fn frames(&self, latents: &[f32], [f, h, w]: [usize; 3]) -> Result<Tensor, KernelError> {
        let latents = self.statistics.denormalise(latents);
        let dims = [1, f, h, w, self.layout.latent_channels];
        let pixels = self.decode(Tensor::from_f32(&self.borders.device, &dims, latents)?)?;
        let [_, t, height, width, _] = five(&pixels)?;
        let pixels = pixels.reshaped(&[t, height, width, COLOURS])?;
        let mut frames = Tensor::zeros(&self.borders.device, DType::U8, pixels.dims())?;
        to_frames(&self.borders.device, &pixels, &mut frames)?;
        Ok(frames)
    }

    /// Decodes latents F32 [1, f, h, w, channel] of the autoencoder's own scale into pixels F32
    /// [1, frame, row, column, 3], about -1..=1.
    ///
    /// # Errors
    /// As [`VideoDecoder::frames`].
    pub fn decode(&self, latents: Tensor) -> Result<Tensor, KernelError> {
        let borders = &self.borders;
        let mut x = borders.conv(&latents, &self.conv_in, Prologue::None, None)?;
        for resnet in &self.mid {
            x = resnet.forward(borders, x)?;
        }
        for block in &self.blocks {
            x = block.forward(borders, x)?;
        }
        let x = borders.conv(&x, &self.conv_out, NORM_SILU, None)?;
        let ([b, t, h, w, _], patch) = (five(&x)?, self.layout.patch);
        let mut pixels =
            Tensor::zeros_f32(&borders.device, &[b, t, h * patch, w * patch, COLOURS])?;
        unpatchify(&borders.device, &x, patch, &mut pixels)?;
        Ok(pixels)
    }
}

#[derive(Debug)]
struct UpBlock {
    upsampler: Option<Upsampler>,
    resnets: Vec<Resnet>,
}

impl UpBlock {
    fn load(source: Source<'_>, index: usize, block: &Block) -> Result<Self, WeightsError> {
        let prefix = format!("decoder.up_blocks.{index}");
        let upsampler = match block.strides {
            Some(strides) => Some(Upsampler::load(source, &prefix, block, strides)?),
            None => None,
        };
        let resnets = Resnet::load_all(source, &prefix, block.out_channels, block.resnets)?;
        Ok(Self { upsampler, resnets })
    }

    fn forward(&self, borders: &Borders, mut x: Tensor) -> Result<Tensor, KernelError> {
        if let Some(upsampler) = &self.upsampler {
            x = upsampler.forward(borders, &x)?;
        }
        for resnet in &self.resnets {
            x = resnet.forward(borders, x)?;
        }
        Ok(x)
    }
}

/// A convolution to more channels, which become frames, rows and columns.
#[derive(Debug)]
struct Upsampler {
    conv: ConvWeights,
    strides: Strides,
    residual: bool,
}

impl Upsampler {
    fn load(
        source: Source<'_>,
        prefix: &str,
        block: &Block,
        strides: Strides,
    ) -> Result<Self, WeightsError> {
        let deep = block.out_channels * strides.iter().product::<usize>();
        let conv = load_conv(
            source,
            &format!("{prefix}.upsamplers.0.conv"),
            block.in_channels,
            deep,
        )?;
        Ok(Self {
            conv,
            strides,
            residual: block.residual,
        })
    }

    fn forward(&self, borders: &Borders, x: &Tensor) -> Result<Tensor, KernelError> {
        let deep = borders.conv(x, &self.conv, Prologue::None, None)?;
        let ([b, t, h, w, channels], [st, sh, sw]) = (five(&deep)?, self.strides);
        let dims = [
            b,
            t * st - (st - 1),
            h * sh,
            w * sw,
            channels / (st * sh * sw),
        ];
        let mut out = Tensor::zeros_f32(&borders.device, &dims)?;
        depth_to_space(&borders.device, &deep, self.strides, Write::Set, &mut out)?;
        if self.residual {
            depth_to_space(&borders.device, x, self.strides, Write::Add, &mut out)?;
        }
        Ok(out)
    }
}
