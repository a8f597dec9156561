//! What is right in one clip: its values for each metric, and which body stands for which asked object.

use super::flight::Rebound;
use super::metrics::Case;
use super::scene::{Gravity, Object};
use super::stats::{median, weighted_median};
use super::track::{Body, Seen};

/// A sound belongs to an impact that is at most this far away.
const MATCH_S: f64 = 0.2;
/// Two visible impacts nearer than this are one event.
const SAME_EVENT_S: f64 = 0.05;
/// Physics: allowed error of the restitution, rise of energy in a bounce, share of frames with the usual count.
const RESTITUTION_ERROR_MAX: f64 = 0.1;
const ENERGY_GAIN_MAX: f64 = 1.05;
const STEADY_SHARE: f64 = 0.9;

/// Times of visible impacts of all bodies; impacts at the same moment are one.
fn visible_impacts(seen: &Seen) -> Vec<f64> {
    let mut times: Vec<f64> = seen
        .bodies
        .iter()
        .flat_map(|b| &b.motion.impacts)
        .map(|i| i.time_s)
        .collect();
    times.sort_by(f64::total_cmp);
    times.dedup_by(|later, first| *later - *first < SAME_EVENT_S);
    times
}

/// Pairs of (impact, onset), each used once, nearest first.
fn sync_pairs(case: &Case) -> (usize, Vec<(f64, f64)>) {
    let impacts = visible_impacts(case.seen);
    let mut near: Vec<(usize, usize)> = Vec::new();
    for (i, impact) in impacts.iter().enumerate() {
        let matching = case
            .heard
            .iter()
            .enumerate()
            .filter(|(_, o)| (o.time_s - impact).abs() <= MATCH_S);
        near.extend(matching.map(|(o, _)| (i, o)));
    }
    let distance = |&(i, o): &(usize, usize)| (case.heard[o].time_s - impacts[i]).abs();
    near.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
    let (mut used_impacts, mut used_onsets) =
        (vec![false; impacts.len()], vec![false; case.heard.len()]);
    let mut pairs = Vec::new();
    for (i, o) in near {
        if !used_impacts[i] && !used_onsets[o] {
            (used_impacts[i], used_onsets[o]) = (true, true);
            pairs.push((impacts[i], case.heard[o].time_s));
        }
    }
    (impacts.len(), pairs)
}

pub fn sync_errors(case: &Case) -> Vec<f64> {
    sync_pairs(case)
        .1
        .into_iter()
        .map(|(seen, heard)| (heard - seen).abs() * 1000.0)
        .collect()
}

/// 1 for each visible impact with its sound. A film without any impact is one miss: every scene has one.
pub fn impacts_heard(case: &Case) -> Vec<f64> {
    let (impacts, pairs) = sync_pairs(case);
    (0..impacts.max(1))
        .map(|i| f64::from(i < pairs.len()))
        .collect()
}

/// 1 for each sound with its visible impact. A silent film is one miss.
pub fn sounds_seen(case: &Case) -> Vec<f64> {
    let (_, pairs) = sync_pairs(case);
    (0..case.heard.len().max(1))
        .map(|i| f64::from(i < pairs.len()))
        .collect()
}

/// How well a parabola explains each flight. A film in which nothing flies explains nothing.
pub fn flight_fits(case: &Case) -> Vec<f64> {
    let fits: Vec<f64> = case
        .seen
        .bodies
        .iter()
        .flat_map(|b| &b.motion.flights)
        .map(|f| f.r2)
        .collect();
    if fits.is_empty() { vec![0.0] } else { fits }
}

/// Acceleration down of each body (median of its flights), m/s².
fn accelerations(seen: &Seen) -> Vec<f64> {
    let of_body = |body: &Body| {
        let found: Vec<f64> = body.motion.flights.iter().map(|f| -2.0 * f.c[2]).collect();
        median(&found)
    };
    seen.bodies.iter().filter_map(of_body).collect()
}

pub fn gravity_ratios(case: &Case) -> Vec<f64> {
    let truth = case.truth.gravity.acceleration();
    let ratios: Vec<f64> = accelerations(case.seen).iter().map(|g| g / truth).collect();
    if ratios.is_empty() { vec![0.0] } else { ratios }
}

/// 1 if the bodies fall more like the asked gravity than like the other, on a logarithmic scale.
pub fn gravity_right(case: &Case) -> Vec<f64> {
    let border = (Gravity::Earth.acceleration() * Gravity::Moon.acceleration()).sqrt();
    let right = median(&accelerations(case.seen))
        .is_some_and(|g| (g > border) == (case.truth.gravity == Gravity::Earth));
    vec![f64::from(right)]
}

/// Measured rebounds of the body of each asked object; `None` for an object that is not there.
fn rebounds(case: &Case) -> Vec<Option<Vec<Rebound>>> {
    let of_body = |body: &Body| -> Vec<Rebound> {
        let impacts = body.motion.impacts.iter();
        impacts.filter_map(|i| i.rebound).collect()
    };
    matching(case)
        .into_iter()
        .map(|body| body.map(of_body))
        .collect()
}

/// Restitution of each asked object that shows one, less its material's: above 0 it bounces too high.
///
/// The median is weighted by the heights of the falls. A plain one let the last rebounds of wood and metal,
/// a pixel or two high and read as 0 to 0.27, outvote the first: the oracle's own films failed by that.
pub fn restitution_errors(case: &Case) -> Vec<f64> {
    let error = |(rebounds, object): (&Option<Vec<Rebound>>, &Object)| {
        let weighted = rebounds.as_ref()?.iter().map(|r| (r.restitution, r.fall_m));
        Some(weighted_median(weighted.collect())? - object.material.restitution())
    };
    let rebounds = rebounds(case);
    let asked = rebounds.iter().zip(&case.truth.objects);
    asked.filter_map(error).collect()
}

