//! `kernels.pack`: cubins that travel with the binary. A JSON index with its length before it, then the
//! cubins one after the other.

use std::{collections::BTreeMap, path::Path};

use super::cache::key;
use super::catalogue::Module;

/// First bytes of a pack.
const MAGIC: &[u8; 8] = b"DAILYPK1";

/// A pack in memory.
#[derive(Debug, Default)]
pub struct Pack {
    /// Key -> start and length in `bytes`.
    index: BTreeMap<String, (usize, usize)>,
    bytes: Vec<u8>,
}

impl Pack {
    /// An empty pack.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a pack; none when there is no file or it is no pack.
    pub fn open(path: &Path) -> Option<Self> {
        Self::parse(&std::fs::read(path).ok()?)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
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
        [
            MAGIC,
            &(index.len() as u64).to_le_bytes()[..],
            &index,
            &self.bytes,
        ]
        .concat()
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
    }
}
