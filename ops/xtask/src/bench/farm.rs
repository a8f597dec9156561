//! The scheduler beside other queues: the same work, the same database settings, the same run.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    raw,
    rivals::{self, Rival},
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

/// Runs of each program.
const RUNS: u32 = 3;

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
    /// Everything so often; the middle value counts.
    fn runs(&self) -> u32 {
        if self.tiny { 1 } else { RUNS }
    }

    pub fn run(&self) -> Result<Vec<Row>> {
        let folder = target().join("bench").join("farm");
        let _ = fs::remove_dir_all(&folder); // of an earlier run, if any
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut rows = self.measure(&folder, "core", None)?;
        if self.core {
            return Ok(rows);
        }
        let file = |run| format!("sqlite:{}", folder.join(format!("{run}.db")).display());
        rows.extend(self.measure(&folder, "sqlite", Some(&file))?);
        let server = postgres::start_durable()?;
        let named = |run| server.database(&format!("farm_{run}"));
        let ours = self.measure(&folder, "postgres", Some(&named))?;
        rows.extend(self.beside(&ours, &server, &folder)?);
        Ok(rows)
    }

    /// The rows of PostgreSQL, once for each rival that did the same.
    fn beside(&self, ours: &[Row], server: &Server, folder: &Path) -> Result<Vec<Row>> {
        let mut rows = ours.to_vec();
        let (seconds, jobs) = if self.tiny { (1, 100) } else { (10, 3_000) };
        for clients in raw::CLIENTS {
            let rate = raw::commits(server, folder, clients, seconds)?;
            let name = format!("one row a commit, {clients} clients");
            let rates = ours.iter().filter(|row| row.unit == "1/s");
            rows.extend(rates.map(|row| row.beside(&name, rate)));
        }
        for rival in &rivals::ALL {
            let told = match self.rival(rival, server, jobs) {
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

    /// What the rival tells, the middle of its runs.
    fn rival(&self, rival: &Rival, server: &Server, jobs: u32) -> Result<BTreeMap<String, f64>> {
        let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for run in 0..self.runs() {
            eprintln!("{}: run {} of {}", rival.name, run + 1, self.runs());
            for (what, value) in rival.measure(server, jobs, run)? {
                all.entry(what).or_default().push(value);
            }
        }
        let middle = all
            .into_iter()
            .map(|(what, values)| (what, row::median(&values)));
        Ok(middle.collect())
    }

    /// Runs the measuring program, each time on a database of its own. A start over a million films is
    /// measured in the last run alone: to fill a database takes minutes.
    fn measure(
        &self,
        folder: &Path,
        part: &str,
        database: Option<&dyn Fn(u32) -> String>,
    ) -> Result<Vec<Row>> {
        let mut runs = Vec::new();
        for run in 0..self.runs() {
            eprintln!("{part}: run {} of {}", run + 1, self.runs());
            let fills = run + 1 == self.runs();
            let database = database.map(|of| of(run));
            runs.push(self.measure_once(folder, part, database, fills)?);
        }
        Ok(row::middle(&runs))
    }

    fn measure_once(
        &self,
        folder: &Path,
        part: &str,
        database: Option<String>,
        fills: bool,
    ) -> Result<Vec<Row>> {
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
        if !fills {
            bench.env("DAILIES_BENCH_RESTART", "0");
        }
        run(&mut bench)?;
        row::read(&file)
    }
}
