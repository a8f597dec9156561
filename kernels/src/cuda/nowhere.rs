//! A machine that does nothing: what runs on it has the right shapes and no values. For the other side of a
//! check, whose own results were kept, and for what is to be seen of memory alone.

use std::collections::HashMap;
use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use super::launch::{Card, Launch, Machine, MapShape};
use crate::KernelError;

/// Addresses are given and never used; reading gives zeros.
#[derive(Debug)]
pub struct Nowhere {
    card: Card,
    next: AtomicU64,
    allocated: Mutex<HashMap<u64, u64>>,
    is_recording: AtomicBool,
}

impl Nowhere {
    /// As a card of a compute capability, with memory without end.
    pub fn new(capability: (u32, u32)) -> Self {
        Self::with_memory("nowhere", capability, u64::MAX)
    }

    /// As a card of this name that has no more than `memory_bytes`.
    pub fn with_memory(name: &str, capability: (u32, u32), memory_bytes: u64) -> Self {
        Self {
            card: Card {
                name: name.into(),
                capability,
                multiprocessors: 1,
                shared_bytes_max: u32::MAX,
                cache_bytes: 0,
                memory_bytes,
            },
            next: AtomicU64::new(1 << 20),
            allocated: Mutex::default(),
            is_recording: AtomicBool::new(false),
        }
    }

    /// As the driver: nothing waits while work is recorded.
    fn refuse_in_recording(&self, op: &'static str) -> Result<(), KernelError> {
        match self.is_recording.load(Relaxed) {
            true => Err(KernelError::unsupported(op, "being recorded")),
            false => Ok(()),
        }
    }

    fn allocated(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.allocated
            .lock()
            .expect("no thread panics while it counts")
    }
}

impl Machine for Nowhere {
    fn card(&self) -> &Card {
        &self.card
    }

    fn allocate(&self, bytes: u64) -> Result<u64, KernelError> {
        self.refuse_in_recording("allocate")?;
        let taken = bytes.max(1).next_multiple_of(256);
        let mut allocated = self.allocated();
        let used: u64 = allocated.values().sum();
        if taken > self.card.memory_bytes - used {
            return Err(KernelError::OutOfMemory { need_bytes: bytes });
        }
        let address = self.next.fetch_add(taken, Relaxed);
        allocated.insert(address, taken);
        Ok(address)
    }

    fn release(&self, address: u64) {
        self.allocated().remove(&address);
    }

    fn free_bytes(&self) -> Option<u64> {
        let used: u64 = self.allocated().values().sum();
        let limit = Some(self.card.memory_bytes).filter(|bytes| *bytes < u64::MAX);
        limit.map(|bytes| bytes - used)
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<(), KernelError> {
        self.refuse_in_recording("write")
    }

    fn read(&self, _: u64, bytes: &mut [u8]) -> Result<(), KernelError> {
        bytes.fill(0);
        self.refuse_in_recording("read")
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
        self.refuse_in_recording("synchronise")
    }

    fn begin_recording(&self) -> Result<(), KernelError> {
        self.is_recording.store(true, Relaxed);
        Ok(())
    }

    fn end_recording(&self) -> Result<u64, KernelError> {
        self.is_recording.store(false, Relaxed);
        Ok(0)
    }

    fn replay(&self, _: u64) -> Result<(), KernelError> {
        Ok(())
    }
}
