//! Runs of the built-in model with pictures, film or sound given.

use super::*;
use crate::given::{GivenFilm, GivenSound, Span, Still, Wave};

/// Two latent frames more than [`short`] has.
fn longer(seed: u64) -> Recipe {
    Recipe {
        frames: 1 + 3 * WEIGHTS.info().frames_step,
        ..short(seed)
    }
}

/// A picture with a gradient of its own.
fn gradient(step: usize) -> Picture {
    let recipe = short(0);
    let count = (recipe.width * recipe.height * 3) as usize;
    Picture {
        width: recipe.width,
        height: recipe.height,
        rgb: (0..count).map(|i| (i / step % 256) as u8).collect(),
    }
}

fn wave(seconds: f64, hertz: f64) -> Wave {
    let format = WEIGHTS.info().hears.unwrap();
    let rate = f64::from(format.rate);
    let sample = |at: usize| (at as f64 * hertz / rate * std::f64::consts::TAU).sin() as f32 * 0.3;
    Wave {
        format,
        samples: (0..(seconds * rate) as usize).map(sample).collect(),
    }
}

/// A sound that the built-in model hears as clips have it.
fn sound(seconds: f64, remake: Option<Span>) -> Option<GivenSound> {
    let wave = wave(seconds, 330.0);
    assert_eq!(WEIGHTS.info().hears, Some(WEIGHTS.info().gives()));
    Some(GivenSound {
        heard: wave.clone(),
        kept: wave,
        remake,
    })
}

fn film(clip: &Clip, frames: u32, remake: Option<Span>) -> Option<GivenFilm> {
    let picture = clip.width as usize * clip.height as usize * 3;
    Some(GivenFilm {
        rgb: clip.frames[..frames as usize * picture].to_vec(),
        remake,
    })
}

fn span(start_s: f64, end_s: f64) -> Option<Span> {
    Some(Span { start_s, end_s })
}

/// Latents after every step, and the clip; the clip is the same when the run is cut after each.
fn watched(recipe: &Recipe) -> (Vec<Latents>, Clip) {
    let mut seen = Vec::new();
    let mut on_step = |progress: &Progress<'_>| {
        seen.push(progress.checkpoint().latents);
        Control::Continue
    };
    let clip = finish_telling(&WEIGHTS, recipe, Start::Fresh, &mut on_step);
    for step in [0, 2] {
        let checkpoint = pause_when(recipe, |progress| progress.step == step);
        let stored = Checkpoint::from_bytes(&checkpoint.to_bytes()).unwrap();
        let resumed = finish(&WEIGHTS, recipe, Start::Resume(Box::new(stored)));
        assert_same(&clip, &resumed, &format!("resumed at {step}"));
    }
    (seen, clip)
}

/// Values of one stream that are the same after every step.
fn constant(seen: &[Latents], stream: fn(&Latents) -> &Vec<f32>) -> Vec<bool> {
    let first = stream(&seen[0]);
    let same = |at: usize| seen.iter().all(|l| stream(l)[at] == first[at]);
    (0..first.len()).map(same).collect()
}

#[test]
fn pictures_at_other_frames_are_held_behind_the_clip_and_change_it() {
    let still = |frame, step, strength| Still {
        frame,
        picture: gradient(step),
        strength,
    };
    let mut recipe = longer(20);
    let plain = finish(&WEIGHTS, &recipe, Start::Fresh);
    let last = recipe.frames - 1;
    recipe.given.stills = vec![still(0, 7, 1.0), still(6, 11, 1.0), still(last, 5, 0.5)];
    let (seen, clip) = watched(&recipe);
    assert_ne!(clip.latents_digest, plain.latents_digest);
    let constant = constant(&seen, |l| &l.video);
    let frame = constant.len() / 6;
    let held: Vec<bool> = constant
        .chunks(frame)
        .map(|values| values.iter().all(|same| *same))
        .collect();
    assert_eq!(held, [true, false, false, false, true, false]);
    recipe.given.stills.remove(1);
    let without = finish(&WEIGHTS, &recipe, Start::Fresh);
    assert_ne!(clip.latents_digest, without.latents_digest);
    assert_eq!(
        clip.frame_count(),
        recipe.frames,
        "no picture for the appended ones"
    );
}

#[test]
fn pictures_follow_a_sound_that_is_given_whole_and_it_comes_back_as_it_was() {
    let mut recipe = longer(21);
    let plain = finish(&WEIGHTS, &recipe, Start::Fresh);
    recipe.given.sound = sound(2.0, None);
    let (seen, clip) = watched(&recipe);
    assert!(constant(&seen, |l| &l.audio).iter().all(|same| *same));
    let given = &recipe.given.sound.as_ref().unwrap().kept.samples;
    assert!(clip.samples[..] == given[..clip.samples.len()]);
    assert!(clip.frames != plain.frames);
}

