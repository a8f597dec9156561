//! `conv1d`: dilated convolution of sequences with "same" zero padding.
//!
//! `y[b,l] = bias + residual[b,l] + sum over j < k of pre(x)[b, l + (j - (k-1)/2)*dilation] * weight[j]`
//!
//! x: F32 [batch, length, channel], k odd. Reads x once into a padded copy (with the prologue
//! done), writes y once.

use crate::conv::card::convolve_on_card;
use crate::conv::cuda::Geometry;
use crate::conv::{Border, ConvWeights, Core, Prologue, SpacePad, convolve, padded};
use crate::conv3d::TimePad;
use crate::device::{Cpu, Device};
use crate::error::KernelError;
use crate::tensor::Tensor;

/// Dilation and what comes before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conv1dOptions {
    /// Samples between neighbouring taps, at least 1.
    pub dilation: usize,
    /// What is done to x first.
    pub prologue: Prologue,
}

/// Convolves `x` into `out`, adding `residual` (of the shape of `out`) when given.
///
/// # Errors
/// [`KernelError::Shape`] and [`KernelError::DType`] for tensors that do not fit each other;
/// [`KernelError::Unsupported`] for an even kernel or dilation 0.
pub fn conv1d(
    device: &Device,
    x: &Tensor,
    weights: &ConvWeights,
    options: Conv1dOptions,
    residual: Option<&Tensor>,
    out: &mut Tensor,
) -> Result<(), KernelError> {
    const OP: &str = "conv1d";
    let dims: [usize; 3] = x.expect_rank(OP, "x")?;
    let [kernel_t, kernel_h, taps] = weights.kernel();
    if dims[2] != weights.in_channels() || kernel_t * kernel_h != 1 {
        let expected = format!(
            "{} channels under a kernel {:?}",
            weights.in_channels(),
            weights.kernel()
        );
        return Err(KernelError::shape(OP, "x", expected, dims));
    }
    if taps % 2 == 0 || options.dilation == 0 {
        let why = format!("kernel {taps} with dilation {}", options.dilation);
        return Err(KernelError::unsupported(OP, why));
    }
    let out_dims = [dims[0], dims[1], weights.out_channels()];
    out.expect_f32(OP, "out", &out_dims)?;
    if let Some(residual) = residual {
        residual.expect_f32(OP, "residual", &out_dims)?;
    }
    if out.count() > 0 {
        let pad = taps / 2 * options.dilation;
        if let Device::Cuda(card) = device {
            let geometry = Geometry {
                stride: [1; 3],
                dilation: options.dilation,
                before: [0, 0, pad],
                out: [1, 1, dims[1]],
                time: TimePad::Zero,
                space: SpacePad::Zero,
            };
            let x = (x, [dims[0], 1, 1, dims[1], dims[2]]);
            let prologue = options.prologue;
            return convolve_on_card(card, x, weights, prologue, geometry, residual, out);
        }
        let (cpu, residual) = (device.host(), residual.map(Tensor::f32s));
        on_cpu(
            cpu,
            x.f32s(),
            dims,
            weights,
            options,
            [pad, pad],
            residual,
            out.f32s_mut(),
        );
    }
    Ok(())
}

/// The op for any number of zeros on each side, also used by `conv_transpose1d`.
#[expect(
    clippy::too_many_arguments,
    reason = "the op's arguments, checked, and the padding"
)]
pub(crate) fn on_cpu(
    cpu: &Cpu,
    x: &[f32],
    [_, length, channels]: [usize; 3],
    weights: &ConvWeights,
    options: Conv1dOptions,
    [left, right]: [usize; 2],
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    let [_, _, kernel] = weights.kernel();
    let border = Border {
        top: 0,
        bottom: 0,
        left,
        right,
        mode: SpacePad::Zero,
    };
    let source = padded(cpu, x, [1, length, channels], border, options.prologue);
    // Undilated taps lie side by side and make one stretch.
    let (taps, run) = if options.dilation == 1 {
        (1, kernel * channels)
    } else {
        (kernel, channels)
    };
    let core = Core {
        weights,
        row_pixels: length,
        step: channels,
        taps,
        run,
    };
    let pitch = (length + left + right) * channels;
    let tap_start = |row, tap| Some(row * pitch + tap * options.dilation * channels);
    convolve(cpu, &source, core, tap_start, residual, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dilations_agree_with_plain_loops() {
        let device = Device::cpu(2).unwrap();
        let value = |i: usize| ((i * 7919) % 2003) as f32 / 1001.5 - 1.0;
        let tensor = |dims: &[usize]| {
            let count = dims.iter().product();
            Tensor::from_f32(&device, dims, (0..count).map(value).collect()).unwrap()
        };
        for (length, inner, outer, k, dilation) in [
            (1, 1, 1, 3, 1),
            (50, 4, 4, 7, 5),
            (301, 16, 10, 11, 3),
            (9, 3, 32, 7, 1),
            (4, 2, 2, 11, 5),
        ] {
            let (x, weight) = (tensor(&[2, length, inner]), tensor(&[outer, inner, k]));
            let weights = ConvWeights::new(&device, &weight, None).unwrap();
            let mut out = tensor(&[2, length, outer]);
            let options = Conv1dOptions {
                dilation,
                prologue: Prologue::Leaky { slope: 0.1 },
            };
            conv1d(&device, &x, &weights, options, None, &mut out).unwrap();
            for (index, found) in out.f32s().iter().enumerate() {
                let (b, l, o) = (
                    index / (length * outer),
                    index / outer % length,
                    index % outer,
                );
                let mut sum = 0.0;
                for (j, c) in (0..k).flat_map(|j| (0..inner).map(move |c| (j, c))) {
                    let at = l as isize + (j as isize - (k / 2) as isize) * dilation as isize;
                    if (0..length as isize).contains(&at) {
                        let x = f64::from(x.f32s()[(b * length + at as usize) * inner + c]);
                        let x = if x > 0.0 { x } else { x * f64::from(0.1f32) };
                        sum += x * f64::from(weight.f32s()[(o * inner + c) * k + j]);
                    }
                }
                assert!(
                    (f64::from(*found) - sum).abs() < 1e-4,
                    "{length} {k} {index}: {found} {sum}"
                );
            }
        }
    }

    #[test]
    fn even_kernels_and_no_dilation_are_refused() {
        let device = Device::cpu(1).unwrap();
        let zeros = |dims: &[usize]| Tensor::zeros_f32(&device, dims).unwrap();
        let (x, mut out) = (zeros(&[1, 8, 2]), zeros(&[1, 8, 2]));
        let options = Conv1dOptions {
            dilation: 1,
            prologue: Prologue::None,
        };
        let even = ConvWeights::new(&device, &zeros(&[2, 2, 4]), None).unwrap();
        assert!(conv1d(&device, &x, &even, options, None, &mut out).is_err());
        let odd = ConvWeights::new(&device, &zeros(&[2, 2, 3]), None).unwrap();
        let none = Conv1dOptions {
            dilation: 0,
            ..options
        };
        assert!(conv1d(&device, &x, &odd, none, None, &mut out).is_err());
        conv1d(&device, &x, &odd, options, None, &mut out).unwrap();
    }
}
