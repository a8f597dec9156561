//! What a machine does for a [`Gpu`]: memory, launches, tensor maps.

use std::sync::Arc;

use super::array::{Array, Element};
use super::lt::Blas;
use super::pool::{Meter, Pool};
use crate::KernelError;

/// What a launch can count on.
#[derive(Debug, Clone, PartialEq)]
pub struct Card {
    /// As the driver calls it.
    pub name: String,
    /// Compute capability.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that one block may have, in bytes.
    pub shared_bytes_max: u32,
    /// Second-level cache, in bytes.
    pub cache_bytes: u64,
    /// Memory of the card, in bytes.
    pub memory_bytes: u64,
}

impl Card {
    /// Whether wgmma and TMA kernels run here.
    pub fn is_hopper(&self) -> bool {
        self.capability.0 == 9
    }
}

/// A tensor as TMA sees it, innermost dimension first. Elements are bf16, tiles have the 128-byte swizzle,
/// what lies outside is zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapShape {
    /// Address of element 0, a multiple of 16.
    pub address: u64,
    /// Elements of each dimension.
    pub sizes: Vec<u64>,
    /// Bytes between neighbours, from the second dimension on; multiples of 16.
    pub strides: Vec<u64>,
    /// Elements of a box; 64 in the first dimension.
    pub tile: Vec<u32>,
}

/// One kernel over a grid of blocks.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Module of the catalogue.
    pub module: &'static str,
    /// Kernel in it.
    pub entry: &'static str,
    /// Blocks in x, y, z.
    pub blocks: [u32; 3],
    /// Threads of a block, whole warps.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// In the kernel's order.
    pub arguments: Arguments,
}

/// Arguments of a kernel, each as its bytes.
#[derive(Debug, Clone, Default)]
pub struct Arguments(pub Vec<Vec<u8>>);

impl Arguments {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A tensor.
    pub fn array(self, array: &Array) -> Self {
        self.long(array.address())
    }

    /// A tensor or a null pointer.
    pub fn maybe(self, array: Option<&Array>) -> Self {
        self.long(array.map_or(0, Array::address))
    }

    /// 64 bits.
    pub fn long(self, value: u64) -> Self {
        self.bytes(value.to_le_bytes().to_vec())
    }

    /// 32 bits.
    pub fn word(self, value: u32) -> Self {
        self.bytes(value.to_le_bytes().to_vec())
    }

    /// A float.
    pub fn float(self, value: f32) -> Self {
        self.word(value.to_bits())
    }

    /// A structure of 32-bit fields.
    pub fn words(self, values: &[u32]) -> Self {
        self.bytes(
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        )
    }

    /// Anything else.
    pub fn bytes(mut self, bytes: Vec<u8>) -> Self {
        self.0.push(bytes);
        self
    }
}

/// Who runs kernels: the driver or the emulator. Work is done in the order in which it was asked for.
pub trait Machine: Send + Sync {
    /// What the machine is.
    fn card(&self) -> &Card;

    /// Memory of at least `bytes`, at a multiple of 256.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`], [`KernelError::Driver`].
    fn allocate(&self, bytes: u64) -> Result<u64, KernelError>;

    /// Gives memory back. What still uses it is waited for.
    fn release(&self, address: u64);

