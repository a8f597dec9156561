//! A Render task: recipe, engine with checkpoints beside it, shot file.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use diffusion::{
    Checkpoint, CheckpointError, Control, DiffusionError, Generated, Given, GuidanceChanges,
    Progress, Recipe, Shift, Sink, Start, Weights,
};
use schemas::{
    Digest,
    agent::{CheckpointRef, LeaseOffer, MemoryTold, Outcome, Phase, Times},
    given::PartSpec,
    task::{Artefact, RenderSpec, Variant},
};
use tokio::sync::watch;

use crate::{
    clock::BootMs,
    desk::{Broken, Desk},
    held::{Held, Verdict},
    material::{self, Files, Material},
    metrics::Metrics,
    mux::MuxError,
    shot,
    splice::{Cut, Splice},
    studio::Studio,
};

/// How often a fenced step looks whether its lease was renewed.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The engine's order for what the scheduler ordered; the one place where the words meet.
pub fn recipe(spec: &RenderSpec, given: Given) -> Recipe {
    Recipe {
        prompt: spec.prompt.clone(),
        negative_prompt: spec.negative_prompt.clone(),
        width: spec.width,
        height: spec.height,
        frames: spec.frames,
        fps: spec.fps,
        seed: spec.seed,
        steps: spec.steps,
        guidance: GuidanceChanges::scale(spec.guidance_scale),
        shift: Shift::default(),
        refine: None,
        renoise: spec.given().renoise,
        window_s: None,
        given,
    }
}

/// Renders a leased shot, from the offer's checkpoint when there is one.
pub async fn run(
    studio: &Arc<Studio>,
    desk: &Arc<Desk>,
    spec: &RenderSpec,
    offer: &LeaseOffer,
) -> Result<Outcome, Broken> {
    let checkpoint = offer.checkpoint;
    let (catalogue, name) = (Arc::clone(studio), spec.weights.clone());
    let load = move || catalogue.catalogue.get(&name);
    let entry = desk.blocking(load).await?.0?;
    let weights = Arc::clone(&entry.weights);
    let Material { given, cut } = material(studio, desk, &weights, spec, &offer.inputs).await?;
    let recipe = recipe(spec, given);
    studio.catalogue.make_room(&weights, &recipe)?;
    let steps = weights.steps(&recipe);
    desk.held.stepped(
        checkpoint.map_or(0, |checkpoint| checkpoint.step),
        steps,
        None,
    );
    let start = start(studio, desk, checkpoint).await;
    let shot = desk.dir.join("shot.mkv");
    let order = Ordered {
        weights,
        recipe,
        cut,
        start,
    };
    let mut taken = take(studio, desk, order, shot.clone()).await?;
    match (taken.generated, taken.written) {
        _ if desk.is_abandoned() => return Err(Broken::Abandoned),
        // The shot file of a run that paused was stopped with it; anything else paused the run.
        (Generated::Paused(at), Ok(()) | Err(MuxError::Stopped { .. })) => {
            return release(desk, *at, taken.device_us).await;
        }
        (_, written) => written?,
    }
    desk.held.enter(Phase::Upload);
    let began = Instant::now();
    let artefact = desk.upload(Variant::Shot, &shot).await?;
    taken.times.upload_us = Some(micros(began.elapsed()));
    taken.times.load_us = entry.tell_load_us();
    Ok(Outcome::Succeeded {
        artefacts: vec![artefact],
        device_us: taken.device_us,
        steps_run: taken.steps_run,
        times: taken.times,
        memory: taken.memory,
    })
}

/// Fetches and reads what the shot is given.
async fn material(
    studio: &Arc<Studio>,
    desk: &Arc<Desk>,
    weights: &Arc<Weights>,
    spec: &RenderSpec,
    inputs: &[Artefact],
) -> Result<Material, Broken> {
    let mut files = Files::default();
    for digest in spec.reads() {
        let name = name(spec, digest);
        files.named.insert(digest, desk.fetch(digest, &name).await?);
    }
    if let Some(shot) = inputs.last() {
        files.before = Some(desk.fetch(shot.digest, "shot-before.mkv").await?);
    }
    let (studio, watched) = (Arc::clone(studio), Arc::clone(desk));
    let (weights, spec) = (Arc::clone(weights), spec.clone());
    let read = move || {
        let stop = || watched.is_abandoned();
        material::read(&studio.ffmpeg, weights.info(), &spec, &files, &stop)
    };
    let (read, _) = desk.blocking(read).await?;
    Ok(read?)
}

