//! Keys and values repacked once a call into panels that the register tile of the convolutions reads.

use crate::Cpu;
use crate::conv::{Isa, WIDTHS};

/// Keys and values of all key heads.
pub(super) struct Packed {
    isa: Isa,
    /// Columns of a panel.
    pub width: usize,
    /// Keys, padded with zeros to whole panels.
    keys: usize,
    /// Width of a head.
    d: usize,
    /// Width of a head, padded with zeros to whole panels.
    pub padded_d: usize,
    /// [head, panel of keys, channel, key in the panel]
    k: Vec<f32>,
    /// [head, panel of channels, key, channel in the panel]
    v: Vec<f32>,
}

impl Packed {
    /// Repacks k and v [keys, heads * d].
    pub fn new(cpu: &Cpu, k: &[f32], v: &[f32], heads: usize, d: usize) -> Self {
        let isa = Isa::detect();
        let padded_d = d.next_multiple_of(WIDTHS[WIDTHS.len() - 1]);
        let fits = |width: &&usize| isa.has_width(**width) && padded_d.is_multiple_of(**width);
        let width = *WIDTHS
            .iter()
            .find(fits)
            .unwrap_or(&WIDTHS[WIDTHS.len() - 1]);
        let row = heads * d;
        let keys = (k.len() / row).next_multiple_of(width);
        let mut packed = Self {
            isa,
            width,
            keys,
            d,
            padded_d,
            k: vec![0.0; heads * keys * d],
            v: vec![0.0; heads * keys * padded_d],
        };
        let panels = keys / width;
        cpu.for_each_chunk(&mut packed.k, width * d, |index, panel| {
            let (head, first) = (index / panels, index % panels * width);
            let rows = k[first * row..].chunks_exact(row).take(width).enumerate();
            for (column, key) in rows {
                let values = &key[head * d..][..d];
                let places = panel[column..].iter_mut().step_by(width);
                places
                    .zip(values)
                    .for_each(|(place, value)| *place = *value);
            }
        });
        let panels = padded_d / width;
        cpu.for_each_chunk(&mut packed.v, width * keys, |index, panel| {
            let (head, first) = (index / panels, index % panels * width);
            let valid = width.min(d - first.min(d));
            for (key, place) in v.chunks_exact(row).zip(panel.chunks_exact_mut(width)) {
                place[..valid].copy_from_slice(&key[head * d + first..][..valid]);
            }
        });
        packed
    }

    /// `scores[row, 0..count] = q k^T` for keys `start..start + count` of a head; `start` begins a
    /// panel. Rows of q are `q_step` values apart, rows of scores `pitch`.
    pub fn scores(
        &self,
        head: usize,
        (start, count): (usize, usize),
        (q, q_step): (&[f32], usize),
        (scores, pitch): (&mut [f32], usize),
    ) {
        let rows = scores.len() / pitch;
        scores.fill(0.0);
        let slab = self.d * self.width;
        for panel in 0..count.div_ceil(self.width) {
            let index = (head * self.keys + start) / self.width + panel;
            let w = &self.k[index * slab..][..slab];
            let dst = &mut scores[panel * self.width..];
            self.isa
                .multiply((q, q_step), (w, self.width), rows, (dst, pitch));
        }
    }

    /// `sums[row, 0..padded_d] += weights v` for keys `start..start + count` of a head; rows of
    /// weights are `pitch` values apart.
    pub fn add_values(
        &self,
        head: usize,
        (start, count): (usize, usize),
        (weights, pitch): (&[f32], usize),
        sums: &mut [f32],
    ) {
        let rows = sums.len() / self.padded_d;
        let panels = self.padded_d / self.width;
        for panel in 0..panels {
            let first = ((head * panels + panel) * self.keys + start) * self.width;
            let w = &self.v[first..][..count * self.width];
            let dst = &mut sums[panel * self.width..];
            self.isa.multiply(
                (weights, pitch),
                (w, self.width),
                rows,
                (dst, self.padded_d),
            );
        }
    }
}