/// 1 for each asked object with a rebound that is long enough to measure.
pub fn rebound_seen(case: &Case) -> Vec<f64> {
    let seen = |r: &Option<Vec<Rebound>>| r.as_ref().is_some_and(|r| !r.is_empty());
    let rebounds = rebounds(case);
    rebounds.iter().map(|r| f64::from(seen(r))).collect()
}

/// 1 if every asked body bounces as its material does.
pub fn restitution_right(case: &Case) -> Vec<f64> {
    let errors = restitution_errors(case);
    let is_near = |e: &f64| e.abs() <= RESTITUTION_ERROR_MAX;
    let all = errors.len() == case.truth.objects.len();
    vec![f64::from(all && errors.iter().all(is_near))]
}

/// 1 if no asked body gains energy in a bounce.
pub fn energy_right(case: &Case) -> Vec<f64> {
    let keeps = |rebounds: &Option<Vec<Rebound>>| {
        let keeps = |r: &Rebound| r.restitution.powi(2) <= ENERGY_GAIN_MAX;
        rebounds.as_ref().is_some_and(|r| r.iter().all(keeps))
    };
    vec![f64::from(rebounds(case).iter().all(keeps))]
}

/// 1 if no body comes or goes.
pub fn number_steady(case: &Case) -> Vec<f64> {
    vec![f64::from(case.seen.steady >= STEADY_SHARE)]
}

/// 1 if every asked body bounces as its material does, none gains energy, and none comes or goes.
pub fn physics_right(case: &Case) -> Vec<f64> {
    let parts = [restitution_right, energy_right, number_steady];
    vec![f64::from(parts.iter().all(|part| part(case)[0] > 0.0))]
}

/// The body for each asked object, such that as many attributes as possible are right.
fn matching<'a>(case: &Case<'a>) -> Vec<Option<&'a Body>> {
    let (objects, bodies) = (&case.truth.objects, &case.seen.bodies);
    let score = |object: usize, body: usize| {
        let (o, b) = (&objects[object], &bodies[body]);
        1 + 4 * (u32::from(o.color == b.color) + u32::from(o.shape == b.shape))
            + 2 * u32::from(o.size == b.size)
    };
    let mut best = (0, vec![None; objects.len()]);
    search(
        &score,
        bodies.len(),
        0,
        &mut vec![None; objects.len()],
        &mut best,
    );
    best.1
        .into_iter()
        .map(|b| b.map(|b: usize| &bodies[b]))
        .collect()
}

/// Tries every assignment of bodies to the objects from `object` on; keeps the best in `best`.
fn search(
    score: &dyn Fn(usize, usize) -> u32,
    bodies: usize,
    object: usize,
    chosen: &mut Vec<Option<usize>>,
    best: &mut (u32, Vec<Option<usize>>),
) {
    if object == chosen.len() {
        let total = chosen
            .iter()
            .enumerate()
            .filter_map(|(o, b)| b.map(|b| score(o, b)))
            .sum();
        if total > best.0 {
            *best = (total, chosen.clone());
        }
        return;
    }
    for body in (0..bodies).map(Some).chain([None]) {
        if body.is_none() || !chosen[..object].contains(&body) {
            chosen[object] = body;
            search(score, bodies, object + 1, chosen, best);
        }
    }
    chosen[object] = None;
}

/// Share of asked objects (or of found bodies, if there are more) of which `is_right` holds.
fn share_right(case: &Case, is_right: impl Fn(usize, &Body) -> bool) -> Vec<f64> {
    let right = matching(case)
        .iter()
        .enumerate()
        .filter(|(i, body)| body.is_some_and(|b| is_right(*i, b)))
        .count();
    vec![right as f64 / case.truth.objects.len().max(case.seen.bodies.len()) as f64]
}

pub fn color_right(case: &Case) -> Vec<f64> {
    share_right(case, |i, body| body.color == case.truth.objects[i].color)
}

pub fn shape_right(case: &Case) -> Vec<f64> {
    share_right(case, |i, body| body.shape == case.truth.objects[i].shape)
}

pub fn size_right(case: &Case) -> Vec<f64> {
    share_right(case, |i, body| body.size == case.truth.objects[i].size)
}

pub fn count_right(case: &Case) -> Vec<f64> {
    vec![f64::from(case.seen.count == case.truth.objects.len())]
}

pub fn background_right(case: &Case) -> Vec<f64> {
    vec![f64::from(case.seen.background == case.truth.bg)]
}

/// 1 if colour and shape of every object and the count are right.
pub fn joint_right(case: &Case) -> Vec<f64> {
    let all = |values: Vec<f64>| values[0] >= 1.0;
    let right = |i: usize, b: &Body| {
        b.color == case.truth.objects[i].color && b.shape == case.truth.objects[i].shape
    };
    vec![f64::from(
        all(count_right(case)) && all(share_right(case, right)),
    )]
}

/// 1 if most of the loudness of the onsets is in the asked material. Clips with two materials are left out.
pub fn material_right(case: &Case) -> Vec<f64> {
    let asked = case.truth.objects[0].material;
    if case.truth.objects.iter().any(|o| o.material != asked) {
        return vec![];
    }
    let total: f64 = case.heard.iter().map(|o| o.strength).sum();
    let right: f64 = case
        .heard
        .iter()
        .filter(|o| o.material == asked)
        .map(|o| o.strength)
        .sum();
    vec![f64::from(total > 0.0 && right > total / 2.0)]
}
