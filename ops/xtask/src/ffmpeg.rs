//! FFmpeg for the demo and the tests: the `FFMPEG` variable, the `PATH`, an earlier install,
//! then Debian's package (as root), then the static build inside the PyPI wheel.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{run, tools};

/// Carries one static FFmpeg with libx264 and aac.
const WHEEL: &str = "imageio-ffmpeg==0.8.1";

/// Path of an FFmpeg that runs; installs one when there is none.
pub fn find_or_install() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("FFMPEG").map(PathBuf::from) {
        ensure!(
            works(&named),
            "FFMPEG names '{}', which does not run",
            named.display()
        );
        return Ok(named);
    }
    let earlier = tools().join("ffmpeg");
    if let Some(found) = [PathBuf::from("ffmpeg"), earlier]
        .into_iter()
        .find(|path| works(path))
    {
        return Ok(found);
    }
    eprintln!("FFmpeg is not installed: installing it");
    if install_package("ffmpeg") && works(Path::new("ffmpeg")) {
        return Ok("ffmpeg".into());
    }
    install_wheel().context(
        "FFmpeg is missing and could not be installed; install the package 'ffmpeg' of your \
         system, or set FFMPEG to its path",
    )
}

fn works(path: &Path) -> bool {
    let version = Command::new(path)
        .arg("-version")
        .stdin(Stdio::null())
        .output();
    version.is_ok_and(|output| output.status.success())
}

/// Debian and its children, as root only.
pub fn install_package(name: &str) -> bool {
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null());
        command.stdout(Stdio::null());
        run(&mut command).is_ok()
    };
    is_root()
        && apt(&["update", "-qq"])
        && apt(&["install", "-y", "-qq", "--no-install-recommends", name])
}

pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt;
        own.uid() == 0
    })
}

fn install_wheel() -> Result<PathBuf> {
    let wheel = tools().join("wheel");
    run(Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
        .arg(&wheel)
        .arg(WHEEL))?;
    let folder = wheel.join("imageio_ffmpeg/binaries");
    let files =
        fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for file in files.flatten() {
        if file.file_name().to_string_lossy().starts_with("ffmpeg") && works(&file.path()) {
            let link = tools().join("ffmpeg");
            fs::copy(file.path(), &link).context("cannot copy FFmpeg out of its wheel")?;
            return Ok(link);
        }
    }
    bail!("the wheel holds no FFmpeg for this machine")
}
