//! When something begins and ends: early, middle and late. Pure.

use schemas::video::Eta;

use crate::core::calibration::Correction;

/// Early, middle and late; Unix milliseconds. All or none are known.
pub type Moment = Option<[i64; 3]>;

/// When a job begins and ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    pub starts: Moment,
    pub ends: Moment,
}

impl Interval {
    /// As far as it is known at `now`: what should have begun begins now, and ends as much later.
    pub fn at(self, now: i64) -> Self {
        let late = self
            .starts
            .map_or(0, |[_, middle, _]| (now - middle).max(0));
        let later = |moment: Moment| moment.map(|at| at.map(|at| (at + late).max(now)));
        Self {
            starts: later(self.starts),
            ends: later(self.ends),
        }
    }

    /// From the first start to the last end of both; unknown as soon as one is.
    pub fn with(self, other: Self) -> Self {
        let both = |a: Moment, b: Moment, pick: fn(i64, i64) -> i64| {
            let (a, b) = (a?, b?);
            Some([pick(a[0], b[0]), pick(a[1], b[1]), pick(a[2], b[2])])
        };
        Self {
            starts: both(self.starts, other.starts, i64::min),
            ends: both(self.ends, other.ends, i64::max),
        }
    }

    /// As clients read it, its ends corrected by what the farm has learnt of its forecasts.
    pub fn eta(self, correction: Correction, now: i64) -> Eta {
        let (Some([start10, start50, start90]), Some(ends)) = (self.starts, self.ends) else {
            return Eta::default();
        };
        let [early, middle, late] = correction.of(ends).map(|at| at.max(now));
        let down = |ms: i64| Some(ms.div_euclid(1_000));
        let up = |ms: i64| Some(ms.div_euclid(1_000) + i64::from(ms.rem_euclid(1_000) > 0));
        Eta {
            starts_at: down(start50),
            starts_at_p10: down(start10),
            starts_at_p90: up(start90),
            completes_at_p10: down(early.min(middle)),
            completes_at_p50: up(middle),
            completes_at_p90: up(late.max(middle)),
        }
    }
}

/// Early, middle and late of the sampled runs around that with the middle times.
pub fn moment(middle: Option<i64>, mut sampled: Vec<Option<i64>>, now: i64) -> Moment {
    let middle = middle?;
    sampled.sort_by_key(|at| at.unwrap_or(i64::MAX));
    if sampled.len() < SAMPLED_MIN {
        // Too few to tell, which happens to long queues: a sum of many times is surer than each.
        let away = (middle - now).max(0);
        return Some(
            [now + away * 9 / 10, middle, now + away * 5 / 4].map(|at| at.max(now.min(middle))),
        );
    }
    // The middle of sums of uneven times is later than the sum of their middles.
    let at = |permille: usize| sampled[(sampled.len() - 1) * permille / 1_000];
    let middle = at(500)?;
    Some([at(100)?, middle, at(900).unwrap_or(i64::MAX / 4)])
}

/// Sampled runs below which their spread says nothing.
pub const SAMPLED_MIN: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_of_sixteen_runs_leaves_the_outermost_out() {
        let sampled = (0..16).map(|n| Some(1_000 + n * 10)).collect();
        assert_eq!(moment(Some(1_050), sampled, 0), Some([1_010, 1_070, 1_130]));
        assert_eq!(moment(None, vec![Some(1); 16], 0), None);
        assert_eq!(moment(Some(1_000), vec![], 0), Some([900, 1_000, 1_250]));
    }

    #[test]
    fn a_start_that_is_overdue_moves_the_end() {
        let interval = Interval {
            starts: Some([1_000, 2_000, 3_000]),
            ends: Some([10_000, 12_000, 15_000]),
        };
        let now = interval.at(5_000);
        assert_eq!(now.starts, Some([5_000, 5_000, 6_000]));
        assert_eq!(now.ends, Some([13_000, 15_000, 18_000]));
        assert_eq!(interval.at(0), interval);
    }

    #[test]
    fn an_interval_on_the_wire_is_in_whole_seconds_and_holds_its_middle() {
        let interval = Interval {
            starts: Some([1_500, 2_500, 3_500]),
            ends: Some([10_000, 12_000, 15_000]),
        };
        let eta = interval.eta(Correction::default(), 0);
        assert_eq!((eta.starts_at, eta.completes_at_p50), (Some(2), Some(12)));
        assert_eq!(
            (eta.completes_at_p10, eta.completes_at_p90),
            (Some(10), Some(15))
        );
        assert_eq!(
            Interval::default().eta(Correction::default(), 0),
            Eta::default()
        );
    }
}
