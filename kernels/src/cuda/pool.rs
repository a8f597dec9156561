//! Memory of a machine in a few large chunks, handed out in ranges of 256 bytes: a tensor costs no call of the
//! driver. All work runs in one order, so a range that was given back may be handed out at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use super::launch::Machine;
use crate::KernelError;

/// Ranges begin and end at multiples of this.
const STEP: u64 = 256;
/// Smallest chunk that is asked of the machine.
const CHUNK_BYTES_MIN: u64 = 32 << 20;

struct Chunk {
    address: u64,
    bytes: u64,
    /// Offset and length of each free range; neighbours are merged.
    free: BTreeMap<u64, u64>,
}

/// Where chunks come from.
enum Source {
    Machine(Arc<dyn Machine>),
    Pool(Arc<Pool>),
}

impl Source {
    fn allocate(&self, bytes: u64) -> Result<u64, KernelError> {
        match self {
            Self::Machine(machine) => machine.allocate(bytes),
            Self::Pool(pool) => pool.lend(bytes),
        }
    }

    fn release(&self, address: u64, bytes: u64) {
        match self {
            Self::Machine(machine) => machine.release(address),
            Self::Pool(pool) => pool.put_back(address, bytes),
        }
    }
}

/// Bytes that arrays of a pool, and of those within it, have now, and had at most.
#[derive(Debug, Default)]
pub(super) struct Meter {
    now: AtomicU64,
    most: AtomicU64,
}

impl Meter {
    /// From here on the most that was ever in use is looked for anew; answers what is in use.
    pub fn restart(&self) -> u64 {
        let now = self.now.load(Relaxed);
        self.most.store(now, Relaxed);
        now
    }

    pub fn most(&self) -> u64 {
        self.most.load(Relaxed)
    }

    fn add(&self, bytes: u64) {
        let now = self.now.fetch_add(bytes, Relaxed) + bytes;
        self.most.fetch_max(now, Relaxed);
    }

    fn sub(&self, bytes: u64) {
        self.now.fetch_sub(bytes, Relaxed);
    }
}

/// Chunks and what is free in them.
pub(super) struct Pool {
    source: Source,
    chunks: Mutex<Vec<Chunk>>,
    meter: Arc<Meter>,
}

impl Pool {
    pub fn new(machine: Arc<dyn Machine>) -> Self {
        Self {
            source: Source::Machine(machine),
            chunks: Mutex::default(),
            meter: Arc::default(),
        }
    }

    /// A pool whose first chunk is the longest free range of another: what a run has reserved.
    pub fn within(pool: Arc<Self>) -> Self {
        let longest = pool.chunks().iter().map(Chunk::longest).max().unwrap_or(0);
        let meter = Arc::clone(&pool.meter);
        let source = Source::Pool(pool);
        let mut chunks = Vec::new();
        if longest > 0
            && let Ok(address) = source.allocate(longest)
        {
            chunks.push(Chunk::new(address, longest));
        }
        Self {
            source,
            chunks: Mutex::new(chunks),
            meter,
        }
    }

    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    pub fn machine(&self) -> &Arc<dyn Machine> {
        match &self.source {
            Source::Machine(machine) => machine,
            Source::Pool(pool) => pool.machine(),
        }
    }

    /// A range; the first that is large enough. Debug builds fill it with NaN.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`] when neither the chunks nor the machine have it.
    pub fn take(&self, bytes: u64) -> Result<u64, KernelError> {
        let address = self.lend(bytes)?;
        self.meter.add(rounded(bytes));
        Ok(address)
    }

    pub fn give(&self, address: u64, bytes: u64) {
        self.put_back(address, bytes);
        self.meter.sub(rounded(bytes));
    }

    /// A range that no array has yet: the pool within counts what it hands out itself.
    fn lend(&self, bytes: u64) -> Result<u64, KernelError> {
        let bytes = rounded(bytes);
        let mut chunks = self.chunks();
        let found = chunks.iter_mut().find_map(|chunk| chunk.take(bytes));
        let address = match found {
            Some(address) => address,
            None => self
                .grow(&mut chunks, bytes)?
                .take(bytes)
                .ok_or(KernelError::OutOfMemory { need_bytes: bytes })?,
        };
        if cfg!(debug_assertions) {
            self.machine().fill(address, bytes, 0xff)?;
        }
        Ok(address)
    }

