//! Bodies by their hue: in this world no two bodies of a clip have the same colour.
//!
//! Hue survives every style (outlines of neon, hatching of pencil, shading of clay) while brightness does not,
//! so a pixel belongs to the colour whose direction in the opponent plane is nearest to its own, if it is
//! saturated. The backdrop is told by the edges of each row, frame by frame, because the camera may move.

use super::folder::Place;
use crate::eval::film::Film;
use crate::eval::flight::{self, Motion};
use crate::eval::segment::{Chroma, chroma};
use crate::eval::stats::median;

/// Least chroma distance of a body from what lies behind it, and its share of the film's strongest.
const CHROMA_MIN: f32 = 30.0;
const CHROMA_SHARE: f32 = 0.3;
/// Columns at each edge of a row that tell the backdrop.
const EDGE: usize = 4;
/// A colour is a body if this share of the frames shows this share of the smallest body's r².
const PRESENT_SHARE: f64 = 0.4;
const AREA_SHARE: f64 = 0.7;
/// Two bodies that meet: closing speed, m/s, and points on each side that its lines are fitted to.
const CLOSING_MIN: f64 = 0.25;
const SIDE_POINTS: usize = 7;

/// One body followed through the film.
#[derive(Clone, Debug)]
pub struct Body {
    pub color: String,
    /// (time, metres from the left edge) where it is seen.
    across: Vec<(f64, f64)>,
    pub motion: Motion,
}

/// Two bodies that run into each other and part.
#[derive(Clone, Debug)]
pub struct Meeting {
    pub time_s: f64,
    /// Speed of separation over speed of approach.
    pub bounce: f64,
}

/// All bodies of a film.
#[derive(Clone, Debug, Default)]
pub struct Bodies {
    pub found: Vec<Body>,
    pub meetings: Vec<Meeting>,
}

impl Bodies {
    pub fn of(&self, color: &str) -> Option<&Body> {
        self.found.iter().find(|b| b.color == color)
    }
}

pub fn look(film: &Film, palette: &[(String, [f64; 3])], place: &Place) -> Bodies {
    let colors: Vec<Chroma> = palette
        .iter()
        .map(|c| chroma(c.1.map(|v| v as f32)))
        .collect();
    let frames: Vec<Vec<Row>> = (0..film.frames())
        .map(|i| against_backdrop(film, i))
        .collect();
    let pixels = frames.iter().flatten().flat_map(|row| &row.pixels);
    let strongest = pixels.map(|c| length(*c)).fold(0.0, f32::max);
    let least = CHROMA_MIN.max(CHROMA_SHARE * strongest);
    let mut sums = vec![vec![[0f64; 3]; frames.len()]; palette.len()];
    for (i, frame) in frames.iter().enumerate() {
        for (y, row) in frame.iter().enumerate() {
            // A soft edge lies between a body and what is behind it, so directions start there.
            let hues: Vec<Chroma> = colors.iter().map(|c| unit(less(*c, row.behind))).collect();
            for (x, &c) in row
                .pixels
                .iter()
                .enumerate()
                .filter(|p| length(*p.1) >= least)
            {
                let sum = &mut sums[nearest(c, &hues)][i];
                sum[0] += 1.0;
                sum[1] += x as f64 + 0.5;
                sum[2] += y as f64 + 0.5;
            }
        }
    }
    let bodies = palette
        .iter()
        .zip(&sums)
        .filter_map(|(c, sums)| body(&c.0, sums, film, place));
    let found: Vec<Body> = bodies.collect();
    let meetings = meetings(&found);
    Bodies { found, meetings }
}

/// Chroma behind the bodies of a row, and that of its pixels less it.
struct Row {
    behind: Chroma,
    pixels: Vec<Chroma>,
}

/// The rows of a frame. Of both edges the greyer one tells what lies behind.
fn against_backdrop(film: &Film, frame: usize) -> Vec<Row> {
    let lines = film.frame(frame).chunks_exact(film.width * 3);
    let row = |line: &[u8]| {
        let pixels = line.chunks_exact(3);
        let row: Vec<Chroma> = pixels
            .map(|p| chroma([p[0], p[1], p[2]].map(f32::from)))
            .collect();
        let edge = |part: &[Chroma]| [0, 1].map(|k| middle(part.iter().map(|c| c[k]).collect()));
        let (left, right) = (edge(&row[..EDGE]), edge(&row[row.len() - EDGE..]));
        let is_left = length(left) <= length(right);
        let behind = if is_left { left } else { right };
        let pixels = row.iter().map(|c| less(*c, behind)).collect();
        Row { behind, pixels }
    };
    lines.map(row).collect()
}

fn less(a: Chroma, b: Chroma) -> Chroma {
    [a[0] - b[0], a[1] - b[1]]
}

fn middle(mut values: Vec<f32>) -> f32 {
    values.sort_by(f32::total_cmp);
    values[values.len() / 2]
}

fn length(c: Chroma) -> f32 {
    c[0].hypot(c[1])
}

fn unit(c: Chroma) -> Chroma {
    c.map(|v| v / length(c).max(1e-6))
}

fn nearest(c: Chroma, hues: &[Chroma]) -> usize {
    let along = |h: &Chroma| h[0] * c[0] + h[1] * c[1];
    let best = (0..hues.len()).max_by(|&a, &b| along(&hues[a]).total_cmp(&along(&hues[b])));
    best.expect("the palette has colours")
}

