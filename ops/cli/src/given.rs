//! What is given of a film: the options that `render` and `submit` share.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

/// Files that are given of the film.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "What is given")]
pub struct GivenArgs {
    /// Last frame of the film.
    #[arg(long, value_name = "FILE")]
    pub last_image: Option<PathBuf>,
    /// Picture at a time of the film, such as 1.5=cat.png. May be given more than once.
    #[arg(long = "keyframe", value_name = "SECONDS=FILE", value_parser = keyframe)]
    pub keyframes: Vec<Keyframe>,
    /// How firmly these pictures are kept, above 0; at 1 they do not change.
    #[arg(long, value_name = "SHARE")]
    pub strength: Option<f64>,
    /// How pictures of another aspect fit: cut at the sides, or whole with black around.
    #[arg(long, value_name = "HOW", default_value = "cover", value_parser = ["cover", "contain"])]
    pub fit: String,
    /// Sound of the film (any file with sound); the picture follows it.
    #[arg(long, value_name = "FILE")]
    pub audio: Option<PathBuf>,
    /// Picture of the film (any video file); the sound follows it. With --retake its sound stays too.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["image", "last_image", "keyframes"])]
    pub video: Option<PathBuf>,
    /// Part of --video to make anew: seconds and what, one of video, audio and both. All else stays.
    #[arg(long, value_name = "FROM..TO=WHAT", value_parser = retake, requires = "video")]
    pub retake: Option<Retake>,
}

/// A picture at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Keyframe {
    pub second: f64,
    pub path: PathBuf,
}

/// What of a given film is made anew.
#[derive(Clone, Debug, PartialEq)]
pub struct Retake {
    pub from_s: f64,
    pub to_s: f64,
    /// `video`, `audio` or `both`.
    pub what: String,
}

/// Reads a file that the user named.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Size and whole seconds of a film; nothing of what its file does not say.
pub fn measure(path: &Path) -> (Option<String>, Option<String>) {
    let facts = schemas::mp4::read(path).ok();
    let picture = facts.as_ref().and_then(|facts| facts.picture());
    let size = picture.map(|picture| format!("{}x{}", picture.width, picture.height));
    let seconds = picture.map(|picture| (picture.seconds + 0.01).floor().max(1.0).to_string());
    (size, seconds)
}

fn keyframe(text: &str) -> std::result::Result<Keyframe, String> {
    let (second, path) = text
        .split_once('=')
        .ok_or("write it as SECONDS=FILE, such as 1.5=cat.png")?;
    let second: f64 = second
        .parse()
        .map_err(|_| format!("'{second}' is no number of seconds"))?;
    if !(second.is_finite() && second >= 0.0 && !path.is_empty()) {
        return Err("the time must not be negative, and a file must follow it".to_owned());
    }
    let path = path.into();
    Ok(Keyframe { second, path })
}

pub fn retake(text: &str) -> std::result::Result<Retake, String> {
    let form = "write it as FROM..TO=WHAT, such as 1.0..2.0=video";
    let (times, what) = text.split_once('=').ok_or(form)?;
    let (from, to) = times.split_once("..").ok_or(form)?;
    let second = |text: &str| text.parse::<f64>().map_err(|_| form.to_owned());
    let (from_s, to_s) = (second(from)?, second(to)?);
    if !(from_s >= 0.0 && from_s < to_s && to_s.is_finite()) {
        return Err(format!("{from_s} to {to_s} s is no stretch of a film"));
    }
    if !["video", "audio", "both"].contains(&what) {
        return Err(format!("'{what}' is none of video, audio and both"));
    }
    Ok(Retake {
        from_s,
        to_s,
        what: what.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_and_stretches_are_read_or_refused_with_the_form() {
        let cat = keyframe("1.5=a=b.png").unwrap();
        assert_eq!((cat.second, cat.path), (1.5, PathBuf::from("a=b.png")));
        for wrong in ["1.5", "x=a.png", "-1=a.png", "nan=a.png", "1="] {
            assert!(keyframe(wrong).is_err(), "{wrong}");
        }
        let both = retake("1..2.5=both").unwrap();
        assert!(both.what == "both" && both.to_s == 2.5);
        assert_eq!(retake("0..1=video").unwrap().what, "video");
        for wrong in [
            "1..2",
            "1=video",
            "2..1=video",
            "1..2=taste",
            "a..b=both",
            "-1..2=both",
        ] {
            assert!(retake(wrong).is_err(), "{wrong}");
        }
    }
}
