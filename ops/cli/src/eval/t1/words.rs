//! Words that are heard: pieces between silences, each compared with every word by dynamic time warping.

use crate::eval::sound::{self, Spectrum};

/// Sound below this share of the loudest is silence; pieces nearer than the gap are one, shorter ones none. Hops of 5 ms.
const SILENCE_SHARE: f64 = 0.06;
const GAP_HOPS: usize = 32;
const WORD_HOPS_MIN: usize = 20;
/// Every how many hops one frame is compared.
const STRIDE: usize = 2;
/// Range of a band below its piece's loudest, in powers of e.
const RANGE: f64 = 4.5;
/// Sound quieter than this is no word.
const LOUD_MIN: f64 = 0.01;

type Frames = Vec<Vec<f64>>;

/// Every word in every voice.
pub struct Templates(Vec<(String, Frames)>);

impl Templates {
    /// Each sound has one word.
    pub fn new(sounds: &[(String, Vec<f32>)]) -> Templates {
        let frames_of = |(word, samples): &(String, Vec<f32>)| {
            let spectra = sound::spectra(samples, 16_000);
            let spoken = pieces(&spectra).into_iter().max_by_key(|p| p.1 - p.0);
            spoken.map(|(from, to)| (word.clone(), frames(&spectra[from..to])))
        };
        Templates(sounds.iter().filter_map(frames_of).collect())
    }

    /// The most similar word of each piece between silences.
    pub fn recognise(&self, samples: &[f32], rate: u32) -> Vec<String> {
        let spectra = sound::spectra(samples, rate);
        let word = |(from, to): (usize, usize)| {
            let heard = frames(&spectra[from..to]);
            let scored = self
                .0
                .iter()
                .map(|(word, known)| (warped(&heard, known), word));
            scored
                .min_by(|a, b| a.0.total_cmp(&b.0))
                .map(|best| best.1.clone())
        };
        pieces(&spectra).into_iter().filter_map(word).collect()
    }
}

fn level(s: &Spectrum) -> f64 {
    s.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// Start and end of every piece of sound between silences.
fn pieces(spectra: &[Spectrum]) -> Vec<(usize, usize)> {
    let levels: Vec<f64> = spectra.iter().map(level).collect();
    let loudest = levels.iter().copied().fold(0.0, f64::max);
    if loudest < LOUD_MIN {
        return vec![];
    }
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (i, _) in levels
        .iter()
        .enumerate()
        .filter(|l| *l.1 > SILENCE_SHARE * loudest)
    {
        match found.last_mut() {
            Some(last) if i - last.1 <= GAP_HOPS => last.1 = i + 1,
            _ => found.push((i, i + 1)),
        }
    }
    found.retain(|p| p.1 - p.0 >= WORD_HOPS_MIN);
    found
}

/// Logarithms of the bands below the piece's loudest, 0 at the loudest and -RANGE at the floor.
fn frames(spectra: &[Spectrum]) -> Frames {
    let loudest = spectra.iter().flatten().copied().fold(1e-9, f64::max);
    let log = |v: &f64| (v / loudest).max(1e-9).ln().max(-RANGE);
    spectra
        .iter()
        .step_by(STRIDE)
        .map(|s| s.iter().map(log).collect())
        .collect()
}

/// Mean distance along the best alignment of two words; each step may stretch either.
fn warped(a: &Frames, b: &Frames) -> f64 {
    let distance = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(p, q)| (p - q).abs()).sum::<f64>();
    let mut last = vec![f64::INFINITY; b.len() + 1];
    last[0] = 0.0;
    for x in a {
        let mut row = vec![f64::INFINITY; b.len() + 1];
        for (j, y) in b.iter().enumerate() {
            let d = distance(x, y);
            // A diagonal step passes a frame of both, so it counts twice.
            row[j + 1] = (last[j] + 2.0 * d).min(last[j + 1] + d).min(row[j] + d);
        }
        last = row;
    }
    last[b.len()] / (a.len() + b.len()).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tones one after another, each so many seconds, then silence.
    fn tones(parts: &[(f64, f64)]) -> Vec<f32> {
        let mut out = vec![0.0; 3200];
        for &(hz, seconds) in parts {
            let n = (seconds * 16_000.0) as usize;
            let wave =
                |i: usize| (0.4 * (std::f64::consts::TAU * hz * i as f64 / 16_000.0).sin()) as f32;
            out.extend((0..n).map(wave));
        }
        out.extend([0.0; 4800]);
        out
    }

    #[test]
    fn a_word_is_known_when_it_is_said_slower_and_its_neighbour_too() {
        let named = |name: &str, parts: &[(f64, f64)]| (name.to_owned(), tones(parts));
        let known = Templates::new(&[
            named("up", &[(300.0, 0.15), (1400.0, 0.15)]),
            named("down", &[(1400.0, 0.15), (300.0, 0.15)]),
        ]);
        let mut said = tones(&[(310.0, 0.22), (1380.0, 0.13)]);
        said.extend(tones(&[(1400.0, 0.18), (300.0, 0.2)]));
        assert_eq!(known.recognise(&said, 16_000), ["up", "down"]);
        assert!(known.recognise(&[0.0; 16_000], 16_000).is_empty());
    }
}
