//! Artefacts by content: `cas/<2 hex>/<64 hex>` in a local folder.
//!
//! An artefact appears whole or not at all: it is written beside its place, its digest is compared,
//! it is synced, and only then renamed. A second store of the same bytes is a success.

use std::{io, path::Path, sync::Arc, time::SystemTime};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload,
    local::LocalFileSystem, path::Path as Place,
};
use schemas::Digest;

/// Name of the artefact store in the data folder.
pub const FOLDER: &str = "cas";
/// The largest artefact; a shot of a minute at 1280x720 in FFV1 is below half of it.
pub const ARTEFACT_BYTES_MAX: u64 = 8 << 30;
/// Bytes that are handed to the disk at a time.
const PART_BYTES: usize = 1 << 20;

/// Handle to the artefact store; cheap to clone.
#[derive(Clone, Debug)]
pub struct Artifacts {
    store: Arc<LocalFileSystem>,
    folder: Arc<Path>,
}

#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("no artefact {0}")]
    NotFound(Digest),
    #[error("the bytes have digest {found}, not {expected}")]
    WrongDigest { expected: Digest, found: Digest },
    #[error("the artefact is larger than {ARTEFACT_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the disk of the artefact store is full; free some space under {folder}")]
    Full { folder: String },
    #[error("the artefact store failed to {step}")]
    Io {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the artefact store failed to {step}")]
    Store {
        step: &'static str,
        #[source]
        source: object_store::Error,
    },
    #[error("the sender broke off")]
    BrokenOff(#[source] BoxError),
}

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An artefact that a chore looks at.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    pub digest: Digest,
    pub bytes: u64,
    pub modified: SystemTime,
}

impl Artifacts {
    /// Opens or makes the store in `data`, and removes what a crash left half-written.
    pub fn in_folder(data: &Path) -> Result<Self, ArtifactError> {
        let folder = data.join(FOLDER);
        let io = |step| move |source| ArtifactError::Io { step, source };
        std::fs::create_dir_all(&folder).map_err(io("make its folder"))?;
        remove_half_written(&folder).map_err(io("remove what a crash left"))?;
        let store = LocalFileSystem::new_with_prefix(&folder)
            .map_err(|source| ArtifactError::Store {
                step: "open its folder",
                source,
            })?
            .with_fsync(true);
        Ok(Self {
            store: Arc::new(store),
            folder: folder.into(),
        })
    }

