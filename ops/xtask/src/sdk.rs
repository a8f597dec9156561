//! The official Python SDK, unmodified, in its own environment for the tests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::{root, run, tools};

/// Python of an environment that holds what `tests/sdk/requirements.txt` names.
pub fn python() -> Result<PathBuf> {
    let requirements = root().join("tests/sdk/requirements.txt");
    let wanted =
        fs::read_to_string(&requirements).context("cannot read tests/sdk/requirements.txt")?;
    let environment = tools().join("sdk");
    let python = environment.join("bin/python");
    let stamp = environment.join("requirements.txt");
    if fs::read_to_string(&stamp).is_ok_and(|had| had == wanted) && python.is_file() {
        return Ok(python);
    }
    fs::create_dir_all(tools()).context("cannot create the folder for tools")?;
    make_environment(&environment)?;
    run(Command::new(&python)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-r",
        ])
        .arg(&requirements))
    .context("cannot install the official SDK, which the tests run")?;
    fs::write(&stamp, wanted).context("cannot note the SDK's version")?;
    Ok(python)
}

/// `venv` needs a package of its own on Debian; `--without-pip` and `ensurepip` do not help there.
fn make_environment(folder: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(folder);
    let venv = || run(Command::new("python3").args(["-m", "venv"]).arg(folder));
    if venv().is_ok() {
        return Ok(());
    }
    run(Command::new("apt-get")
        .args([
            "install",
            "-y",
            "-qq",
            "--no-install-recommends",
            "python3-venv",
            "python3-pip",
        ])
        .stdin(Stdio::null()))?;
    venv().context("Python 3 with its venv module is needed for the SDK tests")
}
