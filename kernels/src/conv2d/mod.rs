//! `conv2d`: convolution of pictures with zero padding given per side.
//!
//! `y[b,h,w] = bias + residual[b,h,w] + sum of pre(x)[b, h*stride + j - top, w*stride + k - left] * weight`
//!
//! x: F32 [batch, height, width, channel]; the audio VAE's height is time. Reads x once into a
//! padded copy (with the prologue done), writes y once.

use crate::conv::card::convolve_on_card;
use crate::conv::cuda::Geometry;
use crate::conv::{Border, ConvWeights, Core, Prologue, SpacePad, convolve, padded};
use crate::conv3d::TimePad;
use crate::device::{Cpu, Device};
use crate::error::KernelError;
use crate::tensor::Tensor;

/// Zero padding, stride and what comes before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conv2dOptions {
    /// Rows of zeros above; a causal convolution has all of its padding here.
    pub top: usize,
    /// Rows of zeros below.
    pub bottom: usize,
    /// Columns of zeros on the left.
    pub left: usize,
    /// Columns of zeros on the right.
    pub right: usize,
    /// Input pixels between neighbouring output pixels, in both directions.
    pub stride: usize,
    /// What is done to x first.
    pub prologue: Prologue,
}

impl Conv2dOptions {
    /// Height and width of the output for an input of `height` x `width`; none when the padded
    /// input is smaller than the kernel or the stride is 0.
    pub fn out_size(
        &self,
        weights: &ConvWeights,
        height: usize,
        width: usize,
    ) -> Option<[usize; 2]> {
        let [_, kernel_h, kernel_w] = weights.kernel();
        let size =
            |padded: usize, kernel| Some(padded.checked_sub(kernel)?.checked_div(self.stride)? + 1);
        let rows = size(height + self.top + self.bottom, kernel_h)?;
        Some([rows, size(width + self.left + self.right, kernel_w)?])
    }
}

/// Convolves `x` into `out`, adding `residual` (of the shape of `out`) when given.
///
/// # Errors
/// [`KernelError::Shape`] and [`KernelError::DType`] for tensors that do not fit each other, the
/// kernel or the padding.
pub fn conv2d(
    device: &Device,
    x: &Tensor,
    weights: &ConvWeights,
    options: Conv2dOptions,
    residual: Option<&Tensor>,
    out: &mut Tensor,
) -> Result<(), KernelError> {
    const OP: &str = "conv2d";
    let dims: [usize; 4] = x.expect_rank(OP, "x")?;
    let [batch, height, width, channels] = dims;
    let size = options.out_size(weights, height, width);
    let (Some([out_h, out_w]), true, true) = (
        size,
        channels == weights.in_channels(),
        weights.kernel()[0] == 1,
    ) else {
        let expected = format!(
            "{} channels under a kernel {:?}",
            weights.in_channels(),
            weights.kernel()
        );
        return Err(KernelError::shape(OP, "x", expected, dims));
    };
    let out_dims = [batch, out_h, out_w, weights.out_channels()];
    out.expect_f32(OP, "out", &out_dims)?;
    if let Some(residual) = residual {
        residual.expect_f32(OP, "residual", &out_dims)?;
    }
    if out.count() > 0 {
        if let Device::Cuda(card) = device {
            let geometry = Geometry {
                stride: [1, options.stride, options.stride],
                dilation: 1,
                before: [0, options.top, options.left],
                out: [1, out_h, out_w],
                time: TimePad::Zero,
                space: SpacePad::Zero,
            };
            let x = (x, [batch, 1, height, width, channels]);
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
            [out_h, out_w],
            residual,
            out.f32s_mut(),
        );
    }
    Ok(())
}

