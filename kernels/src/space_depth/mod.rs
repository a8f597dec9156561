//! `depth_to_space` and `space_to_depth`: channels become frames, rows and columns, and back.
//!
//! With strides (st,sh,sw) and p = st*sh*sw, channel `((c*st + a)*sh + i)*sw + j` of position
//! (t,h,w) is channel c of position (t*st + a, h*sh + i, w*sw + j). A causal network counts its
//! first frame once, so expanding a clip's beginning drops the first st-1 frames and gathering
//! repeats them.
//! F32 [batch, time, height, width, channel]; every value is read and written once.

pub mod cuda;

use crate::device::{Cpu, Device};
use crate::error::KernelError;
use crate::tensor::Tensor;

/// Factors in (time, height, width).
pub type Strides = [usize; 3];

/// What happens to the output's old values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// They are replaced.
    Set,
    /// The new values are added to them.
    Add,
}

/// Expands `x` [b, t, h, w, c*p] into `out` [b, t*st-(st-1), h*sh, w*sw, k*c], or [b, t*st, ..] when
/// frames were expanded before these: when the output has k times the channels that there are, they
/// are repeated (the residual of an upsampler).
///
/// # Errors
/// [`KernelError::Shape`] and [`KernelError::DType`] for tensors that do not fit each other.
pub fn depth_to_space(
    device: &Device,
    x: &Tensor,
    strides: Strides,
    write: Write,
    out: &mut Tensor,
) -> Result<(), KernelError> {
    const OP: &str = "depth_to_space";
    let x_dims: [usize; 5] = x.expect_rank(OP, "x")?;
    let [b, t, h, w, channels] = x_dims;
    let [st, sh, sw] = strides;
    let depth = channels.checked_div(st * sh * sw).unwrap_or(0);
    if depth * st * sh * sw != channels || channels == 0 || t == 0 {
        let expected = format!("channels divisible by {strides:?}");
        return Err(KernelError::shape(OP, "x", expected, x_dims));
    }
    let out_channels = out.last_dim();
    let begins = out.dims().get(1) != Some(&(t * st));
    let out_time = if begins { t * st - (st - 1) } else { t * st };
    let out_dims = [b, out_time, h * sh, w * sw, out_channels];
    out.expect_f32(OP, "out", &out_dims)?;
    if !out_channels.is_multiple_of(depth) {
        let expected = format!("channels that are a multiple of {depth}");
        return Err(KernelError::shape(OP, "out", expected, out_dims));
    }
    if out.count() > 0 {
        let cpu = match device {
            Device::Cpu(cpu) => cpu,
            Device::Cuda(card) => {
                let out = card.own(out)?;
                let x = card.cast(x, out.element())?;
                return cuda::depth_to_space(card.gpu(), &x, strides, write, &out);
            }
        };
        expand(
            cpu,
            x.f32s(),
            x_dims,
            strides,
            write,
            out_dims,
            out.f32s_mut(),
        );
    }
    Ok(())
}

fn expand(
    cpu: &Cpu,
    x: &[f32],
    [_, time, height, width, channels]: [usize; 5],
    [st, sh, sw]: Strides,
    write: Write,
    [_, out_time, out_h, out_w, out_channels]: [usize; 5],
    out: &mut [f32],
) {
    let positions = st * sh * sw;
    let depth = channels / positions;
    cpu.for_each_chunk(out, out_w * out_channels, |index, row| {
        let (frame, y) = (index / out_h, index % out_h);
        let (batch, t) = (frame / out_time, frame % out_time + time * st - out_time);
        let start = ((batch * time + t / st) * height + y / sh) * width * channels;
        for (z, pixel) in row.chunks_exact_mut(out_channels).enumerate() {
            let position = ((t % st) * sh + y % sh) * sw + z % sw;
            let source = &x[start + z / sw * channels + position..];
            for copy in pixel.chunks_exact_mut(depth) {
                let values = source.iter().step_by(positions);
                match write {
                    Write::Set => copy.iter_mut().zip(values).for_each(|(out, x)| *out = *x),
                    Write::Add => copy.iter_mut().zip(values).for_each(|(out, x)| *out += *x),
                }
            }
        }
    });
}

