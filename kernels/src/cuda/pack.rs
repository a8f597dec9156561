//! `kernels.pack`: cubins that travel with the binary. The SHA-256 of all that follows, a JSON index with its
//! length before it, then the cubins one after the other.

use std::{collections::BTreeMap, path::Path};

use sha2::{Digest, Sha256};

use super::cache::key;
use super::catalogue::Module;

/// First bytes of a pack.
const MAGIC: &[u8; 8] = b"DAILYPK2";

/// A pack in memory.
#[derive(Debug, Default)]
pub struct Pack {
    /// Key -> start and length in `bytes`.
    index: BTreeMap<String, (usize, usize)>,
    bytes: Vec<u8>,
    is_damaged: bool,
}

impl Pack {
    /// An empty pack.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a pack; none when there is no file. One that is damaged has no cubins.
    pub fn open(path: &Path) -> Option<Self> {
        let bytes = std::fs::read(path).ok()?;
        Some(Self::parse(&bytes).unwrap_or(Self {
            is_damaged: true,
            ..Self::default()
        }))
    }

    /// Whether its file was as it was made.
    pub fn is_whole(&self) -> bool {
        !self.is_damaged
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (digest, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<32>()?;
        if Sha256::digest(rest)[..] != digest[..] {
            return None;
        }
        let (length, rest) = rest.split_first_chunk::<8>()?;
        let (index, bytes) = rest.split_at_checked(u64::from_le_bytes(*length) as usize)?;
        let index: BTreeMap<String, (usize, usize)> = serde_json::from_slice(index).ok()?;
        let inside = |(start, length): &(usize, usize)| {
            start
                .checked_add(*length)
                .is_some_and(|end| end <= bytes.len())
        };
        index.values().all(inside).then(|| Self {
            index,
            bytes: bytes.to_vec(),
            is_damaged: false,
        })
    }

    /// Adds the cubin of a module.
    pub fn add(&mut self, module: &Module, arch: &str, cubin: &[u8]) {
        self.index
            .insert(key(module, arch, "pack"), (self.bytes.len(), cubin.len()));
        self.bytes.extend_from_slice(cubin);
    }

    /// The cubin of exactly this source for this architecture.
    pub fn get(&self, module: &Module, arch: &str) -> Option<&[u8]> {
        let (start, length) = self.index.get(&key(module, arch, "pack"))?;
        Some(&self.bytes[*start..start + length])
    }

    /// How many cubins it holds.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The pack as a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let index = serde_json::to_vec(&self.index).expect("strings and numbers are JSON");
        let length = (index.len() as u64).to_le_bytes();
        let rest = [&length[..], &index, &self.bytes].concat();
        [MAGIC, &Sha256::digest(&rest)[..], &rest].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::MODULES;

    #[test]
    fn cubins_come_back_and_a_broken_pack_is_none() {
        let mut pack = Pack::new();
        pack.add(&MODULES[0], "sm_80", b"first");
        pack.add(&MODULES[1], "sm_90a", b"second");
        let bytes = pack.to_bytes();
        let pack = Pack::parse(&bytes).unwrap();
        assert_eq!(pack.get(&MODULES[0], "sm_80"), Some(&b"first"[..]));
        assert_eq!(pack.get(&MODULES[1], "sm_90a"), Some(&b"second"[..]));
        assert_eq!(pack.get(&MODULES[1], "sm_80"), None);
        for end in 0..bytes.len() {
            assert!(
                Pack::parse(&bytes[..end]).is_none(),
                "{end} bytes are no pack"
            );
        }
        let mut changed = bytes.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(
            Pack::parse(&changed).is_none(),
            "a bit of a kernel is another"
        );
        let path = std::env::temp_dir().join(format!("dailies-pack-{}", std::process::id()));
        for (bytes, is_whole) in [(&changed, false), (&bytes, true)] {
            std::fs::write(&path, bytes).unwrap();
            let opened = Pack::open(&path).unwrap();
            assert_eq!(
                (opened.is_whole(), opened.is_empty()),
                (is_whole, !is_whole)
            );
        }
        std::fs::remove_file(&path).unwrap();
        assert!(Pack::open(&path).is_none());
    }
}
