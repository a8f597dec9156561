//! Where ops run. Every op takes the device first and branches on it once, in its `mod.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rayon::prelude::*;

use crate::cuda::Gpu;
use crate::error::KernelError;

/// Work items below this many elements are not worth waking another thread.
const PARALLEL_ELEMENTS_MIN: usize = 16 * 1024;

/// A place where tensors live and ops run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Device {
    /// The processor of this machine.
    Cpu(Cpu),
    /// A card for matrix products, attention and convolutions; see [`Cuda`].
    Cuda(Cuda),
}

/// A card beside the processor: products, attention and convolutions run on the card in BF16, their
/// tensors travel there and back; all other ops and all tensors stay with the processor.
#[derive(Debug, Clone)]
pub struct Cuda {
    cpu: Cpu,
    gpu: Gpu,
}

impl Device {
    /// The CPU with `threads` compute threads; 0 takes one per core that the process may use.
    ///
    /// # Errors
    /// [`KernelError::Threads`] when the operating system refuses a thread.
    pub fn cpu(threads: usize) -> Result<Self, KernelError> {
        Ok(Self::Cpu(Cpu::new(threads)?))
    }

    /// A card beside a CPU with `threads` compute threads.
    ///
    /// # Errors
    /// [`KernelError::Threads`] when the operating system refuses a thread.
    pub fn cuda(gpu: Gpu, threads: usize) -> Result<Self, KernelError> {
        let cpu = Cpu::new(threads)?;
        Ok(Self::Cuda(Cuda { cpu, gpu }))
    }

    /// The processor that the device has or is.
    pub(crate) fn host(&self) -> &Cpu {
        match self {
            Self::Cpu(cpu) | Self::Cuda(Cuda { cpu, .. }) => cpu,
        }
    }

    /// The card, if the device has one.
    pub(crate) fn gpu(&self) -> Option<&Gpu> {
        match self {
            Self::Cpu(_) => None,
            Self::Cuda(cuda) => Some(&cuda.gpu),
        }
    }

    /// Name and class of the device. Equal classes give equal bits for equal work.
    pub fn class(&self) -> String {
        // GEMM picks its instructions, and with them its rounding, by what the processor has.
        let suffix = crate::simd::class_suffix();
        let host = format!("cpu-{}{suffix}", std::env::consts::ARCH);
        match self {
            Self::Cpu(_) => host,
            Self::Cuda(cuda) => {
                let card = cuda.gpu.card();
                let (major, minor) = card.capability;
                let name = card.name.replace(' ', "-").to_lowercase();
                format!("cuda-{name}-{major}.{minor}-{host}")
            }
        }
    }

    /// Bytes that a run may still take, where the system tells: what Linux calls available,
    /// because tensors lie in the processor's memory on every device.
    pub fn free_bytes(&self) -> Option<u64> {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    }

    /// Floating-point operations of all matrix products, convolutions and attention since the
    /// device was opened: 2 for each multiply-add.
    pub fn flop(&self) -> u64 {
        self.host().flop.load(Relaxed)
    }

    /// Compute threads of the host that the device's ops may use.
    pub fn threads(&self) -> usize {
        self.host().threads()
    }

    /// Runs `work` with this device's threads at hand, so that ops inside start without a hand-over.
    pub fn scope<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.host().install(work)
    }
}

/// A fixed set of compute threads. No result depends on how many there are.
#[derive(Debug, Clone)]
pub struct Cpu {
    threads: usize,
    pool: Option<Arc<rayon::ThreadPool>>,
    flop: Arc<AtomicU64>,
}

impl Cpu {
    /// Starts the threads; see [`Device::cpu`].
    ///
    /// # Errors
    /// [`KernelError::Threads`] when the operating system refuses a thread.
    pub fn new(threads: usize) -> Result<Self, KernelError> {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
            n => n,
        };
        if threads == 1 {
            return Ok(Self {
                threads,
                pool: None,
                flop: Arc::default(),
            });
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("compute-{index}"))
            .build()
            .map_err(|error| KernelError::Threads {
                threads,
                reason: error.to_string(),
            })?;
        Ok(Self {
            threads,
            pool: Some(Arc::new(pool)),
            flop: Arc::default(),
        })
    }

    /// How many threads work at once.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Counts a product of `m` rows and `n` columns over `k` terms.
    pub(crate) fn count_product(&self, [m, n, k]: [usize; 3]) {
        self.flop.fetch_add(2 * (m * n * k) as u64, Relaxed);
    }

    /// Runs `work` on the pool (or right here when there is one thread).
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }

    /// Calls `work(index, chunk)` for every `chunk_len` elements of `out`, on all threads when
    /// there is enough to do. A chunk is always one call, so threads cannot change a result.
    pub fn for_each_chunk<T: Send>(
        &self,
        out: &mut [T],
        chunk_len: usize,
        work: impl Fn(usize, &mut [T]) + Send + Sync,
    ) {
        let chunk_len = chunk_len.max(1);
        if self.threads == 1 || out.len() < PARALLEL_ELEMENTS_MIN || out.len() <= chunk_len {
            out.chunks_mut(chunk_len)
                .enumerate()
                .for_each(|(index, chunk)| work(index, chunk));
            return;
        }
        self.install(|| {
            out.par_chunks_mut(chunk_len)
                .enumerate()
                .for_each(|(index, chunk)| work(index, chunk));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_is_visited_once_with_its_index() {
        for threads in [1, 2, 3] {
            let cpu = Cpu::new(threads).unwrap();
            let mut out = vec![0u32; 100_003];
            cpu.for_each_chunk(&mut out, 1000, |index, chunk| {
                chunk
                    .iter_mut()
                    .for_each(|value| *value += index as u32 + 1);
            });
            assert!(
                out.iter()
                    .enumerate()
                    .all(|(i, v)| *v as usize == i / 1000 + 1)
            );
        }
    }
}