#[expect(
    clippy::too_many_arguments,
    reason = "the op's arguments, checked, and what they imply"
)]
fn on_cpu(
    cpu: &Cpu,
    x: &[f32],
    [_, height, width, channels]: [usize; 4],
    weights: &ConvWeights,
    options: Conv2dOptions,
    [out_h, out_w]: [usize; 2],
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    let Conv2dOptions {
        top,
        bottom,
        left,
        right,
        stride,
        prologue,
    } = options;
    let [_, kernel_h, kernel_w] = weights.kernel();
    let border = Border {
        top,
        bottom,
        left,
        right,
        mode: SpacePad::Zero,
    };
    let source = padded(cpu, x, [height, width, channels], border, prologue);
    let pitch = (width + left + right) * channels;
    let core = Core {
        weights,
        row_pixels: out_w,
        step: stride * channels,
        taps: kernel_h,
        run: kernel_w * channels,
    };
    let tap_start = |row: usize, tap: usize| {
        let (image, y) = (row / out_h, row % out_h);
        Some((image * (height + top + bottom) + y * stride + tap) * pitch)
    };
    convolve(cpu, &source, core, tap_start, residual, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count)
            .map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0)
            .collect()
    }

    /// The formula of the contract for prologue none.
    fn plain(
        x: &Tensor,
        weight: &Tensor,
        bias: &[f32],
        options: Conv2dOptions,
        at: [usize; 4],
    ) -> f64 {
        let [_, height, width, inner]: [usize; 4] = x.dims().try_into().unwrap();
        let [_, _, kh, kw]: [usize; 4] = weight.dims().try_into().unwrap();
        let [b, y, z, o] = at;
        let mut sum = f64::from(bias[o]);
        for tap in 0..kh * kw {
            let row = (y * options.stride + tap / kw).checked_sub(options.top);
            let column = (z * options.stride + tap % kw).checked_sub(options.left);
            let (Some(row), Some(column)) = (row, column) else {
                continue;
            };
            if row >= height || column >= width {
                continue;
            }
            for c in 0..inner {
                let x = x.f32s()[((b * height + row) * width + column) * inner + c];
                let w = weight.f32s()[(o * inner + c) * kh * kw + tap];
                sum += f64::from(x) * f64::from(w);
            }
        }
        sum
    }

    fn check(dims: [usize; 4], outer: usize, kernel: [usize; 2], options: Conv2dOptions) {
        let device = Device::cpu(2).unwrap();
        let tensor = |dims: &[usize], seed| {
            Tensor::from_f32(&device, dims, values(dims.iter().product(), seed)).unwrap()
        };
        let x = tensor(&dims, 1);
        let weight = tensor(&[outer, dims[3], kernel[0], kernel[1]], 2);
        let bias = tensor(&[outer], 3);
        let weights = ConvWeights::new(&device, &weight, Some(&bias)).unwrap();
        let [out_h, out_w] = options.out_size(&weights, dims[1], dims[2]).unwrap();
        let mut out = tensor(&[dims[0], out_h, out_w, outer], 4);
        conv2d(&device, &x, &weights, options, None, &mut out).unwrap();
        for (index, found) in out.f32s().iter().enumerate() {
            let (o, w) = (index % outer, index / outer % out_w);
            let (h, b) = (
                index / (outer * out_w) % out_h,
                index / (outer * out_w * out_h),
            );
            let expected = plain(&x, &weight, bias.f32s(), options, [b, h, w, o]);
            assert!(
                (f64::from(*found) - expected).abs() < 2e-4,
                "{dims:?} {index}: {found} {expected}"
            );
        }
    }

    const CAUSAL: Conv2dOptions = Conv2dOptions {
        top: 2,
        bottom: 0,
        left: 1,
        right: 1,
        stride: 1,
        prologue: Prologue::None,
    };

    #[test]
    fn paddings_and_strides_agree_with_plain_loops() {
        check([2, 5, 7, 3], 9, [3, 3], CAUSAL);
        check([1, 1, 1, 1], 1, [3, 3], CAUSAL);
        check(
            [1, 4, 16, 32],
            32,
            [1, 1],
            Conv2dOptions {
                top: 0,
                left: 0,
                right: 0,
                ..CAUSAL
            },
        );
        for height in 1..6 {
            let half = Conv2dOptions {
                left: 0,
                stride: 2,
                ..CAUSAL
            };
            check([1, height, 8, 5], 12, [3, 3], half);
        }
    }

    #[test]
    fn an_input_smaller_than_the_kernel_is_refused() {
        let device = Device::cpu(1).unwrap();
        let zeros = |dims: &[usize]| Tensor::zeros_f32(&device, dims).unwrap();
        let weights = ConvWeights::new(&device, &zeros(&[1, 1, 5, 5]), None).unwrap();
        let (x, mut out) = (zeros(&[1, 2, 9, 1]), zeros(&[1, 1, 1, 1]));
        assert!(conv2d(&device, &x, &weights, CAUSAL, None, &mut out).is_err());
        let stuck = Conv2dOptions {
            stride: 0,
            ..CAUSAL
        };
        assert!(
            conv2d(
                &device,
                &zeros(&[1, 9, 9, 1]),
                &weights,
                stuck,
                None,
                &mut out
            )
            .is_err()
        );
    }
}
