//! `y = epilogue(x W^T + bias)`.
//!
//! x [M, K], W [N, K] row-major, bias [N] -> y [M, N]; F32. Reads x and W once per block of rows
//! and writes y once; the epilogue runs while a block is in cache.

pub(crate) mod card;
mod cpu;
pub mod cuda;

use crate::conv::ConvWeights;
use crate::cuda::Array;
use crate::modulation::Rows;
use crate::tensor::mismatch;
use crate::{DType, Device, KernelError, Tensor};

const OP: &str = "linear";

/// A weight matrix where its device multiplies with it.
#[derive(Debug, Clone)]
pub struct LinearWeights {
    place: Place,
    /// A gate half and an up half, for [`Epilogue::GegluTanh`].
    is_pair: bool,
}

#[derive(Debug, Clone)]
enum Place {
    /// Repacked once at load for the register tiles of the convolutions.
    Host(Box<ConvWeights>),
    /// In a card's memory.
    Card(CardWeight),
}

/// BF16 [N, K] on a card; the rows of a pair alternate.
#[derive(Debug, Clone)]
pub(crate) struct CardWeight(Array);

impl LinearWeights {
    /// Repacks `weight` [N, K], or uploads it to the device's card.
    ///
    /// # Errors
    /// [`KernelError::Shape`] for another rank or an empty matrix, [`KernelError::DType`]; what an
    /// upload gives.
    pub fn new(device: &Device, weight: &Tensor) -> Result<Self, KernelError> {
        Self::placed(device, weight, false)
    }

    /// As [`LinearWeights::new`] for a gate half, then an up half [2N, K].
    ///
    /// # Errors
    /// As [`LinearWeights::new`]; [`KernelError::Unsupported`] for an odd height.
    pub fn pair(device: &Device, weight: &Tensor) -> Result<Self, KernelError> {
        match weight.dims()[0].is_multiple_of(2) {
            true => Self::placed(device, weight, true),
            false => Err(KernelError::unsupported(OP, "a GEGLU of odd height")),
        }
    }

    fn placed(device: &Device, weight: &Tensor, is_pair: bool) -> Result<Self, KernelError> {
        let [outputs, inputs] = weight.expect_rank(OP, "weight")?;
        let place = match device {
            Device::Cuda(card) if outputs * inputs > 0 => {
                Place::Card(CardWeight(card::upload(card, weight, is_pair)?))
            }
            _ => {
                let column = weight.clone().reshaped(&[outputs, inputs, 1])?;
                Place::Host(Box::new(ConvWeights::new(device, &column, None)?))
            }
        };
        Ok(Self { place, is_pair })
    }

    /// Length of an input row.
    pub fn inputs(&self) -> usize {
        match &self.place {
            Place::Host(packed) => packed.in_channels(),
            Place::Card(weight) => weight.0.last_dim(),
        }
    }

    /// Length of an output row.
    pub fn outputs(&self) -> usize {
        match &self.place {
            Place::Host(packed) => packed.out_channels(),
            Place::Card(weight) => weight.0.row_count(),
        }
    }
}

/// What happens to `z = x W^T + bias` before it is stored.
#[derive(Clone, Copy)]
pub enum Epilogue<'a> {
    /// y = z
    None,
    /// y = gelu(z), tanh form
    GeluTanh,
    /// y = z * sigmoid(z)
    Silu,
    /// y = y + z
    Residual,
    /// y = y + gate * z, with one gate value a column
    GatedResidual(Rows<'a>),
    /// W is a [`LinearWeights::pair`]: y = gelu(gate) * up, tanh form
    GegluTanh,
}

/// Values, kept as activations are, that a product of `outputs` values with [`Epilogue::GatedResidual`] takes
/// beside its operands, blocks of rows aside.
pub fn gated_scratch_values(device: &Device, outputs: usize) -> usize {
    match device {
        // NVIDIA's library does not know the gate.
        Device::Cuda(card) if card.gpu().blas().is_some() => outputs,
        _ => 0,
    }
}

