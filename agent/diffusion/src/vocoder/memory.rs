//! Values that are alive at the fullest moment of making sound from a spectrogram.

use super::Vocoder;
use super::generator::Generator;

impl Generator {
    /// Peak for a spectrogram of `rows`, in values of four bytes.
    pub(super) fn values(&self, rows: usize) -> usize {
        // In a resnet: the stage's input, two finished branches, what the resnet got, its first
        // convolution's output, that with a border, and the second's; a filtered activation has a
        // tensor of twice the rate.
        let at_once = if self.filters_activations() { 8 } else { 7 };
        // The first convolution has twice the channels of the first stage.
        let (mut length, mut before) = (rows, rows * self.stage_channels(0) * 2);
        let mut peak = 2 * before + rows * self.in_features();
        for index in 0..self.stage_count() {
            length *= self.stride(index);
            let now = length * self.stage_channels(index);
            peak = peak.max(before + at_once * now);
            before = now;
        }
        peak
    }

    /// Samples for a spectrogram of `rows`.
    pub(super) fn length(&self, rows: usize) -> usize {
        (0..self.stage_count()).fold(rows, |length, index| length * self.stride(index))
    }
}

impl Vocoder {
    /// Peak of [`Vocoder::wave`] for a spectrogram of `rows`, in values of four bytes.
    pub(crate) fn values(&self, rows: usize) -> usize {
        let mel = 2 * rows * self.generator.in_features();
        let first = mel + self.generator.values(rows);
        let Some(bandwidth) = &self.bandwidth else {
            return first;
        };
        let low = self.generator.length(rows) * self.generator.out_channels();
        let (rows, ratio) = bandwidth.rows_and_ratio(self.generator.length(rows));
        first.max(mel + (2 + ratio) * low + bandwidth.generator().values(rows))
    }
}
