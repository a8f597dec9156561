//! The scene language: reads the evaluation list and gives the closed-form motion of every body.
//!
//! The same formulas as `ops/train/scenes/world_t0.py`, written again; a test holds the two together.
//! Units: metres and seconds, x from the left edge, y up from the contact line.

use serde::Deserialize;

use super::engine::Asked;

/// Length of the short side of the picture.
pub const SHORT_SIDE_M: f64 = 3.0;
/// Rows from the bottom edge to the contact line and to the horizon.
pub const CONTACT_ROW: usize = 6;
pub const HORIZON_ROW: usize = 12;
const REST_SPEED: f64 = 0.35;
const FRICTION: f64 = 0.8;
const CONTACTS_MAX: usize = 64;

/// Declares an attribute of the world with its words, in the order of `ALL`.
macro_rules! attribute {
    ($(#[$doc:meta])* $name:ident { $($value:ident),+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($value),+ }
        impl $name {
            /// Every value.
            pub const ALL: &[$name] = &[$($name::$value),+];
        }
    };
}
attribute!(Shape {
    Circle,
    Square,
    Triangle
});
attribute!(Color {
    Red,
    Green,
    Blue,
    Yellow,
    Purple,
    Orange
});
attribute!(Size { Small, Big });
attribute!(Material {
    Rubber,
    Wood,
    Metal
});
attribute!(Background { Day, Night, Plain });

/// How bodies fall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gravity {
    Earth,
    Moon,
}

impl Shape {
    /// Distance from the centre to the lowest point, in radii.
    pub fn bottom(self) -> f64 {
        match self {
            Shape::Circle => 1.0,
            Shape::Square => 0.9,
            Shape::Triangle => 0.725,
        }
    }

    /// Signed distance in pixels (negative inside) at offset `(dx, dy)`, y up, of radius `r` pixels.
    pub fn distance(self, dx: f64, dy: f64, r: f64) -> f64 {
        match self {
            Shape::Circle => (dx * dx + dy * dy).sqrt() - r,
            Shape::Square => dx.abs().max(dy.abs()) - 0.9 * r,
            Shape::Triangle => (-dy).max(dy / 2.0 + dx.abs() * 3f64.sqrt() / 2.0) - 0.725 * r,
        }
    }

    /// Area in squares of the radius.
    pub fn area(self) -> f64 {
        match self {
            Shape::Circle => std::f64::consts::PI,
            Shape::Square => 3.24,
            Shape::Triangle => 1.45 * 1.45 * 3.0 * 3f64.sqrt() / 4.0,
        }
    }
}

impl Size {
    pub fn radius_m(self) -> f64 {
        match self {
            Size::Small => 0.30,
            Size::Big => 0.51,
        }
    }
}

impl Gravity {
    /// m/s².
    pub fn acceleration(self) -> f64 {
        match self {
            Gravity::Earth => 9.81,
            Gravity::Moon => 1.635,
        }
    }
}

/// The voice of a material: damped sines.
pub struct Modes {
    /// Lowest frequency in Hz of a body of 0.4 m radius.
    pub lowest_hz: f64,
    /// (frequency ratio, weight, decay time in seconds).
    pub partials: &'static [(f64, f64, f64)],
}

impl Material {
    pub fn restitution(self) -> f64 {
        match self {
            Material::Rubber => 0.8,
            Material::Wood => 0.45,
            Material::Metal => 0.6,
        }
    }

    pub fn modes(self) -> Modes {
        match self {
            Material::Rubber => Modes {
                lowest_hz: 150.0,
                partials: &[(1.0, 0.6, 0.05), (1.9, 0.3, 0.035), (2.8, 0.1, 0.02)],
            },
            Material::Wood => Modes {
                lowest_hz: 480.0,
                partials: &[(1.0, 0.5, 0.07), (2.4, 0.3, 0.04), (4.1, 0.2, 0.025)],
            },
            Material::Metal => Modes {
                lowest_hz: 1100.0,
                partials: &[
                    (1.0, 0.4, 0.45),
                    (2.1, 0.3, 0.3),
                    (3.4, 0.2, 0.2),
                    (4.8, 0.1, 0.12),
                ],
            },
        }
    }
}