/// Multiplies every row of `x` by a weight matrix; see the module.
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::DType`]; [`KernelError::Unsupported`] for GEGLU with a bias.
pub fn linear(
    device: &Device,
    x: &Tensor,
    weight: &LinearWeights,
    bias: Option<&Tensor>,
    epilogue: Epilogue<'_>,
    y: &mut Tensor,
) -> Result<(), KernelError> {
    let [rows, _] = x.expect_rank(OP, "x")?;
    x.expect_f32(OP, "x", &[rows, weight.inputs()])?;
    let weight_rows = weight.outputs();
    let columns = match epilogue {
        Epilogue::GegluTanh if weight.is_pair => weight_rows / 2,
        _ if weight.is_pair => return Err(KernelError::unsupported(OP, "a pair without a GEGLU")),
        Epilogue::GegluTanh => return Err(KernelError::unsupported(OP, "a GEGLU of one matrix")),
        _ => weight_rows,
    };
    y.expect(OP, "y", DType::F32, &[rows, columns])?;
    if let Some(bias) = bias {
        bias.expect_f32(OP, "bias", &[weight_rows])?;
        if matches!(epilogue, Epilogue::GegluTanh) {
            return Err(KernelError::unsupported(OP, "a GEGLU with a bias"));
        }
    }
    if let Epilogue::GatedResidual(gate) = &epilogue {
        gate.check(OP, "gate", rows, columns)?;
    }
    match (&weight.place, device) {
        (Place::Host(packed), Device::Cpu(cpu)) => {
            cpu::linear(cpu, x, packed, bias, epilogue, y);
            Ok(())
        }
        (Place::Card(weight), Device::Cuda(card)) => {
            card::linear(card, x, weight, bias, epilogue, y)
        }
        (Place::Card(_), Device::Cpu(_)) => Err(mismatch("the processor", "a card")),
        (Place::Host(_), Device::Cuda(_)) => Err(mismatch("a card", "the processor")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd;
    use crate::testing::{assert_close, noise, tensor};

    /// What an epilogue makes of element i, given the product.
    type Expected<'a> = &'a dyn Fn(usize, f64) -> f64;

    fn packed(w: &Tensor) -> LinearWeights {
        LinearWeights::new(&Device::cpu(1).unwrap(), w).unwrap()
    }

    /// x W^T + b in double precision.
    fn reference(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Vec<f64> {
        let k = x.last_dim();
        let mut out = Vec::new();
        for row in x.f32s().chunks(k) {
            for (n, column) in w.f32s().chunks(k).enumerate() {
                let dot: f64 = row
                    .iter()
                    .zip(column)
                    .map(|(a, b)| f64::from(*a) * f64::from(*b))
                    .sum();
                out.push(dot + b.map_or(0.0, |b| f64::from(b.f32s()[n])));
            }
        }
        out
    }

    #[test]
    fn every_epilogue_agrees_with_double_precision() {
        for (m, n, k) in [
            (1, 1, 1),
            (1, 130, 33),
            (7, 5, 64),
            (67, 48, 17),
            (300, 72, 40),
            (519, 6, 130),
        ] {
            let device = Device::cpu(2).unwrap();
            let (x, w, b) = (noise(1, &[m, k]), noise(2, &[n, k]), noise(3, &[n]));
            let z = reference(&x, &w, Some(&b));
            let (start, gate) = (noise(4, &[m, n]), noise(5, &[2, 3, n]));
            let groups =
                Tensor::from_u32(&device, &[m], (0..m as u32).map(|i| i % 2).collect()).unwrap();
            let gates = Rows {
                table: &gate,
                slot: 1,
                groups: Some(&groups),
            };
            let cases: [(Epilogue<'_>, Expected<'_>); 5] = [
                (Epilogue::None, &|_, z| z),
                (Epilogue::GeluTanh, &|_, z| {
                    f64::from(simd::gelu_tanh(z as f32))
                }),
                (Epilogue::Silu, &|_, z| z / (1.0 + (-z).exp())),
                (Epilogue::Residual, &|i, z| f64::from(start.f32s()[i]) + z),
                (Epilogue::GatedResidual(gates), &|i, z| {
                    let gate = gate.f32s()[(i / n) % 2 * 3 * n + n + i % n];
                    f64::from(start.f32s()[i]) + f64::from(gate) * z
                }),
            ];
            for (epilogue, expected) in cases {
                let mut y = start.clone();
                linear(&device, &x, &packed(&w), Some(&b), epilogue, &mut y).unwrap();
                let expected: Vec<f64> =
                    z.iter().enumerate().map(|(i, z)| expected(i, *z)).collect();
                assert_close(y.f32s(), &expected, 1e-5);
            }
        }
    }

    #[test]
    fn geglu_multiplies_the_two_halves() {
        let device = Device::cpu(2).unwrap();
        let (x, w) = (noise(1, &[70, 24]), noise(2, &[20, 24]));
        let z = reference(&x, &w, None);
        let mut y = tensor(&[70, 10], vec![0.0; 700]);
        let pair = LinearWeights::pair(&device, &w).unwrap();
        linear(&device, &x, &pair, None, Epilogue::GegluTanh, &mut y).unwrap();
        let expected: Vec<f64> = (0..700)
            .map(|i| (i / 10 * 20 + i % 10, i / 10 * 20 + 10 + i % 10))
            .map(|(gate, up)| f64::from(simd::gelu_tanh(z[gate] as f32)) * z[up])
            .collect();
        assert_close(y.f32s(), &expected, 1e-5);
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        for (m, n, k) in [
            (1, 3000, 300),
            (2, 700, 900),
            (33, 128, 128),
            (272, 512, 128),
            (700, 96, 200),
        ] {
            let (x, w) = (noise(1, &[m, k]), noise(2, &[n, k]));
            let run = |threads| {
                let device = Device::cpu(threads).unwrap();
                let mut y = tensor(&[m, n], vec![0.0; m * n]);
                linear(&device, &x, &packed(&w), None, Epilogue::GeluTanh, &mut y).unwrap();
                y
            };
            let one = run(1);
            for threads in [2, 3, 8] {
                assert!(
                    one.f32s() == run(threads).f32s(),
                    "{m}x{n}x{k} on {threads} threads"
                );
            }
        }
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let device = Device::cpu(1).unwrap();
        let (x, w) = (noise(1, &[2, 3]), noise(2, &[4, 3]));
        let mut y = tensor(&[2, 4], vec![0.0; 8]);
        assert!(
            linear(
                &device,
                &x,
                &packed(&noise(1, &[4, 5])),
                None,
                Epilogue::None,
                &mut y
            )
            .is_err()
        );
        assert!(
            linear(
                &device,
                &x,
                &packed(&w),
                Some(&noise(1, &[3])),
                Epilogue::None,
                &mut y
            )
            .is_err()
        );
        assert!(linear(&device, &x, &packed(&w), None, Epilogue::GegluTanh, &mut y).is_err());
        let gate = noise(1, &[1, 1, 5]);
        let gate = Epilogue::GatedResidual(Rows {
            table: &gate,
            slot: 0,
            groups: None,
        });
        assert!(linear(&device, &x, &packed(&w), None, gate, &mut y).is_err());
        assert!(LinearWeights::new(&device, &noise(1, &[4, 0])).is_err());
        assert!(LinearWeights::new(&device, &noise(1, &[4])).is_err());
        let mut small = tensor(&[1, 4], vec![0.0; 4]);
        assert!(linear(&device, &x, &packed(&w), None, Epilogue::None, &mut small).is_err());
    }

    #[test]
    fn large_half_precision_weights_give_the_bits_of_single_precision() {
        let (outputs, inputs, rows) = (1_031, 1_024, 40);
        let rounded = |seed| {
            let values = noise(seed, &[outputs, inputs]);
            let round = |v: &f32| half::bf16::from_f32(*v).to_f32();
            values.f32s().iter().map(round).collect::<Vec<f32>>()
        };
        let (w, x) = (rounded(1), noise(2, &[rows, inputs]));
        let device = Device::cpu(2).unwrap();
        let product = |rows: std::ops::Range<usize>| {
            let count = rows.len();
            let part = w[rows.start * inputs..rows.end * inputs].to_vec();
            let weight = packed(&tensor(&[count, inputs], part));
            let mut y = noise(3, &[x.row_count(), count]);
            linear(&device, &x, &weight, None, Epilogue::None, &mut y).unwrap();
            y
        };
        // The parts are too small to be kept in half precision.
        let (whole, left, right) = (product(0..outputs), product(0..512), product(512..outputs));
        for row in 0..rows {
            let parts = [
                &left.f32s()[row * 512..][..512],
                &right.f32s()[row * 519..][..519],
            ];
            assert_eq!(whole.f32s()[row * outputs..][..outputs], parts.concat());
        }
    }
}
