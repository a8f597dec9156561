//! `attention` on the CPU: for each block of queries and each head, online softmax over blocks of
//! keys; both products run in the register tile of the convolutions.
//!
//! The columns of a panel are queries and its rows keys. So maxima and sums over keys run through the
//! lanes side by side, and the weights are a panel of the second product as they lie.

use std::ops::Range;

use super::{Heads, Mask};
use crate::conv::{Begin, Isa, WIDTHS};
use crate::simd::{exp2_of_negative, vectorised};
use crate::{Cpu, Tensor};

/// Queries of a piece of work: some panels, which read the keys together.
const QUERY_BLOCK: usize = 64;
/// Keys that are weighed at once: few enough that they and a panel stay in the first-level cache.
const KEY_BLOCK: usize = 128;
/// Scores times channels from which on threads share the work.
const PARALLEL_WORK_MIN: usize = 1 << 20;
/// Score of a key that a query may not see.
const HIDDEN: f32 = f32::NEG_INFINITY;
/// Below all scores, and finite, so that no difference is NaN.
const LOWEST: f32 = -1e30;

/// Everything that a block of queries reads.
struct Inputs<'a> {
    isa: Isa,
    /// Queries of a panel.
    width: usize,
    q: &'a [f32],
    k: &'a [f32],
    /// [head, block of keys, channel, key in the block]
    v: Vec<f32>,
    heads: Heads,
    mask: Mask<'a>,
    keys: usize,
    /// Width of a head.
    d: usize,
}

/// Some queries of one head and what was found for them so far.
struct Panel {
    first: usize,
    /// [channel, query], scaled for scores in powers of two.
    queries: Vec<f32>,
    /// [key of the block, query]: scores, then weights.
    weights: Vec<f32>,
    /// [channel, query]: values times weights.
    sums: Vec<f32>,
    /// For each query, its largest score and the sum of its weights.
    tops: Vec<f32>,
    totals: Vec<f32>,
}

/// By the tile of an instruction set that this machine has.
pub(super) fn attention(
    (cpu, isa): (&Cpu, Isa),
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    mask: Mask<'_>,
    o: &mut Tensor,
) {
    let (row, keys) = (q.last_dim(), k.row_count());
    let d = row / heads.query;
    cpu.count_product(super::work(q.row_count(), keys, heads.query, d, mask));
    let widest = WIDTHS.into_iter().find(|width| isa.has_width(*width));
    let inputs = Inputs {
        isa,
        width: widest.expect("every instruction set has a tile"),
        q: q.f32s(),
        k: k.f32s(),
        v: transposed(cpu, v.f32s(), heads.key, d),
        heads,
        mask,
        keys,
        d,
    };
    let parallel_min = PARALLEL_WORK_MIN / keys.max(1);
    cpu.for_each_piece(
        o.f32s_mut(),
        QUERY_BLOCK * row,
        parallel_min,
        |block, out| {
            let queries = block * QUERY_BLOCK..block * QUERY_BLOCK + out.len() / row;
            for head in 0..heads.query {
                let mut panels: Vec<Panel> = queries
                    .clone()
                    .step_by(inputs.width)
                    .map(|first| Panel::new(&inputs, head, first))
                    .collect();
                attend(&inputs, head, &queries, &mut panels);
                let rows = out.chunks_mut(inputs.width * row);
                for (panel, rows) in panels.iter().zip(rows) {
                    panel.store(rows, row, head * d, d);
                }
            }
        },
    );
}

/// v [keys, heads * d] as [head, block of keys, channel, key in the block].
fn transposed(cpu: &Cpu, v: &[f32], heads: usize, d: usize) -> Vec<f32> {
    let row = heads * d;
    let blocks = (v.len() / row).div_ceil(KEY_BLOCK);
    let mut out = vec![0.0; heads * blocks * d * KEY_BLOCK];
    cpu.for_each_chunk(&mut out, d * KEY_BLOCK, |index, block| {
        let (head, first) = (index / blocks, index % blocks * KEY_BLOCK);
        let keys = v[first * row..].chunks_exact(row).take(KEY_BLOCK);
        for (key, values) in keys.enumerate() {
            let places = block[key..].iter_mut().step_by(KEY_BLOCK);
            let values = &values[head * d..][..d];
            places
                .zip(values)
                .for_each(|(place, value)| *place = *value);
        }
    });
    out
}

