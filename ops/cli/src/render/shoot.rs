//! The tasks of an order, worked off in this process: shots one after the other, then the film.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Instant,
};

use agent::{
    assemble::{self, FilmFiles},
    catalogue::Entry,
    first_frame,
    given::{self, Fit, Shape},
    mux::{self, Ffmpeg},
    render,
    wav::Sound,
};
use anyhow::{Context, Result, bail};
use diffusion::{Clip, Control, Generated, Given, Start};
use scheduler::admission::Order;
use schemas::{
    Digest,
    task::{AssembleSpec, RenderSpec, TaskSpec},
};

use super::RenderArgs;
use super::inputs::{Inputs, Place, Tail};
use super::options::GivenArgs;
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
    pub dir: &'a Path,
    pub stop: &'a AtomicBool,
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
    pub fn film(&self) -> Result<Made> {
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

/// Frames that a continued film looks back at: a whole number of latents, at least one.
pub(super) fn context_frames(given: &GivenArgs, fps: u32, step: u32) -> u32 {
    let frames = (given.context.clamp(0.0, 60.0) * f64::from(fps)).round() as u32;
    frames / step * step + 1
}
