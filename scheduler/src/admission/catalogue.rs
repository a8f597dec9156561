//! The models that a request may name, and what each can do.
//!
//! A model is a name for weights: the weights' own name, or an alias from the settings (`sora-2`).
//! An alias keeps the official list of seconds; the weights' own name takes any whole second.

use std::{collections::BTreeMap, fmt};

use schemas::{Digest, agent::WeightsInfo};
use serde::{Deserialize, Serialize};

use crate::{
    core::{costs::CostClass, prices::PriceBook},
    storyboard::Clip,
};

/// Sizes that the official API lists; every model takes them, FFmpeg scales.
pub const OFFICIAL_SIZES: &[Size] = &[
    Size {
        width: 720,
        height: 1280,
    },
    Size {
        width: 1280,
        height: 720,
    },
    Size {
        width: 1024,
        height: 1792,
    },
    Size {
        width: 1792,
        height: 1024,
    },
    Size {
        width: 1080,
        height: 1920,
    },
    Size {
        width: 1920,
        height: 1080,
    },
];
pub const OFFICIAL_SECONDS: &[u32] = &[4, 8, 12, 16, 20];
/// Of weights that the settings do not name.
const REMIX_STRENGTH_DEFAULT: f64 = 0.6;
/// The built-in model decides colour and shape in its first steps: below, the old ones stay.
const REMIX_STRENGTH_BUILTIN: f64 = 0.95;
const BUILTIN: &str = "builtin";
/// The longest film without a storyboard, for models that take any whole second.
const SECONDS_MAX: u32 = 20;
/// Cost of a token relative to the built-in model, when the settings name none.
const RATE_PPM_DEFAULT: u64 = 1_000_000;

/// Width by height in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    pub width: u32,
    pub height: u32,
}

impl Size {
    /// How far the aspects are apart, as the logarithm of their ratio.
    fn aspect_off(self, other: Self) -> f64 {
        let aspect = |size: Self| f64::from(size.width) / f64::from(size.height);
        (aspect(self) / aspect(other)).ln().abs()
    }

    fn area(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// The part of the settings that names models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CatalogueSettings {
    /// Alias to the name of weights.
    pub aliases: BTreeMap<String, String>,
    /// The model of a request that names none.
    pub default_model: String,
    /// Weights that are known before an agent has said that it has them.
    pub expected: Vec<ExpectedWeights>,
    /// Cost of a token relative to the built-in model, in parts per million, by name of weights.
    pub rate_ppm: BTreeMap<String, u64>,
    /// How much of a film a remix and an edit make anew when they do not say, by name of weights.
    pub remix_strength: BTreeMap<String, f64>,
}

/// What admission must know of weights that no agent has brought yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedWeights {
    pub name: String,
    pub title: String,
    pub sizes: Vec<(u32, u32)>,
    pub fps: u32,
    pub frames_max: u32,
    pub frames_step: u32,
    pub steps: u32,
}

impl Default for CatalogueSettings {
    fn default() -> Self {
        let alias = |name: &str| (name.to_owned(), "builtin".to_owned());
        Self {
            aliases: BTreeMap::from([alias("sora-2"), alias("sora-2-pro")]),
            default_model: "sora-2".into(),
            expected: vec![ExpectedWeights {
                name: "builtin".into(),
                title: "built-in procedural-world model".into(),
                sizes: vec![(64, 64), (112, 64), (64, 112)],
                fps: 16,
                frames_max: 65,
                frames_step: 4,
                steps: 16,
            }],
            rate_ppm: BTreeMap::new(),
            remix_strength: BTreeMap::new(),
        }
    }
}

/// One name that a request may use.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    pub name: String,
    /// Name of the weights, as agents advertise them.
    pub weights: String,
    /// Absent until an agent has brought the weights.
    pub digest: Option<Digest>,
    pub title: String,
    pub native_sizes: Vec<Size>,
    /// All sizes that a request may ask for: native and official.
    pub sizes: Vec<Size>,
    pub seconds: Vec<u32>,
    pub clip: Clip,
    pub cost: CostClass,
    /// Share of a film that a remix and an edit make anew when they do not say.
    pub remix_strength: f64,
    /// Known words in lower case; empty when any word may be used.
    pub vocabulary: Vec<String>,
}

