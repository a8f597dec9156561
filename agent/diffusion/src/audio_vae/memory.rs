//! Values that are alive at the fullest moment of decoding sound latents, and of encoding a sound.

use super::{AudioDecoder, AudioEncoder};

impl AudioDecoder {
    /// Peak of [`AudioDecoder::spectrogram`] for `tokens` latents, in values of activations.
    pub(crate) fn values(&self, tokens: usize) -> usize {
        let widths = &self.layout.widths;
        let (mut rows, mut bins) = (tokens, self.layout.latent_bins());
        let mut peak = 0;
        for (level, width) in widths.iter().enumerate().rev() {
            let wide = widths.get(level + 1).copied().unwrap_or(*width).max(*width);
            // A resnet: what it got, the first convolution's output, that with a border, the second's.
            let plain = rows * bins;
            let bordered = (rows + 2) * (bins + 2);
            peak = peak.max((3 * plain + bordered) * wide);
            if level > 0 {
                let (next_rows, next_bins) = (2 * rows - 1, 2 * bins);
                // What is doubled, the doubled, that with a border, and the convolution's output.
                let large = 4 * plain + (2 * rows + 1) * (next_bins + 2) + next_rows * next_bins;
                peak = peak.max((plain + large) * width);
                (rows, bins) = (next_rows, next_bins);
            }
        }
        peak
    }

    /// Rows of the spectrogram of `tokens` latents.
    pub(crate) fn rows(&self, tokens: usize) -> usize {
        (1..self.layout.widths.len()).fold(tokens, |rows, _| 2 * rows - 1)
    }
}

impl AudioEncoder {
    /// Peak of [`AudioEncoder::heard`] for so many samples, in values of activations.
    pub(crate) fn values(&self, samples: usize) -> usize {
        let (channels, mut bins) = self.spectrum();
        let mut rows = self.rows(samples / channels);
        // The wave, its spectrogram, and that with its channels innermost.
        let kept = samples + 2 * rows * bins * channels;
        let mut peak = 0;
        for (width, wide, halves) in self.widths() {
            let (plain, bordered) = (rows * bins, (rows + 2) * (bins + 2));
            // A resnet: what it got, the first convolution's output, that with a border, the second's.
            peak = peak.max((3 * plain + bordered) * wide.max(width));
            if halves {
                let next = rows.div_ceil(2) * (bins / 2);
                peak = peak.max((plain + bordered + next) * wide);
                (rows, bins) = (rows.div_ceil(2), bins / 2);
            }
        }
        kept + peak
    }
}
