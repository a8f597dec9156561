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

use crate::{postgres::Server, root, run, tools};

/// A queue that others use. Theirs has no quota, fair share or fencing; ours has.
pub struct Rival {
    pub name: &'static str,
    /// Answers the command that runs its script, installed first where it is missing.
    command: fn(&Path) -> Result<Command>,
}

pub const ALL: [Rival; 2] = [
    Rival {
        name: "graphile-worker",
        command: graphile,
    },
    Rival {
        name: "procrastinate",
        command: procrastinate,
    },
];

#[derive(Deserialize)]
struct Told {
    what: String,
    value: f64,
}

impl Rival {
    /// Its numbers: `single` and `batched` submits and `work` a second, `p50` and `p99` in milliseconds.
    pub fn measure(&self, server: &Server, jobs: u32) -> Result<BTreeMap<String, f64>> {
        let folder = tools().join("bench");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let database = self.name.replace('-', "_");
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
