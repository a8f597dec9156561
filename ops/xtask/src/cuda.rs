//! NVRTC and a disassembler for the tests that compile every CUDA kernel without a GPU. They come from
//! NVIDIA's own wheels and are never linked.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{run, tools};

/// Pinned, because `kernels/budget.toml` holds the numbers of this compiler; 13.2 reads cubins of 13.0.
const WHEELS: [&str; 3] = [
    "nvidia-cuda-nvrtc==13.0.88",
    "nvidia-cuda-cuobjdump==13.2.86",
    "nvidia-cuda-nvdisasm==13.2.86",
];

/// Folder with `lib/libnvrtc.so.13` and `bin/cuobjdump`; fetched once (95 MB).
pub fn find_or_fetch() -> Result<PathBuf> {
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "the wheels are for Linux on x86-64"
    );
    let folder = tools().join("cuda");
    let stamp = folder.join("wheels");
    let found = folder.join("nvidia/cu13");
    if fs::read_to_string(&stamp).is_ok_and(|had| had == WHEELS.join("\n")) {
        return Ok(found);
    }
    fs::create_dir_all(&folder).context("cannot create the folder for CUDA's compiler")?;
    let download = [
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--dest",
    ];
    run(Command::new("python3")
        .args(download)
        .arg(&folder)
        .args(WHEELS)
        .stdin(Stdio::null()))
    .context("cannot fetch CUDA's compiler")?;
    unpack(&folder)?;
    fs::write(&stamp, WHEELS.join("\n")).context("cannot note the compiler's version")?;
    Ok(found)
}

fn unpack(folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).context("cannot list the wheels")?;
    let wheels = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "whl"));
    for wheel in wheels {
        run(Command::new("python3")
            .args(["-m", "zipfile", "-e"])
            .arg(&wheel)
            .arg(folder))?;
        fs::remove_file(&wheel).context("cannot remove an unpacked wheel")?;
    }
    // Zip files do not keep what may be executed.
    let programs = ["cuobjdump", "nvdisasm"].map(|name| folder.join("nvidia/cu13/bin").join(name));
    run(Command::new("chmod").arg("+x").args(programs))
}
