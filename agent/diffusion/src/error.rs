//! What generating a clip can fail with.

use kernels::KernelError;

pub use crate::weights::WeightsError;

/// Failure of loading weights, of a recipe or of a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiffusionError {
    /// The folder of weights cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The recipe asks for something that these weights cannot make.
    #[error("{field}: {reason}")]
    Recipe {
        /// Name of the recipe's field.
        field: &'static str,
        /// Why the value is refused, with what would be accepted.
        reason: String,
    },
    /// A checkpoint cannot be resumed here.
    #[error("cannot resume: {0}")]
    Checkpoint(#[from] crate::checkpoint::CheckpointError),
    /// More memory is needed than there is.
    #[error(
        "{what} needs {} MiB of memory and {} MiB are free: {advice}",
        need_bytes.div_ceil(1 << 20),
        free_bytes >> 20
    )]
    OutOfMemory {
        /// What needs it.
        what: String,
        /// Predicted peak.
        need_bytes: u64,
        /// What the device has left.
        free_bytes: u64,
        /// What to do about it.
        advice: &'static str,
    },
    /// The latents stopped being numbers.
    #[error("the {stream} latents hold {count} values that are not finite after step {step}")]
    Numeric {
        /// `video` or `audio`.
        stream: &'static str,
        /// How many values are NaN or infinite.
        count: usize,
        /// Steps done.
        step: u32,
    },
    /// The prompt cannot be turned into tokens.
    #[error("cannot tokenise the prompt: {0}")]
    Tokenizer(String),
    /// An op refused its arguments: a broken invariant of this crate, or memory ran out.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl DiffusionError {
    /// Whether memory was lacking: as foretold, or in the middle of a run.
    pub fn is_out_of_memory(&self) -> bool {
        let in_the_middle = matches!(self, Self::Kernel(KernelError::OutOfMemory { .. }));
        in_the_middle || matches!(self, Self::OutOfMemory { .. })
    }

    /// A [`DiffusionError::Recipe`].
    pub(crate) fn recipe(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Recipe {
            field,
            reason: reason.into(),
        }
    }
}
