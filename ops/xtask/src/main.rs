//! `cargo xtask`: the project's own commands. `demo` and `test` need nothing but Rust and Python 3.

mod bench;
mod cuda;
mod demo;
mod farm;
mod ffmpeg;
mod parcel;
mod postgres;
mod python;
mod sdk;
mod test;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Commands for people who work on Dailies"
)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build Dailies, start a farm of one CPU node and render a film from a prompt.
    ///
    /// Finds FFmpeg or installs it, builds in release mode, starts scheduler and agent on a free
    /// port with their data under ./data, submits over HTTP and saves an MP4. No GPU and no model
    /// download: the built-in procedural-world model draws coloured shapes that fall and bounce.
    Demo(demo::Demo),
    /// Everything that a change must pass: set-up, fmt, clippy, all tests, the official SDK.
    Test(test::Test),
    /// Pack `gpu-check` with all kernels, to be carried to a machine with a GPU.
    ///
    /// There `./gpu-check` needs neither Rust nor a network: it compares every kernel with the CPU, measures
    /// it, and writes gpu-check.json.
    GpuParcel(parcel::Parcel),
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Task::Demo(demo) => demo.run(),
        Task::Test(test) => test.run(),
        Task::GpuParcel(parcel) => parcel.run(),
        Task::Bench(bench) => bench.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Root of the repository.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("xtask lies two folders below the root")
        .to_path_buf()
}

/// Folder for what the set-up steps install.
fn tools() -> PathBuf {
    target().join("tools")
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that runs this xtask, in the root folder.
fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// Says the command, runs it to its end, and fails when it fails.
fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    eprintln!("$ {shown}");
    let status = command
        .status()
        .with_context(|| format!("cannot start '{shown}'"))?;
    ensure!(status.success(), "'{shown}' ended with {status}");
    Ok(())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let name = |word: &OsStr| word.to_string_lossy().into_owned();
    let mut words: Vec<_> = words.map(name).collect();
    if let Some(file) = Path::new(&words[0]).file_name() {
        words[0] = name(file);
    }
    words.join(" ")
}
