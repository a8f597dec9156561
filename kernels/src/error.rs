//! What an op can refuse. User data never makes an op panic: it gets one of these.

use crate::shape::DType;

/// An error of an op, of a tensor or of a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A tensor's shape breaks the contract of the op that got it.
    #[error("{op}: {what} has shape {found}, expected {expected}")]
    Shape {
        /// Name of the op.
        op: &'static str,
        /// Name of the argument.
        what: &'static str,
        /// The shape that the contract asks for, in words.
        expected: String,
        /// The shape that came.
        found: String,
    },
    /// A tensor's element type breaks the contract of the op that got it.
    #[error("{op}: {what} holds {found}, expected {expected}")]
    DType {
        /// Name of the op.
        op: &'static str,
        /// Name of the argument.
        what: &'static str,
        /// The type that the contract asks for.
        expected: DType,
        /// The type that came.
        found: DType,
    },
    /// A tensor lies where the device of the op cannot reach it.
    #[error("a tensor of {found} where {expected} works: move it first")]
    DeviceMismatch {
        /// Where the op runs.
        expected: &'static str,
        /// Where the tensor lies.
        found: &'static str,
    },
    /// The op exists but not for these parameters.
    #[error("{op} does not support {why}")]
    Unsupported {
        /// Name of the op.
        op: &'static str,
        /// What is not supported.
        why: String,
    },
    /// The memory for a tensor could not be had.
    #[error("out of memory: {} more are needed", amount(*need_bytes))]
    OutOfMemory {
        /// Size of the allocation that failed; 0 where the driver does not say what it wanted.
        need_bytes: u64,
    },
    /// A library that this needs is not on the machine.
    #[error("{file} is missing: {remedy}")]
    LibraryMissing {
        /// File name without version.
        file: &'static str,
        /// What brings it.
        remedy: &'static str,
    },
    /// A library is there and of no use.
    #[error("{file} is too old: {why}; {remedy}")]
    LibraryOld {
        /// File name without version.
        file: &'static str,
        /// How that shows.
        why: String,
        /// What brings a newer one.
        remedy: &'static str,
    },
    /// The driver is there and shows no GPU.
    #[error(
        "the NVIDIA driver sees no GPU: look at 'nvidia-smi', and whether CUDA_VISIBLE_DEVICES or a container hides it"
    )]
    NoGpu,
    /// A kernel could not be compiled for a GPU.
    #[error("there is no kernel '{kernel}' for {arch}: {log}")]
    Compile {
        /// Name of the module.
        kernel: String,
        /// Architecture.
        arch: String,
        /// The compiler's words.
        log: String,
    },
    /// The GPU's driver refused something, or a kernel before this call ended in a fault. After a fault
    /// the process must restart.
    #[error("the GPU's driver refused '{op}': {name} ({code})")]
    Driver {
        /// What was asked.
        op: &'static str,
        /// The driver's number.
        code: u32,
        /// The driver's word.
        name: String,
    },
    /// The threads of a CPU device could not be started.
    #[error("cannot start {threads} compute threads: {reason}")]
    Threads {
        /// How many threads were asked for.
        threads: usize,
        /// The operating system's reason.
        reason: String,
    },
}

fn amount(bytes: u64) -> String {
    match bytes {
        0 => "some bytes".into(),
        bytes => format!("{bytes} bytes"),
    }
}

impl KernelError {
    /// A [`KernelError::Shape`] from anything that can be printed.
    pub fn shape(
        op: &'static str,
        what: &'static str,
        expected: impl std::fmt::Debug,
        found: impl std::fmt::Debug,
    ) -> Self {
        Self::Shape {
            op,
            what,
            expected: format!("{expected:?}"),
            found: format!("{found:?}"),
        }
    }

    /// A [`KernelError::LibraryMissing`].
    pub(crate) fn missing(library: crate::cuda::Library) -> Self {
        Self::LibraryMissing {
            file: library.file(),
            remedy: library.remedy(),
        }
    }

    /// A [`KernelError::LibraryOld`].
    pub(crate) fn old(library: crate::cuda::Library, why: String) -> Self {
        Self::LibraryOld {
            file: library.file(),
            why,
            remedy: library.remedy(),
        }
    }

    /// A [`KernelError::Unsupported`].
    pub fn unsupported(op: &'static str, why: impl Into<String>) -> Self {
        Self::Unsupported {
            op,
            why: why.into(),
        }
    }
}
