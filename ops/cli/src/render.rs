//! `dailies render`: one prompt to one film in this process, without a scheduler.
//!
//! The way is that of the farm: the same admission makes the same tasks, the same engine and the
//! same FFmpeg steps work them off. Only leases and uploads are left out.

mod options;
mod shoot;

use std::{
    collections::BTreeMap,
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
    mux::{self, Ffmpeg},
};
use anyhow::{Context, Result, bail};
use clap::Args;
use kernels::Device;
use scheduler::{
    admission::{
        self, Catalogue, CatalogueSettings, Continuation, Keyframe, Order, Reference, ReferenceFit,
        Retake, SEED_MAX, Source, VideoRequest,
    },
    review::Blocklist,
};
use schemas::Digest;

use crate::{
    film::{FilmArgs, MODEL_DEFAULT},
    given::{self, GivenArgs},
    progress::seconds,
    save::Target,
};
use options::{ContinueArgs, ReachArgs, StageArgs, TuneArgs};
use shoot::Shoot;

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
    going_on: ContinueArgs,
    #[command(flatten)]
    tune: TuneArgs,
    #[command(flatten)]
    stages: StageArgs,
    #[command(flatten)]
    reach: ReachArgs,
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
    let (order, named) = order(args, &entry, &ffmpeg)?;
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
        named,
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

/// The tasks that the farm would make of this request, and where files lie that it does not hold itself.
fn order(args: &RenderArgs, entry: &Entry, ffmpeg: &Ffmpeg) -> Result<(Order, Named)> {
    let given = &args.given;
    let info = entry.advertise();
    let mut named = Named::new();
    let mut source = |path: &Path| -> Result<Source> {
        let digest = Digest::of(&given::read(path)?);
        named.insert(digest, path.to_owned());
        Ok(Source::stored(digest))
    };
    let continues = match &args.going_on.continue_from {
        Some(path) => {
            let frames = agent::given::count(ffmpeg, path, info.fps, &mux::go_on)?;
            Some(Continuation {
                source: source(path)?,
                seconds: frames / info.fps,
                frames,
                extensions: 0,
            })
        }
        None => None,
    };
    let request = VideoRequest {
        audio_reference: given.audio.as_deref().map(&mut source).transpose()?,
        video_reference: given.video.as_deref().map(&mut source).transpose()?,
        context_seconds: continues.is_some().then_some(args.going_on.context),
        continues,
        ..request(args)?
    };
    let catalogue = Catalogue::new(&CatalogueSettings::default(), &[info]);
    let seed = uuid::Uuid::now_v7().as_u128() as u64 & SEED_MAX;
    let order = admission::decide(&request, &catalogue, &Blocklist::default(), seed)
        .map_err(|refusal| anyhow::anyhow!(refusal.message))?;
    Ok((order, named))
}

/// Where files of a digest lie.
type Named = BTreeMap<Digest, PathBuf>;

/// The request without its films and sounds. A film that is given as a whole says how long the new one is.
fn request(args: &RenderArgs) -> Result<VideoRequest> {
    let (film, given) = (&args.film, &args.given);
    let image = |path: &PathBuf| given::read(path).map(|bytes| Reference(bytes.into()));
    let (size, seconds) = match (&given.video, &args.going_on.continue_from) {
        (Some(path), _) => given::measure(path),
        (None, Some(path)) => (given::measure(path).0, None),
        (None, None) => (None, None),
    };
    let keyframe = |keyframe: &given::Keyframe| -> Result<Keyframe> {
        Ok(Keyframe {
            seconds: keyframe.second,
            input_reference: image(&keyframe.path)?,
        })
    };
    let retake = given.retake.as_ref().map(|retake| Retake {
        from_s: retake.from_s,
        to_s: retake.to_s,
        picture: retake.what != "audio",
        sound: retake.what != "video",
    });
    Ok(VideoRequest {
        prompt: args.prompt.clone(),
        model: Some(MODEL_DEFAULT.into()),
        seconds: film.seconds.clone().or(seconds),
        size: film.size.clone().or(size),
        input_reference: film.image.as_ref().map(image).transpose()?,
        last_reference: given.last_image.as_ref().map(image).transpose()?,
        keyframes: given
            .keyframes
            .iter()
            .map(keyframe)
            .collect::<Result<_>>()?,
        reference_strength: given.strength,
        retake,
        reference_fit: match given.fit.as_str() {
            "contain" => ReferenceFit::Contain,
            _ => ReferenceFit::Cover,
        },
        seed: film.make.seed,
        negative_prompt: film.make.negative.clone(),
        steps: film.make.steps,
        guidance_scale: film.make.guidance,
        ..VideoRequest::default()
    })
}
