//! Where cubins come from: the folder of earlier compilations, a pack that travels with the binary, the
//! compiler. A folder that cannot be read or written costs time and is no failure.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use sha2::{Digest, Sha256};

use super::catalogue::{MODULES, Module};
use super::libs::Library;
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
        let key = self.key(module, arch);
        if let Some(kept) = self.kept(module, arch, &key) {
            return Ok(kept);
        }
        let Some(nvrtc) = &self.nvrtc else {
            return Err(self.lacks(module, arch));
        };
        let compiled = nvrtc.compile(module, arch)?;
        if let Some(folder) = &self.folder {
            write(folder, &key, &compiled.log, &compiled.cubin);
        }
        Ok((compiled.cubin, compiled.log, Origin::Compiled))
    }

    /// Whether every module that runs on an architecture is at hand or can be compiled.
    ///
    /// # Errors
    /// As [`KernelStore::cubin`], for the first that is neither.
    pub fn check(&self, arch: &str) -> Result<(), KernelError> {
        if self.nvrtc.is_some() {
            return Ok(());
        }
        let mut needed = MODULES.iter().filter(|module| module.cards.include(arch));
        let is_kept = |module| self.kept(module, arch, &self.key(module, arch)).is_some();
        match needed.find(|module| !is_kept(module)) {
            Some(module) => Err(self.lacks(module, arch)),
            None => Ok(()),
        }
    }

    fn key(&self, module: &Module, arch: &str) -> String {
        let version = self.nvrtc.as_ref().map(Nvrtc::version);
        key(module, arch, version.as_deref().unwrap_or("pack"))
    }

    fn kept(&self, module: &Module, arch: &str, key: &str) -> Option<(Vec<u8>, String, Origin)> {
        if let Some((cubin, log)) = self.folder.as_deref().and_then(|folder| read(folder, key)) {
            return Some((cubin, log, Origin::Folder));
        }
        let cubin = self.pack.as_ref()?.get(module, arch)?;
        Some((cubin.to_vec(), String::new(), Origin::Pack))
    }

    fn lacks(&self, module: &Module, arch: &str) -> KernelError {
        let folder = match &self.folder {
            Some(folder) => folder.display().to_string(),
            None => "none is set".into(),
        };
        let pack = match &self.pack {
            Some(pack) if pack.is_whole() => "is of another version of this program",
            Some(_) => "is damaged",
            None => "is not beside the program",
        };
        let log = format!(
            "it is not in the cache folder ({folder}), kernels.pack {pack}, and libnvrtc is missing; put the \
             kernels.pack of this version there, or {}",
            Library::Nvrtc.remedy()
        );
        KernelError::Compile {
            kernel: module.name.into(),
            arch: arch.into(),
            log,
        }
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
        let store = KernelStore::default();
        let error = store.cubin(&MODULES[0], "sm_80").unwrap_err();
        for words in ["cache folder", "kernels.pack is not", "libnvrtc", "install"] {
            assert!(error.to_string().contains(words), "{error}");
        }
        assert_eq!(store.check("sm_80"), Err(error));
    }

    #[test]
    fn what_a_card_lacks_of_its_kernels_is_told_before_any_of_them_runs() {
        let mut pack = Pack::new();
        let last = MODULES.last().unwrap();
        for module in MODULES.iter().filter(|module| module.name != last.name) {
            pack.add(module, "sm_90a", b"cubin");
        }
        let store = |pack: Option<Pack>| KernelStore {
            pack,
            ..KernelStore::default()
        };
        let error = store(Some(pack)).check("sm_90a").unwrap_err().to_string();
        assert!(
            error.contains(last.name) && error.contains("another version"),
            "{error}"
        );
        let folder = std::env::temp_dir().join(format!("dailies-damaged-{}", std::process::id()));
        fs::write(&folder, b"DAILYPK").unwrap();
        let damaged = Pack::open(&folder).unwrap();
        fs::remove_file(&folder).unwrap();
        let error = store(Some(damaged))
            .check("sm_90a")
            .unwrap_err()
            .to_string();
        assert!(error.contains("kernels.pack is damaged"), "{error}");
        let mut pack = Pack::new();
        MODULES
            .iter()
            .for_each(|module| pack.add(module, "sm_90a", b"cubin"));
        assert_eq!(store(Some(pack)).check("sm_90a"), Ok(()));
    }
}
