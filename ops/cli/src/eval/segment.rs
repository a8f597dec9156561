//! Finds the coloured bodies of each frame: background by row, opacity by distance of chroma, components.
//!
//! Bodies are saturated and shadows are not, so distance is measured in the two opponent channels
//! red-green and yellow-blue, which are linear in RGB: the opacity of a soft edge falls out of it.

use super::film::Film;

/// Opponent channels (red-green, yellow-blue) of a pixel.
pub type Chroma = [f32; 2];

/// Rows of background colour: the camera is static and the world is the same along a row.
pub struct Backdrop {
    /// Median RGB of each row.
    pub rows: Vec<[f32; 3]>,
}

/// One connected blob of a frame.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Sum of opacities, pixels.
    pub area: f64,
    /// Opacity-weighted centre, pixels from the left and top edges.
    pub column: f64,
    pub row: f64,
    /// Median RGB of the inside.
    pub rgb: [f64; 3],
    /// The blob's window: left, top, width.
    pub left: usize,
    pub top: usize,
    pub width: usize,
    /// Opacity 0..1 in the window, row by row.
    pub alpha: Vec<f32>,
    /// True if the blob is cut by an edge of the picture.
    pub is_cut: bool,
}

/// A blob below this share of the smallest body (in its own scale) is a speck.
const SPECK_AREA_M2: f64 = 0.08;
/// Chroma distance that counts as a body: a share of the strongest one of the film, within limits.
const CONTRAST_SHARE: f32 = 0.45;
const CONTRAST_MIN: f32 = 36.0;
const CONTRAST_MAX: f32 = 60.0;
/// A column this much lower than the humps on both sides parts two bodies.
const VALLEY: f32 = 0.6;

pub fn chroma(rgb: [f32; 3]) -> Chroma {
    [rgb[0] - rgb[1], (rgb[0] + rgb[1]) / 2.0 - rgb[2]]
}

impl Backdrop {
    /// Median of each row over all frames; the outer three columns, which bodies seldom reach, count six times.
    pub fn of(film: &Film) -> Backdrop {
        let rows = (0..film.height).map(|row| row_median(film, row)).collect();
        Backdrop { rows }
    }
}

fn row_median(film: &Film, row: usize) -> [f32; 3] {
    let mut counts = [[0u32; 256]; 3];
    for frame in 0..film.frames() {
        let start = row * film.width * 3;
        let line = &film.frame(frame)[start..start + film.width * 3];
        for (column, rgb) in line.chunks_exact(3).enumerate() {
            let weight = if column < 3 || column + 3 >= film.width {
                6
            } else {
                1
            };
            for (count, &value) in counts.iter_mut().zip(rgb) {
                count[usize::from(value)] += weight;
            }
        }
    }
    counts.map(|count| {
        let half = count.iter().sum::<u32>() / 2;
        let mut sum = 0;
        let middle = count.iter().position(|&n| {
            sum += n;
            sum > half
        });
        middle.unwrap_or(0) as f32
    })
}

/// Chroma distance of every pixel from the backdrop, `[frame][row][column]`.
fn distances(film: &Film, backdrop: &Backdrop) -> Vec<f32> {
    let behind: Vec<Chroma> = backdrop.rows.iter().map(|&rgb| chroma(rgb)).collect();
    let mut out = Vec::with_capacity(film.rgb.len() / 3);
    for line in film.rgb.chunks_exact(film.width * 3) {
        let [u0, v0] = behind[(out.len() / film.width) % film.height];
        out.extend(line.chunks_exact(3).map(|p| {
            let [u, v] = chroma([f32::from(p[0]), f32::from(p[1]), f32::from(p[2])]);
            ((u - u0) * (u - u0) + (v - v0) * (v - v0)).sqrt()
        }));
    }
    out
}

