//! The metrics of world T1: what each is, how clips fold into its number, what it is compared with, its mark.

use super::judge::{self, Case};
use crate::eval::mark::{Fold, Mark};
use crate::eval::metrics::Baseline;

/// One metric over clips.
pub struct Metric {
    pub name: &'static str,
    pub unit: &'static str,
    pub fold: Fold,
    pub baseline: Baseline,
    pub mark: Mark,
    pub values: fn(&Case) -> Vec<f64>,
}

/// All metrics, in the order of the report.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    metric("AV sync, median",           "ms",    Fold::Median, Baseline::Sounds,   Mark::most(60.0),     judge::sync_errors),
    metric("AV sync, 90th percentile",  "ms",    Fold::P90,    Baseline::Sounds,   Mark::most(125.0),    judge::sync_errors),
    metric("AV sync, impacts heard",    "share", Fold::Mean,   Baseline::Sounds,   Mark::least(0.8),     judge::impacts_heard),
    metric("AV sync, sounds seen",      "share", Fold::Mean,   Baseline::Sounds,   Mark::least(0.7),     judge::sounds_seen),
    metric("gravity, fit",              "R²",    Fold::Median, Baseline::None,     Mark::least(0.98),    judge::flight_fits),
    metric("gravity, g / true g",       "ratio", Fold::Median, Baseline::Captions, GRAVITY_MARK,         judge::gravity_ratios),
    metric("physics",                   "share", Fold::Mean,   Baseline::Captions, Mark::least(0.8),     judge::physics_right),
    metric("physics: collisions right", "share", Fold::Mean,   Baseline::Captions, Mark::NONE,           judge::collision_right),
    metric("colour",                    "share", Fold::Mean,   Baseline::Captions, attribute(0.85),      judge::color_right),
    metric("count",                     "share", Fold::Mean,   Baseline::Captions, attribute(0.8),       judge::count_right),
    metric("joint: colour, count",      "share", Fold::Mean,   Baseline::Captions, JOINT_MARK,           judge::joint_right),
    metric("camera",                    "share", Fold::Mean,   Baseline::Captions, attribute(0.8),       judge::camera_right),
    metric("style",                     "share", Fold::Mean,   Baseline::Captions, attribute(0.8),       judge::style_right),
    metric("material heard",            "share", Fold::Mean,   Baseline::Captions, attribute(0.6),       judge::material_right),
    metric("word spoken",               "share", Fold::Mean,   Baseline::Captions, attribute(0.4),       judge::words_right),
    metric("speech, mouth and voice",   "r",     Fold::Mean,   Baseline::Sounds,   Mark::least(0.5),     judge::mouth_follows),
    metric("speech, m b p closed",      "share", Fold::Mean,   Baseline::Captions, Mark::least(0.7),     judge::lips_closed),
];
const GRAVITY_MARK: Mark = Mark {
    most: Some(1.1),
    ..Mark::least(0.9)
};
const JOINT_MARK: Mark = Mark {
    times: Some(3.0),
    ..Mark::least(0.5)
};

/// A share that captions of other clips must stay below by 0.3.
const fn attribute(least: f64) -> Mark {
    Mark {
        gain: Some(0.3),
        ..Mark::least(least)
    }
}

const fn metric(
    name: &'static str,
    unit: &'static str,
    fold: Fold,
    baseline: Baseline,
    mark: Mark,
    values: fn(&Case) -> Vec<f64>,
) -> Metric {
    Metric {
        name,
        unit,
        fold,
        baseline,
        mark,
        values,
    }
}
