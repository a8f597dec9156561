//! The denoising loop: from noise to latents, one noise level after the other.

use kernels::sampling::{self, Passes, Sigmas, count_nonfinite, guidance_step};
use kernels::{Device, KernelError, Repeat, Tensor};

use crate::error::DiffusionError;
use crate::guidance::GuidancePlan;
use crate::latent::{Grid, Latents};
use crate::levels::Levels;
use crate::progress::Control;
use crate::transformer::{Context, Pass, Positions, Step, Transformer, Velocity};

/// Tokens of one stream that are given.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// How firmly each token is kept [N]: 0 is free, 1 never changes.
    pub strength: Vec<f32>,
    /// Normalised latents [N, C]; any value where a token is free.
    pub clean: Vec<f32>,
}

impl Held {
    /// True when no token of the stream is made.
    pub fn is_whole(&self) -> bool {
        self.strength.iter().all(|strength| *strength == 1.0)
    }
}

/// Everything that is given in one stage.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Conditions {
    /// Video tokens, those of the stills behind those of the grid.
    pub video: Option<Held>,
    /// Audio tokens.
    pub audio: Option<Held>,
    /// Frames of pictures that are appended to the video tokens.
    pub stills: Vec<u32>,
}

impl Conditions {
    /// Latents of a film and a sound that are both given, also where they are not held.
    pub fn base(&self) -> Option<Latents> {
        let (video, audio) = (self.video.as_ref()?, self.audio.as_ref()?);
        Some(Latents {
            video: video.clean.clone(),
            audio: audio.clean.clone(),
        })
    }
}

/// Latents on the device.
#[derive(Debug)]
struct State {
    video: Tensor,
    audio: Tensor,
}

/// One run of the sampler.
pub struct Sampler<'a> {
    /// Where it runs.
    pub device: &'a Device,
    /// The model.
    pub transformer: &'a Transformer,
    /// The clip's tokens.
    pub grid: Grid,
    /// Noise levels, falling to 0.
    pub sigmas: &'a [f32],
    /// Passes and their weights.
    pub guidance: &'a GuidancePlan,
    /// Text of the prompt.
    pub context: &'a Context,
    /// Text of the negative prompt; needed when the plan has that pass.
    pub negative: Option<&'a Context>,
    /// What is given.
    pub conditions: &'a Conditions,
    /// Latent frames that video tokens see on either side; nothing: all.
    pub reach: Option<usize>,
}

/// The held tokens of one stream on the device.
struct HeldTokens {
    strength: Tensor,
    clean: Tensor,
}

impl HeldTokens {
    fn upload(
        device: &Device,
        held: Option<&Held>,
        channels: usize,
    ) -> Result<Option<Self>, KernelError> {
        let Some(Held { strength, clean }) = held else {
            return Ok(None);
        };
        let tokens = strength.len();
        Ok(Some(Self {
            strength: Tensor::from_f32(device, &[tokens], strength.clone())?,
            clean: Tensor::from_f32(device, &[tokens, channels], clean.clone())?,
        }))
    }

    fn view(&self) -> sampling::Held<'_> {
        sampling::Held {
            strength: &self.strength,
            clean: &self.clean,
        }
    }
}

/// Velocities of all passes of one step; the optional ones where the plan asks for them.
struct StepVelocities {
    conditional: Velocity,
    negative: Option<Velocity>,
    perturbed: Option<Velocity>,
    isolated: Option<Velocity>,
}

impl StepVelocities {
    /// The passes of one stream.
    fn passes(&self, stream: fn(&Velocity) -> &Tensor) -> Passes<'_> {
        Passes {
            conditional: stream(&self.conditional),
            negative: self.negative.as_ref().map(stream),
            perturbed: self.perturbed.as_ref().map(stream),
            isolated: self.isolated.as_ref().map(stream),
        }
    }
}

