//! What a shot is given before it is made: pictures at frames, a film, a sound, the end of what came before.

use serde::{Deserialize, Serialize};

use crate::Digest;

/// Everything given of one shot; nothing by default. Files are named by their digest in the artefact store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GivenSpec {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stills: Vec<StillSpec>,
    /// The film whose pictures the shot has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub film: Option<FilmSpec>,
    /// The file whose sound the shot has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sound: Option<PartSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<ContextSpec>,
    /// Noise that what is remade begins with, above 0 and below 1; nothing: it is made anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renoise: Option<f32>,
    /// How pictures of another aspect are made to fit.
    #[serde(skip_serializing_if = "Fit::is_default")]
    pub fit: Fit,
}

/// A picture at a frame: PNG, JPEG or WebP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StillSpec {
    /// Frame of what the film shows of the shot, from 0.
    pub frame: u32,
    pub image: Digest,
    /// How firmly it is kept, above 0 and at most 1.
    pub strength: f32,
}

/// The part of a file that belongs to a shot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartSpec {
    pub file: Digest,
    /// Frame of the film that the shot begins with, and how many of its own the film shows.
    pub start_frame: u32,
    pub frames: u32,
    /// Frames of the whole film, which the file must last for.
    pub film_frames: u32,
    /// Seconds of the shot to make anew; all else stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remake: Option<SpanSpec>,
}

/// The same of a film, with the size in pixels of pictures that stay as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FilmSpec {
    #[serde(flatten)]
    pub part: PartSpec,
    pub width: u32,
    pub height: u32,
}

/// Seconds from the beginning of a shot.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpanSpec {
    pub from_s: f64,
    pub to_s: f64,
}

/// The end of a film or of the shot before, where the shot begins: picture and sound. It is rendered in front of the
/// shot and left off its file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContextSpec {
    /// Nothing: the output of the task before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub film: Option<Digest>,
    /// Frame behind the last one that counts.
    pub end_frame: u32,
    /// Frames that are looked at.
    pub frames: u32,
}

/// How pictures of another aspect are made to fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// Scaled until they cover the frame, then cut at the middle.
    #[default]
    Cover,
    /// Scaled until they lie inside the frame, with black around them.
    Contain,
}

impl Fit {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl GivenSpec {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Files that it names.
    pub fn reads(&self) -> Vec<Digest> {
        let stills = self.stills.iter().map(|still| still.image);
        let film = self.film.iter().map(|film| film.part.file);
        let sound = self.sound.iter().map(|sound| sound.file);
        let context = self.context.iter().filter_map(|context| context.film);
        let mut all: Vec<Digest> = stills.chain(film).chain(sound).chain(context).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}
