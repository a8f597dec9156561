//! Whole runs of the built-in model: against the reference, over threads, paused and resumed.

mod given;
#[cfg(unix)]
mod stages;

use std::path::PathBuf;
use std::sync::LazyLock;

use kernels::Device;

use super::*;
use crate::checkpoint::CheckpointError;
use crate::clip::Clip;
use crate::given::Given;
use crate::golden::Golden;
use crate::recipe::Picture;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../weights/builtin")
}

fn open(threads: usize) -> Weights {
    Weights::open(&folder(), &Device::cpu(threads).unwrap()).unwrap()
}

static WEIGHTS: LazyLock<Weights> = LazyLock::new(|| open(2));

/// A clip of two latent frames in a few steps.
fn short(seed: u64) -> Recipe {
    let recipe = Recipe::with_defaults("a red ball bounces on the floor", seed, WEIGHTS.info());
    Recipe {
        frames: 1 + WEIGHTS.info().frames_step,
        steps: Some(4),
        ..recipe
    }
}

fn go(_: &Progress<'_>) -> Control {
    Control::Continue
}

fn finish(weights: &Weights, recipe: &Recipe, start: Start) -> Clip {
    finish_telling(weights, recipe, start, &mut go)
}

fn finish_telling(
    weights: &Weights,
    recipe: &Recipe,
    start: Start,
    on_step: &mut OnStep<'_>,
) -> Clip {
    let mut clip = Clip::default();
    match run(weights, recipe, start, on_step, &mut clip).unwrap() {
        Generated::Finished => clip,
        Generated::Paused(_) => panic!("nobody paused it"),
    }
}

fn error_of(weights: &Weights, recipe: &Recipe, start: Start) -> DiffusionError {
    let mut on_step = |_: &Progress<'_>| Control::Continue;
    run(weights, recipe, start, &mut on_step, &mut Clip::default()).unwrap_err()
}

/// Runs until `stop` is true, then gives the checkpoint.
fn pause_when(recipe: &Recipe, stop: impl Fn(&Progress<'_>) -> bool + Send + Sync) -> Checkpoint {
    let mut on_step = |progress: &Progress<'_>| {
        if stop(progress) {
            Control::Pause
        } else {
            Control::Continue
        }
    };
    let mut sink = Clip::default();
    match run(&WEIGHTS, recipe, Start::Fresh, &mut on_step, &mut sink).unwrap() {
        Generated::Paused(checkpoint) => *checkpoint,
        Generated::Finished => panic!("it should have paused"),
    }
}

fn assert_same(a: &Clip, b: &Clip, what: &str) {
    assert_eq!(a.latents_digest, b.latents_digest, "latents: {what}");
    assert!(
        a.frames == b.frames && a.samples == b.samples,
        "decoded: {what}"
    );
}

fn number<T: serde::de::DeserializeOwned>(golden: &Golden, note: &str) -> T {
    serde_json::from_str(golden.note(note)).unwrap()
}

/// The golden case of the exporter, with its own noise.
fn golden_recipe(golden: &Golden) -> Recipe {
    Recipe {
        prompt: golden.note("prompt").to_owned(),
        negative_prompt: golden.note("negative_prompt").to_owned(),
        width: number(golden, "width"),
        height: number(golden, "height"),
        frames: number(golden, "frames"),
        fps: number(golden, "fps"),
        seed: number(golden, "seed"),
        steps: None,
        ..Recipe::with_defaults("", 0, WEIGHTS.info())
    }
}

/// Seventeen latent frames of 28 tokens: more than a tile of queries.
fn long(window_s: Option<f32>) -> Recipe {
    Recipe {
        width: 112,
        frames: 1 + 16 * WEIGHTS.info().frames_step,
        steps: Some(2),
        window_s,
        ..short(3)
    }
}

#[test]
fn a_window_over_the_whole_clip_changes_no_bit_and_a_short_one_saves_work() {
    // Work is counted by the device, which other tests must not share; the first film encodes the prompt too.
    let weights = open(2);
    let film = |window_s| {
        let before = weights.device.flop();
        let clip = finish(&weights, &long(window_s), Start::Fresh);
        (clip, weights.device.flop() - before)
    };
    let ((all, _), (wide, work)) = (film(None), film(Some(60.0)));
    assert_same(&all, &wide, "a window over everything");
    let (narrow, less) = film(Some(0.1));
    assert_ne!(narrow.latents_digest, all.latents_digest);
    assert!(less < work, "{less} of {work}");
}

