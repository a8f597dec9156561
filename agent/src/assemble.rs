//! Shots in order into one film: cut, scaled, stitched, with sound; then thumbnail and sheet.
//!
//! Sound is joined here, in samples, and not by FFmpeg's filters: each shot's part begins at the
//! sample of its first frame, so picture and sound end together however many shots there are.
//! The finished film is read back with [`mp4`] before anyone sees it.

use std::path::{Path, PathBuf};

use schemas::task::AssembleSpec;

use crate::{
    mp4::{self, Facts, Mp4Error},
    mux::{self, Ffmpeg, MuxError, Run, Stop, words},
    soundtrack::{self, CHANNELS, RATE},
    stills::{self, StillsError},
};

/// Shots a job may have; more would also make FFmpeg's command line too long.
pub const SHOTS_MAX: usize = 256;
/// A frame is cropped to the film's aspect when that takes at most this share of a side;
/// beyond, black bars are added. Nothing is ever stretched.
const CROP_MAX: f64 = 0.15;

#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    #[error(transparent)]
    Mux(#[from] MuxError),
    #[error(transparent)]
    Mp4(#[from] Mp4Error),
    #[error("cannot make the thumbnail")]
    Stills(#[from] StillsError),
    #[error("the order is not one that can be filmed: {0}")]
    BadOrder(String),
    #[error("the film came out wrong: {0}")]
    WrongFilm(String),
}

/// The files of a finished film.
#[derive(Debug)]
pub struct FilmFiles {
    pub film: PathBuf,
    pub thumbnail: PathBuf,
    pub spritesheet: PathBuf,
    pub facts: Facts,
}

/// Size of one shot's frames, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub width: u32,
    pub height: u32,
}

/// Joins `shots`, files of [`mux::write_shot`] in film order, into files in `dir`.
///
/// # Errors
/// Fails without a film when a shot is shorter than `spec.shot_frames` says, when FFmpeg dies or
/// is stopped, or when the result is not the film that was ordered.
pub fn film(
    ffmpeg: &Ffmpeg,
    spec: &AssembleSpec,
    shots: &[PathBuf],
    dir: &Path,
    stop: Stop<'_>,
) -> Result<FilmFiles, AssembleError> {
    check(spec, shots)?;
    let wav = dir.join("film.wav");
    let sound = soundtrack::join(ffmpeg, spec, shots, stop)?;
    let track = crate::wav::Sound {
        rate: RATE,
        channels: CHANNELS,
        samples: &sound,
    };
    let bytes = crate::wav::bytes(track).map_err(MuxError::BadClip)?;
    mux::write_file(&wav, &bytes)?;
    let film = dir.join("film.mp4");
    encode(ffmpeg, spec, shots, &wav, &film, stop)?;
    let facts = verified(spec, &film)?;
    let stills = stills::make(ffmpeg, &film, &facts, dir, stop)?;
    Ok(FilmFiles {
        film,
        thumbnail: stills.thumbnail,
        spritesheet: stills.spritesheet,
        facts,
    })
}

/// Frames of the whole film.
pub fn frames_total(spec: &AssembleSpec) -> u64 {
    spec.shot_frames
        .iter()
        .map(|frames| u64::from(*frames))
        .sum()
}

fn check(spec: &AssembleSpec, shots: &[PathBuf]) -> Result<(), AssembleError> {
    let bad = |why: String| Err(AssembleError::BadOrder(why));
    let count = shots.len();
    if count == 0 || count > SHOTS_MAX {
        return bad(format!("{count} shots, of 1 to {SHOTS_MAX}"));
    }
    if spec.shots as usize != count || spec.shot_frames.len() != count {
        return bad(format!(
            "{} shots with {} lengths, but {count} files",
            spec.shots,
            spec.shot_frames.len()
        ));
    }
    if spec.fps == 0 || spec.shot_frames.contains(&0) {
        return bad("a shot without frames".into());
    }
    if spec.width == 0 || spec.height == 0 || spec.width % 2 + spec.height % 2 > 0 {
        return bad(format!(
            "{} x {} pixels: both must be even",
            spec.width, spec.height
        ));
    }
    Ok(())
}

fn encode(
    ffmpeg: &Ffmpeg,
    spec: &AssembleSpec,
    shots: &[PathBuf],
    wav: &Path,
    film: &Path,
    stop: Stop<'_>,
) -> Result<(), AssembleError> {
    let mut args = Vec::new();
    for input in shots.iter().map(PathBuf::as_path).chain([wav]) {
        args.extend(words(&["-i"]));
        args.push(input.into());
    }
    let sound = format!("{}:a:0", shots.len());
    args.extend(words(&[
        "-filter_complex",
        &picture_graph(spec),
        "-map",
        "[film]",
        "-map",
        &sound,
    ]));
    args.extend(words(&[
        "-c:v",
        "libx264",
        "-preset",
        "fast",
        "-crf",
        "17",
        "-profile:v",
        "high",
    ]));
    args.extend(words(&[
        "-g",
        &(2 * spec.fps).to_string(),
        "-r",
        &spec.fps.to_string(),
    ]));
    args.extend(words(&[
        "-colorspace",
        "bt709",
        "-color_primaries",
        "bt709",
    ]));
    args.extend(words(&["-color_trc", "bt709", "-color_range", "tv"]));
    args.extend(words(&[
        "-c:a",
        "aac",
        "-b:a",
        "160k",
        "-ar",
        &RATE.to_string(),
    ]));
    args.extend(words(&[
        "-map_metadata",
        "-1",
        "-fflags",
        "+bitexact",
        "-flags",
        "+bitexact",
    ]));
    // The movie's own time scale is milliseconds by default, too coarse for exact edit lists.
    args.extend(words(&[
        "-movie_timescale",
        &RATE.to_string(),
        "-movflags",
        "+faststart",
    ]));
    args.push(film.into());
    ffmpeg.run(
        Run {
            what: "write the film",
            args,
            stdin: &[],
        },
        stop,
    )?;
    Ok(())
}

/// The filter graph: each shot on the film's clock, cut, scaled; all joined to `[film]`.
///
/// Matroska keeps milliseconds; `fps` and `setpts` put frames back on exact times.
fn picture_graph(spec: &AssembleSpec) -> String {
    let AssembleSpec {
        width: w,
        height: h,
        fps,
        ..
    } = *spec;
    let cover = format!("min({w}/iw\\,{h}/ih)/max({w}/iw\\,{h}/ih)");
    let crop = format!("gte({cover}\\,{})", 1.0 - CROP_MAX);
    // Scale to cover (then crop) or to fit (then pad), decided by the shot's own aspect.
    let factor = format!("if({crop}\\,max({w}/iw\\,{h}/ih)\\,min({w}/iw\\,{h}/ih))");
    let mut graph = String::new();
    for (index, frames) in spec.shot_frames.iter().enumerate() {
        graph += &format!(
            "[{index}:v:0]fps={fps},trim=end_frame={frames},setpts=N/({fps}*TB),\
             scale=w='max(2\\,round(iw*{factor}/2)*2)':h='max(2\\,round(ih*{factor}/2)*2)'\
             :flags=lanczos+accurate_rnd+full_chroma_int\
             :out_color_matrix=bt709:out_range=tv,format=yuv420p,\
             pad='max(iw\\,{w})':'max(ih\\,{h})':'(ow-iw)/2':'(oh-ih)/2':black,\
             crop={w}:{h},setsar=1[v{index}];"
        );
    }
    for index in 0..spec.shot_frames.len() {
        graph += &format!("[v{index}]");
    }
    graph += &format!(
        "concat=n={}:v=1:a=0,settb=1/{fps},setpts=N[film]",
        spec.shot_frames.len()
    );
    graph
}

/// Reads the film back and compares it with the order.
fn verified(spec: &AssembleSpec, film: &Path) -> Result<Facts, AssembleError> {
    let facts = mp4::read(film)?;
    let wrong = |why: String| Err(AssembleError::WrongFilm(why));
    let (Some(picture), Some(sound)) = (facts.picture(), facts.sound()) else {
        return wrong("picture or sound is missing".into());
    };
    let frames = frames_total(spec);
    if picture.samples != frames {
        return wrong(format!(
            "it has {} frames of {frames}: a shot is too short",
            picture.samples
        ));
    }
    if (picture.width, picture.height) != (spec.width, spec.height) {
        return wrong(format!(
            "it is {} x {} pixels",
            picture.width, picture.height
        ));
    }
    let frame_s = 1.0 / f64::from(spec.fps);
    let asked_s = frames as f64 * frame_s;
    if (picture.seconds - asked_s).abs() > frame_s || (sound.seconds - asked_s).abs() > frame_s {
        return wrong(format!(
            "picture ends at {:.3} s and sound at {:.3} s of {asked_s:.3} s",
            picture.seconds, sound.seconds
        ));
    }
    if !facts.fast_start {
        return wrong("its index is at the end".into());
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mux::{Picture, go_on};

    const FPS: u32 = 16;

    struct Take {
        size: Size,
        frames: u32,
        color: [u8; 3],
        level: f32,
    }

    fn take(color: [u8; 3], frames: u32) -> Take {
        Take {
            size: Size {
                width: 64,
                height: 64,
            },
            frames,
            color,
            level: 0.25,
        }
    }

    /// Writes one shot of a single colour and a 440 Hz tone, as the engine would.
    fn shoot(ffmpeg: &Ffmpeg, dir: &Path, name: &str, take: &Take) -> PathBuf {
        let pixels = take.size.width * take.size.height * take.frames;
        let rgb = take.color.repeat(pixels as usize);
        let samples: Vec<f32> = (0..take.frames * 16_000 / FPS)
            .map(|i| (i as f32 * 440.0 * std::f32::consts::TAU / 16_000.0).sin() * take.level)
            .collect();
        let path = dir.join(name);
        let Size { width, height } = take.size;
        let picture = Picture {
            width,
            height,
            fps: FPS,
            rgb: &rgb,
        };
        let sound = crate::wav::Sound {
            rate: 16_000,
            channels: 1,
            samples: &samples,
        };
        mux::write_shot(ffmpeg, picture, sound, &path, &go_on).unwrap();
        path
    }

    fn spec(width: u32, height: u32, shot_frames: &[u32]) -> AssembleSpec {
        let shots = shot_frames.len() as u32;
        AssembleSpec {
            shots,
            width,
            height,
            fps: FPS,
            shot_frames: shot_frames.to_vec(),
        }
    }

    fn decoded(ffmpeg: &Ffmpeg, film: &Path, tail: &[&str]) -> Vec<u8> {
        let mut args = words(&["-i"]);
        args.push(film.into());
        args.extend(words(tail));
        ffmpeg
            .run(
                Run {
                    what: "read the film",
                    args,
                    stdin: &[],
                },
                &go_on,
            )
            .unwrap()
    }

    fn colors(ffmpeg: &Ffmpeg, film: &Path, size: Size) -> Vec<[u8; 3]> {
        let rgb = decoded(
            ffmpeg,
            film,
            &["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"],
        );
        let frame = (size.width * size.height * 3) as usize;
        let middle = (size.height / 2 * size.width + size.width / 2) as usize * 3;
        rgb.chunks_exact(frame)
            .map(|f| [f[middle], f[middle + 1], f[middle + 2]])
            .collect()
    }

    fn is_near(a: [u8; 3], b: [u8; 3]) -> bool {
        a.iter().zip(b).all(|(a, b)| a.abs_diff(b) <= 12)
    }

    #[test]
    fn shots_follow_each_other_cut_to_the_frame() {
        let dir = tempfile::tempdir().unwrap();
        let ffmpeg = Ffmpeg::find(None).unwrap();
        let takes = [
            take([200, 30, 30], 33),
            take([30, 180, 30], 17),
            take([40, 40, 200], 25),
        ];
        let shots: Vec<PathBuf> = (0..3)
            .map(|i| shoot(&ffmpeg, dir.path(), &format!("{i}.mkv"), &takes[i]))
            .collect();
        let lengths = [32, 16, 20];
        let files = film(&ffmpeg, &spec(64, 64, &lengths), &shots, dir.path(), &go_on).unwrap();
        let shown = colors(&ffmpeg, &files.film, takes[0].size);
        let expected: Vec<[u8; 3]> = (0..3)
            .flat_map(|i| vec![takes[i].color; lengths[i] as usize])
            .collect();
        assert_eq!(shown.len(), expected.len());
        for (at, (shown, expected)) in shown.iter().zip(expected).enumerate() {
            assert!(
                is_near(*shown, expected),
                "frame {at}: {shown:?}, not {expected:?}"
            );
        }
        let (picture, sound) = (files.facts.picture().unwrap(), files.facts.sound().unwrap());
        assert_eq!(
            (picture.codec.as_str(), sound.codec.as_str()),
            ("avc1", "mp4a")
        );
        assert_eq!((picture.samples, sound.rate), (68, 48_000));
        assert!((picture.seconds - 4.25).abs() < 1e-3, "{picture:?}");
        assert!((sound.seconds - 4.25).abs() < 1e-3, "{sound:?}");
        let thumbnail = image::open(&files.thumbnail).unwrap();
        assert_eq!((thumbnail.width(), thumbnail.height()), (640, 640));
        let sheet = image::open(&files.spritesheet).unwrap();
        assert_eq!((sheet.width(), sheet.height()), (1_600, 1_600));
    }

    #[test]
    fn frames_are_scaled_then_cropped_or_padded_but_never_stretched() {
        let dir = tempfile::tempdir().unwrap();
        let ffmpeg = Ffmpeg::find(None).unwrap();
        let wide = Take {
            size: Size {
                width: 112,
                height: 64,
            },
            ..take([200, 200, 40], 17)
        };
        let shot = shoot(&ffmpeg, dir.path(), "wide.mkv", &wide);
        let corner = |width, height| {
            let dir = tempfile::tempdir().unwrap();
            let spec = spec(width, height, &[16]);
            let files = film(
                &ffmpeg,
                &spec,
                std::slice::from_ref(&shot),
                dir.path(),
                &go_on,
            )
            .unwrap();
            let rgb = decoded(
                &ffmpeg,
                &files.film,
                &["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"],
            );
            assert_eq!(rgb.len(), (width * height * 3 * 16) as usize);
            [rgb[0], rgb[1], rgb[2]]
        };
        assert!(
            is_near(corner(320, 180), wide.color),
            "1.75 in 1.78 is cropped"
        );
        assert!(
            is_near(corner(180, 320), [0, 0, 0]),
            "a wide shot in a tall film gets bars"
        );
    }

    #[test]
    fn loud_shots_do_not_clip_in_the_film() {
        let dir = tempfile::tempdir().unwrap();
        let ffmpeg = Ffmpeg::find(None).unwrap();
        let loud = Take {
            level: 3.0,
            ..take([90, 90, 90], 17)
        };
        let shot = shoot(&ffmpeg, dir.path(), "loud.mkv", &loud);
        let files = film(&ffmpeg, &spec(64, 64, &[16]), &[shot], dir.path(), &go_on).unwrap();
        let sound = decoded(&ffmpeg, &files.film, &["-f", "f32le", "pipe:1"]);
        let peak = sound
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).abs())
            .fold(0.0, f32::max);
        assert!((0.7..1.0).contains(&peak), "the peak is {peak}");
    }

    #[test]
    fn equal_shots_give_equal_films() {
        let dir = tempfile::tempdir().unwrap();
        let ffmpeg = Ffmpeg::find(None).unwrap();
        let shot = [shoot(
            &ffmpeg,
            dir.path(),
            "a.mkv",
            &take([10, 90, 200], 17),
        )];
        let bytes = || {
            let dir = tempfile::tempdir().unwrap();
            let files = film(&ffmpeg, &spec(96, 64, &[17]), &shot, dir.path(), &go_on).unwrap();
            std::fs::read(&files.film).unwrap()
        };
        assert_eq!(bytes(), bytes());
    }

    #[test]
    fn orders_that_cannot_be_filmed_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let ffmpeg = Ffmpeg::find(None).unwrap();
        let shot = [shoot(
            &ffmpeg,
            dir.path(),
            "short.mkv",
            &take([10, 90, 200], 17),
        )];
        let refused = |spec: AssembleSpec, shots: &[PathBuf]| {
            film(&ffmpeg, &spec, shots, dir.path(), &go_on)
                .unwrap_err()
                .to_string()
        };
        assert!(refused(spec(64, 64, &[18]), &shot).contains("a shot is too short"));
        assert!(refused(spec(63, 64, &[17]), &shot).contains("must be even"));
        assert!(refused(spec(64, 64, &[]), &[]).contains("0 shots"));
        assert!(refused(spec(64, 64, &[17, 17]), &shot).contains("2 lengths"));
        assert!(refused(spec(64, 64, &[0]), &shot).contains("without frames"));
        let garbage = dir.path().join("garbage.mkv");
        std::fs::write(&garbage, b"not a film").unwrap();
        assert!(refused(spec(64, 64, &[17]), &[garbage]).contains("FFmpeg stopped"));
    }
}