/// The blobs of every frame, largest first.
pub fn blobs(film: &Film, backdrop: &Backdrop) -> Vec<Vec<Blob>> {
    let distances = distances(film, backdrop);
    let threshold = contrast(&distances);
    let speck = SPECK_AREA_M2 * film.pixels_per_metre().powi(2);
    let pixels = film.width * film.height;
    let found = distances
        .chunks_exact(pixels)
        .enumerate()
        .map(|(i, distance)| {
            let frame = Frame {
                film,
                rgb: film.frame(i),
                distance,
            };
            let mut blobs = frame.blobs(threshold, speck);
            blobs.sort_by(|a, b| b.area.total_cmp(&a.area));
            blobs
        });
    found.collect()
}

/// Threshold of a film from the distance that one pixel in fifty exceeds.
fn contrast(distances: &[f32]) -> f32 {
    let mut sample: Vec<f32> = distances.iter().copied().step_by(7).collect();
    let at = sample.len() * 98 / 100;
    let (_, strong, _) = sample.select_nth_unstable_by(at, f32::total_cmp);
    (CONTRAST_SHARE * *strong).clamp(CONTRAST_MIN, CONTRAST_MAX)
}

struct Frame<'a> {
    film: &'a Film,
    rgb: &'a [u8],
    distance: &'a [f32],
}

impl Frame<'_> {
    fn blobs(&self, threshold: f32, speck: f64) -> Vec<Blob> {
        let (width, height) = (self.film.width, self.film.height);
        let mut mask: Vec<bool> = self.distance.iter().map(|&d| d > threshold).collect();
        fill_holes(&mut mask, width, height);
        let mut seen = vec![false; mask.len()];
        let mut blobs = Vec::new();
        for start in 0..mask.len() {
            if !mask[start] || seen[start] {
                continue;
            }
            let members = flood(start, &mask, &mut seen, width);
            let parts = self.apart(members, speck);
            blobs.extend(
                parts
                    .iter()
                    .filter(|p| p.len() as f64 > speck)
                    .map(|part| self.measure(part, &mask)),
            );
        }
        blobs
    }

    /// Bodies side by side can touch. One body has one hump over its columns, so a valley parts two.
    fn apart(&self, members: Vec<usize>, speck: f64) -> Vec<Vec<usize>> {
        let width = self.film.width;
        let full = self.full(&members);
        let mut profile = vec![0f32; width];
        for &p in &members {
            profile[p % width] += (self.distance[p] / full).min(1.0);
        }
        let is_body = |side: &[f32]| f64::from(side.iter().sum::<f32>()) > speck;
        let hump = |side: &[f32]| side.iter().copied().fold(0f32, f32::max);
        let depth = |c: usize| profile[c] / hump(&profile[..c]).min(hump(&profile[c..])).max(1e-6);
        let inner = (1..width).filter(|&c| is_body(&profile[..c]) && is_body(&profile[c..]));
        match inner
            .min_by(|&a, &b| depth(a).total_cmp(&depth(b)))
            .filter(|&c| depth(c) < VALLEY)
        {
            None => vec![members],
            Some(cut) => {
                let (left, right): (Vec<_>, Vec<_>) =
                    members.into_iter().partition(|p| p % width < cut);
                [self.apart(left, speck), self.apart(right, speck)].concat()
            }
        }
    }

    /// Chroma distance of the blob's own colour.
    fn full(&self, members: &[usize]) -> f32 {
        let mut core: Vec<f32> = members.iter().map(|&p| self.distance[p]).collect();
        let at = core.len() * 7 / 10;
        *core.select_nth_unstable_by(at, f32::total_cmp).1
    }

    /// Opacity is 1 inside and the distance relative to the blob's own at the edge, one pixel beyond the mask.
    fn measure(&self, members: &[usize], mask: &[bool]) -> Blob {
        let (width, height) = (self.film.width, self.film.height);
        let full = self.full(members);
        let columns = members.iter().map(|p| p % width);
        let (left, right) = (
            columns.clone().min().unwrap_or(0),
            columns.max().unwrap_or(0),
        );
        let rows = members.iter().map(|p| p / width);
        let (top, bottom) = (rows.clone().min().unwrap_or(0), rows.max().unwrap_or(0));
        let is_cut = left == 0 || top == 0 || right + 1 == width || bottom + 1 == height;
        let (left, top) = (left.saturating_sub(1), top.saturating_sub(1));
        let (right, bottom) = ((right + 1).min(width - 1), (bottom + 1).min(height - 1));
        let mut alpha = vec![0f32; (right + 1 - left) * (bottom + 1 - top)];
        let window = right + 1 - left;
        let mut inside = Vec::new();
        for &p in members {
            let (row, column) = (p / width, p % width);
            let is_inside = column > 0
                && column + 1 < width
                && row > 0
                && row + 1 < height
                && [p - 1, p + 1, p - width, p + width]
                    .iter()
                    .all(|&q| mask[q]);
            inside.extend(is_inside.then_some(p));
            let edge = (self.distance[p] / full).min(1.0);
            alpha[(row - top) * window + column - left] = if is_inside { 1.0 } else { edge };
            for q in neighbours(p, width, height).filter(|&q| !mask[q]) {
                let at = (q / width - top) * window + q % width - left;
                alpha[at] = (self.distance[q] / full).min(1.0);
            }
        }
        let rgb = self.median_rgb(if inside.len() > 8 { &inside } else { members });
        let sum = |value: &dyn Fn(usize) -> f64| -> f64 {
            alpha
                .iter()
                .enumerate()
                .map(|(i, &a)| f64::from(a) * value(i))
                .sum()
        };
        let area = sum(&|_| 1.0);
        let column = left as f64 + 0.5 + sum(&|i| (i % window) as f64) / area;
        let row = top as f64 + 0.5 + sum(&|i| (i / window) as f64) / area;
        Blob {
            area,
            column,
            row,
            rgb,
            left,
            top,
            width: window,
            alpha,
            is_cut,
        }
    }

    fn median_rgb(&self, members: &[usize]) -> [f64; 3] {
        std::array::from_fn(|channel| {
            let mut values: Vec<u8> = members.iter().map(|&p| self.rgb[p * 3 + channel]).collect();
            let middle = values.len() / 2;
            f64::from(*values.select_nth_unstable(middle).1)
        })
    }
}