/// Gathers `x` [b, t, h, w, c] into `out` [b, (t+st-1)/st, h/sh, w/sw, c*p/g]: when the output has
/// fewer channels, each is the mean of g that follow each other (the residual of a downsampler).
///
/// # Errors
/// [`KernelError::Shape`] and [`KernelError::DType`] for tensors that do not fit each other.
pub fn space_to_depth(
    device: &Device,
    x: &Tensor,
    strides: Strides,
    write: Write,
    out: &mut Tensor,
) -> Result<(), KernelError> {
    const OP: &str = "space_to_depth";
    let x_dims: [usize; 5] = x.expect_rank(OP, "x")?;
    let [b, t, h, w, channels] = x_dims;
    let [st, sh, sw] = strides;
    let fits = st * sh * sw > 0 && (t + st - 1) % st == 0 && h % sh == 0 && w % sw == 0;
    if !fits || x.count() == 0 {
        let expected = format!("time, height and width divisible by {strides:?}");
        return Err(KernelError::shape(OP, "x", expected, x_dims));
    }
    let out_channels = out.last_dim();
    let out_dims = [b, t.div_ceil(st), h / sh, w / sw, out_channels];
    out.expect_f32(OP, "out", &out_dims)?;
    if out_channels == 0 || channels * st * sh * sw % out_channels != 0 {
        let expected = format!("channels that divide {}", channels * st * sh * sw);
        return Err(KernelError::shape(OP, "out", expected, out_dims));
    }
    let cpu = match device {
        Device::Cpu(cpu) => cpu,
        Device::Cuda(card) => {
            let out = card.own(out)?;
            let x = card.cast(x, out.element())?;
            return cuda::space_to_depth(card.gpu(), &x, strides, write, &out);
        }
    };
    gather(
        cpu,
        x.f32s(),
        x_dims,
        strides,
        write,
        out_dims,
        out.f32s_mut(),
    );
    Ok(())
}