impl Model {
    /// The native size whose aspect is nearest; of equal ones the largest.
    pub fn native_size(&self, wanted: Size) -> Size {
        let off = |size: Size| size.aspect_off(wanted);
        self.native_sizes
            .iter()
            .copied()
            .min_by(|a, b| off(*a).total_cmp(&off(*b)).then(b.area().cmp(&a.area())))
            .expect("a catalogue holds no model without native sizes")
    }

    /// The size that a request may ask for and that is nearest: in aspect, then in pixels.
    pub fn nearest_size(&self, film: Size) -> Size {
        let off = |size: Size| size.aspect_off(film);
        let more = |size: Size| size.area().abs_diff(film.area());
        self.sizes
            .iter()
            .copied()
            .min_by(|a, b| off(*a).total_cmp(&off(*b)).then(more(*a).cmp(&more(*b))))
            .expect("a catalogue holds no model without sizes")
    }

    /// `name@blake3:…`, or the bare name while no agent has brought the weights.
    pub fn resolved_name(&self) -> String {
        match self.digest {
            Some(digest) => format!("{}@blake3:{}", self.weights, &digest.to_string()[..16]),
            None => self.weights.clone(),
        }
    }
}

/// All models of the farm, sorted by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Catalogue {
    pub models: Vec<Model>,
    pub default_model: String,
    /// Windows in which a job may ask to start.
    pub windows: Vec<String>,
    /// What work takes on the farm's devices.
    pub prices: PriceBook,
}

impl Catalogue {
    /// What agents advertise wins over what the settings expect; aliases of unknown weights vanish.
    pub fn new(settings: &CatalogueSettings, farm: &[WeightsInfo]) -> Self {
        let mut weights: BTreeMap<&str, Model> = BTreeMap::new();
        for expected in &settings.expected {
            weights.insert(&expected.name, expected_model(expected));
        }
        // Agents online come first in `farm`, so going backwards lets them win.
        for info in farm.iter().rev() {
            weights.insert(&info.name, advertised_model(info));
        }
        weights.retain(|_, model| is_usable(model));
        let named = |(alias, target): (&String, &String)| {
            let model = weights.get(target.as_str())?.clone();
            Some(Model {
                name: alias.clone(),
                seconds: OFFICIAL_SECONDS.to_vec(),
                ..model
            })
        };
        let mut models: Vec<Model> = settings.aliases.iter().filter_map(named).collect();
        models.extend(weights.into_values());
        for model in &mut models {
            let rate = settings.rate_ppm.get(&model.weights);
            model.cost.rate_ppm = rate.copied().unwrap_or(RATE_PPM_DEFAULT);
            let strength = settings.remix_strength.get(&model.weights);
            model.remix_strength = strength.copied().unwrap_or(match model.weights.as_str() {
                BUILTIN => REMIX_STRENGTH_BUILTIN,
                _ => REMIX_STRENGTH_DEFAULT,
            });
        }
        models.sort_by(|a, b| a.name.cmp(&b.name));
        models.dedup_by(|a, b| a.name == b.name);
        Self {
            models,
            default_model: settings.default_model.clone(),
            windows: Vec::new(),
            prices: PriceBook::default(),
        }
    }

    pub fn get(&self, name: &str) -> Option<&Model> {
        self.models.iter().find(|model| model.name == name)
    }
}

/// An agent's advertisement is outside data: what would divide by zero is left out.
fn is_usable(model: &Model) -> bool {
    let sized = model
        .native_sizes
        .iter()
        .all(|size| size.width > 0 && size.height > 0);
    let clip = model.clip;
    !model.native_sizes.is_empty()
        && sized
        && (1..=240).contains(&clip.fps)
        && clip.frames_step > 0
        && clip.frames_max > 0
        && (clip.frames_max - 1).is_multiple_of(clip.frames_step)
}

fn expected_model(expected: &ExpectedWeights) -> Model {
    let clip = Clip {
        fps: expected.fps,
        frames_max: expected.frames_max,
        frames_step: expected.frames_step,
    };
    model(
        &expected.name,
        &expected.title,
        &expected.sizes,
        clip,
        expected.steps,
    )
}

