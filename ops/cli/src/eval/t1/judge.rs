//! What is right in one clip of world T1. An empty list means that the clip says nothing about a metric.

use super::folder::{Kind, Scene, Truth};
use super::mouth;
use super::rows::Reading;
use super::style;
use crate::eval::stats::weighted_median;

/// A sound belongs to an impact that is at most this far away.
const MATCH_S: f64 = 0.2;
/// Two visible impacts nearer than this are one event.
const SAME_EVENT_S: f64 = 0.05;
const RESTITUTION_ERROR_MAX: f64 = 0.1;
/// Rolling takes speed before and after a collision, and its lines are short.
const BOUNCE_ERROR_MAX: f64 = 0.15;
const ENERGY_GAIN_MAX: f64 = 1.05;

/// One clip: what was asked for, what is seen, and what is heard, which may be another clip's.
pub struct Case<'a> {
    pub truth: &'a Scene,
    pub world: &'a Truth,
    pub seen: &'a Reading,
    pub heard: &'a Reading,
    /// Place of the film in the list, and the oracle's films, of which the others' styles are known.
    pub at: usize,
    pub scenes: &'a [Scene],
    pub oracle: &'a [Reading],
}

fn share(is: bool) -> Vec<f64> {
    vec![f64::from(is)]
}

fn visible(case: &Case) -> Vec<f64> {
    let bodies = &case.seen.bodies;
    let bounces = bodies
        .found
        .iter()
        .flat_map(|b| &b.motion.impacts)
        .map(|i| i.time_s);
    let mut times: Vec<f64> = bounces
        .chain(bodies.meetings.iter().map(|m| m.time_s))
        .collect();
    times.sort_by(f64::total_cmp);
    times.dedup_by(|later, first| *later - *first < SAME_EVENT_S);
    times
}

/// Pairs of (impact, onset), each used once, nearest first; and the number of impacts.
fn pairs(case: &Case) -> (usize, Vec<(f64, f64)>) {
    let impacts = visible(case);
    let mut near: Vec<(f64, usize, usize)> = Vec::new();
    for (i, impact) in impacts.iter().enumerate() {
        for (o, hit) in case.heard.heard.iter().enumerate() {
            near.push(((hit.time_s - impact).abs(), i, o));
        }
    }
    near.retain(|n| n.0 <= MATCH_S);
    near.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut used: Vec<(usize, usize)> = Vec::new();
    for (_, i, o) in near {
        if used.iter().all(|u| u.0 != i && u.1 != o) {
            used.push((i, o));
        }
    }
    let times = used
        .iter()
        .map(|&(i, o)| (impacts[i], case.heard.heard[o].time_s));
    (impacts.len(), times.collect())
}

pub fn sync_errors(case: &Case) -> Vec<f64> {
    if !has_impacts(case) {
        return vec![];
    }
    pairs(case)
        .1
        .iter()
        .map(|(seen, heard)| (heard - seen).abs() * 1000.0)
        .collect()
}

/// Whether impacts are seen and heard in the scene.
fn has_impacts(case: &Case) -> bool {
    matches!(case.truth.kind, Kind::Bounce | Kind::Collide) && case.truth.gravity != "none"
}

pub fn impacts_heard(case: &Case) -> Vec<f64> {
    if !has_impacts(case) {
        return vec![];
    }
    let (impacts, pairs) = pairs(case);
    (0..impacts.max(1))
        .map(|i| f64::from(i < pairs.len()))
        .collect()
}

pub fn sounds_seen(case: &Case) -> Vec<f64> {
    if !has_impacts(case) {
        return vec![];
    }
    let found = pairs(case).1.len();
    (0..case.heard.heard.len().max(1))
        .map(|i| f64::from(i < found))
        .collect()
}

/// A zoom changes what a metre is, and without gravity nothing falls.
fn falls(case: &Case) -> bool {
    case.truth.kind == Kind::Bounce
        && case.truth.gravity != "none"
        && !case.truth.camera.starts_with("zoom")
}

pub fn flight_fits(case: &Case) -> Vec<f64> {
    if !falls(case) {
        return vec![];
    }
    let bodies = case.seen.bodies.found.iter();
    let fits: Vec<f64> = bodies
        .flat_map(|b| &b.motion.flights)
        .map(|f| f.r2)
        .collect();
    if fits.is_empty() { vec![0.0] } else { fits }
}

pub fn gravity_ratios(case: &Case) -> Vec<f64> {
    if !falls(case) {
        return vec![];
    }
    let truth = case.world.gravity[&case.truth.gravity];
    let flights = case
        .seen
        .bodies
        .found
        .iter()
        .flat_map(|b| &b.motion.flights);
    let ratios: Vec<f64> = flights.map(|f| -2.0 * f.c[2] / truth).collect();
    if ratios.is_empty() { vec![0.0] } else { ratios }
}

