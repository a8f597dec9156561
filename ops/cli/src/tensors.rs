//! `dailies tensors`: one module of a checkpoint on given tensors, for comparing part by part.

use std::path::{Path, PathBuf};

use agent::catalogue;
use anyhow::{Result, bail};
use clap::Args;
use diffusion::tensors::{MODULES, Module, run_file};
use kernels::Device;

/// In place of a module's name: the modules themselves.
const LIST: &str = "list";

#[derive(Args, Debug)]
#[command(after_long_help = help())]
pub struct TensorsArgs {
    /// Module to run, or `list` for what there is in the weights.
    module: String,
    /// Folder of weights in the diffusers layout [default: the built-in model]
    #[arg(long, value_name = "DIR")]
    weights: Option<PathBuf>,
    /// File of tensors (safetensors) that the module reads.
    #[arg(long = "in", value_name = "FILE")]
    input: Option<PathBuf>,
    /// File (safetensors, F32) for what the module gives.
    #[arg(long = "out", value_name = "FILE")]
    output: Option<PathBuf>,
    /// Threads [default: one for each core]. The numbers do not depend on it.
    #[arg(long)]
    threads: Option<usize>,
}

/// Runs one module, or lists them; nothing is written after a refusal.
pub fn run(args: &TensorsArgs) -> Result<()> {
    let weights = match &args.weights {
        Some(dir) => dir.clone(),
        None => catalogue::find_builtin()?,
    };
    if args.module == LIST {
        return list(&weights);
    }
    let module = Module::named(&args.module)?;
    let (Some(input), Some(output)) = (&args.input, &args.output) else {
        bail!("name the tensors to read with --in FILE and the file to write with --out FILE");
    };
    let threads = match args.threads {
        Some(0) => bail!("--threads must be at least 1"),
        Some(threads) => threads,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    run_file(module, &weights, &Device::cpu(threads)?, input, output)?;
    println!("{}", output.display());
    Ok(())
}

/// Each module with its class in these weights, its size, and what it reads and gives.
fn list(weights: &Path) -> Result<()> {
    for module in MODULES {
        if !weights.join(module.part).is_dir() {
            println!("{} ({}: not in these weights)", module.name, module.part);
            continue;
        }
        let part = module.open(weights)?;
        let (class, tensors, values) = (part.class()?, part.names().count(), part.value_count());
        println!(
            "{} ({}: {class}, {tensors} tensors, {values} values)",
            module.name, module.part
        );
        print!("{}", shapes(&module));
    }
    Ok(())
}

/// Lines of what a module reads and gives.
fn shapes(module: &Module) -> String {
    let line = |what: &str, (name, shape): &(&str, &str)| format!("  {what:5} {name:12} {shape}\n");
    let inputs = module.inputs.iter().map(|input| line("reads", input));
    let outputs = module.outputs.iter().map(|output| line("gives", output));
    inputs.chain(outputs).collect()
}

/// The modules and their tensors.
fn help() -> String {
    let modules = MODULES
        .iter()
        .map(|module| format!("{}\n{}", module.name, shapes(module)));
    format!(
        "Modules, in the order of work; shapes as in the reference library:\n{}",
        modules.collect::<String>()
    )
}
