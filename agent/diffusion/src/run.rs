//! One run over opened weights: encode, denoise, decode.

use kernels::Tensor;

use crate::checkpoint::{Checkpoint, Identity};
use crate::clip::Clip;
use crate::error::DiffusionError;
use crate::latent::{Grid, Latents};
use crate::memory;
use crate::model::Weights;
use crate::noise::{NoiseStream, normals};
use crate::progress::{Control, Generated, OnStep, Phase, Progress, Start};
use crate::recipe::Recipe;
use crate::sampler::{FirstFrame, Sampler};

/// What stays the same over a run.
struct Run<'a> {
    weights: &'a Weights,
    recipe: &'a Recipe,
    grid: Grid,
    sigmas: Vec<f32>,
    identity: Identity,
}

/// The run of `generate`, on the threads of the weights' device.
pub(crate) fn run(
    weights: &Weights,
    recipe: &Recipe,
    start: Start,
    on_step: &mut OnStep<'_>,
) -> Result<Generated, DiffusionError> {
    recipe.check(&weights.info)?;
    let run = Run::new(weights, recipe);
    if let Start::Resume(checkpoint) = &start {
        checkpoint.belongs_to(&run.identity)?;
    }
    memory::check(weights, recipe, &run.grid)?;
    weights.device.scope(|| run.generate(start, on_step))
}

impl<'a> Run<'a> {
    fn new(weights: &'a Weights, recipe: &'a Recipe) -> Self {
        let grid = Grid::of(recipe, &weights.compression);
        let sigmas = weights.sigmas(recipe, &grid);
        let bytes: Vec<u8> = sigmas
            .iter()
            .flat_map(|sigma| sigma.to_le_bytes())
            .collect();
        let identity = Identity {
            weights: weights.digest,
            recipe: recipe.digest(),
            sigmas: *blake3::hash(&bytes).as_bytes(),
            device_class: weights.device.class(),
        };
        Self {
            weights,
            recipe,
            grid,
            sigmas,
            identity,
        }
    }

    fn steps(&self) -> u32 {
        self.sigmas.len() as u32 - 1
    }

    fn generate(
        &self,
        start: Start,
        on_step: &mut OnStep<'_>,
    ) -> Result<Generated, DiffusionError> {
        let weights = self.weights;
        let guidance = weights
            .guidance
            .clone()
            .with_scale(self.recipe.guidance_scale);
        let context = weights.context(&self.recipe.prompt)?;
        let negative_prompt = match self.recipe.negative_prompt.as_str() {
            "" => weights.negative_prompt.as_str(),
            text => text,
        };
        let negative = match guidance.needs_negative() {
            true => Some(weights.context(negative_prompt)?),
            false => None,
        };
        let first_frame = self.first_frame()?;
        let sampler = Sampler {
            device: &weights.device,
            transformer: &weights.transformer,
            grid: self.grid,
            sigmas: &self.sigmas,
            guidance: &guidance,
            context: &context,
            negative: negative.as_deref(),
            first_frame: first_frame.as_ref(),
        };
        let (latents, first) = self.begin(&sampler, start)?;
        if self.tell(on_step, self.phase(first), first, &latents) == Control::Pause {
            return Ok(self.paused(first, latents));
        }
        let mut after =
            |step, latents: &Latents| self.tell(on_step, self.phase(step), step, latents);
        let (latents, done) = sampler.denoise(latents, first, &mut after)?;
        if done < self.steps() {
            return Ok(self.paused(done, latents));
        }
        self.decode(latents, on_step)
    }

