//! `dailies render`: one prompt to one film in this process, without a scheduler.
//!
//! The way is that of the farm: the same admission makes the same tasks, the same engine and the
//! same FFmpeg steps work them off. Only leases and uploads are left out.

mod inputs;
mod options;

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
    first_frame,
    given::{self, Fit, Shape},
    mp4, mux,
    mux::Ffmpeg,
    render,
    wav::Sound,
};
use anyhow::{Context, Result, bail};
use clap::Args;
use diffusion::{Clip, Control, Generated, Given, Start};
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

use inputs::{Inputs, Place, Tail};
use options::{GivenArgs, StageArgs, TuneArgs};

use crate::{
    film::{FilmArgs, MODEL_DEFAULT},
    progress::{Bar, seconds},
    save::Target,
};

#[derive(Args, Debug)]
pub struct RenderArgs {
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
    #[command(flatten)]
    given: GivenArgs,
    #[command(flatten)]
    tune: TuneArgs,
    #[command(flatten)]
    stages: StageArgs,
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
        prompt: film.prompt.clone(),
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
        // Each shot begins with the end of the one before.
        let context = context_frames(given, info.fps, info.frames_step);
        if context + info.frames_step > info.frames_max {
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

/// Frames that a continued film looks back at: a whole number of latents, at least one.
fn context_frames(given: &GivenArgs, fps: u32, step: u32) -> u32 {
    let frames = (given.context.clamp(0.0, 60.0) * f64::from(fps)).round() as u32;
    frames / step * step + 1
}

pub fn read_image(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read the image {}", path.display()))
}

/// One run over the tasks of an order.
struct Shoot<'a> {
    args: &'a RenderArgs,
    ffmpeg: Ffmpeg,
    entry: Entry,
    order: Order,
    dir: &'a Path,
    stop: &'a AtomicBool,
}

/// Where a shot stands among all.
#[derive(Clone, Copy)]
struct Turn {
    place: Place,
    /// Steps of the shots before it, and of all.
    done: u64,
    of: u64,
}

impl Shoot<'_> {
    fn film(&self) -> Result<Made> {
        let renders = self.order.tasks.iter().filter_map(|task| match task {
            TaskSpec::Render(spec) => Some(spec),
            TaskSpec::Assemble(_) => None,
        });
        let Some(TaskSpec::Assemble(assembly)) = self.order.tasks.last() else {
            bail!("the order has no film")
        };
        let bar = Bar::new();
        let stop = || self.stop.load(Relaxed);
        let inputs = self.inputs(assembly, &stop)?;
        let steps = u64::from(self.order.record.shot_steps);
        let of = steps * assembly.shot_frames.len() as u64;
        let mut reel = self.reel(&inputs, assembly)?;
        let mut start = 0;
        for (spec, shown) in renders.zip(&assembly.shot_frames) {
            let place = Place {
                start,
                shown: *shown,
                rendered: spec.frames,
            };
            let done = steps * reel.latents.len() as u64;
            let turn = Turn { place, done, of };
            self.shot(spec, turn, &inputs, &mut reel, &bar)?;
            start += shown;
        }
        bar.show("film", of, of, None);
        let files = self.assemble(&reel.assembly, &reel.shots)?;
        Ok(Made {
            files,
            latents: reel.latents,
        })
    }

    /// Everything that is given of the film, read and checked.
    fn inputs<'b>(&'b self, assembly: &AssembleSpec, stop: mux::Stop<'b>) -> Result<Inputs<'b>> {
        let native = self.order.tasks.iter().find_map(|task| match task {
            TaskSpec::Render(spec) => Some((spec.width, spec.height)),
            TaskSpec::Assemble(_) => None,
        });
        let fit = self.args.given.fit();
        let shape = |(width, height)| Shape {
            width,
            height,
            fps: assembly.fps,
            fit,
        };
        let native = native.context("the order has no shots")?;
        let shapes = (shape(native), shape((assembly.width, assembly.height)));
        let frames = assembly.shot_frames.iter().sum();
        let info = self.entry.weights.info();
        Inputs::read(&self.args.given, &self.ffmpeg, info, shapes, frames, stop)
    }

    /// The shots of the film so far: none, or the film that it goes on from.
    fn reel(&self, inputs: &Inputs<'_>, assembly: &AssembleSpec) -> Result<Reel> {
        let mut reel = Reel {
            shots: Vec::new(),
            latents: Vec::new(),
            assembly: assembly.clone(),
            tail: None,
        };
        let Some(path) = &self.args.given.continue_from else {
            return Ok(reel);
        };
        let stop = || self.stop.load(Relaxed);
        let (width, height, fps) = (assembly.width, assembly.height, assembly.fps);
        let shape = Shape {
            width,
            height,
            fps,
            fit: self.args.given.fit(),
        };
        let shot = self.dir.join("shot-before.mkv");
        given::as_shot(&self.ffmpeg, path, shape, &shot, &stop)?;
        let frames = given::count(&self.ffmpeg, &shot, fps, &stop)?;
        reel.assembly.shots += 1;
        reel.assembly.shot_frames.insert(0, frames);
        reel.tail = Some(inputs.tail(&shot, frames, self.context())?);
        reel.shots.push(shot);
        Ok(reel)
    }

