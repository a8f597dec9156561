//! The modules themselves: from the reference's layout to ours, through the module, and back.

use std::path::Path;

use kernels::{Device, KernelError, Tensor};

use super::input::Dim::{Any, Is};
use super::input::Input;
use super::{Module, TensorsError};
use crate::audio_vae::{AudioDecoder, AudioEncoder};
use crate::latent::Grid;
use crate::text::{Connectors, Gemma, Tokens};
use crate::transformer::{Context, Noise, Pass, Times, Transformer};
use crate::upsampler::Upsampler;
use crate::video_vae::{Tiles, Tiling, VideoDecoder, VideoEncoder};
use crate::vocoder::Vocoder;
use crate::weights::Component;

/// Named results of a module.
type Found = Vec<(&'static str, Tensor)>;

/// More than any latent frame, row or column there is.
const GRID_MAX: u32 = 1 << 16;

/// Runs a module of an opened part on the tensors of a file.
///
/// # Errors
/// [`TensorsError`] that names the tensor, what was expected and what was found.
pub fn run(
    module: Module,
    component: &Component,
    device: &Device,
    input: &Path,
) -> Result<Found, TensorsError> {
    let input = Input::open(input, device)?;
    match module.name {
        "text-encoder" => text_encoder(component, device, &input),
        "connectors" => connectors(component, device, &input),
        "transformer" => transformer(component, device, &input),
        "vae-encode" => vae_encode(component, device, &input),
        "vae-decode" => vae_decode(component, device, &input),
        "latent-upsampler" => latent_upsampler(component, device, &input),
        "audio-vae-encode" => audio_vae_encode(component, device, &input),
        "audio-vae-decode" => audio_vae_decode(component, device, &input),
        "vocoder" => vocoder(component, device, &input),
        other => unreachable!("`{other}` is in MODULES and has no arm"),
    }
}

fn text_encoder(
    component: &Component,
    device: &Device,
    input: &Input,
) -> Result<Found, TensorsError> {
    let gemma = Gemma::load(component, device)?;
    let largest = gemma.vocabulary() as u32 - 1;
    let ids = input.integers("ids", Any("T"), largest)?;
    let pads = input.pads(ids.len())?;
    let (tokens, hidden, layers) = (ids.len(), gemma.hidden(), gemma.states());
    let states = gemma.hidden_states(device, &Tokens { ids, pads })?;
    let values = states
        .iter()
        .map(Tensor::values)
        .collect::<Result<Vec<_>, _>>()?;
    let value = |at: usize| values[at % layers][at / layers];
    let values = (0..tokens * hidden * layers).map(value).collect();
    Ok(vec![(
        "states",
        Tensor::from_f32(device, &[tokens, hidden, layers], values)?,
    )])
}

fn connectors(
    component: &Component,
    device: &Device,
    input: &Input,
) -> Result<Found, TensorsError> {
    let connectors = Connectors::load(component, device)?;
    let (hidden, layers) = connectors.reads();
    let packed = input.floats("states", &[Any("T"), Is(hidden), Is(layers)])?;
    let tokens = packed.dims()[0];
    connectors.check(hidden, layers, tokens)?;
    let pads = input.pads(tokens)?;
    let packed_values = packed.values()?;
    let state = |layer: usize| {
        let values = packed_values.iter().skip(layer).step_by(layers).copied();
        Tensor::from_f32(device, &[tokens, hidden], values.collect())
    };
    let states = (0..layers).map(state).collect::<Result<Vec<_>, _>>()?;
    let (video, audio) = connectors.forward(device, &states, pads)?;
    Ok(vec![("video_text", video), ("audio_text", audio)])
}

fn transformer(
    component: &Component,
    device: &Device,
    input: &Input,
) -> Result<Found, TensorsError> {
    let transformer = Transformer::load(component, device)?;
    let config = transformer.config();
    let grid = input.integers("grid", Is(3), GRID_MAX)?;
    let [f, h, w] = [grid[0] as usize, grid[1] as usize, grid[2] as usize];
    if f * h * w == 0 {
        return Err(input.refuse("grid", format!("holds {grid:?}, expected no 0")));
    }
    let stills = match input.has("stills") {
        true => input.integers("stills", Any("K"), GRID_MAX)?,
        false => Vec::new(),
    };
    let tokens = (f + stills.len()) * h * w;
    let video = input.floats("video", &[Is(tokens), Is(config.video.in_channels)])?;
    let audio = input.floats("audio", &[Any("L"), Is(config.audio.in_channels)])?;
    let (video_width, audio_width) = match config.captions {
        Some(captions) => (captions, captions),
        None => (config.video.context, config.audio.context),
    };
    let video_text = input.floats("video_text", &[Any("T"), Is(video_width)])?;
    let text_tokens = video_text.row_count();
    let text = Context {
        audio: input.floats("audio_text", &[Is(text_tokens), Is(audio_width)])?,
        video: video_text,
        mask: None,
    };
    let sigmas = input.floats("sigmas", &[Is(2)])?;
    let sigmas = sigmas.values()?;
    let sigma = |stream: usize| Tensor::from_f32(device, &[1], vec![sigmas[stream]]);
    let noise = Noise {
        video: times(device, input, "video_times", video.row_count())?,
        audio: times(device, input, "audio_times", audio.row_count())?,
        video_sigma: sigma(0)?,
        audio_sigma: sigma(1)?,
    };
    let fps = input.floats("fps", &[Is(1)])?.values()?[0];
    if fps <= 0.0 {
        return Err(input.refuse("fps", format!("holds {fps}, expected more than 0")));
    }
    let grid = Grid {
        video: [f, h, w],
        audio: audio.row_count(),
        fps,
    };
    let positions = transformer.positions(&grid, &stills)?;
    let cuts = Cuts::read(input, config.layers, tokens)?;
    let context = transformer.context(device, &text)?;
    let step = transformer.step(device, &noise, config.cross_timestep())?;
    let latents = (&video, &audio);
    let found = transformer.velocity(device, latents, &context, &positions, &step, cuts.pass())?;
    Ok(vec![("video", found.video), ("audio", found.audio)])
}

/// What a pass of the transformer does without, and the tokens that are keyframes.
struct Cuts {
    perturbed: Vec<usize>,
    isolated: bool,
    keyframes: Option<Tensor>,
}

impl Cuts {
    fn read(input: &Input, layers: usize, tokens: usize) -> Result<Self, TensorsError> {
        let integers = |name, expected, max| match input.has(name) {
            true => input.integers(name, expected, max),
            false => Ok(Vec::new()),
        };
        let perturbed = integers("perturbed", Any("N"), layers as u32 - 1)?;
        let keyframes = match input.has("keyframes") {
            true => Some(input.floats("keyframes", &[Is(tokens)])?),
            false => None,
        };
        Ok(Self {
            perturbed: perturbed.into_iter().map(|block| block as usize).collect(),
            isolated: integers("isolated", Is(1), 1)? == [1],
            keyframes,
        })
    }

    fn pass(&self) -> Pass<'_> {
        Pass {
            perturbed_blocks: &self.perturbed,
            isolated: self.isolated,
            keyframes: self.keyframes.as_ref(),
        }
    }
}

