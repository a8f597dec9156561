//! `dailies render` with the built-in model and the real FFmpeg: what is promised for one film.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

fn dailies(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dailies"));
    command.current_dir(dir).env_remove("DAILIES_WEIGHTS");
    command
}

/// A short film at a native size: few steps, since these tests look at the way and not at the art.
fn render(dir: &Path, args: &[&str]) -> Command {
    let mut command = dailies(dir);
    command.args([
        "render",
        "a red ball falls",
        "-o",
        "film.mp4",
        "--steps",
        "2",
    ]);
    command.args(["--size", "64x64"]).args(args);
    command
}

struct Rendered {
    summary: String,
    latents: String,
    stderr: String,
}

fn rendered(command: &mut Command) -> Rendered {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let (stdout, stderr) = (
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    );
    assert!(status.success(), "{stdout}{stderr}");
    let mut lines = stdout.lines().map(str::to_string);
    Rendered {
        summary: lines.next().unwrap(),
        latents: lines.next().unwrap(),
        stderr,
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}

fn builtin() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../agent/weights/builtin")
}

#[test]
fn the_same_seed_gives_the_same_latents_whatever_the_threads() {
    let dir = tempfile::tempdir().unwrap();
    let film = |args: &[&str]| {
        let rendered = rendered(&mut render(
            dir.path(),
            &[&["--seconds", "1"], args].concat(),
        ));
        (
            rendered.latents,
            std::fs::read(dir.path().join("film.mp4")).unwrap(),
        )
    };
    let first = film(&["--seed", "7", "--threads", "1"]);
    assert_eq!(film(&["--seed", "7", "--threads", "2"]), first);
    assert_ne!(film(&["--seed", "8"]).0, first.0);
    assert_eq!(names(dir.path()), ["film.mp4"]);
}

#[test]
fn a_film_longer_than_one_clip_is_joined_to_its_exact_length() {
    let dir = tempfile::tempdir().unwrap();
    let rendered = rendered(&mut render(dir.path(), &["--seconds", "5", "--seed", "3"]));
    assert_eq!(
        rendered.latents.split(' ').count(),
        3,
        "two shots: {}",
        rendered.latents
    );
    let facts = schemas::mp4::read(&dir.path().join("film.mp4")).unwrap();
    let (picture, sound) = (facts.picture().unwrap(), facts.sound().unwrap());
    assert_eq!(picture.samples, 80);
    assert!((picture.seconds - 5.0).abs() < 1e-3 && (sound.seconds - 5.0).abs() < 1e-3);
    assert!(facts.fast_start);
    assert!(
        rendered
            .summary
            .contains("64x64, 80 frames at 16 fps, 5.00 s"),
        "{}",
        rendered.summary
    );
    assert!(rendered.summary.ends_with("seed 3"), "{}", rendered.summary);
}

#[test]
fn words_that_the_model_does_not_know_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = dailies(dir.path());
    command.args([
        "render",
        "a red zebra",
        "--steps",
        "1",
        "--seconds",
        "1",
        "--size",
        "64x64",
    ]);
    let rendered = rendered(&mut command);
    assert!(rendered.stderr.contains("warning: ") && rendered.stderr.contains("zebra"));
    assert!(dir.path().join("film.mp4").exists(), "the default name");
}

#[test]
fn a_film_can_begin_with_an_image_of_any_size() {
    let dir = tempfile::tempdir().unwrap();
    let image = image::RgbImage::from_pixel(300, 200, image::Rgb([40, 90, 200]));
    image.save(dir.path().join("first.png")).unwrap();
    let with_image = ["--image", "first.png", "--seconds", "1", "--seed", "5"];
    let with = rendered(&mut render(dir.path(), &with_image));
    let without = rendered(&mut render(dir.path(), &with_image[2..]));
    assert_ne!(with.latents, without.latents);
    std::fs::write(dir.path().join("first.png"), b"no image").unwrap();
    std::fs::remove_file(dir.path().join("film.mp4")).unwrap();
    let refused = render(dir.path(), &with_image).output().unwrap();
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && error.contains("image"),
        "{error}"
    );
    assert_eq!(names(dir.path()), ["first.png"]);
}

#[test]
fn a_truncated_weights_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let copied = Command::new("cp")
        .arg("-r")
        .arg(builtin())
        .arg(dir.path().join("w"))
        .status();
    assert!(copied.unwrap().success());
    let folder = dir.path().join("w/transformer");
    let file = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .unwrap();
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 1_000]).unwrap();
    let refused = render(dir.path(), &["--weights", "w"]).output().unwrap();
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    for word in [
        "cannot load the weights in w",
        "safetensors",
        "get it again",
    ] {
        assert!(error.contains(word), "'{word}' is not in: {error}");
    }
    assert_eq!(names(dir.path()), ["w"]);
}

#[test]
fn what_cannot_be_filmed_is_refused_with_what_can() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |args: &[&str]| {
        let mut command = dailies(dir.path());
        let output = command
            .args(["render", "-o", "film.mp4"])
            .args(args)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(refused(&[""]).contains("must not be empty"));
    assert!(refused(&[&"ball ".repeat(8_000)]).contains("32000"));
    assert!(refused(&["a ball", "--size", "17x17"]).contains("supported values are"));
    assert!(refused(&["a ball", "--seconds", "0"]).contains("supported values are"));
    assert!(refused(&["a ball", "--steps", "0"]).contains("steps"));
    assert!(refused(&["a ball", "--seed", "-1"]).contains("seed"));
    assert!(refused(&["a ball", "--threads", "0"]).contains("--threads"));
    assert!(names(dir.path()).is_empty());
}

#[test]
fn an_interrupted_render_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = dailies(dir.path())
        .args(["render", "a red ball", "--size", "64x64", "--steps", "100"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("denoise")));
    let id = process.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );
    let rest: Vec<String> = lines.collect();
    assert_eq!(process.wait().unwrap().code(), Some(1));
    assert!(
        rest.iter().any(|line| line.contains("stopped by Ctrl-C")),
        "{rest:?}"
    );
    assert!(names(dir.path()).is_empty());
}
