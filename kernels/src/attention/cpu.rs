//! `attention` on the CPU: for each block of queries and each head, online softmax over blocks of
//! keys with a GEMM for both products.

use std::ops::Range;

use gemm::Parallelism;

use super::{Heads, Mask};
use crate::matmul::{Strided, matmul};
use crate::simd::{exp, max, sum, vectorised};
use crate::{Cpu, Tensor};

const QUERY_BLOCK: usize = 64;
const KEY_BLOCK: usize = 128;
/// Score of a key that a query may not see; finite, so that no difference is NaN.
const HIDDEN: f32 = -1e30;

/// Everything that a block of queries reads.
struct Inputs<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    heads: Heads,
    mask: Mask<'a>,
    keys: usize,
    /// Width of a head.
    d: usize,
}

/// Running state of one head over a block of queries.
struct State {
    scores: Vec<f32>,
    sums: Vec<f32>,
    maxima: Vec<f32>,
}

pub(super) fn attention(
    cpu: &Cpu,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    mask: Mask<'_>,
    o: &mut Tensor,
) {
    let width = q.last_dim();
    let (keys, d) = (k.row_count(), width / heads.query);
    let seen = match mask {
        Mask::Keys(count) => count,
        _ => keys,
    };
    cpu.count_product([q.row_count(), 2 * width, seen]);
    let inputs = Inputs {
        q: q.f32s(),
        k: k.f32s(),
        v: v.f32s(),
        heads,
        mask,
        keys,
        d,
    };
    cpu.for_each_chunk(o.f32s_mut(), QUERY_BLOCK * width, |block, out| {
        let rows = out.len() / width;
        let mut state = State {
            scores: vec![0.0; QUERY_BLOCK * KEY_BLOCK],
            sums: vec![0.0; rows],
            maxima: vec![0.0; rows],
        };
        for head in 0..heads.query {
            attend(&inputs, head, block * QUERY_BLOCK, out, &mut state);
        }
    });
}

/// Queries `first..` of one head into the head's columns of `out`.
fn attend(inputs: &Inputs<'_>, head: usize, first: usize, out: &mut [f32], state: &mut State) {
    let Inputs {
        q,
        k,
        v,
        heads,
        mask,
        keys,
        d,
    } = *inputs;
    let (width, key_width) = (heads.query * d, heads.key * d);
    let rows = out.len() / width;
    let key_head = head * heads.key / heads.query;
    state.sums.fill(0.0);
    state.maxima.fill(HIDDEN);
    for row in out.chunks_mut(width) {
        row[head * d..][..d].fill(0.0);
    }
    let range = visible_keys(mask, keys, first, rows);
    let mut start = range.start;
    while start < range.end {
        let count = KEY_BLOCK.min(range.end - start);
        let queries = Strided::rows(&q[first * width + head * d..], width);
        let key_rows = Strided::transposed(&k[start * key_width + key_head * d..], key_width);
        let shape = (rows, count, d);
        matmul(
            shape,
            &mut state.scores,
            KEY_BLOCK,
            false,
            queries,
            key_rows,
            Parallelism::None,
        );
        vectorised(
            #[inline(always)]
            || {
                for row in 0..rows {
                    let scores = &mut state.scores[row * KEY_BLOCK..][..count];
                    apply_mask(mask, heads.scale, first + row, start, scores);
                    let top = max(scores).max(state.maxima[row]);
                    scores.iter_mut().for_each(|s| {
                        *s = if *s > 0.5 * HIDDEN {
                            exp(*s - top)
                        } else {
                            0.0
                        }
                    });
                    let shrink = exp(state.maxima[row] - top);
                    state.sums[row] = state.sums[row] * shrink + sum(scores, |s| s);
                    state.maxima[row] = top;
                    out[row * width + head * d..][..d]
                        .iter_mut()
                        .for_each(|o| *o *= shrink);
                }
            },
        );
        let (scores, values) = (
            Strided::rows(&state.scores, KEY_BLOCK),
            Strided::rows(&v[start * key_width + key_head * d..], key_width),
        );
        matmul(
            (rows, d, count),
            &mut out[head * d..],
            width,
            true,
            scores,
            values,
            Parallelism::None,
        );
        start += count;
    }
    for (row, total) in state.sums.iter().enumerate() {
        let factor = if *total > 0.0 { 1.0 / total } else { 0.0 };
        out[row * width + head * d..][..d]
            .iter_mut()
            .for_each(|o| *o *= factor);
    }
}

/// Keys that any query of the block may see.
fn visible_keys(mask: Mask<'_>, keys: usize, first_query: usize, rows: usize) -> Range<usize> {
    match mask {
        Mask::None | Mask::Additive(_) => 0..keys,
        Mask::Keys(count) => 0..count,
        Mask::Causal { first, window } => {
            let oldest = window.map_or(0, |window| (first_query + 1).saturating_sub(window));
            first.max(oldest)..(first_query + rows).min(keys)
        }
    }
}

/// Scales the scores of one query against keys `start..` and hides what it may not see.
#[inline(always)]
fn apply_mask(mask: Mask<'_>, scale: f32, query: usize, start: usize, scores: &mut [f32]) {
    scores.iter_mut().for_each(|score| *score *= scale);
    match mask {
        Mask::None | Mask::Keys(_) => {}
        Mask::Additive(mask) => {
            scores
                .iter_mut()
                .zip(&mask.f32s()[start..])
                .for_each(|(score, m)| *score += m);
        }
        Mask::Causal { first, window } => {
            let oldest = window
                .map_or(0, |window| (query + 1).saturating_sub(window))
                .max(first);
            for (index, score) in scores.iter_mut().enumerate() {
                if start + index < oldest || start + index > query {
                    *score = HIDDEN;
                }
            }
        }
    }
}
