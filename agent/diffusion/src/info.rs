//! What the weights are and can do: the defaults of the product, from `dailies.json` beside the
//! components when there is one, else from the configs alone.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::sigmas::Schedule;
use crate::weights::{Config, WeightsError};

/// A picture size in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// Largest width or height of any model.
const SIZE_MAX: u32 = 4096;
/// Notice for weights that bring none of their own.
const NOTICE_PUBLISHED: &str =
    "LTX-2 Community License: the terms that came with these weights bind whoever uses them.";

/// What the pictures that LTX-2 was trained to be given had gone through.
const STILL_CRF: u8 = 33;

/// The side file `dailies.json`: what the product should do with the weights by default.
#[derive(Debug, Clone, PartialEq)]
pub struct Product {
    /// Name to show.
    pub name: String,
    /// Variant.
    pub variant: String,
    /// Notice of the licence.
    pub licence: String,
    /// Sizes that the model was made for.
    pub sizes: Vec<Size>,
    /// Pictures per second.
    pub fps: u32,
    /// Default length.
    pub frames_default: u32,
    /// Longest clip.
    pub frames_max: u32,
    /// Noise levels; nothing leaves them to the scheduler's config.
    pub sigmas: Option<Vec<f32>>,
    /// Guidance of picture and sound; nothing leaves it to the version.
    pub guidance: Option<(f32, f32)>,
    /// Negative prompt of recipes that have none.
    pub negative_prompt: String,
    /// Words that the model has learnt.
    pub vocabulary: Vec<String>,
    /// H.264 quality of the pictures that it was trained to be given; nothing: as they are.
    pub still_crf: Option<u8>,
}

impl Product {
    /// Reads `root/dailies.json`; without one gives what the published models are used with.
    ///
    /// # Errors
    /// A [`WeightsError`] that names the file and the field.
    pub fn open(root: &Path) -> Result<Self, WeightsError> {
        let path = root.join("dailies.json");
        if !path.exists() {
            return Ok(Self::published(root));
        }
        let config = Config::open(&path)?;
        let read = Self::read(&config)?;
        config.ignore(&["training", "frames_step"]);
        config.warn_unread();
        read.check(&config)?;
        Ok(read)
    }

    fn published(root: &Path) -> Self {
        let name = root.file_name().map_or_else(
            || "LTX-2".into(),
            |name| name.to_string_lossy().into_owned(),
        );
        Self {
            name,
            variant: "ltx-2".to_owned(),
            licence: NOTICE_PUBLISHED.to_owned(),
            sizes: [(768, 512), (512, 768), (1280, 704), (704, 1280)]
                .map(|(width, height)| Size { width, height })
                .to_vec(),
            fps: 24,
            frames_default: 121,
            frames_max: 481,
            sigmas: None,
            guidance: None,
            negative_prompt: String::new(),
            vocabulary: Vec::new(),
            still_crf: Some(STILL_CRF),
        }
    }

    fn read(config: &Config) -> Result<Self, WeightsError> {
        let sizes: Vec<[u32; 2]> = config.get("sizes", Vec::new())?;
        let scales = (
            config.optional("guidance_video")?,
            config.optional("guidance_audio")?,
        );
        let guidance = match scales {
            (None, None) => None,
            (video, audio) => Some((video.unwrap_or(1.0), audio.or(video).unwrap_or(1.0))),
        };
        let frames_default = config.get("frames_default", 1)?;
        Ok(Self {
            name: config.get("name", "unnamed".to_owned())?,
            variant: config.get("variant", String::new())?,
            licence: config.get("licence", String::new())?,
            sizes: sizes
                .iter()
                .map(|[width, height]| Size {
                    width: *width,
                    height: *height,
                })
                .collect(),
            fps: config.get("fps", 24)?,
            frames_default,
            frames_max: config.get("frames_max", frames_default)?,
            sigmas: config.optional("sigmas")?,
            guidance,
            negative_prompt: config.get("negative_prompt", String::new())?,
            vocabulary: config.get("vocabulary", Vec::new())?,
            still_crf: config.optional("still_crf")?,
        })
    }

    fn check(&self, config: &Config) -> Result<(), WeightsError> {
        if self.sizes.is_empty()
            || self
                .sizes
                .iter()
                .any(|size| size.width == 0 || size.height == 0)
        {
            return Err(config.refuse("sizes", "needs at least one [width, height]"));
        }
        if self.fps == 0 {
            return Err(config.refuse("fps", "must not be 0"));
        }
        if self.frames_default == 0 || self.frames_default > self.frames_max {
            return Err(config.refuse("frames_default", "must be 1 to frames_max"));
        }
        if self
            .sigmas
            .as_ref()
            .is_some_and(|sigmas| !Schedule::is_valid_list(sigmas))
        {
            return Err(config.refuse("sigmas", "must fall from 1 to 0"));
        }
        Ok(())
    }

