//! What the engine computes on: the processor or a card.

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
    /// The first NVIDIA GPU, which then holds weights and tensors.
    Cuda,
    /// The first NVIDIA GPU where one can be opened, else the processor.
    Auto,
}

/// A device, and how it came to be chosen where the choice was left open.
#[derive(Debug)]
pub struct Opened {
    pub device: Device,
    pub chosen: Option<String>,
}

impl Engine {
    /// Opens the device. `lib_dirs` may hold CUDA's libraries.
    ///
    /// # Errors
    /// [`KernelError`]: without a driver or with a card that is too old, with what to do about it.
    pub fn open(self, threads: usize, lib_dirs: &[PathBuf]) -> Result<Opened, KernelError> {
        let card = || card(0, threads, lib_dirs);
        let (device, chosen) = match self {
            Self::Cpu => (Device::cpu(threads)?, None),
            Self::Cuda => (card()?.0, None),
            Self::Auto => match card() {
                Ok((device, name)) => (device, Some(format!("the GPU: {name} can be used"))),
                Err(error) => {
                    let why = format!("the processor: no GPU can be used, because {error}");
                    (Device::cpu(threads)?, Some(why))
                }
            },
        };
        Ok(Opened { device, chosen })
    }
}

/// How many cards the driver shows.
pub fn count(lib_dirs: &[PathBuf]) -> usize {
    cuda::count(lib_dirs)
}

/// The card of this number, and its name.
///
/// # Errors
/// As [`Engine::open`].
pub fn card(
    ordinal: usize,
    threads: usize,
    lib_dirs: &[PathBuf],
) -> Result<(Device, String), KernelError> {
    let gpu = cuda::open(lib_dirs, cache_folder(), ordinal)?;
    let name = gpu.card().name.clone();
    Ok((Device::cuda(gpu, threads)?, name))
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
        assert!(Engine::Cpu.open(1, &[]).unwrap().chosen.is_none());
        let Opened { device, chosen } = Engine::Auto.open(1, &[]).unwrap();
        assert!(matches!(device, Device::Cpu(_)));
        let chosen = chosen.unwrap();
        assert!(
            chosen.contains("the processor") && chosen.contains("libcuda.so"),
            "{chosen}"
        );
    }
}
