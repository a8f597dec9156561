//! A file that appears whole or not at all: it is made beside its place and renamed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// A folder beside the target for everything on its way; removed when it is dropped.
pub struct Target {
    path: PathBuf,
    work: PathBuf,
}

impl Target {
    /// Checks that a file can be put at `path` before any work is done for it.
    pub fn new(path: &Path) -> Result<Self> {
        let Some(name) = path.file_name().filter(|_| !path.is_dir()) else {
            bail!(
                "{} is a folder: name a file, such as film.mp4",
                path.display()
            );
        };
        let folder = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        if !folder.is_dir() {
            bail!(
                "the folder {} does not exist: make it first",
                folder.display()
            );
        }
        let process = std::process::id();
        let work = folder.join(format!(".{}.{process}.part", name.to_string_lossy()));
        fs::create_dir_all(&work).with_context(|| {
            format!(
                "cannot write in {}: check its rights and free space",
                folder.display()
            )
        })?;
        Ok(Self {
            path: path.to_path_buf(),
            work,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Scratch on the same disk as the target.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// Puts the finished file `made`, inside [`Self::work`], in its place.
    pub fn put(self, made: &Path) -> Result<()> {
        let file = fs::File::open(made).context("cannot open the finished file")?;
        file.sync_all()
            .context("cannot finish the file: is the disk full?")?;
        fs::rename(made, &self.path)
            .with_context(|| format!("cannot put the file at {}", self.path.display()))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn nothing_half_written_stays() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::new(&dir.path().join("film.mp4")).unwrap();
        fs::write(target.work().join("half"), "half").unwrap();
        drop(target);
        assert!(names(dir.path()).is_empty());
        let target = Target::new(&dir.path().join("film.mp4")).unwrap();
        let made = target.work().join("whole");
        fs::write(&made, "whole").unwrap();
        target.put(&made).unwrap();
        assert_eq!(names(dir.path()), ["film.mp4"]);
    }

    #[test]
    fn a_place_that_cannot_take_a_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |path: &Path| Target::new(path).err().unwrap().to_string();
        assert!(refused(dir.path()).contains("is a folder"));
        assert!(refused(&dir.path().join("none/film.mp4")).contains("does not exist"));
    }
}
