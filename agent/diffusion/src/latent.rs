//! Grids of latents: from pixels and seconds to tokens.

use crate::recipe::Recipe;

/// Latents of both streams in the sampler's order and type.
#[derive(Debug, Clone, PartialEq)]
pub struct Latents {
    /// [video token, channel], tokens in (frame, row, column) order, normalised.
    pub video: Vec<f32>,
    /// [audio token, channel * mel], normalised.
    pub audio: Vec<f32>,
}

/// How many tokens a clip has, and how fast its frames pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// Latent frames, rows and columns.
    pub video: [usize; 3],
    /// Audio tokens.
    pub audio: usize,
    /// Pictures per second that positions are counted in.
    pub fps: f32,
}

/// What one latent covers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compression {
    /// Frames, rows and columns of a video latent.
    pub video: [usize; 3],
    /// Audio latents per second.
    pub audio_per_second: f64,
}

impl Grid {
    /// The grid of a checked recipe: (F-1)/t + 1 frames, and as many audio tokens as its length has,
    /// rounded half to even, at least one.
    pub fn of(recipe: &Recipe, compression: &Compression) -> Self {
        let [time, rows, columns] = compression.video;
        let seconds = f64::from(recipe.frames) / f64::from(recipe.fps);
        let audio = (seconds * compression.audio_per_second).round_ties_even() as usize;
        Self {
            video: [
                (recipe.frames as usize - 1) / time + 1,
                recipe.height as usize / rows,
                recipe.width as usize / columns,
            ],
            audio: audio.max(1),
            fps: recipe.fps as f32,
        }
    }

    /// The grid of the same clip with pictures `by` times smaller.
    pub fn shrunk(&self, by: usize) -> Self {
        let [frames, rows, columns] = self.video;
        Self {
            video: [frames, rows / by, columns / by],
            ..*self
        }
    }

    /// Video tokens.
    pub fn video_tokens(&self) -> usize {
        self.video.iter().product()
    }

    /// Video tokens of one latent frame.
    pub fn frame_tokens(&self) -> usize {
        self.video[1] * self.video[2]
    }
}
