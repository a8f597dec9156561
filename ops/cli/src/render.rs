//! `dailies render`: one prompt to one film in this process, without a scheduler.
//!
//! The way is that of the farm: the same admission makes the same tasks, the same engine and the
//! same FFmpeg steps work them off. Only leases and uploads are left out.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

use agent::{
    assemble::{self, FilmFiles},
    catalogue::{self, Entry},
    first_frame, mux,
    mux::Ffmpeg,
    render, shot,
};
use anyhow::{Context, Result, bail};
use clap::Args;
use diffusion::{Control, Generated, Sink, Slate, Start};
use kernels::Device;
use scheduler::{
    admission::{
        self, Catalogue, CatalogueSettings, Order, Reference, ReferenceFit, SEED_MAX, VideoRequest,
    },
    review::Blocklist,
};
use schemas::{
    Digest,
    task::{AssembleSpec, RenderSpec, TaskSpec},
};

use crate::{
    film::{FilmArgs, MODEL_DEFAULT},
    progress::{Bar, seconds},
    save::Target,
};

#[derive(Args, Debug)]
pub struct RenderArgs {
    /// What to see and hear, such as "a red ball falls on a wooden floor".
    prompt: String,
    #[command(flatten)]
    film: FilmArgs,
    /// Where to put the film.
    #[arg(short, long, value_name = "FILE", default_value = "film.mp4")]
    output: PathBuf,
    /// Folder of weights in the diffusers layout [default: the built-in model]
    #[arg(long, value_name = "DIR")]
    weights: Option<PathBuf>,
    /// Threads of the engine [default: one for each core]. The film does not depend on it.
    #[arg(long)]
    threads: Option<usize>,
}

/// What was made, for the closing line.
struct Made {
    files: FilmFiles,
    latents: Vec<String>,
}

/// Renders until done, or until Ctrl-C, which leaves nothing behind.
pub async fn run(args: RenderArgs) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let mut work = tokio::task::spawn_blocking(move || film(&args, &flag));
    tokio::select! {
        done = &mut work => done.context("the engine stopped at a broken invariant")?,
        asked = crate::signals::asked_to_end() => {
            stop.store(true, Relaxed);
            let _ = work.await;
            bail!("stopped by {}; nothing was written", asked?)
        }
    }
}

fn film(args: &RenderArgs, stop: &AtomicBool) -> Result<()> {
    let started = Instant::now();
    let target = Target::new(&args.output)?;
    let threads = match args.threads {
        Some(0) => bail!("--threads must be at least 1"),
        Some(threads) => threads,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let ffmpeg = Ffmpeg::find(None)?;
    let device = Device::cpu(threads)?;
    let dir = match &args.weights {
        Some(dir) => dir.clone(),
        None => catalogue::find_builtin()?,
    };
    let entry = Entry::open(MODEL_DEFAULT.into(), &dir, &device)?;
    let order = order(&args.prompt, &args.film, &entry)?;
    for warning in &order.record.warnings {
        eprintln!("warning: {}", warning.message);
    }
    let seed = order.seed;
    let native = order.record.native_size.clone();
    let made = Shoot {
        ffmpeg,
        entry,
        order,
        dir: target.work(),
        stop,
    }
    .film()?;
    let film = made.files.film.clone();
    let summary = crate::summary::line(&made.files.facts);
    let shown = target.path().display().to_string();
    target.put(&film)?;
    println!(
        "{shown}: {summary}, rendered at {native} in {}, seed {seed}",
        seconds(started.elapsed().as_secs_f64())
    );
    println!("latents {}", made.latents.join(" "));
    Ok(())
}

/// The tasks that the farm would make of this request.
fn order(prompt: &str, args: &FilmArgs, entry: &Entry) -> Result<Order> {
    let image = args.image.as_deref().map(read_image).transpose()?;
    let request = VideoRequest {
        prompt: prompt.into(),
        model: Some(MODEL_DEFAULT.into()),
        seconds: args.seconds.clone(),
        size: args.size.clone(),
        input_reference: image.map(|bytes| Reference(bytes.into())),
        reference_fit: ReferenceFit::Cover,
        seed: args.seed,
        negative_prompt: args.negative.clone(),
        steps: args.steps,
        guidance_scale: args.guidance,
        ..VideoRequest::default()
    };
    let catalogue = Catalogue::new(&CatalogueSettings::default(), &[entry.advertise()]);
    let seed = uuid::Uuid::now_v7().as_u128() as u64 & SEED_MAX;
    admission::decide(&request, &catalogue, &Blocklist::default(), seed)
        .map_err(|refusal| anyhow::anyhow!(refusal.message))
}

pub fn read_image(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read the image {}", path.display()))
}

/// One run over the tasks of an order.
struct Shoot<'a> {
    ffmpeg: Ffmpeg,
    entry: Entry,
    order: Order,
    dir: &'a Path,
    stop: &'a AtomicBool,
}

