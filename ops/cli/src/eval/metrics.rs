//! The metrics: what each is, how clips fold into its number, what it is compared with, its mark (variant T0).

use super::judge;
use super::mark::{Fold, Mark};
use super::scene::Scene;
use super::sound::Onset;
use super::track::Seen;

/// One clip: what was asked for, what is seen and what is heard.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    pub truth: &'a Scene,
    pub seen: &'a Seen,
    pub heard: &'a [Onset],
}

/// What a metric is compared with: the same films with captions, or sounds, of other clips.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Baseline {
    None,
    Captions,
    Sounds,
}

/// One metric over clips.
pub struct Metric {
    pub name: &'static str,
    pub unit: &'static str,
    /// Measured by the short suite too.
    pub is_core: bool,
    pub fold: Fold,
    pub baseline: Baseline,
    /// Mark of variant T0.
    pub mark: Mark,
    pub values: fn(&Case) -> Vec<f64>,
}

/// All metrics read from clips, in the order of the report.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    metric("AV sync, median",             "ms",    CORE, Fold::Median, Baseline::Sounds,   Mark::most(90.0),     judge::sync_errors),
    metric("AV sync, 90th percentile",    "ms",    CORE, Fold::P90,    Baseline::Sounds,   Mark::NONE,           judge::sync_errors),
    metric("AV sync, impacts heard",      "share", CORE, Fold::Mean,   Baseline::Sounds,   Mark::least(0.6),     judge::impacts_heard),
    metric("AV sync, sounds seen",        "share", CORE, Fold::Mean,   Baseline::Sounds,   Mark::NONE,           judge::sounds_seen),
    metric("gravity, fit",                "R²",    CORE, Fold::Median, Baseline::None,     Mark::least(0.95),    judge::flight_fits),
    metric("gravity, g / true g",         "ratio", CORE, Fold::Median, Baseline::Captions, GRAVITY_MARK,         judge::gravity_ratios),
    metric("gravity, earth or moon",      "share", CORE, Fold::Mean,   Baseline::Captions, Mark::NONE,           judge::gravity_right),
    metric("physics",                     "share", FULL, Fold::Mean,   Baseline::None,     Mark::least(0.6),     judge::physics_right),
    metric("physics: rebounds seen",      "share", FULL, Fold::Mean,   Baseline::None,     Mark::NONE,           judge::rebound_seen),
    metric("physics: restitution right",  "share", FULL, Fold::Mean,   Baseline::Captions, Mark::NONE,           judge::restitution_right),
    metric("physics: restitution error",  "ratio", FULL, Fold::Median, Baseline::Captions, Mark::NONE,           judge::restitution_errors),
    metric("physics: energy never rises", "share", FULL, Fold::Mean,   Baseline::None,     Mark::NONE,           judge::energy_right),
    metric("physics: number constant",    "share", FULL, Fold::Mean,   Baseline::None,     Mark::NONE,           judge::number_steady),
    metric("colour",                      "share", CORE, Fold::Mean,   Baseline::Captions, Mark::attribute(0.8), judge::color_right),
    metric("shape",                       "share", CORE, Fold::Mean,   Baseline::Captions, Mark::attribute(0.6), judge::shape_right),
    metric("count",                       "share", CORE, Fold::Mean,   Baseline::Captions, Mark::attribute(0.7), judge::count_right),
    metric("size",                        "share", FULL, Fold::Mean,   Baseline::Captions, Mark::attribute(0.6), judge::size_right),
    metric("background",                  "share", FULL, Fold::Mean,   Baseline::Captions, Mark::attribute(0.9), judge::background_right),
    metric("material heard",              "share", FULL, Fold::Mean,   Baseline::Captions, Mark::attribute(0.5), judge::material_right),
    metric("joint: colour, shape, count", "share", CORE, Fold::Mean,   Baseline::Captions, JOINT_MARK,           judge::joint_right),
];
const CORE: bool = true;
const FULL: bool = false;
const GRAVITY_MARK: Mark = Mark {
    most: Some(1.2),
    ..Mark::least(0.8)
};
const JOINT_MARK: Mark = Mark {
    times: Some(3.0),
    ..Mark::least(0.35)
};

const fn metric(
    name: &'static str,
    unit: &'static str,
    is_core: bool,
    fold: Fold,
    baseline: Baseline,
    mark: Mark,
    values: fn(&Case) -> Vec<f64>,
) -> Metric {
    Metric {
        name,
        unit,
        is_core,
        fold,
        baseline,
        mark,
        values,
    }
}
