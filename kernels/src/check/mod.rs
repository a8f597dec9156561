//! Is a GPU's op right? Every op with shapes, random inputs and the CPU's op as the reference. The same
//! cases run on the emulator in tests and on a real card in `gpu-check`.
//!
//! Inputs are rounded to the type that the GPU gets before either side sees them. Outputs are filled with
//! NaN first, so an element that was not written fails.

mod attention;
mod elementwise;
pub mod golden;
mod moving;
mod products;
mod resident;

use std::fmt;

use half::bf16;

use crate::cuda::{Array, Element, Gpu};
use crate::{Device, KernelError, Tensor};

/// Where shapes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Tails and corners; the emulator runs them in a minute.
    Small,
    /// Shapes of the model as well; for a card.
    Model,
}

/// What one run of a case gave.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What the GPU computed.
    pub found: Vec<f32>,
    /// What the CPU computed.
    pub expected: Vec<f32>,
    /// Largest relative L2 distance; 0 means bit-equal.
    pub tolerance: f64,
}

impl Outcome {
    /// See [`relative_distance`].
    pub fn distance(&self) -> f64 {
        relative_distance(&self.found, &self.expected)
    }

    /// How many values are far off, where the first one is, and both sides there.
    pub fn differences(&self) -> String {
        let far = |(found, expected): (&f32, &f32)| {
            let off = (found - expected).abs();
            off.is_nan() != expected.is_nan()
                || off > 1e-6 + 4.0 * self.tolerance as f32 * expected.abs()
        };
        let both = || self.found.iter().zip(&self.expected);
        let count = both().filter(|pair| far(*pair)).count();
        let first = both().position(far).unwrap_or_default();
        let some = |values: &[f32]| {
            let end = values.len().min(first + 4);
            format!("{:?}", values.get(first..end).unwrap_or_default())
        };
        let (found, expected) = (some(&self.found), some(&self.expected));
        format!(
            "{count} of {} values, from {first} on: {found} instead of {expected}",
            self.found.len()
        )
    }

    /// Whether it is right.
    pub fn is_right(&self) -> bool {
        self.distance() <= self.tolerance
    }
}

/// Relative L2 distance; infinite when a value is NaN on one side only or the lengths differ.
pub fn relative_distance(found: &[f32], expected: &[f32]) -> f64 {
    let (mut difference, mut size) = (0.0, 0.0);
    for (a, b) in found.iter().zip(expected) {
        size += if b.is_nan() {
            0.0
        } else {
            f64::from(*b).powi(2)
        };
        if a != b && !(a.is_nan() && b.is_nan()) {
            difference += (f64::from(*a) - f64::from(*b)).powi(2);
        }
    }
    if found.len() != expected.len() || difference.is_nan() {
        return f64::INFINITY;
    }
    (difference / size.max(1e-30)).sqrt()
}

type Run = Box<dyn Fn(&Bench<'_>) -> Result<Outcome, KernelError> + Send + Sync>;

/// One op with one shape.
pub struct Case {
    /// Name of the op.
    pub op: &'static str,
    /// Shape and variant in words.
    pub shape: String,
    run: Run,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.op, self.shape)
    }
}

impl Case {
    fn new(
        op: &'static str,
        shape: impl fmt::Display,
        run: impl Fn(&Bench<'_>) -> Result<Outcome, KernelError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            op,
            shape: shape.to_string(),
            run: Box::new(run),
        }
    }

    /// Computes it on both sides.
    ///
    /// # Errors
    /// What either side gives.
    pub fn run(&self, gpu: &Gpu, cpu: &Device, seed: u64) -> Result<Outcome, KernelError> {
        (self.run)(&Bench { gpu, cpu, seed })
    }
}

/// Families of ops.
pub const FAMILIES: [&str; 5] = ["elementwise", "moving", "products", "attention", "resident"];

