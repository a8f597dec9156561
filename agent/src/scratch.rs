//! The folder for work in progress: one agent at a time, empty at every start.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

const LOCK: &str = "lock";

#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    #[error("cannot use the scratch folder {path}. Check its rights and the space on that disk")]
    Unusable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another agent works in {path}. Give this one its own with DAILIES__AGENT__SCRATCH")]
    InUse { path: PathBuf },
}

/// Holds the lock of the folder; the kernel frees it when the process ends, however it ends.
pub struct Scratch {
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Makes the folder, takes its lock and deletes what an agent before left in it.
    pub fn open(path: &Path) -> Result<Self, ScratchError> {
        let unusable = |source| ScratchError::Unusable {
            path: path.to_path_buf(),
            source,
        };
        fs::create_dir_all(path).map_err(unusable)?;
        let lock = File::create(path.join(LOCK)).map_err(unusable)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => ScratchError::InUse {
                path: path.to_path_buf(),
            },
            TryLockError::Error(source) => unusable(source),
        })?;
        for entry in fs::read_dir(path).map_err(unusable)? {
            let entry = entry.map_err(unusable)?;
            // Only what attempts make: a folder named by mistake keeps its files.
            if entry.file_type().map_err(unusable)?.is_dir() && is_attempt(&entry.path()) {
                fs::remove_dir_all(entry.path()).map_err(unusable)?;
            }
        }
        Ok(Self {
            path: path.to_path_buf(),
            _lock: lock,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Folders of attempts are called `{task}-{attempt}`.
fn is_attempt(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    name.rsplit_once('-').is_some_and(|(task, attempt)| {
        task.parse::<schemas::TaskId>().is_ok() && attempt.parse::<u32>().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_agent_left_is_deleted_and_other_folders_stay() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join("01890000-0000-7000-8000-000000000001-3");
        let other = dir.path().join("holiday-2026");
        fs::create_dir(&left).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(left.join("shot.mkv"), "half").unwrap();
        let _scratch = Scratch::open(dir.path()).unwrap();
        assert!(!left.exists());
        assert!(other.exists());
    }

    #[test]
    fn a_second_agent_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = Scratch::open(dir.path()).unwrap();
        let error = Scratch::open(dir.path()).err().unwrap();
        assert!(
            error.to_string().contains("another agent works in"),
            "{error}"
        );
        drop(first);
        assert!(Scratch::open(dir.path()).is_ok());
    }
}
