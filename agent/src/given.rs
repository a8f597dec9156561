//! Reads what a film is given: pictures and sound of a file, through FFmpeg, as the engine takes them.

use std::{
    ffi::OsString,
    ops::Range,
    path::{Path, PathBuf},
};

use diffusion::{Picture, SoundFormat, Wave};
pub use schemas::given::Fit;

use crate::mux::{Ffmpeg, MuxError, Run, Stop, words};

/// What is kept of FFmpeg's words in an error.
const REASON_BYTES_MAX: usize = 300;

#[derive(Debug, thiserror::Error)]
pub enum GivenError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} has no {what}: give a file that has, or leave it out")]
    Lacks { path: PathBuf, what: &'static str },
    #[error("{path} has {found_s:.2} s of {what}, but {needed_s:.2} s are needed: {hint}")]
    Short {
        path: PathBuf,
        what: &'static str,
        found_s: f64,
        needed_s: f64,
        hint: &'static str,
    },
    #[error("{path} is damaged, or FFmpeg does not know its format: {reason}")]
    Damaged { path: PathBuf, reason: String },
    #[error(transparent)]
    Mux(#[from] MuxError),
}

impl GivenError {
    /// The same about the file's name without its folder.
    pub fn named_alone(mut self) -> Self {
        let (Self::Read { path, .. }
        | Self::Lacks { path, .. }
        | Self::Short { path, .. }
        | Self::Damaged { path, .. }) = &mut self
        else {
            return self;
        };
        if let Some(name) = path.file_name() {
            *path = name.into();
        }
        self
    }
}

/// Size and rate to make the pictures of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub width: u32,
    pub height: u32,
    pub fps: u32,
    pub fit: Fit,
}

impl Shape {
    /// FFmpeg's filters: rate, size, square pixels.
    fn filter(&self, frames: Option<&Range<u32>>) -> String {
        let Self {
            width: w,
            height: h,
            fps,
            fit,
        } = self;
        let cut = frames.map_or(String::new(), |frames| {
            let (start, end) = (frames.start, frames.end);
            format!("trim=start_frame={start}:end_frame={end},setpts=PTS-STARTPTS,")
        });
        let size = match fit {
            Fit::Cover => format!(
                "scale={w}:{h}:force_original_aspect_ratio=increase:flags=lanczos,crop={w}:{h}"
            ),
            Fit::Contain => format!(
                "scale={w}:{h}:force_original_aspect_ratio=decrease:flags=lanczos,\
                 pad={w}:{h}:(ow-iw)/2:(oh-ih)/2"
            ),
        };
        format!("fps={fps},{cut}{size},setsar=1")
    }

    fn picture_bytes(&self) -> usize {
        self.width as usize * self.height as usize * 3
    }
}

/// Pictures of a film at `shape`, RGB24 one after the other: those of `frames`, or all.
pub fn film(
    ffmpeg: &Ffmpeg,
    path: &Path,
    shape: Shape,
    frames: Option<Range<u32>>,
    stop: Stop<'_>,
) -> Result<Vec<u8>, GivenError> {
    let filter = shape.filter(frames.as_ref());
    let rest = words(&[
        "-map", "0:v:0", "-vf", &filter, "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1",
    ]);
    let rgb = decode(ffmpeg, path, "picture", rest, stop)?;
    if rgb.is_empty() || !rgb.len().is_multiple_of(shape.picture_bytes()) {
        return Err(GivenError::Lacks {
            path: path.to_owned(),
            what: "picture there",
        });
    }
    Ok(rgb)
}

/// How many pictures a film has at `fps`.
pub fn count(ffmpeg: &Ffmpeg, path: &Path, fps: u32, stop: Stop<'_>) -> Result<u32, GivenError> {
    // A pixel a picture is enough to count them.
    let shape = Shape {
        width: 1,
        height: 1,
        fps,
        fit: Fit::Cover,
    };
    let filter = format!("fps={fps},scale=1:1");
    let rest = words(&[
        "-map", "0:v:0", "-vf", &filter, "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1",
    ]);
    let pixels = decode(ffmpeg, path, "picture", rest, stop)?;
    Ok((pixels.len() / shape.picture_bytes()) as u32)
}

