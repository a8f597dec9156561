//! Files that are given, cut for each shot as the engine takes them.

use std::path::{Path, PathBuf};

use agent::{
    first_frame,
    given::{self, GivenError, Shape},
    mux::{Ffmpeg, Stop},
};
use anyhow::{Result, bail};
use diffusion::{Given, GivenFilm, GivenSound, ModelInfo, Picture, SoundFormat, Span, Still, Wave};

use super::options::{GivenArgs, Retake};

/// How much shorter than the film a sound may be: what encoders leave off at an end.
const SHORT_MAX_S: f64 = 0.1;
/// Sound of shot files that comes from a given file.
const ORIGINAL: SoundFormat = SoundFormat {
    rate: 48_000,
    channels: 2,
};

/// Where a shot lies in the film, in frames.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub start: u32,
    /// Frames that the film shows of it.
    pub shown: u32,
    /// Frames to render.
    pub rendered: u32,
}

/// A sound file in the three forms that are needed of it.
struct Heard {
    heard: Wave,
    kept: Wave,
    original: Wave,
}

/// What is given of a film.
pub struct Inputs<'a> {
    ffmpeg: &'a Ffmpeg,
    info: &'a ModelInfo,
    /// As the engine takes pictures.
    native: Shape,
    /// As the film shows them.
    full: Shape,
    stop: Stop<'a>,
    stills: Vec<(u32, Picture)>,
    strength: f32,
    video: Option<PathBuf>,
    sound: Option<Heard>,
    retake: Option<Retake>,
}

/// The end of a film that another goes on from.
pub struct Tail {
    pub frames: u32,
    rgb: Vec<u8>,
    sound: GivenSound,
}

impl<'a> Inputs<'a> {
    /// Reads everything for a film of `frames`; nothing is rendered before all of it is there.
    pub fn read(
        args: &GivenArgs,
        ffmpeg: &'a Ffmpeg,
        info: &'a ModelInfo,
        (native, full): (Shape, Shape),
        frames: u32,
        stop: Stop<'a>,
    ) -> Result<Self> {
        let mut inputs = Self {
            ffmpeg,
            info,
            native,
            full,
            stop,
            stills: Vec::new(),
            strength: args.strength,
            video: args.video.clone(),
            sound: None,
            retake: args.retake,
        };
        if args.video.is_some() && args.audio.is_some() && args.retake.is_none() {
            bail!("--video and --audio leave nothing to make: add --retake, or leave one out");
        }
        inputs.read_stills(args, frames)?;
        let seconds = f64::from(frames) / f64::from(native.fps);
        if let Some(path) = &args.video {
            let found = given::count(ffmpeg, path, native.fps, stop)?;
            if found < frames {
                let found_s = f64::from(found) / f64::from(native.fps);
                return Err(short(path, "picture", found_s, seconds).into());
            }
        }
        if let Some(path) = args.sound() {
            inputs.sound = Some(inputs.read_sound(path, seconds)?);
        }
        if let Some(Retake { span, .. }) = args.retake
            && span.start_s >= seconds
        {
            let start = span.start_s;
            bail!("--retake begins at {start} s, but the film ends at {seconds} s");
        }
        Ok(inputs)
    }

    fn read_stills(&mut self, args: &GivenArgs, frames: u32) -> Result<()> {
        let (width, height) = (self.native.width, self.native.height);
        let read = |path: &Path| first_frame::read(path, width, height, args.fit());
        for keyframe in &args.keyframes {
            let frame = (keyframe.second * f64::from(self.native.fps)).round() as u32;
            if frame >= frames {
                let seconds = f64::from(frames) / f64::from(self.native.fps);
                let second = keyframe.second;
                bail!("--keyframe at {second} s is behind the end of the film, {seconds} s");
            }
            self.stills.push((frame, read(&keyframe.path)?));
        }
        if let Some(path) = &args.last_image {
            self.stills.push((frames - 1, read(path)?));
        }
        Ok(())
    }

    fn read_sound(&self, path: &Path, seconds: f64) -> Result<Heard> {
        let Some(hears) = self.info.hears else {
            bail!("these weights have no encoder of sound, so none can be given");
        };
        let read = |format| given::sound(self.ffmpeg, path, format, self.stop);
        let original = read(ORIGINAL)?;
        if original.seconds() + SHORT_MAX_S < seconds {
            return Err(short(path, "sound", original.seconds(), seconds).into());
        }
        let heard = read(hears)?;
        let gives = self.info.gives();
        let kept = match gives == hears {
            true => heard.clone(),
            false => read(gives)?,
        };
        Ok(Heard {
            heard,
            kept,
            original,
        })
    }

