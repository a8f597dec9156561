//! What to make: a [`Recipe`], checked against the weights that shall make it.

use serde::{Deserialize, Serialize};

use crate::error::DiffusionError;
use crate::given::Given;
use crate::guidance::GuidanceChanges;
use crate::info::ModelInfo;
use crate::sigmas::Shift;

/// Longest prompt in bytes; the tokeniser cuts far below this.
pub const PROMPT_BYTES_MAX: usize = 32 * 1024;
/// Most denoising steps.
pub const STEPS_MAX: u32 = 200;

/// One continuous take to make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// What to show and what to hear.
    pub prompt: String,
    /// What to keep away from; empty takes the model's default.
    pub negative_prompt: String,
    /// Pixels; a multiple of [`ModelInfo::size_step`].
    pub width: u32,
    /// Pixels; a multiple of [`ModelInfo::size_step`].
    pub height: u32,
    /// Pictures; one more than a multiple of [`ModelInfo::frames_step`].
    pub frames: u32,
    /// Pictures per second.
    pub fps: u32,
    /// Seed of the initial noise.
    pub seed: u64,
    /// Denoising steps; nothing takes the model's own list of sigmas.
    pub steps: Option<u32>,
    /// Guidance that differs from the model's own.
    pub guidance: GuidanceChanges,
    /// How far noise levels are shifted, where the model's list depends on the size.
    pub shift: Shift,
    /// Two stages: at half the size first, then refined; nothing makes the clip in one.
    pub refine: Option<Refine>,
    /// Noise level, between 0 and 1, that the given film and sound begin from where they are remade;
    /// nothing: from noise alone.
    pub renoise: Option<f32>,
    /// Pictures see only what is at most so many seconds away, the first latent frame and given pictures
    /// besides; nothing: all of the clip, as the model was trained.
    pub window_s: Option<f32>,
    /// What is given of the clip.
    pub given: Given,
}

/// What is done to the first stage's latents before they are refined at twice the size.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Refine {
    /// How far channels are moved to the first stage's mean and deviation, 0 to 1.
    pub adain: f32,
    /// How much large values are brought down, 0 to 1.
    pub tone_map: f32,
}

/// An RGB picture, rows from the top, three bytes a pixel.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picture {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// `width * height * 3` bytes.
    pub rgb: Vec<u8>,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({}x{})", self.width, self.height)
    }
}

impl Recipe {
    /// A recipe with the model's own size, length and constants.
    pub fn with_defaults(prompt: impl Into<String>, seed: u64, info: &ModelInfo) -> Self {
        Self {
            prompt: prompt.into(),
            negative_prompt: String::new(),
            width: info.sizes[0].width,
            height: info.sizes[0].height,
            frames: info.frames_default,
            fps: info.fps,
            seed,
            steps: None,
            guidance: GuidanceChanges::default(),
            shift: Shift::default(),
            refine: None,
            renoise: None,
            window_s: None,
            given: Given::default(),
        }
    }

    /// Refuses what these weights cannot make, naming the field and what would be accepted.
    ///
    /// # Errors
    /// [`DiffusionError::Recipe`].
    pub fn check(&self, info: &ModelInfo) -> Result<(), DiffusionError> {
        self.check_words()?;
        self.check_size(info)?;
        self.check_length(info)?;
        if self
            .steps
            .is_some_and(|steps| steps == 0 || steps > STEPS_MAX)
        {
            return Err(DiffusionError::recipe(
                "steps",
                format!("must be 1 to {STEPS_MAX}"),
            ));
        }
        self.guidance.check(info)?;
        self.check_refine(info)?;
        self.check_renoise()?;
        if let Some(window) = self
            .window_s
            .filter(|seconds| !(*seconds > 0.0 && seconds.is_finite()))
        {
            let reason = format!("must be seconds above 0, is {window}");
            return Err(DiffusionError::recipe("attention_window", reason));
        }
        self.given.check(self, info)
    }