fn advertised_model(info: &WeightsInfo) -> Model {
    let clip = Clip {
        fps: info.fps,
        frames_max: info.frames_max,
        frames_step: info.frames_step,
    };
    Model {
        digest: Some(info.digest),
        vocabulary: info.vocabulary.clone(),
        ..model(&info.name, &info.title, &info.sizes, clip, info.steps)
    }
}

fn model(name: &str, title: &str, sizes: &[(u32, u32)], clip: Clip, steps: u32) -> Model {
    let native_sizes: Vec<Size> = sizes
        .iter()
        .map(|&(width, height)| Size { width, height })
        .collect();
    let mut all = OFFICIAL_SIZES.to_vec();
    all.extend(
        native_sizes
            .iter()
            .filter(|size| !OFFICIAL_SIZES.contains(size)),
    );
    Model {
        name: name.to_owned(),
        weights: name.to_owned(),
        digest: None,
        title: title.to_owned(),
        native_sizes,
        sizes: all,
        seconds: (1..=SECONDS_MAX).collect(),
        clip,
        cost: CostClass {
            frames_step: clip.frames_step,
            steps,
            rate_ppm: RATE_PPM_DEFAULT,
        },
        remix_strength: REMIX_STRENGTH_DEFAULT,
        vocabulary: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(name: &str, sizes: Vec<(u32, u32)>) -> WeightsInfo {
        WeightsInfo {
            name: name.into(),
            digest: Digest::of(name.as_bytes()),
            title: "T".into(),
            sizes,
            fps: 24,
            frames_default: 121,
            frames_max: 121,
            frames_step: 8,
            steps: 30,
            vocabulary: vec!["ball".into()],
        }
    }

    fn names(catalogue: &Catalogue) -> Vec<&str> {
        catalogue
            .models
            .iter()
            .map(|model| model.name.as_str())
            .collect()
    }

    #[test]
    fn the_built_in_model_and_its_aliases_are_known_before_any_agent() {
        let catalogue = Catalogue::new(&CatalogueSettings::default(), &[]);
        assert_eq!(names(&catalogue), ["builtin", "sora-2", "sora-2-pro"]);
        assert_eq!(catalogue.get("sora-2").unwrap().seconds, OFFICIAL_SECONDS);
        assert_eq!(catalogue.get("builtin").unwrap().seconds.len(), 20);
        assert_eq!(catalogue.get("sora-2").unwrap().resolved_name(), "builtin");
        assert!(catalogue.get("sora-3").is_none());
    }

    #[test]
    fn what_an_agent_advertises_wins_and_nonsense_is_left_out() {
        let farm = [
            info("builtin", vec![(128, 128)]),
            info("builtin", vec![(32, 32)]),
            info("empty", vec![]),
            WeightsInfo {
                fps: 0,
                ..info("frozen", vec![(64, 64)])
            },
        ];
        let catalogue = Catalogue::new(&CatalogueSettings::default(), &farm);
        assert_eq!(names(&catalogue), ["builtin", "sora-2", "sora-2-pro"]);
        let model = catalogue.get("sora-2").unwrap();
        assert_eq!(
            model.native_sizes,
            [Size {
                width: 128,
                height: 128
            }]
        );
        assert!(model.resolved_name().starts_with("builtin@blake3:"));
    }

    #[test]
    fn an_alias_of_unknown_weights_is_no_model() {
        let mut settings = CatalogueSettings::default();
        settings.aliases.insert("veo".into(), "missing".into());
        assert!(Catalogue::new(&settings, &[]).get("veo").is_none());
    }

    #[test]
    fn a_film_renders_at_the_native_size_of_the_nearest_aspect() {
        let catalogue = Catalogue::new(&CatalogueSettings::default(), &[]);
        let model = catalogue.get("builtin").unwrap();
        let native = |width, height| model.native_size(Size { width, height }).to_string();
        assert_eq!(native(720, 1280), "64x112");
        assert_eq!(native(1280, 720), "112x64");
        assert_eq!(native(1792, 1024), "112x64");
        assert_eq!(native(64, 64), "64x64");
    }
}