/// The four neighbours of a pixel that lie in the picture.
fn neighbours(p: usize, width: usize, height: usize) -> impl Iterator<Item = usize> {
    let (row, column) = (p / width, p % width);
    let sides = [
        (column > 0).then(|| p - 1),
        (column + 1 < width).then_some(p + 1),
        (row > 0).then(|| p - width),
        (row + 1 < height).then_some(p + width),
    ];
    sides.into_iter().flatten()
}

/// Members of the component of `start`, marked in `seen`.
fn flood(start: usize, mask: &[bool], seen: &mut [bool], width: usize) -> Vec<usize> {
    let mut members = vec![start];
    seen[start] = true;
    let mut next = 0;
    while next < members.len() {
        for q in neighbours(members[next], width, mask.len() / width) {
            if mask[q] && !seen[q] {
                seen[q] = true;
                members.push(q);
            }
        }
        next += 1;
    }
    members
}

/// Sets every unset pixel that is not connected to the edge of the picture (a highlight inside a body).
fn fill_holes(mask: &mut [bool], width: usize, height: usize) {
    let open: Vec<bool> = mask.iter().map(|m| !m).collect();
    let mut outside = vec![false; mask.len()];
    for p in 0..mask.len() {
        let is_edge =
            p < width || p >= width * (height - 1) || p % width == 0 || p % width == width - 1;
        if is_edge && open[p] && !outside[p] {
            flood(p, &open, &mut outside, width);
        }
    }
    for (m, outside) in mask.iter_mut().zip(outside) {
        *m |= !outside;
    }
}
