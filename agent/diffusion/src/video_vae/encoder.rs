//! Frames to latents.

use kernels::conv::{ConvWeights, Prologue};
use kernels::patchify::patchify;
use kernels::space_depth::{Strides, Write, space_to_depth};
use kernels::{Device, KernelError, Tensor};

use crate::convolution::Source;
use crate::memory::{floats, of_host};
use crate::weights::{Component, WeightsError};

use super::config::{self, Block, COLOURS, Compression, Layout};
use super::resnet::{Borders, NORM_SILU, Resnet, load_conv};
use super::tiling::Tiling;
use super::{Statistics, five};

/// The encoder of `AutoencoderKLLTX2Video`, on a device.
#[derive(Debug)]
pub struct VideoEncoder {
    layout: Layout,
    statistics: Statistics,
    borders: Borders,
    conv_in: ConvWeights,
    blocks: Vec<DownBlock>,
    mid: Vec<Resnet>,
    conv_out: ConvWeights,
}

impl VideoEncoder {
    /// Peak of [`VideoEncoder::latents`] in bytes: what `encode` has alive, from the top down. Larger
    /// pictures are encoded in tiles and need no more than this.
    pub(crate) fn bytes(&self, [frames, height, width]: [usize; 3]) -> u64 {
        let (patch, borders) = (self.layout.patch, &self.borders);
        let pixels = frames * height * width * COLOURS;
        let mut at = Extent {
            frames,
            rows: height / patch,
            columns: width / patch,
        };
        // The bytes and their values on their way to the device, which are the processor's; the values there and
        // the patches. All stay until the end.
        let kept = of_host(&borders.device, pixels as u64 + floats(pixels)) + floats(pixels);
        let mut peak = at.convolving(borders, &self.conv_in, Prologue::None);
        for block in &self.blocks {
            peak = peak.max(block.values(borders, &mut at));
        }
        let mid = self.mid.first().map_or(0, |mid| at.resnet(borders, mid));
        let last = at.of(self.conv_out.in_channels());
        let last = last + at.convolving(borders, &self.conv_out, NORM_SILU);
        let activations = pixels + peak.max(mid).max(last);
        kept + activations as u64 * borders.device.activation_bytes()
    }

    /// Reads the encoder's half of the component.
    ///
    /// # Errors
    /// A [`WeightsError`] that names the file and the field or tensor.
    pub fn load(component: &Component, device: &Device) -> Result<Self, WeightsError> {
        component.expect_class(&["AutoencoderKLLTX2Video"])?;
        let layout = config::encoder(component.config())?;
        let scaling = component.config().get("scaling_factor", 1.0)?;
        let latent = layout.latent_channels;
        let source = Source { component, device };
        let last = layout.blocks[layout.blocks.len() - 1].out_channels;
        let pixels = COLOURS * layout.patch * layout.patch;
        let blocks = layout.blocks.iter().enumerate();
        Ok(Self {
            statistics: Statistics::load(component, device, latent, scaling)?,
            borders: Borders::new(device, layout.causal, layout.space),
            conv_in: load_conv(source, "encoder.conv_in", pixels, latent)?,
            blocks: blocks
                .map(|(i, block)| DownBlock::load(source, i, block))
                .collect::<Result<_, _>>()?,
            mid: Resnet::load_all(source, "encoder.mid_block", last, layout.mid_resnets)?,
            // The last channel is the logarithm of a variance that all channels share.
            conv_out: load_conv(source, "encoder.conv_out", last, latent + 1)?,
            layout,
        })
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

    /// Encodes RGB24 frames, `frames * height * width * 3` bytes, into the sampler's normalised
    /// latents [f*h*w, channel]: the means, no noise drawn. Pictures above 512 pixels are encoded in
    /// tiles.
    ///
    /// # Errors
    /// [`KernelError::Shape`] for frames other than one more than a multiple of the compression in
    /// time, or sizes that the compression in space does not divide.
    pub fn latents(
        &self,
        rgb: &[u8],
        [frames, height, width]: [usize; 3],
    ) -> Result<Vec<f32>, KernelError> {
        let pixels = rgb
            .iter()
            .map(|level| f32::from(*level) / 127.5 - 1.0)
            .collect();
        let dims = [1, frames, height, width, COLOURS];
        let pixels = Tensor::from_f32(&self.borders.device, &dims, pixels)?;
        let mean = self.encode_tiled(&pixels, Tiling::SPACE)?;
        Ok(self.statistics.normalise(&mean.values()?))
    }

    /// Encodes pixels F32 [1, frame, row, column, 3] in -1..=1 into the means of the latents F32
    /// [1, f, h, w, channel], of the autoencoder's own scale.
    ///
    /// # Errors
    /// As [`VideoEncoder::latents`].
    pub fn encode(&self, pixels: &Tensor) -> Result<Tensor, KernelError> {
        let ([b, t, h, w, _], patch) = (five(pixels)?, self.layout.patch);
        let (device, borders) = (&self.borders.device, &self.borders);
        let dims = [b, t, h / patch, w / patch, COLOURS * patch * patch];
        let mut patches = Tensor::activations(device, &dims)?;
        patchify(device, pixels, patch, &mut patches)?;
        let mut x = borders.conv(&patches, &self.conv_in, Prologue::None, None)?;
        for block in &self.blocks {
            x = block.forward(borders, x)?;
        }
        for resnet in &self.mid {
            x = resnet.forward(borders, x)?;
        }
        let moments = borders.conv(&x, &self.conv_out, NORM_SILU, None)?;
        let latent = self.layout.latent_channels;
        let values = moments.values()?;
        let rows = values.chunks_exact(latent + 1);
        let mean = rows.flat_map(|row| &row[..latent]).copied().collect();
        let [b, f, h, w, _] = five(&moments)?;
        Tensor::from_f32(device, &[b, f, h, w, latent], mean)
    }
}

#[derive(Debug)]
struct DownBlock {
    resnets: Vec<Resnet>,
    downsampler: Option<Downsampler>,
}

/// Frames, rows and columns of a tensor.
#[derive(Clone, Copy)]
struct Extent {
    frames: usize,
    rows: usize,
    columns: usize,
}

impl Extent {
    fn of(&self, channels: usize) -> usize {
        self.frames * self.rows * self.columns * channels
    }

