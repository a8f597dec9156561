//! SHA-256 of artefacts for their ETags. The store names them by BLAKE3, the API promises SHA-256.

use std::{collections::BTreeMap, sync::Mutex};

use futures::TryStreamExt;
use schemas::Digest;
use sha2::{Digest as _, Sha256};

use crate::artifacts::{ArtifactError, Artifacts};

/// Hashes kept; content never changes, so an old one is merely computed again.
const KEPT_MAX: usize = 4_096;

/// Hashes that were computed in this process.
#[derive(Debug, Default)]
pub struct Hashes(Mutex<BTreeMap<Digest, String>>);

impl Hashes {
    /// 64 hex digits over the `bytes` bytes of an artefact; reads it once.
    pub async fn sha256(
        &self,
        artifacts: &Artifacts,
        digest: Digest,
        bytes: u64,
    ) -> Result<String, ArtifactError> {
        let lock = || {
            self.0
                .lock()
                .expect("no code panics while it holds this lock")
        };
        if let Some(known) = lock().get(&digest) {
            return Ok(known.clone());
        }
        let mut hasher = Sha256::new();
        let mut stream = artifacts.open(digest, 0..bytes).await?;
        while let Some(piece) = stream.try_next().await? {
            hasher.update(&piece);
        }
        let hash = hex::encode(hasher.finalize());
        let mut all = lock();
        if all.len() >= KEPT_MAX {
            all.pop_first();
        }
        all.insert(digest, hash.clone());
        Ok(hash)
    }
}
