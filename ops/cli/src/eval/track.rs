//! What is seen in a film: bodies with colour, shape, size and path, their count, and the background.
//!
//! Reads pixels only. Shape comes from moments of the opacity instead of template overlap: soft edges add
//! isotropic noise, which leaves the third and fourth complex moments as they are, while template overlap
//! turned small soft squares into circles.

use super::film::Film;
use super::flight::{self, Motion};
use super::scene::{Background, CONTACT_ROW, Color, HORIZON_ROW, Shape, Size};
use super::segment::{self, Backdrop, Blob};

/// Farthest step of a body from frame to frame, metres sideways and up or down.
const STEP_X_M: f64 = 0.4;
const STEP_Y_M: f64 = 1.0;
/// Frames a body may be lost and still be the same body.
const LOST_FRAMES_MAX: usize = 4;
/// A body must be there in this share of the frames.
const PRESENT_SHARE: f64 = 0.3;
/// More bodies than this are not looked at.
const BODIES_MAX: usize = 4;

/// What a viewer sees in a film.
#[derive(Clone)]
pub struct Seen {
    pub background: Background,
    /// The number of blobs that most frames show.
    pub count: usize,
    /// Share of the frames that show this number.
    pub steady: f64,
    /// Bodies that are there long enough, the most present first.
    pub bodies: Vec<Body>,
}

/// One body followed through the film.
#[derive(Clone)]
pub struct Body {
    pub color: Color,
    pub shape: Shape,
    pub size: Size,
    pub motion: Motion,
}

/// Reads a film's pictures.
pub fn look(film: &Film) -> Seen {
    let backdrop = Backdrop::of(film);
    let frames = segment::blobs(film, &backdrop);
    let counts: Vec<usize> = frames.iter().map(Vec::len).collect();
    let count = mode(&counts);
    let steady = counts.iter().filter(|&&n| n == count).count() as f64 / counts.len() as f64;
    let mut tracks = link(&frames, film.pixels_per_metre());
    tracks.retain(|t| t.len() as f64 >= PRESENT_SHARE * frames.len() as f64);
    tracks.sort_by_key(|t| std::cmp::Reverse(t.len()));
    tracks.truncate(BODIES_MAX);
    let bodies = tracks.iter().map(|t| body(film, t)).collect();
    Seen {
        background: background(&backdrop),
        count,
        steady,
        bodies,
    }
}

fn mode(counts: &[usize]) -> usize {
    let votes = |n: usize| counts.iter().filter(|&&c| c == n).count();
    (0..=counts.iter().copied().max().unwrap_or(0))
        .max_by_key(|&n| votes(n))
        .unwrap_or(0)
}

/// A blob with its frame number.
type Sighting<'a> = (usize, &'a Blob);

/// Joins blobs of neighbouring frames into tracks, nearest pairs first.
fn link(frames: &[Vec<Blob>], ppm: f64) -> Vec<Vec<Sighting<'_>>> {
    let mut tracks: Vec<Vec<Sighting>> = Vec::new();
    for (frame, blobs) in frames.iter().enumerate() {
        let mut pairs = Vec::new();
        for (t, track) in tracks.iter().enumerate() {
            let &(last, before) = track.last().expect("a track starts with a blob");
            if frame - last > LOST_FRAMES_MAX {
                continue;
            }
            let gap = (frame - last) as f64;
            for (b, blob) in blobs.iter().enumerate() {
                let (dx, dy) = (
                    (blob.column - before.column).abs() / ppm,
                    (blob.row - before.row).abs() / ppm,
                );
                if dx < STEP_X_M * gap && dy < STEP_Y_M * gap {
                    let hue = blob
                        .rgb
                        .iter()
                        .zip(before.rgb)
                        .map(|(a, b)| (a - b).abs())
                        .sum::<f64>()
                        / 765.0;
                    pairs.push((dx * 2.0 + dy + hue, t, b));
                }
            }
        }
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut taken = vec![false; blobs.len()];
        for (_, t, b) in pairs {
            let is_free = tracks[t].last().is_some_and(|s| s.0 < frame) && !taken[b];
            if is_free {
                tracks[t].push((frame, &blobs[b]));
                taken[b] = true;
            }
        }
        let new = blobs.iter().zip(taken).filter(|(_, taken)| !taken);
        tracks.extend(new.map(|(blob, _)| vec![(frame, blob)]));
    }
    tracks
}