/// Tiles of the tensor `tiling`, if there is one.
fn tiling(input: &Input) -> Result<Option<Tiling>, TensorsError> {
    if !input.has("tiling") {
        return Ok(None);
    }
    let sizes = input.integers("tiling", Is(4), GRID_MAX)?;
    let tiles = |size: u32, stride: u32| {
        (size > 0).then_some(Tiles {
            size: size as usize,
            stride: stride as usize,
        })
    };
    Ok(Some(Tiling {
        space: tiles(sizes[0], sizes[1]),
        time: tiles(sizes[2], sizes[3]),
    }))
}

fn latent_upsampler(
    component: &Component,
    device: &Device,
    input: &Input,
) -> Result<Found, TensorsError> {
    let upsampler = Upsampler::load(component, device)?;
    let dims = [
        Is(1),
        Is(upsampler.channels()),
        Any("f"),
        Any("h"),
        Any("w"),
    ];
    let latents = channels_last(device, &input.floats("latents", &dims)?)?;
    let found = upsampler.forward(&latents)?;
    Ok(vec![("latents", channels_first(device, &found)?)])
}

/// One timestep for all tokens, or one for each.
fn times(device: &Device, input: &Input, name: &str, tokens: usize) -> Result<Times, TensorsError> {
    match input.floats(name, &[Is(1)]) {
        Ok(one) => Ok(Times::shared(device, one.values()?[0])?),
        Err(TensorsError::Shape { .. }) => {
            let each = input.floats(name, &[Is(tokens)])?;
            Ok(Times::per_token(device, &each.values()?)?)
        }
        Err(other) => Err(other),
    }
}

