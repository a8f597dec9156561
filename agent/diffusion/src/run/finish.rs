//! From finished latents to pictures and sound; what was given comes back as it was.

use super::conditions::{covered, kept_frames, kept_tokens};
use crate::audio_vae::COMPRESSION as ROWS;
use crate::error::DiffusionError;
use crate::latent::{Grid, Latents};
use crate::model::Weights;
use crate::progress::Control;
use crate::recipe::Recipe;

/// Pictures of a given film that are handed over at once.
const PICTURES_AT_ONCE: usize = 8;
/// Seconds in which a made sound and a given one cross over.
const FADE_S: f64 = 0.01;

/// Hands over the pictures of the clip, RGB24, a few at a time. A film that is given whole is not
/// decoded again.
pub(super) fn pictures(
    weights: &Weights,
    recipe: &Recipe,
    grid: &Grid,
    latents: &Latents,
    piece: usize,
    on_pictures: &mut dyn FnMut(&[u8]) -> Control,
) -> Result<Control, DiffusionError> {
    let kept = kept_frames(recipe, &weights.compression);
    let picture = recipe.width as usize * recipe.height as usize * 3;
    let film = recipe.given.film.as_ref();
    if let Some(film) = film
        && kept.len() == grid.video[0]
        && kept.iter().all(|kept| *kept)
        && film.frames(recipe) == recipe.frames
    {
        for rgb in film.rgb.chunks(picture * PICTURES_AT_ONCE) {
            if on_pictures(rgb) == Control::Pause {
                return Ok(Control::Pause);
            }
        }
        return Ok(Control::Continue);
    }
    let channels = weights.transformer.config().video.in_channels;
    let values = &latents.video[..grid.video_tokens() * channels];
    let step = weights.compression.video[0];
    let is_kept = |frame: usize| kept.get(frame.div_ceil(step)).copied().unwrap_or(false);
    let mut at = 0;
    let decoder = &weights.video_decoder;
    let control = decoder.pictures(values, grid.video, piece, &mut |frames| {
        let mut rgb = frames.levels()?.into_owned();
        for (frame, made) in (at..).zip(rgb.chunks_exact_mut(picture)) {
            if let Some(film) = film.filter(|_| is_kept(frame)) {
                made.copy_from_slice(&film.rgb[frame * picture..][..picture]);
            }
        }
        at += rgb.len() / picture;
        Ok(on_pictures(&rgb))
    })?;
    Ok(control)
}

/// Interleaved samples, exactly as long as the pictures. A sound that is given whole is not decoded
/// again.
pub(super) fn samples(
    weights: &Weights,
    recipe: &Recipe,
    grid: &Grid,
    latents: &Latents,
) -> Result<Vec<f32>, DiffusionError> {
    let channels = usize::from(weights.info.channels);
    let seconds = f64::from(recipe.frames) / f64::from(recipe.fps);
    let rate = f64::from(weights.info.sample_rate);
    let length = (seconds * rate).round() as usize * channels;
    let sized = |samples: &[f32]| {
        let mut samples = samples[..samples.len().min(length)].to_vec();
        samples.resize(length, 0.0);
        samples
    };
    let Some(sound) = &recipe.given.sound else {
        return Ok(sized(&made(weights, latents)?));
    };
    let encoder = weights.audio_encoder.as_ref();
    let covers = encoder.map_or(0, |encoder| encoder.tokens(sound.heard.samples.len()));
    let kept = kept_tokens(sound, &weights.compression, covers.min(grid.audio));
    if kept.len() == grid.audio && kept.iter().all(|kept| *kept) {
        return Ok(sized(&sound.kept.samples));
    }
    let row = rate / (weights.compression.audio_per_second * ROWS as f64);
    let place = |rows: usize| (rows as f64 * row).round() as usize * channels;
    let given = runs(&kept).into_iter().map(|run| {
        let (first, last) = (covered(run.start, ROWS), covered(run.end - 1, ROWS));
        // Sound behind the last token belongs to it.
        let end = match run.end == grid.audio {
            true => length,
            false => place(last.end),
        };
        place(first.start)..end
    });
    let fade = (rate * FADE_S) as usize * channels;
    let mut samples = sized(&made(weights, latents)?);
    for stretch in given {
        lay_over(&mut samples, &sound.kept.samples, stretch, fade);
    }
    Ok(samples)
}

fn made(weights: &Weights, latents: &Latents) -> Result<Vec<f32>, DiffusionError> {
    let mel = weights.audio_decoder.spectrogram(&latents.audio)?;
    Ok(weights.vocoder.wave(&mel)?.values()?.into_owned())
}

/// Stretches of what is kept.
fn runs(kept: &[bool]) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for (at, _) in kept.iter().enumerate().filter(|(_, kept)| **kept) {
        match runs.last_mut() {
            Some(run) if run.end == at => run.end = at + 1,
            _ => runs.push(at..at + 1),
        }
    }
    runs
}

/// Puts `given` over `stretch` of `made`, and fades it out over `fade` samples on both sides.
fn lay_over(made: &mut [f32], given: &[f32], stretch: std::ops::Range<usize>, fade: usize) {
    let end = made.len().min(given.len());
    let share = |at: usize| {
        let outside = match at {
            _ if at < stretch.start => stretch.start - at,
            _ if at >= stretch.end => at + 1 - stretch.end,
            _ => 0,
        };
        1.0 - outside as f32 / (fade + 1) as f32
    };
    for at in stretch.start.saturating_sub(fade)..(stretch.end + fade).min(end) {
        let share = share(at);
        made[at] = made[at] * (1.0 - share) + given[at] * share;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_stretches_of_what_is_kept() {
        assert_eq!(runs(&[true, true, false, true]), [0..2, 3..4]);
        assert!(runs(&[false; 3]).is_empty() && runs(&[]).is_empty());
    }

    #[test]
    fn a_given_sound_is_whole_inside_and_fades_outside() {
        let mut made = vec![0.0; 12];
        lay_over(&mut made, &[1.0; 9], 4..6, 3);
        let expected = [
            0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0, 0.0,
        ];
        assert_eq!(made, expected);
    }
}
