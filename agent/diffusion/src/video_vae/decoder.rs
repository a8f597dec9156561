//! Latents to frames.
//!
//! The decoder is a row of layers that a clip flows through a few frames at a time: each layer hands
//! on what is ready, cut into pieces that the next may hold. Memory is that of the pieces and of
//! the two frames that each convolution keeps, whatever the length of the clip.

use kernels::conv::{ConvWeights, Prologue};
use kernels::patchify::unpatchify;
use kernels::space_depth::{Strides, Write, depth_to_space};
use kernels::to_frames::to_frames;
use kernels::{DType, Device, KernelError, Tensor};

use crate::convolution::Source;
use crate::progress::Control;
use crate::weights::{Component, WeightsError};

use super::config::{self, Block, COLOURS, Compression, Layout};
use super::resnet::{Borders, NORM_SILU, Resnet, ResnetState, load_conv};
use super::stream::{Delay, Frames, Seam, cut, frame_count};
use super::{Statistics, five};

/// The decoder of `AutoencoderKLLTX2Video`, on a device.
#[derive(Debug)]
pub struct VideoDecoder {
    pub(super) layout: Layout,
    pub(super) statistics: Statistics,
    borders: Borders,
    layers: Vec<Layer>,
}

/// Takes decoded frames; may end the work.
pub type OnFrames<'a> = dyn FnMut(Tensor) -> Result<Control, KernelError> + 'a;

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
        Ok(Self {
            statistics,
            borders: Borders::new(device, layout.causal, layout.space),
            layers: load_layers(source, &layout)?,
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

    pub(super) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// What lies around frames.
    pub(super) fn borders(&self) -> &Borders {
        &self.borders
    }

    /// Decodes the sampler's normalised latents, [f*h*w, channel] with tokens in (frame, row,
    /// column) order, and hands over RGB24 frames U8 [n, h*space, w*space, 3] in order, n from 1 on,
    /// (f-1)*time+1 in all. No layer is given more than `piece` values at once, but at least one
    /// frame: that changes memory and speed, and never a bit.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the latents are not of the grid; [`KernelError::OutOfMemory`]; what
    /// `on_frames` fails with.
    pub fn pictures(
        &self,
        latents: &[f32],
        [f, h, w]: [usize; 3],
        piece: usize,
        on_frames: &mut OnFrames<'_>,
    ) -> Result<Control, KernelError> {
        let device = &self.borders.device;
        let channels = self.layout.latent_channels;
        if latents.len() != f * h * w * channels {
            let expected = format!("{} values", f * h * w * channels);
            let found = format!("{} values", latents.len());
            return Err(KernelError::shape("video_vae", "latents", expected, found));
        }
        let latents = self.statistics.denormalise(latents);
        let latents = Tensor::from_f32(device, &[1, f, h, w, channels], latents)?;
        self.decode_pieces(latents, piece, &mut |pixels| {
            on_frames(to_levels(device, pixels)?)
        })
    }

    /// Decodes normalised latents whole into RGB24 frames U8 [(f-1)*time+1, h*space, w*space, 3].
    ///
    /// # Errors
    /// As [`VideoDecoder::pictures`].
    pub fn frames(&self, latents: &[f32], grid: [usize; 3]) -> Result<Tensor, KernelError> {
        let mut whole = None;
        self.pictures(latents, grid, usize::MAX, &mut |frames| {
            whole = Some(frames);
            Ok(Control::Continue)
        })?;
        whole.ok_or_else(|| KernelError::unsupported("video_vae", "a clip without frames"))
    }

    /// Decodes latents F32 [1, f, h, w, channel] of the autoencoder's own scale into pixels F32
    /// [1, frame, row, column, 3], about -1..=1.
    ///
    /// # Errors
    /// [`KernelError::Shape`] for other channels; [`KernelError::OutOfMemory`].
    pub fn decode(&self, latents: Tensor) -> Result<Tensor, KernelError> {
        let mut whole = None;
        self.decode_pieces(latents, usize::MAX, &mut |pixels| {
            whole = Some(pixels);
            Ok(Control::Continue)
        })?;
        whole.ok_or_else(|| KernelError::unsupported("video_vae", "a clip without frames"))
    }

    fn decode_pieces(
        &self,
        latents: Tensor,
        piece: usize,
        on_pixels: &mut OnFrames<'_>,
    ) -> Result<Control, KernelError> {
        let mut states: Vec<LayerState> =
            self.layers.iter().map(|_| LayerState::default()).collect();
        let mut flow = Flow {
            borders: &self.borders,
            patch: self.layout.patch,
            piece,
            on_pixels,
        };
        flow.run(&self.layers, &mut states, latents, true)
    }
}

/// A layer of the row.
#[derive(Debug)]
pub(super) enum Layer {
    /// The first and the last convolution.
    Conv(ConvWeights, Prologue),
    Resnet(Resnet),
    Up(Upsampler),
}

/// What a layer keeps of a clip's past; each layer uses its own part.
#[derive(Debug, Default)]
struct LayerState {
    seam: Seam,
    resnet: ResnetState,
    carried: Delay,
    has_begun: bool,
}

fn load_layers(source: Source<'_>, layout: &Layout) -> Result<Vec<Layer>, WeightsError> {
    let first = layout.blocks[0].in_channels;
    let last = layout.blocks[layout.blocks.len() - 1].out_channels;
    let pixels = COLOURS * layout.patch * layout.patch;
    let conv_in = load_conv(source, "decoder.conv_in", layout.latent_channels, first)?;
    let conv_out = load_conv(source, "decoder.conv_out", last, pixels)?;
    let mid = Resnet::load_all(source, "decoder.mid_block", first, layout.mid_resnets)?;
    let mut layers = vec![Layer::Conv(conv_in, Prologue::None)];
    layers.extend(mid.into_iter().map(Layer::Resnet));
    for (index, block) in layout.blocks.iter().enumerate() {
        let prefix = format!("decoder.up_blocks.{index}");
        if let Some(strides) = block.strides {
            layers.push(Layer::Up(Upsampler::load(source, &prefix, block, strides)?));
        }
        let resnets = Resnet::load_all(source, &prefix, block.out_channels, block.resnets)?;
        layers.extend(resnets.into_iter().map(Layer::Resnet));
    }
    layers.push(Layer::Conv(conv_out, NORM_SILU));
    Ok(layers)
}

/// A clip on its way through the layers.
struct Flow<'a, 'b> {
    borders: &'a Borders,
    patch: usize,
    /// Values of a layer's largest tensor at a time.
    piece: usize,
    on_pixels: &'a mut OnFrames<'b>,
}

impl Flow<'_, '_> {
    /// Lets the next frames through `layers`, piece by piece.
    fn run(
        &mut self,
        layers: &[Layer],
        states: &mut [LayerState],
        x: Tensor,
        are_last: bool,
    ) -> Result<Control, KernelError> {
        let (Some((layer, layers)), Some((state, states))) =
            (layers.split_first(), states.split_first_mut())
        else {
            return self.emit(x);
        };
        let count = frame_count(&x);
        let at_once = layer.frames_at_once(x.dims()[2] * x.dims()[3], self.piece);
        if count <= at_once {
            let y = layer.push(self.borders, state, x, are_last)?;
            return self.run(layers, states, y, are_last);
        }
        let mut done = 0;
        while done < count {
            let now = at_once.min(count - done);
            let piece = cut(&self.borders.device, &x, done, now)?;
            done += now;
            let are_last = are_last && done == count;
            let y = layer.push(self.borders, state, piece, are_last)?;
            if self.run(layers, states, y, are_last)? == Control::Pause {
                return Ok(Control::Pause);
            }
        }
        Ok(Control::Continue)
    }

    /// Channels to pixels.
    fn emit(&mut self, x: Tensor) -> Result<Control, KernelError> {
        let ([b, t, h, w, _], patch) = (five(&x)?, self.patch);
        if t == 0 {
            return Ok(Control::Continue);
        }
        let device = &self.borders.device;
        let mut pixels = Tensor::activations(device, &[b, t, h * patch, w * patch, COLOURS])?;
        unpatchify(device, &x, patch, &mut pixels)?;
        drop(x);
        (self.on_pixels)(pixels)
    }
}

impl Layer {
    /// Channels of the layer's largest tensor, at the size of its input.
    fn widest(&self) -> usize {
        let conv = |conv: &ConvWeights| conv.in_channels().max(conv.out_channels());
        match self {
            Self::Conv(weights, _) => conv(weights),
            Self::Resnet(resnet) => resnet.channels(),
            Self::Up(upsampler) => conv(&upsampler.conv),
        }
    }

    /// Frames of so many positions that the layer may be given at a time.
    pub fn frames_at_once(&self, positions: usize, piece: usize) -> usize {
        (piece / (positions * self.widest()).max(1)).max(1)
    }

    /// The next frames of a clip; gives those that are ready.
    fn push(
        &self,
        borders: &Borders,
        state: &mut LayerState,
        x: Tensor,
        are_last: bool,
    ) -> Result<Tensor, KernelError> {
        match self {
            Self::Resnet(resnet) => resnet.push(borders, &mut state.resnet, x, are_last),
            Self::Up(upsampler) => upsampler.push(borders, state, x, are_last),
            Self::Conv(weights, prologue) => {
                let frames = Frames { x: &x, are_last };
                state.seam.conv(borders, &frames, weights, *prologue, None)
            }
        }
    }
}

/// A convolution to more channels, which become frames, rows and columns.
#[derive(Debug)]
pub(super) struct Upsampler {
    pub conv: ConvWeights,
    pub strides: Strides,
    pub residual: bool,
}

impl Upsampler {
    fn load(
        source: Source<'_>,
        prefix: &str,
        block: &Block,
        strides: Strides,
    ) -> Result<Self, WeightsError> {
        let deep = block.out_channels * strides.iter().product::<usize>();
        let key = format!("{prefix}.upsamplers.0.conv");
        let conv = load_conv(source, &key, block.in_channels, deep)?;
        Ok(Self {
            conv,
            strides,
            residual: block.residual,
        })
    }

    /// The first frames of a clip come without those that stand for time before it.
    fn push(
        &self,
        borders: &Borders,
        state: &mut LayerState,
        x: Tensor,
        are_last: bool,
    ) -> Result<Tensor, KernelError> {
        let device = &borders.device;
        let frames = Frames { x: &x, are_last };
        let seam = &mut state.seam;
        let deep = seam.conv(borders, &frames, &self.conv, Prologue::None, None)?;
        if self.residual {
            state.carried.put(device, x)?;
        }
        let ([b, t, h, w, channels], [st, sh, sw]) = (five(&deep)?, self.strides);
        let dropped = if state.has_begun || t == 0 { 0 } else { st - 1 };
        let channels = channels / (st * sh * sw);
        let dims = [b, t * st - dropped, h * sh, w * sw, channels];
        let mut out = Tensor::activations(device, &dims)?;
        if t == 0 {
            return Ok(out);
        }
        state.has_begun = true;
        depth_to_space(device, &deep, self.strides, Write::Set, &mut out)?;
        if self.residual {
            let carried = state.carried.take(device, t)?;
            depth_to_space(device, &carried, self.strides, Write::Add, &mut out)?;
        }
        Ok(out)
    }
}

fn to_levels(device: &Device, pixels: Tensor) -> Result<Tensor, KernelError> {
    let [_, t, height, width, _] = five(&pixels)?;
    let pixels = pixels.reshaped(&[t, height, width, COLOURS])?;
    let mut frames = Tensor::zeros(device, DType::U8, pixels.dims())?;
    to_frames(device, &pixels, &mut frames)?;
    Ok(frames)
}
