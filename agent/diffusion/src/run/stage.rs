//! The stages of a run: one at full size, or a small one that a second one refines.

use kernels::Tensor;

use super::conditions;
use crate::error::DiffusionError;
use crate::guidance::GuidancePlan;
use crate::latent::{Grid, Latents};
use crate::model::Weights;
use crate::noise::{NoiseStream, normals};
use crate::recipe::Recipe;
use crate::sampler::{Conditions, Sampler};
use crate::sigmas::REFINING;
use crate::transformer::{Context, Transformer};
use crate::upsampler;

/// How much smaller the pictures of the first of two stages are.
const SHRINK: usize = 2;

/// One stage: what its steps share.
pub(crate) struct Stage<'a> {
    pub grid: Grid,
    pub sigmas: Vec<f32>,
    pub guidance: GuidancePlan,
    /// Steps of the stages before.
    pub before: u32,
    /// Latent frames that video tokens see on either side; nothing: all.
    pub reach: Option<usize>,
    transformer: &'a Transformer,
    shrink: usize,
    noise: (NoiseStream, NoiseStream),
}

/// The text of a run for one transformer.
pub(crate) struct Texts {
    pub prompt: Context,
    pub negative: Option<Context>,
}

/// The stages of a recipe, in order.
pub(crate) fn stages<'a>(weights: &'a Weights, recipe: &Recipe) -> Vec<Stage<'a>> {
    let grid = Grid::of(recipe, &weights.compression);
    let shrink = if recipe.refine.is_some() { SHRINK } else { 1 };
    let small = grid.shrunk(shrink);
    let frame_s = weights.compression.video[0] as f32 / recipe.fps as f32;
    let reach = recipe
        .window_s
        .map(|seconds| (seconds / frame_s).ceil() as usize);
    let layers = weights.transformer.config().layers;
    let first = Stage {
        grid: small,
        sigmas: begun_at(weights.sigmas(recipe, &small), recipe.renoise),
        guidance: weights.guidance.clone().with(&recipe.guidance, layers),
        before: 0,
        reach,
        transformer: &weights.transformer,
        shrink,
        noise: (NoiseStream::Video, NoiseStream::Audio),
    };
    if recipe.refine.is_none() {
        return vec![first];
    }
    let second = Stage {
        grid,
        sigmas: REFINING.to_vec(),
        guidance: GuidancePlan::scales(1.0, 1.0),
        before: first.steps(),
        reach,
        transformer: weights.refiner.as_ref().unwrap_or(&weights.transformer),
        shrink: 1,
        noise: (NoiseStream::VideoRefining, NoiseStream::AudioRefining),
    };
    vec![first, second]
}

/// The levels below the one that a run begins from, and that one.
fn begun_at(sigmas: Vec<f32>, level: Option<f32>) -> Vec<f32> {
    let Some(level) = level else {
        return sigmas;
    };
    let below = sigmas.into_iter().filter(|sigma| *sigma < level);
    [level].into_iter().chain(below).collect()
}

impl Stage<'_> {
    pub fn steps(&self) -> u32 {
        self.sigmas.len() as u32 - 1
    }

    /// Steps done when the stage ends.
    pub fn end(&self) -> u32 {
        self.before + self.steps()
    }

    /// What the recipe gives, as this stage holds it.
    pub fn conditions(
        &self,
        weights: &Weights,
        recipe: &Recipe,
    ) -> Result<Conditions, DiffusionError> {
        conditions::encode(weights, recipe, &self.grid, self.shrink)
    }

    /// The prompt, and the negative one where the guidance needs it.
    pub fn texts(&self, weights: &Weights, recipe: &Recipe) -> Result<Texts, DiffusionError> {
        let negative = match recipe.negative_prompt.as_str() {
            "" => weights.negative_prompt.as_str(),
            text => text,
        };
        let context = |prompt: &str| -> Result<Context, DiffusionError> {
            let text = weights.context(prompt)?;
            Ok(self.transformer.context(&weights.device, &text)?)
        };
        let needed = self.guidance.needs_negative();
        Ok(Texts {
            prompt: context(&recipe.prompt)?,
            negative: needed.then(|| context(negative)).transpose()?,
        })
    }

    pub fn sampler<'b>(
        &'b self,
        weights: &'b Weights,
        texts: &'b Texts,
        conditions: &'b Conditions,
    ) -> Sampler<'b> {
        Sampler {
            device: &weights.device,
            transformer: self.transformer,
            grid: self.grid,
            sigmas: &self.sigmas,
            guidance: &self.guidance,
            context: &texts.prompt,
            negative: texts.negative.as_ref(),
            conditions,
            reach: self.reach,
        }
    }

    /// Values of the latents of both streams.
    pub fn values(&self, sampler: &Sampler<'_>) -> (usize, usize) {
        let (config, tokens) = (self.transformer.config(), sampler.tokens());
        (
            tokens.0 * config.video.in_channels,
            tokens.1 * config.audio.in_channels,
        )
    }

    /// The recipe's noise for this stage.
    pub fn draw(&self, sampler: &Sampler<'_>, seed: u64) -> Latents {
        let (video, audio) = self.values(sampler);
        Latents {
            video: normals(seed, self.noise.0, video),
            audio: normals(seed, self.noise.1, audio),
        }
    }
}

/// The first stage's latents at the second one's size; those of appended stills are left behind.
pub(super) fn upsample(
    weights: &Weights,
    recipe: &Recipe,
    small: &Grid,
    latents: Latents,
) -> Result<Latents, DiffusionError> {
    let upsampler = weights.upsampler()?;
    let refine = recipe.refine.unwrap_or_default();
    let (device, channels) = (&weights.device, upsampler.channels());
    let values = &latents.video[..small.video_tokens() * channels];
    let [f, h, w] = small.video;
    let statistics = weights.video_decoder.statistics();
    let base = statistics.denormalise(values);
    let base = Tensor::from_f32(device, &[1, f, h, w, channels], base)?;
    let mut large = upsampler.forward(&base)?;
    if refine.adain > 0.0 {
        large = upsampler::adain(device, &large, &base, refine.adain)?;
    }
    if refine.tone_map > 0.0 {
        large = upsampler::tone_map(device, &large, refine.tone_map)?;
    }
    Ok(Latents {
        video: statistics.normalise(&large.values()?),
        audio: latents.audio,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_begins_from_a_film_takes_the_levels_below_its_own() {
        let sigmas = vec![1.0, 0.75, 0.5, 0.25, 0.0];
        assert_eq!(begun_at(sigmas.clone(), None), sigmas);
        assert_eq!(begun_at(sigmas.clone(), Some(0.6)), [0.6, 0.5, 0.25, 0.0]);
        assert_eq!(begun_at(sigmas.clone(), Some(0.5)), [0.5, 0.25, 0.0]);
        assert_eq!(begun_at(sigmas, Some(0.1)), [0.1, 0.0]);
    }
}
