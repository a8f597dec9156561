//! The scheduler beside other queues: the same work, the same database settings, the same run.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    raw, rivals,
    row::{self, Row},
};
use crate::{cargo, postgres, postgres::Server, run, target};

/// What a rival tells, and what we call the same. Its `work` is a job fetched, run as nothing and ended.
const SAME: &[(&str, &str)] = &[
    ("single", "durable submits, single calls"),
    ("batched", "durable submits, batched"),
    ("work", "durable leases"),
    ("p50", "submit to lease p50"),
    ("p99", "submit to lease p99"),
];

#[derive(clap::Args)]
pub struct Farm {
    /// Measure only the core, no database.
    #[arg(long)]
    core: bool,
    /// Do everything once, in seconds: says whether the benchmark works, not how fast anything is.
    #[arg(long)]
    tiny: bool,
}

impl Farm {
    pub fn run(&self) -> Result<Vec<Row>> {
        let folder = target().join("bench").join("farm");
        let _ = fs::remove_dir_all(&folder); // of an earlier run, if any
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut rows = self.measure(&folder, "core", None)?;
        if self.core {
            return Ok(rows);
        }
        let sqlite = format!("sqlite:{}", folder.join("farm.db").display());
        rows.extend(self.measure(&folder, "sqlite", Some(&sqlite))?);
        let server = postgres::start_durable()?;
        let url = server.database("farm");
        let ours = self.measure(&folder, "postgres", Some(&url))?;
        rows.extend(self.beside(&ours, &server, &folder)?);
        Ok(rows)
    }

    /// The rows of PostgreSQL, once for each rival that did the same.
    fn beside(&self, ours: &[Row], server: &Server, folder: &Path) -> Result<Vec<Row>> {
        let mut rows = ours.to_vec();
        let (seconds, jobs) = if self.tiny { (1, 100) } else { (10, 5_000) };
        for clients in raw::CLIENTS {
            let rate = raw::commits(server, folder, clients, seconds)?;
            let name = format!("one row a commit, {clients} clients");
            let rates = ours.iter().filter(|row| row.unit == "1/s");
            rows.extend(rates.map(|row| row.beside(&name, rate)));
        }
        for rival in rivals::ALL {
            let told = match rival.measure(server, jobs) {
                Ok(told) => told,
                Err(error) => {
                    println!("skipped: {}: {error:#}", rival.name);
                    continue;
                }
            };
            for (what, name) in SAME {
                let own = ours.iter().find(|row| row.name.starts_with(name));
                if let (Some(row), Some(value)) = (own, told.get(*what)) {
                    rows.push(row.beside(rival.name, *value));
                }
            }
        }
        Ok(rows)
    }

    /// Runs the measuring program once.
    fn measure(&self, folder: &Path, part: &str, database: Option<&str>) -> Result<Vec<Row>> {
        let file: PathBuf = folder.join(format!("{part}.rows"));
        let mut bench = cargo();
        bench
            .args([
                "bench",
                "--locked",
                "--quiet",
                "-p",
                "scheduler",
                "--bench",
                "farm",
                "--",
            ])
            .arg(&file)
            .envs(database.map(|url| ("DAILIES_BENCH_DATABASE", url))); // it may hold a password
        if self.tiny {
            bench.env("DAILIES_BENCH_TINY", "1");
        }
        run(&mut bench)?;
        row::read(&file)
    }
}
