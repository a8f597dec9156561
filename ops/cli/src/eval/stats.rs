//! Small statistics: medians, quantiles, parabola fits, a seeded generator and the bootstrap.

/// SplitMix64: enough randomness for resampling, the same on every machine.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`, which must not be 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// For each clip another clip: a shuffle in which nobody keeps its own place (for n > 1).
pub fn derangement(n: usize, seed: u64) -> Vec<usize> {
    let mut rng = Rng(seed);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, rng.below(i + 1));
    }
    let mut partner = vec![0; n];
    for i in 0..n {
        partner[order[i]] = order[(i + 1) % n];
    }
    partner
}

pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The value below which `share` of the values lie; `None` for no values.
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    if sorted.is_empty() {
        return None;
    }
    let at = share * (sorted.len() - 1) as f64;
    let low = at.floor() as usize;
    let (_, &mut below, above) = sorted.select_nth_unstable_by(low, f64::total_cmp);
    let next = above
        .iter()
        .copied()
        .min_by(f64::total_cmp)
        .unwrap_or(below);
    Some(below + (next - below) * (at - low as f64))
}

pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// The value that half of the weight of (value, weight) lies at or below; `None` without weight.
pub fn weighted_median(mut values: Vec<(f64, f64)>) -> Option<f64> {
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half = values.iter().map(|v| v.1).sum::<f64>() / 2.0;
    let mut sum = 0.0;
    let reaches = |v: &&(f64, f64)| {
        sum += v.1;
        sum >= half
    };
    values.iter().find(reaches).map(|v| v.0)
}

/// 2.5 % and 97.5 % points of `fold` over resamples of the clips. `None` where the fold has no value.
pub fn bootstrap(
    clips: &[Vec<f64>],
    rounds: usize,
    seed: u64,
    fold: impl Fn(&[f64]) -> Option<f64>,
) -> Option<[f64; 2]> {
    let mut rng = Rng(seed);
    let mut found = Vec::with_capacity(rounds);
    let mut pool = Vec::new();
    for _ in 0..rounds {
        pool.clear();
        for _ in 0..clips.len() {
            pool.extend_from_slice(&clips[rng.below(clips.len())]);
        }
        found.extend(fold(&pool));
    }
    Some([quantile(&found, 0.025)?, quantile(&found, 0.975)?])
}

/// `y = c[0] + c[1] t + c[2] t²`, with the share of variance it explains.
#[derive(Clone, Copy, Debug)]
pub struct Parabola {
    pub c: [f64; 3],
    pub r2: f64,
}

impl Parabola {
    pub fn at(&self, t: f64) -> f64 {
        self.c[0] + t * (self.c[1] + t * self.c[2])
    }

    /// The highest value; `None` for one that opens upwards.
    pub fn top(&self) -> Option<f64> {
        (self.c[2] < 0.0).then(|| self.c[0] - self.c[1] * self.c[1] / (4.0 * self.c[2]))
    }

    /// Least squares through three or more points.
    pub fn fit(points: &[(f64, f64)]) -> Option<Parabola> {
        let middle = mean(&points.iter().map(|p| p.0).collect::<Vec<_>>())?;
        // Moments about the middle keep the normal equations well conditioned.
        let (mut s, mut b) = ([0f64; 5], [0f64; 3]);
        for &(t, y) in points {
            let t = t - middle;
            let powers = [1.0, t, t * t, t * t * t, t * t * t * t];
            s.iter_mut().zip(powers).for_each(|(s, p)| *s += p);
            b.iter_mut().zip(powers).for_each(|(b, p)| *b += p * y);
        }
        let [c0, c1, c2] = solve(
            [[s[0], s[1], s[2]], [s[1], s[2], s[3]], [s[2], s[3], s[4]]],
            b,
        )?;
        let c = [
            c0 - c1 * middle + c2 * middle * middle,
            c1 - 2.0 * c2 * middle,
            c2,
        ];
        Some(Parabola { c, r2: 0.0 }.with_r2(points))
    }

