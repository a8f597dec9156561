//! The tasks of an order, worked off in this process: shots one after the other, then the film.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Instant,
};

use agent::{
    assemble::{self, FilmFiles},
    catalogue::Entry,
    material::{self, Files, Material},
    mux::{self, Ffmpeg},
    render, shot,
    splice::Splice,
};
use anyhow::{Context, Result, bail};
use diffusion::{Control, Generated, Given, Phase, Start};
use scheduler::admission::Order;
use schemas::task::{AssembleSpec, BeforeSpec, RenderSpec, TaskSpec};

use super::{Named, RenderArgs};
use crate::progress::Bar;

/// What was made, for the closing line.
pub(super) struct Made {
    pub files: FilmFiles,
    pub latents: Vec<String>,
}

/// One run over the tasks of an order.
pub(super) struct Shoot<'a> {
    pub args: &'a RenderArgs,
    pub ffmpeg: Ffmpeg,
    pub entry: Entry,
    pub order: Order,
    /// Where files lie that the order does not hold.
    pub named: Named,
    pub dir: &'a Path,
    pub stop: &'a AtomicBool,
}

/// Where a shot stands among all.
#[derive(Clone, Copy)]
struct Turn {
    /// Steps of the shots before it, and of all.
    done: u64,
    of: u64,
}

/// What a shot came to.
struct Shot {
    path: PathBuf,
    latents: String,
}

impl Shoot<'_> {
    pub fn film(&self) -> Result<Made> {
        let renders = self.order.tasks.iter().filter_map(|task| match task {
            TaskSpec::Render(spec) => Some(spec),
            TaskSpec::Assemble(_) => None,
        });
        let Some(TaskSpec::Assemble(assembly)) = self.order.tasks.last() else {
            bail!("the order has no film")
        };
        let bar = Bar::new();
        let mut files = self.files()?;
        let steps = u64::from(self.order.record.shot_steps);
        let of = steps * assembly.shot_frames.len() as u64;
        let mut shots: Vec<Shot> = Vec::new();
        for spec in renders {
            let done = steps * shots.len() as u64;
            let shot = self.shot(spec, &files, Turn { done, of }, &bar)?;
            files.before = Some(shot.path.clone());
            shots.push(shot);
        }
        bar.show("film", of, of, None);
        let (paths, latents): (Vec<_>, Vec<_>) = shots
            .into_iter()
            .map(|shot| (shot.path, shot.latents))
            .unzip();
        let files = self.assemble(assembly, paths, &files)?;
        Ok(Made { files, latents })
    }

    /// Everything that tasks name by its digest.
    fn files(&self) -> Result<Files> {
        let mut named = self.named.clone();
        for file in &self.order.files {
            let digest = file.digest();
            let path = self.dir.join(format!("given-{digest}"));
            mux::write_file(&path, &file.bytes()?)?;
            named.insert(digest, path);
        }
        Ok(Files {
            named,
            before: None,
        })
    }

    fn shot(&self, spec: &RenderSpec, files: &Files, turn: Turn, bar: &Bar) -> Result<Shot> {
        let weights = &self.entry.weights;
        let stop = || self.stop.load(Relaxed);
        let Material { given, cut } =
            material::read(&self.ffmpeg, weights.info(), spec, files, &stop)?;
        let path = self.dir.join(format!("shot-{}.mkv", spec.shot));
        let recipe = self.recipe(spec, given);
        let mut on_step = self.progress(turn, bar);
        let ((generated, latents), written) = shot::write(&self.ffmpeg, &path, &stop, |feed| {
            let mut sink = Splice::new(cut, feed);
            let (start, sink_ref) = (Start::Fresh, &mut sink);
            let made = diffusion::generate(weights, &recipe, start, &mut on_step, sink_ref);
            (made, sink.latents)
        });
        match (generated?, written) {
            (Generated::Paused(_), _) if stop() => bail!("stopped"),
            (_, written) => written?,
        }
        Ok(Shot { path, latents })
    }

    fn recipe(&self, spec: &RenderSpec, given: Given) -> diffusion::Recipe {
        diffusion::Recipe {
            guidance: self.args.tune.changes(spec.guidance_scale),
            shift: self.args.tune.shift(),
            refine: self.args.stages.refine(),
            window_s: self.args.reach.attention_window,
            ..render::recipe(spec, given)
        }
    }

    /// Shows each step, and stops when the user does.
    fn progress<'b>(
        &'b self,
        turn: Turn,
        bar: &'b Bar,
    ) -> impl FnMut(&diffusion::Progress<'_>) -> Control + Send + 'b {
        let begun = Instant::now();
        let Turn { done, of } = turn;
        let steps = f64::from(self.order.record.shot_steps);
        move |progress| {
            // Steps of a second stage are not in the order's count.
            let share = f64::from(progress.step) / f64::from(progress.steps.max(1));
            let ran = (share * steps) as u64;
            let left = (ran > 0)
                .then(|| begun.elapsed().as_secs_f64() / ran as f64 * (of - done - ran) as f64);
            match progress.phase {
                Phase::Decode => {
                    let (made, all) = (progress.pictures, progress.pictures_total);
                    bar.decoding(made, all, (done + ran, of));
                }
                phase => bar.show(phase.name(), done + ran, of, left),
            }
            match self.stop.load(Relaxed) {
                true => Control::Pause,
                false => Control::Continue,
            }
        }
    }

    fn assemble(
        &self,
        spec: &AssembleSpec,
        shots: Vec<PathBuf>,
        files: &Files,
    ) -> Result<FilmFiles> {
        let stop = || self.stop.load(Relaxed);
        let (ffmpeg, dir) = (&self.ffmpeg, self.dir);
        let (spec, shots) = match &spec.before {
            Some(BeforeSpec { film, fit }) => {
                let film = files
                    .named
                    .get(film)
                    .context("the film before is missing")?;
                assemble::after(ffmpeg, spec, (film, *fit), &shots, dir, &stop)?
            }
            None => (spec.clone(), shots),
        };
        Ok(assemble::film(ffmpeg, &spec, &shots, dir, &stop)?)
    }
}