#[test]
fn the_text_context_equals_the_reference() {
    let golden = Golden::open("end_to_end");
    let prompts = [
        ("prompt", "context"),
        ("negative_prompt", "negative_context"),
    ];
    for (note, name) in prompts {
        let context = WEIGHTS.context(golden.note(note)).unwrap();
        golden.check(&format!("{name}_video"), context.video.f32s(), 1e-4);
        golden.check(&format!("{name}_audio"), context.audio.f32s(), 1e-4);
    }
}

#[test]
fn the_built_in_model_equals_the_reference_from_noise_to_samples() {
    let golden = Golden::open("end_to_end");
    let recipe = golden_recipe(&golden);
    let noise = Latents {
        video: golden.tensor("noise_video").f32s().to_vec(),
        audio: golden.tensor("noise_audio").f32s().to_vec(),
    };
    let sigmas: Vec<f32> = number(&golden, "sigmas");
    assert_eq!(Run::new(&WEIGHTS, &recipe).stages[0].sigmas, sigmas);
    let mut on_step = |progress: &Progress<'_>| {
        if progress.step == 1 || progress.step == progress.steps {
            let latents = progress.checkpoint().latents;
            let first = progress.step == 1;
            golden.check(
                if first { "video_after_step_1" } else { "video" },
                &latents.video,
                1e-3,
            );
            golden.check(
                if first { "audio_after_step_1" } else { "audio" },
                &latents.audio,
                1e-3,
            );
        }
        Control::Continue
    };
    let clip = finish_telling(&WEIGHTS, &recipe, Start::Noise(noise), &mut on_step);
    check_frames(&golden, &clip);
    golden.check("samples", &clip.samples[..4096], 2e-3);
}

/// The reference holds three frames as [frame, rgb, row, column] in -1..1 and in half precision.
fn check_frames(golden: &Golden, clip: &Clip) {
    let expected = golden.tensor("frames");
    let indices: Vec<u32> = number(golden, "frame_indices");
    let (width, height) = (clip.width as usize, clip.height as usize);
    for (picked, index) in indices.into_iter().enumerate() {
        let frame = clip.frame(index).unwrap();
        for (at, level) in frame.iter().enumerate() {
            let (pixel, colour) = (at / 3, at % 3);
            let value = expected.f32s()[(picked * 3 + colour) * width * height + pixel];
            let difference = f32::from(*level) - (value + 1.0) * 127.5;
            assert!(
                difference.abs() < 1.2,
                "frame {index} byte {at}: {level}, expected {value}"
            );
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let recipe = short(3);
    let two = finish(&WEIGHTS, &recipe, Start::Fresh);
    assert_same(&two, &finish(&open(1), &recipe, Start::Fresh), "1 thread");
    assert_same(&two, &finish(&open(3), &recipe, Start::Fresh), "3 threads");
    let other = finish(&WEIGHTS, &short(4), Start::Fresh);
    assert_ne!(two.latents_digest, other.latents_digest);
}

#[test]
fn a_run_resumed_at_any_step_gives_the_same_bits() {
    let recipe = short(5);
    let whole = finish(&WEIGHTS, &recipe, Start::Fresh);
    for step in 0..=4 {
        let checkpoint = pause_when(&recipe, |progress| progress.step == step);
        assert_eq!(
            (checkpoint.step(), checkpoint.steps(), checkpoint.seed()),
            (step, 4, 5)
        );
        let stored = Checkpoint::from_bytes(&checkpoint.to_bytes()).unwrap();
        let resumed = finish(&WEIGHTS, &recipe, Start::Resume(Box::new(stored)));
        assert_same(&whole, &resumed, &format!("resumed at {step}"));
    }
}

#[test]
fn a_checkpoint_taken_in_passing_does_not_disturb_the_run() {
    let recipe = short(6);
    let whole = finish(&WEIGHTS, &recipe, Start::Fresh);
    let mut taken = Vec::new();
    let mut on_step = |progress: &Progress<'_>| {
        taken.push(progress.checkpoint());
        Control::Continue
    };
    let clip = finish_telling(&WEIGHTS, &recipe, Start::Fresh, &mut on_step);
    assert_same(&whole, &clip, "with checkpoints");
    let steps: Vec<u32> = taken.iter().map(Checkpoint::step).collect();
    assert_eq!(steps, [0, 1, 2, 3, 4, 4]);
}

#[test]
fn a_checkpoint_of_another_run_is_refused_with_the_reason() {
    let checkpoint = pause_when(&short(7), |progress| progress.step == 2);
    let refusal = |weights: &Weights, recipe: &Recipe, checkpoint: &Checkpoint| {
        let start = Start::Resume(Box::new(checkpoint.clone()));
        match error_of(weights, recipe, start) {
            DiffusionError::Checkpoint(CheckpointError::Foreign { what }) => what,
            other => panic!("another error: {other}"),
        }
    };
    assert_eq!(refusal(&WEIGHTS, &short(8), &checkpoint), "recipe");
    let mut foreign = checkpoint.clone();
    foreign.identity.weights = [0; 32];
    assert_eq!(refusal(&WEIGHTS, &short(7), &foreign), "set of weights");
    let mut foreign = checkpoint.clone();
    foreign.identity.device_class = "abacus".to_owned();
    assert_eq!(refusal(&WEIGHTS, &short(7), &foreign), "class of device");
}

#[test]
fn a_first_frame_is_kept_through_every_step() {
    let info = WEIGHTS.info();
    let (width, height) = (info.sizes[0].width, info.sizes[0].height);
    let rgb = (0..width * height * 3)
        .map(|i| (i / 7 % 256) as u8)
        .collect::<Vec<_>>();
    let picture = Picture {
        width,
        height,
        rgb: rgb.clone(),
    };
    let recipe = Recipe {
        given: Given::first_frame(Some(picture)),
        ..short(9)
    };
    let encoder = WEIGHTS.video_encoder.as_ref().unwrap();
    let given = encoder
        .latents(&rgb, [1, height as usize, width as usize])
        .unwrap();
    let mut on_step = |progress: &Progress<'_>| {
        assert_eq!(progress.checkpoint().latents.video[..given.len()], given);
        Control::Continue
    };
    let clip = finish_telling(&WEIGHTS, &recipe, Start::Fresh, &mut on_step);
    let plain = finish(&WEIGHTS, &short(9), Start::Fresh);
    assert_ne!(clip.latents_digest, plain.latents_digest);
    let checkpoint = pause_when(&recipe, |progress| progress.step == 1);
    let resumed = finish(&WEIGHTS, &recipe, Start::Resume(Box::new(checkpoint)));
    assert_same(&clip, &resumed, "with a first frame");
}

