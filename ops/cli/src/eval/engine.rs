//! Films of the model under test: opens its weights and renders scenes by their captions.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use diffusion::{
    Clip, Control, Generated, Given, GuidanceChanges, ModelInfo, Picture, Recipe, Shift, Start,
    Weights,
};
use kernels::Device;

use super::film::Film;

/// What a film is asked for by: a scene of any world.
pub trait Asked: Sync {
    fn caption(&self) -> &str;
    /// Width and height in pixels.
    fn size(&self) -> [usize; 2];
    /// Frames, and frames a second.
    fn length(&self) -> (usize, f64);
}

/// Weights twice: on all threads for single films, on one thread for many films side by side.
pub struct Engine {
    wide: Weights,
    narrow: Weights,
    /// Wall time and peak resident memory of one film of the model's default size.
    pub default_film: DefaultFilm,
}

/// What the default film costs.
pub struct DefaultFilm {
    pub seconds: f64,
    /// MiB; `None` where the system does not tell.
    pub peak_rss_mib: Option<f64>,
    pub what: String,
}

impl Engine {
    /// Opens the weights in `dir` and times the default film before anything else takes memory.
    pub fn open(dir: &Path, threads: usize) -> Result<Engine> {
        let open = |threads| {
            let device = Device::cpu(threads).context("cannot start the compute threads")?;
            Weights::open(dir, &device)
                .with_context(|| format!("cannot load the weights in {}", dir.display()))
        };
        let wide = open(threads)?;
        let default_film = time_default(&wide)?;
        Ok(Engine {
            narrow: open(1)?,
            wide,
            default_film,
        })
    }

    pub fn info(&self) -> &ModelInfo {
        self.wide.info()
    }

    /// The model's film for a scene's caption, size and length. May be called from many threads.
    pub fn film(&self, scene: &impl Asked, seed: u64) -> Result<Film> {
        Ok(film(&clip(&self.narrow, &recipe(scene, seed))?))
    }

    /// The film that begins with `first`, a frame of the scene.
    pub fn film_from(&self, scene: &impl Asked, seed: u64, first: &[u8]) -> Result<Film> {
        let mut recipe = recipe(scene, seed);
        recipe.given = Given::first_frame(Some(Picture {
            width: recipe.width,
            height: recipe.height,
            rgb: first.to_vec(),
        }));
        Ok(film(&clip(&self.narrow, &recipe)?))
    }

    /// True if the latents have the same digest on all threads, on all threads again, and on one.
    pub fn is_deterministic(&self, scene: &impl Asked, seed: u64) -> Result<bool> {
        let recipe = recipe(scene, seed);
        let digest = |weights| clip(weights, &recipe).map(|c| c.latents_digest);
        let first = digest(&self.wide)?;
        Ok(first == digest(&self.wide)? && first == digest(&self.narrow)?)
    }
}

/// The faster of two runs, so that the machine's other work disturbs less.
fn time_default(weights: &Weights) -> Result<DefaultFilm> {
    let prompt = "a red rubber ball bounces on the floor by day";
    let recipe = Recipe::with_defaults(prompt, 1, weights.info());
    let mut seconds = f64::INFINITY;
    for _ in 0..2 {
        let start = Instant::now();
        clip(weights, &recipe)?;
        seconds = seconds.min(start.elapsed().as_secs_f64());
    }
    Ok(DefaultFilm {
        seconds,
        peak_rss_mib: peak_rss_mib(),
        what: format!(
            "{}x{}, {} frames",
            recipe.width, recipe.height, recipe.frames
        ),
    })
}

fn recipe(scene: &impl Asked, seed: u64) -> Recipe {
    let ([width, height], (frames, fps)) = (scene.size(), scene.length());
    Recipe {
        prompt: scene.caption().to_owned(),
        negative_prompt: String::new(),
        width: width as u32,
        height: height as u32,
        frames: frames as u32,
        fps: fps.round() as u32,
        seed,
        steps: None,
        guidance: GuidanceChanges::default(),
        shift: Shift::default(),
        refine: None,
        renoise: None,
        window_s: None,
        given: Given::default(),
    }
}

fn clip(weights: &Weights, recipe: &Recipe) -> Result<Clip> {
    let mut clip = Clip::default();
    let mut go = |_: &diffusion::Progress<'_>| Control::Continue;
    let made = diffusion::generate(weights, recipe, Start::Fresh, &mut go, &mut clip)
        .with_context(|| format!("cannot render '{}'", recipe.prompt))?;
    match made {
        Generated::Finished => Ok(clip),
        Generated::Paused(_) => bail!("the engine paused although nobody asked"),
    }
}

/// A clip as the detectors take it: sound mixed down to one channel.
fn film(clip: &Clip) -> Film {
    let channels = usize::from(clip.channels).max(1);
    let mix = |frame: &[f32]| frame.iter().sum::<f32>() / channels as f32;
    Film {
        width: clip.width as usize,
        height: clip.height as usize,
        fps: f64::from(clip.fps),
        rgb: clip.frames.clone(),
        samples: clip.samples.chunks_exact(channels).map(mix).collect(),
        rate: clip.sample_rate,
    }
}

/// Highest resident memory of this process so far.
pub fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}
