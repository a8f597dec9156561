//! `dailies render` with pictures, films and sounds given, through the real FFmpeg.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use agent::mux::{Ffmpeg, Run, go_on, words};

/// A second in few steps, at a native size.
fn render(dir: &Path, output: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dailies"));
    command.current_dir(dir).env_remove("DAILIES_WEIGHTS");
    command.args(["render", "a red ball falls", "--steps", "2", "-o", output]);
    command.args(args).output().unwrap()
}

/// The two lines of a render that went well.
fn rendered(dir: &Path, output: &str, args: &[&str]) -> (String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = render(dir, output, args);
    let said = String::from_utf8(stdout).unwrap();
    assert!(
        status.success(),
        "{said}{}",
        String::from_utf8_lossy(&stderr)
    );
    let mut lines = said.lines().map(str::to_owned);
    (lines.next().unwrap(), lines.next().unwrap())
}

fn refusal(dir: &Path, args: &[&str]) -> String {
    let found = render(dir, "none.mp4", args);
    assert_eq!(found.status.code(), Some(1), "{args:?}");
    assert!(!dir.join("none.mp4").exists());
    String::from_utf8(found.stderr).unwrap()
}

fn ffmpeg(args: &[&str]) -> Vec<u8> {
    let run = Run {
        what: "make a file for a test",
        args: words(args),
        stdin: &[],
    };
    Ffmpeg::find(None).unwrap().run(run, &go_on).unwrap()
}

/// A folder with a film of one second, a picture, and a sound of a second and a half.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    rendered(
        dir.path(),
        "film.mp4",
        &["--seconds", "1", "--seed", "1", "--size", "64x64"],
    );
    let picture = "color=c=0x2040c0:s=90x60:d=1:r=1";
    ffmpeg(&[
        "-f",
        "lavfi",
        "-i",
        picture,
        "-frames:v",
        "1",
        &path("blue.png"),
    ]);
    let sound = "sine=frequency=440:sample_rate=22050:duration=1.5";
    ffmpeg(&["-f", "lavfi", "-i", sound, &path("tone.wav")]);
    dir
}

/// Grey pictures of 8x8 at 16 a second.
fn pictures(path: PathBuf) -> Vec<u8> {
    let path = path.to_str().unwrap();
    let filter = "fps=16,scale=8:8,format=gray";
    ffmpeg(&["-i", path, "-vf", filter, "-f", "rawvideo", "pipe:1"])
}

/// Mono samples at 8 kHz.
fn sound(path: PathBuf) -> Vec<f32> {
    let path = path.to_str().unwrap();
    let bytes = ffmpeg(&[
        "-i", path, "-f", "f32le", "-ac", "1", "-ar", "8000", "pipe:1",
    ]);
    let (samples, _) = bytes.as_chunks::<4>();
    samples.iter().map(|raw| f32::from_le_bytes(*raw)).collect()
}