/// The sound of a file, at any rate and with any channels, as `format`.
pub fn sound(
    ffmpeg: &Ffmpeg,
    path: &Path,
    format: SoundFormat,
    stop: Stop<'_>,
) -> Result<Wave, GivenError> {
    let (rate, channels) = (format.rate.to_string(), format.channels.to_string());
    let rest = words(&[
        "-map", "0:a:0", "-f", "f32le", "-ar", &rate, "-ac", &channels, "pipe:1",
    ]);
    let bytes = decode(ffmpeg, path, "sound", rest, stop)?;
    let (samples, _) = bytes.as_chunks::<4>();
    let samples: Vec<f32> = samples.iter().map(|raw| f32::from_le_bytes(*raw)).collect();
    if samples.is_empty() {
        return Err(GivenError::Lacks {
            path: path.to_owned(),
            what: "sound",
        });
    }
    // FFmpeg's resampler may pass full scale by a little.
    let samples = samples
        .iter()
        .map(|sample| sample.clamp(-1.0, 1.0))
        .collect();
    Ok(Wave { format, samples })
}

/// Writes a film as a shot file (lossless picture and sound) of `shape`; one without sound becomes silent.
pub fn as_shot(
    ffmpeg: &Ffmpeg,
    path: &Path,
    shape: Shape,
    target: &Path,
    stop: Stop<'_>,
) -> Result<(), GivenError> {
    const OWN: &[&str] = &["-map", "0:a:0"];
    const SILENCE: &[&str] = &[
        "-f",
        "lavfi",
        "-i",
        "anullsrc=r=48000:cl=stereo",
        "-map",
        "1:a:0",
        "-shortest",
    ];
    let shot = |sound| as_shot_with(sound, ffmpeg, path, shape, target, stop);
    match shot(OWN) {
        Err(GivenError::Lacks { .. }) => shot(SILENCE),
        written => written,
    }
}

fn as_shot_with(
    sound: &[&str],
    ffmpeg: &Ffmpeg,
    path: &Path,
    shape: Shape,
    target: &Path,
    stop: Stop<'_>,
) -> Result<(), GivenError> {
    let filter = shape.filter(None);
    let mut rest = words(sound);
    rest.extend(words(&["-map", "0:v:0", "-vf", &filter]));
    rest.extend(words(&[
        "-c:v",
        "ffv1",
        "-level",
        "3",
        "-pix_fmt",
        "bgr0",
        "-c:a",
        "pcm_f32le",
        "-ar",
        "48000",
        "-ac",
        "2",
        "-map_metadata",
        "-1",
        "-y",
    ]));
    rest.push(target.into());
    decode(ffmpeg, path, "picture", rest, stop).map(drop)
}

/// Runs FFmpeg over `path`; a stream that is not there and a damaged file are told apart.
fn decode(
    ffmpeg: &Ffmpeg,
    path: &Path,
    what: &'static str,
    rest: Vec<OsString>,
    stop: Stop<'_>,
) -> Result<Vec<u8>, GivenError> {
    std::fs::File::open(path)
        .and_then(|file| file.metadata())
        .and_then(|facts| match facts.is_dir() {
            true => Err(std::io::ErrorKind::IsADirectory.into()),
            false => Ok(()),
        })
        .map_err(|source| GivenError::Read {
            path: path.to_owned(),
            source,
        })?;
    let mut args = words(&["-xerror", "-i"]);
    args.push(path.into());
    args.extend(rest);
    let run = Run {
        what: "read a given file",
        args,
        stdin: &[],
    };
    ffmpeg.run(run, stop).map_err(|error| match error {
        MuxError::Died { tail, .. } if tail.contains("matches no streams") => GivenError::Lacks {
            path: path.to_owned(),
            what,
        },
        MuxError::Died { tail, .. } => GivenError::Damaged {
            path: path.to_owned(),
            reason: tail.chars().take(REASON_BYTES_MAX).collect(),
        },
        other => GivenError::Mux(other),
    })
}

