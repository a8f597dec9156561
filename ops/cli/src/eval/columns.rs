//! The table of the report: every metric for oracle, codec, model and baseline, with its mark.

use serde::Serialize;

use super::mark::Mark;
use super::metrics::{Baseline, Case, METRICS, Metric};
use super::scene::Scene;
use super::sound::Onset;
use super::stats::{bootstrap, derangement};
use super::track::Seen;

/// Resamples of the interval.
pub const BOOTSTRAP_ROUNDS: usize = 1000;

/// What a film gave to see and hear.
#[derive(Clone)]
pub struct Reading {
    pub seen: Seen,
    pub heard: Vec<Onset>,
}

/// Readings of the same scenes in three renderings.
pub struct Readings<'a> {
    pub scenes: &'a [Scene],
    pub oracle: &'a [Reading],
    /// The oracle's films through the codecs, where the engine can encode.
    pub codec: Option<&'a [Reading]>,
    pub model: &'a [Reading],
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: String,
    pub unit: String,
    pub oracle: Option<f64>,
    pub codec: Option<f64>,
    pub model: Option<f64>,
    pub baseline: Option<f64>,
    /// 95 % interval of the model's value over resampled clips.
    pub ci95: Option<[f64; 2]>,
    pub pass_mark: String,
    /// `None` for a line without mark.
    pub pass: Option<bool>,
    /// `None` for a line without mark or without oracle.
    pub oracle_pass: Option<bool>,
}

impl Row {
    /// A line with a model value only.
    pub fn of_model(name: &str, unit: &str, model: Option<f64>, mark: Mark) -> Row {
        Row {
            name: name.to_owned(),
            unit: unit.to_owned(),
            oracle: None,
            codec: None,
            model,
            baseline: None,
            ci95: None,
            pass_mark: mark.to_string(),
            pass: (!mark.is_empty()).then(|| mark.passes(model, None)),
            oracle_pass: None,
        }
    }
}

/// Folds the readings into one line a metric.
pub fn rows(readings: &Readings, is_core: bool, seed: u64) -> Vec<Row> {
    let chosen = METRICS.iter().filter(|m| m.is_core || !is_core);
    let mut rows: Vec<Row> = chosen.map(|metric| row(metric, readings, seed)).collect();
    rows.insert(1, sync_gain(&rows[0]));
    rows
}

/// Sounds at random moments can be near some impact too: the median says little without this ratio.
fn sync_gain(sync: &Row) -> Row {
    let ratio = sync
        .model
        .zip(sync.baseline)
        .map(|(model, baseline)| model / baseline);
    Row::of_model("AV sync, median / baseline", "ratio", ratio, Mark::NONE)
}

fn row(metric: &Metric, readings: &Readings, seed: u64) -> Row {
    let Readings {
        scenes,
        oracle,
        codec,
        model,
    } = readings;
    let fold = |clips: &[Vec<f64>]| metric.fold.of(&clips.concat());
    let value = |films: &[Reading]| fold(&values(metric, scenes, films, Baseline::None, seed));
    let baseline = |films: &[Reading]| match metric.baseline {
        Baseline::None => None,
        other => fold(&values(metric, scenes, films, other, seed)),
    };
    let clips = values(metric, scenes, model, Baseline::None, seed);
    let (oracle_value, model_value, model_baseline) =
        (value(oracle), fold(&clips), baseline(model));
    let has_mark = !metric.mark.is_empty();
    Row {
        name: metric.name.to_owned(),
        unit: metric.unit.to_owned(),
        oracle: oracle_value,
        codec: codec.and_then(value),
        model: model_value,
        baseline: model_baseline,
        ci95: bootstrap(&clips, BOOTSTRAP_ROUNDS, seed, |pool| metric.fold.of(pool)),
        pass_mark: metric.mark.to_string(),
        pass: has_mark.then(|| metric.mark.passes(model_value, model_baseline)),
        oracle_pass: has_mark.then(|| metric.mark.passes(oracle_value, baseline(oracle))),
    }
}

/// Values of each clip; for a baseline, with the caption or the sound of another clip.
fn values(
    metric: &Metric,
    scenes: &[Scene],
    films: &[Reading],
    baseline: Baseline,
    seed: u64,
) -> Vec<Vec<f64>> {
    let partner = derangement(films.len(), seed);
    let case = |i: usize| {
        let truth = if baseline == Baseline::Captions {
            partner[i]
        } else {
            i
        };
        let heard = if baseline == Baseline::Sounds {
            partner[i]
        } else {
            i
        };
        Case {
            truth: &scenes[truth],
            seen: &films[i].seen,
            heard: &films[heard].heard,
        }
    };
    (0..films.len())
        .map(|i| (metric.values)(&case(i)))
        .collect()
}

