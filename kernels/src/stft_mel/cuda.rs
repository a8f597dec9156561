//! `stft_mel` on a GPU: magnitudes of all frequencies, then the mel filters; F32.

use crate::KernelError;
use crate::cuda::{Arguments, Array, Element, Gpu, Launch};
use crate::modulation::cuda::flat_blocks;

const OP: &str = "stft_mel";

/// Bases and filters on a GPU.
#[derive(Debug, Clone)]
pub struct DeviceMel {
    /// F32 [2 * frequencies, n_fft]
    basis: Array,
    /// F32 [bins, frequencies]
    filters: Array,
}

/// Where frames lie in the signal.
#[derive(Debug, Clone, Copy)]
pub struct Frames {
    /// How many.
    pub count: usize,
    /// Samples between them.
    pub hop: usize,
    /// Samples before the signal in the first frame.
    pub left: usize,
    /// Whether the signal is mirrored at its ends; else there are zeros.
    pub mirrored: bool,
}

impl DeviceMel {
    /// Uploads `basis` [2 * frequencies, n_fft] and `filters` [bins, frequencies].
    ///
    /// # Errors
    /// What an upload gives.
    pub fn upload(
        gpu: &Gpu,
        (basis, n_fft): (&[f32], usize),
        (filters, bins): (&[f32], usize),
    ) -> Result<Self, KernelError> {
        let dims = [basis.len() / n_fft.max(1), n_fft];
        Ok(Self {
            basis: gpu.upload(Element::F32, &dims, basis)?,
            filters: gpu.upload(Element::F32, &[bins, dims[0] / 2], filters)?,
        })
    }
}

/// Writes the log-mel spectrogram of `x` F32 [channel, sample] to `out` F32 [channel, frame, bin].
///
/// # Errors
/// [`KernelError::Shape`], and what a launch gives.
pub fn stft_mel(
    gpu: &Gpu,
    x: &Array,
    mel: &DeviceMel,
    frames: Frames,
    out: &Array,
) -> Result<(), KernelError> {
    let (channels, samples) = (x.row_count(), x.last_dim());
    let (bins, frequencies) = (mel.filters.row_count(), mel.filters.last_dim());
    x.expect(OP, "x", Element::F32, &[channels, samples])?;
    out.expect(OP, "out", Element::F32, &[channels, frames.count, bins])?;
    let magnitude = gpu.empty(Element::F32, &[channels, frames.count, frequencies])?;
    let n_fft = mel.basis.last_dim();
    let words = [
        samples,
        frames.count,
        frequencies,
        n_fft,
        frames.hop,
        frames.left,
    ];
    let mut words = words.map(|value| value as u32).to_vec();
    words.push(frames.mirrored.into());
    let launch = |entry, blocks, arguments| {
        gpu.launch(&Launch {
            module: OP,
            entry,
            blocks,
            threads: 256,
            shared_bytes: 0,
            arguments,
        })
    };
    let spectrum = Arguments::new()
        .array(x)
        .array(&mel.basis)
        .array(&magnitude)
        .words(&words);
    let grid = [frames.count, frequencies.div_ceil(8), channels].map(|size| size as u32);
    launch("stft_magnitude", grid, spectrum)?;
    let filtered = Arguments::new()
        .array(&magnitude)
        .array(&mel.filters)
        .array(out)
        .word(frequencies as u32)
        .word(bins as u32)
        .long(out.count() as u64);
    launch(OP, [flat_blocks(out.count(), 1), 1, 1], filtered)
}
