//! `average`: the mean of tensors of one shape, `y = (x_0 + ... + x_{n-1}) / n`, summed in order.

use crate::copy::cuda;
use crate::device::{Cuda, Device};
use crate::error::KernelError;
use crate::{DType, Tensor};

/// Values of one piece of work.
const PIECE_VALUES: usize = 16 * 1024;

/// Writes the mean of `inputs` to `out`.
///
/// # Errors
/// [`KernelError::Shape`] and [`KernelError::DType`] for tensors that do not fit each other;
/// [`KernelError::Unsupported`] for no inputs.
pub fn average(device: &Device, inputs: &[Tensor], out: &mut Tensor) -> Result<(), KernelError> {
    out.expect_dtype("average", "out", DType::F32)?;
    let Some((first, rest)) = inputs.split_first() else {
        return Err(KernelError::unsupported("average", "an empty list"));
    };
    for input in inputs {
        input.expect_f32("average", "input", out.dims())?;
    }
    let cpu = match device {
        Device::Cpu(cpu) => cpu,
        Device::Cuda(card) => return on_card(card, inputs, out),
    };
    let share = 1.0 / inputs.len() as f32;
    cpu.for_each_chunk(out.f32s_mut(), PIECE_VALUES, |index, out| {
        let piece = index * PIECE_VALUES..index * PIECE_VALUES + out.len();
        out.copy_from_slice(&first.f32s()[piece.clone()]);
        for input in rest {
            out.iter_mut()
                .zip(&input.f32s()[piece.clone()])
                .for_each(|(sum, x)| *sum += x);
        }
        out.iter_mut().for_each(|sum| *sum *= share);
    });
    Ok(())
}

/// The kernel reads one array, in which the inputs lie one after the other.
fn on_card(card: &Cuda, inputs: &[Tensor], out: &mut Tensor) -> Result<(), KernelError> {
    let (gpu, out, count) = (card.gpu(), card.own(out)?, out.count());
    let joined = gpu.empty(out.element(), &[inputs.len(), count])?;
    for (number, input) in inputs.iter().enumerate() {
        let input = card.cast(input, out.element())?;
        gpu.copy_range((&input, 0), (&joined, number * count), count)?;
    }
    cuda::average(gpu, &joined, &out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, noise};

    #[test]
    fn three_tensors_are_averaged() {
        let device = Device::cpu(2).unwrap();
        let inputs = [
            noise(1, &[3, 20_001]),
            noise(2, &[3, 20_001]),
            noise(3, &[3, 20_001]),
        ];
        let mut out = Tensor::zeros_f32(&device, &[3, 20_001]).unwrap();
        average(&device, &inputs, &mut out).unwrap();
        let mean = |i| inputs.iter().map(|x| f64::from(x.f32s()[i])).sum::<f64>() / 3.0;
        let expected: Vec<f64> = (0..out.count()).map(mean).collect();
        assert_close(out.f32s(), &expected, 1e-6);
        assert!(average(&device, &[], &mut out).is_err());
        assert!(average(&device, &[noise(1, &[2])], &mut out).is_err());
    }
}
