//! One part, in a process of its own. Says what it finds in lines of JSON.

use std::{error::Error, sync::Arc};

use serde_json::{Value, json};

use kernels::Device;
use kernels::check::{Case, Scale, cases};
use kernels::cuda::{
    Blas, Driver, Emulator, Gpu, KernelStore, Libraries, Library, MODULES, Module, Nvrtc, Pack,
    emulation,
};

use crate::{bench, golden, options::Options, pass, sparse};

/// Says a line.
pub fn say(line: Value) {
    println!("{line}");
}

/// A card with what is needed to measure on it.
pub struct Card {
    /// The device itself.
    pub driver: Arc<Driver>,
    /// Ops on it.
    pub gpu: Gpu,
    /// CUDA's libraries.
    pub libraries: Libraries,
}

/// Runs a part. What is wrong is said in lines; the result is always true.
///
/// # Errors
/// When the card refuses.
pub fn run(options: &Options, part: &str) -> Result<bool, Box<dyn Error>> {
    let (phase, name) = part.split_once(':').unwrap_or((part, ""));
    if options.cpu {
        return emulated(options, phase, name);
    }
    if phase == "probe" {
        return Ok(probe(options));
    }
    let card = open(options)?;
    if let Some(tool) = phase.strip_prefix("sanitize/") {
        return sanitized(&card.gpu, tool, name, options.seed).map(|()| true);
    }
    match phase {
        "smoke" => correct(&card.gpu, Scale::Small, name, options.seed).map(|()| true),
        "correct" => correct(&card.gpu, Scale::Model, name, options.seed).map(|()| true),
        "ceilings" => bench::ceilings(&card).map(|()| true),
        "bench" => bench::run(&card, name).map(|()| true),
        "sparse" => sparse::run(&card).map(|()| true),
        "golden" => golden::write(options, &card.gpu, name).map(|()| true),
        "pass" => pass::run(&card).map(|()| true),
        "nvrtc" => on_the_spot(options, &card).map(|()| true),
        _ => Err(format!("there is no part '{part}'").into()),
    }
}

/// The kernels' sources in their order: cache, pack, compiler.
fn store(options: &Options, libraries: &Libraries) -> KernelStore {
    let beside = std::env::current_exe()
        .ok()
        .map(|program| program.with_file_name("kernels.pack"));
    KernelStore {
        folder: Some(options.out.join("kernels")),
        pack: beside.as_deref().and_then(Pack::open),
        nvrtc: Nvrtc::new(libraries).ok(),
    }
}

fn open(options: &Options) -> Result<Card, Box<dyn Error>> {
    let libraries = Libraries::find(&options.lib_dirs);
    let driver = Arc::new(Driver::open(&libraries, 0, store(options, &libraries))?);
    Ok(Card {
        // Cases that the engine's own way of calling decides take the library too, as the engine does.
        gpu: Gpu::new(driver.clone())
            .with_blas(Blas::start(&libraries, driver.clone()).ok().map(Arc::new)),
        driver,
        libraries,
    })
}

fn probe(options: &Options) -> bool {
    let libraries = Libraries::find(&options.lib_dirs);
    let store = store(options, &libraries);
    let found = |library| libraries.has(library);
    let mut env = json!({
        "kind": "env", "nvrtc": store.nvrtc.as_ref().map(Nvrtc::version), "cublaslt": found(Library::CublasLt),
        "pack_cubins": store.pack.as_ref().map_or(0, Pack::len), "version": env!("CARGO_PKG_VERSION"),
    });
    match (
        Driver::count(&libraries),
        Driver::open(&libraries, 0, store),
    ) {
        (_, Err(error)) => env["no_gpu"] = json!(error.to_string()),
        (count, Ok(driver)) => {
            let gpu = Gpu::new(Arc::new(driver));
            let card = gpu.card();
            env["device"] = json!(card.name);
            env["devices"] = json!(count);
            env["capability"] = json!(format!("{}.{}", card.capability.0, card.capability.1));
            env["multiprocessors"] = json!(card.multiprocessors);
            env["l2_bytes"] = json!(card.cache_bytes);
            env["memory_bytes"] = json!(card.memory_bytes);
            env["shared_bytes_max"] = json!(card.shared_bytes_max);
        }
    }
    env["nvidia_smi"] = json!(smi());
    say(env);
    true
}

/// The driver's version alone.
pub fn smi_driver() -> Option<String> {
    let all = smi()?;
    all.split(',').next().map(str::to_string)
}

/// Driver, clocks and temperature in nvidia-smi's own words; only read, nothing is set.
fn smi() -> Option<String> {
    let query =
        "--query-gpu=driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu";
    let output = std::process::Command::new("nvidia-smi")
        .args([query, "--format=csv,noheader"])
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
}

/// The emulator takes a minute to compile: tests name a folder that stays.
fn emulator_folder(options: &Options) -> std::path::PathBuf {
    std::env::var_os("DAILIES_CUDA_TOOLS").map_or_else(
        || options.out.join("kernels"),
        |tools| std::path::PathBuf::from(tools).join("made"),
    )
}