/// A colour that is there long enough, as a body.
fn body(color: &str, sums: &[[f64; 3]], film: &Film, place: &Place) -> Option<Body> {
    let least = AREA_SHARE * place.least_area;
    let seen: Vec<(usize, [f64; 3])> = sums
        .iter()
        .copied()
        .enumerate()
        .filter(|s| s.1[0] >= least)
        .collect();
    if (seen.len() as f64) < PRESENT_SHARE * sums.len() as f64 {
        return None;
    }
    let areas: Vec<f64> = seen.iter().map(|s| s.1[0]).collect();
    // A body that leaves the picture has its centre wrong while it is cut.
    let whole = 0.6 * median(&areas)?;
    let kept = seen.iter().filter(|s| s.1[0] >= whole);
    let place_of = |&(i, s): &(usize, [f64; 3])| (i as f64 / film.fps, s[1] / s[0], s[2] / s[0]);
    let path: Vec<(f64, f64, f64)> = kept.map(place_of).collect();
    let across = path.iter().map(|p| (p.0, p.1 / place.ppm)).collect();
    let up: Vec<(f64, f64)> = path
        .iter()
        .map(|p| (p.0, (place.line - p.2) / place.ppm))
        .collect();
    Some(Body {
        color: color.to_owned(),
        across,
        motion: flight::motion(&up, 1.0 / film.fps),
    })
}

/// Pairs whose distance along the floor shrinks, turns and grows: lines are fitted on both sides of the turn.
fn meetings(bodies: &[Body]) -> Vec<Meeting> {
    let mut found = Vec::new();
    for (i, a) in bodies.iter().enumerate() {
        found.extend(bodies[i + 1..].iter().filter_map(|b| meeting(a, b)));
    }
    found
}

fn meeting(a: &Body, b: &Body) -> Option<Meeting> {
    let at = |t: f64| {
        b.across
            .iter()
            .find(|p| (p.0 - t).abs() < 1e-6)
            .map(|p| p.1)
    };
    let gaps: Vec<(f64, f64)> = a
        .across
        .iter()
        .filter_map(|p| Some((p.0, (at(p.0)? - p.1).abs())))
        .collect();
    let turn = (0..gaps.len()).min_by(|&i, &j| gaps[i].1.total_cmp(&gaps[j].1))?;
    if turn < 3 || turn + 4 > gaps.len() {
        return None;
    }
    // The turning point itself may lie on either line, so it is on neither.
    let before = line(&gaps[turn.saturating_sub(SIDE_POINTS)..turn])?;
    let after = line(&gaps[turn + 1..(turn + 1 + SIDE_POINTS).min(gaps.len())])?;
    let (closing, parting) = (-before.1, after.1);
    let is_meeting = closing > CLOSING_MIN && parting > -0.05;
    let time_s = (before.0 - after.0) / (after.1 - before.1);
    let is_near = (time_s - gaps[turn].0).abs() < 0.13;
    (is_meeting && is_near).then_some(Meeting {
        time_s,
        bounce: parting.max(0.0) / closing,
    })
}

/// Least squares: value at time 0 and slope.
fn line(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let n = points.len() as f64;
    let (t, y) = points
        .iter()
        .fold((0.0, 0.0), |s, p| (s.0 + p.0 / n, s.1 + p.1 / n));
    let (tt, ty) = points.iter().fold((0.0, 0.0), |s, p| {
        (s.0 + (p.0 - t).powi(2), s.1 + (p.0 - t) * (p.1 - y))
    });
    (points.len() >= 2 && tt > 0.0).then(|| (y - ty / tt * t, ty / tt))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slide(color: &str, x: impl Fn(f64) -> f64) -> Body {
        Body {
            color: color.to_owned(),
            across: (0..49)
                .map(|i| (f64::from(i) / 16.0, x(f64::from(i) / 16.0)))
                .collect(),
            motion: Motion::default(),
        }
    }

    #[test]
    fn two_bodies_that_meet_are_timed_between_frames_and_their_bounce_is_measured() {
        let a = slide("red", |t| 0.5 + t.min(0.83));
        let b = slide("blue", |t| 1.8 + 0.6 * (t - 0.83).max(0.0));
        let found = meetings(&[a, b]);
        assert_eq!(found.len(), 1);
        assert!((found[0].time_s - 0.83).abs() < 0.01, "{found:?}");
        assert!((found[0].bounce - 0.6).abs() < 0.02, "{found:?}");
    }

    #[test]
    fn bodies_that_stand_or_part_do_not_meet() {
        let still = slide("red", |_| 0.5);
        let leaving = slide("blue", |t| 1.0 + t);
        assert!(meetings(&[still.clone(), leaving]).is_empty());
        assert!(meetings(&[still, slide("green", |_| 1.0)]).is_empty());
    }

    #[test]
    fn a_body_is_found_by_its_hue_in_a_picture_of_any_brightness() {
        let palette = vec![
            ("blue".to_owned(), [35.0, 65.0, 225.0]),
            ("red".to_owned(), [215.0, 35.0, 40.0]),
        ];
        for (ink, ground) in [
            ([215, 35, 40], [200, 200, 200]),
            ([90, 15, 17], [10, 10, 14]),
        ] {
            let mut rgb = Vec::new();
            for _ in 0..20 {
                for at in 0..64 * 64 {
                    let (x, y): (i32, i32) = (at % 64 - 30, at / 64 - 20);
                    rgb.extend(if x * x + y * y < 80 { ink } else { ground });
                }
            }
            let film = Film {
                width: 64,
                height: 64,
                fps: 16.0,
                rgb,
                samples: vec![],
                rate: 16_000,
            };
            let place = Place {
                ppm: 21.3,
                line: 58.0,
                mouth: [0; 4],
                least_area: 18.0,
            };
            let bodies = look(&film, &palette, &place);
            let colors: Vec<&str> = bodies.found.iter().map(|b| &b.color[..]).collect();
            assert_eq!(colors, ["red"]);
            assert!((bodies.found[0].across[0].1 * place.ppm - 30.5).abs() < 0.5);
        }
    }
}
