//! The codecs of the model alone: a film through the video and the audio autoencoder and back.

use std::path::Path;

use anyhow::{Context, Result};
use diffusion::audio_vae::{AudioDecoder, AudioEncoder};
use diffusion::video_vae::{VideoDecoder, VideoEncoder};
use diffusion::vocoder::Vocoder;
use diffusion::weights::Component;
use kernels::stft_mel::{MelScale, MelWeights, stft_mel};
use kernels::{Device, Tensor};

use super::film::Film;

/// Window of the spectrogram, samples.
const N_FFT: usize = 1024;
/// Side and step of the windows of structural similarity, pixels.
const SSIM_WINDOW: usize = 7;
const SSIM_STEP: usize = 2;
/// Every how many frames similarity is measured.
const SSIM_FRAMES: usize = 4;

/// Encoders and decoders on one thread; may be used from many.
pub struct Codec {
    device: Device,
    video: (VideoEncoder, VideoDecoder),
    audio: (AudioEncoder, AudioDecoder),
    vocoder: Vocoder,
    mel: MelWeights,
    hop: usize,
    bins: usize,
}

/// How well a film survives the codecs.
pub struct Fidelity {
    /// dB over all frames.
    pub psnr: f64,
    /// Structural similarity of the luminance, 0..1.
    pub ssim: f64,
    /// Mean difference of the log-mel spectrograms after the autoencoder, ln units.
    pub mel_l1: f64,
    /// The same for the spectrograms of the waveforms, after autoencoder and vocoder.
    pub wave_mel_l1: f64,
    /// dB of frame 0 alone.
    pub first_frame_psnr: f64,
}

impl Codec {
    /// Opens the parts `vae`, `audio_vae` and `vocoder` of the weights in `dir`.
    pub fn open(dir: &Path) -> Result<Codec> {
        let device = Device::cpu(1).context("cannot start the compute threads")?;
        let part = |name| Component::open(dir, name).with_context(|| format!("cannot open {name}"));
        let (video, audio, vocoder) = (part("vae")?, part("audio_vae")?, part("vocoder")?);
        let decoder = AudioDecoder::load(&audio, &device)?;
        let (rate, hop) = (decoder.sample_rate(), decoder.hop());
        let bins = audio.config().get("mel_bins", 64usize)?;
        Ok(Codec {
            video: (
                VideoEncoder::load(&video, &device)?,
                VideoDecoder::load(&video, &device)?,
            ),
            audio: (AudioEncoder::load(&audio, &device)?, decoder),
            vocoder: Vocoder::load(&vocoder, &device)?,
            mel: MelWeights::slaney(
                &device,
                MelScale {
                    rate,
                    n_fft: N_FFT,
                    hop,
                    bins,
                },
            )?,
            device,
            hop,
            bins,
        })
    }

    /// The film after encoding and decoding, and what that cost it.
    pub fn round_trip(&self, film: &Film) -> Result<(Film, Fidelity)> {
        let rgb = self.pictures(film)?;
        let mel = self.log_mel(&film.samples)?;
        let spectrogram = self.spectrogram(&mel)?;
        let mut samples = self.vocoder.wave(&spectrogram)?.f32s().to_vec();
        samples.resize(film.samples.len(), 0.0);
        let heard = self.log_mel(&samples)?;
        let back = Film {
            rgb,
            samples,
            ..film.clone()
        };
        let fidelity = Fidelity {
            psnr: psnr(&film.rgb, &back.rgb),
            ssim: ssim(film, &back),
            mel_l1: mean_difference(spectrogram.f32s(), mel.f32s()),
            wave_mel_l1: mean_difference(heard.f32s(), mel.f32s()),
            first_frame_psnr: psnr(film.frame(0), back.frame(0)),
        };
        Ok((back, fidelity))
    }

    fn pictures(&self, film: &Film) -> Result<Vec<u8>> {
        let (encoder, decoder) = &self.video;
        let latents = encoder.latents(&film.rgb, [film.frames(), film.height, film.width])?;
        let per = encoder.compression();
        let grid = [
            (film.frames() - 1) / per.time + 1,
            film.height / per.space,
            film.width / per.space,
        ];
        Ok(decoder.frames(&latents, grid)?.u8s().to_vec())
    }

