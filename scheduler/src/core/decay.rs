//! A sum that halves every day, kept so that the order of two sums needs no clock.
//!
//! Forward decay: what is added at time `t` counts `2^(t / H)`, so old sums need not be touched and two sums
//! compare at any moment as they do now. The value is `mantissa * 2^exponent`; only products and sums of
//! f64 are used, so the same additions give the same bits on every platform.

use std::cmp::Ordering;

/// Time in which a sum halves.
pub const HALF_LIFE_MS: i64 = 24 * 3_600_000;
/// Steps of the table of `2^x` between 0 and 1.
const STEPS: usize = 1024;
/// `2^(1 / STEPS)`.
const ROOT: f64 = 1.000_677_130_693_066_4;
/// Beyond this many binary places the smaller of two numbers is lost anyway.
const PLACES: i64 = 60;

const POWERS: [f64; STEPS] = powers();

const fn powers() -> [f64; STEPS] {
    let mut table = [1.0; STEPS];
    let mut step = 1;
    while step < STEPS {
        table[step] = table[step - 1] * ROOT;
        step += 1;
    }
    table
}

/// `mantissa * 2^exponent` with the mantissa in 1..2, or 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Decayed {
    pub exponent: i64,
    pub mantissa: f64,
}

impl Decayed {
    /// Adds `amount`, which may be negative, as of `at_ms`. A sum never falls below 0.
    pub fn add(self, amount: f64, at_ms: i64) -> Self {
        let step =
            at_ms.rem_euclid(HALF_LIFE_MS) as i128 * STEPS as i128 / i128::from(HALF_LIFE_MS);
        let part = normal(
            amount * POWERS[step as usize],
            at_ms.div_euclid(HALF_LIFE_MS),
        );
        let (large, small) = match self.exponent >= part.exponent && self.mantissa != 0.0 {
            true => (self, part),
            false => (part, self),
        };
        let apart = large.exponent - small.exponent;
        let aligned = match small.mantissa == 0.0 || apart > PLACES {
            true => 0.0,
            false => small.mantissa * power_of_two(-apart),
        };
        normal(large.mantissa + aligned, large.exponent).or_zero()
    }

    /// What is left of it at `now`, for people.
    pub fn at(self, now: i64) -> f64 {
        let step = now.rem_euclid(HALF_LIFE_MS) as i128 * STEPS as i128 / i128::from(HALF_LIFE_MS);
        let apart = self.exponent - now.div_euclid(HALF_LIFE_MS);
        self.mantissa / POWERS[step as usize] * 2f64.powi(apart.clamp(-1000, 1000) as i32)
    }

    /// Usage by weight: the smaller is served first.
    pub fn over(self, weight: u32) -> Score {
        let share = normal(self.mantissa / f64::from(weight.max(1)), self.exponent);
        Score(share)
    }

    fn or_zero(self) -> Self {
        match self.mantissa > 0.0 {
            true => self,
            false => Self::default(),
        }
    }
}

/// A sum by a weight, with an order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score(Decayed);

impl Score {
    fn key(&self) -> (bool, i64, u64) {
        let Decayed { exponent, mantissa } = self.0;
        match mantissa == 0.0 {
            true => (false, 0, 0),
            false => (true, exponent, mantissa.to_bits()),
        }
    }
}

impl Eq for Score {}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Brings the mantissa to 1..2 (or -2..-1) by its own exponent bits; exact.
fn normal(mantissa: f64, exponent: i64) -> Decayed {
    if mantissa == 0.0 || !mantissa.is_finite() {
        return Decayed::default();
    }
    let bits = mantissa.to_bits();
    let own = ((bits >> 52) & 0x7ff) as i64 - 1023;
    Decayed {
        exponent: exponent + own,
        mantissa: mantissa * power_of_two(-own),
    }
}

/// Exact for -1022..=1023.
fn power_of_two(exponent: i64) -> f64 {
    f64::from_bits(((exponent.clamp(-1022, 1023) + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_795_384_800_000;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-3 * b.abs().max(1.0)
    }

    #[test]
    fn half_of_it_is_left_after_a_day() {
        let sum = Decayed::default().add(8e9, NOW);
        assert!(close(sum.at(NOW), 8e9));
        assert!(close(sum.at(NOW + HALF_LIFE_MS), 4e9));
        assert!(close(sum.at(NOW + 3 * HALF_LIFE_MS), 1e9));
    }

    #[test]
    fn what_was_added_can_be_taken_back() {
        let sum = Decayed::default().add(5e6, NOW);
        assert_eq!(
            sum.add(3e6, NOW + 7).add(-3e6, NOW + 7).at(NOW).round(),
            5e6
        );
        assert_eq!(sum.add(-5e6, NOW), Decayed::default());
        assert_eq!(sum.add(-9e6, NOW), Decayed::default());
    }

    #[test]
    fn a_double_weight_halves_the_score() {
        let sum = Decayed::default().add(6e6, NOW);
        assert_eq!(sum.over(2), Decayed::default().add(3e6, NOW).over(1));
        assert!(Decayed::default().over(1) < sum.over(1_000_000));
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_sums_decayed_to_one_moment(
            a in prop::collection::vec((1u32..1_000_000_000, 0i64..200_000_000), 1..20),
            b in prop::collection::vec((1u32..1_000_000_000, 0i64..200_000_000), 1..20),
        ) {
            let sum = |rows: &[(u32, i64)]| rows.iter().fold(Decayed::default(), |sum, (amount, at)| sum.add(f64::from(*amount), NOW + at));
            let plain = |rows: &[(u32, i64)]| rows.iter().map(|(amount, at)| f64::from(*amount) * (*at as f64 / HALF_LIFE_MS as f64).exp2()).sum::<f64>();
            let (x, y) = (plain(&a), plain(&b));
            prop_assume!((x / y - 1.0).abs() > 2e-3); // The table's steps are coarser than exp2.
            prop_assert_eq!(sum(&a).over(1) < sum(&b).over(1), x < y);
        }
    }
}
