//! A file on its way to the store: in memory while it is small, else in a file without a name on disk.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use schemas::Digest;
use tokio::{io::AsyncWriteExt, task::spawn_blocking};

use super::BoxError;

/// What is larger goes to disk.
pub const MEMORY_BYTES_MAX: usize = 4 << 20;
/// First bytes that tell the kind of a file.
const HEAD_BYTES: usize = 64;
/// Bytes of a piece that is read from disk.
const PIECE_BYTES: usize = 1 << 20;

/// A whole file; cheap to clone.
#[derive(Clone)]
pub struct Upload {
    digest: Digest,
    head: Bytes,
    content: Content,
}

#[derive(Clone)]
enum Content {
    Memory(Bytes),
    /// With its length. Its name is gone: it ends with the last handle, or with the process.
    Disk(Arc<File>, u64),
}

impl Upload {
    pub fn of(bytes: Bytes) -> Self {
        Self {
            digest: Digest::of(&bytes),
            head: bytes.slice(..bytes.len().min(HEAD_BYTES)),
            content: Content::Memory(bytes),
        }
    }

    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub fn size(&self) -> u64 {
        match &self.content {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::Disk(_, size) => *size,
        }
    }

    /// Its first bytes, by which its kind is known.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// All of it, in memory.
    pub fn bytes(&self) -> io::Result<Bytes> {
        match &self.content {
            Content::Memory(bytes) => Ok(bytes.clone()),
            Content::Disk(..) => {
                let mut whole = Vec::new();
                self.reader().read_to_end(&mut whole)?;
                Ok(whole.into())
            }
        }
    }

    /// Reads from its begin, wherever others read.
    pub fn reader(&self) -> Reader {
        Reader {
            upload: self.clone(),
            at: 0,
        }
    }

    /// All of it, in pieces.
    pub fn stream(&self) -> BoxStream<'static, Result<Bytes, BoxError>> {
        if let Content::Memory(bytes) = &self.content {
            return stream::iter([Ok(bytes.clone())]).boxed();
        }
        let piece = |mut reader: Reader| async move {
            let read = spawn_blocking(move || {
                let mut piece = vec![0; PIECE_BYTES];
                let bytes = reader.read(&mut piece)?;
                piece.truncate(bytes);
                io::Result::Ok((piece, reader))
            });
            let (piece, reader) = read.await??;
            Ok((!piece.is_empty()).then(|| (piece.into(), reader)))
        };
        stream::try_unfold(self.reader(), piece).boxed()
    }
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Upload({} bytes)", self.size())
    }
}

impl PartialEq for Upload {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Upload {}

/// A place in an [`Upload`].
pub struct Reader {
    upload: Upload,
    at: u64,
}

impl Read for Reader {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let bytes = match &self.upload.content {
            Content::Memory(bytes) => {
                let start = usize::try_from(self.at).map_or(bytes.len(), |at| at.min(bytes.len()));
                (&bytes[start..]).read(target)?
            }
            Content::Disk(file, _) => file.read_at(target, self.at)?,
        };
        self.at += bytes as u64;
        Ok(bytes)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (from, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::Current(by) => (self.at, by),
            SeekFrom::End(by) => (self.upload.size(), by),
        };
        let at = from.checked_add_signed(by);
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// An [`Upload`] that is still coming.
pub struct Incoming {
    folder: Option<PathBuf>,
    hasher: blake3::Hasher,
    /// All of it, or the first bytes of what is on disk.
    memory: BytesMut,
    file: Option<tokio::fs::File>,
    size: u64,
}

impl Incoming {
    /// What does not fit into memory goes to a file in `folder`; without one, everything is kept in memory.
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self {
            folder,
            hasher: blake3::Hasher::new(),
            memory: BytesMut::new(),
            file: None,
            size: 0,
        }
    }

    /// # Errors
    /// The disk is full, or the folder cannot be written to.
    pub async fn push(&mut self, piece: &[u8]) -> io::Result<()> {
        self.hasher.update(piece);
        self.size += piece.len() as u64;
        if let Some(file) = &mut self.file {
            return file.write_all(piece).await;
        }
        self.memory.extend_from_slice(piece);
        match self
            .folder
            .take_if(|_| self.memory.len() > MEMORY_BYTES_MAX)
        {
            None => Ok(()),
            Some(folder) => {
                let file = spawn_blocking(move || tempfile::tempfile_in(folder)).await??;
                let mut file = tokio::fs::File::from_std(file);
                file.write_all(&self.memory).await?;
                self.memory = BytesMut::from(&self.memory[..HEAD_BYTES]);
                self.file = Some(file);
                Ok(())
            }
        }
    }

    /// # Errors
    /// As [`Incoming::push`].
    pub async fn finish(self) -> io::Result<Upload> {
        let memory = self.memory.freeze();
        let content = match self.file {
            None => Content::Memory(memory.clone()),
            Some(mut file) => {
                file.flush().await?;
                Content::Disk(Arc::new(file.into_std().await), self.size)
            }
        };
        Ok(Upload {
            digest: self.hasher.finalize().into(),
            head: memory.slice(..memory.len().min(HEAD_BYTES)),
            content,
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;

    async fn upload(bytes: &[u8], folder: Option<PathBuf>) -> Upload {
        let mut incoming = Incoming::new(folder);
        for piece in bytes.chunks(100_003) {
            incoming.push(piece).await.unwrap();
        }
        incoming.finish().await.unwrap()
    }

    #[tokio::test]
    async fn a_large_file_is_the_same_on_disk_and_leaves_no_name_there() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..MEMORY_BYTES_MAX + 5)
            .map(|i| (i * i % 251) as u8)
            .collect();
        for (length, is_on_disk) in [(0, false), (MEMORY_BYTES_MAX, false), (bytes.len(), true)] {
            let bytes = &bytes[..length];
            let given = upload(bytes, Some(folder.path().into())).await;
            assert_eq!(matches!(given.content, Content::Disk(..)), is_on_disk);
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
            let kept = upload(bytes, None).await;
            assert!(matches!(kept.content, Content::Memory(_)));
            assert_eq!(given, kept);
            assert_eq!(
                (given.digest(), given.size()),
                (Digest::of(bytes), length as u64)
            );
            assert_eq!(given.head(), &bytes[..length.min(HEAD_BYTES)]);
            assert!(given.bytes().unwrap() == bytes);
            let pieces: Vec<Bytes> = given.stream().try_collect().await.unwrap();
            assert!(pieces.concat() == bytes);
        }
    }

    #[tokio::test]
    async fn a_reader_finds_every_place() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = vec![7; MEMORY_BYTES_MAX + 5];
        let mut reader = upload(&bytes, Some(folder.path().into())).await.reader();
        assert_eq!(
            reader.seek(SeekFrom::End(-5)).unwrap(),
            MEMORY_BYTES_MAX as u64
        );
        let mut rest = Vec::new();
        assert_eq!(reader.read_to_end(&mut rest).unwrap(), 5);
        assert!(reader.seek(SeekFrom::Current(i64::MIN)).is_err());
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_is_an_error() {
        let mut incoming = Incoming::new(Some("/nowhere/at/all".into()));
        assert!(incoming.push(&vec![0; MEMORY_BYTES_MAX + 1]).await.is_err());
    }
}