impl Sampler<'_> {
    /// Runs from step `first` on, calling `on_step(steps done, latents)` after each. Gives the latents,
    /// the number of steps done, and whether `on_step` paused after the last of them.
    ///
    /// # Errors
    /// [`DiffusionError::Numeric`] when latents stop being finite, [`DiffusionError::Kernel`].
    pub fn denoise(
        &self,
        start: Latents,
        first: u32,
        on_step: &mut dyn FnMut(u32, &Latents) -> Control,
    ) -> Result<(Latents, u32, Control), DiffusionError> {
        let positions = self.positions()?;
        let (video, audio) = self.channels();
        let conditions = self.conditions;
        let held = (
            HeldTokens::upload(self.device, conditions.video.as_ref(), video)?,
            HeldTokens::upload(self.device, conditions.audio.as_ref(), audio)?,
        );
        let mut state = self.upload(start)?;
        let mut latents = state.download()?;
        let steps = self.sigmas.len() as u32 - 1;
        let mut levels = Levels::upload(self)?;
        let mut repeat = Repeat::new(self.device);
        for step in first..steps {
            levels.set(self, step as usize)?;
            repeat.run(|device| self.step(device, &mut state, &positions, &levels, &held))?;
            self.check_finite(&state, step + 1)?;
            latents = state.download()?;
            if on_step(step + 1, &latents) == Control::Pause {
                return Ok((latents, step + 1, Control::Pause));
            }
        }
        Ok((latents, steps, Control::Continue))
    }

    fn positions(&self) -> Result<Positions, KernelError> {
        let (transformer, stills) = (self.transformer, &self.conditions.stills);
        let window = |reach| transformer.window(self.device, &self.grid, stills.len(), reach);
        Ok(Positions {
            window: self.reach.map(window).transpose()?,
            ..transformer.positions(&self.grid, stills)?
        })
    }

    /// What the sampler starts from: `noise` mixed with `base` (nothing stands for zeros) at the
    /// first noise level, and held tokens with what is given: at strength 1 they are just that.
    pub fn begin(&self, noise: Latents, base: Option<&Latents>) -> Latents {
        let (video, audio) = self.channels();
        let level = self.sigmas[0];
        let start = |noise, base: Option<&Vec<f32>>, held, channels| {
            mixed(noise, base.map(Vec::as_slice), held, channels, level)
        };
        let Conditions {
            video: held_video,
            audio: held_audio,
            ..
        } = self.conditions;
        Latents {
            video: start(
                noise.video,
                base.map(|base| &base.video),
                held_video.as_ref(),
                video,
            ),
            audio: start(
                noise.audio,
                base.map(|base| &base.audio),
                held_audio.as_ref(),
                audio,
            ),
        }
    }

    /// Tokens of both streams, stills included.
    pub fn tokens(&self) -> (usize, usize) {
        let stills = self.conditions.stills.len() * self.grid.frame_tokens();
        (self.grid.video_tokens() + stills, self.grid.audio)
    }

    fn channels(&self) -> (usize, usize) {
        let config = self.transformer.config();
        (config.video.in_channels, config.audio.in_channels)
    }

    fn upload(&self, latents: Latents) -> Result<State, KernelError> {
        let ((video, audio), channels) = (self.tokens(), self.channels());
        Ok(State {
            video: Tensor::from_f32(self.device, &[video, channels.0], latents.video)?,
            audio: Tensor::from_f32(self.device, &[audio, channels.1], latents.audio)?,
        })
    }

    /// One step on the device that is given: its velocities and what they do to the latents. What differs from
    /// step to step is in `levels` alone, so that a card can run a record of it.
    fn step(
        &self,
        device: &Device,
        state: &mut State,
        positions: &Positions,
        levels: &Levels,
        held: &(Option<HeldTokens>, Option<HeldTokens>),
    ) -> Result<(), KernelError> {
        let cross = self.transformer.config().cross_timestep();
        let rows = self.transformer.step(device, &levels.noise, cross)?;
        let found = self.velocities(device, state, positions, &rows)?;
        let guidance = self.guidance;
        let streams = [
            (
                &mut state.video,
                found.passes(|v| &v.video),
                guidance.video,
                &held.0,
            ),
            (
                &mut state.audio,
                found.passes(|v| &v.audio),
                guidance.audio,
                &held.1,
            ),
        ];
        for (x, passes, guidance, held) in streams {
            let (sigmas, held) = (Sigmas::Stored(&levels.sigmas), held.as_ref());
            guidance_step(
                device,
                x,
                passes,
                guidance,
                sigmas,
                held.map(HeldTokens::view),
            )?;
        }
        Ok(())
    }

    fn velocities(
        &self,
        device: &Device,
        state: &State,
        positions: &Positions,
        rows: &Step,
    ) -> Result<StepVelocities, KernelError> {
        let (model, plan) = (self.transformer, self.guidance);
        let (latents, whole) = ((&state.video, &state.audio), Pass::default());
        // What comes before the text is done once for all passes that have the same of it.
        let begun = model.begin(device, latents, positions, rows, whole)?;
        let run = |context: &Context, pass: Pass<'_>| {
            let tokens = match pass.is_perturbed(0) {
                true => model.begin(device, latents, positions, rows, pass)?,
                false => begun.clone(),
            };
            model.finish(device, tokens, context, positions, rows, pass)
        };
        let perturbed = Pass {
            perturbed_blocks: &plan.perturbed_blocks,
            ..whole
        };
        let isolated = Pass {
            isolated: true,
            ..whole
        };
        let optional = |needed: bool, pass| needed.then(|| run(self.context, pass)).transpose();
        let negative = self.negative.filter(|_| plan.needs_negative());
        let negative = negative.map(|context| run(context, whole)).transpose()?;
        let perturbed = optional(plan.needs_perturbed(), perturbed)?;
        let isolated = optional(plan.needs_isolated(), isolated)?;
        Ok(StepVelocities {
            conditional: model.finish(device, begun, self.context, positions, rows, whole)?,
            negative,
            perturbed,
            isolated,
        })
    }

    fn check_finite(&self, state: &State, step: u32) -> Result<(), DiffusionError> {
        for (stream, x) in [("video", &state.video), ("audio", &state.audio)] {
            let count = count_nonfinite(self.device, x)?;
            if count > 0 {
                return Err(DiffusionError::Numeric {
                    stream,
                    count,
                    step,
                });
            }
        }
        Ok(())
    }
}

