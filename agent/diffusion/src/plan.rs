//! What a run of a recipe will do, told before it begins.

use crate::error::DiffusionError;
use crate::latent::Grid;
use crate::memory::{self, Memory};
use crate::model::Weights;
use crate::recipe::Recipe;

/// The course of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Noise levels, from 1 to 0: one more than there are steps.
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
}

impl Weights {
    /// What a run of `recipe` with these weights will do.
    ///
    /// # Errors
    /// [`DiffusionError::Recipe`] for what these weights cannot make.
    pub fn plan(&self, recipe: &Recipe) -> Result<Plan, DiffusionError> {
        recipe.check(&self.info)?;
        let grid = Grid::of(recipe, &self.compression);
        let guidance = self.guidance.clone().with_scale(recipe.guidance_scale);
        Ok(Plan {
            sigmas: self.sigmas(recipe, &grid),
            video_grid: grid.video,
            audio_tokens: grid.audio,
            text_tokens: self.text_tokens(),
            guidance: (guidance.video.scale, guidance.audio.scale),
            memory: memory::fit(self, &grid, self.device.free_bytes()),
        })
    }

    /// Noise levels of a recipe's steps.
    pub(crate) fn sigmas(&self, recipe: &Recipe, grid: &Grid) -> Vec<f32> {
        let steps = recipe.steps.unwrap_or(self.info.steps);
        self.schedule.sigmas(steps, grid.video_tokens())
    }
}
