//! Other durable queues at the same work, on the same server: each is installed below `target`, runs its
//! own script in `ops/bench`, and tells one number a line.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{cargo, ffmpeg::install_package, postgres::Server, root, run, tools};

/// A queue that others use. Theirs has no quota, fair share or fencing; ours has.
pub struct Rival {
    pub name: &'static str,
    /// Answers the command that runs its script, installed first where it is missing.
    command: fn(&Path) -> Result<Command>,
}

pub const ALL: [Rival; 4] = [
    Rival {
        name: "graphile-worker",
        command: graphile,
    },
    Rival {
        name: "procrastinate",
        command: procrastinate,
    },
    Rival {
        name: "apalis-postgres",
        command: apalis,
    },
    Rival {
        name: "Slurm",
        command: slurm,
    },
];

#[derive(Deserialize)]
struct Told {
    what: String,
    value: f64,
}

impl Rival {
    /// Its numbers: `single` and `batched` submits and `work` a second, `p50` and `p99` in milliseconds.
    /// In a database of its own for each run.
    pub fn measure(&self, server: &Server, jobs: u32, run: u32) -> Result<BTreeMap<String, f64>> {
        let folder = tools().join("bench");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let database = format!("{}_{run}", self.name.replace('-', "_").to_lowercase());
        let url = server.database(&database);
        server.create(&database)?;
        let answer = (self.command)(&folder)?
            .arg(&url)
            .arg(jobs.to_string())
            .output()
            .with_context(|| format!("cannot start {}", self.name))?;
        let why = String::from_utf8_lossy(&answer.stderr);
        ensure!(answer.status.success(), "{} failed: {why}", self.name);
        let text = String::from_utf8_lossy(&answer.stdout);
        let told = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Told>(line).ok());
        Ok(told.map(|told| (told.what, told.value)).collect())
    }
}

fn script(name: &str) -> PathBuf {
    root().join("ops").join("bench").join(name)
}

fn procrastinate(folder: &Path) -> Result<Command> {
    let python = folder.join("venv").join("bin").join("python");
    if !python.is_file() {
        run(Command::new("python3")
            .args(["-m", "venv"])
            .arg(folder.join("venv")))?;
        let packages = ["install", "--quiet", "procrastinate", "psycopg[binary]"];
        run(Command::new(&python).args(["-m", "pip"]).args(packages))?;
    }
    let mut command = Command::new(python);
    command.arg(script("noop_procrastinate.py"));
    Ok(command)
}

/// The script lies beside the packages, where Node looks for them.
fn graphile(folder: &Path) -> Result<Command> {
    if !folder.join("node_modules").join("graphile-worker").is_dir() {
        fs::write(folder.join("package.json"), "{\"private\": true}")?;
        let packages = ["install", "--no-audit", "--no-fund", "graphile-worker"];
        run(Command::new("npm").args(packages).current_dir(folder))?;
    }
    let copy = folder.join("graphile.mjs");
    fs::copy(script("graphile.mjs"), &copy)?;
    let mut command = Command::new("node");
    command.arg(copy);
    Ok(command)
}

/// Not on PostgreSQL: slurmctld saves its state to files now and then, so its submits are not durable.
fn slurm(_: &Path) -> Result<Command> {
    let is_there = Path::new("/usr/sbin/slurmctld").is_file();
    ensure!(
        is_there || install_package("slurm-wlm"),
        "the package slurm-wlm cannot be installed"
    );
    let mut command = Command::new("python3");
    command.arg(script("noop_slurm.py"));
    Ok(command)
}

/// A crate of its own below `target`: it is no part of this workspace.
fn apalis(folder: &Path) -> Result<Command> {
    let project = folder.join("apalis");
    fs::create_dir_all(project.join("src"))?;
    fs::copy(script("noop_apalis.toml"), project.join("Cargo.toml"))?;
    fs::copy(script("noop_apalis.rs"), project.join("src/main.rs"))?;
    let target = folder.join("apalis-target");
    let manifest = project.join("Cargo.toml");
    let mut build = cargo();
    build.args(["build", "--release", "--quiet", "--manifest-path"]);
    run(build.arg(&manifest).arg("--target-dir").arg(&target))?;
    Ok(Command::new(target.join("release/noop-apalis")))
}
