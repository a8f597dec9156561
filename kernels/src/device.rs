//! Where ops run. Every op takes the device first and branches on it once, in its `mod.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rayon::prelude::*;

use crate::Tensor;
use crate::copy::cuda::cast;
use crate::cuda::{Array, Element, Gpu, MemoryWatch};
use crate::error::KernelError;
use crate::tensor::mismatch;

/// Work items below this many elements are not worth waking another thread.
const PARALLEL_ELEMENTS_MIN: usize = 16 * 1024;

/// Memory of a card that is left to others: the driver's own needs grow while kernels are loaded.
const CARD_BYTES_KEPT: u64 = 512 << 20;

/// A place where tensors live and ops run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Device {
    /// The processor of this machine.
    Cpu(Cpu),
    /// A card; see [`Cuda`].
    Cuda(Cuda),
}

/// A card: tensors stay in its memory from op to op, activations and weights as BF16, the sampler's state
/// as F32. The processor beside it does what a card has no kernel for.
#[derive(Debug, Clone)]
pub struct Cuda {
    cpu: Cpu,
    gpu: Gpu,
    pub(crate) replays: Arc<AtomicU64>,
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
        let (cpu, gpu) = (Cpu::new(threads)?, gpu.pooled());
        let replays = Arc::default();
        Ok(Self::Cuda(Cuda { cpu, gpu, replays }))
    }

    /// The processor that the device has or is.
    pub(crate) fn host(&self) -> &Cpu {
        match self {
            Self::Cpu(cpu) | Self::Cuda(Cuda { cpu, .. }) => cpu,
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
                // Another version of the library may pick another plan, and with it other bits.
                let blas = cuda.gpu.blas().map(|blas| format!("-lt{}", blas.version()));
                let blas = blas.unwrap_or_default();
                format!("cuda-{name}-{major}.{minor}{blas}-{host}")
            }
        }
    }

    /// Bytes that a run may still take: of the card's memory, or what Linux calls available; absent where
    /// the system does not tell.
    pub fn free_bytes(&self) -> Option<u64> {
        if let Self::Cuda(card) = self {
            let free = card.gpu.free_bytes()?;
            return Some(free.saturating_sub(CARD_BYTES_KEPT));
        }
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    }

    /// Bytes of one value of what [`Tensor::activations`] makes.
    pub fn activation_bytes(&self) -> u64 {
        match self {
            Self::Cpu(_) => Element::F32.size_bytes() as u64,
            Self::Cuda(_) => Element::BF16.size_bytes() as u64,
        }
    }

    /// Memory of the card in all, in bytes; absent on the processor, whose memory is the machine's.
    pub fn card_bytes(&self) -> Option<u64> {
        match self {
            Self::Cpu(_) => None,
            Self::Cuda(card) => Some(card.gpu.card().memory_bytes),
        }
    }

    /// Watches from now on how much memory of a card tensors have at most; absent on the processor, where the
    /// system does not tell whose the memory of a process is.
    pub fn watch_memory(&self) -> Option<MemoryWatch> {
        match self {
            Self::Cpu(_) => None,
            Self::Cuda(card) => card.gpu.watch_memory(),
        }
    }

    /// Takes memory of a card for a run that was predicted to need `bytes`, in one piece, so that it does
    /// not fail half-way. Nothing to do on the processor.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn reserve(&self, bytes: u64) -> Result<(), KernelError> {
        match self {
            Self::Cpu(_) => Ok(()),
            Self::Cuda(card) => card.gpu.reserve(bytes),
        }
    }

    /// Whether the device still works: after a fault of a card every call fails, and only another process can use
    /// it again.
    ///
    /// # Errors
    /// [`KernelError::Driver`].
    pub fn check(&self) -> Result<(), KernelError> {
        match self {
            Self::Cpu(_) => Ok(()),
            Self::Cuda(card) => card.gpu.synchronise(),
        }
    }

    /// Gives memory of a card that nothing uses back, for other processes.
    pub fn trim(&self) {
        if let Self::Cuda(card) = self {
            card.gpu.trim();
        }
    }

    /// Floating-point operations of all matrix products, convolutions and attention since the
    /// device was opened: 2 for each multiply-add.
    pub fn flop(&self) -> u64 {
        self.host().flop.load(Relaxed)
    }

    /// How often recorded work was started on a card; see [`crate::Repeat`].
    pub fn replays(&self) -> u64 {
        match self {
            Self::Cpu(_) => 0,
            Self::Cuda(card) => card.replays.load(Relaxed),
        }
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

impl Cuda {
    /// The same card; what is made on it lies apart from all other tensors.
    pub(crate) fn apart(&self) -> Self {
        Self {
            cpu: self.cpu.clone(),
            gpu: self.gpu.apart(),
            replays: self.replays.clone(),
        }
    }

    /// The card.
    pub(crate) fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The processor beside it.
    pub(crate) fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// The array of a tensor.
    pub(crate) fn array(&self, tensor: &Tensor) -> Result<Array, KernelError> {
        let array = tensor
            .card_array()
            .ok_or(mismatch("a card", "the processor"))??;
        match self.gpu.holds(&array) {
            true => Ok(array),
            false => Err(mismatch("a card", "another card")),
        }
    }

    /// The array of a tensor of floats as `element`, cast when it is another type.
    pub(crate) fn cast(&self, tensor: &Tensor, element: Element) -> Result<Array, KernelError> {
        let array = self.array(tensor)?;
        self.cast_array(array, element)
    }

    pub(crate) fn cast_array(&self, array: Array, element: Element) -> Result<Array, KernelError> {
        if array.element() == element {
            return Ok(array);
        }
        let other = self.gpu.empty(element, array.dims())?;
        cast(&self.gpu, &array, &other)?;
        Ok(other)
    }

    /// As [`Cuda::cast`] to F32.
    pub(crate) fn floats(&self, tensor: &Tensor) -> Result<Array, KernelError> {
        self.cast(tensor, Element::F32)
    }

    /// As [`Cuda::cast`] to BF16.
    pub(crate) fn halves(&self, tensor: &Tensor) -> Result<Array, KernelError> {
        self.cast(tensor, Element::BF16)
    }

    /// The array of a tensor for writing; clones of the tensor keep what they have.
    pub(crate) fn own(&self, tensor: &mut Tensor) -> Result<Array, KernelError> {
        let array = tensor.own_array(self)?;
        match self.gpu.holds(&array) {
            true => Ok(array),
            false => Err(mismatch("a card", "another card")),
        }
    }

    /// Runs an op for which there is no kernel on the processor; `out` travels there and back.
    pub(crate) fn on_host(
        &self,
        out: &mut Tensor,
        op: impl FnOnce(&Device, &mut Tensor) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        let target = self.own(out)?;
        let mut host = out.to_host()?;
        op(&Device::Cpu(self.cpu.clone()), &mut host)?;
        let found = self.array(&host.to_device(&Device::Cuda(self.clone()))?)?;
        let found = self.cast_array(found, target.element())?;
        self.gpu.copy(&found, &target)
    }
}

/// A fixed set of compute threads. No result depends on how many there are.
#[derive(Debug, Clone)]
pub struct Cpu {
    threads: usize,
    pool: Option<Arc<rayon::ThreadPool>>,
    pub(crate) flop: Arc<AtomicU64>,
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
        Ok(Self {
            threads,
            pool: Some(Arc::new(pool(threads)?)),
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

    /// Runs `work` on the pool; right here when there is one thread, or when this is compute threads
    /// already: those of the pool, or of a [`Team`].
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) if rayon::current_thread_index().is_none() => pool.install(work),
            _ => work(),
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
        self.for_each_piece(out, chunk_len, PARALLEL_ELEMENTS_MIN, work);
    }

    /// As [`Cpu::for_each_chunk`], on all threads from `parallel_min` elements on.
    pub(crate) fn for_each_piece<T: Send>(
        &self,
        out: &mut [T],
        chunk_len: usize,
        parallel_min: usize,
        work: impl Fn(usize, &mut [T]) + Send + Sync,
    ) {
        let chunk_len = chunk_len.max(1);
        if self.threads == 1 || out.len() < parallel_min || out.len() <= chunk_len {
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

/// Compute threads that work runs on in place of its device's own: a part of a machine's processor.
#[derive(Debug)]
pub struct Team(rayon::ThreadPool);

impl Team {
    /// Starts `threads` threads, at least one; they end with it.
    ///
    /// # Errors
    /// [`KernelError::Threads`] when the operating system refuses a thread.
    pub fn new(threads: usize) -> Result<Self, KernelError> {
        pool(threads.max(1)).map(Self)
    }

    pub fn threads(&self) -> usize {
        self.0.current_num_threads()
    }

    /// Runs `work`, and all ops of a device with more than one thread inside it, on these threads alone.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.0.install(work)
    }
}

fn pool(threads: usize) -> Result<rayon::ThreadPool, KernelError> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("compute-{index}"))
        .build()
        .map_err(|error| KernelError::Threads {
            threads,
            reason: error.to_string(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_team_works_in_place_of_the_devices_own_threads() {
        let cpu = Cpu::new(2).unwrap();
        for threads in [1, 3] {
            let team = Team::new(threads).unwrap();
            let (here, of_ops) = team.run(|| {
                let of_ops = cpu.install(rayon::current_num_threads);
                (std::thread::current().id(), of_ops)
            });
            assert_ne!(here, std::thread::current().id());
            assert_eq!((of_ops, team.threads()), (threads, threads));
        }
        assert_eq!(cpu.install(rayon::current_num_threads), 2);
    }

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
