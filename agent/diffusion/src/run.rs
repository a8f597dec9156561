//! One run over opened weights: encode, denoise, decode.

mod conditions;
mod finish;
mod stage;
#[cfg(test)]
mod tests;

use crate::checkpoint::{Checkpoint, Identity};
use crate::clip::Clip;
use crate::error::DiffusionError;
use crate::latent::{Grid, Latents};
use crate::memory;
use crate::model::Weights;
use crate::progress::{Control, Generated, OnStep, Phase, Progress, Start};
use crate::recipe::Recipe;
use crate::sampler::Sampler;
use stage::Stage;

/// What stays the same over a run.
struct Run<'a> {
    weights: &'a Weights,
    recipe: &'a Recipe,
    stages: Vec<Stage<'a>>,
    identity: Identity,
}

/// What a stage begins with.
enum State {
    /// Noise: the recipe's own, or given.
    Noise(Option<Latents>),
    /// Latents of an earlier step, or of the stage before.
    Latents(Latents),
}

/// Where a run stands at the beginning of a stage.
#[derive(Clone, Copy)]
struct Place {
    number: usize,
    /// Steps done.
    done: u32,
    /// No stage ran before in this run.
    is_first: bool,
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
    memory::check(weights, recipe, run.grid())?;
    weights.device.scope(|| run.generate(start, on_step))
}

impl<'a> Run<'a> {
    fn new(weights: &'a Weights, recipe: &'a Recipe) -> Self {
        let stages = stage::stages(weights, recipe);
        let sigmas = stages.iter().flat_map(|stage| &stage.sigmas);
        let bytes: Vec<u8> = sigmas.flat_map(|sigma| sigma.to_le_bytes()).collect();
        let identity = Identity {
            weights: weights.digest,
            recipe: recipe.digest(),
            sigmas: *blake3::hash(&bytes).as_bytes(),
            device_class: weights.device.class(),
        };
        Self {
            weights,
            recipe,
            stages,
            identity,
        }
    }

    fn steps(&self) -> u32 {
        self.stages.iter().map(Stage::steps).sum()
    }

    /// Tokens of the finished clip.
    fn grid(&self) -> &Grid {
        let last = self.stages.last();
        &last.expect("every recipe has a stage").grid
    }

    fn generate(
        &self,
        start: Start,
        on_step: &mut OnStep<'_>,
    ) -> Result<Generated, DiffusionError> {
        let (mut state, mut done) = match start {
            Start::Fresh => (State::Noise(None), 0),
            Start::Noise(noise) => (State::Noise(Some(noise)), 0),
            Start::Resume(checkpoint) => (State::Latents(checkpoint.latents), checkpoint.step),
        };
        // At the seam of two stages a checkpoint holds the latents of the first.
        let is_open = |stage: &&Stage<'_>| done < stage.end();
        let open = self.stages.iter().filter(is_open).count().max(1);
        let begin = self.stages.len() - open;
        for number in begin..self.stages.len() {
            let at = Place {
                number,
                done,
                is_first: number == begin,
            };
            let (latents, reached, control) = self.stage(at, state, on_step)?;
            if control == Control::Pause {
                return Ok(self.paused(reached, latents));
            }
            (state, done) = (State::Latents(latents), reached);
        }
        let State::Latents(latents) = state else {
            unreachable!("every stage leaves latents")
        };
        self.decode(latents, on_step)
    }

    /// Runs one stage, and gives its latents, the steps done then and what the caller said last.
    fn stage(
        &self,
        at: Place,
        state: State,
        on_step: &mut OnStep<'_>,
    ) -> Result<(Latents, u32, Control), DiffusionError> {
        let (weights, recipe, stage) = (self.weights, self.recipe, &self.stages[at.number]);
        let texts = stage.texts(weights, recipe)?;
        let conditions = stage.conditions(weights, recipe)?;
        let sampler = stage.sampler(weights, &texts, &conditions);
        let mut latents = match state {
            State::Latents(latents) => latents,
            State::Noise(noise) => {
                let noise = noise.unwrap_or_else(|| stage.draw(&sampler, recipe.seed));
                self.check_size(stage, &sampler, &noise)?;
                sampler.begin(noise, None)
            }
        };
        if at.is_first
            && self.tell(on_step, self.phase(at.done), at.done, &latents) == Control::Pause
        {
            return Ok((latents, at.done, Control::Pause));
        }
        if at.number > 0 && at.done == stage.before {
            let small = &self.stages[at.number - 1].grid;
            let base = stage::upsample(weights, recipe, small, latents)?;
            latents = sampler.begin(stage.draw(&sampler, recipe.seed), Some(&base));
        }
        self.check_size(stage, &sampler, &latents)?;
        let mut after = |step: u32, latents: &Latents| {
            let step = stage.before + step;
            self.tell(on_step, self.phase(step), step, latents)
        };
        let (latents, ran, said) = sampler.denoise(latents, at.done - stage.before, &mut after)?;
        Ok((latents, stage.before + ran, said))
    }

    fn check_size(
        &self,
        stage: &Stage<'_>,
        sampler: &Sampler<'_>,
        latents: &Latents,
    ) -> Result<(), DiffusionError> {
        let (found, expected) = (
            (latents.video.len(), latents.audio.len()),
            stage.values(sampler),
        );
        if found == expected {
            return Ok(());
        }
        let reason = format!("{found:?} values, expected {expected:?}");
        Err(DiffusionError::recipe("latents", reason))
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
        let (weights, recipe, steps) = (self.weights, self.recipe, self.steps());
        let frames = finish::frames(weights, recipe, self.grid(), &latents)?;
        if self.tell(on_step, Phase::Decode, steps, &latents) == Control::Pause {
            return Ok(self.paused(steps, latents));
        }
        Ok(Generated::Finished(Box::new(Clip {
            width: recipe.width,
            height: recipe.height,
            fps: recipe.fps,
            frames,
            sample_rate: weights.info.sample_rate,
            channels: weights.info.channels,
            samples: finish::samples(weights, recipe, self.grid(), &latents)?,
            latents_digest: digest(&latents),
        })))
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