    /// Digest of everything that the recipe says.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for text in [self.prompt.as_bytes(), self.negative_prompt.as_bytes()] {
            hasher
                .update(&(text.len() as u64).to_le_bytes())
                .update(text);
        }
        for number in [
            self.width,
            self.height,
            self.frames,
            self.fps,
            self.steps.unwrap_or(0),
        ] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(&self.seed.to_le_bytes());
        self.guidance.hash(&mut hasher);
        hasher.update(&[self.shift as u8, u8::from(self.refine.is_some())]);
        let Refine { adain, tone_map } = self.refine.unwrap_or_default();
        hasher
            .update(&adain.to_le_bytes())
            .update(&tone_map.to_le_bytes());
        hasher.update(&self.renoise.unwrap_or(1.0).to_le_bytes());
        hasher.update(&self.window_s.unwrap_or(f32::INFINITY).to_le_bytes());
        self.given.hash(&mut hasher);
        *hasher.finalize().as_bytes()
    }

    fn check_words(&self) -> Result<(), DiffusionError> {
        let texts = [
            ("prompt", &self.prompt),
            ("negative_prompt", &self.negative_prompt),
        ];
        for (field, text) in texts {
            if text.len() > PROMPT_BYTES_MAX {
                let reason = format!(
                    "must have at most {PROMPT_BYTES_MAX} bytes, has {}",
                    text.len()
                );
                return Err(DiffusionError::recipe(field, reason));
            }
        }
        Ok(())
    }

    fn check_size(&self, info: &ModelInfo) -> Result<(), DiffusionError> {
        for (field, pixels) in [("width", self.width), ("height", self.height)] {
            if pixels == 0 || pixels % info.size_step != 0 || pixels > info.size_max {
                let (step, max) = (info.size_step, info.size_max);
                let reason = format!("must be a multiple of {step} up to {max}, is {pixels}");
                return Err(DiffusionError::recipe(field, reason));
            }
        }
        Ok(())
    }

    fn check_refine(&self, info: &ModelInfo) -> Result<(), DiffusionError> {
        let Some(Refine { adain, tone_map }) = self.refine else {
            return Ok(());
        };
        let refuse = |reason: String| Err(DiffusionError::recipe("refine", reason));
        if !info.two_stages {
            let reason = "these weights have no latent_upsampler folder, which two stages need";
            return refuse(reason.to_owned());
        }
        for part in [adain, tone_map] {
            if !(0.0..=1.0).contains(&part) {
                return refuse(format!("must be 0 to 1, is {part}"));
            }
        }
        let step = 2 * info.size_step;
        if !self.width.is_multiple_of(step) || !self.height.is_multiple_of(step) {
            let (w, h) = (self.width, self.height);
            return refuse(format!(
                "two stages need multiples of {step} pixels, not {w}x{h}"
            ));
        }
        Ok(())
    }

    fn check_renoise(&self) -> Result<(), DiffusionError> {
        let Some(level) = self.renoise else {
            return Ok(());
        };
        let refuse = |reason: String| Err(DiffusionError::recipe("renoise", reason));
        if !(level > 0.0 && level < 1.0) {
            return refuse(format!("must be between 0 and 1, is {level}"));
        }
        let given = &self.given;
        let whole = |film: &crate::given::GivenFilm| film.frames(self) == self.frames;
        match (&given.film, &given.sound) {
            (Some(film), Some(_)) if whole(film) => Ok(()),
            _ => refuse("needs a whole film and a sound to begin from".to_owned()),
        }
    }

    fn check_length(&self, info: &ModelInfo) -> Result<(), DiffusionError> {
        let (step, max) = (info.frames_step, info.frames_max);
        if self.frames == 0 || !(self.frames - 1).is_multiple_of(step) || self.frames > max {
            let reason = format!(
                "must be 1 plus a multiple of {step} up to {max}, is {}",
                self.frames
            );
            return Err(DiffusionError::recipe("frames", reason));
        }
        if self.fps == 0 || self.fps > 120 {
            return Err(DiffusionError::recipe(
                "fps",
                format!("must be 1 to 120, is {}", self.fps),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::given::{GivenFilm, GivenSound, Span, Still, Wave};
    use crate::info::{Size, SoundFormat};

    fn info() -> ModelInfo {
        ModelInfo {
            name: "test".into(),
            variant: "test".into(),
            digest: String::new(),
            licence: String::new(),
            sizes: vec![Size {
                width: 64,
                height: 64,
            }],
            size_step: 16,
            size_max: 128,
            fps: 16,
            frames_default: 65,
            frames_max: 65,
            frames_step: 4,
            steps: 12,
            guidance_video: 2.0,
            guidance_audio: 2.0,
            vocabulary: vec!["red".into(), "ball".into()],
            sample_rate: 16_000,
            channels: 1,
            first_frame: true,
            still_crf: None,
            hears: Some(SoundFormat {
                rate: 16_000,
                channels: 1,
            }),
            two_stages: true,
            perturbable_blocks: 6,
        }
    }

    fn refusal(change: impl Fn(&mut Recipe)) -> String {
        let mut recipe = Recipe::with_defaults("a red ball", 1, &info());
        change(&mut recipe);
        recipe.check(&info()).unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_accepted() {
        let recipe = Recipe::with_defaults("a red ball", 1, &info());
        assert!(recipe.check(&info()).is_ok());
        let picture = Picture {
            width: 64,
            height: 64,
            rgb: vec![0; 64 * 64 * 3],
        };
        assert!(
            Recipe {
                given: Given::first_frame(Some(picture)),
                ..recipe
            }
            .check(&info())
            .is_ok()
        );
    }

    #[test]
    fn every_refusal_names_the_field_and_what_is_accepted() {
        assert_eq!(
            refusal(|r| r.width = 65),
            "width: must be a multiple of 16 up to 128, is 65"
        );
        assert_eq!(
            refusal(|r| r.height = 0),
            "height: must be a multiple of 16 up to 128, is 0"
        );
        assert_eq!(
            refusal(|r| r.height = 144),
            "height: must be a multiple of 16 up to 128, is 144"
        );
        assert_eq!(
            refusal(|r| r.frames = 64),
            "frames: must be 1 plus a multiple of 4 up to 65, is 64"
        );
        assert_eq!(
            refusal(|r| r.frames = 69),
            "frames: must be 1 plus a multiple of 4 up to 65, is 69"
        );
        assert_eq!(
            refusal(|r| r.window_s = Some(0.0)),
            "attention_window: must be seconds above 0, is 0"
        );
        assert!(refusal(|r| r.window_s = Some(f32::NAN)).starts_with("attention_window"));
        assert_eq!(refusal(|r| r.fps = 0), "fps: must be 1 to 120, is 0");
        assert_eq!(refusal(|r| r.steps = Some(0)), "steps: must be 1 to 200");
        let nan = GuidanceChanges::scale(Some(f32::NAN));
        assert!(refusal(|r| r.guidance = nan.clone()).starts_with("guidance"));
        assert!(refusal(|r| r.prompt = "x".repeat(PROMPT_BYTES_MAX + 1)).starts_with("prompt"));
        assert_eq!(
            refusal(|r| {
                r.refine = Some(Refine::default());
                r.width = 80;
            }),
            "refine: two stages need multiples of 32 pixels, not 80x64"
        );
        assert!(refusal(|r| r.refine = refine(1.5)).starts_with("refine: must be 0 to 1"));
    }

    fn refine(adain: f32) -> Option<Refine> {
        Some(Refine {
            adain,
            tone_map: 0.0,
        })
    }

    fn picture(width: u32, bytes: usize) -> Picture {
        Picture {
            width,
            height: 64,
            rgb: vec![0; bytes],
        }
    }

    fn wave(rate: u32, samples: Vec<f32>) -> Wave {
        let format = SoundFormat { rate, channels: 1 };
        Wave { format, samples }
    }

    fn sound(heard: Wave, remake: Option<Span>) -> Option<GivenSound> {
        let kept = wave(16_000, vec![0.0; 100]);
        Some(GivenSound {
            heard,
            kept,
            remake,
        })
    }

    fn film(pictures: usize, remake: Option<Span>) -> Option<GivenFilm> {
        let rgb = vec![0; 64 * 64 * 3 * pictures];
        Some(GivenFilm { rgb, remake })
    }

    #[test]
    fn what_is_given_must_fit_the_clip() {
        let still = |frame, picture, strength| Still {
            frame,
            picture,
            strength,
        };
        let good = picture(64, 64 * 64 * 3);
        let span = |start_s, end_s| Some(Span { start_s, end_s });
        let stills = |still: Still| refusal(move |r| r.given.stills = vec![still.clone()]);
        assert_eq!(
            stills(Still::first(picture(32, 32 * 64 * 3))),
            "stills: must be an RGB picture of 64x64, is 32x64"
        );
        assert!(stills(Still::first(picture(64, 7))).starts_with("stills"));
        assert_eq!(
            stills(still(65, good.clone(), 1.0)),
            "stills: frame 65 is behind the last one, 64"
        );
        assert!(stills(still(3, good.clone(), 0.0)).contains("strength"));
        assert!(refusal(|r| r.given.film = film(66, None)).starts_with("film: has 66 pictures"));
        assert!(refusal(|r| r.given.film = film(0, None)).starts_with("film: 0 bytes"));
        let late = refusal(|r| r.given.film = film(65, span(5.0, 6.0)));
        assert!(late.starts_with("film: cannot remake 5 to 6 s"), "{late}");
        assert_eq!(
            refusal(|r| r.given.sound = sound(wave(48_000, vec![0.0; 9]), None)),
            "sound: must be sound of 1 channel(s) at 16000 Hz, is sound of 1 channel(s) at 48000 Hz"
        );
        let bad = refusal(|r| r.given.sound = sound(wave(16_000, vec![f32::NAN]), None));
        assert!(bad.starts_with("sound: holds values"), "{bad}");
        let both = refusal(|r| {
            r.given = Given::first_frame(Some(good.clone()));
            r.given.film = film(5, None);
        });
        assert_eq!(both, "stills: the film already gives frame 0");
    }

    #[test]
    fn weights_without_an_encoder_say_which_they_lack() {
        let mut recipe = Recipe::with_defaults("a red ball", 1, &info());
        recipe.given.sound = sound(wave(16_000, vec![0.0; 9]), None);
        let deaf = ModelInfo {
            hears: None,
            ..info()
        };
        let error = recipe.check(&deaf).unwrap_err().to_string();
        assert_eq!(error, "sound: these weights have no encoder of sound");
        recipe.given = Given {
            film: film(5, None),
            ..Given::default()
        };
        let blind = ModelInfo {
            first_frame: false,
            ..info()
        };
        let error = recipe.check(&blind).unwrap_err().to_string();
        assert_eq!(error, "film: these weights have no encoder of pictures");
        recipe.given = Given::default();
        recipe.refine = refine(0.0);
        let small = ModelInfo {
            two_stages: false,
            ..info()
        };
        let error = recipe.check(&small).unwrap_err().to_string();
        assert!(error.contains("latent_upsampler"), "{error}");
    }

    #[test]
    fn unknown_words_are_told_once_in_order() {
        let found = info().unknown_words("A Red zebra, 'a' BALL and a zebra's hat");
        assert_eq!(found, ["a", "zebra", "and", "zebra's", "hat"]);
        assert!(
            ModelInfo {
                vocabulary: Vec::new(),
                ..info()
            }
            .unknown_words("anything")
            .is_empty()
        );
    }

    #[test]
    fn every_field_changes_the_digest() {
        let base = Recipe::with_defaults("a red ball", 1, &info());
        let changes: [fn(&mut Recipe); 19] = [
            |r| r.renoise = Some(0.5),
            |r| r.prompt.push('s'),
            |r| r.negative_prompt.push('s'),
            |r| r.width = 80,
            |r| r.height = 80,
            |r| r.frames = 5,
            |r| r.fps = 24,
            |r| r.seed = 2,
            |r| r.steps = Some(3),
            |r| r.guidance.video.scale = Some(1.0),
            |r| r.guidance.audio.scale = Some(1.0),
            |r| r.guidance.perturbed_blocks = Some(vec![1]),
            |r| r.shift = Shift::Fixed4096,
            |r| r.refine = refine(0.0),
            |r| r.refine = refine(0.5),
            |r| r.given.stills = vec![Still::first(picture(1, 3))],
            |r| {
                r.given.stills = vec![Still {
                    frame: 4,
                    ..Still::first(picture(1, 3))
                }]
            },
            |r| r.given.film = film(1, None),
            |r| r.given.sound = sound(wave(16_000, vec![0.5]), None),
        ];
        for change in changes {
            let mut other = base.clone();
            change(&mut other);
            assert_ne!(base.digest(), other.digest(), "{other:?}");
        }
    }
}
