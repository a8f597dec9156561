//! Shot files that keep every bit, whatever the pieces they came in, and clips that never became whole.

use super::*;
use crate::mux::{go_on, tests::program};

const FRAMES: u32 = 5;
const FRAME: usize = 32 * 32 * 3;

fn slate() -> Slate {
    Slate {
        width: 32,
        height: 32,
        fps: 16,
        frames: FRAMES,
        sample_rate: 16_000,
        channels: 1,
        latents_digest: String::new(),
    }
}

fn clip() -> (Vec<u8>, Vec<f32>) {
    let rgb = (0..FRAMES * FRAME as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let samples = (0..5_000).map(|i| (i as f32 * 0.05).sin() * 0.5).collect();
    (rgb, samples)
}

/// Feeds the first `bytes` of the clip in pieces of `piece`; tells whether the feed was taken.
fn feed(feed: &mut Feed, bytes: usize, piece: usize) -> Control {
    let (rgb, samples) = clip();
    let mut control = feed.open(&slate(), samples);
    for piece in rgb[..bytes].chunks(piece) {
        if control == Control::Continue {
            control = feed.pictures(piece);
        }
    }
    control
}

#[test]
fn a_shot_file_keeps_every_pixel_and_sample_in_whatever_pieces_they_came() {
    let dir = tempfile::tempdir().unwrap();
    let ffmpeg = Ffmpeg::find(None).unwrap();
    let path = dir.path().join("shot.mkv");
    let mut files = Vec::new();
    for piece in [FRAME * 5, FRAME, FRAME * 2] {
        let (control, written) = write(&ffmpeg, &path, &go_on, |f| feed(f, FRAME * 5, piece));
        written.unwrap();
        assert_eq!(control, Control::Continue);
        files.push(fs::read(&path).unwrap());
    }
    assert!(
        files.iter().all(|file| *file == files[0]),
        "equal clips give equal files"
    );
    assert!(!path.with_extension("wav").exists());
    let read = |tail: &[&str]| {
        let mut args = words(&["-i"]);
        args.push(path.clone().into());
        args.extend(words(tail));
        let run = Run {
            what: "read",
            args,
            stdin: &[],
        };
        ffmpeg.run(run, &go_on).unwrap()
    };
    let (rgb, samples) = clip();
    assert_eq!(
        read(&["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]),
        rgb
    );
    let sound: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
    assert_eq!(read(&["-f", "f32le", "pipe:1"]), sound);
}

#[test]
fn a_clip_that_ends_early_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let ffmpeg = Ffmpeg::find(None).unwrap();
    let path = dir.path().join("shot.mkv");
    for bytes in [0, FRAME, FRAME * 4] {
        let (_, written) = write(&ffmpeg, &path, &go_on, |f| feed(f, bytes, FRAME));
        assert!(
            matches!(written, Err(MuxError::Stopped { .. })),
            "{written:?}"
        );
        assert!(!path.exists() && !path.with_extension("wav").exists());
    }
    let ((), written) = write(&ffmpeg, &path, &go_on, |_| ());
    assert!(
        matches!(written, Err(MuxError::Stopped { .. })),
        "never opened: {written:?}"
    );
}

#[test]
fn an_ffmpeg_that_dies_stops_the_engine_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let dies = "head -c 100 >/dev/null; echo 'out of ideas' >&2; exit 3";
    let ffmpeg = Ffmpeg {
        path: program(dir.path(), dies),
        version: "test".into(),
    };
    let path = dir.path().join("shot.mkv");
    // As the engine does: pieces for as long as they are taken.
    let (pieces, written) = write(&ffmpeg, &path, &go_on, |feed| {
        let mut slate = slate();
        slate.frames = u32::MAX;
        feed.open(&slate, vec![0.0; 16]);
        (0..)
            .take_while(|_| feed.pictures(&[7; FRAME]) == Control::Continue)
            .count()
    });
    let error = written.unwrap_err().to_string();
    assert!(
        error.contains("out of ideas"),
        "{error} after {pieces} pieces"
    );
    assert!(!path.with_extension("wav").exists());
}

#[test]
fn a_slate_without_pictures_is_refused() {
    let ffmpeg = Ffmpeg {
        path: "unused".into(),
        version: "test".into(),
    };
    let (_, written) = write(&ffmpeg, Path::new("x.mkv"), &go_on, |feed| {
        let nothing = Slate {
            frames: 0,
            ..slate()
        };
        feed.open(&nothing, Vec::new())
    });
    let error = written.unwrap_err().to_string();
    assert!(error.contains("0 frames of 32 x 32"), "{error}");
}
