//! `stft_mel`: the logarithm of a mel spectrogram, `ln(max(mel * |STFT(x)|, floor))`, floor 1e-5.
//!
//! x: F32 [channel, sample] -> [channel, frame, bin]. The windowed DFT is a convolution with
//! `n_fft` taps and stride `hop` whose output channels are the real parts, then the imaginary
//! parts: 4 * n_fft * n_fft FLOP a frame, so this is for seconds of sound, not for hours.

pub mod cuda;

use std::f64::consts::PI;

use crate::conv::{Border, ConvWeights, Core, Prologue, SpacePad, convolve, padded};
use crate::device::{Cpu, Device};
use crate::error::KernelError;
use crate::tensor::{Tensor, mismatch};

use cuda::DeviceMel;

/// Smallest magnitude before the logarithm.
const FLOOR: f32 = 1e-5;

/// Samples around the signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// Half a window on each side, mirrored: frame t is centred on sample t*hop.
    Mirrored,
    /// Zeros on the left only: frame t ends at sample (t+1)*hop.
    Causal,
}

/// Window, DFT and mel filters.
#[derive(Debug, Clone)]
pub struct MelWeights {
    basis: ConvWeights,
    filters: ConvWeights,
    hop: usize,
    ends: Ends,
    card: Option<DeviceMel>,
}

/// A mel scale after Slaney.
#[derive(Debug, Clone, Copy)]
pub struct MelScale {
    /// Samples per second.
    pub rate: u32,
    /// Samples of a window.
    pub n_fft: usize,
    /// Samples between frames.
    pub hop: usize,
    /// Mel bins between 0 and half the rate.
    pub bins: usize,
}

impl MelWeights {
    /// A periodic Hann window and Slaney filters of equal area; the signal is mirrored at its ends.
    ///
    /// # Errors
    /// [`KernelError::Unsupported`] for an odd window or a size of 0.
    pub fn slaney(device: &Device, scale: MelScale) -> Result<Self, KernelError> {
        let MelScale {
            rate,
            n_fft,
            hop,
            bins,
        } = scale;
        if n_fft == 0 || n_fft % 2 == 1 || hop == 0 || bins == 0 || rate == 0 {
            return Err(KernelError::unsupported(
                "mel_weights",
                format!("{scale:?}"),
            ));
        }
        let frequencies = n_fft / 2 + 1;
        let basis = |out: usize, sample: usize| {
            let window = 0.5 - 0.5 * (2.0 * PI * sample as f64 / n_fft as f64).cos();
            let turns = (out % frequencies * sample % n_fft) as f64 / n_fft as f64;
            let phase = 2.0 * PI * turns;
            (window
                * if out < frequencies {
                    phase.cos()
                } else {
                    -phase.sin()
                }) as f32
        };
        let basis: Vec<f32> = (0..2 * frequencies * n_fft)
            .map(|at| basis(at / n_fft, at % n_fft))
            .collect();
        let filters = slaney_filters(scale);
        Self::packed(
            device,
            (&basis, n_fft),
            (&filters, bins),
            hop,
            Ends::Mirrored,
        )
    }

    /// Stored bases: `basis` [2*frequencies, 1, n_fft] with the window in it, `filters`
    /// [bins, frequencies]; zeros are put before the signal so that no frame looks ahead.
    ///
    /// # Errors
    /// [`KernelError::Shape`] and [`KernelError::DType`] for other shapes; [`KernelError::Unsupported`]
    /// for a hop of 0 or above the window.
    pub fn stored(
        device: &Device,
        basis: &Tensor,
        filters: &Tensor,
        hop: usize,
    ) -> Result<Self, KernelError> {
        const OP: &str = "mel_weights";
        let [doubled, one, n_fft] = basis.expect_rank(OP, "basis")?;
        let [_, frequencies] = filters.expect_rank(OP, "filters")?;
        if doubled != 2 * frequencies || one != 1 {
            let expected = [2 * frequencies, 1, n_fft];
            return Err(KernelError::shape(OP, "basis", expected, basis.dims()));
        }
        if hop == 0 || hop > n_fft {
            return Err(KernelError::unsupported(
                OP,
                format!("hop {hop} of window {n_fft}"),
            ));
        }
        let (basis, bins) = (basis.values()?, filters.dims()[0]);
        let filters = filters.values()?;
        Self::packed(device, (&basis, n_fft), (&filters, bins), hop, Ends::Causal)
    }

