//! Tensors and fused ops of the engine.
//!
//! Every op is a module: `mod.rs` holds the contract (formula, shapes, errors), checks it and
//! chooses the device; `cpu.rs` computes. Ops write into the caller's outputs, know nothing of
//! models, do not broadcast beyond what their contract says, and give the same bits for any
//! number of threads.

pub mod activation;
pub mod attention;
pub mod average;
pub mod check;
pub mod conv;
pub mod conv1d;
pub mod conv2d;
pub mod conv3d;
pub mod conv_transpose1d;
pub mod copy;
pub mod cuda;
pub mod device;
pub mod error;
pub mod group_norm;
pub mod linear;
pub mod modulation;
pub mod norm;
pub mod patchify;
pub mod pixel_norm;
pub mod product;
pub mod repeat;
pub mod resample1d;
pub mod rope;
pub mod sampling;
pub mod shape;
pub mod snake;
pub mod space_depth;
pub mod stft_mel;
pub mod tensor;
pub mod to_frames;
pub mod upsample_nearest;

mod simd;
#[cfg(test)]
mod testing;

pub use device::{Cpu, Cuda, Device, Team};
pub use error::KernelError;
pub use repeat::Repeat;
pub use shape::{DType, FloatFormat, Shape};
pub use tensor::Tensor;
