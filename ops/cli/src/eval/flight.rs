//! Motion of one body from its path: impacts as kinks of the vertical speed, and parabolas of free flight.

use super::stats::{Parabola, median};

/// Points on each side of a kink that its two parabolas are fitted to.
const FIT_POINTS_MAX: usize = 8;
/// Fewer points than this take the curvature of the other flights.
const FREE_FIT_POINTS: usize = 5;
/// A jump of the vertical speed below this is no impact, m/s.
const JUMP_MIN: f64 = 0.5;
/// Nor is one below this many standard deviations of its noise.
const NOISE_TIMES: f64 = 3.5;
/// A body that falls more slowly than this does not hit, m/s.
const FALL_MIN: f64 = 0.25;
/// A flight must move this far up or down, metres.
const FLIGHT_SPAN_M: f64 = 0.15;
/// A fall below this height is too short to measure the rebound against, metres.
const FALL_SPAN_M: f64 = 0.25;
/// Points farther than this from their parabola mean that it spans a bounce too small to see, metres.
const MISFIT_M: f64 = 0.012;

/// One visible impact.
#[derive(Clone, Copy, Debug)]
pub struct Impact {
    pub time_s: f64,
    /// `None` where the fall is too short or the rebound not seen to its top.
    pub rebound: Option<Rebound>,
}

/// How a body comes up again.
#[derive(Clone, Copy, Debug)]
pub struct Rebound {
    /// Speed after over speed before.
    pub restitution: f64,
    /// Height of the fall, metres: the higher, the better is the restitution known.
    pub fall_m: f64,
}

/// What the path of a body tells.
#[derive(Clone, Debug, Default)]
pub struct Motion {
    pub impacts: Vec<Impact>,
    /// Free flights of at least `FREE_FIT_POINTS` points.
    pub flights: Vec<Parabola>,
}

/// Reads a path of (time, height in metres), one point a frame where the body is seen.
pub fn motion(path: &[(f64, f64)], frame_s: f64) -> Motion {
    let kinks = kinks(path, frame_s);
    let mut bounds = vec![0];
    bounds.extend(kinks.iter().map(|k| k + 1));
    bounds.push(path.len());
    let pieces: Vec<&[(f64, f64)]> = bounds.windows(2).map(|w| &path[w[0]..w[1]]).collect();
    let bend = bend(&pieces);
    let flights = pieces
        .iter()
        .filter_map(|piece| free_flight(piece))
        .collect();
    let mut impacts: Vec<Impact> = Vec::new();
    let mut floors = Vec::new();
    for pair in pieces.windows(2) {
        let (time_s, height) = meeting(pair[0], pair[1], bend, frame_s);
        impacts.push(Impact {
            time_s,
            rebound: None,
        });
        floors.extend(height);
    }
    let lowest = path.iter().map(|p| p.1).fold(f64::MAX, f64::min);
    let floor = median(&floors).map_or(lowest, |f| f.min(lowest + FLIGHT_SPAN_M));
    for (impact, pair) in impacts.iter_mut().zip(pieces.windows(2)) {
        impact.rebound = rebound(pair[0], pair[1], floor);
    }
    Motion { impacts, flights }
}

/// Square root of the heights after and before, which a soft picture disturbs less than the speeds.
fn rebound(before: &[(f64, f64)], after: &[(f64, f64)], floor: f64) -> Option<Rebound> {
    let top = |piece: &[(f64, f64)]| piece.iter().map(|p| p.1 - floor).fold(0.0, f64::max);
    let (fall, rise) = (top(before), top(after));
    let falls_again = after
        .last()
        .is_some_and(|last| last.1 - floor < rise - 0.02 * fall);
    let is_over = falls_again || (rise < 0.1 * fall && after.len() >= FIT_POINTS_MAX);
    // A rebound that is still rising at the end of the film has its top where its parabola says.
    let rise = if is_over {
        Some(rise)
    } else {
        free_flight(after).and_then(|f| Some(f.top()? - floor))
    };
    let rise = rise.filter(|_| fall > FALL_SPAN_M)?;
    Some(Rebound {
        restitution: (rise.max(0.0) / fall).sqrt(),
        fall_m: fall,
    })
}