fn body(film: &Film, track: &[Sighting]) -> Body {
    let ppm = film.pixels_per_metre();
    let whole: Vec<&Blob> = track.iter().map(|s| s.1).filter(|b| !b.is_cut).collect();
    let seen = if whole.is_empty() {
        track.iter().map(|s| s.1).collect()
    } else {
        whole
    };
    let color = vote(Color::ALL, seen.iter().map(|b| color_of(b.rgb)));
    let shape = shape_of(&seen);
    let areas: Vec<f64> = seen.iter().map(|b| b.area).collect();
    let area = super::stats::median(&areas).expect("a track has a blob") / (ppm * ppm);
    let line = (film.height - CONTACT_ROW) as f64;
    let path: Vec<_> = track
        .iter()
        .map(|&(i, b)| (i as f64 / film.fps, (line - b.row) / ppm))
        .collect();
    Body {
        color,
        shape,
        size: size_of(area, shape),
        motion: flight::motion(&path, 1.0 / film.fps),
    }
}

fn vote<T: Copy + PartialEq>(all: &[T], votes: impl Iterator<Item = T>) -> T {
    let mut tally = vec![0u32; all.len()];
    for vote in votes {
        let at = all
            .iter()
            .position(|&v| v == vote)
            .expect("every value is listed");
        tally[at] += 1;
    }
    let best = tally
        .iter()
        .enumerate()
        .max_by_key(|&(i, &n)| (n, std::cmp::Reverse(i)))
        .map_or(0, |b| b.0);
    all[best]
}

fn nearest<T: Copy>(all: &[T], distance: impl Fn(T) -> f64) -> T {
    *all.iter()
        .min_by(|&&a, &&b| distance(a).total_cmp(&distance(b)))
        .expect("an attribute has values")
}

fn color_of(rgb: [f64; 3]) -> Color {
    let seen = lab(rgb);
    nearest(Color::ALL, |color| lab_distance(seen, lab(color.rgb())))
}

/// Class by the mean moments of all frames. A sharp circle has (0, 0), an upright triangle (0.8, 0) and an
/// upright square (0, -0.6); the centres here are those of slightly soft ones.
fn shape_of(blobs: &[&Blob]) -> Shape {
    let sum = blobs
        .iter()
        .map(|b| moments(b))
        .fold((0.0, 0.0), |a, m| (a.0 + m.0, a.1 + m.1));
    let (third, fourth) = (sum.0 / blobs.len() as f64, sum.1 / blobs.len() as f64);
    nearest(Shape::ALL, |shape| {
        let (t, f) = match shape {
            Shape::Circle => (0.0, 0.0),
            Shape::Square => (0.0, -0.5),
            Shape::Triangle => (0.7, 0.0),
        };
        (third - t).powi(2) + (fourth - f).powi(2)
    })
}

/// E[z³] and E[z⁴] of the opacity about its centre, z = x + iy, in units of E[|z|²].
fn moments(blob: &Blob) -> (f64, f64) {
    let (mut area, mut spread, mut third, mut fourth) = (0.0, 0.0, 0.0, 0.0);
    for (i, &alpha) in blob.alpha.iter().enumerate() {
        let x = (blob.left + i % blob.width) as f64 + 0.5 - blob.column;
        let y = blob.row - (blob.top + i / blob.width) as f64 - 0.5;
        let a = f64::from(alpha);
        area += a;
        spread += a * (x * x + y * y);
        third -= a * (3.0 * x * x * y - y * y * y);
        fourth += a * (x.powi(4) - 6.0 * x * x * y * y + y.powi(4));
    }
    let spread = spread / area;
    (
        third / area / spread.powf(1.5),
        fourth / area / spread.powi(2),
    )
}

fn size_of(area_m2: f64, shape: Shape) -> Size {
    let radius = (area_m2 / shape.area()).sqrt();
    nearest(Size::ALL, |size| (radius / size.radius_m()).ln().abs())
}

/// The background whose sky is nearest to the rows above the horizon.
fn background(backdrop: &Backdrop) -> Background {
    let horizon = backdrop.rows.len() - HORIZON_ROW;
    nearest(Background::ALL, |background| {
        let (top, bottom) = background.sky();
        let rows = backdrop.rows[..horizon].iter().enumerate();
        rows.map(|(i, row)| {
            let share = (i as f64 + 0.5) / horizon as f64;
            let sky = std::array::from_fn(|c| top[c] + (bottom[c] - top[c]) * share);
            lab_distance(lab(row.map(f64::from)), lab(sky))
        })
        .sum()
    })
}

fn lab_distance(a: [f64; 3], b: [f64; 3]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).powi(2))
        .sum::<f64>()
        .sqrt()
}

/// CIE L*a*b* (D65) of an sRGB colour 0..255.
fn lab(rgb: [f64; 3]) -> [f64; 3] {
    let [r, g, b] = rgb.map(|v| {
        let v = v / 255.0;
        if v <= 0.04045 {
            v / 12.92
        } else {
            ((v + 0.055) / 1.055).powf(2.4)
        }
    });
    let xyz = [
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.95047,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.08883,
    ];
    let [x, y, z] = xyz.map(|v| {
        if v > 0.008_856 {
            v.cbrt()
        } else {
            7.787 * v + 16.0 / 116.0
        }
    });
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}
