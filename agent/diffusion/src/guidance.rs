//! Which passes a step makes and how they are weighed: the model's own constants, or the recipe's.

pub use kernels::sampling::Guidance;

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

    /// The plan with another scale for both streams, where the recipe names one.
    #[must_use]
    pub fn with_scale(mut self, scale: Option<f32>) -> Self {
        if let Some(scale) = scale {
            self.video.scale = scale;
            self.audio.scale = scale;
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
        let golden = Golden::open("sampler");
        let arguments: Value = serde_json::from_str(golden.note("args.guidance")).unwrap();
        let number = |name: &str| arguments[name].as_f64().unwrap() as f32;
        let input = |name: &str| -> Tensor { golden.tensor(&format!("in.guidance.{name}")) };
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
        golden.check("out.guidance.x", x.f32s(), 1e-5);
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
        assert_eq!(guided.with_scale(Some(2.0)).audio.scale, 2.0);
    }
}
