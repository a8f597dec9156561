//! CUDA's libraries, looked for at run time. Nothing here panics when one is not there: it says what is
//! missing, where it was looked for and which package brings it.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::Once,
};

use crate::KernelError;

/// A library that CUDA work may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// libcuda: comes with the driver, always needed.
    Driver,
    /// libnvrtc: compiles kernels that are in neither cache nor pack.
    Nvrtc,
    /// libcublasLt: faster matrix products.
    CublasLt,
}

impl Library {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Driver, Self::Nvrtc, Self::CublasLt];

    /// File name without version.
    pub fn file(self) -> &'static str {
        match self {
            Self::Driver => "libcuda.so",
            Self::Nvrtc => "libnvrtc.so",
            Self::CublasLt => "libcublasLt.so",
        }
    }

    /// What brings it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Driver => {
                "install the NVIDIA driver, 525 or newer (Ubuntu: nvidia-driver-580-server; in a container: the NVIDIA Container Toolkit)"
            }
            Self::Nvrtc => "install cuda-nvrtc-13-0 (or `pip install nvidia-cuda-nvrtc==13.0.88`)",
            Self::CublasLt => "install libcublas-13-0 (or `pip install nvidia-cublas`)",
        }
    }

    /// A function that only those have which are new enough.
    fn mark(self) -> &'static str {
        match self {
            Self::Driver => "cuTensorMapEncodeTiled",
            Self::Nvrtc => "nvrtcGetCUBIN",
            Self::CublasLt => "cublasLtMatmulAlgoGetHeuristic",
        }
    }

    /// What works without it.
    pub fn without(self) -> &'static str {
        match self {
            Self::Driver => "no GPU is used",
            Self::Nvrtc => "only kernels of the cache and of kernels.pack run",
            Self::CublasLt => "matrix products use our own kernels, which are slower",
        }
    }

    fn is_present(self) -> bool {
        // A library's own start-up code may do anything; a panic of the binding must not be ours.
        std::panic::catch_unwind(|| self.opens()).unwrap_or(false)
    }

    #[expect(unsafe_code, reason = "opening a library runs its start-up code")]
    fn opens(self) -> bool {
        // SAFETY: these are NVIDIA's own libraries, whose start-up code has no precondition.
        unsafe {
            match self {
                Self::Driver => cudarc::driver::sys::is_culib_present(),
                Self::Nvrtc => cudarc::nvrtc::sys::is_culib_present(),
                Self::CublasLt => cudarc::cublaslt::sys::is_culib_present(),
            }
        }
    }

    /// The binding panics at a function that is not there, so that is asked before.
    #[expect(unsafe_code, reason = "asking an opened library for a function")]
    fn has_mark(self) -> bool {
        type Function = unsafe extern "C" fn();
        let mark = self.mark().as_bytes();
        // SAFETY: only called for a library that opens; the function is looked for and not called.
        unsafe {
            match self {
                Self::Driver => cudarc::driver::sys::culib().get::<Function>(mark).is_ok(),
                Self::Nvrtc => cudarc::nvrtc::sys::culib().get::<Function>(mark).is_ok(),
                Self::CublasLt => cudarc::cublaslt::sys::culib().get::<Function>(mark).is_ok(),
            }
        }
    }
}

/// Whether a library was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// It opens.
    Found,
    /// It does not.
    Missing {
        /// Folders that were looked through besides the system's.
        tried: Vec<PathBuf>,
    },
    /// It opens, and is another thing or from long ago.
    Old {
        /// A function that is needed.
        lacks: &'static str,
    },
}

/// All libraries at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Libraries {
    found: Vec<(Library, Presence)>,
}

/// Folders that CUDA is installed to when the system's own search does not know them.
const USUAL: &[&str] = &[
    "/usr/local/cuda/lib64",
    "/usr/local/nvidia/lib64",
    "/usr/lib/wsl/lib",
];
/// In this order: NVRTC finds its built-in functions only when they are loaded first.
const STEMS: &[&str] = &["nvrtc-builtins", "nvrtc", "cublasLt"];

impl Libraries {
    /// Looks for every library, first in `folders`, then where CUDA usually is, then in the system. A
    /// folder may be a library folder or one that holds `nvidia/*/lib`, as Python's site-packages do.
    pub fn find(folders: &[PathBuf]) -> Self {
        let mut all: Vec<PathBuf> = folders
            .iter()
            .flat_map(|folder| library_folders(folder))
            .collect();
        all.extend(USUAL.iter().map(PathBuf::from));
        load_once(&all);
        let presence = |library: Library| match library.is_present() {
            true if library.has_mark() => Presence::Found,
            true => Presence::Old {
                lacks: library.mark(),
            },
            false => Presence::Missing { tried: all.clone() },
        };
        Self {
            found: Library::ALL
                .map(|library| (library, presence(library)))
                .to_vec(),
        }
    }

    /// Whether a library was found.
    pub fn has(&self, library: Library) -> bool {
        self.found.contains(&(library, Presence::Found))
    }

