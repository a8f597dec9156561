//! The artefact store of a test: a folder, or a bucket of a server that speaks S3.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use schemas::Digest;

use super::{
    Artifacts, ArtifactsUrl, S3Settings,
    s3_server::{BUCKET, ID, S3Server, SECRET},
};

impl S3Server {
    pub fn url() -> ArtifactsUrl {
        format!("s3://{BUCKET}/farm/one").parse().unwrap()
    }

    pub fn settings(&self) -> S3Settings {
        S3Settings {
            endpoint: Some(self.endpoint()),
            access_key_id: Some(ID.into()),
            secret_access_key: Some(SECRET.into()),
            ..S3Settings::default()
        }
    }
}

/// One suite for both: a local folder and a server.
pub enum Kept {
    Folder(tempfile::TempDir),
    Server(S3Server),
}

impl Kept {
    pub async fn both() -> [Self; 2] {
        let folder = tempfile::tempdir().unwrap();
        [Self::Folder(folder), Self::Server(S3Server::start().await)]
    }

    pub fn open(&self) -> Artifacts {
        match self {
            Self::Folder(folder) => Artifacts::in_folder(folder.path()).unwrap(),
            Self::Server(server) => {
                Artifacts::open_at(S3Server::url(), &server.settings()).unwrap()
            }
        }
    }

    /// Where the shelves of the artefacts lie.
    pub fn shelves(&self) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.path().join(super::FOLDER),
            Self::Server(server) => server.folder.path().join(BUCKET).join("farm/one"),
        }
    }

    pub fn age(&self, digest: Digest, age: Duration) {
        let hex = digest.to_string();
        let path = self.shelves().join(&hex[..2]).join(&hex);
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    /// How many artefacts and halves of artefacts there are.
    pub fn files(&self) -> usize {
        let list = |folder: &Path| match std::fs::read_dir(folder) {
            Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
            Err(_) => Vec::new(), // nothing was stored yet
        };
        let shelves = list(&self.shelves());
        shelves.iter().map(|shelf| list(shelf).len()).sum()
    }
}