fn vae_encode(
    component: &Component,
    device: &Device,
    input: &Input,
) -> Result<Found, TensorsError> {
    let encoder = VideoEncoder::load(component, device)?;
    let dims = [Is(1), Is(3), Any("frames"), Any("height"), Any("width")];
    let video = input.floats("video", &dims)?;
    let by = encoder.compression();
    let [_, _, frames, height, width] = sizes(&video)?;
    let fits = frames % by.time == 1 % by.time
        && height.is_multiple_of(by.space)
        && width.is_multiple_of(by.space);
    if !fits {
        let reason = format!(
            "{frames} frames of {height} by {width}, expected {}n + 1 frames and multiples of {}",
            by.time, by.space
        );
        return Err(input.refuse("video", reason));
    }
    let pixels = channels_last(device, &video)?;
    let latents = match tiling(input)? {
        Some(tiling) => encoder.encode_tiled(&pixels, tiling)?,
        None => encoder.encode(&pixels)?,
    };
    Ok(vec![("latents", channels_first(device, &latents)?)])
}

fn vae_decode(
    component: &Component,
    device: &Device,
    input: &Input,
) -> Result<Found, TensorsError> {
    let decoder = VideoDecoder::load(component, device)?;
    let channels = Is(decoder.latent_channels());
    let latents = input.floats("latents", &[Is(1), channels, Any("f"), Any("h"), Any("w")])?;
    let latents = channels_last(device, &latents)?;
    let pixels = match tiling(input)? {
        Some(tiling) => decoder.decode_tiled(&latents, tiling)?,
        None => decoder.decode(latents)?,
    };
    Ok(vec![("video", channels_first(device, &pixels)?)])
}

fn audio_vae_encode(
    component: &Component,
    device: &Device,
    input: &Input,
) -> Result<Found, TensorsError> {
    let encoder = AudioEncoder::load(component, device)?;
    let mel = spectrogram(input, encoder.spectrum())?;
    let latents = encoder.encode(&channels_last(device, &mel)?)?;
    Ok(vec![("latents", channels_first(device, &latents)?)])
}

fn audio_vae_decode(
    component: &Component,
    device: &Device,
    input: &Input,
) -> Result<Found, TensorsError> {
    let decoder = AudioDecoder::load(component, device)?;
    let (channels, bins) = decoder.latent();
    let latents = input.floats("latents", &[Is(1), Is(channels), Any("L"), Is(bins)])?;
    let mel = decoder.decode(&channels_last(device, &latents)?)?;
    Ok(vec![("mel", channels_first(device, &mel)?)])
}

fn vocoder(component: &Component, device: &Device, input: &Input) -> Result<Found, TensorsError> {
    let vocoder = Vocoder::load(component, device)?;
    let mel = spectrogram(input, vocoder.spectrum())?;
    let wave = vocoder.wave(&channels_last(device, &mel)?)?;
    Ok(vec![("wave", channels_first(device, &wave)?)])
}

fn spectrogram(input: &Input, (channels, bins): (usize, usize)) -> Result<Tensor, TensorsError> {
    input.floats("mel", &[Is(1), Is(channels), Any("rows"), Is(bins)])
}

fn sizes(x: &Tensor) -> Result<[usize; 5], KernelError> {
    x.expect_rank("tensors", "video")
}

/// [1, channel, …] to [1, …, channel].
fn channels_last(device: &Device, x: &Tensor) -> Result<Tensor, KernelError> {
    let channels = x.dims()[1];
    let positions = x.count() / channels;
    let values = x.values()?;
    let value = |at: usize| values[at % channels * positions + at / channels];
    let mut dims = x.dims().to_vec();
    dims[1..].rotate_left(1);
    Tensor::from_f32(device, &dims, (0..x.count()).map(value).collect())
}

/// [1, …, channel] to [1, channel, …].
fn channels_first(device: &Device, x: &Tensor) -> Result<Tensor, KernelError> {
    let channels = x.last_dim();
    let positions = x.count() / channels;
    let values = x.values()?;
    let value = |at: usize| values[at % positions * channels + at / positions];
    let mut dims = x.dims().to_vec();
    dims[1..].rotate_right(1);
    Tensor::from_f32(device, &dims, (0..x.count()).map(value).collect())
}
