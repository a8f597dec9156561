//! Whether devices make right films: the smallest clip of the built-in model on each, twice, beside the processor's.

use std::{
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use diffusion::{Clip, Control, DiffusionError, Progress, Recipe, Start, Weights};
use kernels::{Device, KernelError, check::relative_distance};

use crate::{client::chain, device, host, probe};

/// How far a card may be off: its activations are BF16, those of the processor F32. Relative, as ||a - b|| / ||b||.
pub const ALLOWED: Distances = Distances {
    latents: 3e-2,
    pictures: 3e-2,
    sound: 2e-1,
};
/// A card has answered long before, also when it compiles its kernels first.
const PATIENCE: Duration = Duration::from_secs(240);

/// How far two clips are from each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distances {
    /// Of the picture's latents, after the step where that is most.
    pub latents: f64,
    /// Of all pixels.
    pub pictures: f64,
    /// Of all samples.
    pub sound: f64,
}

impl Distances {
    fn of(film: &Film, reference: &Film) -> Self {
        let levels = |film: &Film| -> Vec<f32> {
            film.clip
                .frames
                .iter()
                .map(|level| f32::from(*level))
                .collect()
        };
        let steps = film.latents.iter().zip(&reference.latents);
        let latents = steps.map(|(found, expected)| relative_distance(found, expected));
        Self {
            latents: match film.latents.len() == reference.latents.len() {
                true => latents.fold(0.0, f64::max),
                false => f64::INFINITY,
            },
            pictures: relative_distance(&levels(film), &levels(reference)),
            sound: relative_distance(&film.clip.samples, &reference.clip.samples),
        }
    }

    /// What is beyond what is allowed, as words; NaN is.
    fn wrong(&self) -> Option<&'static str> {
        let beyond = |found: f64, allowed: f64| found.is_nan() || found > allowed;
        if beyond(self.latents, ALLOWED.latents) {
            Some("its latents are wrong")
        } else if beyond(self.pictures, ALLOWED.pictures) {
            Some("its pictures are wrong")
        } else {
            beyond(self.sound, ALLOWED.sound).then_some("its sound is wrong")
        }
    }
}

/// A device that was tried.
#[derive(Debug)]
pub struct Tried {
    /// For people.
    pub name: String,
    /// What it made, or why it made nothing.
    pub made: Result<Made, String>,
}

/// What a device made.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// The second of its clips, from the prompt to the last sample.
    pub took: Duration,
    /// Memory with the weights, as the engine foretold it.
    pub foretold_bytes: u64,
    /// The most that was in use; absent where the system does not tell.
    pub seen_bytes: Option<u64>,
    /// From the processor's clip; absent for that itself.
    pub off: Option<Distances>,
    /// Both clips have the same bits.
    pub repeats: bool,
}

impl Tried {
    /// Why it must not render; none when all was right.
    pub fn wrong(&self) -> Option<String> {
        match &self.made {
            Err(why) => Some(why.clone()),
            Ok(made) if !made.repeats => Some("two runs gave different films".into()),
            Ok(made) => made.off.and_then(|off| off.wrong()).map(str::to_owned),
        }
    }
}

/// A clip with the latents after every step.
#[derive(Debug, Default)]
pub struct Film {
    clip: Clip,
    latents: Vec<Vec<f32>>,
}

/// What is rendered, in words.
pub fn clip(dir: &Path) -> Result<String, DiffusionError> {
    let weights = Weights::open(dir, &Device::cpu(1)?)?;
    let recipe = recipe(&weights);
    Ok(format!(
        "{}x{}, {} frames, {} steps, each device twice",
        recipe.width,
        recipe.height,
        recipe.frames,
        weights.steps(&recipe)
    ))
}

/// The processor's clip, and how it went.
pub fn on_processor(dir: &Path, threads: usize) -> (Tried, Option<Film>) {
    let device = match Device::cpu(threads) {
        Ok(device) => device,
        Err(error) => return failed("processor", &error),
    };
    let name = format!("processor, {} threads", device.threads());
    match on(&device, dir, None) {
        Ok((made, film)) => (
            Tried {
                name,
                made: Ok(made),
            },
            Some(film),
        ),
        Err(error) => failed(&name, &error),
    }
}

