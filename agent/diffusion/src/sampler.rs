//! The denoising loop: from noise to latents, one noise level after the other.

use kernels::sampling::{Guidance, Held, Passes, count_nonfinite, guidance_step};
use kernels::{Device, KernelError, Tensor};

use crate::error::DiffusionError;
use crate::guidance::GuidancePlan;
use crate::latent::{Grid, Latents};
use crate::progress::Control;
use crate::transformer::{Context, Noise, Pass, Positions, Step, Times, Transformer, Velocity};

/// Timesteps of a noise level of 1.
const TIMESTEP_SCALE: f32 = 1000.0;

/// Tokens of the first latent frame that a given picture fixes.
#[derive(Debug, Clone)]
pub struct FirstFrame {
    /// Normalised latents of one frame, [token, channel].
    pub latents: Vec<f32>,
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
    /// Noise levels, from 1 to 0.
    pub sigmas: &'a [f32],
    /// Passes and their weights.
    pub guidance: &'a GuidancePlan,
    /// Text of the prompt.
    pub context: &'a Context,
    /// Text of the negative prompt; needed when the plan has that pass.
    pub negative: Option<&'a Context>,
    /// Picture that the clip begins with.
    pub first_frame: Option<&'a FirstFrame>,
}

/// A held mask with its latents, [S] and [S, C].
struct HeldTokens {
    strength: Tensor,
    clean: Tensor,
}

/// Velocities of all passes of one step; the optional ones where the plan asks for them.
struct StepVelocities {
    conditional: Velocity,
    negative: Option<Velocity>,
    perturbed: Option<Velocity>,
    isolated: Option<Velocity>,
}

impl Sampler<'_> {
    /// Runs from step `first` on, calling `on_step(steps done, latents)` after each. Gives the latents
    /// and the number of steps done, which is less than all when `on_step` paused.
    ///
    /// # Errors
    /// [`DiffusionError::Numeric`] when latents stop being finite, [`DiffusionError::Kernel`].
    pub fn denoise(
        &self,
        start: Latents,
        first: u32,
        on_step: &mut dyn FnMut(u32, &Latents) -> Control,
    ) -> Result<(Latents, u32), DiffusionError> {
        let positions = self.transformer.positions(&self.grid, &[])?;
        let held = self.held_tokens()?;
        let mut state = self.upload(start)?;
        let mut latents = state.download();
        let steps = self.sigmas.len() as u32 - 1;
        for step in first..steps {
            self.step(&mut state, &positions, step as usize, held.as_ref())?;
            self.check_finite(&state, step + 1)?;
            latents = state.download();
            if on_step(step + 1, &latents) == Control::Pause {
                return Ok((latents, step + 1));
            }
        }
        Ok((latents, steps))
    }

    /// Noise as the sampler starts from it: tokens of a given first frame are that frame.
    pub fn begin(&self, mut noise: Latents) -> Latents {
        if let Some(frame) = self.first_frame {
            noise.video[..frame.latents.len()].copy_from_slice(&frame.latents);
        }
        noise
    }

    fn upload(&self, latents: Latents) -> Result<State, KernelError> {
        let config = self.transformer.config();
        let video = [self.grid.video_tokens(), config.video.in_channels];
        let audio = [self.grid.audio, config.audio.in_channels];
        Ok(State {
            video: Tensor::from_f32(self.device, &video, latents.video)?,
            audio: Tensor::from_f32(self.device, &audio, latents.audio)?,
        })
    }

    fn held_tokens(&self) -> Result<Option<HeldTokens>, KernelError> {
        let Some(frame) = self.first_frame else {
            return Ok(None);
        };
        let (tokens, channels) = (
            self.grid.video_tokens(),
            self.transformer.config().video.in_channels,
        );
        let held = self.grid.frame_tokens();
        let strength = (0..tokens)
            .map(|token| if token < held { 1.0 } else { 0.0 })
            .collect();
        let mut clean = frame.latents.clone();
        clean.resize(tokens * channels, 0.0);
        Ok(Some(HeldTokens {
            strength: Tensor::from_f32(self.device, &[tokens], strength)?,
            clean: Tensor::from_f32(self.device, &[tokens, channels], clean)?,
        }))
    }

    /// Held tokens are at timestep 0, all others at that of the step.
    fn noise(&self, sigma: f32) -> Result<Noise, KernelError> {
        let timestep = sigma * TIMESTEP_SCALE;
        let whole = || Tensor::from_f32(self.device, &[1], vec![timestep]);
        let video = match self.first_frame {
            None => Times::shared(self.device, timestep)?,
            Some(_) => {
                let held = self.grid.frame_tokens();
                let tokens = 0..self.grid.video_tokens();
                let times: Vec<f32> = tokens
                    .map(|token| if token < held { 0.0 } else { timestep })
                    .collect();
                Times::per_token(self.device, &times)?
            }
        };
        let audio = Times::shared(self.device, timestep)?;
        Ok(Noise {
            video,
            audio,
            video_sigma: whole()?,
            audio_sigma: whole()?,
        })
    }

    fn step(
        &self,
        state: &mut State,
        positions: &Positions,
        index: usize,
        held: Option<&HeldTokens>,
    ) -> Result<(), KernelError> {
        let sigmas = (self.sigmas[index], self.sigmas[index + 1]);
        let cross = self.transformer.config().cross_timestep();
        let rows = self
            .transformer
            .step(self.device, &self.noise(sigmas.0)?, cross)?;
        let found = self.velocities(state, positions, &rows)?;
        let held = held.map(|held| Held {
            strength: &held.strength,
            clean: &held.clean,
        });
        let (video, audio) = (self.guidance.video, self.guidance.audio);
        self.advance(&mut state.video, &found, |v| &v.video, video, sigmas, held)?;
        self.advance(&mut state.audio, &found, |v| &v.audio, audio, sigmas, None)
    }

    fn velocities(
        &self,
        state: &State,
        positions: &Positions,
        rows: &Step,
    ) -> Result<StepVelocities, KernelError> {
        let run = |context: &Context, pass: Pass<'_>| {
            let latents = (&state.video, &state.audio);
            self.transformer
                .velocity(self.device, latents, context, positions, rows, pass)
        };
        let plan = self.guidance;
        let whole = Pass::default();
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
        Ok(StepVelocities {
            conditional: run(self.context, whole)?,
            negative: negative.map(|context| run(context, whole)).transpose()?,
            perturbed: optional(plan.needs_perturbed(), perturbed)?,
            isolated: optional(plan.needs_isolated(), isolated)?,
        })
    }

    fn advance(
        &self,
        x: &mut Tensor,
        found: &StepVelocities,
        stream: fn(&Velocity) -> &Tensor,
        guidance: Guidance,
        sigmas: (f32, f32),
        held: Option<Held<'_>>,
    ) -> Result<(), KernelError> {
        let passes = Passes {
            conditional: stream(&found.conditional),
            negative: found.negative.as_ref().map(stream),
            perturbed: found.perturbed.as_ref().map(stream),
            isolated: found.isolated.as_ref().map(stream),
        };
        guidance_step(self.device, x, passes, guidance, sigmas, held)
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
    fn download(&self) -> Latents {
        Latents {
            video: self.video.f32s().to_vec(),
            audio: self.audio.f32s().to_vec(),
        }
    }
}
