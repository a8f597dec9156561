//! A GPU through NVIDIA's driver. One stream a device; every call binds the context first, so any thread
//! may make it.

use std::{
    collections::HashMap,
    ffi::{CString, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, MutexGuard},
};

use cudarc::driver::{
    result::{self, DriverError},
    sys::{self, CUdevice_attribute as Attribute},
};

use super::cache::{KernelStore, Origin};
use super::catalogue::{Module, arch_of};
use super::launch::{Card, Launch, Machine, MapShape};
use super::libs::{Libraries, Library};
use crate::KernelError;

/// Oldest driver that has tensor maps (CUDA 12.0).
const DRIVER_VERSION_MIN: i32 = 12_000;
/// Dynamic shared memory that needs no permission.
const SHARED_BYTES_FREE: u32 = 48 << 10;

/// A device of the driver.
pub struct Driver {
    card: Card,
    arch: &'static str,
    version: i32,
    context: sys::CUcontext,
    stream: sys::CUstream,
    store: KernelStore,
    loaded: Mutex<Loaded>,
    records: Mutex<Records>,
}

/// Graphs that were recorded, and whether one is being recorded.
#[derive(Default)]
struct Records {
    is_open: bool,
    kept: HashMap<u64, (sys::CUgraph, sys::CUgraphExec)>,
    last: u64,
}

#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, sys::CUmodule>,
    functions: HashMap<(&'static str, &'static str), sys::CUfunction>,
    origins: HashMap<&'static str, Origin>,
}

#[expect(
    unsafe_code,
    reason = "handles of the driver may be used from any thread"
)]
// SAFETY: contexts, streams, modules and functions are handles; the driver locks what they stand for.
unsafe impl Send for Driver {}
#[expect(
    unsafe_code,
    reason = "handles of the driver may be used from any thread"
)]
// SAFETY: as above; our own maps are behind a mutex.
unsafe impl Sync for Driver {}

fn failed(op: &'static str) -> impl Fn(DriverError) -> KernelError {
    move |error| {
        // Also loading a kernel or a graph may find no memory.
        if error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return KernelError::OutOfMemory { need_bytes: 0 };
        }
        let name = format!("{:?}", error.0);
        KernelError::Driver {
            op,
            code: error.0 as u32,
            name,
        }
    }
}

/// Of the first call.
fn not_started(error: DriverError) -> KernelError {
    match error.0 {
        sys::CUresult::CUDA_ERROR_NO_DEVICE => KernelError::NoGpu,
        _ => failed("init")(error),
    }
}

impl Driver {
    /// How many devices the driver shows; 0 without a driver.
    pub fn count(libraries: &Libraries) -> usize {
        if !libraries.has(Library::Driver) {
            return 0;
        }
        let count = || result::init().and_then(|()| result::device::get_count());
        catch_unwind(count)
            .ok()
            .and_then(Result::ok)
            .map_or(0, |count| count.max(0) as usize)
    }

    /// Opens the device `ordinal`.
    ///
    /// # Errors
    /// [`KernelError::LibraryMissing`] without a driver; [`KernelError::LibraryOld`] for one that is too old;
    /// [`KernelError::NoGpu`];
    /// [`KernelError::Unsupported`] for a card that is; [`KernelError::Driver`].
    pub fn open(
        libraries: &Libraries,
        ordinal: usize,
        store: KernelStore,
    ) -> Result<Self, KernelError> {
        libraries.need(Library::Driver)?;
        // The binding panics when the library lacks a function.
        let opened = catch_unwind(AssertUnwindSafe(|| Self::start(ordinal, store)));
        opened.unwrap_or_else(|_| {
            let why = "it lacks functions of CUDA 12";
            Err(KernelError::old(Library::Driver, why.into()))
        })
    }

    /// Whether every kernel that this card needs is at hand, or can be compiled: a film must not find out half-way.
    ///
    /// # Errors
    /// [`KernelError::Compile`], as [`KernelStore::cubin`].
    pub fn check_kernels(&self) -> Result<(), KernelError> {
        self.store.check(self.arch)
    }