/// What the file of a digest is called in the scratch folder; errors name it.
fn name(spec: &RenderSpec, digest: Digest) -> String {
    let given = spec.given();
    let part = |part: Option<&PartSpec>| part.is_some_and(|part| part.file == digest);
    let before = given.context.as_ref().and_then(|context| context.film);
    if part(given.film.as_ref().map(|film| &film.part)) {
        "given-film".into()
    } else if part(given.sound.as_ref()) {
        "given-sound".into()
    } else if before == Some(digest) {
        "film-before".into()
    } else {
        format!("image-{}", &digest.to_string()[..16])
    }
}

/// Whole microseconds.
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Where to begin. A checkpoint that cannot be read costs its steps, not the film.
async fn start(studio: &Studio, desk: &Desk, checkpoint: Option<CheckpointRef>) -> Start {
    let Some(at) = checkpoint else {
        return Start::Fresh;
    };
    let read = async {
        let path = desk.fetch(at.digest, "checkpoint").await.ok()?;
        tokio::fs::read(path).await.ok()
    };
    start_from(read.await.as_deref(), at.step, &studio.metrics)
}

/// The start that stored bytes stand for; what is wrong with them is told and counted.
fn start_from(bytes: Option<&[u8]>, step: u32, metrics: &Metrics) -> Start {
    let why = match bytes.map(Checkpoint::from_bytes) {
        Some(Ok(checkpoint)) => {
            tracing::info!(step, "resuming");
            return Start::Resume(Box::new(checkpoint));
        }
        Some(Err(error)) => {
            tracing::warn!(%error, step, "checkpoint refused, the shot begins anew");
            match error {
                CheckpointError::Version { .. } => "version",
                _ => "damaged",
            }
        }
        None => {
            tracing::warn!(step, "checkpoint lost, the shot begins anew");
            "lost"
        }
    };
    metrics.checkpoints_refused.with_label_values(&[why]).inc();
    Start::Fresh
}

struct Taken {
    generated: Generated,
    /// How the shot file ended.
    written: Result<(), MuxError>,
    device_us: u64,
    steps_run: u32,
    times: Times,
    memory: MemoryTold,
}

/// What the engine is to do.
struct Ordered {
    weights: Arc<Weights>,
    recipe: Recipe,
    cut: Cut,
    start: Start,
}

/// Runs the engine on a thread of its own, writes what it decodes as the shot file `path`, and stores
/// checkpoints beside it.
async fn take(
    studio: &Arc<Studio>,
    desk: &Arc<Desk>,
    order: Ordered,
    path: PathBuf,
) -> Result<Taken, Broken> {
    let Ordered {
        weights,
        recipe,
        cut,
        start,
    } = order;
    // Only the newest matters: one that comes while another is on its way replaces what waits.
    let (sender, mut newest) = watch::channel(None::<Arc<Checkpoint>>);
    let pixels = u64::from(recipe.width) * u64::from(recipe.height) * u64::from(recipe.frames);
    let mut look = Look::new(studio, &desk.held, sender, pixels);
    let metrics = studio.metrics.clone();
    let (loaded_bytes, foretold_bytes) = foretold(&weights, &recipe);
    // The rest of a run says little about a whole one.
    let is_whole = matches!(start, Start::Fresh);
    let (saver_desk, saver_metrics) = (Arc::clone(desk), studio.metrics.clone());
    let saver = tokio::spawn(async move {
        while newest.changed().await.is_ok() {
            let checkpoint = newest.borrow_and_update().clone();
            let Some(checkpoint) = checkpoint else {
                continue;
            };
            if let Ok(saved) = saver_desk.save(&checkpoint).await {
                tracing::debug!(step = saved.step, "checkpoint saved");
                saver_metrics.checkpoints_saved.inc();
            }
        }
    });
    let (studio, watched) = (Arc::clone(studio), Arc::clone(desk));
    let shoot = move || {
        shot::write(&studio.ffmpeg, &path, &|| watched.is_abandoned(), |feed| {
            let began = Instant::now();
            let watch = weights.device().watch_memory().filter(|_| is_whole);
            let mut sink = Splice::new(cut, feed);
            let run = || generate(&weights, &recipe, start, &mut look, &metrics, &mut sink);
            let generated = watched.on_team(run);
            watched.held.enter(Phase::Mux);
            (
                generated,
                look.steps_run,
                look.times(),
                micros(began.elapsed()),
                watch.map(|watch| watch.grown_bytes() + loaded_bytes),
            )
        })
    };
    let engine = desk.blocking(shoot).await;
    // A checkpoint on its way is worth nothing after the end, and behind the report it would be refused. To a run
    // that found no memory it is worth its steps: another node goes on from it.
    if !matches!(&engine, Ok((((Err(error), ..), _), _)) if error.is_out_of_memory()) {
        saver.abort();
    }
    let _ = saver.await;
    let (((generated, steps_run, mut times, device_us, peak_bytes), written), all_us) = engine?;
    let broken = |error| {
        Broken::from(error)
            .beside(loaded_bytes)
            .having_taken(peak_bytes)
    };
    // FFmpeg works beside the engine; only what it needs beyond it counts.
    times.mux_us = Some(all_us.saturating_sub(device_us));
    Ok(Taken {
        generated: generated.map_err(broken)?,
        written,
        device_us,
        steps_run,
        times,
        memory: MemoryTold {
            foretold_bytes,
            peak_bytes,
        },
    })
}

