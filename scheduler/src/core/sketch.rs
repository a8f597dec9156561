//! Quantiles of a stream of numbers in little room, in integers only.
//!
//! Counts in bins a 32nd of an octave wide, so a quantile is off by at most 1.6 %. P² was the other choice: its floats
//! would have to come back from a database bit for bit, it needs five numbers before it says anything, and two of its
//! sketches cannot be added up. Beyond [`COUNT_MAX`] all counts are halved, so that old times fade.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Numbers after which the old ones begin to count half.
const COUNT_MAX: u32 = 1_024;
const VALUE_MAX: u64 = u64::MAX / 2;
/// Bins of an octave, as a power of two.
const BITS: u32 = 5;

/// How many numbers came, the least and the largest, and how many of each size.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sketch {
    count: u32,
    min: u64,
    max: u64,
    bins: BTreeMap<u16, u32>,
}

impl Sketch {
    /// Numbers beyond [`VALUE_MAX`] count as that.
    pub fn add(&mut self, value: u64) {
        let value = value.min(VALUE_MAX);
        self.min = if self.count == 0 {
            value
        } else {
            self.min.min(value)
        };
        self.max = self.max.max(value);
        *self.bins.entry(bin(value)).or_default() += 1;
        self.count += 1;
        if self.count >= COUNT_MAX {
            self.halve();
        }
    }

    /// Adds all that another sketch has seen.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        self.min = if self.count == 0 {
            other.min
        } else {
            self.min.min(other.min)
        };
        self.max = self.max.max(other.max);
        self.count += other.count;
        for (bin, count) in &other.bins {
            *self.bins.entry(*bin).or_default() += count;
        }
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    /// The smallest number that `permille` of all are not above; absent while there are none.
    pub fn quantile(&self, permille: u32) -> Option<u64> {
        let rank = (u64::from(self.count) * u64::from(permille))
            .div_ceil(1_000)
            .max(1);
        let mut seen = 0;
        for (bin, count) in &self.bins {
            seen += u64::from(*count);
            if seen >= rank {
                return Some(middle(*bin).clamp(self.min, self.max));
            }
        }
        None
    }

    fn halve(&mut self) {
        self.bins.retain(|_, count| {
            *count /= 2;
            *count > 0
        });
        self.count = self.bins.values().sum();
        let (first, last) = (self.bins.keys().next(), self.bins.keys().next_back());
        self.min = self.min.max(first.map_or(0, |bin| low(*bin)));
        self.max = self.max.min(last.map_or(0, |bin| low(bin + 1)));
    }
}

fn bin(value: u64) -> u16 {
    let octave = value.max(1).ilog2();
    match octave < BITS {
        true => value as u16,
        false => {
            let part = (value >> (octave - BITS)) as u16 & 31;
            (octave - BITS + 1) as u16 * 32 + part
        }
    }
}

/// The least number of a bin.
fn low(bin: u16) -> u64 {
    match bin < 32 {
        true => u64::from(bin),
        false => (32 + u64::from(bin % 32)) << (bin / 32 - 1),
    }
}

fn middle(bin: u16) -> u64 {
    low(bin) + (low(bin + 1) - low(bin)) / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sketch(values: impl IntoIterator<Item = u64>) -> Sketch {
        let mut sketch = Sketch::default();
        values.into_iter().for_each(|value| sketch.add(value));
        sketch
    }

    #[test]
    fn equal_numbers_come_back_exactly() {
        let sketch = sketch([1_234_567; 7]);
        assert_eq!(sketch.quantile(1), Some(1_234_567));
        assert_eq!(sketch.quantile(990), Some(1_234_567));
        assert_eq!(Sketch::default().quantile(500), None);
    }

    #[test]
    fn the_extremes_of_u64_have_bins() {
        let sketch = sketch([0, u64::MAX]);
        assert_eq!(sketch.quantile(500), Some(0));
        assert!(sketch.quantile(1_000) > Some(VALUE_MAX / 100 * 98));
    }

    #[test]
    fn what_became_slower_is_believed_after_a_while() {
        let mut sketch = sketch([1_000; 1_000]);
        (0..2_000).for_each(|_| sketch.add(9_000));
        assert!(sketch.quantile(300) >= Some(8_800), "{sketch:?}");
        assert!(sketch.count() < COUNT_MAX);
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_two_percent_of_the_sorted_list(
            mut values in prop::collection::vec(0u64..u64::MAX / 2, 1..500),
            permille in 1u32..=1_000,
        ) {
            let found = sketch(values.iter().copied()).quantile(permille).unwrap();
            values.sort_unstable();
            let rank = (values.len() * permille as usize).div_ceil(1_000).max(1);
            let exact = values[rank - 1];
            prop_assert!(found.abs_diff(exact) <= exact / 50 + 1, "{found} for {exact}");
        }

        #[test]
        fn two_sketches_add_up_to_that_of_both(
            a in prop::collection::vec(any::<u64>(), 0..200),
            b in prop::collection::vec(any::<u64>(), 0..200),
        ) {
            let mut merged = sketch(a.iter().copied());
            merged.merge(&sketch(b.iter().copied()));
            prop_assert_eq!(merged, sketch(a.into_iter().chain(b)));
        }

        #[test]
        fn it_survives_being_written_down(values in prop::collection::vec(any::<u64>(), 0..2_000)) {
            let sketch = sketch(values);
            let text = serde_json::to_string(&sketch).unwrap();
            prop_assert_eq!(serde_json::from_str::<Sketch>(&text).unwrap(), sketch);
        }
    }
}