    /// Least squares with a given second derivative, through two or more points.
    pub fn fit_bent(points: &[(f64, f64)], second_derivative: f64) -> Option<Parabola> {
        let n = points.len() as f64;
        let bend = second_derivative / 2.0;
        let (st, stt): (f64, f64) = points
            .iter()
            .fold((0.0, 0.0), |a, p| (a.0 + p.0, a.1 + p.0 * p.0));
        let (sy, sty) = points.iter().fold((0.0, 0.0), |a, &(t, y)| {
            let y = y - bend * t * t;
            (a.0 + y, a.1 + t * y)
        });
        let det = n * stt - st * st;
        (points.len() >= 2 && det > 0.0).then(|| {
            let slope = (n * sty - st * sy) / det;
            Parabola {
                c: [(sy - slope * st) / n, slope, bend],
                r2: 0.0,
            }
            .with_r2(points)
        })
    }

    fn with_r2(self, points: &[(f64, f64)]) -> Parabola {
        let middle = points.iter().map(|p| p.1).sum::<f64>() / points.len() as f64;
        let total: f64 = points.iter().map(|p| (p.1 - middle).powi(2)).sum();
        let rest: f64 = points.iter().map(|p| (p.1 - self.at(p.0)).powi(2)).sum();
        Parabola {
            r2: if total > 0.0 { 1.0 - rest / total } else { 0.0 },
            ..self
        }
    }
}

/// Solves a symmetric 3 x 3 system by Cramer's rule; `None` if it is singular.
fn solve(m: [[f64; 3]; 3], b: [f64; 3]) -> Option<[f64; 3]> {
    let det = |m: [[f64; 3]; 3]| {
        m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
            - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
            + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
    };
    let whole = det(m);
    (whole.abs() > 1e-14).then(|| {
        std::array::from_fn(|i| {
            let mut replaced = m;
            for (row, value) in replaced.iter_mut().zip(b) {
                row[i] = value;
            }
            det(replaced) / whole
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_weighs_more_than_half_is_the_median() {
        assert_eq!(weighted_median(vec![(0.2, 0.3), (0.45, 1.5)]), Some(0.45));
        assert_eq!(weighted_median(vec![(0.2, 1.0), (0.45, 0.5)]), Some(0.2));
        assert_eq!(weighted_median(vec![]), None);
    }

    #[test]
    fn a_shuffle_leaves_nobody_in_place() {
        for n in [2, 3, 17, 64] {
            let partner = derangement(n, 1);
            let mut sorted = partner.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..n).collect::<Vec<_>>());
            assert!(partner.iter().enumerate().all(|(i, &p)| i != p));
        }
    }

    #[test]
    fn a_parabola_is_found_again() {
        let points: Vec<_> = (0..6).map(|i| (2.0 + f64::from(i) * 0.1, 0.0)).collect();
        let points: Vec<_> = points
            .iter()
            .map(|&(t, _)| (t, 3.0 - 2.0 * t + 4.9 * t * t))
            .collect();
        for fit in [
            Parabola::fit(&points).unwrap(),
            Parabola::fit_bent(&points, 9.8).unwrap(),
        ] {
            assert!(
                (fit.c[2] - 4.9).abs() < 1e-6
                    && (fit.at(2.5) - 28.625).abs() < 1e-6
                    && fit.r2 > 0.999_999
            );
        }
        assert!(Parabola::fit(&points[..2]).is_none());
        assert!(Parabola::fit_bent(&points[..1], 9.8).is_none());
    }

    #[test]
    fn quantiles_and_intervals() {
        let values: Vec<f64> = (0..101).map(f64::from).collect();
        assert_eq!(median(&values), Some(50.0));
        assert_eq!(quantile(&values, 0.9), Some(90.0));
        assert_eq!(median(&[]), None);
        let clips: Vec<Vec<f64>> = values.iter().map(|&v| vec![v]).collect();
        let [low, high] = bootstrap(&clips, 500, 1, mean).unwrap();
        assert!(low > 40.0 && low < 50.0 && high > 50.0 && high < 60.0);
        assert_eq!(bootstrap(&[vec![]], 10, 1, mean), None);
    }
}
