//! CPU twin of `group_norm`: sums of blocks of positions, then scale and shift of each channel.

use super::GroupNorm;
use crate::device::Cpu;
use crate::simd;
use crate::tensor::Tensor;

/// Positions of one piece of work.
const BLOCK: usize = 256;

/// Sum and sum of squares of one channel.
type Sums = (f64, f64);

pub(super) fn group_norm(cpu: &Cpu, x: &Tensor, norm: GroupNorm<'_>, out: &mut Tensor) {
    let (channels, batch) = (x.last_dim(), x.dims()[0]);
    if x.count() == 0 {
        return;
    }
    let entry = x.count() / batch;
    for number in 0..batch {
        let range = number * entry..(number + 1) * entry;
        let x = &x.f32s()[range.clone()];
        let affine = affine(&channel_sums(cpu, x, channels), x.len(), norm);
        let residual = norm.residual.map(|r| &r.f32s()[range.clone()]);
        cpu.for_each_chunk(
            &mut out.f32s_mut()[range],
            BLOCK * channels,
            |index, out| {
                let first = index * BLOCK * channels;
                for (at, y) in out.iter_mut().enumerate() {
                    let (scale, shift) = affine[at % channels];
                    let mut value = x[first + at] * scale + shift;
                    if let Some(residual) = residual {
                        value += residual[first + at];
                    }
                    *y = if norm.silu { simd::silu(value) } else { value };
                }
            },
        );
    }
}

/// Sums over all positions of each channel, blocks added in order.
fn channel_sums(cpu: &Cpu, x: &[f32], channels: usize) -> Vec<Sums> {
    let blocks = x.len().div_ceil(BLOCK * channels);
    let mut partial: Vec<Sums> = vec![(0.0, 0.0); blocks * channels];
    cpu.for_each_chunk(&mut partial, channels, |block, sums| {
        let values = &x[block * BLOCK * channels..];
        let rows = values[..values.len().min(BLOCK * channels)].chunks_exact(channels);
        for row in rows {
            for (sum, value) in sums.iter_mut().zip(row) {
                let value = f64::from(*value);
                *sum = (sum.0 + value, sum.1 + value * value);
            }
        }
    });
    let mut total: Vec<Sums> = vec![(0.0, 0.0); channels];
    for block in partial.chunks_exact(channels) {
        for (total, sum) in total.iter_mut().zip(block) {
            *total = (total.0 + sum.0, total.1 + sum.1);
        }
    }
    total
}

/// Scale and shift of each channel that stand for norm, weight and bias.
fn affine(sums: &[Sums], values: usize, norm: GroupNorm<'_>) -> Vec<(f32, f32)> {
    let width = sums.len() / norm.groups;
    let count = (values / norm.groups) as f64;
    let groups = sums.chunks_exact(width).enumerate();
    groups
        .flat_map(|(group, sums)| {
            let (sum, squares) = sums
                .iter()
                .fold((0.0, 0.0), |all, one| (all.0 + one.0, all.1 + one.1));
            let mean = sum / count;
            let variance = (squares / count - mean * mean).max(0.0);
            let factor = 1.0 / (variance + f64::from(norm.eps)).sqrt();
            (group * width..(group + 1) * width).map(move |channel| {
                let scale = factor * f64::from(norm.weight.f32s()[channel]);
                let shift = f64::from(norm.bias.f32s()[channel]) - mean * scale;
                (scale as f32, shift as f32)
            })
        })
        .collect()
}