/// A body: what it is, and centre and velocity at time 0.
#[derive(Clone, Debug, Deserialize)]
pub struct Object {
    pub shape: Shape,
    pub color: Color,
    pub size: Size,
    pub material: Material,
    pub x: f64,
    pub y: f64,
    pub vx: f64,
    pub vy: f64,
}

/// One scene of the evaluation list: the ground truth of one clip.
#[derive(Clone, Debug, Deserialize)]
pub struct Scene {
    pub seed: u64,
    /// Width, height in pixels.
    pub size: [usize; 2],
    pub frames: usize,
    pub fps: f64,
    pub bg: Background,
    pub gravity: Gravity,
    pub objects: Vec<Object>,
    pub caption: String,
}

impl Asked for Scene {
    fn caption(&self) -> &str {
        &self.caption
    }

    fn size(&self) -> [usize; 2] {
        self.size
    }

    fn length(&self) -> (usize, f64) {
        (self.frames, self.fps)
    }
}

/// The evaluation list: ordinary scenes and scenes with an attribute pair that training never shows.
#[derive(Clone, Debug, Deserialize)]
pub struct SceneList {
    pub scenes: Vec<Scene>,
    pub held_out: Vec<Scene>,
}

/// The list that ships with the project.
const BUILTIN_LIST: &str = include_str!("../../../train/eval_scenes.json");

impl SceneList {
    /// Reads a list; every scene must have a caption, a positive frame rate, one object and one frame.
    pub fn parse(text: &str) -> anyhow::Result<SceneList> {
        let list: SceneList = serde_json::from_str(text)?;
        for scene in list.scenes.iter().chain(&list.held_out) {
            let sound = !scene.caption.is_empty()
                && scene.fps > 0.0
                && scene.size.iter().all(|&side| side >= 32);
            anyhow::ensure!(
                sound && !scene.objects.is_empty() && scene.frames > 0,
                "scene {} needs a caption, an object, a frame, a frame rate and sides of at least 32",
                scene.seed
            );
        }
        anyhow::ensure!(!list.scenes.is_empty(), "the scene list is empty");
        Ok(list)
    }

    pub fn builtin() -> SceneList {
        SceneList::parse(BUILTIN_LIST).expect("the list is checked by a test")
    }
}

/// One piece of free flight or rest (`g` = 0).
#[derive(Clone, Copy, Debug)]
struct Flight {
    t: f64,
    x: f64,
    y: f64,
    vx: f64,
    vy: f64,
    g: f64,
}

/// A contact of an object with the floor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contact {
    pub object: usize,
    pub time_s: f64,
    /// Impact speed, m/s.
    pub speed: f64,
}

/// All pieces of motion of one object before `until`, and (time, speed) of its contacts.
fn flights(object: &Object, gravity: Gravity, until: f64) -> (Vec<Flight>, Vec<(f64, f64)>) {
    let (g, bottom) = (
        gravity.acceleration(),
        object.shape.bottom() * object.size.radius_m(),
    );
    let mut now = Flight {
        t: 0.0,
        x: object.x,
        y: object.y,
        vx: object.vx,
        vy: object.vy,
        g,
    };
    let (mut pieces, mut contacts) = (vec![now], Vec::new());
    while contacts.len() < CONTACTS_MAX {
        let speed = (now.vy * now.vy + 2.0 * g * (now.y - bottom)).sqrt();
        let dt = (now.vy + speed) / g;
        let t = now.t + dt;
        if t >= until {
            break;
        }
        contacts.push((t, speed));
        let up = object.material.restitution() * speed;
        now = Flight {
            t,
            x: now.x + now.vx * dt,
            y: bottom,
            vx: FRICTION * now.vx,
            vy: up,
            g,
        };
        if up < REST_SPEED {
            pieces.push(Flight {
                vx: 0.0,
                vy: 0.0,
                g: 0.0,
                ..now
            });
            break;
        }
        pieces.push(now);
    }
    (pieces, contacts)
}

