//! The oracle: frames and sound of a scene from its formulas, the best film any model could make.

use std::f64::consts::TAU;

use super::film::Film;
use super::scene::{
    Background, CONTACT_ROW, Color, Gravity, HORIZON_ROW, Material, Object, Scene, Shape,
};

pub const RATE: u32 = 16_000;
type Rgb = [f64; 3];

impl Color {
    pub fn rgb(self) -> Rgb {
        match self {
            Color::Red => [215.0, 35.0, 40.0],
            Color::Green => [40.0, 165.0, 60.0],
            Color::Blue => [35.0, 65.0, 225.0],
            Color::Yellow => [250.0, 220.0, 45.0],
            Color::Purple => [175.0, 50.0, 190.0],
            Color::Orange => [245.0, 130.0, 20.0],
        }
    }
}

impl Background {
    /// Colours of the sky at the top edge and at the horizon.
    pub fn sky(self) -> (Rgb, Rgb) {
        match self {
            Background::Day => ([140.0, 195.0, 240.0], [205.0, 230.0, 245.0]),
            Background::Night => ([14.0, 16.0, 40.0], [36.0, 38.0, 72.0]),
            Background::Plain => ([196.0; 3], [214.0; 3]),
        }
    }

    fn ground(self, gravity: Gravity) -> Rgb {
        match (gravity, self) {
            (Gravity::Earth, Background::Day) => [196.0, 172.0, 128.0],
            (Gravity::Earth, Background::Night) => [58.0, 50.0, 50.0],
            (Gravity::Earth, Background::Plain) => [160.0, 142.0, 122.0],
            (Gravity::Moon, Background::Day) => [168.0, 168.0, 176.0],
            (Gravity::Moon, Background::Night) => [86.0, 86.0, 96.0],
            (Gravity::Moon, Background::Plain) => [118.0, 118.0, 124.0],
        }
    }
}

/// Renders pictures and sound of a scene.
pub fn film(scene: &Scene) -> Film {
    let [width, height] = scene.size;
    let samples = sound(scene);
    let mut film = Film {
        width,
        height,
        fps: scene.fps,
        rgb: Vec::new(),
        samples,
        rate: RATE,
    };
    film.rgb.reserve_exact(film.frame_bytes() * scene.frames);
    let times: Vec<f64> = (0..scene.frames).map(|i| i as f64 / scene.fps).collect();
    let tracks: Vec<_> = (0..scene.objects.len())
        .map(|i| scene.positions(i, &times))
        .collect();
    for i in 0..scene.frames {
        let centres: Vec<_> = tracks.iter().map(|t| t[i]).collect();
        picture(scene, &centres, film.pixels_per_metre(), &mut film.rgb);
    }
    film
}

/// Where a body is in the picture: centre (column, row) and radius in pixels.
struct Placed<'a> {
    object: &'a Object,
    column: f64,
    row: f64,
    r: f64,
    /// Opacity of its shadow in the middle.
    shade: f64,
}