    fn put_back(&self, address: u64, bytes: u64) {
        let bytes = rounded(bytes);
        let mut chunks = self.chunks();
        let holds =
            |chunk: &&mut Chunk| (chunk.address..chunk.address + chunk.bytes).contains(&address);
        if let Some(chunk) = chunks.iter_mut().find(holds) {
            chunk.give(address - chunk.address, bytes);
        }
    }

    /// Makes sure that `bytes` are free in one piece, so that work which needs as much cannot fail half-way.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn reserve(&self, bytes: u64) -> Result<(), KernelError> {
        let bytes = rounded(bytes);
        let mut chunks = self.chunks();
        if chunks.iter().all(|chunk| chunk.longest() < bytes) {
            self.grow(&mut chunks, bytes)?;
        }
        Ok(())
    }

    /// Gives chunks of which nothing is in use back to the machine.
    pub fn trim(&self) {
        let mut chunks = self.chunks();
        self.drop_idle(&mut chunks);
    }

    /// Bytes of the chunks that are free.
    pub fn free_bytes(&self) -> u64 {
        let chunks = self.chunks();
        chunks.iter().flat_map(|chunk| chunk.free.values()).sum()
    }

    fn chunks(&self) -> MutexGuard<'_, Vec<Chunk>> {
        self.chunks
            .lock()
            .expect("no thread panics while it holds the list")
    }

    fn grow<'a>(
        &self,
        chunks: &'a mut Vec<Chunk>,
        bytes: u64,
    ) -> Result<&'a mut Chunk, KernelError> {
        let large = bytes.max(CHUNK_BYTES_MIN);
        let (address, bytes) = match self.source.allocate(large) {
            Ok(address) => (address, large),
            Err(KernelError::OutOfMemory { .. }) => {
                self.drop_idle(chunks);
                (self.source.allocate(bytes)?, bytes)
            }
            Err(other) => return Err(other),
        };
        chunks.push(Chunk::new(address, bytes));
        let last = chunks.len() - 1;
        Ok(&mut chunks[last])
    }

    fn drop_idle(&self, chunks: &mut Vec<Chunk>) {
        chunks.retain(|chunk| {
            let is_idle = chunk.free.get(&0) == Some(&chunk.bytes);
            if is_idle {
                self.source.release(chunk.address, chunk.bytes);
            }
            !is_idle
        });
    }
}

/// What a range of so many bytes takes.
fn rounded(bytes: u64) -> u64 {
    bytes.max(1).next_multiple_of(STEP)
}

impl Drop for Pool {
    fn drop(&mut self) {
        for chunk in self.chunks().iter() {
            self.source.release(chunk.address, chunk.bytes);
        }
    }
}

impl Chunk {
    fn new(address: u64, bytes: u64) -> Self {
        Self {
            address,
            bytes,
            free: BTreeMap::from([(0, bytes)]),
        }
    }

    fn take(&mut self, bytes: u64) -> Option<u64> {
        let (offset, length) = self.free.iter().find(|(_, length)| **length >= bytes)?;
        let (offset, length) = (*offset, *length);
        self.free.remove(&offset);
        if length > bytes {
            self.free.insert(offset + bytes, length - bytes);
        }
        Some(self.address + offset)
    }

    fn give(&mut self, mut offset: u64, mut length: u64) {
        if let Some(after) = self.free.remove(&(offset + length)) {
            length += after;
        }
        let before = self.free.range(..offset).next_back();
        if let Some((start, size)) = before.map(|(start, size)| (*start, *size))
            && start + size == offset
        {
            self.free.remove(&start);
            (offset, length) = (start, size + length);
        }
        self.free.insert(offset, length);
    }

    fn longest(&self) -> u64 {
        self.free.values().copied().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_do_not_overlap_and_come_together_again() {
        let mut chunk = Chunk::new(1 << 20, 4096);
        let taken: Vec<u64> = (0..4).filter_map(|_| chunk.take(1024)).collect();
        assert_eq!(taken, [0, 1024, 2048, 3072].map(|at| (1 << 20) + at));
        assert_eq!(chunk.take(256), None, "nothing is left");
        for at in [1024, 3072, 2048] {
            chunk.give(at, 1024);
        }
        assert_eq!(chunk.longest(), 3072);
        assert_eq!(chunk.take(3072), Some((1 << 20) + 1024));
        chunk.give(1024, 3072);
        chunk.give(0, 1024);
        assert_eq!(chunk.free, BTreeMap::from([(0, 4096)]));
    }
}
