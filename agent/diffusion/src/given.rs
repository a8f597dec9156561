//! What is given of a clip before it is made: pictures at certain frames, a film, a sound.
//!
//! Given latents are held through the whole run; only the rest is made. A film or a sound that is
//! shorter than the clip is its beginning (the clip goes on from it); one that is given whole lets
//! the other stream follow it; a span to remake inside it is made anew.

use serde::{Deserialize, Serialize};

use crate::error::DiffusionError;
use crate::info::{ModelInfo, SoundFormat};
use crate::recipe::{Picture, Recipe};

/// Shortest sound that can be given: a window of its spectrogram and a little.
const SOUND_MIN_S: f64 = 0.05;
/// Most pictures that a clip can be given.
pub const STILLS_MAX: usize = 16;

/// Everything given of a clip.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Given {
    /// Pictures at frames of the clip.
    pub stills: Vec<Still>,
    /// Pictures from the first frame on.
    pub film: Option<GivenFilm>,
    /// Sound from the first sample on.
    pub sound: Option<GivenSound>,
}

/// A picture at a frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Still {
    /// Frame of the clip, from 0.
    pub frame: u32,
    /// Exactly as large as the clip.
    pub picture: Picture,
    /// How firmly it is kept, above 0; at 1 it does not change.
    pub strength: f32,
}

/// A film that the clip begins with, or is.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct GivenFilm {
    /// RGB24 pictures of the clip's size and rate, one after the other.
    pub rgb: Vec<u8>,
    /// Seconds to make anew.
    pub remake: Option<Span>,
}

/// A sound that the clip begins with, or has.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct GivenSound {
    /// As the model hears it ([`ModelInfo::hears`]).
    pub heard: Wave,
    /// The same sound as clips have it ([`ModelInfo::sample_rate`]), kept in the result.
    pub kept: Wave,
    /// Seconds to make anew.
    pub remake: Option<Span>,
}

/// Seconds from the beginning of a clip.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// Begin.
    pub start_s: f64,
    /// End.
    pub end_s: f64,
}

/// Interleaved samples in -1..=1.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Wave {
    /// Samples per second and channels.
    pub format: SoundFormat,
    /// Interleaved.
    pub samples: Vec<f32>,
}

impl std::fmt::Debug for GivenFilm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GivenFilm({} bytes, {:?})", self.rgb.len(), self.remake)
    }
}

impl std::fmt::Debug for GivenSound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GivenSound({:?}, {:?})", self.heard, self.remake)
    }
}

impl std::fmt::Debug for Wave {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wave({:?}, {} samples)", self.format, self.samples.len())
    }
}

impl Still {
    /// A picture that the clip begins with and keeps.
    pub fn first(picture: Picture) -> Self {
        Self {
            frame: 0,
            picture,
            strength: 1.0,
        }
    }
}

impl Span {
    /// True when the span and `start_s..end_s` have a stretch in common.
    pub fn meets(&self, start_s: f64, end_s: f64) -> bool {
        self.start_s < end_s && start_s < self.end_s
    }

    fn check(self, field: &'static str, seconds: f64) -> Result<(), DiffusionError> {
        let Self { start_s, end_s } = self;
        if start_s >= 0.0 && start_s < end_s && start_s < seconds {
            return Ok(());
        }
        let reason = format!(
            "cannot remake {start_s} to {end_s} s: a span begins before it ends and within the \
             clip's {seconds} s"
        );
        Err(DiffusionError::recipe(field, reason))
    }
}

impl Wave {
    /// Seconds.
    pub fn seconds(&self) -> f64 {
        let frames = self.samples.len() / usize::from(self.format.channels.max(1));
        frames as f64 / f64::from(self.format.rate.max(1))
    }

    fn check(&self, expected: SoundFormat) -> Result<(), DiffusionError> {
        if self.format != expected {
            let reason = format!("must be {expected}, is {}", self.format);
            return Err(DiffusionError::recipe("sound", reason));
        }
        let whole = (self.samples.len()).is_multiple_of(usize::from(expected.channels));
        if self.samples.is_empty() || !whole {
            let reason = format!("{} samples are no {expected}", self.samples.len());
            return Err(DiffusionError::recipe("sound", reason));
        }
        if self.samples.iter().any(|sample| !sample.is_finite()) {
            return Err(DiffusionError::recipe(
                "sound",
                "holds values that are no numbers",
            ));
        }
        Ok(())
    }
}

impl Given {
    /// Pictures that the clip begins with and keeps.
    pub fn first_frame(picture: Option<Picture>) -> Self {
        Self {
            stills: picture.into_iter().map(Still::first).collect(),
            ..Self::default()
        }
    }