impl Shoot<'_> {
    fn film(&self) -> Result<Made> {
        let bar = Bar::new();
        let steps = u64::from(self.order.record.shot_steps);
        let of = steps * (self.order.tasks.len() as u64 - 1);
        let (mut shots, mut latents) = (Vec::new(), Vec::new());
        for task in &self.order.tasks {
            match task {
                TaskSpec::Render(spec) => {
                    let done = steps * shots.len() as u64;
                    let (shot, digest) = self.shot(spec, &bar, done, of)?;
                    shots.push(shot);
                    latents.push(digest);
                }
                TaskSpec::Assemble(spec) => {
                    bar.show("film", of, of, None);
                    let files = self.assemble(spec, &shots)?;
                    return Ok(Made { files, latents });
                }
            }
        }
        bail!("the order has no film")
    }

    fn shot(&self, spec: &RenderSpec, bar: &Bar, done: u64, of: u64) -> Result<(PathBuf, String)> {
        let recipe = render::recipe(spec, self.first_frame(spec)?);
        let begun = Instant::now();
        let mut on_step = |progress: &diffusion::Progress<'_>| {
            let ran = u64::from(progress.step);
            let left = (ran > 0)
                .then(|| begun.elapsed().as_secs_f64() / ran as f64 * (of - done - ran) as f64);
            bar.show(progress.phase.name(), done + ran, of, left);
            match self.stop.load(Relaxed) {
                true => Control::Pause,
                false => Control::Continue,
            }
        };
        let weights = &self.entry.weights;
        let path = self.dir.join(format!("shot-{}.mkv", spec.shot));
        let mut latents = String::new();
        let stop = || self.stop.load(Relaxed);
        let (generated, written) = shot::write(&self.ffmpeg, &path, &stop, |feed| {
            let mut sink = Noted {
                feed,
                latents: &mut latents,
            };
            diffusion::generate(weights, &recipe, Start::Fresh, &mut on_step, &mut sink)
        });
        match (generated?, written) {
            (Generated::Paused(_), _) if stop() => bail!("stopped"),
            (_, written) => written?,
        }
        Ok((path, latents))
    }

    fn first_frame(&self, spec: &RenderSpec) -> Result<Option<diffusion::Picture>> {
        let Some(digest) = spec.first_frame else {
            return Ok(None);
        };
        let bytes = self
            .order
            .first_frames
            .iter()
            .find(|bytes| Digest::of(bytes) == digest);
        let bytes = bytes.context("the order lacks its first frame")?;
        let path = self.dir.join("first-frame");
        mux::write_file(&path, bytes)?;
        Ok(Some(first_frame::read(&path, spec.width, spec.height)?))
    }

    fn assemble(&self, spec: &AssembleSpec, shots: &[PathBuf]) -> Result<FilmFiles> {
        let stop = || self.stop.load(Relaxed);
        Ok(assemble::film(&self.ffmpeg, spec, shots, self.dir, &stop)?)
    }
}

/// A shot file's feed that remembers the digest of its latents.
struct Noted<'a> {
    feed: &'a mut shot::Feed,
    latents: &'a mut String,
}

impl Sink for Noted<'_> {
    fn open(&mut self, slate: &Slate, samples: Vec<f32>) -> Control {
        self.latents.clone_from(&slate.latents_digest);
        self.feed.open(slate, samples)
    }

    fn pictures(&mut self, rgb: &[u8]) -> Control {
        self.feed.pictures(rgb)
    }
}
