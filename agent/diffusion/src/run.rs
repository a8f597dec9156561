//! One run over opened weights: encode, denoise, decode.

mod conditions;
mod finish;
mod stage;
#[cfg(test)]
mod tests;

use crate::checkpoint::{Checkpoint, Identity};
use crate::clip::{Sink, Slate};
use crate::error::DiffusionError;
use crate::latent::{Grid, Latents};
use crate::memory;
use crate::model::Weights;
use crate::progress::{Control, Generated, OnStep, Phase, Progress, Start};
use crate::recipe::Recipe;
use crate::sampler::Sampler;
pub(crate) use stage::{Stage, stages};

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

/// Where a run stands at the beginning of a stage.
#[derive(Clone, Copy)]
struct Turn {
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
    sink: &mut dyn Sink,
) -> Result<Generated, DiffusionError> {
    recipe.check(&weights.info)?;
    let run = Run::new(weights, recipe);
    if let Start::Resume(checkpoint) = &start {
        checkpoint.belongs_to(&run.identity)?;
    }
    let memory = memory::admit(weights, recipe, run.grid())?;
    weights.device.reserve(memory.run_bytes())?;
    let piece = memory.piece;
    let mut ends = Ends {
        on_step,
        sink,
        piece,
    };
    let made = weights.device.scope(|| run.generate(start, &mut ends));
    weights.device.trim();
    made
}

impl<'a> Run<'a> {
    fn new(weights: &'a Weights, recipe: &'a Recipe) -> Self {
        let stages = stages(weights, recipe);
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

    fn generate(&self, start: Start, ends: &mut Ends<'_, '_>) -> Result<Generated, DiffusionError> {
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
            let at = Turn {
                number,
                done,
                is_first: number == begin,
            };
            let (latents, reached, control) = self.stage(at, state, ends)?;
            if control == Control::Pause {
                return Ok(self.paused(reached, latents));
            }
            (state, done) = (State::Latents(latents), reached);
        }
        let State::Latents(latents) = state else {
            unreachable!("every stage leaves latents")
        };
        match self.decode(&latents, ends)? {
            Control::Continue => Ok(Generated::Finished),
            Control::Pause => Ok(self.paused(done, latents)),
        }
    }

    /// Runs one stage, and gives its latents, the steps done then and what the caller said last.
    fn stage(
        &self,
        at: Turn,
        state: State,
        ends: &mut Ends<'_, '_>,
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
                let base = recipe.renoise.and_then(|_| conditions.base());
                sampler.begin(noise, base.as_ref())
            }
        };
        if at.is_first && self.tell(ends, self.place(at.done), &latents) == Control::Pause {
            return Ok((latents, at.done, Control::Pause));
        }
        if at.number > 0 && at.done == stage.before {
            let small = &self.stages[at.number - 1].grid;
            let base = stage::upsample(weights, recipe, small, latents)?;
            latents = sampler.begin(stage.draw(&sampler, recipe.seed), Some(&base));
        }
        self.check_size(stage, &sampler, &latents)?;
        let mut after = |step: u32, latents: &Latents| {
            self.tell(ends, self.place(stage.before + step), latents)
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
        let (weights, recipe) = (self.weights, self.recipe);
        let mut place = self.place(self.steps());
        let samples = finish::samples(weights, recipe, self.grid(), latents)?;
        if ends.sink.open(&self.slate(latents), samples) == Control::Pause
            || self.tell(ends, place, latents) == Control::Pause
        {
            return Ok(Control::Pause);
        }
        let piece = ends.piece;
        let picture = recipe.width as usize * recipe.height as usize * 3;
        finish::pictures(weights, recipe, self.grid(), latents, piece, &mut |rgb| {
            place.pictures += (rgb.len() / picture) as u32;
            if ends.sink.pictures(rgb) == Control::Pause {
                return Control::Pause;
            }
            match place.pictures < recipe.frames {
                true => self.tell(ends, place, latents),
                false => Control::Continue,
            }
        })
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
}

fn digest(latents: &Latents) -> String {
    let mut hasher = blake3::Hasher::new();
    for value in latents.video.iter().chain(&latents.audio) {
        hasher.update(&value.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}
