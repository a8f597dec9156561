//! `cargo xtask gpu-parcel`: what a machine with a GPU needs to tell whether our kernels are right and fast.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{cargo, cuda, run, target};

/// A parcel larger than this cannot be carried everywhere.
const BYTES_MAX: u64 = 48 << 20;

#[derive(clap::Args)]
pub struct Parcel {
    /// Folder for the parcel.
    #[arg(long)]
    output: Option<PathBuf>,
}

impl Parcel {
    pub fn run(&self) -> Result<()> {
        let folder = self
            .output
            .clone()
            .unwrap_or_else(|| target().join("gpu-parcel"));
        let tools = cuda::find_or_fetch().context("kernels.pack is made with CUDA's compiler")?;
        run(cargo().args([
            "build",
            "--release",
            "--locked",
            "--package",
            "kernels",
            "--bin",
            "gpu-check",
        ]))?;
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let program = folder.join("gpu-check");
        fs::copy(target().join("release/gpu-check"), &program).context("cannot copy gpu-check")?;
        run(std::process::Command::new(&program)
            .args(["--pack"])
            .arg(folder.join("kernels.pack"))
            .arg("--lib-dir")
            .arg(tools.join("lib"))
            .arg("--out")
            .arg(tools.join("made-for-pack")))?;
        let size = |name: &str| fs::metadata(folder.join(name)).map(|file| file.len());
        let bytes = size("gpu-check")? + size("kernels.pack")?;
        ensure!(
            bytes <= BYTES_MAX,
            "the parcel has {bytes} bytes, at most {BYTES_MAX}"
        );
        println!(
            "{}: {:.1} MiB",
            folder.display(),
            bytes as f64 / f64::from(1 << 20)
        );
        println!("on a machine with a GPU: ./gpu-check --out results");
        Ok(())
    }
}
