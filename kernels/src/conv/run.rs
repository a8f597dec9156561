//! The loops around the register tile.

use crate::device::Cpu;

use super::pack::{ConvWeights, Panel};
use super::tile::{Begin, Stretch, accumulate};

/// Values of a stretch: with 16 columns, 16 KiB of weights, which stay in the first-level cache.
const STRETCH_MAX: usize = 256;

/// Output pixels of a piece of work: few enough that its rows stay in the second-level cache.
const PIECE_PIXELS: std::ops::RangeInclusive<usize> = 32..=256;

/// Geometry of a convolution for the core. A row is a stretch of output pixels whose inputs lie
/// `step` values apart.
#[derive(Clone, Copy)]
pub(crate) struct Core<'a> {
    pub weights: &'a ConvWeights,
    /// Output pixels of a row.
    pub row_pixels: usize,
    /// Values between the inputs of neighbouring output pixels.
    pub step: usize,
    /// Taps of the core, each over `run` values that lie side by side in the input.
    pub taps: usize,
    /// Values of a tap; `taps * run` = kernel positions * input channels.
    pub run: usize,
}

/// Computes `out` [row, pixel, output channel] = bias + residual + convolution.
///
/// `tap_start(row, tap)` is where the tap of the row's first pixel begins in `x`; none leaves the
/// tap out.
pub(crate) fn convolve(
    cpu: &Cpu,
    x: &[f32],
    core: Core<'_>,
    tap_start: impl Fn(usize, usize) -> Option<usize> + Send + Sync,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    let channels = core.weights.out_channels();
    let pixels = out.len() / channels;
    cpu.count_product([pixels, channels, core.taps * core.run]);
    let piece = pixels
        .div_ceil(16)
        .clamp(*PIECE_PIXELS.start(), *PIECE_PIXELS.end());
    cpu.for_each_chunk(out, piece * channels, |index, out| {
        let first = index * piece;
        prefill(core.weights, residual.map(|r| &r[first * channels..]), out);
        let span = Span {
            first,
            pixels: out.len() / channels,
        };
        all_panels(x, core, &tap_start, span, None, out);
    });
}

/// `out = begin + x W^T` for rows of `x`, on the calling thread; without a row to begin with, what `out`
/// holds is added to. `weights` has one tap.
pub(crate) fn product(weights: &ConvWeights, x: &[f32], begin: Option<&[f32]>, out: &mut [f32]) {
    let pixels = out.len() / weights.out_channels();
    let core = Core {
        weights,
        row_pixels: pixels,
        step: weights.in_channels(),
        taps: 1,
        run: weights.in_channels(),
    };
    let span = Span { first: 0, pixels };
    all_panels(x, core, &|_, _| Some(0), span, begin, out);
}

/// Adds all products to `out`, the output of `span`, or to the row that each of its pixels begins with; with
/// such a row the first tap is never left out.
fn all_panels(
    x: &[f32],
    core: Core<'_>,
    tap_start: &impl Fn(usize, usize) -> Option<usize>,
    span: Span,
    begin: Option<&[f32]>,
    out: &mut [f32],
) {
    let channels = core.weights.out_channels();
    for panel in &core.weights.panels {
        if panel.valid == panel.width {
            let begin = begin.map_or(Begin::Sums, |row| Begin::Row(&row[panel.first..]));
            let dst = (&mut out[panel.first..], channels);
            one_panel(x, core, panel, tap_start, span, begin, dst);
        } else {
            narrow_panel(x, core, panel, tap_start, span, begin, out);
        }
    }
}

/// Some output pixels that follow each other, across rows.
#[derive(Clone, Copy)]
struct Span {
    first: usize,
    pixels: usize,
}

impl Span {
    /// The parts of the span that lie in one row each: (row, first pixel in it, pixels, offset).
    fn parts(self, row_pixels: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
        let end = self.first + self.pixels;
        let mut at = self.first;
        std::iter::from_fn(move || {
            let (row, pixel) = (at / row_pixels, at % row_pixels);
            let count = (row_pixels - pixel).min(end - at);
            let part = (row, pixel, count, at - self.first);
            at += count;
            (count > 0).then_some(part)
        })
    }
}

fn prefill(weights: &ConvWeights, residual: Option<&[f32]>, out: &mut [f32]) {
    let rows = out.chunks_exact_mut(weights.out_channels());
    match residual {
        None => rows.for_each(|row| row.copy_from_slice(&weights.bias)),
        Some(residual) => {
            for (row, residual) in rows.zip(residual.chunks_exact(weights.out_channels())) {
                for ((out, r), b) in row.iter_mut().zip(residual).zip(&weights.bias) {
                    *out = r + b;
                }
            }
        }
    }
}

/// Adds one panel's products to `begin`, into `dst`, whose pixels are `dst_step` values apart.
fn one_panel(
    x: &[f32],
    core: Core<'_>,
    panel: &Panel,
    tap_start: &impl Fn(usize, usize) -> Option<usize>,
    span: Span,
    begin: Begin<'_>,
    (dst, dst_step): (&mut [f32], usize),
) {
    let width = panel.width;
    let (slab, stretch) = (core.run * width, STRETCH_MAX * width);
    let mut aside = Vec::new();
    for tap in 0..core.taps {
        let first = panel.start + tap * slab;
        for number in 0..slab.div_ceil(stretch) {
            let from = first + number * stretch;
            let range = from..(from + stretch).min(first + slab);
            let w = core.weights.values.read(range, &mut aside);
            for (row, pixel, count, offset) in span.parts(core.row_pixels) {
                let Some(start) = tap_start(row, tap) else {
                    continue;
                };
                let x = &x[start + pixel * core.step + number * STRETCH_MAX..];
                let stretch = Stretch {
                    x,
                    step: core.step,
                    w,
                    width,
                    begin: if from == panel.start {
                        begin
                    } else {
                        Begin::Sums
                    },
                };
                accumulate(
                    core.weights.isa,
                    stretch,
                    count,
                    &mut dst[offset * dst_step..],
                    dst_step,
                );
            }
        }
    }
}

/// A panel wider than the channels left: computed aside, then its channels are copied.
fn narrow_panel(
    x: &[f32],
    core: Core<'_>,
    panel: &Panel,
    tap_start: &impl Fn(usize, usize) -> Option<usize>,
    span: Span,
    begin: Option<&[f32]>,
    out: &mut [f32],
) {
    let channels = core.weights.out_channels();
    let columns = panel.first..panel.first + panel.valid;
    let mut aside = vec![0.0; span.pixels * panel.width];
    for (row, out) in aside
        .chunks_exact_mut(panel.width)
        .zip(out.chunks_exact(channels))
    {
        row[..panel.valid].copy_from_slice(&begin.unwrap_or(out)[columns.clone()]);
    }
    let dst = (&mut *aside, panel.width);
    one_panel(x, core, panel, tap_start, span, Begin::Sums, dst);
    for (row, out) in aside
        .chunks_exact(panel.width)
        .zip(out.chunks_exact_mut(channels))
    {
        out[columns.clone()].copy_from_slice(&row[..panel.valid]);
    }
}