    /// Bytes of an artefact; `None` when it is not stored.
    pub async fn size(&self, digest: Digest) -> Result<Option<u64>, ArtifactError> {
        match self.store.head(&place(digest)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.failed("look for an artefact", source)),
        }
    }

    /// When an artefact was stored last; `None` when it is not.
    pub async fn modified(&self, digest: Digest) -> Result<Option<SystemTime>, ArtifactError> {
        match self.store.head(&place(digest)).await {
            Ok(meta) => Ok(Some(SystemTime::from(meta.last_modified))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.failed("look for an artefact", source)),
        }
    }

    /// Bytes that were stored again must not be swept before they are referred to.
    fn make_young(&self, digest: Digest) -> Result<(), ArtifactError> {
        let hex = digest.to_string();
        let path = self.folder.join(&hex[..2]).join(&hex);
        let touched = std::fs::File::options()
            .write(true)
            .open(path)
            .and_then(|file| file.set_modified(SystemTime::now()));
        touched.map_err(|source| ArtifactError::Io {
            step: "note a second upload",
            source,
        })
    }

    /// Streams `range` (half open, within the size) of an artefact.
    pub async fn open(
        &self,
        digest: Digest,
        range: std::ops::Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, ArtifactError>>, ArtifactError> {
        if range.is_empty() {
            return Ok(futures::stream::empty().boxed());
        }
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            ..GetOptions::default()
        };
        let found = match self.store.get_opts(&place(digest), options).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => {
                return Err(ArtifactError::NotFound(digest));
            }
            Err(source) => return Err(self.failed("read an artefact", source)),
        };
        let this = self.clone();
        let stream = found.into_stream();
        Ok(stream
            .map_err(move |source| this.failed("read an artefact", source))
            .boxed())
    }

    /// Stores small bytes (a reference image) and answers their digest.
    pub async fn put_bytes(&self, bytes: Bytes) -> Result<Digest, ArtifactError> {
        let digest = Digest::of(&bytes);
        let stream = futures::stream::iter([Ok(bytes)]);
        self.put_stream(digest, stream).await?;
        Ok(digest)
    }

    /// Stores a stream whose bytes must have this digest; answers how many they are.
    ///
    /// # Errors
    /// After any [`ArtifactError`] nothing of the stream is left on the disk.
    pub async fn put_stream(
        &self,
        digest: Digest,
        mut stream: impl Stream<Item = Result<Bytes, BoxError>> + Unpin + Send,
    ) -> Result<u64, ArtifactError> {
        if let Some(bytes) = self.size(digest).await? {
            // Read to the end: a sender that is cut off would take it for an error.
            while let Some(chunk) = stream.next().await {
                chunk.map_err(ArtifactError::BrokenOff)?;
            }
            self.make_young(digest)?;
            return Ok(bytes);
        }
        let mut upload = self
            .store
            .put_multipart(&place(digest))
            .await
            .map_err(|source| self.failed("begin an artefact", source))?;
        let written = self.write_parts(upload.as_mut(), digest, &mut stream).await;
        let finished = match written {
            Ok(bytes) => upload
                .complete()
                .await
                .map(|_| bytes)
                .map_err(|source| self.failed("finish an artefact", source)),
            Err(error) => Err(error),
        };
        if finished.is_err()
            && let Err(error) = upload.abort().await
        {
            tracing::debug!(%error, "a broken upload is removed at the next start");
        }
        finished
    }

    async fn write_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        expected: Digest,
        stream: &mut (impl Stream<Item = Result<Bytes, BoxError>> + Unpin + Send),
    ) -> Result<u64, ArtifactError> {
        let mut hasher = blake3::Hasher::new();
        let mut part = BytesMut::with_capacity(PART_BYTES);
        let mut bytes = 0;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(ArtifactError::BrokenOff)?;
            bytes += chunk.len() as u64;
            if bytes > ARTEFACT_BYTES_MAX {
                return Err(ArtifactError::TooLarge);
            }
            hasher.update(&chunk);
            part.extend_from_slice(&chunk);
            if part.len() >= PART_BYTES {
                self.write_part(upload, part.split().freeze()).await?;
            }
        }
        match Digest::from(hasher.finalize()) {
            found if found == expected => self.write_part(upload, part.freeze()).await?,
            found => return Err(ArtifactError::WrongDigest { expected, found }),
        }
        Ok(bytes)
    }

    async fn write_part(
        &self,
        upload: &mut dyn MultipartUpload,
        part: Bytes,
    ) -> Result<(), ArtifactError> {
        let step = "write an artefact";
        upload
            .put_part(PutPayload::from_bytes(part))
            .await
            .map_err(|source| self.failed(step, source))
    }

    /// All artefacts, for a chore.
    pub fn list(&self) -> BoxStream<'static, Result<Stored, ArtifactError>> {
        let this = self.clone();
        self.store
            .list(None)
            .map_err(move |source| this.failed("list its artefacts", source))
            .try_filter_map(|meta| async move {
                let digest = meta.location.filename().and_then(|name| name.parse().ok());
                Ok(digest.map(|digest| Stored {
                    digest,
                    bytes: meta.size,
                    modified: SystemTime::from(meta.last_modified),
                }))
            })
            .boxed()
    }

    /// Removes an artefact; one that is gone already is no error.
    pub async fn remove(&self, digest: Digest) -> Result<(), ArtifactError> {
        match self.store.delete(&place(digest)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(self.failed("remove an artefact", source)),
        }
    }

    fn failed(&self, step: &'static str, source: object_store::Error) -> ArtifactError {
        match is_full(&source) {
            true => ArtifactError::Full {
                folder: self.folder.display().to_string(),
            },
            false => ArtifactError::Store { step, source },
        }
    }
}

