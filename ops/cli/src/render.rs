//! `dailies render`: one prompt to one film in this process, without a scheduler.
//!
//! The way is that of the farm: the same admission makes the same tasks, the same engine and the
//! same FFmpeg steps work them off. Only leases and uploads are left out.

mod inputs;
mod options;
mod shoot;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

use agent::{
    catalogue::{self, Entry},
    device::{Engine, Opened},
    given::Fit,
    mp4,
    mux::Ffmpeg,
};
use anyhow::{Context, Result, bail};
use clap::Args;
use kernels::Device;
use scheduler::{
    admission::{
        self, Catalogue, CatalogueSettings, Order, Reference, ReferenceFit, SEED_MAX, VideoRequest,
    },
    review::Blocklist,
};

use crate::{
    film::{FilmArgs, MODEL_DEFAULT},
    progress::seconds,
    save::Target,
};
use options::{GivenArgs, StageArgs, TuneArgs};
use shoot::{Shoot, context_frames};

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
    /// What computes. `cuda` is the first NVIDIA GPU, in bf16, so its films differ a little from the CPU's;
    /// `auto` takes it where it can be opened. `dailies doctor` says what it needs.
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceName,
    /// Folder that holds CUDA's libraries, besides the system's; may be given again.
    #[arg(long, value_name = "DIR")]
    cuda_lib_dir: Vec<PathBuf>,
    #[command(flatten)]
    given: GivenArgs,
    #[command(flatten)]
    tune: TuneArgs,
    #[command(flatten)]
    stages: StageArgs,
}

/// Names of [`Engine`] on the command line.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum DeviceName {
    Cpu,
    Cuda,
    Auto,
}

impl DeviceName {
    fn engine(self) -> Engine {
        match self {
            Self::Cpu => Engine::Cpu,
            Self::Cuda => Engine::Cuda,
            Self::Auto => Engine::Auto,
        }
    }
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
    let Opened { device, chosen } = args.device.engine().open(threads, &args.cuda_lib_dir)?;
    if let Some(chosen) = chosen {
        eprintln!("rendering on {chosen}");
    }
    let dir = match &args.weights {
        Some(dir) => dir.clone(),
        None => catalogue::find_builtin()?,
    };
    let entry = open(&dir, args.stages.refiner.as_deref(), &device)?;
    let order = order(args, &entry)?;
    for warning in &order.record.warnings {
        eprintln!("warning: {}", warning.message);
    }
    let seed = order.seed;
    let native = order.record.native_size.clone();
    let made = Shoot {
        args,
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

/// The weights, with another transformer for the second stage where one is named.
fn open(dir: &Path, refiner: Option<&Path>, device: &Device) -> Result<Entry> {
    let mut entry = Entry::open(MODEL_DEFAULT.into(), dir, device)?;
    if let Some(refiner) = refiner {
        let weights = Arc::into_inner(entry.weights).context("the weights are in use")?;
        entry.weights = Arc::new(weights.with_refiner(refiner)?);
    }
    Ok(entry)
}

/// The tasks that the farm would make of this request.
fn order(args: &RenderArgs, entry: &Entry) -> Result<Order> {
    let (film, given) = (&args.film, &args.given);
    let image = film.image.as_deref().map(read_image).transpose()?;
    let source = given.video.as_ref().or(given.continue_from.as_ref());
    let facts = source.and_then(|path| mp4::read(path).ok());
    let picture = facts.as_ref().and_then(|facts| facts.picture());
    let size = picture.map(|picture| format!("{}x{}", picture.width, picture.height));
    // A film that is given as a whole says how long the new one is.
    let length = picture.filter(|_| given.video.is_some());
    let seconds = length.map(|picture| (picture.seconds + 0.01).floor().max(1.0).to_string());
    let request = VideoRequest {
        prompt: args.prompt.clone(),
        model: Some(MODEL_DEFAULT.into()),
        seconds: film.seconds.clone().or(seconds),
        size: film.size.clone().or(size),
        input_reference: image.map(|bytes| Reference(bytes.into())),
        reference_fit: match given.fit() {
            Fit::Cover => ReferenceFit::Cover,
            Fit::Contain => ReferenceFit::Contain,
        },
        seed: film.seed,
        negative_prompt: film.negative.clone(),
        steps: film.steps,
        guidance_scale: film.guidance,
        ..VideoRequest::default()
    };
    let mut info = entry.advertise();
    if given.continue_from.is_some() {
        // Each shot begins with the end of the one before; both together are rounded up to a latent.
        let context = context_frames(given, info.fps, info.frames_step) + info.frames_step - 1;
        if context >= info.frames_max {
            let most = f64::from(info.frames_max / 2) / f64::from(info.fps);
            bail!("--context is too long for this model: at most {most:.1} seconds");
        }
        info.frames_max -= context;
    }
    let catalogue = Catalogue::new(&CatalogueSettings::default(), &[info]);
    let seed = uuid::Uuid::now_v7().as_u128() as u64 & SEED_MAX;
    admission::decide(&request, &catalogue, &Blocklist::default(), seed)
        .map_err(|refusal| anyhow::anyhow!(refusal.message))
}

pub fn read_image(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read the image {}", path.display()))
}