    /// What is given of a shot that begins with `first` or goes on from `tail`.
    pub fn of_shot(
        &self,
        place: Place,
        first: Option<Picture>,
        tail: Option<&Tail>,
    ) -> Result<Given> {
        let strength = self.strength;
        let first = first.map(|picture| (place.start, picture));
        let stills = self.stills.iter().cloned().chain(first);
        let context = tail.map_or(0, |tail| tail.frames);
        let inside = place.start..place.start + place.shown;
        let stills = stills
            .filter(|(frame, _)| inside.contains(frame))
            .map(|(frame, picture)| Still {
                frame: frame - place.start + context,
                picture,
                strength,
            });
        let mut given = Given {
            stills: stills.collect(),
            film: self.film(place)?,
            sound: self.heard(place),
        };
        if let Some(tail) = tail {
            given.film = Some(GivenFilm {
                rgb: tail.rgb.clone(),
                remake: None,
            });
            given.sound = Some(tail.sound.clone());
        }
        Ok(given)
    }

    /// Pictures of the given film at the engine's size; the last one stands until the end.
    fn film(&self, place: Place) -> Result<Option<GivenFilm>> {
        let Some(path) = &self.video else {
            return Ok(None);
        };
        let frames = place.start..place.start + place.rendered;
        let mut rgb = given::film(self.ffmpeg, path, self.native, Some(frames), self.stop)?;
        let picture = (self.native.width * self.native.height * 3) as usize;
        let last = rgb[rgb.len() - picture..].to_vec();
        while rgb.len() < picture * place.rendered as usize {
            rgb.extend_from_slice(&last);
        }
        let remake = self.remake(place, |retake| retake.picture);
        Ok(Some(GivenFilm { rgb, remake }))
    }

    fn heard(&self, place: Place) -> Option<GivenSound> {
        let sound = self.sound.as_ref()?;
        let (start, seconds) = self.seconds(place, place.rendered);
        Some(GivenSound {
            heard: given::slice(&sound.heard, start, seconds),
            kept: given::slice(&sound.kept, start, seconds),
            remake: self.remake(place, |retake| retake.sound),
        })
    }

    fn seconds(&self, place: Place, frames: u32) -> (f64, f64) {
        let fps = f64::from(self.native.fps);
        (f64::from(place.start) / fps, f64::from(frames) / fps)
    }

    /// The part of the retake that lies in a shot, on the shot's own clock.
    fn remake(&self, place: Place, of: fn(&Retake) -> bool) -> Option<Span> {
        let retake = self.retake.filter(of)?;
        let (start, seconds) = self.seconds(place, place.rendered);
        if !retake.span.meets(start, start + seconds) {
            return None;
        }
        Some(Span {
            start_s: (retake.span.start_s - start).max(0.0),
            end_s: retake.span.end_s - start,
        })
    }

    /// Pictures of a shot at the film's own size, where its picture is given and stays.
    pub fn original_picture(&self, place: Place) -> Result<Option<(Shape, Vec<u8>)>> {
        let Some(path) = &self.video else {
            return Ok(None);
        };
        if self.remake(place, |retake| retake.picture).is_some() {
            return Ok(None);
        }
        let frames = place.start..place.start + place.shown;
        let rgb = given::film(self.ffmpeg, path, self.full, Some(frames), self.stop)?;
        Ok(Some((self.full, rgb)))
    }

    /// Sound of a shot as it is in the file, where it is given and stays.
    pub fn original_sound(&self, place: Place) -> Option<Wave> {
        let sound = self.sound.as_ref()?;
        if self.remake(place, |retake| retake.sound).is_some() {
            return None;
        }
        let (start, seconds) = self.seconds(place, place.shown);
        Some(given::slice(&sound.original, start, seconds))
    }

    /// The last `wanted` of the `frames` of a shot file, fewer where it has fewer; a whole number of
    /// latents.
    pub fn tail(&self, shot: &Path, frames: u32, wanted: u32) -> Result<Tail> {
        let Some(hears) = self.info.hears else {
            bail!("these weights have no encoder of sound, so no film can be continued");
        };
        let step = self.info.frames_step;
        let count = (wanted.clamp(1, frames) - 1) / step * step + 1;
        let range = Some(frames - count..frames);
        let rgb = given::film(self.ffmpeg, shot, self.native, range, self.stop)?;
        let fps = f64::from(self.native.fps);
        let (start, seconds) = (f64::from(frames - count) / fps, f64::from(count) / fps);
        let read = |format| -> Result<Wave> {
            let wave = given::sound(self.ffmpeg, shot, format, self.stop)?;
            Ok(given::slice(&wave, start, seconds))
        };
        let (heard, kept) = (read(hears)?, read(self.info.gives())?);
        Ok(Tail {
            frames: count,
            rgb,
            sound: GivenSound {
                heard,
                kept,
                remake: None,
            },
        })
    }
}

fn short(path: &Path, what: &'static str, found_s: f64, needed_s: f64) -> GivenError {
    GivenError::Short {
        path: path.to_owned(),
        what,
        found_s,
        needed_s,
        hint: "give a longer file, or a shorter film with --seconds",
    }
}
