//! `to_frames`: pictures in -1..=1 become bytes, `round(255 * clamp((x + 1)/2, 0, 1))`.
//! Halves round to even. Reads 4 bytes a value, writes 1.

use crate::copy::cuda;
use crate::device::Device;
use crate::error::KernelError;
use crate::{DType, Tensor};

/// Values of one piece of work.
const PIECE_VALUES: usize = 16 * 1024;

/// Converts F32 `x` into U8 `out` of the same shape. What is no number becomes 0.
///
/// # Errors
/// [`KernelError::Shape`] and [`KernelError::DType`] for tensors that do not fit each other.
pub fn to_frames(device: &Device, x: &Tensor, out: &mut Tensor) -> Result<(), KernelError> {
    x.expect_dtype("to_frames", "x", DType::F32)?;
    out.expect("to_frames", "out", DType::U8, x.dims())?;
    let cpu = match device {
        Device::Cpu(cpu) => cpu,
        Device::Cuda(card) => {
            return cuda::to_frames(card.gpu(), &card.array(x)?, &card.own(out)?);
        }
    };
    let x = x.f32s();
    cpu.for_each_chunk(out.u8s_mut(), PIECE_VALUES, |index, out| {
        for (out, x) in out.iter_mut().zip(&x[index * PIECE_VALUES..]) {
            let level = (x / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0;
            *out = level.round_ties_even() as u8;
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tensor;

    #[test]
    fn values_are_clamped_and_rounded() {
        let device = Device::cpu(1).unwrap();
        let x = tensor(&[6], vec![-3.0, -1.0, 0.0, 0.5, 1.0, f32::INFINITY]);
        let mut out = Tensor::zeros(&device, DType::U8, &[6]).unwrap();
        to_frames(&device, &x, &mut out).unwrap();
        assert_eq!(out.u8s(), [0, 0, 128, 191, 255, 255]);
        let mut floats = Tensor::zeros_f32(&device, &[6]).unwrap();
        assert!(to_frames(&device, &x, &mut floats).is_err());
    }
}
