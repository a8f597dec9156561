//! What is hit: every onset with the material whose ring is most like it, spectrum and decay together.

use crate::eval::sound::{self, Spectrum};

/// Windows after an onset, in hops of 5 ms: while it rings fully, and what is left later.
const EARLY: std::ops::Range<usize> = 1..6;
const LATE: std::ops::Range<usize> = 12..22;

/// Onsets below this share of the strongest are rain, wind or rolling.
const FAINT_SHARE: f64 = 0.12;

/// One impact that is heard.
#[derive(Clone, Debug)]
pub struct Hit {
    pub time_s: f64,
    /// Flux, a loudness.
    pub strength: f64,
    pub material: String,
}

type Ring = Vec<f64>;

/// Rings of clean hits, by material.
pub struct Templates(Vec<(String, Ring)>);

impl Templates {
    /// Each sound has one hit, 0.1 s after its start.
    pub fn new(sounds: &[(String, Vec<f32>)]) -> Templates {
        let ring_of = |(material, samples): &(String, Vec<f32>)| {
            let spectra = sound::spectra(samples, 16_000);
            let onset = sound::onsets(samples, &spectra, 16_000)
                .first()
                .map_or(20, |o| o.hop);
            (material.clone(), ring(&spectra, onset))
        };
        Templates(sounds.iter().map(ring_of).collect())
    }

    pub fn listen(&self, samples: &[f32], rate: u32) -> Vec<Hit> {
        let spectra = sound::spectra(samples, rate);
        let hit = |onset: sound::Peak| {
            let heard = ring(&spectra, onset.hop);
            let likeness = |r: &Ring| r.iter().zip(&heard).map(|(a, b)| a * b).sum::<f64>();
            let best = self
                .0
                .iter()
                .max_by(|a, b| likeness(&a.1).total_cmp(&likeness(&b.1)));
            best.map(|b| Hit {
                time_s: onset.time_s,
                strength: onset.strength,
                material: b.0.clone(),
            })
        };
        let onsets = sound::onsets(samples, &spectra, rate);
        let strongest = onsets.iter().map(|o| o.strength).fold(0.0, f64::max);
        let loud = onsets
            .into_iter()
            .filter(|o| o.strength >= FAINT_SHARE * strongest);
        loud.filter_map(hit).collect()
    }
}

/// What a hit adds to the spectrum early and late, as one direction: its decay is the ratio of the two.
fn ring(spectra: &[Spectrum], onset: usize) -> Ring {
    let mean = |from: usize, to: usize| -> Spectrum {
        let piece = &spectra[from.min(spectra.len())..to.min(spectra.len())];
        std::array::from_fn(|b| piece.iter().map(|s| s[b]).sum::<f64>() / piece.len().max(1) as f64)
    };
    let before = mean(onset.saturating_sub(6), onset.saturating_sub(2));
    let parts = [EARLY, LATE].map(|w| mean(onset + w.start, onset + w.end));
    let rise = parts.iter().flat_map(|after| {
        after
            .iter()
            .zip(before)
            .map(|(a, b)| (a - b).max(0.0).sqrt())
            .collect::<Vec<_>>()
    });
    let rise: Ring = rise.collect();
    let norm = rise.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
    rise.into_iter().map(|v| v / norm).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A damped sine that starts 0.1 s after the start of half a second.
    fn ringing(hz: f64, tau: f64) -> Vec<f32> {
        let at = |n: i32| {
            let t = f64::from(n) / 16_000.0 - 0.1;
            let sine = 0.5 * (-t / tau).exp() * (std::f64::consts::TAU * hz * t).sin();
            if t < 0.0 { 0.0 } else { sine as f32 }
        };
        (0..8000).map(at).collect()
    }

    #[test]
    fn materials_are_told_apart_by_pitch_and_by_decay() {
        let named = |name: &str, hz, tau| (name.to_owned(), ringing(hz, tau));
        let templates = Templates::new(&[
            named("wood", 500.0, 0.03),
            named("metal", 1500.0, 0.4),
            named("stone", 1500.0, 0.015),
        ]);
        for (hz, tau, name) in [
            (520.0, 0.03, "wood"),
            (1550.0, 0.3, "metal"),
            (1450.0, 0.02, "stone"),
        ] {
            let hits = templates.listen(&ringing(hz, tau), 16_000);
            assert_eq!(hits.len(), 1, "{hits:?}");
            assert_eq!(hits[0].material, name);
            assert!((hits[0].time_s - 0.1).abs() < 0.005);
        }
        assert!(templates.listen(&[0.0; 8000], 16_000).is_empty());
    }
}
