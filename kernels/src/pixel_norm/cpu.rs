//! CPU twin of `pixel_norm`: a pixel at a time.

use crate::device::Cpu;
use crate::simd::{self, vectorised};

/// Values of one piece of work, about a first-level cache.
const PIECE_VALUES: usize = 4096;

pub(super) fn pixel_norm(
    cpu: &Cpu,
    x: &[f32],
    out: &mut [f32],
    channels: usize,
    eps: f32,
    silu: bool,
) {
    let chunk = channels * (PIECE_VALUES / channels).max(1);
    cpu.for_each_chunk(out, chunk, |index, out| {
        let x = &x[index * chunk..][..out.len()];
        pixel_norm_row(x, out, channels, eps, silu);
    });
}

/// Normalises every pixel of `x` into `out`.
pub(crate) fn pixel_norm_row(x: &[f32], out: &mut [f32], channels: usize, eps: f32, silu: bool) {
    vectorised(
        #[inline(always)]
        || {
            for (x, out) in x.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
                let mean = simd::sum(x, |x| x * x) / channels as f32;
                let scale = 1.0 / (mean + eps).sqrt();
                if silu {
                    out.iter_mut()
                        .zip(x)
                        .for_each(|(out, x)| *out = simd::silu(x * scale));
                } else {
                    out.iter_mut().zip(x).for_each(|(out, x)| *out = x * scale);
                }
            }
        },
    );
}