impl Scene {
    /// Length in seconds.
    pub fn seconds(&self) -> f64 {
        self.frames as f64 / self.fps
    }

    /// Centre of object `i` in metres at each of the (rising) times.
    pub fn positions(&self, i: usize, times: &[f64]) -> Vec<(f64, f64)> {
        let until = times.last().copied().unwrap_or(0.0) + 1e-9;
        let (pieces, _) = flights(&self.objects[i], self.gravity, until);
        let place = |&t: &f64| {
            let piece = pieces[pieces.partition_point(|p| p.t <= t).max(1) - 1];
            let dt = t - piece.t;
            (
                piece.x + piece.vx * dt,
                piece.y + piece.vy * dt - piece.g * dt * dt / 2.0,
            )
        };
        times.iter().map(place).collect()
    }

    /// Every contact of the clip in order of time.
    pub fn contacts(&self) -> Vec<Contact> {
        let mut found = Vec::new();
        for (object, body) in self.objects.iter().enumerate() {
            let (_, contacts) = flights(body, self.gravity, self.seconds());
            found.extend(contacts.into_iter().map(|(time_s, speed)| Contact {
                object,
                time_s,
                speed,
            }));
        }
        found.sort_by(|a, b| a.time_s.total_cmp(&b.time_s));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_list_parses_and_its_contacts_are_ours() {
        let text: serde_json::Value = serde_json::from_str(BUILTIN_LIST).unwrap();
        let list = SceneList::builtin();
        assert!(list.scenes.len() >= 64 && !list.held_out.is_empty());
        for (scene, row) in list.scenes.iter().zip(text["scenes"].as_array().unwrap()) {
            let ours = scene.contacts();
            let theirs = row["contacts"].as_array().unwrap();
            assert_eq!(ours.len(), theirs.len(), "seed {}", scene.seed);
            for (a, b) in ours.iter().zip(theirs) {
                assert_eq!(a.object as u64, b[0].as_u64().unwrap());
                assert!((a.time_s - b[1].as_f64().unwrap()).abs() <= 6e-5);
                assert!((a.speed - b[2].as_f64().unwrap()).abs() <= 6e-4);
            }
        }
    }

    #[test]
    fn a_body_never_goes_under_the_floor() {
        let list = SceneList::builtin();
        let times: Vec<f64> = (0..400).map(|i| f64::from(i) * 0.01).collect();
        for scene in list.scenes.iter().take(16) {
            for (i, object) in scene.objects.iter().enumerate() {
                let bottom = object.shape.bottom() * object.size.radius_m();
                assert!(
                    scene
                        .positions(i, &times)
                        .iter()
                        .all(|p| p.1 >= bottom - 1e-9)
                );
            }
        }
    }

    #[test]
    fn a_list_with_an_unknown_word_or_no_scene_is_refused() {
        let good = r#"{"seed":1,"size":[64,64],"frames":9,"fps":16,"bg":"day","gravity":"earth","caption":"c","objects":
            [{"shape":"circle","color":"red","size":"big","material":"wood","x":1,"y":2,"vx":0,"vy":0}]}"#;
        let list =
            |scenes: &str| SceneList::parse(&format!(r#"{{"scenes":[{scenes}],"held_out":[]}}"#));
        assert!(list(good).is_ok());
        assert!(list("").is_err());
        assert!(list(&good.replace("circle", "donut")).is_err());
        assert!(list(&good.replace("\"c\"", "\"\"")).is_err());
        assert!(list(&good.replace("\"frames\":9", "\"frames\":0")).is_err());
    }
}