    /// Spectrogram [1, row, bin] through the audio autoencoder: [1, row, bin, 1], up to three rows fewer.
    fn spectrogram(&self, mel: &Tensor) -> Result<Tensor> {
        let (encoder, decoder) = &self.audio;
        // The decoder gives one row for the first latent and four for each that follows.
        let rows = (mel.dims()[1] - 1) / 4 * 4 + 1;
        let values = mel.f32s()[..rows * self.bins].to_vec();
        let cut = Tensor::from_f32(&self.device, &[1, rows, self.bins, 1], values)?;
        Ok(decoder.spectrogram(&encoder.latents(&cut)?)?)
    }

    /// [1, samples / hop + 1, bin], natural logarithm.
    fn log_mel(&self, samples: &[f32]) -> Result<Tensor> {
        let x = Tensor::from_f32(&self.device, &[1, samples.len()], samples.to_vec())?;
        let mut out =
            Tensor::zeros_f32(&self.device, &[1, samples.len() / self.hop + 1, self.bins])?;
        stft_mel(&self.device, &x, &self.mel, &mut out)?;
        Ok(out)
    }
}

/// Mean absolute difference over the length of the shorter one.
fn mean_difference(a: &[f32], b: &[f32]) -> f64 {
    let sum: f64 = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).sum();
    sum / a.len().min(b.len()) as f64
}

/// Peak signal-to-noise ratio of two equally large byte pictures, dB; 99 for equal ones.
pub fn psnr(a: &[u8], b: &[u8]) -> f64 {
    let sum: f64 = a
        .iter()
        .zip(b)
        .map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2))
        .sum();
    let error = sum / a.len() as f64;
    if error > 0.0 {
        (10.0 * (255.0 * 255.0 / error).log10()).min(99.0)
    } else {
        99.0
    }
}

/// Structural similarity (Wang et al. 2004) of the luminance in square windows, mean over every fourth frame.
fn ssim(a: &Film, b: &Film) -> f64 {
    let luma = |film: &Film, i: usize| -> Vec<f64> {
        let pixels = film.frame(i).chunks_exact(3);
        pixels
            .map(|p| 0.299 * f64::from(p[0]) + 0.587 * f64::from(p[1]) + 0.114 * f64::from(p[2]))
            .collect()
    };
    let (mut sum, mut count) = (0.0, 0.0);
    for i in (0..a.frames()).step_by(SSIM_FRAMES) {
        let (x, y) = (luma(a, i), luma(b, i));
        for top in (0..=a.height - SSIM_WINDOW).step_by(SSIM_STEP) {
            for left in (0..=a.width - SSIM_WINDOW).step_by(SSIM_STEP) {
                let at = |k: usize| (top + k / SSIM_WINDOW) * a.width + left + k % SSIM_WINDOW;
                let window = (0..SSIM_WINDOW * SSIM_WINDOW).map(|k| (x[at(k)], y[at(k)]));
                sum += similarity(window);
                count += 1.0;
            }
        }
    }
    sum / count
}

fn similarity(window: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (c1, c2) = ((0.01f64 * 255.0).powi(2), (0.03f64 * 255.0).powi(2));
    let (mut n, mut x, mut y, mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
    for (a, b) in window {
        n += 1.0;
        x += a;
        y += b;
        xx += a * a;
        yy += b * b;
        xy += a * b;
    }
    let (x, y) = (x / n, y / n);
    let (vx, vy, cov) = (xx / n - x * x, yy / n - y * y, xy / n - x * y);
    (2.0 * x * y + c1) * (2.0 * cov + c2) / ((x * x + y * y + c1) * (vx + vy + c2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::oracle;
    use crate::eval::scene::SceneList;

    #[test]
    fn equal_pictures_are_alike_and_noisy_ones_less() {
        let film = oracle::film(&SceneList::builtin().scenes[0]);
        assert_eq!(psnr(&film.rgb, &film.rgb), 99.0);
        assert!((ssim(&film, &film) - 1.0).abs() < 1e-9);
        let mut noisy = film.clone();
        noisy
            .rgb
            .iter_mut()
            .enumerate()
            .for_each(|(i, v)| *v = v.saturating_add((i % 7) as u8 * 5));
        assert!(ssim(&film, &noisy) < 0.9);
        // An error of 10 everywhere is 28.13 dB.
        assert!((psnr(&[100; 300], &[110; 300]) - 28.13).abs() < 0.01);
    }
}
