//! One run over opened weights: encode, denoise, decode.

use kernels::Tensor;

use crate::checkpoint::{Checkpoint, Identity};
use crate::clip::{Sink, Slate};
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

/// Where the run meets its caller.
struct Ends<'a, 'b> {
    on_step: &'a mut OnStep<'b>,
    sink: &'a mut dyn Sink,
    /// Values that a layer of the picture decoder is given at a time.
    piece: usize,
}

/// How far a run is.
#[derive(Clone, Copy)]
struct Place {
    phase: Phase,
    step: u32,
    pictures: u32,
}

/// The run of `generate`, on the threads of the weights' device.
pub(crate) fn run(
    weights: &Weights,
    recipe: &Recipe,
    start: Start,
    on_step: &mut OnStep<'_>,
    sink: &mut dyn Sink,
) -> Result<Generated, DiffusionError> {
    recipe.check(&weights.info)?;
    let run = Run::new(weights, recipe);
    if let Start::Resume(checkpoint) = &start {
        checkpoint.belongs_to(&run.identity)?;
    }
    let piece = memory::admit(weights, recipe, &run.grid)?.piece;
    let mut ends = Ends {
        on_step,
        sink,
        piece,
    };
    weights.device.scope(|| run.generate(start, &mut ends))
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

    fn generate(&self, start: Start, ends: &mut Ends<'_, '_>) -> Result<Generated, DiffusionError> {
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
        let mut after = |step, latents: &Latents| self.tell(ends, self.place(step), latents);
        if after(first, &latents) == Control::Pause {
            return Ok(self.paused(first, latents));
        }
        let (latents, done) = sampler.denoise(latents, first, &mut after)?;
        if done < self.steps() {
            return Ok(self.paused(done, latents));
        }
        match self.decode(&latents, ends)? {
            Control::Continue => Ok(Generated::Finished),
            Control::Pause => Ok(self.paused(done, latents)),
        }
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

    /// The place after some denoising steps.
    fn place(&self, step: u32) -> Place {
        let phase = if step < self.steps() {
            Phase::Denoise
        } else {
            Phase::Decode
        };
        Place {
            phase,
            step,
            pictures: 0,
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

    fn tell(&self, ends: &mut Ends<'_, '_>, place: Place, latents: &Latents) -> Control {
        let save = || self.checkpoint(place.step, latents);
        (ends.on_step)(&Progress {
            phase: place.phase,
            step: place.step,
            steps: self.steps(),
            pictures: place.pictures,
            pictures_total: self.recipe.frames,
            save: &save,
        })
    }

    /// Samples and frames of finished latents, into the sink.
    fn decode(
        &self,
        latents: &Latents,
        ends: &mut Ends<'_, '_>,
    ) -> Result<Control, DiffusionError> {
        let mut place = self.place(self.steps());
        if ends.sink.open(&self.slate(latents), self.sound(latents)?) == Control::Pause
            || self.tell(ends, place, latents) == Control::Pause
        {
            return Ok(Control::Pause);
        }
        let (decoder, piece) = (&self.weights.video_decoder, ends.piece);
        let control = decoder.pictures(&latents.video, self.grid.video, piece, &mut |frames| {
            place.pictures += frames.dims()[0] as u32;
            if ends.sink.pictures(frames.u8s()) == Control::Pause {
                return Ok(Control::Pause);
            }
            Ok(match place.pictures < self.recipe.frames {
                true => self.tell(ends, place, latents),
                false => Control::Continue,
            })
        })?;
        Ok(control)
    }

    fn slate(&self, latents: &Latents) -> Slate {
        Slate {
            width: self.recipe.width,
            height: self.recipe.height,
            fps: self.recipe.fps,
            frames: self.recipe.frames,
            sample_rate: self.weights.info.sample_rate,
            channels: self.weights.info.channels,
            latents_digest: digest(latents),
        }
    }

    fn sound(&self, latents: &Latents) -> Result<Vec<f32>, DiffusionError> {
        let mel = self.weights.audio_decoder.spectrogram(&latents.audio)?;
        let wave = self.weights.vocoder.wave(&mel)?;
        Ok(self.samples(&wave))
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
    for value in latents.video.iter().chain(&latents.audio) {
        hasher.update(&value.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests;
