//! The mouth of a character: how far it is open in each frame, and whether that follows the voice.
//!
//! Characters begin to speak after 0.4 s, so the first frames show the mouth at rest; what differs from them
//! in the place of the mouth is its opening.

use super::folder::Place;
use crate::eval::film::Film;

/// Frames before anybody speaks.
const REST_FRAMES: usize = 5;
/// Farthest lag of picture and sound, seconds, and the step in which lags are tried.
const LAG_S: f64 = 0.06;
const LAG_STEP_S: f64 = 0.01;
/// Lips count as closed below this share of the film's widest opening.
const CLOSED_SHARE: f64 = 0.35;

/// Mean difference of the mouth from its rest in each frame, grey levels.
pub fn opening(film: &Film, place: &Place) -> Vec<f64> {
    let [left, right, top, bottom] = place.mouth;
    let at = |row: usize, column: usize| (row * film.width + column) * 3;
    let values = |i: usize| -> Vec<f64> {
        let frame = film.frame(i);
        let rows = (top..bottom).flat_map(|row| (left..right).map(move |column| (row, column)));
        rows.flat_map(|(row, column)| {
            let at = at(row, column);
            [frame[at], frame[at + 1], frame[at + 2]].map(f64::from)
        })
        .collect()
    };
    let frames: Vec<Vec<f64>> = (0..film.frames()).map(values).collect();
    let rest = &frames[..REST_FRAMES.min(frames.len())];
    let n = rest.first().map_or(0, Vec::len);
    let mean: Vec<f64> = (0..n)
        .map(|k| rest.iter().map(|f| f[k]).sum::<f64>() / rest.len() as f64)
        .collect();
    let differs = |f: &Vec<f64>| f.iter().zip(&mean).map(|(a, b)| (a - b).abs()).sum::<f64>();
    frames
        .iter()
        .map(|f| differs(f) / n.max(1) as f64)
        .collect()
}

/// Level of the sound in each step of `LAG_STEP_S`.
pub fn loudness(film: &Film) -> Vec<f64> {
    let step = (f64::from(film.rate) * LAG_STEP_S) as usize;
    let level = |piece: &[f32]| {
        (piece.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / piece.len() as f64).sqrt()
    };
    film.samples.chunks(step).map(level).collect()
}

/// The highest correlation of opening and loudness at a lag of at most `LAG_S`; 0 for a mouth or a voice at rest.
pub fn follows(opening: &[f64], fps: f64, loudness: &[f64]) -> f64 {
    let level = |t: f64| {
        // A frame shows one moment, a voice swells over a tenth of a second.
        let middle = (t / LAG_STEP_S).round() as isize;
        let near = (middle - 4..=middle + 4).filter_map(|i| loudness.get(usize::try_from(i).ok()?));
        let (sum, n) = near.fold((0.0, 0.0), |s, v| (s.0 + v, s.1 + 1.0));
        if n > 0.0 { sum / n } else { 0.0 }
    };
    let lags = (LAG_S / LAG_STEP_S).round() as i32;
    let at_lag = |lag: i32| {
        let heard: Vec<f64> = (0..opening.len())
            .map(|i| level(i as f64 / fps + f64::from(lag) * LAG_STEP_S))
            .collect();
        correlation(opening, &heard)
    };
    (-lags..=lags).map(at_lag).fold(0.0, f64::max)
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len() as f64;
    let mean = |v: &[f64]| v.iter().sum::<f64>() / n;
    let (ma, mb) = (mean(a), mean(b));
    let (mut aa, mut bb, mut ab) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        (aa, bb, ab) = (
            aa + (x - ma).powi(2),
            bb + (y - mb).powi(2),
            ab + (x - ma) * (y - mb),
        );
    }
    if aa > 1e-9 && bb > 1e-12 {
        ab / (aa * bb).sqrt()
    } else {
        0.0
    }
}

/// For each span of pressed lips whether some frame within it shows them closed. A mouth at rest opens never, which counts as no.
pub fn closed(opening: &[f64], fps: f64, spans: &[[f64; 2]]) -> Vec<f64> {
    let widest = opening.iter().copied().fold(0.0, f64::max);
    let is_closed = |span: &[f64; 2]| {
        let frames = opening.iter().enumerate().filter(|(i, _)| {
            let t = *i as f64 / fps;
            t > span[0] && t < span[1]
        });
        widest > 1.0 && frames.map(|f| f.1).any(|&o| o < CLOSED_SHARE * widest)
    };
    spans.iter().map(|s| f64::from(is_closed(s))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Syllables from 0.4 s on, and their loudness `late` seconds later.
    fn spoken(late: f64) -> (Vec<f64>, Vec<f64>) {
        let mouth = |t: f64| {
            if t < 0.4 {
                0.0
            } else {
                20.0 * (7.0 * (t - 0.4)).sin().max(0.0)
            }
        };
        let opening = (0..49).map(|i| mouth(f64::from(i) / 16.0)).collect();
        (
            opening,
            (0..306)
                .map(|i| mouth(f64::from(i) * LAG_STEP_S - late))
                .collect(),
        )
    }

    #[test]
    fn a_mouth_follows_its_own_voice_and_not_a_late_or_a_silent_one() {
        let (opening, loudness) = spoken(0.03);
        assert!(follows(&opening, 16.0, &loudness) > 0.95);
        let (_, late) = spoken(0.4);
        assert!(follows(&opening, 16.0, &late) < 0.3);
        assert_eq!(follows(&opening, 16.0, &[0.0; 306]), 0.0);
        assert_eq!(follows(&[0.0; 49], 16.0, &loudness), 0.0);
    }

    #[test]
    fn lips_are_closed_where_the_opening_is_small() {
        let mut opening = vec![0.0, 0.0, 20.0, 2.0, 20.0, 20.0];
        assert_eq!(
            closed(&opening, 16.0, &[[0.18, 0.24], [0.24, 0.33]]),
            [1.0, 0.0]
        );
        opening.fill(0.2);
        assert_eq!(closed(&opening, 16.0, &[[0.18, 0.24]]), [0.0]);
    }
}