/// The cases of a family that a card of this kind can run; none for a word that is no family.
pub fn family(name: &str, scale: Scale, hopper: bool) -> Vec<Case> {
    match name {
        "elementwise" => elementwise::cases(scale),
        "moving" => moving::cases(scale),
        "products" => products::cases(scale, hopper),
        "attention" => attention::cases(scale, hopper),
        "resident" => resident::cases(scale),
        _ => Vec::new(),
    }
}

/// All cases that a card of this kind can run.
pub fn cases(scale: Scale, hopper: bool) -> Vec<Case> {
    let all = FAMILIES.iter();
    all.flat_map(|name| family(name, scale, hopper)).collect()
}

/// Both sides of a case, and where its random numbers come from.
struct Bench<'a> {
    gpu: &'a Gpu,
    cpu: &'a Device,
    seed: u64,
}

impl Bench<'_> {
    /// Values in -1..1 that depend on the seed, `salt` and the index alone, rounded to `element`.
    fn noise(&self, element: Element, salt: u64, dims: &[usize]) -> Result<Tensor, KernelError> {
        let seed = self.seed.wrapping_mul(1000).wrapping_add(salt);
        let round = |value: f32| match element {
            Element::BF16 => bf16::from_f32(value).to_f32(),
            _ => value,
        };
        let count: usize = dims.iter().product();
        let values = (0..count as u64).map(|index| round(uniform(seed, index)));
        Tensor::from_f32(self.cpu, dims, values.collect())
    }

    fn zeros(&self, dims: &[usize]) -> Result<Tensor, KernelError> {
        Tensor::zeros_f32(self.cpu, dims)
    }

    /// A CPU tensor on the GPU.
    fn put(&self, element: Element, tensor: &Tensor) -> Result<Array, KernelError> {
        self.gpu.upload(element, tensor.dims(), tensor.f32s())
    }

    /// An output full of NaN.
    fn poisoned(&self, element: Element, dims: &[usize]) -> Result<Array, KernelError> {
        self.gpu.filled(element, dims, 0xff)
    }

    fn outcome(
        &self,
        found: &Array,
        expected: &Tensor,
        tolerance: f64,
    ) -> Result<Outcome, KernelError> {
        let expected = match found.element() {
            Element::U8 => expected
                .u8s()
                .iter()
                .map(|value| f32::from(*value))
                .collect(),
            _ => expected.f32s().to_vec(),
        };
        Ok(Outcome {
            found: self.gpu.download(found)?,
            expected,
            tolerance,
        })
    }
}

fn uniform(seed: u64, index: u64) -> f32 {
    let mut z = (index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (seed << 32 | 0x5bd1);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

/// How far an elementwise op may be off: the rounding of its output, or of its sums.
fn elementwise_tolerance(element: Element) -> f64 {
    if element == Element::BF16 { 4e-3 } else { 1e-5 }
}

/// How far a sum of products of bf16 may be off.
fn product_tolerance(element: Element) -> f64 {
    if element == Element::BF16 { 5e-3 } else { 1e-5 }
}

/// Types of activations.
const ACTS: [Element; 2] = [Element::BF16, Element::F32];

#[cfg(test)]
mod tests {
    use super::*;

    fn distance(found: &[f32], expected: &[f32]) -> f64 {
        Outcome {
            found: found.to_vec(),
            expected: expected.to_vec(),
            tolerance: 0.0,
        }
        .distance()
    }

    #[test]
    fn wrong_lengths_and_unwritten_values_are_infinitely_far() {
        assert_eq!(distance(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
        assert_eq!(distance(&[1.0], &[1.0, 2.0]), f64::INFINITY);
        assert_eq!(distance(&[1.0, f32::NAN], &[1.0, 2.0]), f64::INFINITY);
        assert!(distance(&[1.1], &[1.0]) > 0.09);
    }

    #[test]
    fn what_is_far_off_is_counted_and_shown_with_both_sides() {
        let outcome = Outcome {
            found: vec![1.0, 2.5, f32::NAN],
            expected: vec![1.0, 2.0, 3.0],
            tolerance: 1e-3,
        };
        assert_eq!(
            outcome.differences(),
            "2 of 3 values, from 1 on: [2.5, NaN] instead of [2.0, 3.0]"
        );
    }
}
