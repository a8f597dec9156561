//! `pixel_norm`: `y = x / sqrt(mean over channels of x^2 + eps)`, then SiLU if wanted.
//!
//! x, y: F32 [..., channel]. Reads and writes each value once. eps is 1e-8 in the video VAE and
//! 1e-6 in the audio VAE. Convolutions take the same formula as a prologue.

pub(crate) mod cpu;
pub mod cuda;

use crate::device::Device;
use crate::error::KernelError;
use crate::{DType, Tensor};

/// Normalises `x` over its last axis into `out`; `silu` applies x*sigmoid(x) afterwards.
///
/// # Errors
/// [`KernelError::DType`] and [`KernelError::Shape`] when the two differ or are not F32.
pub fn pixel_norm(
    device: &Device,
    x: &Tensor,
    eps: f32,
    silu: bool,
    out: &mut Tensor,
) -> Result<(), KernelError> {
    x.expect_dtype("pixel_norm", "x", DType::F32)?;
    out.expect_f32("pixel_norm", "out", x.dims())?;
    if x.count() == 0 {
        return Ok(());
    }
    match device {
        Device::Cpu(cpu) => {
            cpu::pixel_norm(cpu, x.f32s(), out.f32s_mut(), x.last_dim(), eps, silu);
            Ok(())
        }
        Device::Cuda(card) => {
            let out = card.own(out)?;
            cuda::pixel_norm(card.gpu(), &card.cast(x, out.element())?, eps, silu, &out)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_a_plain_loop_on_odd_widths() {
        let device = Device::cpu(2).unwrap();
        for channels in [1, 3, 8, 13, 64] {
            let values: Vec<f32> = (0..37 * channels)
                .map(|i| (i as f32 * 0.37).sin() * 9.0)
                .collect();
            let x = Tensor::from_f32(&device, &[37, channels], values).unwrap();
            for silu in [false, true] {
                let mut out = Tensor::zeros_f32(&device, &[37, channels]).unwrap();
                pixel_norm(&device, &x, 1e-8, silu, &mut out).unwrap();
                let rows = x.f32s().chunks(channels).zip(out.f32s().chunks(channels));
                for (x, y) in rows {
                    let square: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
                    let root = (square / channels as f64 + 1e-8).sqrt();
                    for (x, y) in x.iter().zip(y) {
                        let n = f64::from(*x) / root;
                        let expected = if silu { n / (1.0 + (-n).exp()) } else { n };
                        assert!((f64::from(*y) - expected).abs() < 1e-5, "{y} {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn another_shape_of_the_output_is_refused() {
        let device = Device::cpu(1).unwrap();
        let x = Tensor::zeros_f32(&device, &[2, 4]).unwrap();
        let mut out = Tensor::zeros_f32(&device, &[4, 2]).unwrap();
        assert!(pixel_norm(&device, &x, 1e-8, false, &mut out).is_err());
    }
}
