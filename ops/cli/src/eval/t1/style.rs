//! The style of a film by statistics of edges and brightness, and the nearest of other films whose style is known.

use crate::eval::film::Film;
use crate::eval::segment::chroma;

/// Frames that are looked at.
const FRAMES: usize = 4;
/// Chroma from which a pixel belongs to something drawn.
const SATURATED: f32 = 45.0;
/// Films that vote.
const VOTERS: usize = 3;
pub const FEATURES: usize = 9;

pub type Features = [f64; FEATURES];

/// Brightness of sky and floor, their greyness, edges of all strengths, and how even drawn things are inside.
pub fn features(film: &Film) -> Features {
    let step = (film.frames() / FRAMES).max(1);
    let frames: Vec<usize> = (0..film.frames()).step_by(step).collect();
    let (mut edges, mut even, mut lum, mut grey) = (vec![], vec![], vec![], vec![]);
    for &i in &frames {
        let frame = film.frame(i);
        let pixel = |row: usize, column: usize| {
            let at = (row * film.width + column) * 3;
            [frame[at], frame[at + 1], frame[at + 2]].map(f32::from)
        };
        let light = |p: [f32; 3]| f64::from(0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2]);
        let hue = |p: [f32; 3]| chroma(p).map(f32::abs).iter().sum::<f32>();
        for row in 1..film.height - 2 {
            for column in 1..film.width - 2 {
                let (here, below, right) = (
                    pixel(row, column),
                    pixel(row + 1, column),
                    pixel(row, column + 1),
                );
                let slope = (light(here) - light(below)).abs() + (light(here) - light(right)).abs();
                edges.push(slope);
                lum.push(light(here));
                grey.push(f64::from(hue(here)));
                if hue(here) > SATURATED && hue(pixel(row + 2, column)) > SATURATED {
                    even.push((light(here) - light(pixel(row + 2, column))).abs());
                }
            }
        }
    }
    let at = |values: &mut Vec<f64>, shares: &[f64]| -> Vec<f64> {
        values.sort_by(f64::total_cmp);
        let pick = |s: &f64| values.get(((values.len().max(1) - 1) as f64 * s) as usize);
        shares
            .iter()
            .map(|s| pick(s).copied().unwrap_or(0.0))
            .collect()
    };
    let squeeze = |v: f64| (1.0 + v).ln();
    let mut out = Vec::with_capacity(FEATURES);
    out.extend(at(&mut lum, &[0.1, 0.5]).into_iter().map(|v| v / 64.0));
    out.extend(at(&mut grey, &[0.5]).into_iter().map(squeeze));
    out.extend(at(&mut edges, &[0.5, 0.9, 0.98]).into_iter().map(squeeze));
    out.extend(at(&mut even, &[0.25, 0.5, 0.8]).into_iter().map(squeeze));
    std::array::from_fn(|i| out[i])
}

/// The style most of the nearest `known` films have; the film at `skip`, which may be the same, has no vote.
pub fn nearest<'a>(
    of: &Features,
    known: impl Iterator<Item = (usize, &'a Features, &'a str)>,
    skip: usize,
) -> Option<&'a str> {
    let distance = |f: &Features| of.iter().zip(f).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    let mut others: Vec<(f64, &str)> = known
        .filter(|(i, ..)| *i != skip)
        .map(|(_, f, style)| (distance(f), style))
        .collect();
    others.sort_by(|a, b| a.0.total_cmp(&b.0));
    others.truncate(VOTERS);
    let votes = |style: &str| others.iter().filter(|o| o.1 == style).count();
    // Of equally many votes the nearest film's count.
    others.iter().rev().max_by_key(|o| votes(o.1)).map(|o| o.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_films_vote_and_the_film_itself_does_not() {
        let at = |v: f64| [v; FEATURES];
        let known = [
            (at(0.0), "flat"),
            (at(0.3), "clay"),
            (at(0.4), "clay"),
            (at(9.0), "neon"),
        ];
        let all = || known.iter().enumerate().map(|(i, (f, s))| (i, f, *s));
        assert_eq!(nearest(&at(0.0), all(), 0), Some("clay"));
        assert_eq!(nearest(&at(0.35), all(), 9), Some("clay"));
        assert_eq!(nearest(&at(0.0), std::iter::empty(), 0), None);
    }

    #[test]
    fn hatching_and_outlines_change_the_features() {
        let film = |hatch: bool| {
            let paint = |at: usize| match at % 64 + at / 64 {
                d if hatch && d % 5 < 2 => [235, 180, 180],
                _ => [215, 35, 40],
            };
            let rgb = (0..2 * 64 * 64).flat_map(paint).collect();
            Film {
                width: 64,
                height: 64,
                fps: 16.0,
                rgb,
                samples: vec![],
                rate: 16_000,
            }
        };
        let (plain, hatched) = (features(&film(false)), features(&film(true)));
        assert!(hatched[4] > plain[4] + 1.0, "{plain:?} {hatched:?}");
    }
}
