//! Which passes a step makes and how they are weighed: the model's own constants, or the recipe's.

pub use kernels::sampling::Guidance;
use serde::{Deserialize, Serialize};

use crate::error::DiffusionError;
use crate::info::ModelInfo;

/// Largest weight of a guidance pass.
pub const GUIDANCE_MAX: f32 = 30.0;

/// Guidance of a recipe, where it differs from the model's own.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GuidanceChanges {
    /// Picture.
    pub video: StreamChanges,
    /// Sound; 0 is a value like any other.
    pub audio: StreamChanges,
    /// Blocks whose self-attention the perturbed pass skips.
    pub perturbed_blocks: Option<Vec<u32>>,
}

/// Guidance of one stream; see [`Guidance`].
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct StreamChanges {
    /// Classifier-free guidance; 1 is off.
    pub scale: Option<f32>,
    /// Away from the pass with skipped self-attention; 0 is off.
    pub perturbed: Option<f32>,
    /// Away from the pass that does not see the other stream; 1 is off.
    pub modality: Option<f32>,
    /// Share of the result that keeps the spread of the conditional pass, 0 to 1.
    pub rescale: Option<f32>,
}

impl StreamChanges {
    fn values(&self) -> [Option<f32>; 4] {
        [self.scale, self.perturbed, self.modality, self.rescale]
    }

    fn apply(&self, own: Guidance) -> Guidance {
        Guidance {
            scale: self.scale.unwrap_or(own.scale),
            perturbed: self.perturbed.unwrap_or(own.perturbed),
            modality: self.modality.unwrap_or(own.modality),
            rescale: self.rescale.unwrap_or(own.rescale),
        }
    }
}

impl GuidanceChanges {
    /// One scale for both streams.
    pub fn scale(scale: Option<f32>) -> Self {
        let both = StreamChanges {
            scale,
            ..StreamChanges::default()
        };
        Self {
            video: both,
            audio: both,
            perturbed_blocks: None,
        }
    }

    /// Refuses values outside their range and blocks that there are not.
    ///
    /// # Errors
    /// [`DiffusionError::Recipe`] about `guidance`.
    pub(crate) fn check(&self, info: &ModelInfo) -> Result<(), DiffusionError> {
        let refuse = |reason: String| Err(DiffusionError::recipe("guidance", reason));
        for (stream, changes) in [("video", &self.video), ("audio", &self.audio)] {
            let names = ["scale", "perturbed", "modality", "rescale"];
            let limits = [GUIDANCE_MAX, GUIDANCE_MAX, GUIDANCE_MAX, 1.0];
            for ((name, value), limit) in names.iter().zip(changes.values()).zip(limits) {
                if value.is_some_and(|value| !(0.0..=limit).contains(&value)) {
                    return refuse(format!(
                        "{stream} {name} must be a number from 0 to {limit}"
                    ));
                }
            }
            let asked = changes.perturbed.is_some_and(|weight| weight != 0.0);
            if asked && info.perturbable_blocks == 0 {
                return refuse("these weights cannot skip self-attention".to_owned());
            }
        }
        let blocks = self.perturbed_blocks.as_deref().unwrap_or_default();
        if let Some(block) = blocks
            .iter()
            .find(|block| **block >= info.perturbable_blocks)
        {
            let count = info.perturbable_blocks;
            return refuse(format!(
                "block {block} cannot be skipped: there are {count}"
            ));
        }
        Ok(())
    }

    /// Feeds all values to a digest.
    pub(crate) fn hash(&self, hasher: &mut blake3::Hasher) {
        for changes in [&self.video, &self.audio] {
            for value in changes.values() {
                // No value is a NaN, so the pattern of one can stand for an absent value.
                let bits = value.map_or(u32::MAX, f32::to_bits);
                hasher.update(&bits.to_le_bytes());
            }
        }
        let blocks = self.perturbed_blocks.iter().flatten();
        let bytes: Vec<u8> = blocks.flat_map(|block| block.to_le_bytes()).collect();
        hasher
            .update(&(bytes.len() as u64).to_le_bytes())
            .update(&bytes);
    }
}

/// Constants of both streams.
#[derive(Debug, Clone, PartialEq)]
pub struct GuidancePlan {
    /// Picture.
    pub video: Guidance,
    /// Sound.
    pub audio: Guidance,
    /// Blocks whose self-attention the perturbed pass skips.
    pub perturbed_blocks: Vec<usize>,
}

/// The block that the published models skip, counted among 48.
const PERTURBED_BLOCK_23: usize = 28;
const PERTURBED_BLOCK_20: usize = 29;

impl GuidancePlan {
    /// Classifier-free guidance alone.
    pub fn scales(video: f32, audio: f32) -> Self {
        Self {
            video: Guidance {
                scale: video,
                ..Guidance::OFF
            },
            audio: Guidance {
                scale: audio,
                ..Guidance::OFF
            },
            perturbed_blocks: Vec::new(),
        }
    }