/// Weighs the keys of one head for its queries.
fn attend(inputs: &Inputs<'_>, head: usize, queries: &Range<usize>, panels: &mut [Panel]) {
    let key_head = head * inputs.heads.key / inputs.heads.query;
    let seen = visible_keys(inputs.mask, inputs.keys, head, queries);
    for seen in seen.into_iter().filter(|seen| !seen.is_empty()) {
        for block in seen.start / KEY_BLOCK..seen.end.div_ceil(KEY_BLOCK) {
            let start = block * KEY_BLOCK;
            let span = Span {
                keys: start..seen.end.min(start + KEY_BLOCK),
                hidden: seen.start.saturating_sub(start),
            };
            for panel in &mut *panels {
                panel.weigh(inputs, key_head, &span);
            }
        }
    }
}

/// Keys of one block.
struct Span {
    keys: Range<usize>,
    /// How many of the first may not be seen.
    hidden: usize,
}

impl Panel {
    /// Queries from `first` on, as many as there are; the others of the panel are zeros.
    fn new(inputs: &Inputs<'_>, head: usize, first: usize) -> Self {
        let &Inputs { width, d, .. } = inputs;
        let row = inputs.heads.query * d;
        let factor = inputs.heads.scale * std::f32::consts::LOG2_E;
        let mut queries = vec![0.0; d * width];
        let rows = inputs.q[first * row..].chunks_exact(row).take(width);
        for (column, query) in rows.enumerate() {
            let places = queries[column..].iter_mut().step_by(width);
            let values = &query[head * d..][..d];
            places
                .zip(values)
                .for_each(|(place, value)| *place = value * factor);
        }
        Self {
            first,
            queries,
            weights: vec![0.0; KEY_BLOCK * width],
            sums: vec![0.0; d * width],
            tops: vec![LOWEST; width],
            totals: vec![0.0; width],
        }
    }

    /// Adds what the keys of a span weigh.
    fn weigh(&mut self, inputs: &Inputs<'_>, key_head: usize, span: &Span) {
        self.score(inputs, key_head, &span.keys);
        match inputs.width {
            32 => vectorised(
                #[inline(always)]
                || self.soften::<32>(inputs.mask, span),
            ),
            16 => vectorised(
                #[inline(always)]
                || self.soften::<16>(inputs.mask, span),
            ),
            _ => self.soften::<8>(inputs.mask, span),
        }
        self.add_values(inputs, key_head, &span.keys);
    }

    /// Scores of keys.
    fn score(&mut self, inputs: &Inputs<'_>, key_head: usize, keys: &Range<usize>) {
        let &Inputs { width, d, .. } = inputs;
        let row = inputs.heads.key * d;
        inputs.isa.multiply(
            (&inputs.k[keys.start * row + key_head * d..], row),
            (&self.queries, width),
            keys.len(),
            (&mut self.weights, width),
            Begin::Row(&[0.0; WIDTHS[0]]),
        );
    }

    /// Turns scores into weights and shrinks what was summed before to their scale.
    #[inline(always)]
    fn soften<const W: usize>(&mut self, mask: Mask<'_>, span: &Span) {
        let (rows, _) = self.weights.as_chunks_mut::<W>();
        let rows = &mut rows[..span.keys.len()];
        apply_mask(mask, self.first, span.keys.start, rows);
        rows[..span.hidden].fill([HIDDEN; W]);
        let before: [f32; W] = std::array::from_fn(|lane| self.tops[lane]);
        let mut tops = before;
        for row in &*rows {
            for (top, score) in tops.iter_mut().zip(row) {
                *top = if *score > *top { *score } else { *top };
            }
        }
        for row in &mut *rows {
            for (score, top) in row.iter_mut().zip(&tops) {
                *score = exp2_of_negative(*score - top);
            }
        }
        // A loop of its own: beside the stores above, sums would not stay in registers.
        let mut totals = [0.0; W];
        for row in &*rows {
            let sums = totals.iter_mut().zip(row);
            sums.for_each(|(total, weight)| *total += weight);
        }
        let has_grown = |lane: usize| tops[lane] > before[lane];
        if (0..W).any(has_grown) {
            self.shrink(&std::array::from_fn::<_, W, _>(|lane| {
                exp2_of_negative(before[lane] - tops[lane])
            }));
            self.tops.copy_from_slice(&tops);
        }
        self.totals
            .iter_mut()
            .zip(&totals)
            .for_each(|(sum, total)| *sum += total);
    }

