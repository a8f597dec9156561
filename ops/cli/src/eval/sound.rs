//! What is heard in a film: onsets (flux of the spectrum, 5 ms hop) and the material of each.

use std::sync::OnceLock;

use super::oracle::{RATE, ring};
use super::scene::{Material, Size};
use super::stats::median;

const HOP: usize = 80;
/// Window of one spectrum: 16 ms, so a 118 Hz rubber ball has two periods in it.
const WINDOW: usize = 256;
/// Bands of the spectrum that the flux is summed over and materials are compared in, Hz.
const EDGES_HZ: [f64; 15] = [
    60.0, 160.0, 280.0, 430.0, 560.0, 720.0, 950.0, 1200.0, 1600.0, 2100.0, 2700.0, 3400.0, 4400.0,
    5600.0, 7200.0,
];
const BANDS: usize = EDGES_HZ.len() - 1;
/// A flux peak counts from this share of the film's strongest, and this many times above its usual flux.
const ONSET_SHARE: f64 = 0.06;
const ABOVE_NOISE: f64 = 4.0;
/// Onsets nearer than this are one.
const ONSET_GAP_S: f64 = 0.05;
/// Sound below this level (-54 dBFS) is silence.
const SILENCE: f64 = 0.002;

/// One impact that is heard.
#[derive(Clone, Copy, Debug)]
pub struct Onset {
    pub time_s: f64,
    /// Flux, a loudness.
    pub strength: f64,
    pub material: Material,
}

/// Amplitude of each band.
pub type Spectrum = [f64; BANDS];

/// A peak of the flux.
pub struct Peak {
    pub time_s: f64,
    pub strength: f64,
    /// Number of its window.
    pub hop: usize,
}

/// Every onset of a waveform in order of time.
pub fn listen(samples: &[f32], rate: u32) -> Vec<Onset> {
    let spectra = spectra(samples, rate);
    let onset = |peak: Peak| Onset {
        time_s: peak.time_s,
        strength: peak.strength,
        material: material(&spectra, peak.hop),
    };
    let peaks = onsets(samples, &spectra, rate);
    peaks.into_iter().map(onset).collect()
}

/// Peaks of the flux in order of time, at least `ONSET_GAP_S` apart.
pub fn onsets(samples: &[f32], spectra: &[Spectrum], rate: u32) -> Vec<Peak> {
    let flux = flux(spectra);
    let strongest = flux.iter().copied().fold(0.0, f64::max);
    let usual = median(&flux).unwrap_or(0.0);
    let threshold = (ONSET_SHARE * strongest)
        .max(ABOVE_NOISE * usual)
        .max(SILENCE);
    let hop_s = HOP as f64 / f64::from(rate);
    let reach = (ONSET_GAP_S / hop_s / 2.0).round() as usize;
    let mut onsets: Vec<Peak> = Vec::new();
    for i in 0..flux.len() {
        let around = &flux[i.saturating_sub(reach)..(i + reach + 1).min(flux.len())];
        let is_peak = flux[i] > threshold && around.iter().all(|&f| f <= flux[i]);
        if !is_peak {
            continue;
        }
        let time_s = onset_time(samples, rate, i);
        if onsets
            .last()
            .is_none_or(|last| time_s - last.time_s > ONSET_GAP_S)
        {
            onsets.push(Peak {
                time_s,
                strength: flux[i],
                hop: i,
            });
        }
    }
    onsets
}

/// Band amplitudes of every window; window `i` is centred on sample `i * HOP`.
pub fn spectra(samples: &[f32], rate: u32) -> Vec<Spectrum> {
    let table = table(rate);
    let half = WINDOW as isize / 2;
    let mut spectra = Vec::with_capacity(samples.len() / HOP + 1);
    let mut window = vec![0f32; WINDOW];
    for start in (0..samples.len() as isize).step_by(HOP) {
        for (n, value) in window.iter_mut().enumerate() {
            let at = start - half + n as isize;
            *value = if at >= 0 {
                samples.get(at as usize).copied().unwrap_or(0.0)
            } else {
                0.0
            };
        }
        spectra.push(table.bands(&window));
    }
    spectra
}

/// Hann window, and the band of each bin in use.
struct Table {
    hann: Vec<f64>,
    band: [Option<usize>; WINDOW / 2],
}

fn table(rate: u32) -> Table {
    let phase = |n: usize| std::f64::consts::TAU * n as f64 / WINDOW as f64;
    let hann = (0..WINDOW)
        .map(|n| (0.5 - 0.5 * phase(n).cos()) * 4.0 / WINDOW as f64)
        .collect();
    let band = std::array::from_fn(|bin| {
        let hz = bin as f64 * f64::from(rate) / WINDOW as f64;
        EDGES_HZ.windows(2).position(|e| e[0] <= hz && hz < e[1])
    });
    Table { hann, band }
}

