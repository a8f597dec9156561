//! Packed weights in memory: large ones stay in the half-precision type that their file had, when it
//! holds every value exactly, and become F32 a stretch at a time, in cache.
//!
//! Both conversions are exact, so no result depends on how weights are kept. A stretch serves 32 to 256
//! rows, which hides its conversion; small weights stay F32 because there is nothing to gain.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::simd::vectorised;

/// Weights of fewer values are kept as F32.
pub const HALF_VALUES_MIN: usize = 1 << 20;

/// Values in the narrowest type that holds all of them.
#[derive(Debug, Clone)]
pub(super) enum Stored {
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
}

impl Stored {
    pub fn new(values: Vec<f32>) -> Self {
        let is_same = |value: &f32, back: f32| value.to_bits() == back.to_bits();
        if values.len() < HALF_VALUES_MIN {
            Self::F32(values)
        } else if values
            .iter()
            .all(|v| is_same(v, bf16::from_f32(*v).to_f32()))
        {
            Self::BF16(values.into_iter().map(bf16::from_f32).collect())
        } else if values
            .iter()
            .all(|v| is_same(v, f16::from_f32(*v).to_f32()))
        {
            Self::F16(values.into_iter().map(f16::from_f32).collect())
        } else {
            Self::F32(values)
        }
    }

    /// Some of the values; `aside` holds them where they are not F32 as they lie.
    pub fn read<'a>(&'a self, range: Range<usize>, aside: &'a mut Vec<f32>) -> &'a [f32] {
        match self {
            Self::F32(values) => &values[range],
            Self::F16(values) => {
                aside.resize(range.len(), 0.0);
                values[range].convert_to_f32_slice(aside);
                aside
            }
            Self::BF16(values) => {
                aside.resize(range.len(), 0.0);
                let places = aside.iter_mut().zip(&values[range]);
                vectorised(
                    #[inline(always)]
                    || {
                        for (place, value) in places {
                            *place = f32::from_bits(u32::from(value.to_bits()) << 16);
                        }
                    },
                );
                aside
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Round = fn(f32) -> f32;

    fn values(round: Round) -> Vec<f32> {
        let value = |i: usize| ((i * 7919 % 20_011) as f32 - 10_005.0) / 3_001.0;
        (0..HALF_VALUES_MIN + 5).map(|i| round(value(i))).collect()
    }

    #[test]
    fn large_weights_keep_the_type_that_holds_them_and_every_bit() {
        let cases: [(Round, &str); 3] = [
            (|v| bf16::from_f32(v).to_f32(), "BF16"),
            (|v| f16::from_f32(v).to_f32(), "F16"),
            (|v| v, "F32"),
        ];
        for (round, expected) in cases {
            let whole = values(round);
            let stored = Stored::new(whole.clone());
            let name = match &stored {
                Stored::F32(_) => "F32",
                Stored::F16(_) => "F16",
                Stored::BF16(_) => "BF16",
            };
            assert_eq!(name, expected);
            let mut aside = Vec::new();
            for range in [0..7, 100..100, 1_000..9_000, whole.len() - 3..whole.len()] {
                assert_eq!(stored.read(range.clone(), &mut aside), &whole[range]);
            }
        }
        assert!(matches!(Stored::new(vec![1.0; 64]), Stored::F32(_)));
    }
}