    #[expect(unsafe_code, reason = "calls of the driver with handles that it gave")]
    fn start(ordinal: usize, store: KernelStore) -> Result<Self, KernelError> {
        result::init().map_err(not_started)?;
        let device = result::device::get(ordinal as i32).map_err(failed("device"))?;
        let mut version = 0;
        // SAFETY: the pointer is to an integer that lives through the call.
        unsafe { sys::cuDriverGetVersion(&mut version) }
            .result()
            .map_err(failed("version"))?;
        if version < DRIVER_VERSION_MIN {
            let (major, minor) = (version / 1000, version % 1000 / 10);
            let why = format!("it is for CUDA {major}.{minor}, and 12.0 is needed");
            return Err(KernelError::old(Library::Driver, why));
        }
        let card = card_of(device)?;
        let Some(arch) = arch_of(card.capability) else {
            let (major, minor) = card.capability;
            return Err(KernelError::unsupported(
                "cuda",
                format!(
                    "the card {} of compute capability {major}.{minor}: there are kernels from 8.0 on (Ampere)",
                    card.name
                ),
            ));
        };
        // SAFETY: the device exists; the primary context is kept for the life of the process.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(failed("context"))?;
        // SAFETY: the context was just given.
        unsafe { result::ctx::set_current(context) }.map_err(failed("context"))?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(failed("stream"))?;
        Ok(Self {
            card,
            arch,
            version,
            context,
            stream,
            store,
            loaded: Mutex::default(),
            records: Mutex::default(),
        })
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.records
            .lock()
            .expect("no thread panics while it holds the records")
    }

    /// What waits or allocates would make the driver throw away what is being recorded.
    fn refuse_in_recording(&self, op: &'static str) -> Result<(), KernelError> {
        match self.records().is_open {
            true => Err(KernelError::unsupported(op, "being recorded")),
            false => Ok(()),
        }
    }

    /// CUDA version of the driver, as 1000 major + 10 minor.
    pub fn version(&self) -> i32 {
        self.version
    }

    /// Architecture whose cubins run here.
    pub fn arch(&self) -> &'static str {
        self.arch
    }

    /// Where each module that was used so far came from.
    pub fn origins(&self) -> Vec<(&'static str, Origin)> {
        let loaded = self
            .loaded
            .lock()
            .expect("no thread panics while it loads a module");
        loaded
            .origins
            .iter()
            .map(|(name, origin)| (*name, *origin))
            .collect()
    }

    /// Bytes that are free on the card.
    ///
    /// # Errors
    /// [`KernelError::Driver`].
    pub fn free_bytes(&self) -> Result<u64, KernelError> {
        self.bind()?;
        Ok(result::mem_get_info().map_err(failed("memory"))?.0 as u64)
    }

    /// The stream that all work is put on, for libraries that share it.
    pub(super) fn stream(&self) -> sys::CUstream {
        self.stream
    }

    #[expect(unsafe_code, reason = "calls of the driver with handles that it gave")]
    pub(super) fn bind(&self) -> Result<(), KernelError> {
        // SAFETY: the context lives as long as the process.
        unsafe { result::ctx::set_current(self.context) }.map_err(failed("context"))
    }

    fn function(&self, launch: &Launch) -> Result<sys::CUfunction, KernelError> {
        let mut loaded = self
            .loaded
            .lock()
            .expect("no thread panics while it loads a module");
        if let Some(function) = loaded.functions.get(&(launch.module, launch.entry)) {
            return Ok(*function);
        }
        let module = match loaded.modules.get(launch.module) {
            Some(module) => *module,
            None => {
                let source = Module::find(launch.module).ok_or_else(|| {
                    KernelError::unsupported("launch", format!("the module '{}'", launch.module))
                })?;
                let (cubin, _, origin) = self.store.cubin(source, self.arch)?;
                let module = load(&cubin)?;
                loaded.modules.insert(source.name, module);
                loaded.origins.insert(source.name, origin);
                module
            }
        };
        let function = entry(module, launch.entry)?;
        loaded
            .functions
            .insert((launch.module, launch.entry), function);
        Ok(function)
    }
}

#[expect(unsafe_code, reason = "calls of the driver with handles that it gave")]
fn load(cubin: &[u8]) -> Result<sys::CUmodule, KernelError> {
    // SAFETY: the driver reads the header for the size; a cubin comes from NVRTC whole.
    unsafe { result::module::load_data(cubin.as_ptr().cast()) }.map_err(failed("module"))
}

#[expect(unsafe_code, reason = "calls of the driver with handles that it gave")]
fn entry(module: sys::CUmodule, name: &str) -> Result<sys::CUfunction, KernelError> {
    let name = CString::new(name)
        .map_err(|_| KernelError::unsupported("launch", "a name with a zero byte"))?;
    // SAFETY: the module is loaded and never unloaded.
    unsafe { result::module::get_function(module, name) }.map_err(failed("function"))
}

