//! What a run of a recipe will do, told before it begins.

use crate::error::DiffusionError;
use crate::info::Size;
use crate::latent::Grid;
use crate::memory::{self, Load, Memory};
use crate::model::Weights;
use crate::recipe::Recipe;
use crate::run;

/// The course of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Noise levels, from 1 to 0: one more than there are steps (of the first stage).
    pub sigmas: Vec<f32>,
    /// Latent frames, rows and columns of the picture.
    pub video_grid: [usize; 3],
    /// Latents of the sound.
    pub audio_tokens: usize,
    /// Tokens that a prompt is padded to.
    pub text_tokens: usize,
    /// Guidance of picture and sound; 1 is off.
    pub guidance: (f32, f32),
    /// Memory, with as much for the pictures as the device has free now.
    pub memory: Memory,
    /// Least memory that a run can do with, weights included: the pictures in the smallest pieces.
    pub memory_least_bytes: u64,
}

impl Weights {
    /// What a run of `recipe` with these weights will do.
    ///
    /// # Errors
    /// [`DiffusionError::Recipe`] for what these weights cannot make.
    pub fn plan(&self, recipe: &Recipe) -> Result<Plan, DiffusionError> {
        recipe.check(&self.info)?;
        let grid = Grid::of(recipe, &self.compression);
        let layers = self.transformer.config().layers;
        let guidance = self.guidance.clone().with(&recipe.guidance, layers);
        let load = Load::of(recipe);
        Ok(Plan {
            sigmas: self.sigmas(recipe, &grid),
            video_grid: grid.video,
            audio_tokens: grid.audio,
            text_tokens: self.text_tokens(),
            guidance: (guidance.video.scale, guidance.audio.scale),
            memory: memory::fit(self, &grid, load, self.device.free_bytes()),
            memory_least_bytes: memory::predict(self, &grid, load, 0).peak_bytes(),
        })
    }

    /// Denoising steps of a run of `recipe`, over all of its stages.
    pub fn steps(&self, recipe: &Recipe) -> u32 {
        let stages = run::stages(self, recipe);
        stages.iter().map(run::Stage::steps).sum()
    }

    /// Pictures of the longest clip of this size that `free_bytes` of memory beyond the weights are
    /// enough for, up to the model's own limit; none when not even one picture fits.
    pub fn frames_that_fit(&self, size: Size, free_bytes: u64) -> Option<u32> {
        let step = self.info.frames_step;
        let fits = |frames| {
            let recipe = Recipe {
                width: size.width,
                height: size.height,
                frames,
                ..Recipe::with_defaults(String::new(), 0, &self.info)
            };
            let grid = Grid::of(&recipe, &self.compression);
            memory::fit(self, &grid, Load::default(), Some(free_bytes)).run_bytes() <= free_bytes
        };
        if !fits(1) {
            return None;
        }
        // Longer clips need more: halve the range between one that fits and one that does not.
        let (mut fitting, mut beyond) = (0, (self.info.frames_max - 1) / step + 1);
        while beyond - fitting > 1 {
            let middle = fitting.midpoint(beyond);
            match fits(middle * step + 1) {
                true => fitting = middle,
                false => beyond = middle,
            }
        }
        Some(fitting * step + 1)
    }

    /// Noise levels of a recipe's steps over a grid; those of a second stage are not its size's.
    pub(crate) fn sigmas(&self, recipe: &Recipe, grid: &Grid) -> Vec<f32> {
        let steps = recipe.steps.unwrap_or(self.info.steps);
        let tokens = recipe.shift.tokens(grid.video_tokens());
        self.schedule.sigmas(steps, tokens)
    }
}