    /// Largest width or height: twice the largest that the model was made for.
    pub fn size_max(&self) -> u32 {
        let largest = self
            .sizes
            .iter()
            .map(|size| size.width.max(size.height))
            .max();
        (largest.unwrap_or(SIZE_MAX) * 2).min(SIZE_MAX)
    }
}

/// Facts about opened weights.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelInfo {
    /// Name to show.
    pub name: String,
    /// Variant, such as `t0`, or the version of the family.
    pub variant: String,
    /// BLAKE3 over all files that are read, in hexadecimal.
    pub digest: String,
    /// Notice of the licence to show.
    pub licence: String,
    /// Sizes that the model was made for; the first is the default.
    pub sizes: Vec<Size>,
    /// Width and height are multiples of this.
    pub size_step: u32,
    /// Largest width or height.
    pub size_max: u32,
    /// Default pictures per second.
    pub fps: u32,
    /// Default length in pictures.
    pub frames_default: u32,
    /// Longest clip in pictures.
    pub frames_max: u32,
    /// Pictures are one more than a multiple of this.
    pub frames_step: u32,
    /// Denoising steps when the recipe names none.
    pub steps: u32,
    /// Guidance of the picture when the recipe names none; 1 is off.
    pub guidance_video: f32,
    /// Guidance of the sound when the recipe names none; 1 is off.
    pub guidance_audio: f32,
    /// Words that the model has learnt; empty means any.
    pub vocabulary: Vec<String>,
    /// Samples per second of the sound.
    pub sample_rate: u32,
    /// Channels of the sound.
    pub channels: u16,
    /// True when pictures can be given.
    pub first_frame: bool,
    /// Quality (CRF) of H.264 that given pictures pass before they are encoded, as those of the training had.
    pub still_crf: Option<u8>,
    /// Sound that can be given; none when the weights cannot encode any.
    pub hears: Option<SoundFormat>,
    /// True when a clip can be made small and then refined at twice the size.
    pub two_stages: bool,
    /// Blocks of the transformer, where they can be skipped for guidance; else 0.
    pub perturbable_blocks: u32,
}

/// Rate and channels of a sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoundFormat {
    /// Samples per second.
    pub rate: u32,
    /// 1 or 2.
    pub channels: u16,
}

impl std::fmt::Display for SoundFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rate, channels) = (self.rate, self.channels);
        write!(f, "sound of {channels} channel(s) at {rate} Hz")
    }
}

impl ModelInfo {
    /// The sound of a clip.
    pub fn gives(&self) -> SoundFormat {
        SoundFormat {
            rate: self.sample_rate,
            channels: self.channels,
        }
    }

    /// Words of the prompt that the model has not learnt, in order, each once.
    pub fn unknown_words(&self, prompt: &str) -> Vec<String> {
        if self.vocabulary.is_empty() {
            return Vec::new();
        }
        let mut unknown: Vec<String> = Vec::new();
        let words = prompt.split(|c: char| !c.is_alphanumeric() && c != '\'');
        let words = words.map(|word| word.trim_matches('\'').to_lowercase());
        for word in words.filter(|word| !word.is_empty()) {
            let known = self
                .vocabulary
                .iter()
                .any(|entry| entry.to_lowercase() == word);
            if !known && !unknown.contains(&word) {
                unknown.push(word);
            }
        }
        unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Product, WeightsError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("dailies.json"), text).unwrap();
        Product::open(folder.path())
    }

    #[test]
    fn a_side_file_is_read_and_its_values_checked() {
        let product =
            read(r#"{"sizes": [[64, 32]], "frames_default": 9, "guidance_video": 2.5}"#).unwrap();
        assert_eq!(
            product.sizes,
            [Size {
                width: 64,
                height: 32
            }]
        );
        assert_eq!(
            (product.frames_max, product.guidance),
            (9, Some((2.5, 2.5)))
        );
        assert_eq!(product.size_max(), 128);
        for (text, field) in [
            (r#"{"frames_default": 9}"#, "sizes"),
            (
                r#"{"sizes": [[64, 32]], "frames_default": 9, "frames_max": 8}"#,
                "frames_default",
            ),
            (r#"{"sizes": [[64, 32]], "sigmas": [1.0, 0.5]}"#, "sigmas"),
            (r#"{"sizes": [[64, 32]], "fps": 0}"#, "fps"),
            (r#"{"sizes": "big"}"#, "sizes"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(&format!("`{field}`")), "{error}");
        }
    }

    #[test]
    fn a_folder_without_side_file_has_the_published_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let product = Product::open(folder.path()).unwrap();
        assert_eq!((product.fps, product.frames_default), (24, 121));
        assert!(product.licence.contains("LTX-2") && product.vocabulary.is_empty());
    }
}