    /// Refuses what these weights cannot take, or what does not fit the clip.
    ///
    /// # Errors
    /// [`DiffusionError::Recipe`] about `stills`, `film` or `sound`.
    pub(crate) fn check(&self, recipe: &Recipe, info: &ModelInfo) -> Result<(), DiffusionError> {
        let pictures = !self.stills.is_empty() || self.film.is_some();
        if pictures && !info.first_frame {
            let field = if self.film.is_some() {
                "film"
            } else {
                "stills"
            };
            let reason = "these weights have no encoder of pictures";
            return Err(DiffusionError::recipe(field, reason));
        }
        self.check_stills(recipe)?;
        let seconds = f64::from(recipe.frames) / f64::from(recipe.fps);
        if let Some(film) = &self.film {
            film.check(recipe)?;
            film.remake
                .map_or(Ok(()), |span| span.check("film", seconds))?;
        }
        if let Some(sound) = &self.sound {
            let Some(hears) = info.hears else {
                let reason = "these weights have no encoder of sound";
                return Err(DiffusionError::recipe("sound", reason));
            };
            sound.heard.check(hears)?;
            if sound.heard.seconds() < SOUND_MIN_S {
                let reason = format!("is shorter than {SOUND_MIN_S} s");
                return Err(DiffusionError::recipe("sound", reason));
            }
            sound.kept.check(info.gives())?;
            sound
                .remake
                .map_or(Ok(()), |span| span.check("sound", seconds))?;
        }
        Ok(())
    }

    fn check_stills(&self, recipe: &Recipe) -> Result<(), DiffusionError> {
        let refuse = |reason: String| Err(DiffusionError::recipe("stills", reason));
        if self.stills.len() > STILLS_MAX {
            return refuse(format!("at most {STILLS_MAX} pictures can be given"));
        }
        for Still {
            frame,
            picture,
            strength,
        } in &self.stills
        {
            if *frame >= recipe.frames {
                let last = recipe.frames - 1;
                return refuse(format!("frame {frame} is behind the last one, {last}"));
            }
            if !(*strength > 0.0 && *strength <= 1.0) {
                return refuse(format!(
                    "the strength must be above 0 and at most 1, is {strength}"
                ));
            }
            let (w, h) = (recipe.width, recipe.height);
            let bytes = w as usize * h as usize * 3;
            if (picture.width, picture.height) != (w, h) || picture.rgb.len() != bytes {
                let (width, height) = (picture.width, picture.height);
                return refuse(format!(
                    "must be an RGB picture of {w}x{h}, is {width}x{height}"
                ));
            }
            if *frame == 0 && self.film.is_some() {
                return refuse("the film already gives frame 0".to_owned());
            }
        }
        Ok(())
    }

    /// Feeds everything that is given to a digest.
    pub(crate) fn hash(&self, hasher: &mut blake3::Hasher) {
        let span = |hasher: &mut blake3::Hasher, remake: &Option<Span>| {
            let span = remake.map_or([u64::MAX; 2], |s| [s.start_s.to_bits(), s.end_s.to_bits()]);
            span.iter().for_each(|bits| {
                hasher.update(&bits.to_le_bytes());
            });
        };
        for still in &self.stills {
            hasher.update(b"still").update(&still.frame.to_le_bytes());
            hasher.update(&still.strength.to_le_bytes());
            hasher.update(&still.picture.rgb);
        }
        if let Some(film) = &self.film {
            hasher.update(b"film").update(&film.rgb);
            span(hasher, &film.remake);
        }
        if let Some(sound) = &self.sound {
            hasher.update(b"sound");
            for wave in [&sound.heard, &sound.kept] {
                let bytes: Vec<u8> = wave.samples.iter().flat_map(|s| s.to_le_bytes()).collect();
                hasher
                    .update(&(bytes.len() as u64).to_le_bytes())
                    .update(&bytes);
            }
            span(hasher, &sound.remake);
        }
    }
}

impl GivenFilm {
    /// Pictures of a clip of this size.
    pub(crate) fn frames(&self, recipe: &Recipe) -> u32 {
        let picture = recipe.width as usize * recipe.height as usize * 3;
        (self.rgb.len() / picture) as u32
    }

    fn check(&self, recipe: &Recipe) -> Result<(), DiffusionError> {
        let (w, h) = (recipe.width, recipe.height);
        let (bytes, picture) = (self.rgb.len(), w as usize * h as usize * 3);
        if bytes == 0 || !bytes.is_multiple_of(picture) {
            let reason = format!("{bytes} bytes are no RGB pictures of {w}x{h}");
            return Err(DiffusionError::recipe("film", reason));
        }
        let (frames, most) = (self.frames(recipe), recipe.frames);
        if frames > most {
            let reason = format!("has {frames} pictures, the clip only {most}");
            return Err(DiffusionError::recipe("film", reason));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_meet_what_they_overlap_and_not_what_they_touch() {
        let span = Span {
            start_s: 1.0,
            end_s: 2.0,
        };
        assert!(span.meets(1.5, 1.6) && span.meets(0.0, 1.1) && span.meets(0.0, 9.0));
        assert!(!span.meets(0.0, 1.0) && !span.meets(2.0, 3.0));
    }

    #[test]
    fn spans_outside_the_clip_or_backwards_are_refused() {
        let check = |start_s, end_s| Span { start_s, end_s }.check("film", 4.0);
        assert!(check(0.0, 4.0).is_ok() && check(3.0, 9.0).is_ok());
        for (start, end) in [
            (-1.0, 1.0),
            (2.0, 2.0),
            (3.0, 1.0),
            (4.0, 5.0),
            (f64::NAN, 1.0),
        ] {
            let error = check(start, end).unwrap_err().to_string();
            assert!(error.starts_with("film: cannot remake"), "{error}");
        }
    }
}