fn emulated(options: &Options, phase: &str, name: &str) -> Result<bool, Box<dyn Error>> {
    if phase == "probe" {
        say(json!({"kind": "env", "device": "emulator"}));
        return Ok(true);
    }
    let emulator = Emulator::start(&emulator_folder(options), &emulation(MODULES), (9, 0))?;
    let gpu = Gpu::new(Arc::new(emulator));
    match phase {
        "golden" => golden::write(options, &gpu, name)?,
        phase if phase.starts_with("sanitize/") => {
            let tool = phase.trim_start_matches("sanitize/");
            sanitized(&gpu, tool, name, options.seed)?;
        }
        _ => correct(&gpu, Scale::Small, name, options.seed)?,
    }
    Ok(true)
}

/// Runs the cases of an op twice each.
fn correct(gpu: &Gpu, scale: Scale, name: &str, seed: u64) -> Result<(), Box<dyn Error>> {
    let cpu = Device::cpu(0)?;
    let all = of(gpu, scale, name);
    all.iter().try_for_each(|case| one(case, gpu, &cpu, seed))
}

/// The cases of an op, or of one path of it. That there are none for this card is said.
fn of(gpu: &Gpu, scale: Scale, name: &str) -> Vec<Case> {
    let (op, path) = name.split_once('/').unwrap_or((name, ""));
    let wanted = |case: &Case| case.op == op && (path.is_empty() || kind(case) == path);
    let mut all = cases(scale, gpu.card().is_hopper());
    all.retain(wanted);
    if all.is_empty() {
        say(json!({"kind": "skipped", "why": format!("{name}: not for this card")}));
    }
    all
}

/// What a shape begins with: the path, or the type of activations.
fn kind(case: &Case) -> &str {
    case.shape.split(' ').next().unwrap_or_default()
}

/// Runs one small case of each kind of an op, once: a sanitizer, under which this process is, takes its time.
fn sanitized(gpu: &Gpu, tool: &str, name: &str, seed: u64) -> Result<(), Box<dyn Error>> {
    let cpu = Device::cpu(0)?;
    let mut all = of(gpu, Scale::Small, name);
    all.dedup_by(|later, first| kind(later) == kind(first));
    for case in &all {
        let outcome = case.run(gpu, &cpu, seed)?;
        say(json!({
            "kind": "op", "name": format!("{} under {tool}", case.op), "shape": case.shape,
            "err": outcome.distance(), "tol": outcome.tolerance, "right": outcome.is_right(),
        }));
        if !outcome.is_right() {
            say(
                json!({"kind": "failure", "why": format!("{case} under {tool}: {}", outcome.differences())}),
            );
        }
    }
    Ok(())
}

fn one(case: &Case, gpu: &Gpu, cpu: &Device, seed: u64) -> Result<(), Box<dyn Error>> {
    let first = case.run(gpu, cpu, seed);
    let outcome = match first {
        Ok(outcome) => outcome,
        Err(error) => {
            say(json!({"kind": "failure", "why": format!("{case}: {error}")}));
            // A fault is for ever: nothing after it means anything in this process.
            return Err(error.into());
        }
    };
    let again = case.run(gpu, cpu, seed)?;
    let same = outcome
        .found
        .iter()
        .map(|v| v.to_bits())
        .eq(again.found.iter().map(|v| v.to_bits()));
    let (distance, right) = (outcome.distance(), outcome.is_right() && same);
    say(json!({
        "kind": "op", "name": case.op, "shape": case.shape, "err": distance, "tol": outcome.tolerance,
        "repeats": same, "right": right,
    }));
    if !right {
        let why = if same {
            ""
        } else {
            ", and twice is not the same"
        };
        let tolerance = outcome.tolerance;
        say(
            json!({"kind": "failure", "why": format!("{case}: off by {distance:.1e}, allowed {tolerance:.0e}{why}; {}", outcome.differences())}),
        );
    }
    Ok(())
}

/// Compiles two modules here and now, and runs their checks with what came out.
fn on_the_spot(options: &Options, card: &Card) -> Result<(), Box<dyn Error>> {
    let Ok(nvrtc) = Nvrtc::new(&card.libraries) else {
        say(json!({"kind": "skipped", "why": "nvrtc: libnvrtc is missing"}));
        return Ok(());
    };
    for name in ["norm_bf16", "attention_mma_64"] {
        let module = Module::find(name).ok_or("a module of the catalogue")?;
        let start = std::time::Instant::now();
        let compiled = nvrtc.compile(module, card.driver.arch())?;
        say(json!({
            "kind": "op", "name": "nvrtc", "shape": name, "compile_ms": start.elapsed().as_secs_f64() * 1e3,
            "cubin_bytes": compiled.cubin.len(),
        }));
    }
    let store = KernelStore {
        folder: None,
        pack: None,
        nvrtc: Some(nvrtc),
    };
    let driver = Driver::open(&card.libraries, 0, store)?;
    let gpu = Gpu::new(Arc::new(driver));
    correct(&gpu, Scale::Small, "norm_modulate", options.seed)?;
    correct(&gpu, Scale::Small, "attention/Mma", options.seed)
}