    /// Bases [2 * frequencies, n_fft] and filters [bins, frequencies] as the device wants them.
    fn packed(
        device: &Device,
        (basis, n_fft): (&[f32], usize),
        (filters, bins): (&[f32], usize),
        hop: usize,
        ends: Ends,
    ) -> Result<Self, KernelError> {
        let (doubled, frequencies) = (basis.len() / n_fft, filters.len() / bins);
        let sample = |out: usize, sample: usize, _| basis[out * n_fft + sample];
        let filter = |bin: usize, _, frequency: usize| filters[bin * frequencies + frequency];
        let card = match device {
            Device::Cpu(_) => None,
            Device::Cuda(card) => {
                let found = DeviceMel::upload(card.gpu(), (basis, n_fft), (filters, bins))?;
                Some(found)
            }
        };
        Ok(Self {
            basis: ConvWeights::from_values([1, 1, n_fft], 1, vec![0.0; doubled], sample),
            filters: ConvWeights::from_values([1; 3], frequencies, vec![0.0; bins], filter),
            hop,
            ends,
            card,
        })
    }

    fn n_fft(&self) -> usize {
        self.basis.kernel()[2]
    }

    /// Bytes of its tables, F32 on every device.
    pub fn bytes(&self) -> u64 {
        let values = |table: &ConvWeights| {
            let taps: usize = table.kernel().iter().product();
            table.out_channels() * table.in_channels() * taps
        };
        (values(&self.basis) + values(&self.filters)) as u64 * size_of::<f32>() as u64
    }

    /// Number of mel bins.
    pub fn bins(&self) -> usize {
        self.filters.out_channels()
    }

    /// Samples before and after the signal.
    fn pads(&self) -> [usize; 2] {
        match self.ends {
            Ends::Mirrored => [self.n_fft() / 2; 2],
            Ends::Causal => [self.n_fft() - self.hop, 0],
        }
    }

    /// Frames of a signal of `samples`.
    pub fn frames(&self, samples: usize) -> usize {
        let padded = samples + self.pads().iter().sum::<usize>();
        padded
            .checked_sub(self.n_fft())
            .map_or(0, |rest| rest / self.hop + 1)
    }
}

/// Writes the log-mel spectrogram of `x` [channel, sample] to `out` [channel, frame, bin].
///
/// # Errors
/// [`KernelError::Shape`] and [`KernelError::DType`] for tensors that do not fit each other;
/// [`KernelError::Unsupported`] for a signal too short to be mirrored.
pub fn stft_mel(
    device: &Device,
    x: &Tensor,
    weights: &MelWeights,
    out: &mut Tensor,
) -> Result<(), KernelError> {
    const OP: &str = "stft_mel";
    let [channels, samples] = x.expect_rank(OP, "x")?;
    out.expect_f32(
        OP,
        "out",
        &[channels, weights.frames(samples), weights.bins()],
    )?;
    if weights.ends == Ends::Mirrored && samples <= weights.n_fft() / 2 {
        let why = format!(
            "{samples} samples under a mirrored window of {}",
            weights.n_fft()
        );
        return Err(KernelError::unsupported(OP, why));
    }
    if out.count() > 0 {
        match (device, &weights.card) {
            (Device::Cpu(cpu), _) => on_cpu(cpu, x.f32s(), samples, weights, out.f32s_mut()),
            (Device::Cuda(card), Some(mel)) => {
                let frames = cuda::Frames {
                    count: weights.frames(samples),
                    hop: weights.hop,
                    left: weights.pads()[0],
                    mirrored: weights.ends == Ends::Mirrored,
                };
                return cuda::stft_mel(card.gpu(), &card.floats(x)?, mel, frames, &card.own(out)?);
            }
            (Device::Cuda(_), None) => return Err(mismatch("a card", "the processor")),
        }
    }
    Ok(())
}

fn on_cpu(cpu: &Cpu, x: &[f32], samples: usize, weights: &MelWeights, out: &mut [f32]) {
    let [left, right] = weights.pads();
    let mode = if weights.ends == Ends::Mirrored {
        SpacePad::Reflect
    } else {
        SpacePad::Zero
    };
    let border = Border {
        top: 0,
        bottom: 0,
        left,
        right,
        mode,
    };
    let source = padded(cpu, x, [1, samples, 1], border, Prologue::None);
    let (frames, n_fft) = (weights.frames(samples), weights.n_fft());
    let frequencies = weights.filters.in_channels();
    let mut spectrum = vec![0.0; out.len() / weights.bins() * 2 * frequencies];
    let core = Core {
        weights: &weights.basis,
        row_pixels: frames,
        step: weights.hop,
        taps: 1,
        run: n_fft,
    };
    let start = |row, _| Some(row * (samples + left + right));
    convolve(cpu, &source, core, start, None, &mut spectrum);
    let magnitude: Vec<f32> = spectrum
        .chunks_exact(2 * frequencies)
        .flat_map(|frame| {
            let (real, imaginary) = frame.split_at(frequencies);
            real.iter()
                .zip(imaginary)
                .map(|(re, im)| (re * re + im * im).sqrt())
        })
        .collect();
    let core = Core {
        weights: &weights.filters,
        row_pixels: frames,
        step: frequencies,
        taps: 1,
        run: frequencies,
    };
    convolve(
        cpu,
        &magnitude,
        core,
        |row, _| Some(row * frames * frequencies),
        None,
        out,
    );
    out.iter_mut()
        .for_each(|value| *value = value.max(FLOOR).ln());
}

