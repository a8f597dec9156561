//! Reading a folder of weights in the diffusers layout: one [`Component`] per subfolder, each with
//! its [`Config`] and its memory-mapped safetensors files.

mod component;
mod config;
mod file;
#[cfg(test)]
mod fuzz;

use std::path::PathBuf;

pub use component::Component;
pub use config::Config;
pub use file::TensorFile;

/// Why a folder of weights cannot be used. Every variant names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Reason.
        #[source]
        source: std::io::Error,
    },
    /// A file that an index names is not there.
    #[error(
        "{path} is missing: {index} says that {tensors} tensors are in it; \
         the download is not whole"
    )]
    MissingShard {
        /// The file.
        path: PathBuf,
        /// The index.
        index: PathBuf,
        /// How many tensors it should hold.
        tensors: usize,
    },
    /// A JSON file is not valid.
    #[error("{path} is not valid JSON")]
    Json {
        /// The file.
        path: PathBuf,
        /// Reason.
        #[source]
        source: serde_json::Error,
    },
    /// A safetensors file is damaged.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A config field has a value that is not supported.
    #[error("{path}: field `{field}`: {reason}")]
    Field {
        /// The config file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// A tensor is absent.
    #[error("{path} has no tensor `{tensor}` (expected shape {expected:?})")]
    MissingTensor {
        /// The file or the folder.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// Shape that the config asks for.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the config asks for.
    #[error("{path}: tensor `{tensor}` has shape {found:?}, expected {expected:?}")]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// Shape that the config asks for.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// A tensor has an element type other than F32, F16 or BF16.
    #[error("{path}: tensor `{tensor}` holds {found}, expected F32, F16 or BF16")]
    TensorType {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// Type in the file.
        found: String,
    },
    /// A tensor holds NaN or infinite values.
    #[error("{path}: tensor `{tensor}` holds {count} values that are not finite")]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// How many.
        count: usize,
    },
    /// A component is of a class that this engine does not run.
    #[error(
        "{path}: class `{found}` of component `{component}` is not supported (expected {expected})"
    )]
    Class {
        /// The file that names the class.
        path: PathBuf,
        /// The component.
        component: String,
        /// Classes that are supported.
        expected: String,
        /// Class in the file.
        found: String,
    },
    /// There is no memory for a tensor.
    #[error("cannot load tensor `{tensor}`")]
    Upload {
        /// Name of the tensor.
        tensor: String,
        /// Reason.
        #[source]
        source: kernels::KernelError,
    },
}