impl State {
    fn download(&self) -> Result<Latents, KernelError> {
        Ok(Latents {
            video: self.video.values()?.into_owned(),
            audio: self.audio.values()?.into_owned(),
        })
    }
}

/// `noise (1 - m) level + kept (1 - (1 - m) level)`, kept being what is given where m is above 0.
fn mixed(
    mut noise: Vec<f32>,
    base: Option<&[f32]>,
    held: Option<&Held>,
    channels: usize,
    level: f32,
) -> Vec<f32> {
    for (at, x) in noise.iter_mut().enumerate() {
        let strength = held.map_or(0.0, |held| held.strength[at / channels]);
        let kept = match held {
            Some(held) if strength > 0.0 => held.clean[at],
            _ => base.map_or(0.0, |base| base[at]),
        };
        let share = (1.0 - strength) * level;
        *x = *x * share + kept * (1.0 - share);
    }
    noise
}

#[cfg(test)]
mod tests {
    use kernels::sampling::Guidance;

    use super::*;
    use crate::golden::Golden;

    #[test]
    fn starts_with_held_tokens_equal_the_reference_in_both_stages() {
        let golden = Golden::open("masked");
        for (case, level) in [("start_whole", 1.0), ("start_stage_two", 0.909375)] {
            let input = |name: &str| golden.tensor(&format!("in.{case}.{name}")).f32s().to_vec();
            let held = Held {
                strength: input("mask"),
                clean: input("clean"),
            };
            let (noise, base) = (input("noise"), input("base"));
            let found = mixed(noise, Some(&base), Some(&held), 5, level);
            golden.check(&format!("out.{case}.x"), &found, 1e-6);
            assert!(found[20..] == held.clean[20..], "at strength 1: to the bit");
        }
    }

    #[test]
    fn a_step_with_held_tokens_equals_the_reference() {
        let golden = Golden::open("masked");
        let input = |name: &str| golden.tensor(&format!("in.i2v_step.{name}"));
        let (mut x, v, clean, mask) = (input("x"), input("v"), input("clean"), input("mask"));
        let passes = Passes {
            conditional: &v,
            negative: None,
            perturbed: None,
            isolated: None,
        };
        let held = Some(sampling::Held {
            strength: &mask,
            clean: &clean,
        });
        let before = x.f32s()[20..].to_vec();
        let sigmas = (0.8, 0.55);
        guidance_step(golden.device(), &mut x, passes, Guidance::OFF, sigmas, held).unwrap();
        golden.check("out.i2v_step.x", x.f32s(), 1e-6);
        assert!(x.f32s()[20..] == before, "at strength 1: to the bit");
    }
}