#[expect(unsafe_code, reason = "calls of the driver with handles that it gave")]
fn card_of(device: sys::CUdevice) -> Result<Card, KernelError> {
    // SAFETY: the device was just given by the driver.
    let get = |attribute| {
        unsafe { result::device::get_attribute(device, attribute) }.map_err(failed("attribute"))
    };
    let number = |attribute| get(attribute).map(|value| value.max(0) as u32);
    Ok(Card {
        name: result::device::get_name(device).map_err(failed("name"))?,
        capability: (
            number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes_max: number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        cache_bytes: number(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.into(),
        // SAFETY: the device was just given by the driver.
        memory_bytes: unsafe { result::device::total_mem(device) }.map_err(failed("memory"))?
            as u64,
    })
}

#[expect(
    unsafe_code,
    reason = "the driver's functions take addresses; sizes were checked by the callers"
)]
impl Machine for Driver {
    fn card(&self) -> &Card {
        &self.card
    }

    fn allocate(&self, bytes: u64) -> Result<u64, KernelError> {
        self.refuse_in_recording("allocate")?;
        self.bind()?;
        // SAFETY: the address is only given to this device's own calls.
        unsafe { result::malloc_sync(bytes.max(1) as usize) }.map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                KernelError::OutOfMemory { need_bytes: bytes }
            }
            _ => failed("allocate")(error),
        })
    }

    fn release(&self, address: u64) {
        // After a fault every call fails; the process ends soon and the memory with it.
        if self.bind().is_ok() {
            // SAFETY: the address came from `allocate` and has one owner. Freeing waits for the device.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), KernelError> {
        self.refuse_in_recording("write")?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the range was allocated; the bytes live until the copy has been waited for.
        unsafe { result::memcpy_htod_async(address, bytes, self.stream) }
            .map_err(failed("write"))?;
        self.synchronise()
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), KernelError> {
        self.refuse_in_recording("read")?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the range was allocated; the bytes live until the copy has been waited for.
        unsafe { result::memcpy_dtoh_async(bytes, address, self.stream) }
            .map_err(failed("read"))?;
        self.synchronise()
    }

    fn fill(&self, address: u64, bytes: u64, value: u8) -> Result<(), KernelError> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the range was allocated.
        unsafe { result::memset_d8_async(address, value, bytes as usize, self.stream) }
            .map_err(failed("fill"))
    }

    fn copy(&self, from: u64, to: u64, bytes: u64) -> Result<(), KernelError> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: both ranges were allocated.
        unsafe { result::memcpy_dtod_async(to, from, bytes as usize, self.stream) }
            .map_err(failed("copy"))
    }

    fn launch(&self, launch: &Launch) -> Result<(), KernelError> {
        self.bind()?;
        let function = self.function(launch)?;
        if launch.shared_bytes > SHARED_BYTES_FREE {
            let attribute =
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function belongs to a loaded module.
            unsafe {
                result::function::set_function_attribute(
                    function,
                    attribute,
                    launch.shared_bytes as i32,
                )
            }
            .map_err(failed("shared memory"))?;
        }
        let mut arguments: Vec<*mut c_void> = launch
            .arguments
            .0
            .iter()
            .map(|bytes| bytes.as_ptr().cast_mut().cast())
            .collect();
        let [x, y, z] = launch.blocks;
        // SAFETY: the driver copies each argument's bytes during the call; their sizes are the kernel's
        // (the emulator refuses others, and runs the same launches).
        unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                (launch.threads, 1, 1),
                launch.shared_bytes,
                self.stream,
                &mut arguments,
            )
        }
        .map_err(failed("launch"))
    }

    fn map(&self, shape: &MapShape) -> Result<Vec<u8>, KernelError> {
        self.bind()?;
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        let ones = vec![1u32; shape.sizes.len()];
        // SAFETY: all arrays have as many elements as the rank says (strides one less) and live through the call.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                shape.sizes.len() as u32,
                shape.address as *mut c_void,
                shape.sizes.as_ptr(),
                shape.strides.as_ptr(),
                shape.tile.as_ptr(),
                ones.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
        .result()
        .map_err(failed("tensor map"))?;
        Ok(map
            .opaque
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect())
    }

    fn free_bytes(&self) -> Option<u64> {
        Self::free_bytes(self).ok()
    }

    fn begin_recording(&self) -> Result<(), KernelError> {
        self.refuse_in_recording("begin_recording")?;
        self.bind()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is ours, and this thread records until `end_recording`.
        unsafe { result::stream::begin_capture(self.stream, mode) }.map_err(failed("graph"))?;
        self.records().is_open = true;
        Ok(())
    }

    fn end_recording(&self) -> Result<u64, KernelError> {
        self.records().is_open = false;
        self.bind()?;
        // SAFETY: as above.
        let graph = unsafe { result::stream::end_capture(self.stream) }.map_err(failed("graph"))?;
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph was just made.
        let made = unsafe { result::graph::instantiate(graph, flags) }.map_err(failed("graph"))?;
        let mut records = self.records();
        records.last += 1;
        let number = records.last;
        records.kept.insert(number, (graph, made));
        Ok(number)
    }

    fn replay(&self, number: u64) -> Result<(), KernelError> {
        self.bind()?;
        let found = self.records().kept.get(&number).copied();
        let unknown = || KernelError::unsupported("replay", format!("record {number}"));
        let (_, made) = found.ok_or_else(unknown)?;
        // SAFETY: both live until `forget`.
        unsafe { result::graph::launch(made, self.stream) }.map_err(failed("graph"))
    }

    fn forget(&self, number: u64) {
        let Some((graph, made)) = self.records().kept.remove(&number) else {
            return;
        };
        let _ = self.synchronise();
        // SAFETY: both were recorded here, and nothing runs any more. Nothing to do when it fails.
        unsafe {
            let _ = result::graph::exec_destroy(made);
            let _ = result::graph::destroy(graph);
        }
    }

    fn synchronise(&self) -> Result<(), KernelError> {
        self.bind()?;
        // SAFETY: the stream is ours.
        unsafe { result::stream::synchronize(self.stream) }.map_err(failed("synchronise"))
    }
}

