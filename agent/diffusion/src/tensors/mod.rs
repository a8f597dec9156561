//! One module of a checkpoint on given tensors, file in and file out: for comparing with another
//! implementation part by part. Names and shapes are those of the reference library (channels first).

mod input;
mod run;

use std::path::{Path, PathBuf};

use kernels::{Device, KernelError, Tensor};
use safetensors::tensor::{Dtype, TensorView};

use crate::weights::{Component, WeightsError};

pub use run::run;

/// A module that can be run alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Module {
    /// Name on the command line.
    pub name: &'static str,
    /// Folder of the weights that holds it.
    pub part: &'static str,
    /// Tensors it reads: name and shape, `?` after the name of one that may be absent.
    pub inputs: &'static [(&'static str, &'static str)],
    /// Tensors it gives.
    pub outputs: &'static [(&'static str, &'static str)],
}

const VIDEO: (&str, &str) = ("video", "[1, 3, frames, height, width] in -1..1");
const VIDEO_LATENTS: (&str, &str) = (
    "latents",
    "[1, C, f, h, w] of the autoencoder's own scale (means)",
);
const TILING: (&str, &str) = (
    "tiling?",
    "[4] integers: pixels of a tile, to the next; frames, to the next; 0 is whole",
);
const MEL: (&str, &str) = ("mel", "[1, channels, rows, bins] log-mel");
const AUDIO_LATENTS: (&str, &str) = (
    "latents",
    "[1, C, L, m] of the autoencoder's own scale (means)",
);
const MASK: (&str, &str) = ("mask", "[T] integers, 0 for padding on the left, then 1");
const STATES: (&str, &str) = ("states", "[T, hidden, layers + 1]");
const VIDEO_TEXT: (&str, &str) = ("video_text", "[T, D]");
const AUDIO_TEXT: (&str, &str) = ("audio_text", "[T, A]");

/// All modules, in the order of work.
pub const MODULES: [Module; 9] = [
    Module {
        name: "text-encoder",
        part: "text_encoder",
        inputs: &[("ids", "[T] integers"), MASK],
        outputs: &[STATES],
    },
    Module {
        name: "connectors",
        part: "connectors",
        inputs: &[STATES, MASK],
        outputs: &[VIDEO_TEXT, AUDIO_TEXT],
    },
    Module {
        name: "transformer",
        part: "transformer",
        inputs: &[
            ("video", "[S, C], S = (f + K)*h*w"),
            ("audio", "[L, C]"),
            VIDEO_TEXT,
            AUDIO_TEXT,
            ("video_times", "[1] or [S], 1000 sigma"),
            ("audio_times", "[1] or [L], 1000 sigma"),
            ("sigmas", "[2] of video and audio, times 1000"),
            ("grid", "[3] integers: f, h, w"),
            ("fps", "[1]"),
            (
                "stills?",
                "[K] integers: frames of pictures behind the grid",
            ),
            ("keyframes?", "[S], above 0 where a token is a keyframe"),
            ("perturbed?", "[N] integers: blocks without self-attention"),
            ("isolated?", "[1] integer: 1 when the streams are apart"),
        ],
        outputs: &[("video", "[S, C] velocity"), ("audio", "[L, C] velocity")],
    },
    Module {
        name: "vae-encode",
        part: "vae",
        inputs: &[VIDEO, TILING],
        outputs: &[VIDEO_LATENTS],
    },
    Module {
        name: "vae-decode",
        part: "vae",
        inputs: &[VIDEO_LATENTS, TILING],
        outputs: &[VIDEO],
    },
    Module {
        name: "latent-upsampler",
        part: "latent_upsampler",
        inputs: &[VIDEO_LATENTS],
        outputs: &[("latents", "[1, C, f, 2h, 2w]")],
    },
    Module {
        name: "audio-vae-encode",
        part: "audio_vae",
        inputs: &[MEL],
        outputs: &[AUDIO_LATENTS],
    },
    Module {
        name: "audio-vae-decode",
        part: "audio_vae",
        inputs: &[AUDIO_LATENTS],
        outputs: &[MEL],
    },
    Module {
        name: "vocoder",
        part: "vocoder",
        inputs: &[MEL],
        outputs: &[("wave", "[1, channels, samples]")],
    },
];

/// Why a module could not run on a file of tensors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorsError {
    /// There is no module of that name.
    #[error("no module is called `{name}`; there are {known}")]
    Unknown {
        /// The name.
        name: String,
        /// Names of all modules.
        known: String,
    },
    /// The file lacks a tensor.
    #[error("{path} has no tensor `{tensor}` (expected shape {expected})")]
    Missing {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Shape that the module reads.
        expected: String,
    },
    /// A tensor has another shape than the module reads.
    #[error("{path}: tensor `{tensor}` has shape {found:?}, expected {expected}")]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Shape that the module reads.
        expected: String,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// A tensor holds something that the module cannot read.
    #[error("{path}: tensor `{tensor}`: {reason}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// The weights or the file of tensors cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The module refused the tensors.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The output cannot be written.
    #[error("cannot write {path}: {reason}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Reason.
        reason: String,
    },
}

impl Module {
    /// The module of that name.
    ///
    /// # Errors
    /// [`TensorsError::Unknown`] with the names that there are.
    pub fn named(name: &str) -> Result<Self, TensorsError> {
        let found = MODULES.into_iter().find(|module| module.name == name);
        found.ok_or_else(|| TensorsError::Unknown {
            name: name.to_owned(),
            known: MODULES.map(|module| module.name).join(", "),
        })
    }

    /// Opens the module's part of a folder of weights.
    ///
    /// # Errors
    /// A [`WeightsError`] that names the file.
    pub fn open(&self, weights: &Path) -> Result<Component, WeightsError> {
        Component::open(weights, self.part)
    }
}

/// Runs a module of the weights in `folder` on the tensors of `input`; writes F32 to `output`.
///
/// # Errors
/// [`TensorsError`]; nothing is written then.
pub fn run_file(
    module: Module,
    folder: &Path,
    device: &Device,
    input: &Path,
    output: &Path,
) -> Result<(), TensorsError> {
    let component = module.open(folder)?;
    let found = device.scope(move || run(module, &component, device, input))?;
    write(output, &found)
}

/// Writes tensors as a safetensors file.
fn write(path: &Path, tensors: &[(&'static str, Tensor)]) -> Result<(), TensorsError> {
    let failed = |reason: String| TensorsError::Write {
        path: path.to_owned(),
        reason,
    };
    let bytes = |(_, tensor): &(&str, Tensor)| -> Result<Vec<u8>, KernelError> {
        let values = tensor.values()?;
        Ok(values.iter().flat_map(|v| v.to_le_bytes()).collect())
    };
    let bytes: Vec<Vec<u8>> = tensors.iter().map(bytes).collect::<Result<_, _>>()?;
    let mut views = Vec::with_capacity(tensors.len());
    for ((name, tensor), bytes) in tensors.iter().zip(&bytes) {
        let view = TensorView::new(Dtype::F32, tensor.dims().to_vec(), bytes);
        views.push((*name, view.map_err(|error| failed(error.to_string()))?));
    }
    let file = safetensors::serialize(views, None).map_err(|error| failed(error.to_string()))?;
    std::fs::write(path, file).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests;