fn place(digest: Digest) -> Place {
    let hex = digest.to_string();
    Place::from_iter([&hex[..2], &hex])
}

/// Whether the disk, or the quota on it, has no room left.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            let kind = io.kind();
            return kind == io::ErrorKind::StorageFull || kind == io::ErrorKind::QuotaExceeded;
        }
        cause = error.source();
    }
    false
}

/// Uploads are staged as `<64 hex>#<number>` beside their place.
fn remove_half_written(folder: &Path) -> io::Result<()> {
    for shelf in std::fs::read_dir(folder)? {
        let shelf = shelf?.path();
        if !shelf.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(shelf)? {
            let file = file?;
            if file.file_name().to_string_lossy().contains('#') {
                std::fs::remove_file(file.path())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(artifacts: &Artifacts, digest: Digest, range: std::ops::Range<u64>) -> Vec<u8> {
        let chunks: Vec<Bytes> = artifacts
            .open(digest, range)
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        chunks.concat()
    }

    fn files(folder: &Path) -> usize {
        let shelves = std::fs::read_dir(folder.join(FOLDER)).unwrap();
        let count = |shelf: std::path::PathBuf| std::fs::read_dir(shelf).unwrap().count();
        shelves.map(|shelf| count(shelf.unwrap().path())).sum()
    }

    #[tokio::test]
    async fn an_artefact_is_read_whole_and_in_ranges() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::in_folder(folder.path()).unwrap();
        let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
        let digest = artifacts.put_bytes(bytes.clone().into()).await.unwrap();
        assert_eq!(artifacts.size(digest).await.unwrap(), Some(3_000_000));
        assert_eq!(read(&artifacts, digest, 0..3_000_000).await, bytes);
        assert_eq!(
            read(&artifacts, digest, 1_048_570..1_048_590).await,
            &bytes[1_048_570..1_048_590]
        );
        assert!(read(&artifacts, digest, 5..5).await.is_empty());
        assert_eq!(artifacts.put_bytes(bytes.into()).await.unwrap(), digest);
        assert_eq!(files(folder.path()), 1);
    }

    #[tokio::test]
    async fn wrong_or_broken_bytes_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::in_folder(folder.path()).unwrap();
        let expected = Digest::of(b"film");
        let wrong = futures::stream::iter([Ok(Bytes::from_static(b"fraud"))]);
        let error = artifacts.put_stream(expected, wrong).await.unwrap_err();
        assert!(
            matches!(error, ArtifactError::WrongDigest { .. }),
            "{error}"
        );
        let broken = futures::stream::iter([
            Ok(Bytes::from(vec![0; 3 * PART_BYTES])),
            Err(BoxError::from("connection reset")),
        ]);
        let error = artifacts.put_stream(expected, broken).await.unwrap_err();
        assert!(matches!(error, ArtifactError::BrokenOff(_)), "{error}");
        assert_eq!(artifacts.size(expected).await.unwrap(), None);
        assert_eq!(files(folder.path()), 0);
        let missing = artifacts.open(expected, 0..1).await.err().unwrap();
        assert!(matches!(missing, ArtifactError::NotFound(_)));
    }

    #[tokio::test]
    async fn a_start_removes_what_a_crash_left() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::in_folder(folder.path()).unwrap();
        let digest = artifacts.put_bytes("film".into()).await.unwrap();
        let shelf = folder.path().join(FOLDER).join(&digest.to_string()[..2]);
        std::fs::write(shelf.join(format!("{digest}#1")), "half").unwrap();
        let artifacts = Artifacts::in_folder(folder.path()).unwrap();
        assert_eq!(files(folder.path()), 1);
        let listed: Vec<Stored> = artifacts.list().try_collect().await.unwrap();
        assert_eq!((listed[0].digest, listed[0].bytes), (digest, 4));
        artifacts.remove(digest).await.unwrap();
        artifacts.remove(digest).await.unwrap();
        assert_eq!(artifacts.size(digest).await.unwrap(), None);
    }
}
