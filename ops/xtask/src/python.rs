//! Python environments under `target/tools`, made once for each list of packages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::{run, tools};

/// Python of the environment `name`, which holds what the file `requirements` names.
pub fn environment(name: &str, requirements: &Path) -> Result<PathBuf> {
    let wanted = fs::read_to_string(requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    let environment = tools().join(name);
    let python = environment.join("bin/python");
    let stamp = environment.join("requirements.txt");
    if fs::read_to_string(&stamp).is_ok_and(|had| had == wanted) && python.is_file() {
        return Ok(python);
    }
    fs::create_dir_all(tools()).context("cannot create the folder for tools")?;
    make(&environment)?;
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-r",
    ];
    run(Command::new(&python).args(pip).arg(requirements))
        .with_context(|| format!("cannot install what {} names", requirements.display()))?;
    fs::write(&stamp, wanted).context("cannot note what was installed")?;
    Ok(python)
}

/// `venv` needs a package of its own on Debian; `--without-pip` and `ensurepip` do not help there.
fn make(folder: &Path) -> Result<()> {
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
    venv().context("Python 3 with its venv module is needed")
}