    /// What the makers of 2.0 and 2.3 use for models that are not distilled.
    pub fn published(is_23: bool, perturbed: bool, layers: usize) -> Self {
        let (scales, block) = if is_23 {
            ((3.0, 7.0), PERTURBED_BLOCK_23)
        } else {
            ((4.0, 4.0), PERTURBED_BLOCK_20)
        };
        let skips = perturbed && block < layers;
        let guidance = |scale| Guidance {
            scale,
            perturbed: if skips { 1.0 } else { 0.0 },
            modality: 3.0,
            rescale: 0.7,
        };
        Self {
            video: guidance(scales.0),
            audio: guidance(scales.1),
            perturbed_blocks: if skips { vec![block] } else { Vec::new() },
        }
    }

    /// Passes of a step.
    pub fn passes(&self) -> usize {
        let others = [
            self.needs_negative(),
            self.needs_perturbed(),
            self.needs_isolated(),
        ];
        1 + others.into_iter().filter(|needed| *needed).count()
    }

    /// The plan with a recipe's changes. A perturbed pass that no block is named for skips the
    /// published block, or where there are fewer, the middle one of `layers`.
    #[must_use]
    pub fn with(mut self, changes: &GuidanceChanges, layers: usize) -> Self {
        self.video = changes.video.apply(self.video);
        self.audio = changes.audio.apply(self.audio);
        if let Some(blocks) = &changes.perturbed_blocks {
            self.perturbed_blocks = blocks.iter().map(|block| *block as usize).collect();
        }
        if self.needs_perturbed() && self.perturbed_blocks.is_empty() {
            let published = PERTURBED_BLOCK_23;
            let block = if published < layers {
                published
            } else {
                layers / 2
            };
            self.perturbed_blocks = vec![block];
        }
        self
    }

    /// True when either stream needs the pass with the negative prompt.
    pub fn needs_negative(&self) -> bool {
        self.video.scale != 1.0 || self.audio.scale != 1.0
    }

    /// True when either stream needs the pass without self-attention.
    pub fn needs_perturbed(&self) -> bool {
        self.video.perturbed != 0.0 || self.audio.perturbed != 0.0
    }

    /// True when either stream needs the pass without the other stream.
    pub fn needs_isolated(&self) -> bool {
        self.video.modality != 1.0 || self.audio.modality != 1.0
    }
}

#[cfg(test)]
mod tests {
    use kernels::Tensor;
    use kernels::sampling::{Passes, guidance_step};
    use serde_json::Value;

    use super::*;
    use crate::golden::Golden;

    #[test]
    fn all_four_passes_equal_the_reference() {
        guides_as_the_reference("sampler", "guidance");
    }

    #[test]
    fn a_scale_of_zero_is_a_scale_as_in_the_formula() {
        guides_as_the_reference("masked", "audio_zero");
    }

    fn guides_as_the_reference(file: &str, case: &str) {
        let golden = Golden::open(file);
        let arguments: Value = serde_json::from_str(golden.note(&format!("args.{case}"))).unwrap();
        let number = |name: &str| arguments[name].as_f64().unwrap() as f32;
        let input = |name: &str| -> Tensor { golden.tensor(&format!("in.{case}.{name}")) };
        let (c, n, p, i) = (
            input("conditional"),
            input("negative"),
            input("perturbed"),
            input("isolated"),
        );
        let passes = Passes {
            conditional: &c,
            negative: Some(&n),
            perturbed: Some(&p),
            isolated: Some(&i),
        };
        let guidance = Guidance {
            scale: number("scale"),
            perturbed: number("perturbed"),
            modality: number("modality"),
            rescale: number("rescale"),
        };
        let mut x = input("x");
        let sigmas = (number("sigma"), number("next"));
        guidance_step(golden.device(), &mut x, passes, guidance, sigmas, None).unwrap();
        golden.check(&format!("out.{case}.x"), x.f32s(), 1e-5);
    }

    #[test]
    fn a_pass_is_made_only_when_a_stream_needs_it() {
        let off = GuidancePlan::scales(1.0, 1.0);
        assert!(!off.needs_negative() && !off.needs_perturbed() && !off.needs_isolated());
        assert!(GuidancePlan::scales(1.0, 2.0).needs_negative());
        // A scale of 0 for the sound is a scale, not an absent one.
        assert!(GuidancePlan::scales(1.0, 0.0).needs_negative());
        let guided = GuidancePlan::published(true, true, 48);
        assert!(guided.needs_negative() && guided.needs_perturbed() && guided.needs_isolated());
        assert_eq!(guided.perturbed_blocks, [28]);
        assert!(!GuidancePlan::published(true, true, 6).needs_perturbed());
        assert!(!GuidancePlan::published(false, false, 48).needs_perturbed());
        let changes = GuidanceChanges {
            audio: StreamChanges {
                scale: Some(0.0),
                modality: Some(1.0),
                ..StreamChanges::default()
            },
            ..GuidanceChanges::default()
        };
        let changed = guided.clone().with(&changes, 48);
        assert_eq!((changed.audio.scale, changed.audio.modality), (0.0, 1.0));
        assert_eq!((changed.video, changed.audio.rescale), (guided.video, 0.7));
        let skips = GuidanceChanges {
            video: StreamChanges {
                perturbed: Some(1.0),
                ..StreamChanges::default()
            },
            ..GuidanceChanges::default()
        };
        assert_eq!(off.clone().with(&skips, 6).perturbed_blocks, [3]);
        let named = GuidanceChanges {
            perturbed_blocks: Some(vec![1, 2]),
            ..skips
        };
        assert_eq!(off.with(&named, 6).perturbed_blocks, [1, 2]);
    }
}