fn failed(name: &str, error: &dyn std::error::Error) -> (Tried, Option<Film>) {
    let tried = Tried {
        name: name.into(),
        made: Err(chain(error)),
    };
    (tried, None)
}

/// How the card of this number does beside the processor's clip. One that does not answer is left behind, with the
/// thread that waits for it.
pub fn on_card(ordinal: usize, dir: &Path, lib_dirs: &[PathBuf], reference: Film) -> (Tried, Film) {
    let (to, from) = mpsc::channel();
    let (dir, lib_dirs) = (dir.to_path_buf(), lib_dirs.to_vec());
    let kept = Film {
        clip: reference.clip.clone(),
        latents: reference.latents.clone(),
    };
    thread::spawn(move || {
        let opened: Result<_, KernelError> = device::card(ordinal, 0, &lib_dirs);
        let made = opened
            .map_err(|error| chain(&error))
            .and_then(|(device, name)| {
                let _ = to.send(Err(name));
                beside(&device, &dir, &reference)
            });
        let _ = to.send(Ok(made));
    });
    let mut name = format!("GPU {ordinal}");
    let end = Instant::now() + PATIENCE;
    let made = loop {
        match from.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(Err(card)) => name = format!("{name}, {card}"),
            Ok(Ok(made)) => break made,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                break Err(format!("it did not answer within {} s", PATIENCE.as_secs()));
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                break Err("the engine stopped at a broken invariant".into());
            }
        }
    };
    (Tried { name, made }, kept)
}

/// How an open device does beside the processor's clip.
pub fn beside(device: &Device, dir: &Path, reference: &Film) -> Result<Made, String> {
    let made = on(device, dir, Some(reference));
    made.map(|(made, _)| made).map_err(|error| chain(&error))
}

/// Renders twice on a device.
fn on(
    device: &Device,
    dir: &Path,
    reference: Option<&Film>,
) -> Result<(Made, Film), DiffusionError> {
    let of_card = device.watch_memory();
    let of_process = host::PeakWatch::start();
    let weights = Weights::open(dir, device)?;
    // What loading took for a moment is no part of a run.
    device.watch_memory();
    let recipe = recipe(&weights);
    let foretold_bytes = weights.plan(&recipe)?.memory.peak_bytes();
    let first = film(&weights, &recipe)?;
    let began = Instant::now();
    let second = film(&weights, &recipe)?;
    let took = began.elapsed();
    let seen_bytes = match of_card {
        Some(watch) => Some(watch.grown_bytes()),
        None => of_process.and_then(|watch| watch.grown_bytes()),
    };
    let made = Made {
        took,
        foretold_bytes,
        seen_bytes,
        off: reference.map(|reference| Distances::of(&second, reference)),
        repeats: is_same(&first, &second),
    };
    Ok((made, second))
}

fn is_same(first: &Film, second: &Film) -> bool {
    let bits = |values: &[f32]| {
        values
            .iter()
            .map(|value| value.to_bits())
            .collect::<Vec<_>>()
    };
    let all = |film: &Film| {
        film.latents
            .iter()
            .map(|latents| bits(latents))
            .collect::<Vec<_>>()
    };
    first.clip.frames == second.clip.frames
        && bits(&first.clip.samples) == bits(&second.clip.samples)
        && all(first) == all(second)
}

fn film(weights: &Weights, recipe: &Recipe) -> Result<Film, DiffusionError> {
    let mut film = Film::default();
    let mut on_step = |progress: &Progress<'_>| {
        film.latents
            .push(progress.checkpoint().latents().video.clone());
        Control::Continue
    };
    diffusion::generate(weights, recipe, Start::Fresh, &mut on_step, &mut film.clip)?;
    Ok(film)
}

/// That of the probe, with one step of frames.
fn recipe(weights: &Weights) -> Recipe {
    Recipe {
        frames: 1 + weights.info().frames_step,
        ..probe::recipe(weights.info())
    }
}
