//! `conv3d`: convolution over time, rows and columns with an output as large as the input, or
//! shorter by the frames around it that the input brings itself.
//!
//! `y[b,t,h,w] = bias + residual[b,t,h,w] + sum over kernel of pre(x)[b,t+i,h+j,w+k] * weight`
//!
//! x: F32 [batch, time, height, width, channel], kernel sizes odd, stride 1. Reads x once into a
//! padded copy (with the prologue done), writes y once. 2 * positions * kernel * in * out FLOP.

use crate::conv::card::convolve_on_card;
use crate::conv::cuda::Geometry;
use crate::conv::{Border, ConvWeights, Core, Prologue, SpacePad, convolve, padded};
use crate::device::{Cpu, Device};
use crate::error::KernelError;
use crate::tensor::Tensor;

/// Frames before the first and after the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimePad {
    /// All padding before the first frame, as copies of it.
    Causal,
    /// Half of the padding on each side, as copies of the first and of the last frame.
    Copies,
    /// Half of the padding on each side, as zeros.
    Zero,
    /// None: x has the frames before and after, and the output is kernel - 1 frames shorter.
    Given,
}

/// How a convolution treats its borders and what comes before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conv3dOptions {
    /// Padding in time.
    pub time: TimePad,
    /// Padding of rows and columns.
    pub space: SpacePad,
    /// What is done to x first.
    pub prologue: Prologue,
}

/// Convolves `x` into `out`, adding `residual` (of the shape of `out`) when given.
///
/// # Errors
/// [`KernelError::Shape`] and [`KernelError::DType`] for tensors that do not fit each other, fewer
/// given frames than the kernel has among them;
/// [`KernelError::Unsupported`] for an even kernel size, or a picture too small to be reflected.
pub fn conv3d(
    device: &Device,
    x: &Tensor,
    weights: &ConvWeights,
    options: Conv3dOptions,
    residual: Option<&Tensor>,
    out: &mut Tensor,
) -> Result<(), KernelError> {
    const OP: &str = "conv3d";
    let dims: [usize; 5] = x.expect_rank(OP, "x")?;
    let [batch, time, height, width, channels] = dims;
    if channels != weights.in_channels() {
        let expected = format!("{} channels", weights.in_channels());
        return Err(KernelError::shape(OP, "x", expected, dims));
    }
    let [kernel_t, kernel_h, kernel_w] = weights.kernel();
    let given = match options.time {
        TimePad::Given => kernel_t - 1,
        _ => 0,
    };
    let Some(out_time) = time.checked_sub(given) else {
        let expected = format!("at least {kernel_t} frames");
        return Err(KernelError::shape(OP, "x", expected, dims));
    };
    let out_dims = [batch, out_time, height, width, weights.out_channels()];
    out.expect_f32(OP, "out", &out_dims)?;
    if let Some(residual) = residual {
        residual.expect_f32(OP, "residual", &out_dims)?;
    }
    if weights.kernel().iter().any(|size| size % 2 == 0) {
        return Err(KernelError::unsupported(
            OP,
            format!("kernel {:?}", weights.kernel()),
        ));
    }
    if options.space == SpacePad::Reflect && (kernel_h / 2 >= height || kernel_w / 2 >= width) {
        let why = format!("reflection of {height} x {width} pixels");
        return Err(KernelError::unsupported(OP, why));
    }
    if out.count() > 0 {
        if let Device::Cuda(card) = device {
            let before_t = match options.time {
                TimePad::Given => 0,
                TimePad::Causal => kernel_t - 1,
                TimePad::Copies | TimePad::Zero => kernel_t / 2,
            };
            let geometry = Geometry {
                stride: [1; 3],
                dilation: 1,
                before: [before_t, kernel_h / 2, kernel_w / 2],
                out: [out_time, height, width],
                time: options.time,
                space: options.space,
            };
            let (x, prologue) = ((x, dims), options.prologue);
            return convolve_on_card(card, x, weights, prologue, geometry, residual, out);
        }
        let residual = residual.map(Tensor::f32s);
        let (cpu, out) = (device.host(), out.f32s_mut());
        on_cpu(cpu, x.f32s(), dims, weights, options, residual, out);
    }
    Ok(())
}

fn on_cpu(
    cpu: &Cpu,
    x: &[f32],
    [_, time, height, width, channels]: [usize; 5],
    weights: &ConvWeights,
    options: Conv3dOptions,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    let [kernel_t, kernel_h, kernel_w] = weights.kernel();
    let (rows, columns) = (kernel_h / 2, kernel_w / 2);
    let border = Border {
        top: rows,
        bottom: rows,
        left: columns,
        right: columns,
        mode: options.space,
    };
    let copy;
    let source = if weights.kernel() == [1; 3] && options.prologue == Prologue::None {
        x
    } else {
        copy = padded(cpu, x, [height, width, channels], border, options.prologue);
        &copy
    };
    let pitch = (width + 2 * columns) * channels;
    let image = (height + 2 * rows) * pitch;
    let out_time = match options.time {
        TimePad::Given => time + 1 - kernel_t,
        _ => time,
    };
    let core = Core {
        weights,
        row_pixels: width,
        step: channels,
        taps: kernel_t * kernel_h,
        run: kernel_w * channels,
    };
    let tap_start = |row: usize, tap: usize| {
        let (frame, y) = (row / height, row % height);
        let (batch, t) = (frame / out_time, frame % out_time);
        let t = source_frame(options.time, kernel_t, t + tap / kernel_h, time)?;
        Some((batch * time + t) * image + (y + tap % kernel_h) * pitch)
    };
    convolve(cpu, source, core, tap_start, residual, out);
}

/// The frame that lies under kernel position `at` = output frame + tap, or none where it is zero.
fn source_frame(pad: TimePad, kernel_t: usize, at: usize, time: usize) -> Option<usize> {
    let before = match pad {
        TimePad::Causal => kernel_t - 1,
        TimePad::Copies | TimePad::Zero => kernel_t / 2,
        TimePad::Given => 0,
    };
    if pad == TimePad::Zero && (at < before || at - before >= time) {
        return None;
    }
    Some(at.saturating_sub(before).min(time - 1))
}

#[cfg(test)]
mod tests;
