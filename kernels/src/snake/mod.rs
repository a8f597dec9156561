//! `snake`: the periodic activation `y = x + sin^2(x * e^alpha) / (e^beta + 1e-9)`, alpha and beta
//! per channel. x: F32 [..., channel], in place. Between `resample1d` up and down it is the
//! anti-aliased activation of BigVGAN.

pub mod cuda;

use crate::copy::cuda::cast;
use crate::cuda::Element;
use crate::device::Device;
use crate::error::KernelError;
use crate::tensor::mismatch;
use crate::{DType, Tensor};

/// Rows of one piece of work.
const PIECE_ROWS: usize = 64;

/// Frequencies and inverse amplitudes, exponentials taken.
#[derive(Debug, Clone)]
pub struct SnakeWeights {
    frequency: Vec<f32>,
    gain: Vec<f32>,
    card: Option<cuda::DeviceSnake>,
}

impl SnakeWeights {
    /// From the stored logarithms; without `beta` the amplitude follows the frequency.
    ///
    /// # Errors
    /// [`KernelError::Shape`] and [`KernelError::DType`] when the two differ or are not [channel].
    pub fn new(
        device: &Device,
        alpha: &Tensor,
        beta: Option<&Tensor>,
    ) -> Result<Self, KernelError> {
        let [channels] = alpha.expect_rank("snake_weights", "alpha")?;
        let beta = beta.unwrap_or(alpha);
        beta.expect_f32("snake_weights", "beta", &[channels])?;
        let (alpha, beta) = (alpha.values()?, beta.values()?);
        let weights = Self {
            frequency: alpha.iter().map(|a| a.exp()).collect(),
            gain: beta.iter().map(|b| 1.0 / (b.exp() + 1e-9)).collect(),
            card: None,
        };
        let card = match device {
            Device::Cpu(_) => None,
            Device::Cuda(card) => Some(cuda::DeviceSnake::upload(card.gpu(), &weights)?),
        };
        Ok(Self { card, ..weights })
    }
}

/// Applies the activation to `x`.
///
/// # Errors
/// [`KernelError::Shape`] and [`KernelError::DType`] for another number of channels.
pub fn snake(device: &Device, weights: &SnakeWeights, x: &mut Tensor) -> Result<(), KernelError> {
    x.expect_dtype("snake", "x", DType::F32)?;
    let channels = weights.frequency.len();
    if x.last_dim() != channels {
        return Err(KernelError::shape(
            "snake",
            "x",
            format!("{channels} channels"),
            x.dims(),
        ));
    }
    let cpu = match (device, &weights.card) {
        (Device::Cpu(cpu), _) => cpu,
        (Device::Cuda(card), Some(weights)) => {
            let target = card.own(x)?;
            let wide = card.cast_array(target.clone(), Element::F32)?;
            cuda::snake(card.gpu(), weights, &wide)?;
            return match target.element() {
                Element::F32 => Ok(()),
                _ => cast(card.gpu(), &wide, &target),
            };
        }
        (Device::Cuda(_), None) => return Err(mismatch("a card", "the processor")),
    };
    cpu.for_each_chunk(x.f32s_mut(), PIECE_ROWS * channels, |_, rows| {
        for row in rows.chunks_exact_mut(channels) {
            for ((x, frequency), gain) in row.iter_mut().zip(&weights.frequency).zip(&weights.gain)
            {
                let sine = (*x * frequency).sin();
                *x += gain * (sine * sine);
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, noise};

    #[test]
    fn agrees_with_double_precision() {
        let device = Device::cpu(2).unwrap();
        let (alpha, beta) = (noise(1, &[7]), noise(2, &[7]));
        for beta in [Some(&beta), None] {
            let weights = SnakeWeights::new(&device, &alpha, beta).unwrap();
            let mut x = noise(3, &[2, 90, 7]);
            let expected = x.f32s().iter().enumerate().map(|(i, x)| {
                let a = f64::from(alpha.f32s()[i % 7]).exp();
                let b = beta.map_or(a, |b| f64::from(b.f32s()[i % 7]).exp());
                f64::from(*x) + (f64::from(*x) * a).sin().powi(2) / (b + 1e-9)
            });
            let expected: Vec<f64> = expected.collect();
            snake(&device, &weights, &mut x).unwrap();
            assert_close(x.f32s(), &expected, 1e-6);
        }
        let weights = SnakeWeights::new(&device, &alpha, None).unwrap();
        assert!(snake(&device, &weights, &mut noise(3, &[2, 6])).is_err());
        assert!(SnakeWeights::new(&device, &alpha, Some(&noise(1, &[6]))).is_err());
    }
}