/// Triangles between neighbouring mel frequencies, [bin, frequency], each of area 2/width in hertz.
fn slaney_filters(scale: MelScale) -> Vec<f32> {
    let (nyquist, bins) = (f64::from(scale.rate) / 2.0, scale.bins);
    let top = hertz_to_mel(nyquist);
    let corner = |i: usize| mel_to_hertz(top * i as f64 / (bins + 1) as f64);
    let frequencies = scale.n_fft / 2 + 1;
    let mut filters = Vec::with_capacity(bins * frequencies);
    for bin in 0..bins {
        let (low, middle, high) = (corner(bin), corner(bin + 1), corner(bin + 2));
        for frequency in 0..frequencies {
            let hertz = nyquist * frequency as f64 / (frequencies - 1) as f64;
            let rise = (hertz - low) / (middle - low);
            let fall = (high - hertz) / (high - middle);
            filters.push((rise.min(fall).max(0.0) * 2.0 / (high - low)) as f32);
        }
    }
    filters
}

/// Hertz per mel of the linear part, and where the logarithmic part begins.
const HERTZ_PER_MEL: f64 = 200.0 / 3.0;
const BREAK_HERTZ: f64 = 1000.0;
const BREAK_MEL: f64 = BREAK_HERTZ / HERTZ_PER_MEL;

/// Mels per natural logarithm above the break: 27 mels for a factor of 6.4.
fn mels_per_log() -> f64 {
    27.0 / 6.4f64.ln()
}

fn hertz_to_mel(hertz: f64) -> f64 {
    if hertz < BREAK_HERTZ {
        hertz / HERTZ_PER_MEL
    } else {
        BREAK_MEL + (hertz / BREAK_HERTZ).ln() * mels_per_log()
    }
}

fn mel_to_hertz(mel: f64) -> f64 {
    if mel < BREAK_MEL {
        mel * HERTZ_PER_MEL
    } else {
        BREAK_HERTZ * ((mel - BREAK_MEL) / mels_per_log()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{noise, tensor};

    const SCALE: MelScale = MelScale {
        rate: 16_000,
        n_fft: 1024,
        hop: 160,
        bins: 64,
    };

    #[test]
    fn a_tone_lights_the_bin_that_holds_its_frequency() {
        let device = Device::cpu(2).unwrap();
        let weights = MelWeights::slaney(&device, SCALE).unwrap();
        for hertz in [300.0, 1000.0, 4000.0] {
            let wave = |i: usize| (2.0 * PI * hertz * i as f64 / 16_000.0).sin() as f32;
            let x = tensor(&[1, 4000], (0..4000).map(wave).collect());
            let mut out = Tensor::zeros_f32(&device, &[1, weights.frames(4000), 64]).unwrap();
            stft_mel(&device, &x, &weights, &mut out).unwrap();
            let frame = &out.f32s()[10 * 64..11 * 64];
            let loudest = (0..64)
                .max_by(|a, b| frame[*a].total_cmp(&frame[*b]))
                .unwrap();
            let expected = hertz_to_mel(hertz) / hertz_to_mel(8000.0) * 65.0 - 1.0;
            assert!(
                (loudest as f64 - expected).abs() <= 1.0,
                "{hertz} Hz in bin {loudest}"
            );
        }
    }

    #[test]
    fn silence_is_the_floor() {
        let device = Device::cpu(1).unwrap();
        let weights = MelWeights::slaney(&device, SCALE).unwrap();
        assert_eq!(weights.frames(3330), 21);
        let mut out = noise(1, &[2, 21, 64]);
        stft_mel(
            &device,
            &tensor(&[2, 3330], vec![0.0; 6660]),
            &weights,
            &mut out,
        )
        .unwrap();
        assert!(out.f32s().iter().all(|value| *value == FLOOR.ln()));
    }

    #[test]
    fn signals_and_bases_that_do_not_fit_are_refused() {
        let device = Device::cpu(1).unwrap();
        let weights = MelWeights::slaney(&device, SCALE).unwrap();
        let mut out = noise(1, &[1, weights.frames(500), 64]);
        assert!(stft_mel(&device, &noise(2, &[1, 500]), &weights, &mut out).is_err());
        assert!(
            MelWeights::slaney(
                &device,
                MelScale {
                    n_fft: 1023,
                    ..SCALE
                }
            )
            .is_err()
        );
        let (basis, filters) = (noise(3, &[66, 1, 64]), noise(4, &[16, 32]));
        assert!(MelWeights::stored(&device, &basis, &filters, 10).is_err());
        let filters = noise(4, &[16, 33]);
        assert!(MelWeights::stored(&device, &basis, &filters, 0).is_err());
        let stored = MelWeights::stored(&device, &basis, &filters, 10).unwrap();
        assert_eq!(stored.frames(90), 9);
    }
}
