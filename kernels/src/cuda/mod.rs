//! Running ops on an NVIDIA GPU, from a binary that was built without CUDA.
//!
//! A [`Gpu`] launches kernels on a [`Machine`]: the driver's, or the emulator's, which runs the same
//! sources thread by thread on the CPU. Everything above the machine (geometry, shared memory, tensor
//! maps, plans) is the same for both, so what the emulator has proved is what the driver gets.

mod array;
mod cache;
mod catalogue;
mod driver;
mod emulator;
mod launch;
#[cfg(test)]
mod layout;
mod libs;
mod lt;
mod nvrtc;
mod pack;
mod resources;
mod source;
mod wgmma;

pub use array::{Array, Element};
pub use cache::{KernelStore, Origin};
pub use catalogue::{ARCHS, Act, Cards, MODULES, Module, arch_of};
pub use driver::{Driver, Graph, Timer};
pub use emulator::{Emulator, EmulatorError};
pub use launch::{Arguments, Card, Gpu, Launch, Machine, MapShape, Memory};
pub use libs::{Libraries, Library, Presence};
pub use lt::{After, Blas, PlanKey};
pub use nvrtc::{Compiled, Nvrtc};
pub use pack::Pack;
pub use resources::Resources;
pub use source::{emulation, module_source};
