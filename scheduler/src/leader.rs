//! Who may write the database: the process that holds the lock file beside it.

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
};

/// Name of the lock file in the data folder.
pub const FILE: &str = "leader.lock";

/// Held as long as this scheduler leads; the system frees it when the process ends, however it ends.
#[derive(Debug)]
pub struct Leadership {
    _lock: File,
}

#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    #[error(
        "another scheduler already runs on {folder}; stop it first, or give this one another data folder"
    )]
    Taken { folder: PathBuf },
    #[error(
        "cannot write to the data folder {folder}; check that it is a folder that this user may write to"
    )]
    NotWritable {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Takes the lock, or says who has it. The folder is made when it is missing.
pub fn lead(folder: &Path) -> Result<Leadership, LeaderError> {
    let not_writable = |source| LeaderError::NotWritable {
        folder: folder.to_path_buf(),
        source,
    };
    std::fs::create_dir_all(folder).map_err(not_writable)?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join(FILE))
        .map_err(not_writable)?;
    match lock.try_lock() {
        Ok(()) => Ok(Leadership { _lock: lock }),
        Err(TryLockError::WouldBlock) => Err(LeaderError::Taken {
            folder: folder.to_path_buf(),
        }),
        Err(TryLockError::Error(source)) => Err(not_writable(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_leader_is_refused_until_the_first_ends() {
        let folder = tempfile::tempdir().unwrap();
        let first = lead(folder.path()).unwrap();
        let second = lead(folder.path()).unwrap_err();
        assert!(matches!(second, LeaderError::Taken { .. }), "{second}");
        drop(first);
        lead(folder.path()).unwrap();
    }

    #[test]
    fn a_folder_that_is_a_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data");
        std::fs::write(&file, "").unwrap();
        let error = lead(&file).unwrap_err();
        assert!(matches!(error, LeaderError::NotWritable { .. }), "{error}");
        assert!(error.to_string().contains("data"), "{error}");
    }
}