/// Memory of the weights, and the least that a run of the recipe with them needs.
fn foretold(weights: &Weights, recipe: &Recipe) -> (u64, Option<u64>) {
    let plan = weights.plan(recipe).ok();
    let loaded = plan.as_ref().map_or(0, |plan| plan.memory.weights);
    (loaded, plan.map(|plan| plan.memory_least_bytes))
}

/// Generates; a checkpoint of another run is dropped and the shot begins anew.
fn generate(
    weights: &Weights,
    recipe: &Recipe,
    start: Start,
    look: &mut Look,
    metrics: &Metrics,
    sink: &mut dyn Sink,
) -> Result<Generated, DiffusionError> {
    let mut on_step = |progress: &Progress<'_>| look.stepped(progress);
    let ended = match diffusion::generate(weights, recipe, start, &mut on_step, sink) {
        Err(DiffusionError::Checkpoint(error)) => {
            tracing::warn!(%error, "checkpoint refused, the shot begins anew");
            metrics
                .checkpoints_refused
                .with_label_values(&["foreign"])
                .inc();
            diffusion::generate(weights, recipe, Start::Fresh, &mut on_step, sink)
        }
        ended => ended,
    };
    if let Ok(Generated::Finished) = &ended {
        look.decoded();
    }
    ended
}

async fn release(desk: &Desk, at: Checkpoint, device_us: u64) -> Result<Outcome, Broken> {
    let checkpoint = match at.step() {
        0 => None,
        _ => Some(desk.save(&at).await?),
    };
    Ok(Outcome::Released {
        checkpoint,
        reason: desk.held.reason(),
        device_us,
    })
}

/// Looks after each step: tells progress, obeys directives, takes checkpoints.
struct Look {
    held: Arc<Held>,
    metrics: Metrics,
    newest: watch::Sender<Option<Arc<Checkpoint>>>,
    checkpoint_steps: u32,
    checkpoint_after: Duration,
    drain_finish_ms: u64,
    steps_run: u32,
    encode: Duration,
    steps: Duration,
    decode: Duration,
    studio: Arc<Studio>,
    /// Of all frames together.
    pixels: u64,
    is_decoding: bool,
    last_look: Instant,
    last_step: Option<u32>,
    saved_at: Instant,
    saved_step: u32,
}

impl Look {
    fn new(
        studio: &Arc<Studio>,
        held: &Arc<Held>,
        newest: watch::Sender<Option<Arc<Checkpoint>>>,
        pixels: u64,
    ) -> Self {
        Self {
            held: Arc::clone(held),
            metrics: studio.metrics.clone(),
            newest,
            checkpoint_steps: studio.settings.checkpoint_steps.max(1),
            checkpoint_after: Duration::from_millis(studio.settings.checkpoint_ms),
            drain_finish_ms: studio.settings.drain_finish_ms,
            steps_run: 0,
            encode: Duration::ZERO,
            steps: Duration::ZERO,
            decode: Duration::ZERO,
            studio: Arc::clone(studio),
            pixels,
            is_decoding: false,
            last_look: Instant::now(),
            last_step: None,
            saved_at: Instant::now(),
            saved_step: 0,
        }
    }

