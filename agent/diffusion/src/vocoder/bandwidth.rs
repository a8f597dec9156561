//! Bandwidth extension: the sound of the first generator, resampled, plus what a second generator
//! makes of its spectrogram.

use kernels::activation::{Activation, activation};
use kernels::resample1d::{Fir, upsample1d};
use kernels::sampling::axpby;
use kernels::stft_mel::{MelWeights, stft_mel};
use kernels::{Device, KernelError, Tensor};

use crate::convolution::{Source, refused};
use crate::weights::WeightsError;

use super::config::BandwidthLayout;
use super::generator::Generator;

/// The second half of `LTX2VocoderWithBWE`.
#[derive(Debug)]
pub(super) struct Bandwidth {
    generator: Generator,
    mel: MelWeights,
    resampler: Fir,
    hop: usize,
    sample_rate: u32,
}

impl Bandwidth {
    pub fn load(source: Source<'_>, layout: BandwidthLayout) -> Result<Self, WeightsError> {
        let frequencies = layout.window / 2 + 1;
        let name = "mel_stft.stft_fn.forward_basis";
        let basis = source.tensor(name, &[2 * frequencies, 1, layout.window])?;
        let filters = source.tensor("mel_stft.mel_basis", &[layout.bins, frequencies])?;
        let mel = MelWeights::stored(source.device, &basis, &filters, layout.hop)
            .map_err(|error| refused(name, error))?;
        Ok(Self {
            generator: Generator::load(source, "bwe_generator.", layout.generator)?,
            mel,
            resampler: hann_sinc((layout.out_rate / layout.in_rate) as usize),
            hop: layout.hop,
            sample_rate: layout.out_rate,
        })
    }

    /// Rows of the spectrogram of so many samples at the lower rate, and the ratio of both rates.
    pub fn rows_and_ratio(&self, samples: usize) -> (usize, usize) {
        let rows = self.mel.frames(samples.next_multiple_of(self.hop));
        (rows, self.resampler.ratio)
    }

    pub fn generator(&self) -> &Generator {
        &self.generator
    }

    pub fn sample_rate(&self) -> u32 {
        self.sample_rate
    }

    pub fn out_channels(&self) -> usize {
        self.generator.out_channels()
    }

    /// `wave` [1, sample, channel] at the lower rate to [1, ratio*sample, channel].
    pub fn extend(&self, device: &Device, wave: Tensor) -> Result<Tensor, KernelError> {
        let [batch, samples, channels]: [usize; 3] = wave.expect_rank("vocoder", "wave")?;
        let whole = samples.next_multiple_of(self.hop);
        let mut values = wave.values()?.into_owned();
        values.resize(batch * whole * channels, 0.0);
        let wave = Tensor::from_f32(device, &[batch, whole, channels], values)?;

        let mut sum = Tensor::zeros_f32(device, &[batch, whole * self.resampler.ratio, channels])?;
        upsample1d(device, &wave, &self.resampler, &mut sum)?;
        let added = self
            .generator
            .forward(device, &self.spectrogram(device, &wave)?)?;
        added.expect_f32("vocoder", "added bands", sum.dims())?;
        axpby(device, 1.0, &mut sum, 1.0, &added)?;
        activation(
            device,
            Activation::Clamp {
                low: -1.0,
                high: 1.0,
            },
            &mut sum,
        )?;

        let length = samples * self.resampler.ratio;
        Tensor::from_f32(
            device,
            &[1, length, channels],
            sum.values()?[..length * channels].to_vec(),
        )
    }

    /// [1, sample, channel] to [1, row, channel*bins].
    fn spectrogram(&self, device: &Device, wave: &Tensor) -> Result<Tensor, KernelError> {
        let [_, samples, channels]: [usize; 3] = wave.expect_rank("vocoder", "wave")?;
        let samples_of = wave.values()?;
        let value = |at: usize| samples_of[at % samples * channels + at / samples];
        let values = (0..samples * channels).map(value).collect();
        let planar = Tensor::from_f32(device, &[channels, samples], values)?;
        let (rows, bins) = (self.mel.frames(samples), self.mel.bins());
        let mut mel = Tensor::zeros_f32(device, &[channels, rows, bins])?;
        stft_mel(device, &planar, &self.mel, &mut mel)?;
        let mel_values = mel.values()?;
        let value = |at: usize| {
            let (row, feature) = (at / (channels * bins), at % (channels * bins));
            mel_values[(feature / bins * rows + row) * bins + feature % bins]
        };
        let values = (0..mel.count()).map(value).collect();
        Tensor::from_f32(device, &[1, rows, channels * bins], values)
    }
}

/// The resampling filter, which is not stored: a sinc under a squared cosine of half width 6,
/// `tap(i) = sinc(t) * cos^2(pi/12 * clamp(t, -6, 6)) * 0.99/ratio`, `t = 0.99*(i/ratio - 7)`.
fn hann_sinc(ratio: usize) -> Fir {
    const ROLLOFF: f64 = 0.99;
    const HALF_WIDTH: f64 = 6.0;
    const WIDTH: usize = 7;
    let tap = |i: usize| {
        let t = (i as f64 / ratio as f64 - WIDTH as f64) * ROLLOFF;
        let angle = std::f64::consts::PI * t;
        let sinc = if t == 0.0 { 1.0 } else { angle.sin() / angle };
        let window =
            (t.clamp(-HALF_WIDTH, HALF_WIDTH) * std::f64::consts::PI / HALF_WIDTH / 2.0).cos();
        (sinc * window * window * ROLLOFF / ratio as f64) as f32
    };
    Fir {
        taps: (0..=2 * WIDTH * ratio).map(tap).collect(),
        ratio,
        left: WIDTH * ratio,
    }
}
