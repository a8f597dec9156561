//! What the engine computes on: the processor, or a card beside it.

use std::path::PathBuf;

use kernels::{Device, KernelError, cuda};
use serde::Deserialize;

/// The choice in settings and on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// The processor alone.
    #[default]
    Cpu,
    /// Products, attention and convolutions on the first NVIDIA GPU, the rest on the processor.
    Cuda,
}

impl Engine {
    /// Opens the device. `lib_dirs` may hold CUDA's libraries.
    ///
    /// # Errors
    /// [`KernelError`]: without a driver or with a card that is too old, with what to do about it.
    pub fn open(self, threads: usize, lib_dirs: &[PathBuf]) -> Result<Device, KernelError> {
        match self {
            Self::Cpu => Device::cpu(threads),
            Self::Cuda => Device::cuda(cuda::open(lib_dirs, cache_folder())?, threads),
        }
    }
}

/// Where compiled kernels are kept: the user's cache, or nowhere.
fn cache_folder() -> Option<PathBuf> {
    let named = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    Some(named.or_else(home)?.join("dailies/kernels"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_driver_a_card_is_refused_with_the_way_out() {
        if kernels::cuda::Libraries::find(&[]).has(kernels::cuda::Library::Driver) {
            println!("skipped: this machine has a driver");
            return;
        }
        let refused = Engine::Cuda.open(1, &[]).unwrap_err().to_string();
        assert!(refused.contains("libcuda.so is missing"), "{refused}");
        assert!(refused.contains("install the NVIDIA driver"), "{refused}");
        assert!(Engine::Cpu.open(1, &[]).is_ok());
    }
}
