//! The engine: a [`Recipe`] and [`Weights`] in, a clip out, piece by piece into a [`Sink`].
//!
//! `generate` is the whole of it: the prompt becomes tokens, hidden states and a text context; the
//! sampler turns noise into latents step by step; the decoders turn latents into samples and then,
//! window by window, into frames. No network, no clock, no database and no FFmpeg in here.

pub mod audio_vae;
pub mod checkpoint;
pub mod clip;
pub mod error;
pub mod given;
pub mod guidance;
pub mod info;
pub mod latent;
pub mod memory;
pub mod plan;
pub mod progress;
pub mod recipe;
pub mod sigmas;
pub mod tensors;
pub mod video_vae;
pub mod vocoder;
pub mod weights;

mod convolution;
#[cfg(test)]
mod golden;
mod layers;
mod levels;
mod model;
mod noise;
mod run;
mod sampler;
mod text;
mod transformer;
mod upsampler;

pub use checkpoint::{Checkpoint, CheckpointError};
pub use clip::{Clip, Sink, Slate};
pub use error::DiffusionError;
pub use given::{Given, GivenFilm, GivenSound, Span, Still, Wave};
pub use guidance::GuidanceChanges;
pub use info::{ModelInfo, Size, SoundFormat};
pub use latent::Latents;
pub use memory::Memory;
pub use model::Weights;
pub use plan::Plan;
pub use progress::{Control, Generated, OnStep, Phase, Progress, Start};
pub use recipe::{Picture, Recipe, Refine};
pub use sigmas::Shift;

/// Makes the clip of `recipe` and hands it to `sink` as it is decoded, or pauses when `on_step` or
/// the sink says so.
///
/// The same weights, recipe and class of device give the same bits, whatever the number of threads
/// and however often the run was paused and resumed.
///
/// # Errors
/// [`DiffusionError`]; `Checkpoint` when `start` holds one of other weights or another recipe.
pub fn generate(
    weights: &Weights,
    recipe: &Recipe,
    start: Start,
    on_step: &mut OnStep<'_>,
    sink: &mut dyn Sink,
) -> Result<Generated, DiffusionError> {
    run::run(weights, recipe, start, on_step, sink)
}
