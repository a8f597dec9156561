//! What a shot is given, read from files as the engine takes it.
//!
//! Agents and `dailies render` come through here with the same order; only where its files lie differs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use diffusion::{Given, GivenFilm, GivenSound, ModelInfo, Picture, SoundFormat, Span, Still, Wave};
use schemas::{
    Digest,
    given::{ContextSpec, PartSpec, SpanSpec},
    task::RenderSpec,
};

use crate::{
    first_frame::{self, FirstFrameError},
    given::{self, GivenError, Shape},
    mux::{Ffmpeg, MuxError, Stop},
    splice::Cut,
};

/// How much shorter than the film a sound may be: what encoders leave off at an end.
const SHORT_MAX_S: f64 = 0.1;
/// Sound of shot files that comes from a given file.
const ORIGINAL: SoundFormat = SoundFormat {
    rate: 48_000,
    channels: 2,
};

#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    #[error(transparent)]
    Given(#[from] GivenError),
    #[error(transparent)]
    Mux(#[from] MuxError),
    #[error(transparent)]
    Image(#[from] FirstFrameError),
    #[error("the order names a file that is not there")]
    Lost,
    #[error("these weights have no encoder of sound, so {0}")]
    Deaf(&'static str),
}

/// Where the files of an order lie.
#[derive(Debug, Default)]
pub struct Files {
    pub named: BTreeMap<Digest, PathBuf>,
    /// Output of the task before, for a shot that goes on from it.
    pub before: Option<PathBuf>,
}

/// What a shot is given, and how its file differs from its clip for it.
pub struct Material {
    pub given: Given,
    pub cut: Cut,
}

/// Reads everything that `spec` names; nothing is rendered before all of it is there.
///
/// # Errors
/// A file that is not there, is damaged, too short, or lacks what is asked of it.
pub fn read(
    ffmpeg: &Ffmpeg,
    info: &ModelInfo,
    spec: &RenderSpec,
    files: &Files,
    stop: Stop<'_>,
) -> Result<Material, MaterialError> {
    let reader = Reader {
        ffmpeg,
        info,
        spec,
        files,
        stop,
    };
    let tail = match &spec.given().context {
        Some(context) => Some(reader.tail(context)?),
        None => None,
    };
    let context = spec.given().context.as_ref().map_or(0, |c| c.frames);
    let (mut film, mut picture) = (None, None);
    let (mut sound, mut original) = (None, None);
    if let Some(part) = &spec.given().film {
        let at = reader.path(part.part.file)?;
        film = Some(reader.film(&part.part, at)?);
        if part.part.remake.is_none() {
            let full = reader.shape((part.width, part.height));
            picture = Some((full, reader.pictures(&part.part, at, full)?));
        }
    }
    if let Some(part) = &spec.given().sound {
        let heard = reader.sound(part)?;
        (sound, original) = (Some(heard.0), heard.1);
    }
    if let Some((pictures, heard)) = tail {
        (film, sound) = (Some(pictures), Some(heard));
    }
    Ok(Material {
        given: Given {
            stills: reader.stills(context)?,
            film,
            sound,
        },
        cut: Cut {
            context,
            picture,
            sound: original,
        },
    })
}

struct Reader<'a> {
    ffmpeg: &'a Ffmpeg,
    info: &'a ModelInfo,
    spec: &'a RenderSpec,
    files: &'a Files,
    stop: Stop<'a>,
}

impl Reader<'_> {
    fn path(&self, digest: Digest) -> Result<&Path, MaterialError> {
        let path = self.files.named.get(&digest).ok_or(MaterialError::Lost)?;
        Ok(path)
    }

    fn shape(&self, (width, height): (u32, u32)) -> Shape {
        Shape {
            width,
            height,
            fps: self.spec.fps,
            fit: self.spec.given().fit,
        }
    }

    /// As the engine takes pictures.
    fn native(&self) -> Shape {
        self.shape((self.spec.width, self.spec.height))
    }

    fn seconds(&self, frames: u32) -> f64 {
        f64::from(frames) / f64::from(self.spec.fps)
    }

    fn stills(&self, context: u32) -> Result<Vec<Still>, MaterialError> {
        let mut stills = Vec::new();
        for still in &self.spec.given().stills {
            stills.push(Still {
                frame: still.frame + context,
                picture: self.image(still.image)?,
                strength: still.strength,
            });
        }
        if let Some(first) = self.spec.first_frame {
            stills.push(Still::first(self.image(first)?));
        }
        Ok(stills)
    }

    fn image(&self, digest: Digest) -> Result<Picture, MaterialError> {
        let Shape {
            width, height, fit, ..
        } = self.native();
        let picture = first_frame::read(self.path(digest)?, width, height, fit)?;
        match self.info.still_crf {
            Some(crf) => Ok(given::compressed(self.ffmpeg, picture, crf, self.stop)?),
            None => Ok(picture),
        }
    }

    /// Pictures of the given film at the engine's size; the last one stands until the end.
    fn film(&self, part: &PartSpec, path: &Path) -> Result<GivenFilm, MaterialError> {
        let found = given::count(self.ffmpeg, path, self.spec.fps, self.stop)?;
        if found < part.film_frames {
            let needed = part.film_frames;
            return Err(short(path, "picture", self.seconds(found), self.seconds(needed)).into());
        }
        let rendered = PartSpec {
            frames: self.spec.frames,
            ..part.clone()
        };
        let native = self.native();
        let mut rgb = self.pictures(&rendered, path, native)?;
        let picture = (native.width * native.height * 3) as usize;
        let last = rgb[rgb.len() - picture..].to_vec();
        while rgb.len() < picture * self.spec.frames as usize {
            rgb.extend_from_slice(&last);
        }
        Ok(GivenFilm {
            rgb,
            remake: part.remake.map(span),
        })
    }

    fn pictures(
        &self,
        part: &PartSpec,
        path: &Path,
        shape: Shape,
    ) -> Result<Vec<u8>, MaterialError> {
        let frames = part.start_frame..part.start_frame + part.frames;
        let rgb = given::film(self.ffmpeg, path, shape, Some(frames), self.stop)?;
        Ok(rgb)
    }

    /// The sound that the engine is given, and what the shot file has of the file itself; of a silent film, silence.
    fn sound(&self, part: &PartSpec) -> Result<(GivenSound, Option<Wave>), MaterialError> {
        let path = self.path(part.file)?;
        let hears = (self.info.hears).ok_or(MaterialError::Deaf("none can be given"))?;
        let needed = self.seconds(part.film_frames);
        let film = self.spec.given().film.as_ref();
        let is_film = film.is_some_and(|film| film.part.file == part.file);
        let read = |format| match given::sound(self.ffmpeg, path, format, self.stop) {
            Err(GivenError::Lacks { .. }) if is_film => Ok(given::silence(format, needed)),
            read => read,
        };
        let original = read(ORIGINAL)?;
        if original.seconds() + SHORT_MAX_S < needed {
            return Err(short(path, "sound", original.seconds(), needed).into());
        }
        let start = self.seconds(part.start_frame);
        let rendered = self.seconds(self.spec.frames);
        let (heard, kept) = self.both(hears, read)?;
        let given = GivenSound {
            heard: given::slice(&heard, start, rendered),
            kept: given::slice(&kept, start, rendered),
            remake: part.remake.map(span),
        };
        let stays = part.remake.is_none();
        let shown = || given::slice(&original, start, self.seconds(part.frames));
        Ok((given, stays.then(shown)))
    }

    /// As the model hears a sound, and as its clips have it.
    fn both(
        &self,
        hears: SoundFormat,
        read: impl Fn(SoundFormat) -> Result<Wave, GivenError>,
    ) -> Result<(Wave, Wave), MaterialError> {
        let gives = self.info.gives();
        let heard = read(hears)?;
        let kept = match gives == hears {
            true => heard.clone(),
            false => read(gives)?,
        };
        Ok((heard, kept))
    }

    /// The end of what came before: the clip's first pictures and the sound with them; of a silent film, silence.
    fn tail(&self, context: &ContextSpec) -> Result<(GivenFilm, GivenSound), MaterialError> {
        let path = match context.film {
            Some(film) => self.path(film)?,
            None => self.files.before.as_deref().ok_or(MaterialError::Lost)?,
        };
        let hears = self.info.hears;
        let hears = hears.ok_or(MaterialError::Deaf("no film can be continued"))?;
        let begin = context.end_frame.saturating_sub(context.frames);
        let range = Some(begin..context.end_frame);
        let rgb = given::film(self.ffmpeg, path, self.native(), range, self.stop)?;
        let (start, seconds) = (self.seconds(begin), self.seconds(context.frames));
        let read = |format| -> Result<Wave, GivenError> {
            let wave = match given::sound(self.ffmpeg, path, format, self.stop) {
                Err(GivenError::Lacks { .. }) => return Ok(given::silence(format, seconds)),
                read => read?,
            };
            Ok(given::slice(&wave, start, seconds))
        };
        let (heard, kept) = self.both(hears, read)?;
        let sound = GivenSound {
            heard,
            kept,
            remake: None,
        };
        Ok((GivenFilm { rgb, remake: None }, sound))
    }
}

fn span(span: SpanSpec) -> Span {
    Span {
        start_s: span.from_s,
        end_s: span.to_s,
    }
}

fn short(path: &Path, what: &'static str, found_s: f64, needed_s: f64) -> GivenError {
    GivenError::Short {
        path: path.to_owned(),
        what,
        found_s,
        needed_s,
        hint: "give a longer file, or ask for a shorter film",
    }
}
