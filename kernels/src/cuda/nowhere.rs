//! A machine that does nothing: what runs on it has the right shapes and no values. For the other side of a
//! check, whose own results were kept.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::launch::{Card, Launch, Machine, MapShape};
use crate::KernelError;

/// Addresses are given and never used; reading gives zeros.
#[derive(Debug)]
pub struct Nowhere {
    card: Card,
    next: AtomicU64,
}

impl Nowhere {
    /// As a card of a compute capability.
    pub fn new(capability: (u32, u32)) -> Self {
        Self {
            card: Card {
                name: "nowhere".into(),
                capability,
                multiprocessors: 1,
                shared_bytes_max: u32::MAX,
                cache_bytes: 0,
                memory_bytes: u64::MAX,
            },
            next: AtomicU64::new(1 << 20),
        }
    }
}

impl Machine for Nowhere {
    fn card(&self) -> &Card {
        &self.card
    }

    fn allocate(&self, bytes: u64) -> Result<u64, KernelError> {
        let taken = bytes.max(1).next_multiple_of(256);
        Ok(self.next.fetch_add(taken, Relaxed))
    }

    fn release(&self, _: u64) {}

    fn write(&self, _: u64, _: &[u8]) -> Result<(), KernelError> {
        Ok(())
    }

    fn read(&self, _: u64, bytes: &mut [u8]) -> Result<(), KernelError> {
        bytes.fill(0);
        Ok(())
    }

    fn fill(&self, _: u64, _: u64, _: u8) -> Result<(), KernelError> {
        Ok(())
    }

    fn copy(&self, _: u64, _: u64, _: u64) -> Result<(), KernelError> {
        Ok(())
    }

    fn launch(&self, _: &Launch) -> Result<(), KernelError> {
        Ok(())
    }

    fn map(&self, _: &MapShape) -> Result<Vec<u8>, KernelError> {
        Ok(vec![0; 128])
    }

    fn synchronise(&self) -> Result<(), KernelError> {
        Ok(())
    }
}