    /// The copies that a convolution makes of its input, and its output.
    fn convolving(&self, borders: &Borders, weights: &ConvWeights, prologue: Prologue) -> usize {
        let images = (self.frames, [self.rows, self.columns]);
        borders.copies(weights, images, prologue) + self.of(weights.out_channels())
    }

    /// A resnet: what it got, the first convolution's output, and the second at work.
    fn resnet(&self, borders: &Borders, resnet: &Resnet) -> usize {
        let second = resnet.convolutions()[1];
        2 * self.of(resnet.channels()) + self.convolving(borders, second, NORM_SILU)
    }
}

impl DownBlock {
    /// Peak of the block; `at` is its output's extent afterwards.
    fn values(&self, borders: &Borders, at: &mut Extent) -> usize {
        let resnet = self.resnets.first();
        let resnets = resnet.map_or(0, |resnet| at.resnet(borders, resnet));
        let Some(down) = &self.downsampler else {
            return resnets;
        };
        let (given, flat) = (down.conv.in_channels(), down.conv.out_channels());
        let convolving = at.of(given) + at.convolving(borders, &down.conv, Prologue::None);
        let before = at.of(given) + at.of(flat);
        let [st, sh, sw] = down.strides;
        *at = Extent {
            frames: at.frames.div_ceil(st),
            rows: at.rows / sh,
            columns: at.columns / sw,
        };
        resnets
            .max(convolving)
            .max(before + at.of(down.out_channels))
    }

    fn load(source: Source<'_>, index: usize, block: &Block) -> Result<Self, WeightsError> {
        let prefix = format!("encoder.down_blocks.{index}");
        let downsampler = match block.strides {
            Some(strides) => Some(Downsampler::load(source, &prefix, block, strides)?),
            None => None,
        };
        let resnets = Resnet::load_all(source, &prefix, block.in_channels, block.resnets)?;
        Ok(Self {
            resnets,
            downsampler,
        })
    }

    fn forward(&self, borders: &Borders, mut x: Tensor) -> Result<Tensor, KernelError> {
        for resnet in &self.resnets {
            x = resnet.forward(borders, x)?;
        }
        match &self.downsampler {
            Some(downsampler) => downsampler.forward(borders, &x),
            None => Ok(x),
        }
    }
}

/// A convolution to fewer channels, into which frames, rows and columns are gathered, plus the
/// input gathered and averaged.
#[derive(Debug)]
struct Downsampler {
    conv: ConvWeights,
    strides: Strides,
    out_channels: usize,
}

impl Downsampler {
    fn load(
        source: Source<'_>,
        prefix: &str,
        block: &Block,
        strides: Strides,
    ) -> Result<Self, WeightsError> {
        let flat = block.out_channels / strides.iter().product::<usize>();
        let key = format!("{prefix}.downsamplers.0.conv");
        let conv = load_conv(source, &key, block.in_channels, flat)?;
        Ok(Self {
            conv,
            strides,
            out_channels: block.out_channels,
        })
    }

    /// The reference repeats the first frame before the convolution. A causal convolution pads with
    /// that very frame, so repeating its first output, as gathering does, is the same.
    fn forward(&self, borders: &Borders, x: &Tensor) -> Result<Tensor, KernelError> {
        let flat = borders.conv(x, &self.conv, Prologue::None, None)?;
        let ([b, t, h, w, _], [st, sh, sw]) = (five(&flat)?, self.strides);
        let dims = [b, t.div_ceil(st), h / sh, w / sw, self.out_channels];
        let mut out = Tensor::activations(&borders.device, &dims)?;
        space_to_depth(&borders.device, &flat, self.strides, Write::Set, &mut out)?;
        space_to_depth(&borders.device, x, self.strides, Write::Add, &mut out)?;
        Ok(out)
    }
}
