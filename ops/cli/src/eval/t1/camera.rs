//! What the camera does: how far the floor's tiles move in the left and in the right half of the picture.
//!
//! The rows below the contact line show tiles and no body. A pan moves both halves alike, a zoom apart.

use crate::eval::film::Film;

/// Frames between two pictures that are compared, and the farthest shift between them in pixels.
const STRIDE: usize = 6;
const REACH: i32 = 7;
/// Rows at the bottom edge that are averaged, as a share of the short side.
const ROWS_SHARE: f64 = 0.07;
/// Least movement over the film, as a share of the short side.
const PAN_SHARE: f64 = 0.06;
const ZOOM_SHARE: f64 = 0.022;
/// A profile flatter than this many grey levels tells nothing.
const CONTRAST_MIN: f64 = 0.4;

/// Movement of the picture over the film, in pixels to the right.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moves {
    left: f64,
    right: f64,
    short_side: f64,
}

impl Moves {
    /// The word for it.
    pub fn name(&self) -> &'static str {
        let (pan, zoom) = (
            (self.left + self.right) / 2.0,
            (self.right - self.left) / 2.0,
        );
        if pan.abs() > PAN_SHARE * self.short_side {
            // The picture moves against the camera.
            return if pan > 0.0 { "pan_left" } else { "pan_right" };
        }
        match zoom {
            z if z > ZOOM_SHARE * self.short_side => "zoom_in",
            z if z < -ZOOM_SHARE * self.short_side => "zoom_out",
            _ => "static",
        }
    }
}

pub fn moves(film: &Film) -> Moves {
    let short_side = film.width.min(film.height) as f64;
    let rows = (ROWS_SHARE * short_side).round().max(2.0) as usize;
    let profiles: Vec<Vec<f64>> = (0..film.frames()).map(|i| profile(film, i, rows)).collect();
    let half = film.width / 2;
    let mut moves = Moves {
        left: 0.0,
        right: 0.0,
        short_side,
    };
    for pair in (0..film.frames())
        .step_by(STRIDE)
        .collect::<Vec<_>>()
        .windows(2)
    {
        let (a, b) = (&profiles[pair[0]], &profiles[pair[1]]);
        moves.left += shift(&a[..half], &b[..half]);
        moves.right += shift(&a[half..], &b[half..]);
    }
    moves
}

/// Mean brightness of each column over the lowest rows.
fn profile(film: &Film, frame: usize, rows: usize) -> Vec<f64> {
    let line = film.width * 3;
    let bottom = &film.frame(frame)[(film.height - rows) * line..];
    let mut out = vec![0.0; film.width];
    for row in bottom.chunks_exact(line) {
        for (sum, p) in out.iter_mut().zip(row.chunks_exact(3)) {
            *sum += (f64::from(p[0]) + f64::from(p[1]) + f64::from(p[2])) / (3 * rows) as f64;
        }
    }
    out
}

/// Shift to the right from `a` to `b` with the least squared difference, between pixels by a parabola.
fn shift(a: &[f64], b: &[f64]) -> f64 {
    let mean = a.iter().sum::<f64>() / a.len() as f64;
    let spread = (a.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / a.len() as f64).sqrt();
    if spread < CONTRAST_MIN {
        return 0.0;
    }
    let cost = |s: i32| {
        let pairs = (0..a.len() as i32).filter(|i| (0..b.len() as i32).contains(&(i + s)));
        let (sum, n) = pairs.fold((0.0, 0.0), |(sum, n), i| {
            (sum + (a[i as usize] - b[(i + s) as usize]).powi(2), n + 1.0)
        });
        sum / n
    };
    let costs: Vec<f64> = (-REACH..=REACH).map(cost).collect();
    let best = (0..costs.len())
        .min_by(|&i, &j| costs[i].total_cmp(&costs[j]))
        .unwrap_or(0);
    let whole = best as f64 - f64::from(REACH);
    if best == 0 || best + 1 == costs.len() {
        return whole;
    }
    let (l, m, r) = (costs[best - 1], costs[best], costs[best + 1]);
    let bend = l - 2.0 * m + r;
    whole
        + if bend > 1e-9 {
            (l - r) / (2.0 * bend)
        } else {
            0.0
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A floor of tiles, 20 pixels wide, seen by a camera: column -> place on the floor at each share of the film.
    fn film(place: impl Fn(f64, f64) -> f64) -> Film {
        let (width, height, frames) = (128, 64, 49);
        let mut rgb = Vec::new();
        for i in 0..frames {
            for at in 0..width * height {
                let x = place((at % width) as f64 + 0.5, f64::from(i) / 48.0);
                let tile = (x / 20.0).rem_euclid(2.0) - 1.0;
                rgb.extend([(150.0 + 20.0 * (tile * 8.0).clamp(-1.0, 1.0)) as u8; 3]);
            }
        }
        Film {
            width,
            height,
            fps: 16.0,
            rgb,
            samples: vec![],
            rate: 16_000,
        }
    }

    #[test]
    fn each_movement_has_its_name() {
        let zoom = |z: f64| move |x: f64, s: f64| (x - 64.0) / (1.0 + z * s) + 64.0;
        let cases: [(&str, Film); 5] = [
            ("static", film(|x, _| x)),
            ("pan_right", film(|x, s| x + 20.0 * s)),
            ("pan_left", film(|x, s| x - 20.0 * s)),
            ("zoom_in", film(zoom(0.25))),
            ("zoom_out", film(zoom(-0.2))),
        ];
        for (name, film) in &cases {
            let moves = moves(film);
            assert_eq!(moves.name(), *name, "{moves:?}");
        }
    }

    #[test]
    fn a_picture_without_tiles_stands() {
        let mut grey = film(|x, _| x);
        grey.rgb.fill(128);
        assert_eq!(moves(&grey).name(), "static");
    }
}