/// A picture as it comes out of H.264 at this quality: models that were trained on frames of films are given such.
pub fn compressed(
    ffmpeg: &Ffmpeg,
    picture: Picture,
    crf: u8,
    stop: Stop<'_>,
) -> Result<Picture, MuxError> {
    let Picture { width, height, .. } = picture;
    let (size, crf) = (format!("{width}x{height}"), crf.to_string());
    let run = |args: &[&str], stdin: &[u8]| {
        let run = Run {
            what: "compress a given picture",
            args: words(args),
            stdin,
        };
        ffmpeg.run(run, stop)
    };
    let raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", &size];
    let to = [
        "-i",
        "pipe:0",
        "-frames:v",
        "1",
        "-c:v",
        "libx264",
        "-preset",
        "veryfast",
        "-crf",
        &crf,
        "-pix_fmt",
        "yuv420p",
        "-threads",
        "1",
        "-f",
        "h264",
        "pipe:1",
    ];
    let film = run(&[&raw[..], &to].concat(), &picture.rgb)?;
    let back = [
        "-f",
        "h264",
        "-i",
        "pipe:0",
        "-frames:v",
        "1",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "pipe:1",
    ];
    let rgb = run(&back, &film)?;
    match rgb.len() == picture.rgb.len() {
        true => Ok(Picture { rgb, ..picture }),
        false => Err(MuxError::BadClip(format!(
            "a picture of {size} came back from H.264 with {} bytes",
            rgb.len()
        ))),
    }
}

/// No sound, for so long.
pub fn silence(format: SoundFormat, seconds: f64) -> Wave {
    let samples = Vec::new();
    slice(&Wave { format, samples }, 0.0, seconds)
}