/// How well each film follows its caption and its own sound, 0..1: the mean of all shares.
pub fn scores(scenes: &[Scene], films: &[Reading]) -> Vec<f64> {
    let score = |(scene, film): (&Scene, &Reading)| {
        let case = Case {
            truth: scene,
            seen: &film.seen,
            heard: &film.heard,
        };
        let shares = METRICS.iter().filter(|m| m.unit == "share");
        let means: Vec<f64> = shares
            .filter_map(|m| super::stats::mean(&(m.values)(&case)))
            .collect();
        super::stats::mean(&means).unwrap_or(0.0)
    };
    scenes.iter().zip(films).map(score).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::*;
    use crate::eval::film::Film;
    use crate::eval::scene::{Gravity, SceneList};
    use crate::eval::{oracle, read};

    const CLIPS: usize = 12;

    fn oracle_readings() -> &'static [Reading] {
        static READINGS: OnceLock<Vec<Reading>> = OnceLock::new();
        READINGS.get_or_init(|| {
            SceneList::builtin().scenes[..CLIPS]
                .iter()
                .map(|s| read(&oracle::film(s)))
                .collect()
        })
    }

    /// Rows of films after `spoil`, by name.
    fn measured(spoil: impl Fn(&Scene) -> Film) -> impl Fn(&str) -> Row {
        let scenes = &SceneList::builtin().scenes[..CLIPS];
        let model: Vec<Reading> = scenes.iter().map(|s| read(&spoil(s))).collect();
        measured_readings(&model)
    }

    fn measured_readings(model: &[Reading]) -> impl Fn(&str) -> Row + use<> {
        let scenes = &SceneList::builtin().scenes[..CLIPS];
        let rows = rows(
            &Readings {
                scenes,
                oracle: oracle_readings(),
                codec: None,
                model,
            },
            false,
            1,
        );
        move |name| {
            rows.iter()
                .find(|r| r.name.starts_with(name))
                .unwrap()
                .clone()
        }
    }

    fn value(row: &Row) -> f64 {
        row.model.unwrap()
    }

    #[test]
    fn the_oracle_passes_every_mark_and_is_nearly_perfect() {
        let row = measured_readings(oracle_readings());
        for metric in METRICS {
            let row = row(metric.name);
            assert_ne!(row.oracle_pass, Some(false), "{row:?}");
            assert_eq!(row.oracle, row.model);
        }
        for name in [
            "colour",
            "shape",
            "count",
            "size",
            "background",
            "material",
            "joint",
            "gravity, earth",
        ] {
            assert_eq!(value(&row(name)), 1.0, "{name}");
        }
        assert!(value(&row("AV sync, median")) < 5.0);
        assert!(value(&row("AV sync, impacts")) > 0.95);
        assert!((value(&row("gravity, g /")) - 1.0).abs() < 0.05);
        assert!(value(&row("physics")) > 0.9);
    }

    #[test]
    fn late_sound_is_measured_as_late() {
        let row = measured(|scene| {
            let mut film = oracle::film(scene);
            film.samples.rotate_right(1920);
            film
        });
        let late = row("AV sync, median");
        assert!((value(&late) - 120.0).abs() < 25.0, "{late:?}");
        assert_eq!((late.pass, late.oracle_pass), (Some(false), Some(true)));
    }

    #[test]
    fn films_of_other_captions_miss_every_attribute() {
        let mut films = oracle_readings().to_vec();
        films.rotate_left(1);
        let row = measured_readings(&films);
        for name in [
            "colour",
            "shape",
            "count",
            "size",
            "background",
            "material",
            "joint",
        ] {
            let row = row(name);
            assert_eq!(row.pass, Some(false), "{row:?}");
        }
    }

    #[test]
    fn a_ball_that_hangs_still_and_silent_fails_sync_gravity_and_physics() {
        let row = measured(|scene| {
            let mut film = oracle::film(scene);
            let first = film.frame(0).to_vec();
            film.rgb = first.repeat(scene.frames);
            film.samples.fill(0.0);
            film
        });
        for name in [
            "AV sync, median",
            "AV sync, impacts",
            "gravity, fit",
            "gravity, g /",
            "physics",
            "material",
        ] {
            let row = row(name);
            assert_eq!(row.pass, Some(false), "{row:?}");
        }
        assert_eq!(value(&row("colour")), 1.0);
    }

    #[test]
    fn the_other_gravity_and_the_other_material_are_seen() {
        let row = measured(|scene| {
            let mut other = scene.clone();
            other.gravity = if scene.gravity == Gravity::Moon {
                Gravity::Earth
            } else {
                Gravity::Moon
            };
            oracle::film(&other)
        });
        assert!(value(&row("gravity, earth")) < 0.1);
        assert_eq!(row("gravity, g /").pass, Some(false));
        let row = measured(|scene| {
            let mut other = scene.clone();
            for object in &mut other.objects {
                let all = crate::eval::scene::Material::ALL;
                let at = all.iter().position(|&m| m == object.material).unwrap();
                object.material = all[(at + 1) % all.len()];
            }
            oracle::film(&other)
        });
        assert!(value(&row("material")) < 0.1);
        assert_eq!(row("physics").pass, Some(false));
    }
}
