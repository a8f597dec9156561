//! Artefacts by content: `<2 hex>/<64 hex>` in a local folder or in a bucket of any S3.
//!
//! An artefact appears whole or not at all, and only after its digest was compared: in a folder it
//! is written beside its place, synced and renamed; a server shows an upload when it is completed.
//! A second store of the same bytes is a success and makes them young again for the sweep.

mod http;
mod place;
#[cfg(test)]
mod s3_server;
#[cfg(test)]
pub(crate) mod testing;
mod upload;

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart,
    path::Path as Key,
};
use schemas::Digest;

pub use place::{ArtifactsUrl, ArtifactsUrlError, S3Settings};
pub use upload::{Incoming, Upload};

/// Name of the artefact store in the data folder.
pub const FOLDER: &str = "cas";
/// The largest artefact; a shot of a minute at 1280x720 in FFV1 is below half of it.
pub const ARTEFACT_BYTES_MAX: u64 = 8 << 30;
/// Bytes of a part of a large artefact; a server takes at most 10,000 parts of 5 MiB or more.
const PART_BYTES: usize = 8 << 20;
/// Parts of one upload that are on their way at a time.
const PARTS_MAX: usize = 3;
/// How object_store shows the answer of a server that is full.
const SERVER_FULL: &str = "507 Insufficient Storage";

/// Handle to the artefact store; cheap to clone.
#[derive(Clone, Debug)]
pub struct Artifacts {
    store: Arc<dyn ObjectStore>,
    /// Before the key of each artefact.
    prefix: Key,
    url: Arc<ArtifactsUrl>,
}

