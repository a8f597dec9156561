//! What a task is: the self-contained order that an agent turns into an artefact.

use serde::{Deserialize, Serialize};

use crate::{
    Digest,
    given::{Fit, GivenSpec},
};

/// The work of one task. The agent translates it to the engine's own words once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TaskSpec {
    Render(RenderSpec),
    Assemble(AssembleSpec),
}

impl TaskSpec {
    pub fn kind(&self) -> TaskKind {
        match self {
            Self::Render(_) => TaskKind::Render,
            Self::Assemble(_) => TaskKind::Assemble,
        }
    }

    /// Files of the artefact store that it needs besides the outputs of the tasks before.
    pub fn reads(&self) -> Vec<Digest> {
        match self {
            Self::Render(spec) => spec.reads(),
            Self::Assemble(spec) => spec.before.iter().map(|before| before.film).collect(),
        }
    }

    /// Devices of one node that it runs on at once: a group, granted whole.
    pub fn devices(&self) -> u32 {
        match self {
            Self::Render(spec) => spec.devices,
            Self::Assemble(_) => 1,
        }
    }
}

/// Sizes that a group of devices may have.
pub const GROUP_SIZES: [u32; 4] = [1, 2, 4, 8];

fn one_device() -> u32 {
    1
}

fn is_one(devices: &u32) -> bool {
    *devices == 1
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// One shot from a prompt. Its output is a shot file (lossless picture and sound).
    Render,
    /// All shots of a job into one film. Its outputs are film, thumbnail and spritesheet.
    Assemble,
}

/// One shot: everything that decides its latents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RenderSpec {
    /// Place of the shot in the film, from 0.
    pub shot: u32,
    /// Name of the weights, as agents advertise them (`builtin`).
    pub weights: String,
    pub prompt: String,
    pub negative_prompt: String,
    /// Size to render at, a native size of the model, in pixels.
    pub width: u32,
    pub height: u32,
    /// Frames to render; `4k+1` for the built-in model, `8k+1` for LTX-2.
    pub frames: u32,
    pub fps: u32,
    pub seed: u64,
    /// Sampler steps; `None` takes the sigmas that the weights recommend.
    pub steps: Option<u32>,
    /// Guidance scale for the picture; `None` takes what the weights recommend.
    pub guidance_scale: Option<f32>,
    /// First frame to start from: an image (PNG, JPEG or WebP) in the artefact store.
    pub first_frame: Option<Digest>,
    /// What else is given of it; nothing for most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<Box<GivenSpec>>,
    /// Devices of one node that work on it together, one of [`GROUP_SIZES`]. Decides no latent.
    #[serde(default = "one_device", skip_serializing_if = "is_one")]
    pub devices: u32,
}

/// Nothing given.
static NOTHING: GivenSpec = GivenSpec {
    stills: Vec::new(),
    film: None,
    sound: None,
    context: None,
    renoise: None,
    fit: Fit::Cover,
};

impl RenderSpec {
    /// What is given of it besides its first frame.
    pub fn given(&self) -> &GivenSpec {
        self.given.as_deref().unwrap_or(&NOTHING)
    }

    /// Files of the artefact store that it needs.
    pub fn reads(&self) -> Vec<Digest> {
        let mut all = self.given().reads();
        all.extend(self.first_frame.filter(|first| !all.contains(first)));
        all
    }
}

/// The film: shots in order, at the size that was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AssembleSpec {
    /// Number of shots; their artefacts come with the lease, in this order.
    pub shots: u32,
    /// Output size in pixels; FFmpeg scales to it.
    pub width: u32,
    pub height: u32,
    pub fps: u32,
    /// Exact length of each shot in frames at `fps`; longer shots are cut, in order.
    pub shot_frames: Vec<u32>,
    /// The film that these shots go on from; it comes first, whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<BeforeSpec>,
}

/// A film in front of the shots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeforeSpec {
    pub film: Digest,
    #[serde(default)]
    pub fit: Fit,
}

/// A named file that a task made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artefact {
    pub variant: Variant,
    pub digest: Digest,
    pub bytes: u64,
}

/// What a file is for. `film`, `thumbnail` and `spritesheet` are the public variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    Shot,
    Film,
    Thumbnail,
    Spritesheet,
}

impl Variant {
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Shot => "video/x-matroska",
            Self::Film => "video/mp4",
            Self::Thumbnail => "image/webp",
            Self::Spritesheet => "image/jpeg",
        }
    }

    pub fn extension(self) -> &'static str {
        match self {
            Self::Shot => "mkv",
            Self::Film => "mp4",
            Self::Thumbnail => "webp",
            Self::Spritesheet => "jpg",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Shot => "shot",
            Self::Film => "film",
            Self::Thumbnail => "thumbnail",
            Self::Spritesheet => "spritesheet",
        }
    }
}