    /// Refuses where a library is missing or too old.
    ///
    /// # Errors
    /// [`KernelError::LibraryMissing`], [`KernelError::LibraryOld`], with what to do about it.
    pub fn need(&self, library: Library) -> Result<(), KernelError> {
        match self.presence(library) {
            Some(Presence::Found) => Ok(()),
            Some(Presence::Old { lacks }) => {
                Err(KernelError::old(library, format!("it lacks {lacks}")))
            }
            Some(Presence::Missing { .. }) | None => Err(KernelError::missing(library)),
        }
    }

    /// A sentence about one: that it is here, or what its absence means and how to get it.
    pub fn tell(&self, library: Library) -> String {
        let (file, without, remedy) = (library.file(), library.without(), library.remedy());
        match self.presence(library) {
            Some(Presence::Found) => format!("{file} is here"),
            Some(Presence::Old { lacks }) => {
                format!("{file} is too old (it lacks {lacks}), so {without}; {remedy}")
            }
            Some(Presence::Missing { .. }) | None => {
                format!("{file} is missing, so {without}; {remedy}")
            }
        }
    }

    fn presence(&self, library: Library) -> Option<&Presence> {
        let found = self.found.iter().find(|(other, _)| *other == library);
        found.map(|(_, presence)| presence)
    }
}

/// `folder` itself and the `nvidia/*/lib` folders in it.
fn library_folders(folder: &Path) -> Vec<PathBuf> {
    let mut folders = vec![folder.to_path_buf()];
    let wheels = std::fs::read_dir(folder.join("nvidia"))
        .into_iter()
        .flatten()
        .flatten();
    folders.extend(
        wheels
            .map(|entry| entry.path().join("lib"))
            .filter(|path| path.is_dir()),
    );
    folders.sort();
    folders
}

/// Loads what the folders hold, for the whole life of the process: later searches by name return it.
fn load_once(folders: &[PathBuf]) {
    static LOADED: Once = Once::new();
    LOADED.call_once(|| {
        for stem in STEMS {
            let found = folders.iter().find_map(|folder| newest(folder, stem));
            if let Some(path) = found {
                load(&path);
            }
        }
    });
}

/// The library of a stem with the highest version, without the `.alt` copies.
fn newest(folder: &Path, stem: &str) -> Option<PathBuf> {
    let prefix = format!("lib{stem}.so.");
    let named = |path: &PathBuf| {
        path.file_name()
            .and_then(OsStr::to_str)
            .is_some_and(|name| name.starts_with(&prefix))
    };
    let entries = std::fs::read_dir(folder).ok()?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(named)
        .max()
}

#[cfg(unix)]
#[expect(unsafe_code, reason = "opening a library runs its start-up code")]
fn load(path: &Path) {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: the name says that it is NVIDIA's library; its start-up code has no precondition.
    if let Ok(library) = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) } {
        std::mem::forget(library);
    }
}

#[cfg(not(unix))]
fn load(_path: &Path) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_told_with_the_way_out() {
        let told = |presence: Presence| {
            let found = Library::ALL.map(|library| (library, presence.clone()));
            let libraries = Libraries {
                found: found.to_vec(),
            };
            let refused = Library::ALL.map(|library| match libraries.need(library) {
                Err(error) => error.to_string(),
                Ok(()) => "accepted".into(),
            });
            Library::ALL
                .map(|library| libraries.tell(library))
                .join("\n")
                + &refused.join("\n")
        };
        let missing = told(Presence::Missing { tried: vec![] });
        let old = told(Presence::Old { lacks: "cuNew" });
        for words in ["NVIDIA driver", "cuda-nvrtc-13-0", "libcublas-13-0"] {
            assert!(
                missing.contains(words) && old.contains(words),
                "{missing}\n{old}"
            );
        }
        assert!(missing.contains("libcuda.so is missing"), "{missing}");
        assert!(
            old.contains("libcuda.so is too old: it lacks cuNew"),
            "{old}"
        );
        assert!(!old.contains("accepted") && told(Presence::Found).contains("accepted"));
    }

    #[test]
    fn the_newest_copy_is_taken_and_other_names_are_not() {
        let folder = std::env::temp_dir().join(format!("dailies-libs-{}", std::process::id()));
        let inner = folder.join("nvidia/cu13/lib");
        std::fs::create_dir_all(&inner).unwrap();
        for name in [
            "libnvrtc.so.12",
            "libnvrtc.so.13",
            "libnvrtc.alt.so.13",
            "libnvrtc-builtins.so.13.0",
        ] {
            std::fs::write(inner.join(name), "").unwrap();
        }
        assert_eq!(library_folders(&folder), [folder.clone(), inner.clone()]);
        assert_eq!(newest(&inner, "nvrtc"), Some(inner.join("libnvrtc.so.13")));
        assert_eq!(
            newest(&inner, "nvrtc-builtins"),
            Some(inner.join("libnvrtc-builtins.so.13.0"))
        );
        assert_eq!(newest(&inner, "cublasLt"), None);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
