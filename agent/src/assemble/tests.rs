//! Films from synthetic shots with the real FFmpeg: order, lengths, sizes, loudness, refusals.

use super::*;
use crate::{mux::go_on, shot};
use diffusion::{Sink, Slate};

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
    let slate = Slate {
        width,
        height,
        fps: FPS,
        frames: take.frames,
        sample_rate: 16_000,
        channels: 1,
        latents_digest: String::new(),
    };
    let (_, written) = shot::write(ffmpeg, &path, &go_on, |feed| {
        feed.open(&slate, samples);
        feed.pictures(&rgb)
    });
    written.unwrap();
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
        before: None,
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