    fn stepped(&mut self, progress: &Progress<'_>) -> Control {
        self.count(progress);
        let control = self.obey(progress);
        self.is_decoding |= progress.phase == diffusion::Phase::Decode;
        if control == Control::Continue {
            self.save_if_due(progress);
        }
        self.last_look = Instant::now();
        control
    }

    fn count(&mut self, progress: &Progress<'_>) {
        self.held.enter(match progress.phase {
            diffusion::Phase::Encode => Phase::Encode,
            diffusion::Phase::Denoise => Phase::Denoise,
            diffusion::Phase::Decode => Phase::Decode,
        });
        // The first look tells where the run begins; only those after it are steps of this run.
        let ran = self.last_step.is_some_and(|last| progress.step > last);
        let took = self.last_look.elapsed();
        if ran {
            self.steps_run += 1;
            self.metrics.steps.inc();
            self.metrics.step_seconds.observe(took.as_secs_f64());
        }
        *match self.last_step {
            None => &mut self.encode,
            Some(_) if ran => &mut self.steps,
            Some(_) => &mut self.decode,
        } += took;
        let step_ms = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
        self.held
            .stepped(progress.step, progress.steps, ran.then_some(step_ms));
        if self.last_step.is_none() {
            self.saved_step = progress.step;
        }
        self.last_step = Some(progress.step);
    }

    /// What each part took, once the engine has ended: after the last look it decoded.
    fn times(&self) -> Times {
        let decode = self.decode + self.last_look.elapsed();
        Times {
            encode_us: Some(micros(self.encode)),
            steps_us: (self.steps_run > 0).then(|| micros(self.steps)),
            decode_us: Some(micros(decode)),
            ..Times::default()
        }
    }

    /// Waits here while the lease may have ended: no step is begun behind the fence.
    fn obey(&self, progress: &Progress<'_>) -> Control {
        // What is left after denoising would be done anew elsewhere: only a long rest is given back, before it begins.
        let gives_back = progress.phase != diffusion::Phase::Decode || self.is_long_tail();
        loop {
            match self.held.verdict(BootMs::now()) {
                Verdict::Go => return Control::Continue,
                Verdict::Abandon => return Control::Pause,
                Verdict::Yield if gives_back => return Control::Pause,
                Verdict::Drain if gives_back && !self.is_nearly_done(progress) => {
                    return Control::Pause;
                }
                Verdict::Yield | Verdict::Drain => return Control::Continue,
                Verdict::Fenced => std::thread::sleep(LOOK_EVERY),
            }
        }
    }

    /// Decoding has not begun and is expected to take longer than a drain waits.
    fn is_long_tail(&self) -> bool {
        let tail = self.studio.tails.expected(self.pixels);
        let limit = Duration::from_millis(self.drain_finish_ms);
        !self.is_decoding && tail.is_some_and(|tail| tail > limit)
    }

    fn decoded(&self) {
        let took = self.decode + self.last_look.elapsed();
        self.studio.tails.learn(self.pixels, took);
    }

    fn is_nearly_done(&self, progress: &Progress<'_>) -> bool {
        progress.phase != diffusion::Phase::Decode
            && self
                .held
                .denoise_left_ms()
                .is_some_and(|left| left <= self.drain_finish_ms)
    }

    fn save_if_due(&mut self, progress: &Progress<'_>) {
        let since = progress.step.saturating_sub(self.saved_step);
        let is_due = since >= self.checkpoint_steps
            || (since > 0 && self.saved_at.elapsed() >= self.checkpoint_after);
        if !is_due || progress.phase != diffusion::Phase::Denoise {
            return;
        }
        // Copied here at the boundary; encoded and sent by the saver.
        self.newest
            .send_replace(Some(Arc::new(progress.checkpoint())));
        self.saved_step = progress.step;
        self.saved_at = Instant::now();
    }
}

#[cfg(test)]
mod tests;
