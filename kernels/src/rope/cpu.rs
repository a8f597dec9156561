//! `qk_norm_rope` on the CPU: blocks of rows.

use super::{Layout, QkNorm, RopeTable};
use crate::simd::{sum, vectorised};
use crate::{Cpu, Tensor};

/// Rows of one piece of work.
const BLOCK_ROWS: usize = 16;

pub(super) fn qk_norm_rope(
    cpu: &Cpu,
    x: &mut Tensor,
    heads: usize,
    norm: QkNorm<'_>,
    rope: Option<(&RopeTable, Layout)>,
) {
    let width = x.last_dim();
    cpu.for_each_chunk(x.f32s_mut(), BLOCK_ROWS * width, |block, rows| {
        vectorised(
            #[inline(always)]
            || {
                for (index, row) in rows.chunks_mut(width).enumerate() {
                    let group = if norm.per_head { width / heads } else { width };
                    row.chunks_mut(group).for_each(|part| normalise(part, norm));
                    if let Some((table, layout)) = rope {
                        rotate(
                            row,
                            width / heads,
                            table,
                            layout,
                            block * BLOCK_ROWS + index,
                        );
                    }
                }
            },
        );
    });
}

#[inline(always)]
fn normalise(part: &mut [f32], norm: QkNorm<'_>) {
    let factor = 1.0 / (sum(part, |v| v * v) / part.len() as f32 + norm.eps).sqrt();
    match norm.weight.tensor() {
        None => part.iter_mut().for_each(|v| *v *= factor),
        Some(weight) => {
            let offset = norm.weight.offset();
            part.iter_mut()
                .zip(weight.f32s())
                .for_each(|(v, w)| *v = *v * factor * (offset + w));
        }
    }
}

#[inline(always)]
fn rotate(row: &mut [f32], head_dim: usize, table: &RopeTable, layout: Layout, index: usize) {
    let columns = table.columns();
    let cos = &table.cos()[index * columns..][..columns];
    let sin = &table.sin()[index * columns..][..columns];
    match layout {
        Layout::Split => {
            let half = head_dim / 2;
            for (head, values) in row.chunks_mut(head_dim).enumerate() {
                let start = if columns == half { 0 } else { head * half };
                let (first, second) = values.split_at_mut(half);
                let angles = cos[start..start + half]
                    .iter()
                    .zip(&sin[start..start + half]);
                for ((a, b), (c, s)) in first.iter_mut().zip(second).zip(angles) {
                    (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                }
            }
        }
        Layout::Interleaved => {
            for ((pair, c), s) in row.chunks_exact_mut(2).zip(cos).zip(sin) {
                (pair[0], pair[1]) = (pair[0] * c - pair[1] * s, pair[1] * c + pair[0] * s);
            }
        }
    }
}