    /// Copies to the machine; the bytes may go when this returns.
    ///
    /// # Errors
    /// [`KernelError::Driver`].
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), KernelError>;

    /// Copies from the machine, after all work so far.
    ///
    /// # Errors
    /// [`KernelError::Driver`], which may be a fault of an earlier kernel.
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), KernelError>;

    /// Sets every byte.
    ///
    /// # Errors
    /// [`KernelError::Driver`].
    fn fill(&self, address: u64, bytes: u64, value: u8) -> Result<(), KernelError>;

    /// Copies inside the machine.
    ///
    /// # Errors
    /// [`KernelError::Driver`].
    fn copy(&self, from: u64, to: u64, bytes: u64) -> Result<(), KernelError>;

    /// Starts a kernel.
    ///
    /// # Errors
    /// [`KernelError::Compile`] when the kernel is in no cache and cannot be compiled,
    /// [`KernelError::Driver`].
    fn launch(&self, launch: &Launch) -> Result<(), KernelError>;

    /// The 128 bytes that a kernel passes to TMA.
    ///
    /// # Errors
    /// [`KernelError::Driver`] for shapes that TMA does not have.
    fn map(&self, shape: &MapShape) -> Result<Vec<u8>, KernelError>;

    /// Waits for all work.
    ///
    /// # Errors
    /// [`KernelError::Driver`] for a fault of an earlier kernel; the process must then restart.
    fn synchronise(&self) -> Result<(), KernelError>;

    /// Bytes that can still be allocated, where the machine tells.
    fn free_bytes(&self) -> Option<u64> {
        None
    }

    /// From now on launches, fills and copies are recorded and not done; what waits, allocates or moves
    /// values to or from the processor is refused until [`Machine::end_recording`].
    ///
    /// # Errors
    /// [`KernelError::Unsupported`] from a machine that cannot record.
    fn begin_recording(&self) -> Result<(), KernelError> {
        Err(KernelError::unsupported("recording", "this machine"))
    }

    /// Ends it and gives the number of what was recorded.
    ///
    /// # Errors
    /// [`KernelError::Driver`].
    fn end_recording(&self) -> Result<u64, KernelError> {
        Err(KernelError::unsupported("recording", "this machine"))
    }

    /// Does what was recorded, once more.
    ///
    /// # Errors
    /// [`KernelError::Driver`]; [`KernelError::Unsupported`] for a number that is not known.
    fn replay(&self, _number: u64) -> Result<(), KernelError> {
        Err(KernelError::unsupported("recording", "this machine"))
    }

    /// Forgets what was recorded.
    fn forget(&self, _number: u64) {}
}

/// Memory of a machine; given back when the last owner goes.
pub struct Memory {
    owner: Owner,
    address: u64,
    bytes: u64,
}

/// Who gets memory back.
#[derive(Clone)]
enum Owner {
    Machine(Arc<dyn Machine>),
    Pool(Arc<Pool>),
}

impl Owner {
    fn machine(&self) -> &Arc<dyn Machine> {
        match self {
            Self::Machine(machine) => machine,
            Self::Pool(pool) => pool.machine(),
        }
    }
}

impl Memory {
    /// Where it begins.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How much it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whose memory it is.
    pub(super) fn machine(&self) -> &Arc<dyn Machine> {
        self.owner.machine()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        match &self.owner {
            Owner::Machine(machine) => machine.release(self.address),
            Owner::Pool(pool) => pool.give(self.address, self.bytes),
        }
    }
}

/// How much memory arrays came to have since the watch began. One at a time: a later watch begins anew for
/// all that are there.
#[derive(Debug)]
pub struct MemoryWatch {
    meter: Arc<Meter>,
    before: u64,
}

impl MemoryWatch {
    /// Most bytes at once, beyond those that arrays had when the watch began.
    pub fn grown_bytes(&self) -> u64 {
        self.meter.most().saturating_sub(self.before)
    }
}

/// A machine with the ops' needs: arrays, uploads, launches.
#[derive(Clone)]
pub struct Gpu {
    owner: Owner,
    blas: Option<Arc<Blas>>,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gpu({})", self.card().name)
    }
}

impl Gpu {
    /// Ops on a machine; each array is an allocation of its own.
    pub fn new(machine: Arc<dyn Machine>) -> Self {
        let owner = Owner::Machine(machine);
        Self { owner, blas: None }
    }

    /// The same with NVIDIA's library for matrix products.
    pub fn with_blas(self, blas: Option<Arc<Blas>>) -> Self {
        Self { blas, ..self }
    }

    /// NVIDIA's library for matrix products, where it was found.
    pub fn blas(&self) -> Option<&Blas> {
        self.blas.as_deref()
    }

    /// The same machine with arrays from a pool of their own.
    pub fn pooled(&self) -> Self {
        let pool = Pool::new(self.machine().clone());
        Self {
            owner: Owner::Pool(Arc::new(pool)),
            blas: self.blas.clone(),
        }
    }