#[test]
fn sound_follows_a_film_that_is_given_whole_and_it_comes_back_as_it_was() {
    let recipe = longer(22);
    let plain = finish(&WEIGHTS, &recipe, Start::Fresh);
    let other = finish(&WEIGHTS, &longer(23), Start::Fresh);
    let mut scored = recipe.clone();
    scored.given.film = film(&other, recipe.frames, None);
    let (seen, clip) = watched(&scored);
    assert!(constant(&seen, |l| &l.video).iter().all(|same| *same));
    assert!(clip.frames == other.frames && clip.samples != plain.samples);
    assert!(clip.samples != other.samples);
}

#[test]
fn a_clip_goes_on_from_the_end_of_another() {
    let before = finish(&WEIGHTS, &longer(24), Start::Fresh);
    let mut recipe = longer(25);
    // Of six pictures the last one covers no latent frame whole.
    let kept = 1 + WEIGHTS.info().frames_step;
    recipe.given.film = film(&before, kept + 1, None);
    recipe.given.sound = sound(0.3, None);
    let (seen, clip) = watched(&recipe);
    let picture = clip.frames.len() / recipe.frames as usize;
    let kept = kept as usize * picture;
    assert!(clip.frames[..kept] == before.frames[..kept]);
    assert!(clip.frames[kept..] != before.frames[kept..]);
    let video = constant(&seen, |l| &l.video);
    assert!(video[..video.len() / 2].iter().all(|same| *same));
    assert!(!video[video.len() / 2..].contains(&true));
    let given = &recipe.given.sound.as_ref().unwrap().kept.samples;
    let rate = WEIGHTS.info().sample_rate as usize;
    assert!(clip.samples[..rate / 4] == given[..rate / 4]);
    assert!(clip.samples[rate / 2..].iter().any(|sample| *sample != 0.0));
}

#[test]
fn a_span_is_made_anew_and_the_rest_stays_to_the_byte() {
    let before = finish(&WEIGHTS, &longer(26), Start::Fresh);
    let mut recipe = longer(27);
    // Pictures 5 to 8 are the third latent frame: 0.3125 to 0.5625 s.
    recipe.given.film = film(&before, recipe.frames, span(0.35, 0.4));
    recipe.given.sound = sound(2.0, span(0.4, 0.5));
    let (_, clip) = watched(&recipe);
    let picture = clip.frames.len() / recipe.frames as usize;
    let same = |frames: std::ops::Range<usize>| {
        let bytes = frames.start * picture..frames.end * picture;
        clip.frames[bytes.clone()] == before.frames[bytes]
    };
    assert!(same(0..5) && !same(5..9) && same(9..13));
    let given = &recipe.given.sound.as_ref().unwrap().kept.samples;
    let at = |second: f64| (second * f64::from(WEIGHTS.info().sample_rate)) as usize;
    let end = clip.samples.len();
    assert!(clip.samples[..at(0.35)] == given[..at(0.35)]);
    assert!(clip.samples[at(0.42)..at(0.48)] != given[at(0.42)..at(0.48)]);
    assert!(clip.samples[at(0.56)..] == given[at(0.56)..end]);
}

#[test]
fn guidance_of_each_stream_and_its_passes_change_the_clip() {
    let plain = finish(&WEIGHTS, &short(28), Start::Fresh);
    let changes: [fn(&mut Recipe); 7] = [
        |r| r.guidance.video.scale = Some(4.0),
        |r| r.guidance.audio.scale = Some(0.0),
        |r| r.guidance.video.perturbed = Some(1.0),
        |r| r.guidance.audio.modality = Some(3.0),
        |r| r.guidance.audio.rescale = Some(0.7),
        |r| {
            r.guidance.video.perturbed = Some(1.0);
            r.guidance.perturbed_blocks = Some(vec![1, 2]);
        },
        // The block whose self-attention passes share where they have the same of it.
        |r| {
            r.guidance.video.perturbed = Some(1.0);
            r.guidance.perturbed_blocks = Some(vec![0]);
        },
    ];
    let mut digests = vec![plain.latents_digest];
    for change in changes {
        let mut recipe = short(28);
        change(&mut recipe);
        let digest = finish(&WEIGHTS, &recipe, Start::Fresh).latents_digest;
        assert!(!digests.contains(&digest), "{:?}", recipe.guidance);
        digests.push(digest);
    }
}
