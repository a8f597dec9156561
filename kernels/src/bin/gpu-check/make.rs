//! Makes `kernels.pack`: all modules for all architectures, without a GPU.

use std::{error::Error, fs, path::Path};

use rayon::prelude::*;

use kernels::cuda::{ARCHS, KernelStore, Libraries, MODULES, Nvrtc, Pack};

use crate::options::Options;

/// Compiles everything and writes the pack; always true.
///
/// # Errors
/// Without libnvrtc, when a kernel does not compile, or when the file cannot be written.
pub fn pack(options: &Options, file: &Path) -> Result<bool, Box<dyn Error>> {
    let nvrtc = Nvrtc::new(&Libraries::find(&options.lib_dirs))?;
    let store = KernelStore {
        folder: Some(options.out.clone()),
        pack: None,
        nvrtc: Some(nvrtc),
    };
    let pairs: Vec<_> = MODULES
        .iter()
        .flat_map(|module| ARCHS.iter().map(move |arch| (module, *arch)))
        .filter(|(module, arch)| module.cards.include(arch))
        .collect();
    let cubins: Result<Vec<_>, _> = pairs
        .par_iter()
        .map(|(module, arch)| store.cubin(module, arch))
        .collect();
    let mut pack = Pack::new();
    for ((module, arch), (cubin, ..)) in pairs.iter().zip(cubins?) {
        pack.add(module, arch, &cubin);
    }
    let bytes = pack.to_bytes();
    fs::write(file, &bytes)?;
    println!(
        "{}: {} cubins, {:.1} MiB",
        file.display(),
        pack.len(),
        bytes.len() as f64 / f64::from(1 << 20)
    );
    Ok(true)
}