/// `wave` from `start_s` on, exactly `seconds` long: behind its end comes silence.
pub fn slice(wave: &Wave, start_s: f64, seconds: f64) -> Wave {
    let (rate, channels) = (
        f64::from(wave.format.rate),
        usize::from(wave.format.channels),
    );
    let place = |second: f64| (second * rate).round() as usize * channels;
    let start = place(start_s).min(wave.samples.len());
    let length = (seconds * rate).round() as usize * channels;
    let end = (start + length).min(wave.samples.len());
    let mut samples = wave.samples[start..end].to_vec();
    samples.resize(length, 0.0);
    Wave {
        format: wave.format,
        samples,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diffusion::{Sink, Slate};

    use crate::{
        mux::go_on,
        shot,
        wav::{self, Sound},
    };

    const MONO: SoundFormat = SoundFormat {
        rate: 16_000,
        channels: 1,
    };

    fn shape(width: u32, height: u32, fps: u32, fit: Fit) -> Shape {
        Shape {
            width,
            height,
            fps,
            fit,
        }
    }

    fn wav(path: &Path, rate: u32, channels: u16, seconds: f64) {
        let count = (seconds * f64::from(rate)) as usize * usize::from(channels);
        let samples: Vec<f32> = (0..count)
            .map(|at| (at as f32 * 0.05).sin() * 0.4)
            .collect();
        let sound = Sound {
            rate,
            channels,
            samples: &samples,
        };
        std::fs::write(path, wav::bytes(sound).unwrap()).unwrap();
    }

    /// A film of grey pictures, each a level of its own, with a second of sound.
    fn grey_film(ffmpeg: &Ffmpeg, path: &Path, width: u32, height: u32) {
        let picture = (width * height * 3) as usize;
        let rgb: Vec<u8> = (0..8).flat_map(|at| vec![20 + at * 25; picture]).collect();
        let slate = Slate {
            width,
            height,
            fps: 8,
            frames: 8,
            sample_rate: 8_000,
            channels: 1,
            latents_digest: String::new(),
        };
        let (_, written) = shot::write(ffmpeg, path, &go_on, |feed| {
            feed.open(&slate, vec![0.25; 8_000]);
            feed.pictures(&rgb)
        });
        written.unwrap();
    }

    #[test]
    fn pictures_come_at_the_size_rate_and_stretch_that_are_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let (ffmpeg, path) = (Ffmpeg::find(None).unwrap(), dir.path().join("film.mkv"));
        grey_film(&ffmpeg, &path, 64, 32);
        assert_eq!(count(&ffmpeg, &path, 8, &go_on).unwrap(), 8);
        assert_eq!(count(&ffmpeg, &path, 16, &go_on).unwrap(), 16);
        let cover = shape(16, 16, 8, Fit::Cover);
        let rgb = film(&ffmpeg, &path, cover, Some(2..5), &go_on).unwrap();
        assert_eq!(rgb.len(), 3 * 16 * 16 * 3);
        for (at, picture) in (2..).zip(rgb.chunks(16 * 16 * 3)) {
            let level = 20 + at * 25;
            assert!(
                picture.iter().all(|l| l.abs_diff(level) <= 2),
                "picture {at}"
            );
        }
        let contain = shape(16, 16, 8, Fit::Contain);
        let rgb = film(&ffmpeg, &path, contain, Some(7..8), &go_on).unwrap();
        assert!(rgb[..3].iter().all(|level| *level < 3), "black above");
        assert!(
            rgb[16 * 8 * 3..][..3]
                .iter()
                .all(|level| level.abs_diff(195) <= 2)
        );
    }

    #[test]
    fn sound_of_any_rate_and_channels_comes_as_asked() {
        let dir = tempfile::tempdir().unwrap();
        let (ffmpeg, path) = (Ffmpeg::find(None).unwrap(), dir.path().join("in.wav"));
        wav(&path, 44_100, 2, 1.5);
        let found = sound(&ffmpeg, &path, MONO, &go_on).unwrap();
        assert!((found.seconds() - 1.5).abs() < 0.01, "{}", found.seconds());
        assert!(found.samples.iter().any(|sample| sample.abs() > 0.1));
        let part = slice(&found, 1.0, 1.0);
        assert_eq!(part.samples.len(), 16_000);
        assert_eq!(part.samples[..4_000], found.samples[16_000..20_000]);
        assert_eq!(part.samples[12_000..], [0.0; 4_000]);
    }

    #[test]
    fn a_picture_passes_h264_and_loses_what_that_loses() {
        let ffmpeg = Ffmpeg::find(None).unwrap();
        let level = |at: usize| (at * 97 % 251) as u8 / 4 + (at / 192) as u8;
        let picture = Picture {
            width: 64,
            height: 64,
            rgb: (0..64 * 64 * 3).map(level).collect(),
        };
        let off = |crf| -> u64 {
            let found = compressed(&ffmpeg, picture.clone(), crf, &go_on).unwrap();
            assert_eq!((found.width, found.height), (64, 64));
            let pairs = picture.rgb.iter().zip(&found.rgb);
            pairs.map(|(a, b)| u64::from(a.abs_diff(*b))).sum()
        };
        let (fine, coarse) = (off(18), off(33));
        assert!(0 < fine && fine < coarse, "{fine} and {coarse}");
        assert!(coarse < 64 * 64 * 3 * 40, "still that picture: {coarse}");
    }

    #[test]
    fn what_a_file_lacks_is_one_clear_error() {
        let dir = tempfile::tempdir().unwrap();
        let ffmpeg = Ffmpeg::find(None).unwrap();
        let (audio, video) = (dir.path().join("in.wav"), dir.path().join("film.mkv"));
        wav(&audio, 8_000, 1, 0.5);
        grey_film(&ffmpeg, &video, 16, 16);
        let cover = shape(16, 16, 8, Fit::Cover);
        let error = film(&ffmpeg, &audio, cover, None, &go_on).unwrap_err();
        assert!(
            matches!(
                error,
                GivenError::Lacks {
                    what: "picture",
                    ..
                }
            ),
            "{error}"
        );
        let error = film(&ffmpeg, &video, cover, Some(90..91), &go_on).unwrap_err();
        assert!(matches!(error, GivenError::Lacks { .. }), "{error}");
        let none = sound(&ffmpeg, &dir.path().join("none"), MONO, &go_on).unwrap_err();
        assert!(none.to_string().starts_with("cannot read"), "{none}");
        let folder = sound(&ffmpeg, dir.path(), MONO, &go_on).unwrap_err();
        assert!(folder.to_string().starts_with("cannot read"), "{folder}");
        let whole = std::fs::read(&video).unwrap();
        for bytes in [&b"no film"[..], b"", &whole[..60]] {
            std::fs::write(&video, bytes).unwrap();
            let error = sound(&ffmpeg, &video, MONO, &go_on).unwrap_err();
            assert!(error.to_string().contains("is damaged"), "{error}");
        }
    }

    #[test]
    fn a_film_becomes_a_shot_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let ffmpeg = Ffmpeg::find(None).unwrap();
        let (from, to) = (dir.path().join("film.mkv"), dir.path().join("shot.mkv"));
        grey_film(&ffmpeg, &from, 64, 32);
        as_shot(&ffmpeg, &from, shape(32, 32, 4, Fit::Contain), &to, &go_on).unwrap();
        assert_eq!(count(&ffmpeg, &to, 4, &go_on).unwrap(), 4);
        let heard = sound(&ffmpeg, &to, MONO, &go_on).unwrap();
        assert!((heard.seconds() - 1.0).abs() < 0.05);
    }
}
