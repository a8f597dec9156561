//! Values that are alive at the fullest moment of a step, counted as `block.rs` and `layers/` make them.

use kernels::{Device, attention, linear};

use super::Transformer;
use crate::memory::floats;

/// One attention: rows and widths of both sides.
struct Sides {
    queries: usize,
    keys: usize,
    inner: usize,
}

impl Sides {
    /// Queries and their result, keys and values, and what attending takes.
    fn values(&self, device: &Device) -> usize {
        let scratch = attention::scratch_values(device, self.keys, self.inner);
        2 * self.inner * (self.queries + self.keys) + scratch
    }
}

impl Transformer {
    /// Peak of a step's passes over `s` video and `l` audio tokens with `t` text tokens, in bytes; the latents
    /// themselves are not counted.
    pub(crate) fn bytes(
        &self,
        device: &Device,
        (s, l, t): (usize, usize, usize),
        passes: usize,
    ) -> u64 {
        let (video, audio) = (&self.config.video, &self.config.audio);
        let (wide, narrow) = (video.width(), audio.width());
        let positions = s * (wide + narrow) + 2 * l * narrow;
        let rows = |rows, width| self.config.layers * (rows + 7) * width;
        let modulation = rows(video.rows(), wide) + rows(audio.rows(), narrow);
        let tokens = s * wide + l * narrow;
        let own = |tokens, inner| {
            let sides = Sides {
                queries: tokens,
                keys: tokens,
                inner,
            };
            tokens * inner + sides.values(device)
        };
        let text = |tokens, inner, context| {
            let sides = Sides {
                queries: tokens,
                keys: t,
                inner,
            };
            tokens * inner + t * context + sides.values(device)
        };
        let across = |queries, keys| {
            let sides = Sides {
                queries,
                keys,
                inner: narrow,
            };
            2 * tokens + sides.values(device)
        };
        let forward = |tokens, width| {
            5 * tokens * width + linear::gated_scratch_values(device, tokens * width)
        };
        let working = [
            own(s, wide),
            own(l, narrow),
            text(s, wide, video.context),
            text(l, narrow, audio.context),
            across(s, l),
            across(l, s),
            forward(s, wide),
            forward(l, narrow),
        ];
        // Those at work and, until the last pass, those that all begin with.
        let alive = tokens * passes.min(2);
        let activations = alive + working.into_iter().max().unwrap_or(0);
        // Tables are F32 on every device.
        floats(positions + modulation) + activations as u64 * device.activation_bytes()
    }
}
