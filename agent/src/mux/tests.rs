//! FFmpeg: found, missing, dying, stopped; shot files that keep every bit.

use std::process::{Command, Stdio};

use super::*;

/// A program in FFmpeg's place, which is how it is made to die at a chosen moment.
///
/// A shell writes it: a file that this process has open for writing cannot be started while
/// another test forks.
fn program(dir: &Path, script: &str) -> PathBuf {
    let path = dir.join("ffmpeg");
    let write = format!("cat > {0} && chmod 755 {0}", path.display());
    let mut shell = Command::new("sh")
        .args(["-c", &write])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    stdin
        .write_all(format!("#!/bin/sh\n{script}\n").as_bytes())
        .unwrap();
    drop(stdin);
    assert!(shell.wait().unwrap().success());
    path
}

fn ffmpeg(path: PathBuf) -> Ffmpeg {
    Ffmpeg {
        path,
        version: "test".into(),
    }
}

fn run(args: &[&str], stdin: &'static [u8]) -> Run<'static> {
    Run {
        what: "test",
        args: words(args),
        stdin,
    }
}

fn one_second() -> (Vec<u8>, Vec<f32>) {
    (vec![90; 16 * 32 * 32 * 3], vec![0.25; 16_000])
}

fn shot(ffmpeg: &Ffmpeg, path: &Path) -> Result<(), MuxError> {
    let (rgb, samples) = one_second();
    let picture = Picture {
        width: 32,
        height: 32,
        fps: 16,
        rgb: &rgb,
    };
    let sound = Sound {
        rate: 16_000,
        channels: 1,
        samples: &samples,
    };
    write_shot(ffmpeg, picture, sound, path, &go_on)
}

#[test]
fn a_missing_ffmpeg_says_how_to_get_one() {
    let nowhere = Path::new("/nowhere/ffmpeg");
    let error = Ffmpeg::find(Some(nowhere)).unwrap_err();
    assert!(matches!(error, MuxError::Start { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("Check that FFMPEG names a program")
    );
    let error = MuxError::Missing {
        looked: "'ffmpeg' on PATH".into(),
    };
    assert!(error.to_string().contains("apt-get install"));
}

#[test]
fn an_ffmpeg_without_the_encoders_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = program(dir.path(), "echo ' V....D libx264 H.264'");
    let error = Ffmpeg::at(&path).unwrap_err();
    assert!(error.to_string().contains("no encoder 'aac'"), "{error}");
}

#[test]
fn the_installed_ffmpeg_is_found_with_its_version() {
    let found = Ffmpeg::find(None).unwrap();
    assert!(
        found.version.chars().any(|c| c.is_ascii_digit()),
        "{found:?}"
    );
}

#[test]
fn a_dying_ffmpeg_is_told_with_its_last_words() {
    let dir = tempfile::tempdir().unwrap();
    let path = program(
        dir.path(),
        "head -c 100 >/dev/null; echo 'out of ideas' >&2; exit 3",
    );
    let error = shot(&ffmpeg(path), &dir.path().join("shot.mkv")).unwrap_err();
    assert!(error.to_string().contains("out of ideas"), "{error}");
    assert!(!dir.path().join("shot.wav").exists());
}

#[test]
fn a_full_disk_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = program(
        dir.path(),
        "echo 'av_write: No space left on device' >&2; exit 1",
    );
    let error = ffmpeg(path).run(run(&[], b""), &go_on).unwrap_err();
    assert!(matches!(error, MuxError::DiskFull { .. }), "{error}");
}

#[test]
fn full_pipes_on_all_sides_do_not_deadlock() {
    static INPUT: [u8; 3 << 20] = [7; 3 << 20];
    let dir = tempfile::tempdir().unwrap();
    let path = program(
        dir.path(),
        "head -c 2000000 /dev/zero >&2; head -c 2000000 /dev/zero; cat",
    );
    let out = ffmpeg(path).run(run(&[], &INPUT), &go_on).unwrap();
    assert_eq!(out.len(), 2_000_000 + INPUT.len());
}

#[test]
fn stop_kills_a_child_that_would_run_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let path = program(dir.path(), "exec sleep 1000");
    let error = ffmpeg(path).run(run(&[], b""), &|| true).unwrap_err();
    assert!(matches!(error, MuxError::Stopped { .. }), "{error}");
}

#[test]
fn a_shot_file_keeps_every_pixel_and_sample() {
    let dir = tempfile::tempdir().unwrap();
    let ffmpeg = Ffmpeg::find(None).unwrap();
    let rgb: Vec<u8> = (0..5 * 32 * 32 * 3u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let samples: Vec<f32> = (0..5_000).map(|i| (i as f32 * 0.05).sin() * 0.5).collect();
    let path = dir.path().join("shot.mkv");
    let picture = Picture {
        width: 32,
        height: 32,
        fps: 16,
        rgb: &rgb,
    };
    let sound = Sound {
        rate: 16_000,
        channels: 1,
        samples: &samples,
    };
    write_shot(&ffmpeg, picture, sound, &path, &go_on).unwrap();
    let read = |tail: &[&str]| {
        let mut args = words(&["-i"]);
        args.push(path.clone().into());
        args.extend(words(tail));
        ffmpeg
            .run(
                Run {
                    what: "read",
                    args,
                    stdin: &[],
                },
                &go_on,
            )
            .unwrap()
    };
    assert_eq!(
        read(&["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]),
        rgb
    );
    let sound: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
    assert_eq!(read(&["-f", "f32le", "pipe:1"]), sound);
    let first = fs::read(&path).unwrap();
    write_shot(
        &ffmpeg,
        picture,
        Sound {
            rate: 16_000,
            channels: 1,
            samples: &samples,
        },
        &path,
        &go_on,
    )
    .unwrap();
    assert_eq!(
        fs::read(&path).unwrap(),
        first,
        "equal clips give equal files"
    );
}

#[test]
fn a_clip_of_half_a_frame_is_refused() {
    let ffmpeg = ffmpeg("unused".into());
    let picture = Picture {
        width: 32,
        height: 32,
        fps: 16,
        rgb: &[0; 100],
    };
    let sound = Sound {
        rate: 16_000,
        channels: 1,
        samples: &[0.0],
    };
    let error = write_shot(&ffmpeg, picture, sound, Path::new("x.mkv"), &go_on).unwrap_err();
    assert!(
        error.to_string().contains("not frames of 32 x 32"),
        "{error}"
    );
}
