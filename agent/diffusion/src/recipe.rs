//! What to make: a [`Recipe`], checked against the weights that shall make it.

use serde::{Deserialize, Serialize};

use crate::error::DiffusionError;
use crate::info::ModelInfo;

/// Longest prompt in bytes; the tokeniser cuts far below this.
pub const PROMPT_BYTES_MAX: usize = 32 * 1024;
/// Most denoising steps.
pub const STEPS_MAX: u32 = 200;
/// Largest guidance scale.
pub const GUIDANCE_MAX: f32 = 30.0;

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
    /// Guidance of both streams; nothing takes the model's own two values.
    pub guidance_scale: Option<f32>,
    /// Picture that the clip begins with, of exactly `width` x `height`.
    pub first_frame: Option<Picture>,
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
            guidance_scale: None,
            first_frame: None,
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
        if self
            .guidance_scale
            .is_some_and(|g| !(0.0..=GUIDANCE_MAX).contains(&g))
        {
            let reason = format!("must be a number from 0 to {GUIDANCE_MAX}");
            return Err(DiffusionError::recipe("guidance_scale", reason));
        }
        Ok(())
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
        // No scale is a NaN, so the pattern of one can stand for an absent scale.
        hasher.update(
            &self
                .guidance_scale
                .map_or(u32::MAX, f32::to_bits)
                .to_le_bytes(),
        );
        if let Some(picture) = &self.first_frame {
            hasher.update(&picture.rgb);
        }
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
        let Some(picture) = &self.first_frame else {
            return Ok(());
        };
        let bytes = self.width as usize * self.height as usize * 3;
        if (picture.width, picture.height) != (self.width, self.height)
            || picture.rgb.len() != bytes
        {
            let (w, h) = (self.width, self.height);
            let reason = format!(
                "must be an RGB picture of {w}x{h}, is {}x{}",
                picture.width, picture.height
            );
            return Err(DiffusionError::recipe("first_frame", reason));
        }
        Ok(())
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
    use crate::info::Size;

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
                first_frame: Some(picture),
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
        assert_eq!(refusal(|r| r.fps = 0), "fps: must be 1 to 120, is 0");
        assert_eq!(refusal(|r| r.steps = Some(0)), "steps: must be 1 to 200");
        assert!(refusal(|r| r.guidance_scale = Some(f32::NAN)).starts_with("guidance_scale"));
        assert!(refusal(|r| r.prompt = "x".repeat(PROMPT_BYTES_MAX + 1)).starts_with("prompt"));
        let picture = |width, bytes| {
            Some(Picture {
                width,
                height: 64,
                rgb: vec![0; bytes],
            })
        };
        assert!(refusal(|r| r.first_frame = picture(32, 32 * 64 * 3)).starts_with("first_frame"));
        assert!(refusal(|r| r.first_frame = picture(64, 7)).starts_with("first_frame"));
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
        let changes: [fn(&mut Recipe); 10] = [
            |r| r.prompt.push('s'),
            |r| r.negative_prompt.push('s'),
            |r| r.width = 80,
            |r| r.height = 80,
            |r| r.frames = 5,
            |r| r.fps = 24,
            |r| r.seed = 2,
            |r| r.steps = Some(3),
            |r| r.guidance_scale = Some(1.0),
            |r| {
                r.first_frame = Some(Picture {
                    width: 1,
                    height: 1,
                    rgb: vec![1; 3],
                })
            },
        ];
        for change in changes {
            let mut other = base.clone();
            change(&mut other);
            assert_ne!(base.digest(), other.digest(), "{other:?}");
        }
    }
}