/// Indices of the last point before each impact.
///
/// The jump of the speed across an interval is taken over one frame on each side, which tells short bounces
/// apart, and over two, which halves the noise; each counts in units of its own threshold.
fn kinks(path: &[(f64, f64)], frame_s: f64) -> Vec<usize> {
    let noise = noise(path) / frame_s;
    let jump = |i: usize, reach: usize| {
        if i < reach || i + 1 + reach >= path.len() {
            return f64::NEG_INFINITY;
        }
        let [a, b, c, d] = [i - reach, i, i + 1, i + 1 + reach].map(|k| path[k]);
        let (before, after) = ((b.1 - a.1) / (b.0 - a.0), (d.1 - c.1) / (d.0 - c.0));
        let is_near = d.0 - a.0 < (2.0 * reach as f64 + 3.5) * frame_s;
        let threshold = JUMP_MIN.max(NOISE_TIMES * 2.0 * noise / reach as f64);
        if is_near && before < -FALL_MIN {
            (after - before) / threshold
        } else {
            f64::NEG_INFINITY
        }
    };
    let jumps: Vec<f64> = (1..path.len().saturating_sub(2))
        .map(|i| jump(i, 1).max(jump(i, 2)))
        .collect();
    let is_peak = |i: usize| {
        let left = if i > 0 {
            jumps[i - 1]
        } else {
            f64::NEG_INFINITY
        };
        let right = jumps.get(i + 1).copied().unwrap_or(f64::NEG_INFINITY);
        jumps[i] > 1.0 && jumps[i] > left && jumps[i] >= right
    };
    let mut found: Vec<usize> = Vec::new();
    for i in (0..jumps.len()).filter(|&i| is_peak(i)) {
        match found.last_mut() {
            Some(last) if i + 1 - *last < 2 => {
                if jumps[i] > jumps[*last - 1] {
                    *last = i + 1;
                }
            }
            _ => found.push(i + 1),
        }
    }
    found
}

/// Standard deviation of the height: from third differences, which free flight and rest do not have.
fn noise(path: &[(f64, f64)]) -> f64 {
    let third: Vec<f64> = path
        .windows(4)
        .map(|p| (p[3].1 - 3.0 * p[2].1 + 3.0 * p[1].1 - p[0].1).abs())
        .collect();
    median(&third).unwrap_or(0.0) / 3.016
}

/// Second derivative of the longer flights; 0 if there is none.
fn bend(pieces: &[&[(f64, f64)]]) -> f64 {
    let bends: Vec<f64> = pieces
        .iter()
        .filter_map(|p| free_flight(p))
        .map(|fit| 2.0 * fit.c[2])
        .collect();
    median(&bends).unwrap_or(0.0)
}

fn free_flight(piece: &[(f64, f64)]) -> Option<Parabola> {
    let (low, high) = piece
        .iter()
        .fold((f64::MAX, f64::MIN), |(l, h), p| (l.min(p.1), h.max(p.1)));
    let is_flight = piece.len() >= FREE_FIT_POINTS && high - low > FLIGHT_SPAN_M;
    is_flight.then(|| Parabola::fit(piece)).flatten()
}

/// Time and height at which the two sides of a kink meet; the height is known only if both can be fitted.
fn meeting(
    before: &[(f64, f64)],
    after: &[(f64, f64)],
    bend: f64,
    frame_s: f64,
) -> (f64, Option<f64>) {
    let before: Vec<_> = before.iter().rev().take(FIT_POINTS_MAX).copied().collect();
    let after: Vec<_> = after.iter().take(FIT_POINTS_MAX).copied().collect();
    let middle = (before.first().map_or(0.0, |p| p.0) + after.first().map_or(0.0, |p| p.0)) / 2.0;
    let (Some(left), Some(right)) = (fit_near(&before, bend), fit_near(&after, bend)) else {
        return (middle, None);
    };
    let time_s = crossing(&left, &right, middle, 1.5 * frame_s);
    (time_s.unwrap_or(middle), time_s.map(|t| left.at(t)))
}