fn gather(
    cpu: &Cpu,
    x: &[f32],
    [_, time, height, width, channels]: [usize; 5],
    [st, sh, sw]: Strides,
    write: Write,
    [_, out_time, out_h, out_w, out_channels]: [usize; 5],
    out: &mut [f32],
) {
    let positions = st * sh * sw;
    let group = channels * positions / out_channels;
    cpu.for_each_chunk(out, out_w * out_channels, |index, row| {
        let (frame, y) = (index / out_h, index % out_h);
        let (batch, t) = (frame / out_time, frame % out_time * st);
        let source = |z: usize, channel: usize| {
            let (c, position) = (channel / positions, channel % positions);
            let (a, i, j) = (position / (sh * sw), position / sw % sh, position % sw);
            let t = if t + a < st - 1 {
                t + a
            } else {
                t + a - (st - 1)
            };
            let pixel = ((batch * time + t) * height + y * sh + i) * width + z * sw + j;
            x[pixel * channels + c]
        };
        for (z, pixel) in row.chunks_exact_mut(out_channels).enumerate() {
            for (channel, out) in pixel.iter_mut().enumerate() {
                let members = channel * group..(channel + 1) * group;
                let mean = members.map(|channel| source(z, channel)).sum::<f32>() / group as f32;
                match write {
                    Write::Set => *out = mean,
                    Write::Add => *out += mean,
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

    fn zeros(dims: &[usize]) -> Tensor {
        Tensor::zeros_f32(&Device::cpu(1).unwrap(), dims).unwrap()
    }

    #[test]
    fn every_value_goes_where_the_formula_says() {
        let device = Device::cpu(2).unwrap();
        for [st, sh, sw] in [[1, 2, 2], [2, 1, 1], [2, 2, 2], [1, 1, 1]] {
            let p = st * sh * sw;
            let (b, t, h, w, c) = (2, 3, 2, 3, 5);
            let x = noise(1, &[b, t, h, w, c * p]);
            let (big_t, big_h, big_w) = (t * st - (st - 1), h * sh, w * sw);
            let mut big = zeros(&[b, big_t, big_h, big_w, c]);
            depth_to_space(&device, &x, [st, sh, sw], Write::Set, &mut big).unwrap();
            for at in 0..x.count() {
                let (pixel, channel) = (at / (c * p), at % (c * p));
                let (c0, a, i, j) = (
                    channel / p,
                    channel % p / (sh * sw),
                    channel % p / sw % sh,
                    channel % sw,
                );
                let (b0, t0, h0, w0) = (
                    pixel / (t * h * w),
                    pixel / (h * w) % t,
                    pixel / w % h,
                    pixel % w,
                );
                let Some(frame) = (t0 * st + a).checked_sub(st - 1) else {
                    continue;
                };
                let place = ((b0 * big_t + frame) * big_h + h0 * sh + i) * big_w + w0 * sw + j;
                assert_eq!(big.f32s()[place * c + c0], x.f32s()[at]);
            }
        }
    }

    #[test]
    fn gathering_undoes_expanding_and_repeats_the_first_frame() {
        let device = Device::cpu(2).unwrap();
        let big = noise(2, &[1, 5, 4, 6, 3]);
        let mut small = zeros(&[1, 3, 2, 3, 24]);
        space_to_depth(&device, &big, [2, 2, 2], Write::Set, &mut small).unwrap();
        let mut again = zeros(big.dims());
        depth_to_space(&device, &small, [2, 2, 2], Write::Set, &mut again).unwrap();
        assert_eq!(again.f32s(), big.f32s());
        // Channel 0 is (c 0, a 0), channel 4 is (c 0, a 1): the first frame twice.
        assert_eq!(small.f32s()[0], small.f32s()[4]);
    }

    #[test]
    fn residuals_repeat_channels_and_average_groups() {
        let device = Device::cpu(1).unwrap();
        let x = noise(3, &[1, 2, 1, 1, 4]);
        let mut out = zeros(&[1, 3, 1, 1, 4]);
        out.f32s_mut().fill(1.0);
        depth_to_space(&device, &x, [2, 1, 1], Write::Add, &mut out).unwrap();
        let expected = [1, 3, 4, 6, 5, 7].map(|at| 1.0 + x.f32s()[at]);
        assert_eq!(out.f32s()[..2], expected[..2]);
        assert_eq!(out.f32s()[2..4], expected[..2]);
        assert_eq!(out.f32s()[4..6], expected[2..4]);

        let mut mean = zeros(&[1, 1, 1, 1, 2]);
        let y = noise(4, &[1, 1, 2, 2, 1]);
        space_to_depth(&device, &y, [1, 2, 2], Write::Add, &mut mean).unwrap();
        let v = y.f32s();
        assert_eq!(mean.f32s(), [(v[0] + v[1]) / 2.0, (v[2] + v[3]) / 2.0]);
    }

    #[test]
    fn sizes_that_do_not_divide_are_refused() {
        let device = Device::cpu(1).unwrap();
        let set = Write::Set;
        let mut out = zeros(&[1, 3, 4, 4, 1]);
        assert!(
            depth_to_space(&device, &zeros(&[1, 2, 2, 2, 9]), [2, 2, 2], set, &mut out).is_err()
        );
        assert!(
            depth_to_space(&device, &zeros(&[1, 2, 2, 3, 8]), [2, 2, 2], set, &mut out).is_err()
        );
        let mut out = zeros(&[1, 2, 2, 2, 8]);
        assert!(
            space_to_depth(&device, &zeros(&[1, 4, 4, 4, 1]), [2, 2, 2], set, &mut out).is_err()
        );
        assert!(
            space_to_depth(&device, &zeros(&[1, 3, 4, 5, 1]), [2, 2, 2], set, &mut out).is_err()
        );
    }
}