    #[inline(always)]
    fn shrink<const W: usize>(&mut self, factors: &[f32; W]) {
        let (sums, _) = self.sums.as_chunks_mut::<W>();
        let (totals, _) = self.totals.as_chunks_mut::<W>();
        for row in sums.iter_mut().chain(totals) {
            row.iter_mut()
                .zip(factors)
                .for_each(|(value, factor)| *value *= factor);
        }
    }

    /// Adds the values of keys by their weights.
    fn add_values(&mut self, inputs: &Inputs<'_>, key_head: usize, keys: &Range<usize>) {
        let &Inputs { width, d, .. } = inputs;
        let blocks = inputs.keys.div_ceil(KEY_BLOCK);
        let block = key_head * blocks + keys.start / KEY_BLOCK;
        inputs.isa.multiply(
            (&inputs.v[block * d * KEY_BLOCK..], KEY_BLOCK),
            (&self.weights[..keys.len() * width], width),
            d,
            (&mut self.sums, width),
            Begin::Sums,
        );
    }

    /// Divides the sums by their weights, into `d` columns of `rows` from `column` on.
    fn store(&self, rows: &mut [f32], row: usize, column: usize, d: usize) {
        let width = self.totals.len();
        for (query, out) in rows.chunks_exact_mut(row).enumerate() {
            let total = self.totals[query];
            let factor = if total > 0.0 { 1.0 / total } else { 0.0 };
            let sums = self.sums[query..].iter().step_by(width);
            let places = out[column..][..d].iter_mut();
            places.zip(sums).for_each(|(o, sum)| *o = sum * factor);
        }
    }
}

/// Keys that any query of the block may see.
fn visible_keys(
    mask: Mask<'_>,
    keys: usize,
    head: usize,
    queries: &Range<usize>,
) -> Vec<Range<usize>> {
    let range = match mask {
        // A tile of a list is some whole blocks of queries.
        Mask::Blocks(list) => return list.seen(head, queries.start),
        Mask::None | Mask::Additive(_) => 0..keys,
        Mask::Keys(count) => 0..count,
        Mask::Causal { first, window } => {
            oldest_key(queries.start, first, window)..queries.end.min(keys)
        }
    };
    vec![range]
}

/// The first key that a query may see.
#[inline(always)]
fn oldest_key(query: usize, first: usize, window: Option<usize>) -> usize {
    first.max(window.map_or(0, |window| (query + 1).saturating_sub(window)))
}

/// Hides what the queries from `query` on may not see of the keys from `start` on.
#[inline(always)]
fn apply_mask<const W: usize>(mask: Mask<'_>, query: usize, start: usize, rows: &mut [[f32; W]]) {
    match mask {
        Mask::None | Mask::Keys(_) | Mask::Blocks(_) => {}
        Mask::Additive(mask) => {
            for (row, added) in rows.iter_mut().zip(&mask.f32s()[start..]) {
                let added = added * std::f32::consts::LOG2_E;
                row.iter_mut().for_each(|score| *score += added);
            }
        }
        Mask::Causal { first, window } => {
            for (key, row) in (start..).zip(rows) {
                for (query, score) in (query..).zip(row) {
                    if key < oldest_key(query, first, window) || key > query {
                        *score = HIDDEN;
                    }
                }
            }
        }
    }
}