/// Largest difference of grey levels.
fn off(a: &[u8], b: &[u8]) -> u8 {
    let pairs = a.iter().zip(b);
    pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn pictures_at_times_of_the_film_change_it() {
    let dir = folder();
    let args = ["--seconds", "1", "--seed", "2", "--size", "64x64"];
    let film = |more: &[&str]| rendered(dir.path(), "out.mp4", &[&args, more].concat()).1;
    let plain = film(&[]);
    let last = film(&["--last-image", "blue.png"]);
    let middle = film(&["--keyframe", "0.5=blue.png", "--strength", "0.5"]);
    let first = film(&["--image", "blue.png", "--fit", "contain"]);
    let whole = film(&["--image", "blue.png"]);
    let all = [plain, last, middle, first, whole];
    for (at, digest) in all.iter().enumerate() {
        assert!(!all[..at].contains(digest), "film {at}");
    }
}

#[test]
fn picture_follows_a_given_sound_and_sound_a_given_picture() {
    let dir = folder();
    let path = |name: &str| dir.path().join(name);
    let args = ["--seconds", "1", "--size", "64x64", "--seed", "3"];
    rendered(
        dir.path(),
        "tone.mp4",
        &[&args[..], &["--audio", "tone.wav"]].concat(),
    );
    let (tone, found) = (sound(path("tone.wav")), sound(path("tone.mp4")));
    // AAC at 160 kbit/s leaves a tone nearly as it is.
    let length = 7_000.min(found.len());
    let error: f32 = (500..length).map(|at| (tone[at] - found[at]).powi(2)).sum();
    let power: f32 = (500..length).map(|at| tone[at].powi(2)).sum();
    assert!(error < power * 0.02, "{error} of {power}");

    let (line, _) = rendered(dir.path(), "scored.mp4", &["--video", "film.mp4"]);
    assert!(
        line.contains("64x64, 16 frames"),
        "size and length of the film: {line}"
    );
    let (film, scored) = (pictures(path("film.mp4")), pictures(path("scored.mp4")));
    assert!(off(&film, &scored) < 12);
    assert_ne!(sound(path("film.mp4")), sound(path("scored.mp4")));
}

#[test]
fn a_stretch_is_made_anew_and_the_rest_stays() {
    let dir = folder();
    let path = |name: &str| dir.path().join(name);
    let retake = [
        "--video",
        "film.mp4",
        "--retake",
        "0.4..0.5=video",
        "--seed",
        "9",
    ];
    rendered(dir.path(), "retake.mp4", &retake);
    let (film, made) = (pictures(path("film.mp4")), pictures(path("retake.mp4")));
    let picture = |pictures: &[u8], at: usize| pictures[at * 64..(at + 1) * 64].to_vec();
    for at in [0, 2, 4, 12, 15] {
        let off = off(&picture(&film, at), &picture(&made, at));
        assert!(off < 12, "picture {at} is off by {off}");
    }
    assert!((5..9).any(|at| off(&picture(&film, at), &picture(&made, at)) > 12));
}

#[test]
fn a_film_goes_on_from_its_end() {
    let dir = folder();
    let path = |name: &str| dir.path().join(name);
    let args = ["--continue", "film.mp4", "--seconds", "4", "--seed", "4"];
    let (line, latents) = rendered(dir.path(), "longer.mp4", &args);
    assert!(line.contains("80 frames at 16 fps, 5.00 s"), "{line}");
    assert_eq!(
        latents.split(' ').count(),
        1 + 2,
        "two shots with a context each: {latents}"
    );
    let (film, longer) = (pictures(path("film.mp4")), pictures(path("longer.mp4")));
    assert!(off(&film, &longer[..film.len()]) < 12);
}

#[test]
fn what_a_given_file_lacks_is_one_clear_error() {
    let dir = folder();
    let check = |args: &[&str], words: &str| {
        let args = [args, &["--size", "64x64"]].concat();
        let error = refusal(dir.path(), &args);
        assert!(error.contains(words), "{args:?}: {error}");
    };
    let second = |args: &[&'static str]| [args, &["--seconds", "1"]].concat();
    check(&second(&["--video", "tone.wav"]), "tone.wav has no picture");
    check(&second(&["--audio", "blue.png"]), "blue.png has no sound");
    check(
        &["--audio", "tone.wav"],
        "tone.wav has 1.50 s of sound, but 4.00 s are needed",
    );
    check(
        &["--video", "film.mp4", "--seconds", "2"],
        "film.mp4 has 1.00 s of picture",
    );
    check(&second(&["--audio", "none.wav"]), "cannot read none.wav");
    std::fs::write(dir.path().join("bad.mp4"), b"no film").unwrap();
    check(&second(&["--continue", "bad.mp4"]), "bad.mp4 is damaged");
    check(
        &second(&["--keyframe", "2=blue.png"]),
        "behind the end of the film",
    );
    let retake = ["--video", "film.mp4", "--retake", "3..4=both"];
    check(&retake, "it begins at 3 s, but the film ends at 1 s");
    let both = ["--video", "film.mp4", "--audio", "tone.wav"];
    check(&both, "leave nothing to make");
    check(&second(&["--two-stage"]), "latent_upsampler");
    check(&second(&["--stg", "1", "--stg-blocks", "6"]), "there are 6");
}