#[test]
fn sound_is_exactly_as_long_as_the_pictures() {
    let recipe = short(10);
    let clip = finish(&WEIGHTS, &recipe, Start::Fresh);
    let seconds = f64::from(recipe.frames) / f64::from(recipe.fps);
    let samples = (seconds * f64::from(clip.sample_rate)).round() as usize;
    assert_eq!(clip.samples.len(), samples * usize::from(clip.channels));
    assert_eq!(clip.frame_count(), recipe.frames);
    assert!(
        clip.samples
            .iter()
            .all(|sample| (-1.0..=1.0).contains(sample))
    );
}

#[test]
fn latents_that_are_not_numbers_end_the_run() {
    let recipe = short(11);
    let mut latents = pause_when(&recipe, |_| true).latents;
    latents.audio[3] = f32::NAN;
    let error = error_of(&WEIGHTS, &recipe, Start::Noise(latents.clone()));
    assert!(
        matches!(error, DiffusionError::Numeric { step: 1, .. }),
        "{error}"
    );
    latents.video.pop();
    let error = error_of(&WEIGHTS, &recipe, Start::Noise(latents));
    assert!(
        matches!(
            error,
            DiffusionError::Recipe {
                field: "latents",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_recipe_is_checked_before_anything_runs() {
    let recipe = Recipe {
        frames: 2,
        ..short(12)
    };
    let mut on_step = |_: &Progress<'_>| panic!("no step is due");
    let mut sink = Clip::default();
    let error = run(&WEIGHTS, &recipe, Start::Fresh, &mut on_step, &mut sink).unwrap_err();
    assert!(
        matches!(
            error,
            DiffusionError::Recipe {
                field: "frames",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_pause_after_the_last_step_comes_before_decoding_and_only_decoding_is_left() {
    let recipe = short(3);
    let mut looks = Vec::new();
    let mut on_step = |progress: &Progress<'_>| {
        looks.push((progress.phase, progress.step));
        match progress.phase {
            Phase::Decode => Control::Pause,
            _ => Control::Continue,
        }
    };
    let mut sink = Clip::default();
    let ended = run(&WEIGHTS, &recipe, Start::Fresh, &mut on_step, &mut sink).unwrap();
    let Generated::Paused(checkpoint) = ended else {
        panic!("it should have paused")
    };
    let decodes = looks.iter().filter(|(phase, _)| *phase == Phase::Decode);
    assert_eq!((decodes.count(), checkpoint.step), (1, 4), "{looks:?}");
    assert!(sink.frames.is_empty() && sink.samples.is_empty());
    let whole = finish(&WEIGHTS, &recipe, Start::Fresh);
    let resumed = finish(&WEIGHTS, &recipe, Start::Resume(checkpoint));
    assert_same(&whole, &resumed, "resumed at the last step");
}
