//! A machine made of C++: all kernels compiled for the CPU, in a process of their own, run thread by
//! thread. It finds wrong results, reads of what was never written, reads outside (address sanitizer),
//! missing waits and deadlocks. It is no way to render.

use std::{
    collections::HashMap,
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use sha2::{Digest, Sha256};

use super::launch::{Card, Launch, Machine, MapShape};
use crate::KernelError;

/// Why there is no emulator.
#[derive(Debug, thiserror::Error)]
pub enum EmulatorError {
    /// Neither g++ nor clang++ is there.
    #[error("no C++ compiler: install g++")]
    NoCompiler,
    /// The kernels are no valid C++.
    #[error("cannot compile the kernels for the emulator:\n{0}")]
    Compile(String),
    /// The folder for the program cannot be used, or the program does not start.
    #[error("cannot start the emulator")]
    Io(#[from] std::io::Error),
}

/// A running emulator.
pub struct Emulator {
    card: Card,
    seed: AtomicU64,
    records: Mutex<Records>,
    process: Mutex<Process>,
}

struct Process {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
}

impl Emulator {
    /// Compiles a program of [`super::emulation`] into `folder` (when that was not done before) and starts
    /// it, as a card of compute capability `capability`.
    ///
    /// # Errors
    /// [`EmulatorError`].
    pub fn start(
        folder: &Path,
        program: &str,
        capability: (u32, u32),
    ) -> Result<Self, EmulatorError> {
        let program = build(folder, program)?;
        let mut child = Command::new(program)
            // Fibers are no threads to the sanitizer; memory that ends with the process is no leak.
            .env(
                "ASAN_OPTIONS",
                "detect_leaks=0:detect_stack_use_after_return=0:allocator_may_return_null=1",
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (to, from) = child
            .stdin
            .take()
            .zip(child.stdout.take())
            .expect("both are piped");
        let card = Card {
            name: "emulator".into(),
            capability,
            // Few, so that persistent blocks walk over several tiles.
            multiprocessors: 3,
            shared_bytes_max: if capability.0 == 9 {
                227 << 10
            } else {
                99 << 10
            },
            cache_bytes: 1 << 20,
            memory_bytes: 1 << 30,
        };
        let process = Mutex::new(Process { child, to, from });
        Ok(Self {
            card,
            seed: AtomicU64::new(0),
            process,
            records: Mutex::default(),
        })
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.records
            .lock()
            .expect("no thread panics while it holds the records")
    }

    /// Whether work was recorded in place of being done.
    fn is_noted(&self, work: impl FnOnce() -> Work) -> bool {
        let mut records = self.records();
        let Some(open) = &mut records.open else {
            return false;
        };
        open.push(work());
        true
    }

    /// As the driver: nothing waits while work is recorded.
    fn refuse_in_recording(&self, op: &'static str) -> Result<(), KernelError> {
        match self.records().open {
            Some(_) => Err(KernelError::unsupported(op, "being recorded")),
            None => Ok(()),
        }
    }

    /// How the next launches run: 0 in order and at once; others in another order, with copies (bit 0)
    /// and products (bit 1) as late as allowed.
    pub fn set_seed(&self, seed: u64) {
        self.seed.store(seed, Ordering::Relaxed);
    }

    fn exchange<R>(
        &self,
        op: &'static str,
        work: impl FnOnce(&mut Process) -> std::io::Result<R>,
    ) -> Result<R, KernelError> {
        let mut process = self
            .process
            .lock()
            .expect("no thread panics while it talks to the emulator");
        work(&mut process).map_err(|error| KernelError::Driver {
            op,
            code: 0,
            name: error.to_string(),
        })
    }
}

/// Compiles once for each text: the program's name is the text's digest.
fn build(folder: &Path, text: &str) -> Result<PathBuf, EmulatorError> {
    let digest: String = Sha256::digest(text)
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let program = folder.join(format!("emulator-{digest}"));
    if program.is_file() {
        return Ok(program);
    }
    fs::create_dir_all(folder)?;
    // Of several processes that start at once, one compiles and the others wait for it.
    let lock = fs::File::create(folder.join("emulator.lock"))?;
    lock.lock()?;
    if program.is_file() {
        return Ok(program);
    }
    let source = folder.join(format!("emulator-{digest}.{}.cpp", std::process::id()));
    let aside = source.with_extension("out");
    fs::write(&source, text)?;
    let compiled = compile(&source, &aside);
    let _ = fs::remove_file(&source);
    compiled?;
    fs::rename(&aside, &program)?;
    Ok(program)
}

fn compile(source: &Path, program: &Path) -> Result<(), EmulatorError> {
    for compiler in ["g++", "clang++"] {
        let flags = [
            "-std=c++17",
            "-O1",
            "-g1",
            "-fsanitize=address",
            "-fno-omit-frame-pointer",
        ];
        let quiet = [
            "-Wall",
            "-Wno-unknown-pragmas",
            "-Wno-unused",
            "-Wno-subobject-linkage",
        ];
        // Contraction would fuse what the CPU ops do not.
        let mut command = Command::new(compiler);
        command
            .args(flags)
            .args(quiet)
            .arg("-ffp-contract=off")
            .arg("-o")
            .arg(program)
            .arg(source);
        match command.output() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => {
                return Err(EmulatorError::Compile(
                    String::from_utf8_lossy(&output.stderr).into_owned(),
                ));
            }
        }
    }
    Err(EmulatorError::NoCompiler)
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let process = self
            .process
            .get_mut()
            .expect("no thread panics while it talks to the emulator");
        let _ = process.child.kill();
        let _ = process.child.wait();
    }
}

/// A command's letter with its numbers.
fn command(letter: u8, numbers: &[u64]) -> Vec<u8> {
    std::iter::once(letter)
        .chain(numbers.iter().flat_map(|number| number.to_le_bytes()))
        .collect()
}

fn launch_command(launch: &Launch, seed: u64) -> Vec<u8> {
    let name = format!("{}::{}", launch.module, launch.entry);
    let mut bytes = command(b'L', &[]);
    let word = |bytes: &mut Vec<u8>, value: u32| bytes.extend(value.to_le_bytes());
    word(&mut bytes, name.len() as u32);
    bytes.extend(name.as_bytes());
    launch
        .blocks
        .iter()
        .for_each(|count| word(&mut bytes, *count));
    word(&mut bytes, launch.threads);
    word(&mut bytes, launch.shared_bytes);
    bytes.extend(seed.to_le_bytes());
    word(&mut bytes, launch.arguments.0.len() as u32);
    for argument in &launch.arguments.0 {
        word(&mut bytes, argument.len() as u32);
        bytes.extend(argument);
    }
    bytes
}

impl Process {
    fn say(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.to.write_all(bytes)?;
        self.to.flush()
    }

    fn hear<const COUNT: usize>(&mut self) -> std::io::Result<[u8; COUNT]> {
        let mut bytes = [0; COUNT];
        self.from.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl Machine for Emulator {
    fn card(&self) -> &Card {
        &self.card
    }

    fn allocate(&self, bytes: u64) -> Result<u64, KernelError> {
        self.refuse_in_recording("allocate")?;
        let address = self.exchange("allocate", |process| {
            process.say(&command(b'A', &[bytes]))?;
            Ok(u64::from_le_bytes(process.hear()?))
        })?;
        match address {
            0 => Err(KernelError::OutOfMemory { need_bytes: bytes }),
            address => Ok(address),
        }
    }

    fn release(&self, address: u64) {
        // A process that has ended has no memory to give back.
        let _ = self.exchange("release", |process| process.say(&command(b'F', &[address])));
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), KernelError> {
        self.refuse_in_recording("write")?;
        self.exchange("write", |process| {
            process.say(&command(b'W', &[address, bytes.len() as u64]))?;
            process.say(bytes)
        })
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), KernelError> {
        self.refuse_in_recording("read")?;
        self.exchange("read", |process| {
            process.say(&command(b'R', &[address, bytes.len() as u64]))?;
            process.from.read_exact(bytes)
        })
    }

    fn fill(&self, address: u64, bytes: u64, value: u8) -> Result<(), KernelError> {
        if self.is_noted(|| Work::Fill(address, bytes, value)) {
            return Ok(());
        }
        self.exchange("fill", |process| {
            let mut words = command(b'S', &[address, bytes]);
            words.push(value);
            process.say(&words)
        })
    }

    fn copy(&self, from: u64, to: u64, bytes: u64) -> Result<(), KernelError> {
        if self.is_noted(|| Work::Copy(from, to, bytes)) {
            return Ok(());
        }
        let mut held = vec![0; bytes as usize];
        self.read(from, &mut held)?;
        self.write(to, &held)
    }

    fn launch(&self, launch: &Launch) -> Result<(), KernelError> {
        if self.is_noted(|| Work::Launch(launch.clone())) {
            return Ok(());
        }
        let seed = self.seed.load(Ordering::Relaxed);
        let said = self.exchange(launch.entry, |process| {
            process.say(&launch_command(launch, seed))?;
            let length = u32::from_le_bytes(process.hear()?);
            let mut words = vec![0; length as usize];
            process.from.read_exact(&mut words)?;
            Ok(String::from_utf8_lossy(&words).into_owned())
        })?;
        match said.as_str() {
            "" => Ok(()),
            why => Err(KernelError::Driver {
                op: launch.entry,
                code: 1,
                name: why.into(),
            }),
        }
    }

    /// The emulator's own form: base, rank and element bytes, sizes, strides, box.
    fn map(&self, shape: &MapShape) -> Result<Vec<u8>, KernelError> {
        let rank = shape.sizes.len();
        check_map(shape).map_err(|why| KernelError::unsupported("tensor map", why))?;
        let mut bytes = shape.address.to_le_bytes().to_vec();
        bytes.extend((rank as u32).to_le_bytes());
        bytes.extend(2u32.to_le_bytes());
        let at = |values: &[u64], i: usize| values.get(i).copied().unwrap_or(1);
        (0..5).for_each(|i| bytes.extend(at(&shape.sizes, i).to_le_bytes()));
        (0..4).for_each(|i| bytes.extend(at(&shape.strides, i).to_le_bytes()));
        (0..5).for_each(|i| bytes.extend(shape.tile.get(i).copied().unwrap_or(1).to_le_bytes()));
        bytes.resize(128, 0);
        Ok(bytes)
    }

    fn synchronise(&self) -> Result<(), KernelError> {
        self.refuse_in_recording("synchronise")
    }

    fn begin_recording(&self) -> Result<(), KernelError> {
        self.refuse_in_recording("begin_recording")?;
        self.records().open = Some(Vec::new());
        Ok(())
    }

    fn end_recording(&self) -> Result<u64, KernelError> {
        let mut records = self.records();
        let work = records.open.take().unwrap_or_default();
        records.last += 1;
        let number = records.last;
        records.kept.insert(number, work.into());
        Ok(number)
    }

    fn replay(&self, number: u64) -> Result<(), KernelError> {
        let work: Option<Arc<[Work]>> = self.records().kept.get(&number).cloned();
        let unknown = || KernelError::unsupported("replay", format!("record {number}"));
        for work in work.ok_or_else(unknown)?.iter() {
            match work {
                Work::Launch(launch) => self.launch(launch)?,
                Work::Fill(address, bytes, value) => self.fill(*address, *bytes, *value)?,
                Work::Copy(from, to, bytes) => self.copy(*from, *to, *bytes)?,
            }
        }
        Ok(())
    }

    fn forget(&self, number: u64) {
        self.records().kept.remove(&number);
    }
}

/// What can be recorded.
#[derive(Debug)]
enum Work {
    Launch(Launch),
    Fill(u64, u64, u8),
    Copy(u64, u64, u64),
}

/// What is being recorded, and what was.
#[derive(Default)]
struct Records {
    open: Option<Vec<Work>>,
    kept: HashMap<u64, Arc<[Work]>>,
    last: u64,
}

/// What the driver would refuse.
fn check_map(shape: &MapShape) -> Result<(), String> {
    let rank = shape.sizes.len();
    if !(2..=5).contains(&rank) || shape.strides.len() != rank - 1 || shape.tile.len() != rank {
        return Err(format!(
            "{rank} dimensions with {} strides",
            shape.strides.len()
        ));
    }
    if !shape.address.is_multiple_of(16)
        || shape
            .strides
            .iter()
            .any(|stride| !stride.is_multiple_of(16))
    {
        return Err(format!(
            "an address or stride that is no multiple of 16: {shape:?}"
        ));
    }
    if shape.tile[0] != 64 || shape.tile.iter().any(|size| !(1..=256).contains(size)) {
        return Err(format!("a box of {:?}", shape.tile));
    }
    Ok(())
}
