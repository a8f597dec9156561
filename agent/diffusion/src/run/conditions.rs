//! From what a recipe gives to tokens that the sampler holds.

use crate::audio_vae::COMPRESSION as ROWS;
use crate::error::DiffusionError;
use crate::given::{Given, GivenSound, Still};
use crate::latent::{Compression, Grid};
use crate::model::Weights;
use crate::recipe::Recipe;
use crate::sampler::{Conditions, Held};

/// Tokens of a stage that makes pictures `shrink` times smaller than the recipe's.
pub(super) fn encode(
    weights: &Weights,
    recipe: &Recipe,
    grid: &Grid,
    shrink: usize,
) -> Result<Conditions, DiffusionError> {
    let given = &recipe.given;
    let encoder = Encoder {
        weights,
        recipe,
        grid,
        shrink,
    };
    let (video, stills) = encoder.pictures(given)?;
    let audio = match &given.sound {
        Some(sound) => Some(encoder.sound(sound)?),
        None => None,
    };
    Ok(Conditions {
        video,
        audio,
        stills,
    })
}

/// Which latent frames of a film are kept: those that it covers whole and that are not remade.
pub(super) fn kept_frames(recipe: &Recipe, compression: &Compression) -> Vec<bool> {
    let Some(film) = &recipe.given.film else {
        return Vec::new();
    };
    let step = compression.video[0];
    let count = (film.frames(recipe) as usize - 1) / step + 1;
    let second = |frame: usize| frame as f64 / f64::from(recipe.fps);
    let is_kept = |latent: usize| {
        let frames = covered(latent, step);
        let (start, end) = (second(frames.start), second(frames.end));
        !film.remake.is_some_and(|span| span.meets(start, end))
    };
    (0..count).map(is_kept).collect()
}

/// Pictures that a latent frame covers, or rows of a spectrogram that a token does: the first covers
/// one, every other one `step`.
pub(super) fn covered(latent: usize, step: usize) -> std::ops::Range<usize> {
    (latent * step + 1).saturating_sub(step)..latent * step + 1
}

/// Which of the `tokens` of a sound are kept: all that are not remade.
pub(super) fn kept_tokens(
    sound: &GivenSound,
    compression: &Compression,
    tokens: usize,
) -> Vec<bool> {
    let second = |row: usize| row as f64 / (compression.audio_per_second * ROWS as f64);
    let is_kept = |token: usize| {
        let rows = covered(token, ROWS);
        let (start, end) = (second(rows.start), second(rows.end));
        !sound.remake.is_some_and(|span| span.meets(start, end))
    };
    (0..tokens).map(is_kept).collect()
}

struct Encoder<'a> {
    weights: &'a Weights,
    recipe: &'a Recipe,
    grid: &'a Grid,
    shrink: usize,
}

impl Encoder<'_> {
    /// Video tokens, and the frames of the pictures appended to them.
    fn pictures(&self, given: &Given) -> Result<(Option<Held>, Vec<u32>), DiffusionError> {
        if given.film.is_none() && given.stills.is_empty() {
            return Ok((None, Vec::new()));
        }
        let channels = self.weights.transformer.config().video.in_channels;
        let tokens = self.grid.video_tokens();
        let mut held = Held {
            strength: vec![0.0; tokens],
            clean: vec![0.0; tokens * channels],
        };
        if let Some(film) = &given.film {
            let step = self.weights.compression.video[0];
            let frames = (film.frames(self.recipe) as usize - 1) / step * step + 1;
            let latents = self.encode(&film.rgb, frames)?;
            held.clean[..latents.len()].copy_from_slice(&latents);
            let kept = kept_frames(self.recipe, &self.weights.compression);
            let strengths = held.strength.chunks_mut(self.grid.frame_tokens());
            for (strengths, kept) in strengths.zip(kept) {
                strengths.fill(if kept { 1.0 } else { 0.0 });
            }
        }
        let mut stills = Vec::new();
        for still in &given.stills {
            self.hold(still, &mut held, &mut stills)?;
        }
        Ok((Some(held), stills))
    }

    /// A picture of the first frame takes that frame's tokens; another one gets tokens of its own.
    fn hold(
        &self,
        still: &Still,
        held: &mut Held,
        stills: &mut Vec<u32>,
    ) -> Result<(), DiffusionError> {
        let latents = self.encode(&still.picture.rgb, 1)?;
        let tokens = self.grid.frame_tokens();
        if still.frame == 0 {
            held.strength[..tokens].fill(still.strength);
            held.clean[..latents.len()].copy_from_slice(&latents);
        } else {
            held.strength.extend(vec![still.strength; tokens]);
            held.clean.extend(latents);
            stills.push(still.frame);
        }
        Ok(())
    }

    /// Normalised latents of the first `frames` pictures.
    fn encode(&self, rgb: &[u8], frames: usize) -> Result<Vec<f32>, DiffusionError> {
        let encoder = self.weights.video_encoder.as_ref();
        let encoder = encoder.expect("recipes with pictures are refused without an encoder");
        let (width, height) = (self.recipe.width, self.recipe.height);
        let picture = width as usize * height as usize * 3;
        let rgb = &rgb[..frames * picture];
        let shrunk: Vec<u8> = match self.shrink {
            1 => rgb.to_vec(),
            by => rgb
                .chunks_exact(picture)
                .flat_map(|rgb| shrunk(rgb, width as usize, by))
                .collect(),
        };
        let dims = [
            frames,
            height as usize / self.shrink,
            width as usize / self.shrink,
        ];
        Ok(encoder.latents(&shrunk, dims)?)
    }

    fn sound(&self, sound: &GivenSound) -> Result<Held, DiffusionError> {
        let encoder = self.weights.audio_encoder.as_ref();
        let encoder = encoder.expect("recipes with sound are refused without an encoder");
        let channels = self.weights.transformer.config().audio.in_channels;
        let tokens = self.grid.audio;
        let mut clean = encoder.heard(&sound.heard.samples, tokens)?;
        let kept = kept_tokens(sound, &self.weights.compression, clean.len() / channels);
        let mut strength: Vec<f32> = kept.iter().map(|kept| f32::from(u8::from(*kept))).collect();
        strength.resize(tokens, 0.0);
        clean.resize(tokens * channels, 0.0);
        Ok(Held { strength, clean })
    }
}

/// A picture `by` times smaller: each pixel is the mean of `by` x `by`.
fn shrunk(rgb: &[u8], width: usize, by: usize) -> Vec<u8> {
    let rows = rgb.len() / (width * 3) / by;
    let mut out = Vec::with_capacity(rows * (width / by) * 3);
    for row in 0..rows {
        for column in 0..width / by {
            for colour in 0..3 {
                let level = |at: usize| {
                    let (y, x) = (row * by + at / by, column * by + at % by);
                    u32::from(rgb[(y * width + x) * 3 + colour])
                };
                let sum: u32 = (0..by * by).map(level).sum();
                let count = (by * by) as u32;
                out.push(((sum + count / 2) / count) as u8);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latent_covers_one_picture_and_then_a_step_each() {
        assert_eq!(
            [0, 1, 2].map(|latent| covered(latent, 8)),
            [0..1, 1..9, 9..17]
        );
    }

    #[test]
    fn pictures_shrink_to_the_mean_of_their_pixels() {
        let grey = |levels: &[u8]| -> Vec<u8> { levels.iter().flat_map(|l| [*l; 3]).collect() };
        let rgb = grey(&[10, 20, 0, 0, 30, 41, 255, 255]);
        assert_eq!(shrunk(&rgb, 4, 2), grey(&[25, 128]));
    }
}
