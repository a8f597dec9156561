//! `attention` on the CPU: for each block of queries and each head, online softmax over blocks of
//! keys; both products run in the register tile of the convolutions.

use std::ops::Range;

use super::pack::Packed;
use super::{Heads, Mask};
use crate::simd::{exp, max, sum, vectorised};
use crate::{Cpu, Tensor};

const QUERY_BLOCK: usize = 64;
/// A multiple of every panel's width.
const KEY_BLOCK: usize = 128;
/// Score of a key that a query may not see; finite, so that no difference is NaN.
const HIDDEN: f32 = -1e30;

/// Everything that a block of queries reads.
struct Inputs<'a> {
    q: &'a [f32],
    packed: Packed,
    heads: Heads,
    mask: Mask<'a>,
    keys: usize,
    /// Width of a head.
    d: usize,
}

/// Running state of one head over a block of queries.
struct State {
    /// [query, key of the block]
    scores: Vec<f32>,
    /// [query, channel]
    sums: Vec<f32>,
    /// For each query, the sum of its weights and its largest score so far.
    totals: Vec<f32>,
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
    cpu.count_product(super::work(q.row_count(), keys, heads.query, d, mask));
    let packed = Packed::new(cpu, k.f32s(), v.f32s(), heads.key, d);
    let inputs = Inputs {
        q: q.f32s(),
        packed,
        heads,
        mask,
        keys,
        d,
    };
    cpu.for_each_chunk(o.f32s_mut(), QUERY_BLOCK * width, |block, out| {
        let rows = out.len() / width;
        let mut state = State {
            scores: vec![0.0; rows * KEY_BLOCK],
            sums: vec![0.0; rows * inputs.packed.padded_d],
            totals: vec![0.0; rows],
            maxima: vec![0.0; rows],
        };
        for head in 0..heads.query {
            attend(&inputs, head, block * QUERY_BLOCK, &mut state);
            store(&state, inputs.packed.padded_d, out, width, head * d, d);
        }
    });
}

/// Weighted sums over the keys for queries `first..` of one head.
fn attend(inputs: &Inputs<'_>, head: usize, first: usize, state: &mut State) {
    let (mask, rows) = (inputs.mask, state.totals.len());
    state.sums.fill(0.0);
    state.totals.fill(0.0);
    state.maxima.fill(HIDDEN);
    for range in visible_keys(mask, inputs.keys, head, first, rows) {
        attend_range(inputs, head, first, &range, state);
    }
}

/// The same over one range of keys.
fn attend_range(
    inputs: &Inputs<'_>,
    head: usize,
    first: usize,
    range: &Range<usize>,
    state: &mut State,
) {
    let Inputs {
        q, heads, mask, d, ..
    } = *inputs;
    let (width, packed) = (heads.query * d, &inputs.packed);
    let rows = state.totals.len();
    let key_head = head * heads.key / heads.query;
    // A panel that begins before the first visible key holds hidden ones.
    let mut start = range.start / packed.width * packed.width;
    while start < range.end {
        let hidden = range.start.saturating_sub(start);
        let span = (start, KEY_BLOCK.min(range.end - start));
        let queries = (&q[first * width + head * d..], width);
        packed.scores(key_head, span, queries, (&mut state.scores, KEY_BLOCK));
        vectorised(
            #[inline(always)]
            || {
                for row in 0..rows {
                    soften(state, row, span, packed.padded_d, |start, scores| {
                        apply_mask(mask, heads.scale, first + row, start, scores);
                        scores[..hidden].fill(HIDDEN);
                    });
                }
            },
        );
        packed.add_values(key_head, span, (&state.scores, KEY_BLOCK), &mut state.sums);
        start += KEY_BLOCK;
    }
}

/// Turns the scores of one query into weights and shrinks what was summed before to their scale.
#[inline(always)]
fn soften(
    state: &mut State,
    row: usize,
    (start, count): (usize, usize),
    padded_d: usize,
    mask: impl Fn(usize, &mut [f32]),
) {
    let scores = &mut state.scores[row * KEY_BLOCK..][..count];
    mask(start, scores);
    let top = max(scores).max(state.maxima[row]);
    scores.iter_mut().for_each(|s| {
        *s = if *s > 0.5 * HIDDEN {
            exp(*s - top)
        } else {
            0.0
        }
    });
    let shrink = exp(state.maxima[row] - top);
    state.totals[row] = state.totals[row] * shrink + sum(scores, |s| s);
    state.maxima[row] = top;
    let sums = &mut state.sums[row * padded_d..][..padded_d];
    sums.iter_mut().for_each(|o| *o *= shrink);
}

/// Divides the sums by their weights, into `d` columns of the output from `column` on.
fn store(state: &State, padded_d: usize, out: &mut [f32], width: usize, column: usize, d: usize) {
    let rows = out
        .chunks_exact_mut(width)
        .zip(state.sums.chunks_exact(padded_d));
    for ((out, sums), total) in rows.zip(&state.totals) {
        let factor = if *total > 0.0 { 1.0 / total } else { 0.0 };
        let places = out[column..][..d].iter_mut();
        places.zip(sums).for_each(|(o, sum)| *o = sum * factor);
    }
}

/// Keys that any query of the block may see.
fn visible_keys(
    mask: Mask<'_>,
    keys: usize,
    head: usize,
    first_query: usize,
    rows: usize,
) -> Vec<Range<usize>> {
    let range = match mask {
        // A tile of a list is some whole blocks of queries.
        Mask::Blocks(list) => return list.seen(head, first_query),
        Mask::None | Mask::Additive(_) => 0..keys,
        Mask::Keys(count) => 0..count,
        Mask::Causal { first, window } => {
            let oldest = window.map_or(0, |window| (first_query + 1).saturating_sub(window));
            first.max(oldest)..(first_query + rows).min(keys)
        }
    };
    vec![range]
}

/// Scales the scores of one query against keys `start..` and hides what it may not see.
#[inline(always)]
fn apply_mask(mask: Mask<'_>, scale: f32, query: usize, start: usize, scores: &mut [f32]) {
    scores.iter_mut().for_each(|score| *score *= scale);
    match mask {
        Mask::None | Mask::Keys(_) | Mask::Blocks(_) => {}
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