    /// The same machine with arrays from a part of this one's pool, so that nobody else's arrays ever lie
    /// where its have lain.
    pub(crate) fn apart(&self) -> Self {
        let pool = match &self.owner {
            Owner::Machine(machine) => Pool::new(machine.clone()),
            Owner::Pool(pool) => Pool::within(pool.clone()),
        };
        Self {
            owner: Owner::Pool(Arc::new(pool)),
            blas: self.blas.clone(),
        }
    }

    pub(crate) fn machine(&self) -> &Arc<dyn Machine> {
        self.owner.machine()
    }

    /// What the machine is.
    pub fn card(&self) -> &Card {
        self.machine().card()
    }

    /// Whether an array lies in this machine's memory.
    pub(crate) fn holds(&self, array: &Array) -> bool {
        Arc::ptr_eq(array.machine(), self.machine())
    }

    /// Whether both are the same machine.
    pub(crate) fn is_same_machine(&self, other: &Self) -> bool {
        Arc::ptr_eq(self.machine(), other.machine())
    }

    /// Bytes that arrays can still have, where the machine tells.
    pub fn free_bytes(&self) -> Option<u64> {
        let idle = match &self.owner {
            Owner::Machine(_) => 0,
            Owner::Pool(pool) => pool.free_bytes(),
        };
        Some(self.machine().free_bytes()? + idle)
    }

    /// Watches from now on how much memory arrays have at most; without a pool nobody counts.
    pub fn watch_memory(&self) -> Option<MemoryWatch> {
        let Owner::Pool(pool) = &self.owner else {
            return None;
        };
        let meter = Arc::clone(pool.meter());
        let before = meter.restart();
        Some(MemoryWatch { meter, before })
    }

