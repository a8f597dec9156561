//! What the tests of ops share: tensors of repeatable noise and comparison with doubles.

use crate::{Device, Tensor};

/// A tensor from values.
pub fn tensor(dims: &[usize], values: Vec<f32>) -> Tensor {
    Tensor::from_f32(&Device::cpu(1).unwrap(), dims, values).unwrap()
}

/// Values in -1..1 that depend on the seed and the index alone.
pub fn noise(seed: u64, dims: &[usize]) -> Tensor {
    let count: usize = dims.iter().product();
    let values = (0..count as u64).map(|index| {
        let mut z = (index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (seed << 32 | 0x5bd1);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    });
    tensor(dims, values.collect())
}

/// Fails unless the relative L2 distance is within `tolerance`.
pub fn assert_close(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let difference: f64 = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (f64::from(*a) - b).powi(2))
        .sum();
    let size: f64 = expected.iter().map(|b| b * b).sum();
    let relative = (difference / size.max(1e-30)).sqrt();
    assert!(
        relative <= tolerance,
        "relative distance {relative:e}, at most {tolerance:e}"
    );
}
