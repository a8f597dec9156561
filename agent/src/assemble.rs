//! Shots in order into one film: cut, scaled, stitched, with sound; then thumbnail and sheet.
//!
//! Sound is joined here, in samples, and not by FFmpeg's filters: each shot's part begins at the
//! sample of its first frame, so picture and sound end together however many shots there are.
//! The finished film is read back with [`mp4`] before anyone sees it.

use std::path::{Path, PathBuf};

use schemas::{
    mp4::{self, Facts, Mp4Error},
    task::AssembleSpec,
};

use crate::{
    given::{self, Fit, GivenError, Shape},
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
    Given(#[from] GivenError),
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

/// The order and files of a film that goes on from `before`: that film becomes its first shot, whole.
///
/// # Errors
/// A film without picture or sound, or a damaged one.
pub fn after(
    ffmpeg: &Ffmpeg,
    spec: &AssembleSpec,
    (before, fit): (&Path, Fit),
    shots: &[PathBuf],
    dir: &Path,
    stop: Stop<'_>,
) -> Result<(AssembleSpec, Vec<PathBuf>), GivenError> {
    let shape = Shape {
        width: spec.width,
        height: spec.height,
        fps: spec.fps,
        fit,
    };
    let first = dir.join("shot-before.mkv");
    given::as_shot(ffmpeg, before, shape, &first, stop)?;
    let mut longer = spec.clone();
    longer.shots += 1;
    let frames = given::count(ffmpeg, &first, spec.fps, stop)?;
    longer.shot_frames.insert(0, frames);
    let all = [first].into_iter().chain(shots.iter().cloned());
    Ok((longer, all.collect()))
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
mod tests;
