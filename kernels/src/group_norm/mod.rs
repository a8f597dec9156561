//! `group_norm`: `y = silu?((x - mean) / sqrt(variance + eps) * weight + bias + residual)`, mean and
//! variance of each group of channels over all positions of a batch entry.
//!
//! x, y: F32 [batch, ..., channel]; weight, bias: F32 [channel]. Reads x twice, writes y once.
//! Sums run block after block in f64, so threads do not change a bit.

mod cpu;
pub mod cuda;

use crate::device::{Cuda, Device};
use crate::error::KernelError;
use crate::tensor::Tensor;

/// What follows the norm.
#[derive(Clone, Copy)]
pub struct GroupNorm<'a> {
    /// Groups that the channels are split into, in order.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Factor of each channel.
    pub weight: &'a Tensor,
    /// Added to each channel.
    pub bias: &'a Tensor,
    /// Added to the normed values, of the shape of `x`.
    pub residual: Option<&'a Tensor>,
    /// SiLU at the end.
    pub silu: bool,
}

/// Normalises `x` into `out`.
///
/// # Errors
/// [`KernelError::Shape`] and [`KernelError::DType`] for tensors that do not fit each other, or
/// channels that the groups do not divide.
pub fn group_norm(
    device: &Device,
    x: &Tensor,
    norm: GroupNorm<'_>,
    out: &mut Tensor,
) -> Result<(), KernelError> {
    const OP: &str = "group_norm";
    let channels = x.last_dim();
    x.expect_f32(OP, "x", x.dims())?;
    out.expect_f32(OP, "out", x.dims())?;
    norm.weight.expect_f32(OP, "weight", &[channels])?;
    norm.bias.expect_f32(OP, "bias", &[channels])?;
    if let Some(residual) = norm.residual {
        residual.expect_f32(OP, "residual", x.dims())?;
    }
    if norm.groups == 0 || !channels.is_multiple_of(norm.groups) {
        let expected = format!("channels divisible by {}", norm.groups);
        return Err(KernelError::shape(OP, "x", expected, x.dims()));
    }
    match device {
        Device::Cpu(cpu) => cpu::group_norm(cpu, x, norm, out),
        Device::Cuda(card) => return on_card(card, x, norm, out),
    }
    Ok(())
}

fn on_card(
    card: &Cuda,
    x: &Tensor,
    norm: GroupNorm<'_>,
    out: &mut Tensor,
) -> Result<(), KernelError> {
    let out = card.own(out)?;
    let residual = norm
        .residual
        .map(|residual| card.cast(residual, out.element()));
    let residual = residual.transpose()?;
    let on_device = cuda::DeviceGroupNorm {
        groups: norm.groups,
        eps: norm.eps,
        weight: &card.floats(norm.weight)?,
        bias: &card.floats(norm.bias)?,
        residual: residual.as_ref(),
        silu: norm.silu,
    };
    cuda::group_norm(card.gpu(), &card.cast(x, out.element())?, on_device, &out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, noise};

    fn run(threads: usize, residual: Option<&Tensor>, silu: bool) -> Tensor {
        let device = Device::cpu(threads).unwrap();
        let x = noise(1, &[2, 3, 29, 31, 6]);
        let (weight, bias) = (noise(2, &[6]), noise(3, &[6]));
        let norm = GroupNorm {
            groups: 3,
            eps: 1e-5,
            weight: &weight,
            bias: &bias,
            residual,
            silu,
        };
        let mut out = Tensor::zeros_f32(&device, x.dims()).unwrap();
        group_norm(&device, &x, norm, &mut out).unwrap();
        out
    }

    #[test]
    fn agrees_with_a_plain_loop_in_double_precision() {
        let dims = [2, 3, 29, 31, 6];
        let (x, residual) = (noise(1, &dims), noise(4, &dims));
        let (weight, bias) = (noise(2, &[6]), noise(3, &[6]));
        let entry = x.count() / 2;
        let of_group = |e: usize| {
            let (batch, group) = (e / entry, e % 6 / 2);
            let values = (batch * entry..(batch + 1) * entry).filter(move |e| e % 6 / 2 == group);
            values.map(|e| f64::from(x.f32s()[e]))
        };
        let moments: Vec<(f64, f64)> = (0..6)
            .map(|at| {
                let e = at / 3 * entry + at % 3 * 2;
                let count = (entry / 3) as f64;
                let mean = of_group(e).sum::<f64>() / count;
                let variance = of_group(e).map(|v| (v - mean).powi(2)).sum::<f64>() / count;
                (mean, variance)
            })
            .collect();
        let expected = |with: bool, silu: bool| -> Vec<f64> {
            let value = |e: usize| {
                let (mean, variance) = moments[e / entry * 3 + e % 6 / 2];
                let normed = (f64::from(x.f32s()[e]) - mean) / (variance + 1e-5).sqrt();
                let channel = e % 6;
                let mut y = normed * f64::from(weight.f32s()[channel]);
                y += f64::from(bias.f32s()[channel]);
                if with {
                    y += f64::from(residual.f32s()[e]);
                }
                if silu { y / (1.0 + (-y).exp()) } else { y }
            };
            (0..x.count()).map(value).collect()
        };
        assert_close(run(2, None, false).f32s(), &expected(false, false), 1e-6);
        let found = run(2, Some(&residual), true);
        assert_close(found.f32s(), &expected(true, true), 1e-6);
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let one = run(1, None, true);
        assert!(one.f32s() == run(2, None, true).f32s() && one.f32s() == run(3, None, true).f32s());
    }

    #[test]
    fn groups_that_do_not_divide_the_channels_are_refused() {
        let device = Device::cpu(1).unwrap();
        let (x, one) = (noise(1, &[1, 4, 6]), noise(2, &[6]));
        let norm = GroupNorm {
            groups: 4,
            eps: 1e-5,
            weight: &one,
            bias: &one,
            residual: None,
            silu: false,
        };
        let mut out = Tensor::zeros_f32(&device, x.dims()).unwrap();
        assert!(group_norm(&device, &x, norm, &mut out).is_err());
        let norm = GroupNorm { groups: 0, ..norm };
        assert!(group_norm(&device, &x, norm, &mut out).is_err());
    }
}
