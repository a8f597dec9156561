//! What a pool has given lately: to aged tasks, in grants, and to each band, in device time.
//! Not stored: a new leader counts anew.
//!
//! A band below its floor is served first. Its part is counted in seconds of devices, halved every
//! hour, so that a long film weighs what it takes and an old one is forgotten.

use std::collections::VecDeque;

use super::{
    decay::{Decayed, HALF_LIFE_MS},
    limits::{AGED_PERCENT, FLOOR_FROM_US, FLOOR_HALF_LIFE_MS, FLOORS_PERCENT, GRANTS_COUNTED},
    queue::Queue,
    rows::Band,
};

/// Sums halve in [`HALF_LIFE_MS`]; on a clock that runs this much faster they halve in an hour.
const CLOCK: i64 = HALF_LIFE_MS / FLOOR_HALF_LIFE_MS;

/// The lately of one pool.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    /// Whether each of the last [`GRANTS_COUNTED`] grants was in the aged lane, the newest at the back.
    aged: VecDeque<bool>,
    /// Device time by band, and of all bands.
    bands: [Decayed; 3],
    all: Decayed,
}

impl Recent {
    pub fn note(&mut self, aged: bool) {
        if self.aged.len() == GRANTS_COUNTED {
            self.aged.pop_front();
        }
        self.aged.push_back(aged);
    }

    /// A band has had `device_us` as of `at_ms`, or less than was thought.
    pub fn charge(&mut self, band: Band, device_us: f64, at_ms: i64) {
        let at = at_ms * CLOCK;
        let sum = &mut self.bands[band as usize];
        *sum = sum.add(device_us, at);
        self.all = self.all.add(device_us, at);
    }

    /// Aged tasks may go first until they have had their share.
    pub fn aged_may_go(&self) -> bool {
        let aged = self.aged.iter().filter(|aged| **aged).count();
        aged * 100 < AGED_PERCENT * GRANTS_COUNTED
    }

    /// Bands in the order in which they are served: one below its floor first.
    pub fn order(&self, queue: &Queue, now: i64) -> [Band; 3] {
        let mut order = Band::ALL;
        order.sort_by_key(|band| !(queue.has(*band) && self.is_below_floor(*band, now)));
        order
    }

    /// So little work says nothing about shares: below [`FLOOR_FROM_US`] no band is starved.
    fn is_below_floor(&self, band: Band, now: i64) -> bool {
        let floor = FLOORS_PERCENT[band as usize];
        let enough = Decayed::default().add(FLOOR_FROM_US, now * CLOCK);
        floor > 0
            && self.all.over(1) >= enough.over(1)
            && self.bands[band as usize].over(floor) < self.all.over(100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_384_800_000;
    const MINUTE_US: f64 = 60e6;

    #[test]
    fn floors_count_device_time_and_forget_it_by_the_hour() {
        let mut recent = Recent::default();
        let below = |recent: &Recent, now| Band::ALL.map(|band| recent.is_below_floor(band, now));
        assert_eq!(below(&recent, NOW), [false; 3], "nothing was given yet");
        recent.charge(Band::Urgent, 9.0 * MINUTE_US, NOW);
        assert_eq!(below(&recent, NOW), [false; 3], "too little to tell");
        recent.charge(Band::Urgent, 51.0 * MINUTE_US, NOW);
        assert_eq!(below(&recent, NOW), [false, true, true]);
        recent.charge(Band::Standard, 16.0 * MINUTE_US, NOW);
        recent.charge(Band::Overnight, 2.0 * MINUTE_US, NOW);
        assert_eq!(below(&recent, NOW), [false, false, true], "16 and 2 of 78");
        // Half of the old is forgotten when as much urgent work comes again.
        let later = NOW + FLOOR_HALF_LIFE_MS;
        recent.charge(Band::Urgent, 60.0 * MINUTE_US, later);
        assert_eq!(below(&recent, later), [false, true, true], "8 of 99");
        recent.charge(Band::Urgent, -60.0 * MINUTE_US, later);
        assert_eq!(
            below(&recent, later),
            [false, false, true],
            "it was taken back"
        );
        assert_eq!(below(&recent, later + 9 * FLOOR_HALF_LIFE_MS), [false; 3]);
    }

    #[test]
    fn aged_tasks_have_a_quarter_of_the_last_hundred_grants() {
        let mut recent = Recent::default();
        for _ in 0..25 {
            assert!(recent.aged_may_go());
            recent.note(true);
        }
        assert!(!recent.aged_may_go());
        for _ in 0..75 {
            recent.note(false);
            assert!(!recent.aged_may_go());
        }
        recent.note(false);
        assert!(recent.aged_may_go(), "the oldest aged grant is forgotten");
    }
}
