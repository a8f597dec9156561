//! `linear` on the CPU: blocks of rows, each one GEMM and its epilogue. The size of a block
//! depends on the number of rows alone, never on the number of threads.

use gemm::Parallelism;

use super::Epilogue;
use crate::matmul::{Strided, matmul};
use crate::simd::{gelu_tanh, silu, vectorised};
use crate::{Cpu, Tensor};

/// Rows that a block has about: fewer would pack the weights more often than it pays.
const BLOCK_ROWS: usize = 128;
/// Fewer rows than this are one block.
const SPLIT_ROWS_MIN: usize = 192;
/// Products smaller than this stay on one thread.
const PARALLEL_WORK_MIN: usize = 256 * 1024;

pub(super) fn linear(
    cpu: &Cpu,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue<'_>,
    y: &mut Tensor,
) {
    let (rows, inner, columns) = (x.row_count(), x.last_dim(), y.last_dim());
    let block_rows = block_rows(rows);
    let (x, weight, bias) = (x.f32s(), weight.f32s(), bias.map(Tensor::f32s));
    let block = |index: usize, out: &mut [f32]| {
        let first = index * block_rows;
        let x = &x[first * inner..][..out.len() / columns * inner];
        compute_block(first, x, inner, weight, bias, epilogue, out, columns);
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
#[expect(
    clippy::too_many_arguments,
    reason = "one call site; a struct would only rename them"
)]
fn compute_block(
    first: usize,
    x: &[f32],
    inner: usize,
    weight: &[f32],
    bias: Option<&[f32]>,
    epilogue: Epilogue<'_>,
    out: &mut [f32],
    columns: usize,
) {
    match epilogue {
        Epilogue::None => product(x, inner, weight, bias, out, columns, false),
        Epilogue::GeluTanh => {
            product(x, inner, weight, bias, out, columns, false);
            vectorised(
                #[inline(always)]
                || out.iter_mut().for_each(|z| *z = gelu_tanh(*z)),
            );
        }
        Epilogue::Silu => {
            product(x, inner, weight, bias, out, columns, false);
            vectorised(
                #[inline(always)]
                || out.iter_mut().for_each(|z| *z = silu(*z)),
            );
        }
        Epilogue::Residual => product(x, inner, weight, bias, out, columns, true),
        Epilogue::GatedResidual(gate) => {
            let mut scratch = vec![0.0; out.len()];
            product(x, inner, weight, bias, &mut scratch, columns, false);
            for (row, (out, z)) in out
                .chunks_mut(columns)
                .zip(scratch.chunks(columns))
                .enumerate()
            {
                let gate = gate.row(first + row);
                out.iter_mut()
                    .zip(z)
                    .zip(gate)
                    .for_each(|((y, z), gate)| *y += gate * z);
            }
        }
        Epilogue::GegluTanh => {
            let mut scratch = vec![0.0; out.len() * 2];
            product(x, inner, weight, None, &mut scratch, columns * 2, false);
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

/// out = (keep ? out : 0) + x W^T + bias.
fn product(
    x: &[f32],
    inner: usize,
    weight: &[f32],
    bias: Option<&[f32]>,
    out: &mut [f32],
    columns: usize,
    keep: bool,
) {
    if let Some(bias) = bias {
        for row in out.chunks_mut(columns) {
            if keep {
                row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            } else {
                row.copy_from_slice(bias);
            }
        }
    }
    let rows = out.len() / columns;
    let (left, right) = (Strided::rows(x, inner), Strided::transposed(weight, inner));
    let keep = keep || bias.is_some();
    matmul(
        (rows, columns, inner),
        out,
        columns,
        keep,
        left,
        right,
        Parallelism::None,
    );
}
