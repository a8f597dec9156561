//! Where cubins come from: the folder of earlier compilations, a pack that travels with the binary, the
//! compiler. A folder that cannot be read or written costs time and is no failure.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use sha2::{Digest, Sha256};

use super::catalogue::Module;
use super::nvrtc::{Nvrtc, options};
use super::pack::Pack;
use super::source::module_source;
use crate::KernelError;

/// Raised when a cubin of the same source would have to be made anew.
const FORMAT: &str = "1";
/// Length of a key in a cached file's first line.
const KEY_LENGTH: usize = 64;

/// Where a cubin came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Compiled earlier on this machine.
    Folder,
    /// Brought along.
    Pack,
    /// Compiled just now.
    Compiled,
}

/// The three sources in their order.
#[derive(Debug, Default)]
pub struct KernelStore {
    /// Folder of earlier compilations.
    pub folder: Option<PathBuf>,
    /// Cubins brought along.
    pub pack: Option<Pack>,
    /// The compiler.
    pub nvrtc: Option<Nvrtc>,
}

impl KernelStore {
    /// The cubin of a module for an architecture, the compiler's log (empty unless compiled now or kept
    /// beside the cubin) and where it came from.
    ///
    /// # Errors
    /// [`KernelError::Compile`] when no source has it, with all three named.
    pub fn cubin(
        &self,
        module: &Module,
        arch: &str,
    ) -> Result<(Vec<u8>, String, Origin), KernelError> {
        let version = self.nvrtc.as_ref().map(Nvrtc::version);
        let key = key(module, arch, version.as_deref().unwrap_or("pack"));
        if let Some((cubin, log)) = self.folder.as_deref().and_then(|folder| read(folder, &key)) {
            return Ok((cubin, log, Origin::Folder));
        }
        if let Some(cubin) = self.pack.as_ref().and_then(|pack| pack.get(module, arch)) {
            return Ok((cubin.to_vec(), String::new(), Origin::Pack));
        }
        let Some(nvrtc) = &self.nvrtc else {
            let folder = self
                .folder
                .as_deref()
                .map_or("none is set".into(), |folder| folder.display().to_string());
            let pack = if self.pack.is_some() {
                "does not have it"
            } else {
                "is not there"
            };
            let log = format!(
                "not in the cache folder ({folder}), kernels.pack {pack}, and libnvrtc is missing"
            );
            return Err(KernelError::Compile {
                kernel: module.name.into(),
                arch: arch.into(),
                log,
            });
        };
        let compiled = nvrtc.compile(module, arch)?;
        if let Some(folder) = &self.folder {
            write(folder, &key, &compiled.log, &compiled.cubin);
        }
        Ok((compiled.cubin, compiled.log, Origin::Compiled))
    }
}

/// Everything that the cubin depends on.
pub(super) fn key(module: &Module, arch: &str, compiler: &str) -> String {
    let mut hash = Sha256::new();
    for part in [
        FORMAT,
        compiler,
        &options(arch, module.fast_math).join(" "),
        &module_source(module),
    ] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn file(folder: &Path, key: &str) -> PathBuf {
    folder.join(format!("{key}.cubin"))
}

/// A cached file: digest of the rest, length of the log, log, cubin. What does not fit its digest is not there.
fn read(folder: &Path, key: &str) -> Option<(Vec<u8>, String)> {
    let bytes = fs::read(file(folder, key)).ok()?;
    let (digest, rest) = bytes.split_at_checked(KEY_LENGTH)?;
    if digest != digest_of(rest).as_bytes() {
        return None;
    }
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let (log, cubin) = rest.split_at_checked(u64::from_le_bytes(*length) as usize)?;
    Some((cubin.to_vec(), String::from_utf8_lossy(log).into_owned()))
}

fn digest_of(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Written under another name first, so that nobody reads half a file.
fn write(folder: &Path, key: &str, log: &str, cubin: &[u8]) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let rest = [&(log.len() as u64).to_le_bytes()[..], log.as_bytes(), cubin].concat();
    let bytes = [digest_of(&rest).as_bytes(), &rest].concat();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let aside = folder.join(format!("{key}.{}.{number}", std::process::id()));
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(&aside, bytes));
    if written
        .and_then(|()| fs::rename(&aside, file(folder, key)))
        .is_err()
    {
        let _ = fs::remove_file(&aside);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::MODULES;

    #[test]
    fn what_was_written_is_read_and_what_was_changed_is_not() {
        let folder = std::env::temp_dir().join(format!("dailies-cubins-{}", std::process::id()));
        assert_eq!(read(&folder, "k"), None);
        write(&folder, "k", "log", b"cubin");
        assert_eq!(read(&folder, "k"), Some((b"cubin".to_vec(), "log".into())));
        let mut bytes = fs::read(file(&folder, "k")).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(file(&folder, "k"), &bytes).unwrap();
        assert_eq!(read(&folder, "k"), None);
        fs::write(file(&folder, "k"), b"short").unwrap();
        assert_eq!(read(&folder, "k"), None);
        assert_eq!(
            fs::read_dir(&folder).unwrap().count(),
            1,
            "nothing is left aside"
        );
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_failure() {
        write(Path::new("/proc/no-such-folder"), "k", "", b"cubin");
    }

    #[test]
    fn keys_follow_source_architecture_and_compiler() {
        let key_of = |module: usize, arch, compiler| key(&MODULES[module], arch, compiler);
        let one = key_of(0, "sm_80", "13.0");
        assert_eq!(one.len(), KEY_LENGTH);
        assert_eq!(one, key_of(0, "sm_80", "13.0"));
        for other in [
            key_of(1, "sm_80", "13.0"),
            key_of(0, "sm_86", "13.0"),
            key_of(0, "sm_80", "12.9"),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn without_any_source_all_three_are_named() {
        let error = KernelStore::default()
            .cubin(&MODULES[0], "sm_80")
            .unwrap_err()
            .to_string();
        for words in ["cache folder", "kernels.pack", "libnvrtc"] {
            assert!(error.contains(words), "{error}");
        }
    }
}