    /// Makes sure that arrays of `bytes` in all can be had; without a pool nothing is done.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn reserve(&self, bytes: u64) -> Result<(), KernelError> {
        match &self.owner {
            Owner::Machine(_) => Ok(()),
            Owner::Pool(pool) => pool.reserve(bytes),
        }
    }

    /// Gives memory that no array uses back to the machine.
    pub fn trim(&self) {
        if let Owner::Pool(pool) = &self.owner {
            pool.trim();
        }
    }

    /// An array whose content is not defined.
    ///
    /// # Errors
    /// [`KernelError::Shape`], [`KernelError::OutOfMemory`], [`KernelError::Driver`].
    pub fn empty(&self, element: Element, dims: &[usize]) -> Result<Array, KernelError> {
        let shape = crate::Shape::new(dims)?;
        let bytes = (shape.count() * element.size_bytes()) as u64;
        let address = match &self.owner {
            Owner::Machine(machine) => machine.allocate(bytes)?,
            Owner::Pool(pool) => pool.take(bytes)?,
        };
        let memory = Memory {
            owner: self.owner.clone(),
            address,
            bytes,
        };
        Ok(Array::new(memory, element, shape))
    }

    /// An array in which every byte is `value`: 0 for zeros, 255 for NaN.
    ///
    /// # Errors
    /// As [`Gpu::empty`].
    pub fn filled(
        &self,
        element: Element,
        dims: &[usize],
        value: u8,
    ) -> Result<Array, KernelError> {
        let array = self.empty(element, dims)?;
        self.machine().fill(array.address(), array.bytes(), value)?;
        Ok(array)
    }

    /// Floats as an array of `element`, rounded to nearest even.
    ///
    /// # Errors
    /// As [`Gpu::empty`].
    pub fn upload(
        &self,
        element: Element,
        dims: &[usize],
        values: &[f32],
    ) -> Result<Array, KernelError> {
        self.upload_bytes(element, dims, &element.encode(values))
    }

    /// Row ids.
    ///
    /// # Errors
    /// As [`Gpu::empty`].
    pub fn upload_ids(&self, values: &[u32]) -> Result<Array, KernelError> {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.upload_bytes(Element::U32, &[values.len()], &bytes)
    }

    /// Copies `count` values between arrays of one type, from and to places of their own.
    ///
    /// # Errors
    /// [`KernelError::Shape`] for a range beyond either, [`KernelError::Driver`].
    pub fn copy_range(
        &self,
        (from, from_at): (&Array, usize),
        (to, to_at): (&Array, usize),
        count: usize,
    ) -> Result<(), KernelError> {
        let fits = from_at + count <= from.count() && to_at + count <= to.count();
        if from.element() != to.element() || !fits {
            return Err(KernelError::shape("copy_range", "to", from, to));
        }
        let size = from.element().size_bytes() as u64;
        let (source, target) = (
            from.address() + from_at as u64 * size,
            to.address() + to_at as u64 * size,
        );
        self.machine().copy(source, target, count as u64 * size)
    }

    /// Sets every byte of an array.
    ///
    /// # Errors
    /// [`KernelError::Driver`].
    pub fn fill(&self, array: &Array, value: u8) -> Result<(), KernelError> {
        self.machine().fill(array.address(), array.bytes(), value)
    }

    /// Overwrites an array of floats where it lies.
    pub(crate) fn overwrite(&self, array: &Array, values: &[f32]) -> Result<(), KernelError> {
        let bytes = array.element().encode(values);
        if bytes.len() as u64 != array.bytes() {
            let found = format!("{} values", values.len());
            return Err(KernelError::shape(
                "overwrite",
                "values",
                array.dims(),
                found,
            ));
        }
        self.machine().write(array.address(), &bytes)
    }

    pub(crate) fn upload_bytes(
        &self,
        element: Element,
        dims: &[usize],
        bytes: &[u8],
    ) -> Result<Array, KernelError> {
        let array = self.empty(element, dims)?;
        if bytes.len() as u64 != array.bytes() {
            let expected = format!("{} bytes", array.bytes());
            return Err(KernelError::shape(
                "upload",
                "values",
                expected,
                format!("{} bytes", bytes.len()),
            ));
        }
        self.machine().write(array.address(), bytes)?;
        Ok(array)
    }

    /// Copies an array into another of the same type and shape.
    ///
    /// # Errors
    /// [`KernelError::Shape`], [`KernelError::Driver`].
    pub fn copy(&self, from: &Array, to: &Array) -> Result<(), KernelError> {
        to.expect("copy", "to", from.element(), from.dims())?;
        self.machine()
            .copy(from.address(), to.address(), from.bytes())
    }

    /// The bytes of an array, after all work so far.
    ///
    /// # Errors
    /// [`KernelError::Driver`].
    pub fn download_bytes(&self, array: &Array) -> Result<Vec<u8>, KernelError> {
        let mut bytes = vec![0; array.bytes() as usize];
        self.machine().read(array.address(), &mut bytes)?;
        Ok(bytes)
    }

    /// The values of an array as floats, after all work so far.
    ///
    /// # Errors
    /// [`KernelError::Driver`].
    pub fn download(&self, array: &Array) -> Result<Vec<f32>, KernelError> {
        Ok(array.element().decode(&self.download_bytes(array)?))
    }

    /// Starts a kernel; nothing to do for an empty grid.
    ///
    /// # Errors
    /// As [`Machine::launch`]; [`KernelError::Unsupported`] for more shared memory than a block may have.
    pub fn launch(&self, launch: &Launch) -> Result<(), KernelError> {
        if launch.blocks.contains(&0) {
            return Ok(());
        }
        let most = self.card().shared_bytes_max;
        if launch.shared_bytes > most {
            let why = format!(
                "{} bytes of shared memory on a card that has {most}",
                launch.shared_bytes
            );
            return Err(KernelError::unsupported(launch.entry, why));
        }
        self.machine().launch(launch)
    }

    /// A tensor map; see [`Machine::map`].
    ///
    /// # Errors
    /// As [`Machine::map`].
    pub fn map(&self, shape: &MapShape) -> Result<Vec<u8>, KernelError> {
        self.machine().map(shape)
    }

    /// Waits for all work.
    ///
    /// # Errors
    /// As [`Machine::synchronise`].
    pub fn synchronise(&self) -> Result<(), KernelError> {
        self.machine().synchronise()
    }
}
