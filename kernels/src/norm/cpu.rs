//! `norm_modulate` on the CPU: blocks of rows, sums in sixteen fixed lanes.

use super::{Modulation, Norm, Weight};
use crate::simd::{sum, vectorised};
use crate::{Cpu, Tensor};

/// Rows of one piece of work.
const BLOCK_ROWS: usize = 16;

pub(super) fn norm_modulate(
    cpu: &Cpu,
    x: &Tensor,
    norm: Norm,
    weight: Weight<'_>,
    modulation: Option<Modulation<'_>>,
    y: &mut Tensor,
) {
    let width = x.last_dim();
    if width == 0 {
        return;
    }
    let x = x.f32s();
    let (offset, weight) = (weight.offset(), weight.tensor().map(Tensor::f32s));
    cpu.for_each_chunk(y.f32s_mut(), BLOCK_ROWS * width, |block, out| {
        vectorised(
            #[inline(always)]
            || {
                let first = block * BLOCK_ROWS;
                for (row, out) in out.chunks_mut(width).enumerate() {
                    normalise(&x[(first + row) * width..][..width], norm, out);
                    if let Some(weight) = weight {
                        out.iter_mut()
                            .zip(weight)
                            .for_each(|(y, w)| *y *= offset + w);
                    }
                    if let Some(Modulation { shift, scale }) = modulation {
                        let (shift, scale) = (shift.row(first + row), scale.row(first + row));
                        for ((y, shift), scale) in out.iter_mut().zip(shift).zip(scale) {
                            *y = *y * (1.0 + scale) + shift;
                        }
                    }
                }
            },
        );
    });
}

#[inline(always)]
fn normalise(x: &[f32], norm: Norm, out: &mut [f32]) {
    let count = x.len() as f32;
    let (mean, factor) = match norm {
        Norm::None => (0.0, 1.0),
        Norm::Rms { eps } => (0.0, 1.0 / (sum(x, |v| v * v) / count + eps).sqrt()),
        Norm::Layer { eps } => {
            let mean = sum(x, |v| v) / count;
            (
                mean,
                1.0 / (sum(x, |v| (v - mean) * (v - mean)) / count + eps).sqrt(),
            )
        }
    };
    out.iter_mut()
        .zip(x)
        .for_each(|(y, v)| *y = (v - mean) * factor);
}
