//! FFmpeg: found, missing, dying, stopped.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use super::*;

/// A program in FFmpeg's place, which is how it is made to die at a chosen moment.
///
/// A shell writes it: a file that this process has open for writing cannot be started while
/// another test forks.
pub fn program(dir: &Path, script: &str) -> PathBuf {
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
    static INPUT: [u8; 1 << 20] = [7; 1 << 20];
    let dir = tempfile::tempdir().unwrap();
    let path = program(
        dir.path(),
        "head -c 100 >/dev/null; echo 'out of ideas' >&2; exit 3",
    );
    let error = ffmpeg(path).run(run(&[], &INPUT), &go_on).unwrap_err();
    assert!(error.to_string().contains("out of ideas"), "{error}");
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
