//! `linear` on the CPU: blocks of rows, each one product and its epilogue. The size of a block
//! depends on the number of rows alone, never on the number of threads.

use super::Epilogue;
use crate::conv::{ConvWeights, product};
use crate::simd::{gelu_tanh, silu, vectorised};
use crate::{Cpu, Tensor};

/// Rows that a block has about: its part of the output stays in the second-level cache.
const BLOCK_ROWS: usize = 128;
/// Fewer rows than this are one block.
const SPLIT_ROWS_MIN: usize = 192;
/// Products smaller than this stay on one thread.
const PARALLEL_WORK_MIN: usize = 256 * 1024;

pub(super) fn linear(
    cpu: &Cpu,
    x: &Tensor,
    weight: &ConvWeights,
    bias: Option<&Tensor>,
    epilogue: Epilogue<'_>,
    y: &mut Tensor,
) {
    let (rows, inner, columns) = (x.row_count(), x.last_dim(), y.last_dim());
    let block_rows = block_rows(rows);
    cpu.count_product([rows, weight.out_channels(), inner]);
    let (x, bias) = (x.f32s(), bias.map(Tensor::f32s));
    let block = |index: usize, out: &mut [f32]| {
        let first = index * block_rows;
        let x = &x[first * inner..][..out.len() / columns * inner];
        compute_block(first, x, weight, bias, epilogue, out, columns);
    };
    if rows * inner * columns < PARALLEL_WORK_MIN {
        y.f32s_mut()
            .chunks_mut((block_rows * columns).max(1))
            .enumerate()
            .for_each(|(i, out)| block(i, out));
    } else {
        cpu.for_each_chunk(y.f32s_mut(), block_rows * columns, block);
    }
}

/// An even number of nearly equal blocks, so that two threads end together.
fn block_rows(rows: usize) -> usize {
    let blocks = match rows {
        0..SPLIT_ROWS_MIN => 1,
        _ => (rows / BLOCK_ROWS).next_multiple_of(2),
    };
    rows.div_ceil(blocks).next_multiple_of(8)
}

/// Rows `first..` of the output.
fn compute_block(
    first: usize,
    x: &[f32],
    weight: &ConvWeights,
    bias: Option<&[f32]>,
    epilogue: Epilogue<'_>,
    out: &mut [f32],
    columns: usize,
) {
    let begin = Some(bias.unwrap_or(weight.bias()));
    match epilogue {
        Epilogue::None => product(weight, x, begin, out),
        Epilogue::GeluTanh => {
            product(weight, x, begin, out);
            vectorised(
                #[inline(always)]
                || out.iter_mut().for_each(|z| *z = gelu_tanh(*z)),
            );
        }
        Epilogue::Silu => {
            product(weight, x, begin, out);
            vectorised(
                #[inline(always)]
                || out.iter_mut().for_each(|z| *z = silu(*z)),
            );
        }
        Epilogue::Residual => {
            for row in out.chunks_mut(columns) {
                let added = row.iter_mut().zip(bias.unwrap_or_default());
                added.for_each(|(y, b)| *y += b);
            }
            product(weight, x, None, out);
        }
        Epilogue::GatedResidual(gate) => {
            let mut scratch = vec![0.0; out.len()];
            product(weight, x, begin, &mut scratch);
            let rows = out.chunks_mut(columns).zip(scratch.chunks(columns));
            for (row, (out, z)) in rows.enumerate() {
                let gate = gate.row(first + row);
                out.iter_mut()
                    .zip(z)
                    .zip(gate)
                    .for_each(|((y, z), gate)| *y += gate * z);
            }
        }
        Epilogue::GegluTanh => {
            let mut scratch = vec![0.0; out.len() * 2];
            product(weight, x, begin, &mut scratch);
            vectorised(
                #[inline(always)]
                || {
                    for (out, z) in out.chunks_mut(columns).zip(scratch.chunks(columns * 2)) {
                        let (gate, up) = z.split_at(columns);
                        out.iter_mut()
                            .zip(gate)
                            .zip(up)
                            .for_each(|((y, g), u)| *y = gelu_tanh(*g) * u);
                    }
                },
            );
        }
    }
}