/// A parabola through the points from the impact on, the farthest left out until it fits.
fn fit_near(points: &[(f64, f64)], bend: f64) -> Option<Parabola> {
    let fit = |points: &[(f64, f64)]| match points.len() {
        n if n >= FREE_FIT_POINTS => Parabola::fit(points),
        _ => Parabola::fit_bent(points, bend),
    };
    let misfit = |f: &Parabola, points: &[(f64, f64)]| {
        (points
            .iter()
            .map(|p| (p.1 - f.at(p.0)).powi(2))
            .sum::<f64>()
            / points.len() as f64)
            .sqrt()
    };
    let fits = (3..=points.len())
        .rev()
        .map(|n| (fit(&points[..n]), &points[..n]));
    let first_good = fits
        .flat_map(|(f, points)| f.map(|f| (misfit(&f, points), f)))
        .find(|f| f.0 < MISFIT_M);
    first_good
        .map(|f| f.1)
        .or_else(|| fit(&points[..points.len().min(FIT_POINTS_MAX)]))
}

/// Where two parabolas meet, nearest to `middle` and at most `reach` away.
fn crossing(left: &Parabola, right: &Parabola, middle: f64, reach: f64) -> Option<f64> {
    let [c, b, a] = [0, 1, 2].map(|i| right.c[i] - left.c[i]);
    let roots = if a.abs() < 1e-9 {
        [-c / b, f64::NAN]
    } else {
        let root = (b * b - 4.0 * a * c).max(0.0).sqrt();
        [(-b + root) / (2.0 * a), (-b - root) / (2.0 * a)]
    };
    let near = roots.into_iter().filter(|t| (t - middle).abs() <= reach);
    near.min_by(|s, t| (s - middle).abs().total_cmp(&(t - middle).abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Heights of a ball of restitution `e` dropped from 2 m, at 16 frames a second.
    fn ball(g: f64, e: f64) -> (Vec<(f64, f64)>, Vec<f64>) {
        let (mut y, mut v, mut t, mut hits) = (2.0f64, 0.0f64, 0.0, Vec::new());
        let mut path = Vec::new();
        for step in 0..65_000 {
            if step % 1000 == 0 {
                path.push((t, y));
            }
            let dt = 1.0 / 16_000.0;
            v -= g * dt;
            y += v * dt;
            t += dt;
            if y < 0.0 {
                hits.push(t);
                (y, v) = (0.0, -v * e);
            }
        }
        (path, hits)
    }

    #[test]
    fn bounces_are_timed_between_the_frames() {
        for (g, e) in [(9.81, 0.8), (9.81, 0.6), (1.635, 0.6)] {
            let (path, hits) = ball(g, e);
            let motion = motion(&path, 1.0 / 16.0);
            assert!(motion.impacts.len() >= 2);
            for (impact, hit) in motion.impacts.iter().zip(&hits).take(3) {
                assert!(
                    (impact.time_s - hit).abs() < 0.004,
                    "{impact:?} is not {hit}"
                );
                assert!(
                    impact
                        .rebound
                        .is_none_or(|found| (found.restitution - e).abs() < 0.03),
                    "{impact:?} is not {e}"
                );
            }
            assert!(motion.impacts[0].rebound.is_some());
            assert!((-2.0 * motion.flights[0].c[2] / g - 1.0).abs() < 0.02);
        }
    }

    #[test]
    fn a_ball_that_hangs_or_slides_has_no_impact_and_no_flight() {
        for slope in [0.0, 0.3, -0.3] {
            let path: Vec<_> = (0..65)
                .map(|i| (f64::from(i) / 16.0, 1.5 + slope * f64::from(i) / 16.0))
                .collect();
            let motion = motion(&path, 1.0 / 16.0);
            assert!(motion.impacts.is_empty());
            assert!(motion.flights.iter().all(|f| f.c[2].abs() < 1e-6));
        }
    }
}
