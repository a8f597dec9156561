//! Films of a whole farm that are given pictures and sounds, extended and remixed, through the real FFmpeg.

mod farm;

use std::path::Path;

use agent::mux::{Ffmpeg, Run, go_on, words};
use farm::Farm;
use schemas::mp4;

fn ffmpeg(args: &[&str]) {
    let run = Run {
        what: "make a file for a test",
        args: words(args),
        stdin: &[],
    };
    Ffmpeg::find(None).unwrap().run(run, &go_on).unwrap();
}

/// A film of a second in two steps, saved; its id.
fn made(farm: &Farm, dir: &Path, args: &[&str], output: &str) -> String {
    let common = ["--steps", "2", "--seed", "5", "-o", output];
    let told = farm.run(dir, &[args, &common].concat());
    let error = String::from_utf8(told.stderr).unwrap();
    assert!(told.status.success(), "{args:?}: {error}");
    let id = error.lines().find(|line| line.starts_with("video_"));
    id.unwrap().to_owned()
}

fn frames(path: &Path) -> u64 {
    mp4::read(path).unwrap().picture().unwrap().samples
}

#[test]
fn a_farm_takes_what_the_engine_takes() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let blue = "color=c=0x2040c0:s=90x60:d=1:r=1";
    ffmpeg(&[
        "-f",
        "lavfi",
        "-i",
        blue,
        "-frames:v",
        "1",
        &path("blue.png"),
    ]);
    let tone = "sine=frequency=440:sample_rate=22050:duration=1.5";
    ffmpeg(&["-f", "lavfi", "-i", tone, &path("tone.wav")]);
    let farm = Farm::start(dir, "up", &[]);
    let second = [
        "submit",
        "--seconds",
        "1",
        "--size",
        "64x64",
        "a red ball falls",
    ];
    let given = [
        "--last-image",
        "blue.png",
        "--keyframe",
        "0.5=blue.png",
        "--audio",
        "tone.wav",
    ];
    let id = made(&farm, dir, &[&second[..], &given].concat(), "given.mp4");
    assert_eq!(frames(&dir.join("given.mp4")), 16);

    let longer = made(
        &farm,
        dir,
        &["extend", &id, "it rolls", "--seconds", "1"],
        "longer.mp4",
    );
    assert_eq!(frames(&dir.join("longer.mp4")), 32);
    let remix = ["remix", &longer, "a green ball falls", "--strength", "0.5"];
    made(&farm, dir, &remix, "remix.mp4");
    assert_eq!(frames(&dir.join("remix.mp4")), 32);
    let retake = [
        "submit",
        "--video",
        "given.mp4",
        "--retake",
        "0.4..0.6=video",
        "a ball",
    ];
    made(&farm, dir, &retake, "retake.mp4");
    assert_eq!(frames(&dir.join("retake.mp4")), 16);

    // Files of others: two seconds upright at another rate, without sound; and one with sound.
    let upright = "testsrc2=s=90x160:d=2.3:r=25";
    ffmpeg(&["-f", "lavfi", "-i", upright, &path("silent.mkv")]);
    let on = [
        "extend",
        "silent.mkv",
        "it rolls",
        "--seconds",
        "1",
        "--model",
        "builtin",
    ];
    made(&farm, dir, &on, "on.mp4");
    // Its 2.3 s are all there, at the model's rate, and a second more.
    let on = mp4::read(&dir.join("on.mp4")).unwrap();
    let on = on.picture().unwrap();
    assert_eq!((on.width, on.height, on.samples), (720, 1280, 37 + 16));
    let edit = [
        "remix",
        "silent.mkv",
        "a green ball falls",
        "--model",
        "builtin",
    ];
    made(&farm, dir, &edit, "edit.mp4");
    assert_eq!(frames(&dir.join("edit.mp4")), 32);
    made(&farm, dir, &["remix", "given.mp4", "a ball"], "anew.mp4");
    assert_eq!(frames(&dir.join("anew.mp4")), 16);
    let none = farm.refused(dir, &["extend", "blue.png", "on"]);
    assert!(none.contains("of no kind that this server reads"), "{none}");

    // What is done survives a cancel.
    let cancelled = farm.told(dir, &["cancel", &longer]);
    assert!(cancelled.contains("is completed and stays"), "{cancelled}");
    assert!(farm.told(dir, &["list"]).contains(&longer));
    let short = farm.refused(dir, &["submit", "--audio", "tone.wav", "--wait", "a ball"]);
    assert!(
        short.contains("given-sound has 1.50 s of sound, but 4.00 s are needed"),
        "{short}"
    );
    let none = farm.refused(dir, &["submit", "--audio", "blue.png", "a ball"]);
    assert!(none.contains("of no kind that this server reads"), "{none}");
}