impl<'a> Placed<'a> {
    fn new(object: &'a Object, (x, y): (f64, f64), ppm: f64, line: f64) -> Placed<'a> {
        let lift = y - object.shape.bottom() * object.size.radius_m();
        let shade = 0.5 * (1.0 - lift / 1.5).max(0.15);
        Placed {
            object,
            column: x * ppm,
            row: line - y * ppm,
            r: object.size.radius_m() * ppm,
            shade,
        }
    }
}

fn picture(scene: &Scene, centres: &[(f64, f64)], ppm: f64, out: &mut Vec<u8>) {
    let [width, height] = scene.size;
    let line = (height - CONTACT_ROW) as f64;
    let bodies = scene.objects.iter().zip(centres);
    let bodies: Vec<Placed> = bodies
        .map(|(object, &centre)| Placed::new(object, centre, ppm, line))
        .collect();
    for row in 0..height {
        let backdrop = backdrop(scene, row as f64 + 0.5);
        for column in 0..width {
            let rgb = pixel(
                &bodies,
                backdrop,
                column as f64 + 0.5,
                row as f64 + 0.5,
                line,
            );
            out.extend(rgb.map(|v| v.round_ties_even().clamp(0.0, 255.0) as u8));
        }
    }
}

fn backdrop(scene: &Scene, row: f64) -> Rgb {
    let horizon = (scene.size[1] - HORIZON_ROW) as f64;
    if row > horizon {
        return scene.bg.ground(scene.gravity);
    }
    let (top, bottom) = scene.bg.sky();
    std::array::from_fn(|i| top[i] + (bottom[i] - top[i]) * row / horizon)
}

fn pixel(bodies: &[Placed], backdrop: Rgb, column: f64, row: f64, line: f64) -> Rgb {
    let mut rgb = backdrop;
    for body in bodies.iter().filter(|_| (row - line).abs() < 3.0) {
        let (dx, dy) = ((column - body.column) / (1.1 * body.r), (row - line) / 2.0);
        let dark = body.shade * cover(((dx * dx + dy * dy).sqrt() - 1.0) * 2.0);
        rgb = rgb.map(|v| v * (1.0 - dark));
    }
    for body in bodies {
        let (dx, dy) = (column - body.column, body.row - row);
        if dx.abs().max(dy.abs()) > 1.5 * body.r + 1.0 {
            continue;
        }
        let alpha = cover(body.object.shape.distance(dx, dy, body.r));
        if alpha > 0.0 {
            let paint = paint(body.object, dx, dy, body.r);
            rgb = std::array::from_fn(|i| rgb[i] + alpha * (paint[i] - rgb[i]));
        }
    }
    rgb
}

fn cover(distance: f64) -> f64 {
    (0.5 - distance).clamp(0.0, 1.0)
}

fn paint(object: &Object, dx: f64, dy: f64, r: f64) -> Rgb {
    let color = object.color.rgb();
    match object.material {
        Material::Rubber => color,
        Material::Wood if dy.abs() < 0.2 * r => color.map(|v| v * 0.72),
        Material::Wood => color,
        Material::Metal => {
            let k = if object.shape == Shape::Triangle {
                0.1
            } else {
                0.3
            } * r;
            let spot = 0.75 * cover(((dx + k).powi(2) + (dy - k).powi(2)).sqrt() - 0.25 * r);
            color.map(|v| v + spot * (255.0 - v))
        }
    }
}

/// Waveform of all contacts of a scene, 16 kHz mono.
pub fn sound(scene: &Scene) -> Vec<f32> {
    let mut wave = vec![0f64; (scene.seconds() * f64::from(RATE)).round() as usize];
    for contact in scene.contacts() {
        let object = &scene.objects[contact.object];
        let gain = 0.6 * (contact.speed / 8.0).min(1.0);
        ring(
            &mut wave,
            object.material,
            object.size.radius_m(),
            contact.time_s,
            gain,
        );
    }
    wave.into_iter()
        .map(|v| v.clamp(-1.0, 1.0) as f32)
        .collect()
}

/// Adds one hit at `time_s` of a body of `radius_m`.
pub fn ring(wave: &mut [f64], material: Material, radius_m: f64, time_s: f64, gain: f64) {
    let modes = material.modes();
    let first = (time_s * f64::from(RATE)).ceil() as usize;
    for &(ratio, weight, tau) in modes.partials {
        let omega = TAU * ratio * modes.lowest_hz * 0.4 / radius_m;
        let stop = (first + (tau * 14.0 * f64::from(RATE)) as usize).min(wave.len());
        for (n, value) in wave.iter_mut().enumerate().take(stop).skip(first) {
            let dt = n as f64 / f64::from(RATE) - time_s;
            *value += gain * weight * (-dt / tau).exp() * (omega * dt).sin();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::scene::SceneList;

    /// What `ops/train/scenes/world_t0.py` gives for one scene of the list.
    struct Printed {
        scene: usize,
        /// Sum of all bytes of frames 0, 7, 20 and 64.
        sums: [u64; 4],
        /// Pixels at `PLACES`.
        pixels: [[u8; 3]; 5],
        /// Samples at `MOMENTS`.
        samples: [f64; 4],
    }

    /// Frame, row, column.
    const PLACES: [(usize, usize, usize); 5] = [
        (0, 5, 5),
        (7, 50, 31),
        (7, 57, 31),
        (20, 45, 30),
        (20, 58, 20),
    ];
    const MOMENTS: [usize; 4] = [7800, 9000, 15000, 20000];
    const PRINTED: [Printed; 3] = [
        Printed {
            scene: 0,
            sums: [2259412, 2244465, 2276766, 2276791],
            pixels: [
                [198, 198, 198],
                [213, 213, 213],
                [107, 95, 81],
                [215, 35, 40],
                [80, 71, 61],
            ],
            samples: [0.0, 0.00049, -0.00067, 0.03483],
        },
        Printed {
            scene: 1,
            sums: [4098368, 4097955, 4090409, 4081917],
            pixels: [
                [197, 197, 197],
                [215, 35, 40],
                [215, 35, 40],
                [204, 204, 204],
                [207, 207, 207],
            ],
            samples: [0.0, 0.0, 0.0, 0.0],
        },
        Printed {
            scene: 4,
            sums: [2244520, 2226174, 2237795, 2250328],
            pixels: [
                [198, 198, 198],
                [213, 213, 213],
                [137, 121, 104],
                [212, 212, 212],
                [87, 77, 67],
            ],
            samples: [0.0, 0.1204, -0.06367, 0.10915],
        },
    ];

    #[test]
    fn frames_and_samples_are_those_of_the_training_generator() {
        let list = SceneList::builtin();
        for Printed {
            scene,
            sums,
            pixels,
            samples,
        } in PRINTED
        {
            let film = film(&list.scenes[scene]);
            for (frame, sum) in [0, 7, 20, 64].into_iter().zip(sums) {
                let ours: u64 = film.frame(frame).iter().map(|&v| u64::from(v)).sum();
                assert!(
                    ours.abs_diff(sum) < 60,
                    "scene {scene} frame {frame}: {ours} is not {sum}"
                );
            }
            for ((frame, row, column), rgb) in PLACES.into_iter().zip(pixels) {
                let at = (row * film.width + column) * 3;
                let ours = &film.frame(frame)[at..at + 3];
                assert!(
                    ours.iter().zip(rgb).all(|(a, b)| a.abs_diff(b) <= 1),
                    "{ours:?} is not {rgb:?}"
                );
            }
            for (n, sample) in MOMENTS.into_iter().zip(samples) {
                assert!((f64::from(film.samples[n]) - sample).abs() < 2e-5);
            }
        }
    }

    #[test]
    fn the_sound_is_as_long_as_the_film() {
        let scene = &SceneList::builtin().scenes[0];
        assert_eq!(sound(scene).len(), 65_000);
    }
}
