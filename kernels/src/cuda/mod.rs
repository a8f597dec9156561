//! Running ops on an NVIDIA GPU, from a binary that was built without CUDA.
//!
//! A [`Gpu`] launches kernels on a [`Machine`]: the driver's, or the emulator's, which runs the same
//! sources thread by thread on the CPU. Everything above the machine (geometry, shared memory, tensor
//! maps, plans) is the same for both, so what the emulator has proved is what the driver gets.

use std::{path::PathBuf, sync::Arc};

use crate::KernelError;

mod array;
mod cache;
mod catalogue;
mod driver;
mod emulator;
mod faulty;
mod launch;
#[cfg(test)]
mod layout;
mod libs;
mod lt;
mod nowhere;
mod nvrtc;
mod pack;
mod pool;
mod resources;
mod source;
mod wgmma;

pub use array::{Array, Element};
pub use cache::{KernelStore, Origin};
pub use catalogue::{ARCHS, Act, Cards, MODULES, Module, arch_of};
pub use driver::{Driver, Graph, Timer};
pub use emulator::{Emulator, EmulatorError};
pub use faulty::{Fault, Faulty};
pub use launch::{Arguments, Card, Gpu, Launch, Machine, MapShape, Memory, MemoryWatch};
pub use libs::{Libraries, Library, Presence};
pub use lt::{After, Blas, PlanKey};
pub use nowhere::Nowhere;
pub use nvrtc::{Compiled, Nvrtc};
pub use pack::Pack;
pub use resources::Resources;
pub use source::{emulation, module_source};

/// How many cards the driver shows; 0 without one. `folders` as in [`open`].
pub fn count(folders: &[PathBuf]) -> usize {
    Driver::count(&Libraries::find(folders))
}

/// The card of this machine with the number `ordinal`, with its kernels from `cache` (a folder of its own), from
/// `kernels.pack` beside the program, or compiled. `folders` may hold CUDA's libraries.
///
/// # Errors
/// As [`Driver::open`] and [`Driver::check_kernels`].
pub fn open(
    folders: &[PathBuf],
    cache: Option<PathBuf>,
    ordinal: usize,
) -> Result<Gpu, KernelError> {
    let libraries = Libraries::find(folders);
    let program = std::env::current_exe().ok();
    let store = KernelStore {
        folder: cache,
        pack: program.and_then(|program| Pack::open(&program.with_file_name("kernels.pack"))),
        nvrtc: Nvrtc::new(&libraries).ok(),
    };
    let driver = Arc::new(Driver::open(&libraries, ordinal, store)?);
    driver.check_kernels()?;
    // Our own kernel multiplies where the library is missing.
    let blas = Blas::start(&libraries, driver.clone()).ok().map(Arc::new);
    Ok(Gpu::new(driver).with_blas(blas))
}