#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("no artefact {0}")]
    NotFound(Digest),
    #[error("the bytes have digest {found}, not {expected}")]
    WrongDigest { expected: Digest, found: Digest },
    #[error("the artefact is larger than {ARTEFACT_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the artefact store is full; free some space in {url}")]
    Full { url: ArtifactsUrl },
    #[error(
        "the artefact store {url} refuses this scheduler; check the bucket, its rights and \
         AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or s3.access_key_id and s3.secret_access_key"
    )]
    Refused {
        url: ArtifactsUrl,
        #[source]
        source: object_store::Error,
    },
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
    /// Opens the store. A folder is made.
    ///
    /// # Errors
    /// [`ArtifactError`] when the folder cannot be used or the server's address is none.
    pub fn open_at(url: ArtifactsUrl, s3: &S3Settings) -> Result<Self, ArtifactError> {
        let (store, prefix) = url.open(s3)?;
        Ok(Self {
            store,
            prefix,
            url: Arc::new(url),
        })
    }

    /// Opens the store for the one scheduler that writes to it: removes what a crash left half-written
    /// in a folder, asks a server whether it would take and give artefacts. One that does not answer
    /// now is no error: it may be away.
    ///
    /// # Errors
    /// [`ArtifactError`] also when a server knows neither the bucket nor the keys.
    pub async fn open_to_write(url: ArtifactsUrl, s3: &S3Settings) -> Result<Self, ArtifactError> {
        let this = Self::open_at(url, s3)?;
        if let ArtifactsUrl::Folder(folder) = &*this.url {
            let step = "remove what a crash left";
            let removed = place::remove_half_written(folder);
            removed.map_err(|source| ArtifactError::Io { step, source })?;
            return Ok(this);
        }
        match this.probe().await {
            Err(refused @ ArtifactError::Refused { .. }) => return Err(refused),
            Err(error) => {
                let cause = crate::outbound::first_cause(&error);
                tracing::error!(artifacts = %this.url, cause, "{error}; films cannot be stored until it answers");
            }
            Ok(took) => tracing::info!(artifacts = %this.url, ?took, "the artefact store answers"),
        }
        Ok(this)
    }

    pub fn url(&self) -> &ArtifactsUrl {
        &self.url
    }

    /// The store in a data folder.
    pub fn in_folder(data: &Path) -> Result<Self, ArtifactError> {
        let url = ArtifactsUrl::Folder(data.join(FOLDER));
        Self::open_at(url, &S3Settings::default())
    }

    /// Writes, reads and removes a probe; answers how long that took.
    pub async fn probe(&self) -> Result<Duration, ArtifactError> {
        let begun = Instant::now();
        let key = self.prefix.clone().join("probe");
        let bytes = Bytes::from_static(b"dailies looks whether it may write here");
        let step = |step| move |source| self.failed(step, source);
        self.store
            .put(&key, PutPayload::from_bytes(bytes.clone()))
            .await
            .map_err(step("write a probe"))?;
        let read = self.store.get_range(&key, 0..bytes.len() as u64).await;
        let read = read.map_err(step("read a probe"))?;
        self.store
            .delete(&key)
            .await
            .map_err(step("remove a probe"))?;
        match read == bytes {
            true => Ok(begun.elapsed()),
            false => Err(ArtifactError::WrongDigest {
                expected: Digest::of(&bytes),
                found: Digest::of(&read),
            }),
        }
    }

    /// Bytes of an artefact; `None` when it is not stored.
    pub async fn size(&self, digest: Digest) -> Result<Option<u64>, ArtifactError> {
        Ok(self.head(digest).await?.map(|meta| meta.size))
    }

    /// When an artefact was stored last; `None` when it is not.
    pub async fn modified(&self, digest: Digest) -> Result<Option<SystemTime>, ArtifactError> {
        let meta = self.head(digest).await?;
        Ok(meta.map(|meta| SystemTime::from(meta.last_modified)))
    }

    async fn head(&self, digest: Digest) -> Result<Option<ObjectMeta>, ArtifactError> {
        match self.store.head(&self.key(digest)).await {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.failed("look for an artefact", source)),
        }
    }

    fn key(&self, digest: Digest) -> Key {
        let hex = digest.to_string();
        self.prefix.clone().join(&hex[..2]).join(hex.as_str())
    }

    /// Streams `range` (half open, within the size) of an artefact.
    pub async fn open(
        &self,
        digest: Digest,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, ArtifactError>>, ArtifactError> {
        if range.is_empty() {
            return Ok(futures::stream::empty().boxed());
        }
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            ..GetOptions::default()
        };
        let found = match self.store.get_opts(&self.key(digest), options).await {
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

    /// Where a large file may lie until it is stored: on the disk of a local store, else in the system's temporary
    /// folder.
    pub fn waiting_room(&self) -> PathBuf {
        match &*self.url {
            ArtifactsUrl::Folder(folder) => folder.clone(),
            ArtifactsUrl::S3 { .. } => std::env::temp_dir(),
        }
    }

    /// Stores a file that came with a request.
    pub async fn put_upload(&self, upload: &Upload) -> Result<(), ArtifactError> {
        self.put_stream(upload.digest(), upload.stream()).await?;
        Ok(())
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
    /// After any [`ArtifactError`] nothing of the stream can be seen in the store.
    pub async fn put_stream(
        &self,
        digest: Digest,
        stream: impl Stream<Item = Result<Bytes, BoxError>> + Unpin + Send,
    ) -> Result<u64, ArtifactError> {
        let mut checked = Checked::new(stream);
        let head = checked.up_to(PART_BYTES).await?;
        let key = self.key(digest);
        if checked.ended {
            checked.must_be(digest)?;
            let whole = self.store.put(&key, head.into_iter().collect()).await;
            whole.map_err(|source| self.failed("write an artefact", source))?;
            return Ok(checked.bytes);
        }
        let step = "begin an artefact";
        let upload = self.store.put_multipart(&key).await;
        let upload = upload.map_err(|source| self.failed(step, source))?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        head.into_iter().for_each(|chunk| upload.put(chunk));
        let written = self.write_rest(&mut upload, &mut checked).await;
        if let Err(error) = written.and_then(|()| checked.must_be(digest)) {
            if let Err(error) = upload.abort().await {
                tracing::warn!(%error, "the parts of a broken upload stay until they are removed");
            }
            return Err(error);
        }
        let finished = upload.finish().await;
        finished.map_err(|source| self.failed("finish an artefact", source))?;
        Ok(checked.bytes)
    }

    async fn write_rest(
        &self,
        upload: &mut WriteMultipart,
        checked: &mut Checked<impl Stream<Item = Result<Bytes, BoxError>> + Unpin + Send>,
    ) -> Result<(), ArtifactError> {
        while let Some(chunk) = checked.next().await? {
            let room = upload.wait_for_capacity(PARTS_MAX).await;
            room.map_err(|source| self.failed("write an artefact", source))?;
            upload.put(chunk);
        }
        Ok(())
    }

    /// All artefacts, for a chore.
    pub fn list(&self) -> BoxStream<'static, Result<Stored, ArtifactError>> {
        let this = self.clone();
        let prefix = (self.prefix != Key::ROOT).then(|| self.prefix.clone());
        self.store
            .list(prefix.as_ref())
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
        match self.store.delete(&self.key(digest)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(self.failed("remove an artefact", source)),
        }
    }

    fn failed(&self, step: &'static str, source: object_store::Error) -> ArtifactError {
        use object_store::Error;
        let url = || ArtifactsUrl::clone(&self.url);
        match source {
            source if is_full(&source) => ArtifactError::Full { url: url() },
            source @ (Error::PermissionDenied { .. } | Error::Unauthenticated { .. }) => {
                ArtifactError::Refused { url: url(), source }
            }
            // Callers that look for an artefact have taken theirs out: here it is the bucket.
            source @ Error::NotFound { .. } if matches!(*self.url, ArtifactsUrl::S3 { .. }) => {
                ArtifactError::Refused { url: url(), source }
            }
            source => ArtifactError::Store { step, source },
        }
    }
}

/// A stream whose bytes are counted and hashed as they pass.
struct Checked<S> {
    stream: S,
    hasher: blake3::Hasher,
    bytes: u64,
    ended: bool,
}

impl<S: Stream<Item = Result<Bytes, BoxError>> + Unpin + Send> Checked<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            hasher: blake3::Hasher::new(),
            bytes: 0,
            ended: false,
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, ArtifactError> {
        let Some(chunk) = self.stream.next().await else {
            self.ended = true;
            return Ok(None);
        };
        let chunk = chunk.map_err(ArtifactError::BrokenOff)?;
        self.bytes += chunk.len() as u64;
        if self.bytes > ARTEFACT_BYTES_MAX {
            return Err(ArtifactError::TooLarge);
        }
        self.hasher.update(&chunk);
        Ok(Some(chunk))
    }

    /// The next chunks, until they are this many bytes or all.
    async fn up_to(&mut self, bytes: usize) -> Result<Vec<Bytes>, ArtifactError> {
        let mut chunks = Vec::new();
        while self.bytes < bytes as u64 {
            match self.next().await? {
                Some(chunk) => chunks.push(chunk),
                None => break,
            }
        }
        Ok(chunks)
    }

    fn must_be(&self, expected: Digest) -> Result<(), ArtifactError> {
        match Digest::from(self.hasher.finalize()) {
            found if found == expected => Ok(()),
            found => Err(ArtifactError::WrongDigest { expected, found }),
        }
    }
}

/// Whether the disk, the quota on it, or the server has no room left.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    if error.to_string().contains(SERVER_FULL) {
        return true;
    }
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
            return matches!(io.kind(), StorageFull | QuotaExceeded | FileTooLarge);
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests;