/// Times work on a device's stream with events.
pub struct Timer<'a> {
    driver: &'a Driver,
    events: [sys::CUevent; 2],
}

#[expect(unsafe_code, reason = "calls of the driver with handles that it gave")]
impl<'a> Timer<'a> {
    /// A timer for a device.
    ///
    /// # Errors
    /// [`KernelError::Driver`].
    pub fn new(driver: &'a Driver) -> Result<Self, KernelError> {
        driver.bind()?;
        let event =
            || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(failed("event"));
        Ok(Self {
            driver,
            events: [event()?, event()?],
        })
    }

    /// Milliseconds that `work` takes on the device.
    ///
    /// # Errors
    /// What `work` gives, or [`KernelError::Driver`].
    pub fn time(&self, work: impl FnOnce() -> Result<(), KernelError>) -> Result<f32, KernelError> {
        let record = |event| {
            unsafe { result::event::record(event, self.driver.stream) }.map_err(failed("event"))
        };
        self.driver.bind()?;
        record(self.events[0])?;
        work()?;
        record(self.events[1])?;
        self.driver.synchronise()?;
        unsafe { result::event::elapsed(self.events[0], self.events[1]) }.map_err(failed("event"))
    }
}

#[expect(unsafe_code, reason = "calls of the driver with handles that it gave")]
impl Drop for Timer<'_> {
    fn drop(&mut self) {
        for event in self.events {
            // SAFETY: made by `new`, used by nobody else. Nothing to do when it fails.
            let _ = unsafe { result::event::destroy(event) };
        }
    }
}

/// Launches that were recorded once and are started as one.
pub struct Graph<'a> {
    driver: &'a Driver,
    graph: sys::CUgraph,
    executable: sys::CUgraphExec,
}

#[expect(unsafe_code, reason = "calls of the driver with handles that it gave")]
impl<'a> Graph<'a> {
    /// Records what `work` launches. It must neither allocate nor wait; all modules must be loaded.
    ///
    /// # Errors
    /// What `work` gives, or [`KernelError::Driver`].
    pub fn record(
        driver: &'a Driver,
        work: impl FnOnce() -> Result<(), KernelError>,
    ) -> Result<Self, KernelError> {
        driver.bind()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is ours, and this thread records until `end_capture`.
        unsafe { result::stream::begin_capture(driver.stream, mode) }.map_err(failed("graph"))?;
        let outcome = work();
        // SAFETY: as above; capture must end even when the work failed.
        let graph = unsafe { result::stream::end_capture(driver.stream) }.map_err(failed("graph"));
        outcome?;
        let graph = graph?;
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph was just made.
        let executable =
            unsafe { result::graph::instantiate(graph, flags) }.map_err(failed("graph"))?;
        Ok(Self {
            driver,
            graph,
            executable,
        })
    }

    /// Starts all of it.
    ///
    /// # Errors
    /// [`KernelError::Driver`].
    pub fn launch(&self) -> Result<(), KernelError> {
        self.driver.bind()?;
        // SAFETY: both live as long as `self`.
        unsafe { result::graph::launch(self.executable, self.driver.stream) }
            .map_err(failed("graph"))
    }
}

#[expect(unsafe_code, reason = "calls of the driver with handles that it gave")]
impl Drop for Graph<'_> {
    fn drop(&mut self) {
        let _ = self.driver.synchronise();
        // SAFETY: made by `record`, and nothing runs any more. Nothing to do when it fails.
        unsafe {
            let _ = result::graph::exec_destroy(self.executable);
            let _ = result::graph::destroy(self.graph);
        }
    }
}
