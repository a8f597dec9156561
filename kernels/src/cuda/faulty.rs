//! A machine that breaks when it is told to: shows how the engine and a node take it.

use std::collections::HashMap;
use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use super::launch::{Card, Launch, Machine, MapShape};
use crate::KernelError;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// One start finds no memory, as when a kernel must be loaded and others have taken what was left.
    OutOfMemory,
    /// The card is gone: that start and everything after it fails.
    Lost,
}

/// A number of starts.
#[derive(Clone, Copy)]
enum Moment {
    Start(u64),
    Replay(u64),
}

/// Another machine with a fault that may be waiting in it.
pub struct Faulty {
    inner: Arc<dyn Machine>,
    /// Starts of kernels and of records.
    starts: AtomicU64,
    /// Starts of records, which later steps of a film are.
    replays: AtomicU64,
    armed: Mutex<Option<(Moment, Fault)>>,
    is_lost: AtomicBool,
    allocated: Mutex<HashMap<u64, u64>>,
}

impl Faulty {
    /// As good as the machine itself.
    pub fn new(inner: Arc<dyn Machine>) -> Self {
        Self {
            inner,
            starts: AtomicU64::new(0),
            replays: AtomicU64::new(0),
            armed: Mutex::default(),
            is_lost: AtomicBool::new(false),
            allocated: Mutex::default(),
        }
    }

    /// Kernels and records that were started so far.
    pub fn starts(&self) -> u64 {
        self.starts.load(Relaxed)
    }

    /// The fault comes with the start behind the next `starts`.
    pub fn arm(&self, starts: u64, fault: Fault) {
        *self.armed() = Some((Moment::Start(self.starts() + starts), fault));
    }

    /// The fault comes with the start of a record behind the next `replays`: in the midst of a film, whatever its
    /// steps are made of.
    pub fn arm_replay(&self, replays: u64, fault: Fault) {
        let at = self.replays.load(Relaxed) + replays;
        *self.armed() = Some((Moment::Replay(at), fault));
    }

    /// Memory that was allocated and not released.
    pub fn allocated_bytes(&self) -> u64 {
        self.allocated().values().sum()
    }

    fn armed(&self) -> MutexGuard<'_, Option<(Moment, Fault)>> {
        self.armed.lock().expect("no thread panics while it looks")
    }

    fn allocated(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.allocated
            .lock()
            .expect("no thread panics while it counts")
    }

    /// Refuses everything once the card is lost.
    fn alive(&self, op: &'static str) -> Result<(), KernelError> {
        match self.is_lost.load(Relaxed) {
            false => Ok(()),
            true => Err(KernelError::Driver {
                op,
                code: 719,
                name: "CUDA_ERROR_LAUNCH_FAILED".into(),
            }),
        }
    }

    fn start(&self, op: &'static str) -> Result<(), KernelError> {
        let number = self.starts.fetch_add(1, Relaxed);
        let due = self.armed().take_if(|(at, _)| match at {
            Moment::Start(at) => *at <= number,
            Moment::Replay(at) => *at < self.replays.load(Relaxed),
        });
        match due {
            Some((_, Fault::OutOfMemory)) => Err(KernelError::OutOfMemory { need_bytes: 0 }),
            Some((_, Fault::Lost)) => {
                self.is_lost.store(true, Relaxed);
                self.alive(op)
            }
            None => self.alive(op),
        }
    }
}

impl Machine for Faulty {
    fn card(&self) -> &Card {
        self.inner.card()
    }

    fn allocate(&self, bytes: u64) -> Result<u64, KernelError> {
        self.alive("allocate")?;
        let address = self.inner.allocate(bytes)?;
        self.allocated().insert(address, bytes);
        Ok(address)
    }

    fn release(&self, address: u64) {
        self.allocated().remove(&address);
        self.inner.release(address);
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), KernelError> {
        self.alive("write")?;
        self.inner.write(address, bytes)
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), KernelError> {
        self.alive("read")?;
        self.inner.read(address, bytes)
    }

    fn fill(&self, address: u64, bytes: u64, value: u8) -> Result<(), KernelError> {
        self.alive("fill")?;
        self.inner.fill(address, bytes, value)
    }

    fn copy(&self, from: u64, to: u64, bytes: u64) -> Result<(), KernelError> {
        self.alive("copy")?;
        self.inner.copy(from, to, bytes)
    }

    fn launch(&self, launch: &Launch) -> Result<(), KernelError> {
        self.start(launch.entry)?;
        self.inner.launch(launch)
    }

    fn map(&self, shape: &MapShape) -> Result<Vec<u8>, KernelError> {
        self.alive("map")?;
        self.inner.map(shape)
    }

    fn synchronise(&self) -> Result<(), KernelError> {
        self.alive("synchronise")?;
        self.inner.synchronise()
    }

    fn free_bytes(&self) -> Option<u64> {
        self.inner.free_bytes()
    }

    fn begin_recording(&self) -> Result<(), KernelError> {
        self.alive("begin_recording")?;
        self.inner.begin_recording()
    }

    fn end_recording(&self) -> Result<u64, KernelError> {
        self.inner.end_recording()
    }

    fn replay(&self, number: u64) -> Result<(), KernelError> {
        self.replays.fetch_add(1, Relaxed);
        self.start("replay")?;
        self.inner.replay(number)
    }

    fn forget(&self, number: u64) {
        self.inner.forget(number);
    }
}
