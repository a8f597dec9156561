//! What work takes: measured times of each part of a task by weights, device class and shape, and what is believed before.
//!
//! Every success teaches; an estimate blends three sources, the nearer the stronger as it has more numbers:
//! ```text
//! prior (formula) --20/(20+n)--> other shapes of these weights on this class --20/(20+n)--> this shape
//! ```
//! The blend is geometric: a prior may be wrong by a factor of a hundred, and must not weigh for ever.
//! A part is kept per unit of its formula, so that steps, lengths and sizes that were never seen have an estimate too.

use std::{collections::BTreeMap, sync::Arc};

use schemas::{
    agent::Times,
    task::{AssembleSpec, RenderSpec, TaskKind, TaskSpec},
};
use serde::{Deserialize, Serialize};

use super::{memory::Peaks, sketch::Sketch};

/// Numbers at which what was measured weighs as much as what was believed.
pub const PRIOR_COUNT: u32 = 20;
/// Load from cache, tokenise, encode the prompt, connectors; microseconds of the reference device,
/// two x86-64 cores running the built-in model.
const ENCODE_US: u64 = 300_000;
/// One token through the transformer once, both passes of guidance.
const TOKEN_STEP_PS: u64 = 400_000_000;
/// One pixel of one frame through the decoders.
const DECODE_PIXEL_PS: u64 = 3_000_000;
/// Shot file and its upload: start of FFmpeg, and each pixel.
const FINISH_US: u64 = 200_000;
const FINISH_PIXEL_NS: u64 = 10;
/// Start of FFmpeg and the read-back of what it wrote.
const JOIN_US: u64 = 400_000;
const JOIN_SHOT_US: u64 = 100_000;
/// One output pixel through scaling and H.264.
const JOIN_PIXEL_NS: u64 = 40;
/// Opening weights again on a device that has had them.
const LOAD_US: u64 = 1_000_000;
/// Spread of what is believed around its middle, in percent.
const PRIOR_PERCENT: [u64; 4] = [80, 100, 150, 200];
/// Edge of a token in pixels.
const TOKEN_EDGE: u64 = 16;
/// A part that took longer is a mistake of its agent.
const PART_US_MAX: u64 = 7 * 86_400_000_000;
const PS: u64 = 1_000_000;
/// What `Assemble` is called where weights are named.
pub(super) const FILM: &str = "film";

/// A part of a task whose time is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Load,
    Encode,
    /// All steps, by step and token.
    Step,
    Decode,
    /// What comes after the device is done: shot file and upload.
    Finish,
    /// The film from its shots.
    Join,
    /// How far a film's end was before, or behind, what was foretold; see [`super::calibration`].
    Early,
    Late,
}

/// Whose times are alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CostKey {
    pub weights: String,
    /// Of the device; with `xN` behind it for a group of N.
    pub class: String,
    /// `WxH` and frames up to the next power of two.
    pub shape: String,
}

/// What was measured of one kind of work.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CostRow {
    pub key: CostKey,
    /// In picoseconds a unit.
    pub parts: BTreeMap<Part, Sketch>,
    pub memory: Peaks,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Measured {
    parts: BTreeMap<Part, Sketch>,
    memory: Peaks,
}

impl Measured {
    fn row(&self, key: &CostKey) -> CostRow {
        CostRow {
            key: key.clone(),
            parts: self.parts.clone(),
            memory: self.memory.clone(),
        }
    }
}

/// All that was measured. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Costs {
    rows: Arc<Rows>,
}

type Rows = BTreeMap<CostKey, Arc<Measured>>;

/// What an estimate must know about weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CostClass {
    /// Frames of one latent frame.
    pub frames_step: u32,
    /// Steps when the request names none.
    pub steps: u32,
    /// Cost of a token relative to the built-in model, in parts per million; only until it was measured.
    pub rate_ppm: u64,
}

impl Default for CostClass {
    fn default() -> Self {
        Self {
            frames_step: 8,
            steps: 40,
            rate_ppm: 1_000_000,
        }
    }
}

/// A time as 10th, 50th, 90th and 99th percentile, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread(pub [u64; 4]);

impl Spread {
    pub fn p50(self) -> u64 {
        self.0[1]
    }

    pub fn p90(self) -> u64 {
        self.0[2]
    }

    /// The time that `permille` of all stay below, between the percentiles by straight lines.
    pub fn at(self, permille: u32) -> u64 {
        let [p10, p50, p90, p99] = self.0;
        let (from, to, low, high) = match permille {
            ..100 => return p10,
            100..500 => (100, 500, p10, p50),
            500..900 => (500, 900, p50, p90),
            900..990 => (900, 990, p90, p99),
            _ => return p99,
        };
        let part = u128::from(high.saturating_sub(low)) * u128::from(permille - from);
        low + (part / u128::from(to - from)) as u64
    }

    fn map(self, f: impl Fn(u64) -> u64) -> Self {
        Self(self.0.map(f))
    }
}

impl std::ops::Add for Spread {
    type Output = Self;

    /// As if all parts were slow together, which is the careful sum.
    fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|at| {
            self.0[at].saturating_add(other.0[at])
        }))
    }
}