    /// Latents to begin from, and the steps that they have behind them.
    fn begin(&self, sampler: &Sampler<'_>, start: Start) -> Result<(Latents, u32), DiffusionError> {
        let config = self.weights.transformer.config();
        let video = self.grid.video_tokens() * config.video.in_channels;
        let audio = self.grid.audio * config.audio.in_channels;
        let (latents, first) = match start {
            Start::Fresh => {
                let draw = |stream, count| normals(self.recipe.seed, stream, count);
                let (video, audio) = (
                    draw(NoiseStream::Video, video),
                    draw(NoiseStream::Audio, audio),
                );
                (sampler.begin(Latents { video, audio }), 0)
            }
            Start::Noise(noise) => (noise, 0),
            Start::Resume(checkpoint) => (checkpoint.latents, checkpoint.step),
        };
        if (latents.video.len(), latents.audio.len()) != (video, audio) || first > self.steps() {
            let found = (latents.video.len(), latents.audio.len());
            let reason = format!("{found:?} values, expected {:?}", (video, audio));
            return Err(DiffusionError::recipe("latents", reason));
        }
        Ok(match first {
            0 => (sampler.begin(latents), 0),
            _ => (latents, first),
        })
    }

    fn first_frame(&self) -> Result<Option<FirstFrame>, DiffusionError> {
        let Some(picture) = &self.recipe.first_frame else {
            return Ok(None);
        };
        let Some(encoder) = &self.weights.video_encoder else {
            return Err(DiffusionError::recipe(
                "first_frame",
                "these weights cannot encode pictures",
            ));
        };
        let dims = [1, picture.height as usize, picture.width as usize];
        Ok(Some(FirstFrame {
            latents: encoder.latents(&picture.rgb, dims)?,
        }))
    }

    fn phase(&self, step: u32) -> Phase {
        if step < self.steps() {
            Phase::Denoise
        } else {
            Phase::Decode
        }
    }

    fn checkpoint(&self, step: u32, latents: &Latents) -> Checkpoint {
        Checkpoint {
            identity: self.identity.clone(),
            seed: self.recipe.seed,
            step,
            steps: self.steps(),
            latents: latents.clone(),
        }
    }

    fn paused(&self, step: u32, latents: Latents) -> Generated {
        Generated::Paused(Box::new(self.checkpoint(step, &latents)))
    }

    fn tell(
        &self,
        on_step: &mut OnStep<'_>,
        phase: Phase,
        step: u32,
        latents: &Latents,
    ) -> Control {
        let save = || self.checkpoint(step, latents);
        on_step(&Progress {
            phase,
            step,
            steps: self.steps(),
            save: &save,
        })
    }

    /// Frames and samples of finished latents; between the two the caller may pause.
    fn decode(
        &self,
        latents: Latents,
        on_step: &mut OnStep<'_>,
    ) -> Result<Generated, DiffusionError> {
        let (weights, steps) = (self.weights, self.steps());
        let frames = weights
            .video_decoder
            .frames(&latents.video, self.grid.video)?;
        if self.tell(on_step, Phase::Decode, steps, &latents) == Control::Pause {
            return Ok(self.paused(steps, latents));
        }
        let mel = weights.audio_decoder.spectrogram(&latents.audio)?;
        let wave = weights.vocoder.wave(&mel)?;
        Ok(Generated::Finished(Box::new(Clip {
            width: self.recipe.width,
            height: self.recipe.height,
            fps: self.recipe.fps,
            frames: frames.u8s().to_vec(),
            sample_rate: weights.info.sample_rate,
            channels: weights.info.channels,
            samples: self.samples(&wave),
            latents_digest: digest(&latents),
        })))
    }

    /// The wave cut or padded with silence to the length of the pictures.
    fn samples(&self, wave: &Tensor) -> Vec<f32> {
        let seconds = f64::from(self.recipe.frames) / f64::from(self.recipe.fps);
        let count = (seconds * f64::from(self.weights.info.sample_rate)).round() as usize;
        let mut samples = wave.f32s().to_vec();
        samples.resize(count * usize::from(self.weights.info.channels), 0.0);
        samples
    }
}

fn digest(latents: &Latents) -> String {
    let mut hasher = blake3::Hasher::new();
    for stream in [&latents.video, &latents.audio] {
        let bytes: Vec<u8> = stream
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        hasher.update(&bytes);
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests;
