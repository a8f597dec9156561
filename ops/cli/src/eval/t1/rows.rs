//! The table of world T1: every metric for oracle, codec, model and baseline, with its mark.

use super::bodies::Bodies;
use super::camera::Moves;
use super::folder::{Scene, Truth};
use super::hits::Hit;
use super::judge::Case;
use super::metrics::{METRICS, Metric};
use super::style::Features;
use crate::eval::columns::{BOOTSTRAP_ROUNDS, Row};
use crate::eval::metrics::Baseline;
use crate::eval::stats::{bootstrap, derangement, mean};

/// What a film gave to see and hear.
#[derive(Clone)]
pub struct Reading {
    pub bodies: Bodies,
    pub camera: Moves,
    pub style: Features,
    /// How far the mouth is open in each frame.
    pub mouth: Vec<f64>,
    pub heard: Vec<Hit>,
    pub loudness: Vec<f64>,
    pub words: Vec<String>,
}

/// Readings of the same scenes in three renderings.
pub struct Readings<'a> {
    pub scenes: &'a [Scene],
    pub truth: &'a Truth,
    pub oracle: &'a [Reading],
    pub codec: Option<&'a [Reading]>,
    pub model: &'a [Reading],
}

/// Folds the readings into one line a metric.
pub fn rows(readings: &Readings, seed: u64) -> Vec<Row> {
    METRICS
        .iter()
        .map(|metric| row(metric, readings, seed))
        .collect()
}

fn row(metric: &Metric, readings: &Readings, seed: u64) -> Row {
    let fold = |clips: &[Vec<f64>]| metric.fold.of(&clips.concat());
    let of = |films, baseline| values(metric, readings, films, baseline, seed);
    let baseline = |films| match metric.baseline {
        Baseline::None => None,
        other => fold(&of(films, other)),
    };
    let clips = of(readings.model, Baseline::None);
    let oracle = fold(&of(readings.oracle, Baseline::None));
    let (model, model_baseline) = (fold(&clips), baseline(readings.model));
    let has_mark = !metric.mark.is_empty();
    Row {
        name: metric.name.to_owned(),
        unit: metric.unit.to_owned(),
        oracle,
        codec: readings
            .codec
            .and_then(|films| fold(&of(films, Baseline::None))),
        model,
        baseline: model_baseline,
        ci95: bootstrap(&clips, BOOTSTRAP_ROUNDS, seed, |pool| metric.fold.of(pool)),
        pass_mark: metric.mark.to_string(),
        pass: has_mark.then(|| metric.mark.passes(model, model_baseline)),
        oracle_pass: has_mark.then(|| metric.mark.passes(oracle, baseline(readings.oracle))),
    }
}

/// Values of the clips that say something about the metric; for a baseline, with caption or sound of another of them.
fn values(
    metric: &Metric,
    readings: &Readings,
    films: &[Reading],
    baseline: Baseline,
    seed: u64,
) -> Vec<Vec<f64>> {
    let value = |truth: usize, seen: usize, heard: usize| {
        (metric.values)(&Case {
            truth: &readings.scenes[truth],
            world: readings.truth,
            seen: &films[seen],
            heard: &films[heard],
            at: seen,
            scenes: readings.scenes,
            oracle: readings.oracle,
        })
    };
    let telling: Vec<usize> = (0..films.len())
        .filter(|&i| !value(i, i, i).is_empty())
        .collect();
    let partner = derangement(telling.len(), seed);
    let of = |(k, &i): (usize, &usize)| match baseline {
        Baseline::None => value(i, i, i),
        Baseline::Captions => {
            let other = telling[partner[k]];
            // Its sound goes with the film: only the caption is another's.
            value(other, i, i)
        }
        Baseline::Sounds => value(i, i, telling[partner[k]]),
    };
    telling.iter().enumerate().map(of).collect()
}

/// How well each film follows its caption and its own sound, 0..1: the mean of all shares that it has.
pub fn scores(readings: &Readings) -> Vec<f64> {
    let shares: Vec<&Metric> = METRICS.iter().filter(|m| m.unit == "share").collect();
    let score = |i: usize| {
        let case = Case {
            truth: &readings.scenes[i],
            world: readings.truth,
            seen: &readings.model[i],
            heard: &readings.model[i],
            at: i,
            scenes: readings.scenes,
            oracle: readings.oracle,
        };
        let means: Vec<f64> = shares
            .iter()
            .filter_map(|m| mean(&(m.values)(&case)))
            .collect();
        mean(&means).unwrap_or(0.0)
    };
    (0..readings.scenes.len()).map(score).collect()
}