/// What a task takes on one class of device: wall time, which each device of its group has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    pub encode: Spread,
    pub step: Spread,
    pub steps: u32,
    /// Decode, or the whole film.
    pub decode: Spread,
    /// Without the device's compute: never charged.
    pub finish: Spread,
}

impl Service {
    /// What is charged: the device's time.
    pub fn device(self) -> Spread {
        let steps = u64::from(self.steps);
        self.encode + self.step.map(|us| us.saturating_mul(steps)) + self.decode
    }

    /// From the grant to the report, when `done` steps are done before.
    pub fn whole(self, done: u32) -> Spread {
        let steps = u64::from(self.steps.saturating_sub(done));
        self.encode + self.step.map(|us| us.saturating_mul(steps)) + self.decode + self.finish
    }
}

impl Costs {
    pub fn from_rows(rows: Vec<CostRow>) -> Self {
        let rows = rows.into_iter().map(|row| {
            let CostRow { key, parts, memory } = row;
            (key, Arc::new(Measured { parts, memory }))
        });
        Self {
            rows: Arc::new(rows.collect()),
        }
    }

    pub fn rows(&self) -> Vec<CostRow> {
        self.rows.iter().map(|(key, row)| row.row(key)).collect()
    }

    /// Adds one number to a part; answers the row as it is now.
    pub fn add(&mut self, key: &CostKey, numbers: &[(Part, u64)]) -> CostRow {
        let row = self.row_mut(key);
        for (part, value) in numbers {
            row.parts.entry(*part).or_default().add(*value);
        }
        row.row(key)
    }

    /// Takes over what is known of the memory of one kind of work; answers the row as it is now.
    pub fn put_memory(&mut self, key: &CostKey, memory: Peaks) -> CostRow {
        let row = self.row_mut(key);
        row.memory = memory;
        row.row(key)
    }

    fn row_mut(&mut self, key: &CostKey) -> &mut Measured {
        let rows = Arc::make_mut(&mut self.rows);
        Arc::make_mut(rows.entry(key.clone()).or_default())
    }

    pub fn sketch(&self, key: &CostKey, part: Part) -> Option<&Sketch> {
        self.rows.get(key)?.parts.get(&part)
    }

    pub fn memory(&self, key: &CostKey) -> Option<&Peaks> {
        self.rows.get(key).map(|row| &row.memory)
    }

    /// What a task takes on a device of this class.
    pub fn service(&self, spec: &TaskSpec, device: &str, class: CostClass) -> Service {
        let part = |part| self.part(part, spec, device, class);
        match spec {
            TaskSpec::Render(render) => Service {
                encode: part(Part::Encode),
                step: part(Part::Step),
                steps: render.steps.unwrap_or(class.steps),
                decode: part(Part::Decode),
                finish: part(Part::Finish),
            },
            TaskSpec::Assemble(_) => Service {
                decode: part(Part::Join),
                finish: part(Part::Finish),
                ..Service::default()
            },
        }
    }

    fn part(&self, part: Part, spec: &TaskSpec, device: &str, class: CostClass) -> Spread {
        let units = units(part, spec, class);
        self.unit_ps(part, spec, device, class).map(|ps| {
            let us = u128::from(ps) * u128::from(units) / u128::from(PS);
            u64::try_from(us).unwrap_or(u64::MAX).max(1)
        })
    }

    /// A unit of the part, in picoseconds. A group is believed to share steps and decoding evenly, until it was
    /// measured.
    fn unit_ps(&self, part: Part, spec: &TaskSpec, device: &str, class: CostClass) -> Spread {
        let believed = match spec {
            TaskSpec::Render(render) if render.devices > 1 => {
                let shared = match part {
                    Part::Step | Part::Decode => u64::from(render.devices),
                    _ => 1,
                };
                let alone = TaskSpec::Render(RenderSpec {
                    devices: 1,
                    ..render.clone()
                });
                let alone = self.unit_ps(part, &alone, device, class);
                alone.map(|ps| (ps / shared).max(1))
            }
            _ => {
                let ps = prior_ps(part, spec, class);
                Spread(PRIOR_PERCENT.map(|percent| ps.saturating_mul(percent) / 100))
            }
        };
        let key = key(spec, device);
        let of_class = self.of_class(&key, part);
        let shape = self.sketch(&key, part);
        blend(blend(believed, Some(&of_class)), shape)
    }

    /// All other shapes together.
    fn of_class(&self, key: &CostKey, part: Part) -> Sketch {
        let from = CostKey {
            shape: String::new(),
            ..key.clone()
        };
        let alike = |other: &CostKey| (&other.weights, &other.class) == (&key.weights, &key.class);
        let rows = self.rows.range(from..).take_while(|(key, _)| alike(key));
        let others = rows.filter(|(other, _)| *other != key);
        others.filter_map(|(_, row)| row.parts.get(&part)).fold(
            Sketch::default(),
            |mut all, sketch| {
                all.merge(sketch);
                all
            },
        )
    }
}