/// 1 if every asked body that falls bounces as its material does and gains no energy.
fn bounces_right(case: &Case) -> bool {
    case.truth.objects.iter().all(|object| {
        let Some(body) = case.seen.bodies.of(&object.color) else {
            return false;
        };
        let rebounds: Vec<_> = body
            .motion
            .impacts
            .iter()
            .filter_map(|i| i.rebound)
            .collect();
        let found = weighted_median(rebounds.iter().map(|r| (r.restitution, r.fall_m)).collect());
        let truth = case.world.restitution[&object.material];
        // A body that falls from low, late or between others may show no rebound that can be measured.
        found.is_none_or(|e| (e - truth).abs() <= RESTITUTION_ERROR_MAX)
            && !body.motion.impacts.is_empty()
            && rebounds
                .iter()
                .all(|r| r.restitution.powi(2) <= ENERGY_GAIN_MAX)
    })
}

/// 1 if two asked bodies run into each other and part as their materials do.
pub fn collision_right(case: &Case) -> Vec<f64> {
    let (Kind::Collide, Some(truth)) = (case.truth.kind, case.truth.bounce) else {
        return vec![];
    };
    let meetings = &case.seen.bodies.meetings;
    let is_right = |b: f64| (b - truth).abs() <= BOUNCE_ERROR_MAX && b * b <= ENERGY_GAIN_MAX;
    share(meetings.first().is_some_and(|m| is_right(m.bounce)) && meetings.len() == 1)
}

pub fn physics_right(case: &Case) -> Vec<f64> {
    match case.truth.kind {
        Kind::Bounce if falls(case) => share(bounces_right(case)),
        Kind::Collide => collision_right(case),
        _ => vec![],
    }
}

fn has_bodies(case: &Case) -> bool {
    !case.truth.objects.is_empty()
}

/// Share of the asked colours (or of the found ones, if there are more) that are there.
pub fn color_right(case: &Case) -> Vec<f64> {
    if !has_bodies(case) {
        return vec![];
    }
    let (asked, found) = (&case.truth.objects, &case.seen.bodies);
    let right = asked
        .iter()
        .filter(|o| found.of(&o.color).is_some())
        .count();
    vec![right as f64 / asked.len().max(found.found.len()) as f64]
}

pub fn count_right(case: &Case) -> Vec<f64> {
    if !has_bodies(case) {
        return vec![];
    }
    share(case.seen.bodies.found.len() == case.truth.objects.len())
}

pub fn joint_right(case: &Case) -> Vec<f64> {
    color_right(case)
        .into_iter()
        .map(|c| f64::from(c >= 1.0))
        .collect()
}

pub fn camera_right(case: &Case) -> Vec<f64> {
    share(case.seen.camera.name() == case.truth.camera)
}

/// Scenes without anything drawn look alike in two styles, so they tell nothing.
pub fn style_right(case: &Case) -> Vec<f64> {
    if case.truth.kind == Kind::Quiet {
        return vec![];
    }
    let known = case.scenes.iter().zip(case.oracle).enumerate();
    let drawn = known.filter(|(_, (scene, _))| scene.kind != Kind::Quiet);
    let known = drawn.map(|(i, (scene, reading))| (i, &reading.style, &scene.style[..]));
    share(style::nearest(&case.seen.style, known, case.at) == Some(&case.truth.style))
}

/// 1 if most of the loudness of the onsets is in the asked materials, of which there are at most two.
pub fn material_right(case: &Case) -> Vec<f64> {
    let mut asked: Vec<&str> = case.truth.objects.iter().map(|o| &o.material[..]).collect();
    asked.sort_unstable();
    asked.dedup();
    if !has_impacts(case) || asked.len() > 2 {
        return vec![];
    }
    let hits = &case.heard.heard;
    let total: f64 = hits.iter().map(|h| h.strength).sum();
    let is_asked = |h: &&super::hits::Hit| asked.contains(&&h.material[..]);
    let right: f64 = hits.iter().filter(is_asked).map(|h| h.strength).sum();
    share(total > 0.0 && right > total / 2.0)
}

/// Share of the asked words (or of the heard ones, if there are more) that are said, each in its place.
pub fn words_right(case: &Case) -> Vec<f64> {
    let Some(face) = &case.truth.face else {
        return vec![];
    };
    let heard = &case.heard.words;
    let right = face
        .words
        .iter()
        .zip(heard)
        .filter(|(asked, heard)| asked == heard)
        .count();
    vec![right as f64 / face.words.len().max(heard.len()) as f64]
}

pub fn mouth_follows(case: &Case) -> Vec<f64> {
    if case.truth.kind != Kind::Talk {
        return vec![];
    }
    vec![mouth::follows(
        &case.seen.mouth,
        case.truth.fps,
        &case.heard.loudness,
    )]
}

pub fn lips_closed(case: &Case) -> Vec<f64> {
    mouth::closed(&case.seen.mouth, case.truth.fps, &case.truth.closures)
}