    fn context(&self) -> u32 {
        let info = self.entry.weights.info();
        context_frames(&self.args.given, info.fps, info.frames_step)
    }

    fn shot(
        &self,
        spec: &RenderSpec,
        turn: Turn,
        inputs: &Inputs<'_>,
        reel: &mut Reel,
        bar: &Bar,
    ) -> Result<()> {
        let context = reel.tail.as_ref().map_or(0, |tail| tail.frames);
        let step = self.entry.weights.info().frames_step;
        let rendered = match context {
            0 => turn.place.rendered,
            _ => (context + turn.place.shown - 1).div_ceil(step) * step + 1,
        };
        let place = Place {
            rendered,
            ..turn.place
        };
        let first = self.first_frame(spec)?;
        let given = inputs.of_shot(place, first, reel.tail.as_ref())?;
        let path = self.dir.join(format!("shot-{}.mkv", spec.shot));
        let mut clip = self.clip(spec, rendered, given, turn, bar)?;
        reel.latents.push(clip.latents_digest.clone());
        drop_front(&mut clip, context);
        let ran = turn.done + u64::from(self.order.record.shot_steps);
        bar.show("shot file", ran, turn.of, None);
        self.write(inputs, place, &clip, &path)?;
        if reel.tail.is_some() {
            let frames = clip.frame_count().min(place.shown);
            reel.tail = Some(inputs.tail(&path, frames, self.context())?);
        }
        reel.shots.push(path);
        Ok(())
    }

    fn clip(
        &self,
        spec: &RenderSpec,
        frames: u32,
        given: Given,
        turn: Turn,
        bar: &Bar,
    ) -> Result<Clip> {
        let mut recipe = render::recipe(spec, None);
        recipe.frames = frames;
        recipe.guidance = self.args.tune.changes(spec.guidance_scale);
        recipe.shift = self.args.tune.shift();
        recipe.refine = self.args.stages.refine();
        recipe.given = given;
        let begun = Instant::now();
        let Turn { done, of, .. } = turn;
        let mut on_step = |progress: &diffusion::Progress<'_>| {
            // Steps of a second stage are not in the order's count.
            let share = f64::from(progress.step) / f64::from(progress.steps.max(1));
            let ran = (share * f64::from(self.order.record.shot_steps)) as u64;
            let left = (ran > 0)
                .then(|| begun.elapsed().as_secs_f64() / ran as f64 * (of - done - ran) as f64);
            bar.show(progress.phase.name(), done + ran, of, left);
            match self.stop.load(Relaxed) {
                true => Control::Pause,
                false => Control::Continue,
            }
        };
        let weights = &self.entry.weights;
        match diffusion::generate(weights, &recipe, Start::Fresh, &mut on_step)? {
            Generated::Finished(clip) => Ok(*clip),
            Generated::Paused(_) => bail!("stopped"),
        }
    }

    /// Writes a shot file; a picture or a sound that was given and stays is that of its file.
    fn write(&self, inputs: &Inputs<'_>, place: Place, clip: &Clip, path: &Path) -> Result<()> {
        let original = inputs.original_picture(place)?;
        let picture = match &original {
            Some((shape, rgb)) => mux::Picture {
                width: shape.width,
                height: shape.height,
                fps: shape.fps,
                rgb,
            },
            None => mux::Picture {
                width: clip.width,
                height: clip.height,
                fps: clip.fps,
                rgb: &clip.frames,
            },
        };
        let given = inputs.original_sound(place);
        let sound = match &given {
            Some(wave) => Sound {
                rate: wave.format.rate,
                channels: wave.format.channels,
                samples: &wave.samples,
            },
            None => Sound {
                rate: clip.sample_rate,
                channels: clip.channels,
                samples: &clip.samples,
            },
        };
        let stop = || self.stop.load(Relaxed);
        Ok(mux::write_shot(&self.ffmpeg, picture, sound, path, &stop)?)
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
        let (width, height) = (spec.width, spec.height);
        Ok(Some(first_frame::read(&path, width, height, Fit::Cover)?))
    }

    fn assemble(&self, spec: &AssembleSpec, shots: &[PathBuf]) -> Result<FilmFiles> {
        let stop = || self.stop.load(Relaxed);
        Ok(assemble::film(&self.ffmpeg, spec, shots, self.dir, &stop)?)
    }
}

/// Shots that are done, and how they are joined.
struct Reel {
    shots: Vec<PathBuf>,
    latents: Vec<String>,
    assembly: AssembleSpec,
    /// What the next shot goes on from, in a film that is continued.
    tail: Option<Tail>,
}

/// Leaves off the first `frames` of a clip, which the shot before already shows.
fn drop_front(clip: &mut Clip, frames: u32) {
    let picture = clip.width as usize * clip.height as usize * 3;
    clip.frames.drain(..frames as usize * picture);
    let seconds = f64::from(frames) / f64::from(clip.fps);
    let samples = (seconds * f64::from(clip.sample_rate)).round() as usize;
    let samples = samples * usize::from(clip.channels);
    clip.samples.drain(..samples.min(clip.samples.len()));
}