/// What was believed fades as 20/(20+n).
fn blend(believed: Spread, measured: Option<&Sketch>) -> Spread {
    let Some(measured) = measured.filter(|sketch| sketch.count() > 0) else {
        return believed;
    };
    let count = f64::from(measured.count());
    let faded = f64::from(PRIOR_COUNT) / (f64::from(PRIOR_COUNT) + count);
    let at = |place: usize, permille| {
        let found = measured.quantile(permille).unwrap_or(1).max(1) as f64;
        let before = believed.0[place].max(1) as f64;
        (before.ln() * faded + found.ln() * (1.0 - faded))
            .exp()
            .round() as u64
    };
    Spread([at(0, 100), at(1, 500), at(2, 900), at(3, 990)])
}

/// Width, height and frames up to the next power of two: work of one size is alike.
pub type Size = [u32; 3];

pub fn size(width: u32, height: u32, frames: u32) -> Size {
    [width, height, frames.saturating_sub(1).next_power_of_two()]
}

/// Whose times a task on this class of device shares.
pub fn key(spec: &TaskSpec, device: &str) -> CostKey {
    let (weights, [width, height, frames]) = match spec {
        TaskSpec::Render(render) => (
            &*render.weights,
            size(render.width, render.height, render.frames),
        ),
        TaskSpec::Assemble(film) => {
            let frames = film.shot_frames.iter().sum();
            (FILM, size(film.width, film.height, frames))
        }
    };
    CostKey {
        weights: weights.into(),
        class: match spec.devices() {
            1 => device.into(),
            devices => format!("{device} x{devices}"),
        },
        shape: format!("{width}x{height}x{frames}"),
    }
}

/// How much of a part a task has: what its time is divided by.
fn units(part: Part, spec: &TaskSpec, class: CostClass) -> u64 {
    let units = match (part, spec) {
        (Part::Step, TaskSpec::Render(render)) => tokens(render, class.frames_step),
        (Part::Decode, TaskSpec::Render(render)) => {
            pixels(render.width, render.height, render.frames)
        }
        (Part::Finish, TaskSpec::Render(render)) => {
            FINISH_US + pixels(render.width, render.height, render.frames) * FINISH_PIXEL_NS / 1_000
        }
        (Part::Finish, TaskSpec::Assemble(_)) => FINISH_US,
        (Part::Join, TaskSpec::Assemble(film)) => join_us(film),
        _ => 1,
    };
    units.max(1)
}

/// What is believed before anything was measured, in picoseconds a unit.
fn prior_ps(part: Part, spec: &TaskSpec, class: CostClass) -> u64 {
    let scaled = |ps: u64| (u128::from(ps) * u128::from(class.rate_ppm) / 1_000_000).max(1) as u64;
    match (part, spec) {
        (Part::Step, _) => scaled(TOKEN_STEP_PS),
        (Part::Decode, _) => scaled(DECODE_PIXEL_PS),
        (Part::Load, _) => LOAD_US * PS,
        (Part::Encode, _) => ENCODE_US * PS,
        (Part::Finish | Part::Join | Part::Early | Part::Late, _) => PS,
    }
}

fn join_us(film: &AssembleSpec) -> u64 {
    let frames = film.shot_frames.iter().sum();
    JOIN_US
        + u64::from(film.shots) * JOIN_SHOT_US
        + pixels(film.width, film.height, frames) * JOIN_PIXEL_NS / 1_000
}

fn tokens(spec: &RenderSpec, frames_step: u32) -> u64 {
    let edge = |pixels: u32| u64::from(pixels).div_ceil(TOKEN_EDGE);
    let latent_frames = u64::from(spec.frames.saturating_sub(1) / frames_step.max(1)) + 1;
    latent_frames * edge(spec.width) * edge(spec.height)
}

fn pixels(width: u32, height: u32, frames: u32) -> u64 {
    u64::from(width) * u64::from(height) * u64::from(frames)
}

/// Times of one attempt as numbers to learn from.
pub(super) fn measured(
    times: &Times,
    spec: &TaskSpec,
    steps_run: u32,
    class: CostClass,
) -> Vec<(Part, u64)> {
    let finish = match spec {
        TaskSpec::Render(_) => times.mux_us.zip(times.upload_us).map(|(mux, up)| mux + up),
        TaskSpec::Assemble(_) => times.upload_us,
    };
    let join = times.mux_us.filter(|_| spec.kind() == TaskKind::Assemble);
    let all = [
        (Part::Load, times.load_us, 1),
        (Part::Encode, times.encode_us, 1),
        (Part::Step, times.steps_us, u64::from(steps_run)),
        (Part::Decode, times.decode_us, 1),
        (Part::Finish, finish, 1),
        (Part::Join, join, 1),
    ];
    all.into_iter()
        .filter_map(|(part, us, times)| {
            let us = us.filter(|us| (1..=PART_US_MAX).contains(us))?;
            let units = units(part, spec, class).checked_mul(times)?;
            let ps = u128::from(us) * u128::from(PS);
            (units > 0).then(|| (part, (ps / u128::from(units)).max(1) as u64))
        })
        .collect()
}

#[cfg(test)]
#[path = "tests/costs.rs"]
mod tests;
