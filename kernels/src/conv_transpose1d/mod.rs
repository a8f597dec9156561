//! `conv_transpose1d`: upsampling of sequences by an integer factor.
//!
//! `y[b, i*stride + j - pad] += pre(x)[b,i] * weight[j]`, plus bias; pad = (k - stride)/2
//!
//! x: F32 [batch, length, channel] -> [batch, length*stride, channel]. Computed as a convolution
//! whose output channels are (phase, channel): `stride` neighbouring output samples all read the
//! same few input samples, and their channels lie side by side in memory already.

use crate::conv::card::convolve_on_card;
use crate::conv::cuda::Geometry;
use crate::conv::{ConvWeights, Prologue, SpacePad};
use crate::conv1d::{self, Conv1dOptions};
use crate::conv3d::TimePad;
use crate::device::Device;
use crate::error::KernelError;
use crate::tensor::Tensor;

/// Kernel and bias of a transposed convolution, one kernel per output phase.
#[derive(Debug, Clone)]
pub struct ConvTranspose1dWeights {
    phases: ConvWeights,
    /// Zeros before and after the input.
    pads: [usize; 2],
    stride: usize,
    out_channels: usize,
}

impl ConvTranspose1dWeights {
    /// Repacks `weight` [in, out, k] and `bias` [out].
    ///
    /// # Errors
    /// [`KernelError::Shape`] for other shapes; [`KernelError::Unsupported`] when the stride is 0,
    /// or the kernel is shorter than it, or their difference is odd.
    pub fn new(
        device: &Device,
        weight: &Tensor,
        bias: &Tensor,
        stride: usize,
    ) -> Result<Self, KernelError> {
        const OP: &str = "conv_transpose1d_weights";
        let [in_channels, out_channels, kernel] = weight.expect_rank(OP, "weight")?;
        bias.expect_f32(OP, "bias", &[out_channels])?;
        if stride == 0 || kernel < stride || (kernel - stride) % 2 == 1 || weight.count() == 0 {
            let why = format!("kernel {kernel} with stride {stride}");
            return Err(KernelError::unsupported(OP, why));
        }
        // Output q*stride + phase meets kernel position j under input i where
        // i*stride + j = q*stride + phase + pad, so i - q runs from `-before` to `after`.
        let pad = (kernel - stride) / 2;
        let before = (kernel - 1 - pad) / stride;
        let after = (stride + pad - 1) / stride;
        let position = |phase: usize, tap: usize| {
            (phase + pad + before * stride)
                .checked_sub(tap * stride)
                .filter(|j| *j < kernel)
        };
        let values = weight.values()?;
        let value = |out: usize, tap: usize, channel: usize| {
            let (phase, out) = (out / out_channels, out % out_channels);
            let at = |j| values[(channel * out_channels + out) * kernel + j];
            position(phase, tap).map_or(0.0, at)
        };
        let bias = bias.values()?.repeat(stride);
        let kernel = [1, 1, before + 1 + after];
        let phases = ConvWeights::placed(device, kernel, in_channels, bias, value)?;
        Ok(Self {
            phases,
            pads: [before, after],
            stride,
            out_channels,
        })
    }

    /// Output samples per input sample.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Number of output channels.
    pub fn out_channels(&self) -> usize {
        self.out_channels
    }
}

/// Upsamples `x` [batch, length, in] into `out` [batch, length*stride, out].
///
/// # Errors
/// [`KernelError::Shape`] and [`KernelError::DType`] for tensors that do not fit each other.
pub fn conv_transpose1d(
    device: &Device,
    x: &Tensor,
    weights: &ConvTranspose1dWeights,
    prologue: Prologue,
    out: &mut Tensor,
) -> Result<(), KernelError> {
    const OP: &str = "conv_transpose1d";
    let dims: [usize; 3] = x.expect_rank(OP, "x")?;
    let [batch, length, channels] = dims;
    if channels != weights.phases.in_channels() {
        let expected = format!("{} channels", weights.phases.in_channels());
        return Err(KernelError::shape(OP, "x", expected, dims));
    }
    out.expect_f32(
        OP,
        "out",
        &[batch, length * weights.stride, weights.out_channels],
    )?;
    if out.count() > 0 {
        if let Device::Cuda(card) = device {
            let geometry = Geometry {
                stride: [1; 3],
                dilation: 1,
                before: [0, 0, weights.pads[0]],
                out: [1, 1, length],
                time: TimePad::Zero,
                space: SpacePad::Zero,
            };
            let (x, phases) = ((x, [batch, 1, 1, length, channels]), &weights.phases);
            return convolve_on_card(card, x, phases, prologue, geometry, None, out);
        }
        let cpu = device.host();
        let options = Conv1dOptions {
            dilation: 1,
            prologue,
        };
        let (phases, pads) = (&weights.phases, weights.pads);
        conv1d::on_cpu(
            cpu,
            x.f32s(),
            dims,
            phases,
            options,
            pads,
            None,
            out.f32s_mut(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_and_strides_agree_with_scattered_sums() {
        let device = Device::cpu(2).unwrap();
        let value = |i: usize| ((i * 7919) % 2003) as f32 / 1001.5 - 1.0;
        let tensor = |dims: &[usize]| {
            let count = dims.iter().product();
            Tensor::from_f32(&device, dims, (0..count).map(value).collect()).unwrap()
        };
        for (k, stride) in [
            (16, 6),
            (15, 5),
            (11, 5),
            (8, 4),
            (8, 2),
            (4, 2),
            (4, 4),
            (12, 6),
            (1, 1),
            (3, 1),
        ] {
            for (length, inner, outer) in [(1, 2, 3), (13, 8, 4)] {
                let (x, weight, bias) = (
                    tensor(&[2, length, inner]),
                    tensor(&[inner, outer, k]),
                    tensor(&[outer]),
                );
                let weights = ConvTranspose1dWeights::new(&device, &weight, &bias, stride).unwrap();
                let mut out = tensor(&[2, length * stride, outer]);
                conv_transpose1d(&device, &x, &weights, Prologue::None, &mut out).unwrap();
                let mut expected: Vec<f64> = (0..out.count())
                    .map(|i| f64::from(bias.f32s()[i % outer]))
                    .collect();
                for at in 0..2 * length * k {
                    let (b, i, j) = (at / (length * k), at / k % length, at % k);
                    let Some(l) = (i * stride + j).checked_sub((k - stride) / 2) else {
                        continue;
                    };
                    if l >= length * stride {
                        continue;
                    }
                    for (c, o) in (0..inner).flat_map(|c| (0..outer).map(move |o| (c, o))) {
                        let x = f64::from(x.f32s()[(b * length + i) * inner + c]);
                        let w = f64::from(weight.f32s()[(c * outer + o) * k + j]);
                        expected[(b * length * stride + l) * outer + o] += x * w;
                    }
                }
                for (found, expected) in out.f32s().iter().zip(&expected) {
                    assert!(
                        (f64::from(*found) - expected).abs() < 1e-4,
                        "{k} {stride}: {found} {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn an_odd_difference_of_kernel_and_stride_is_refused() {
        let device = Device::cpu(1).unwrap();
        let zeros = |dims: &[usize]| Tensor::zeros_f32(&device, dims).unwrap();
        let bias = zeros(&[2]);
        for (kernel, stride) in [(7, 4), (3, 5), (4, 0)] {
            let weight = zeros(&[2, 2, kernel]);
            assert!(ConvTranspose1dWeights::new(&device, &weight, &bias, stride).is_err());
        }
    }
}