impl Table {
    fn bands(&self, window: &[f32]) -> Spectrum {
        let windowed = window
            .iter()
            .zip(&self.hann)
            .map(|(&x, h)| (f64::from(x) * h, 0.0));
        let mut bins: Vec<(f64, f64)> = windowed.collect();
        fft(&mut bins);
        let mut power = [0f64; BANDS];
        for (&(re, im), band) in bins.iter().zip(self.band) {
            if let Some(band) = band {
                power[band] += re * re + im * im;
            }
        }
        power.map(f64::sqrt)
    }
}

/// In-place radix-2 Fourier transform; the length is a power of two.
pub fn fft(x: &mut [(f64, f64)]) {
    let bits = x.len().trailing_zeros();
    for i in 0..x.len() {
        let j = i.reverse_bits() >> (usize::BITS - bits);
        if i < j {
            x.swap(i, j);
        }
    }
    let mut half = 1;
    while half < x.len() {
        let (step_im, step_re) = (-std::f64::consts::PI / half as f64).sin_cos();
        for block in x.chunks_exact_mut(2 * half) {
            let (mut re, mut im) = (1.0, 0.0);
            let (low, high) = block.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                let turned = (b.0 * re - b.1 * im, b.0 * im + b.1 * re);
                *b = (a.0 - turned.0, a.1 - turned.1);
                *a = (a.0 + turned.0, a.1 + turned.1);
                (re, im) = (re * step_re - im * step_im, re * step_im + im * step_re);
            }
        }
        half *= 2;
    }
}

/// Rise of the band amplitudes over 15 ms, summed.
fn flux(spectra: &[Spectrum]) -> Vec<f64> {
    let rise = |i: usize| {
        let before = if i >= 2 { spectra[i - 2] } else { [0.0; BANDS] };
        let after = spectra[(i + 1).min(spectra.len() - 1)];
        after
            .iter()
            .zip(before)
            .map(|(a, b)| (a - b).max(0.0))
            .sum()
    };
    (0..spectra.len()).map(rise).collect()
}

/// The start of the sound near a flux peak: the largest rise of the 3 ms loudness within 15 ms.
fn onset_time(samples: &[f32], rate: u32, peak: usize) -> f64 {
    let (span, reach) = (rate as usize * 3 / 1000, rate as usize * 15 / 1000);
    let centre = peak * HOP;
    let loud = |from: usize, to: usize| -> f64 {
        let piece = &samples[from.min(samples.len())..to.min(samples.len())];
        piece.iter().map(|&v| f64::from(v * v)).sum()
    };
    let score = |at: usize| loud(at, at + span).sqrt() - loud(at.saturating_sub(span), at).sqrt();
    let range = centre.saturating_sub(reach)..centre + reach;
    let best = range
        .step_by(8)
        .max_by(|&a, &b| score(a).total_cmp(&score(b)));
    best.unwrap_or(centre) as f64 / f64::from(rate)
}

/// What a hit adds to the spectrum: the mean of the next 60 ms less the 15 ms before, as a direction.
fn added(spectra: &[Spectrum], peak: usize) -> Spectrum {
    let mean = |from: usize, to: usize| -> Spectrum {
        let piece = &spectra[from.min(spectra.len())..to.min(spectra.len())];
        std::array::from_fn(|b| piece.iter().map(|s| s[b]).sum::<f64>() / piece.len().max(1) as f64)
    };
    let (before, after) = (
        mean(peak.saturating_sub(5), peak.saturating_sub(2)),
        mean(peak + 1, peak + 13),
    );
    let rise: Spectrum = std::array::from_fn(|b| (after[b] - before[b]).max(0.0).sqrt());
    let norm = rise.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
    rise.map(|v| v / norm)
}

/// The material whose modal spectrum, of either size, points most nearly the same way.
fn material(spectra: &[Spectrum], peak: usize) -> Material {
    let heard = added(spectra, peak);
    let likeness =
        |c: &&(Material, Spectrum)| -> f64 { c.1.iter().zip(heard).map(|(a, b)| a * b).sum() };
    let best = centroids()
        .iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    best.expect("there are materials").0
}

/// Spectra of one clean hit of every material and size.
fn centroids() -> &'static [(Material, Spectrum)] {
    static CENTROIDS: OnceLock<Vec<(Material, Spectrum)>> = OnceLock::new();
    CENTROIDS.get_or_init(|| {
        let pairs = Material::ALL
            .iter()
            .flat_map(|&m| Size::ALL.iter().map(move |&s| (m, s)));
        let hit = |(material, size): (Material, Size)| {
            let mut wave = vec![0f64; 4000];
            ring(&mut wave, material, size.radius_m(), 0.05, 0.5);
            let wave: Vec<f32> = wave.into_iter().map(|v| v as f32).collect();
            (
                material,
                added(
                    &spectra(&wave, RATE),
                    (0.05 * f64::from(RATE)) as usize / HOP,
                ),
            )
        };
        pairs.map(hit).collect()
    })
}
