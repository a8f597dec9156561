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
    render, shot,
};
use anyhow::{Context, Result, bail};
use diffusion::{Control, Generated, Given, Sink, Slate, Start, Wave};
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
        let recipe = self.recipe(spec, rendered, given);
        let stop = || self.stop.load(Relaxed);
        let mut cut = Cut {
            context,
            picture: inputs.original_picture(place)?,
            sound: inputs.original_sound(place),
            latents: String::new(),
            left: 0,
        };
        let mut on_step = self.progress(turn, bar);
        let weights = &self.entry.weights;
        let (generated, written) = shot::write(&self.ffmpeg, &path, &stop, |feed| {
            let mut sink = Splice {
                cut: &mut cut,
                feed,
            };
            diffusion::generate(weights, &recipe, Start::Fresh, &mut on_step, &mut sink)
        });
        match (generated?, written) {
            (Generated::Paused(_), _) if stop() => bail!("stopped"),
            (_, written) => written?,
        }
        reel.latents.push(cut.latents);
        if reel.tail.is_some() {
            reel.tail = Some(inputs.tail(&path, place.shown, self.context())?);
        }
        reel.shots.push(path);
        Ok(())
    }

    fn recipe(&self, spec: &RenderSpec, frames: u32, given: Given) -> diffusion::Recipe {
        diffusion::Recipe {
            frames,
            guidance: self.args.tune.changes(spec.guidance_scale),
            shift: self.args.tune.shift(),
            refine: self.args.stages.refine(),
            given,
            ..render::recipe(spec, None)
        }
    }

    /// Shows each step, and stops when the user does.
    fn progress<'b>(
        &'b self,
        turn: Turn,
        bar: &'b Bar,
    ) -> impl FnMut(&diffusion::Progress<'_>) -> Control + Send + 'b {
        let begun = Instant::now();
        let Turn { done, of, .. } = turn;
        let steps = f64::from(self.order.record.shot_steps);
        move |progress| {
            // Steps of a second stage are not in the order's count.
            let share = f64::from(progress.step) / f64::from(progress.steps.max(1));
            let ran = (share * steps) as u64;
            let left = (ran > 0)
                .then(|| begun.elapsed().as_secs_f64() / ran as f64 * (of - done - ran) as f64);
            bar.show(progress.phase.name(), done + ran, of, left);
            match self.stop.load(Relaxed) {
                true => Control::Pause,
                false => Control::Continue,
            }
        }
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

/// What a shot file takes from elsewhere than the clip, and leaves off it.
struct Cut {
    /// Frames at the front that the shot before already shows.
    context: u32,
    picture: Option<(Shape, Vec<u8>)>,
    sound: Option<Wave>,
    latents: String,
    /// Bytes of pictures that are still to be left off.
    left: usize,
}

/// Feeds a shot file with a clip, cut.
struct Splice<'a> {
    cut: &'a mut Cut,
    feed: &'a mut shot::Feed,
}

impl Sink for Splice<'_> {
    fn open(&mut self, slate: &Slate, mut samples: Vec<f32>) -> Control {
        let (cut, mut slate) = (&mut *self.cut, slate.clone());
        cut.latents.clone_from(&slate.latents_digest);
        let picture = slate.width as usize * slate.height as usize * 3;
        cut.left = cut.context as usize * picture;
        let seconds = f64::from(cut.context) / f64::from(slate.fps);
        let front = (seconds * f64::from(slate.sample_rate)).round() as usize;
        samples.drain(..(front * usize::from(slate.channels)).min(samples.len()));
        slate.frames -= cut.context;
        if let Some(wave) = cut.sound.take() {
            (slate.sample_rate, slate.channels) = (wave.format.rate, wave.format.channels);
            samples = wave.samples;
        }
        let Some((shape, rgb)) = &cut.picture else {
            return self.feed.open(&slate, samples);
        };
        let picture = shape.width as usize * shape.height as usize * 3;
        (slate.width, slate.height) = (shape.width, shape.height);
        slate.frames = (rgb.len() / picture) as u32;
        match self.feed.open(&slate, samples) {
            Control::Continue => self.feed.pictures(rgb),
            Control::Pause => Control::Pause,
        }
    }

    fn pictures(&mut self, rgb: &[u8]) -> Control {
        let skip = self.cut.left.min(rgb.len());
        self.cut.left -= skip;
        match self.cut.picture.is_none() && skip < rgb.len() {
            true => self.feed.pictures(&rgb[skip..]),
            false => Control::Continue,
        }
    }
}

/// Frames that a continued film looks back at: a whole number of latents, at least one.
pub(super) fn context_frames(given: &GivenArgs, fps: u32, step: u32) -> u32 {
    let frames = (given.context.clamp(0.0, 60.0) * f64::from(fps)).round() as u32;
    frames / step * step + 1
}
