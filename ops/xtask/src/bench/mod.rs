//! `cargo xtask bench NAME`: measures, prints a table and writes `target/bench/NAME.json`.
//!
//! A benchmark is a file here that answers [`Row`]s; programs that it runs write theirs, one JSON
//! object a line, into a file that it names ([`row::read`]). Everything else is done once, here.

mod engine;
mod eta;
mod farm;
mod machine;
mod raw;
mod rivals;
mod row;

use std::fs;

use anyhow::{Context, Result};
use clap::Subcommand;

use self::{machine::Machine, row::Row};
use crate::target;

/// Measure, beside others who do the same, and say under which conditions.
#[derive(clap::Args)]
pub struct Bench {
    #[command(subcommand)]
    name: Name,
}

#[derive(Subcommand)]
enum Name {
    /// The engine: a film through Dailies and through diffusers, rates, memory.
    Engine(engine::Engine),
    /// What the farm foretells: how many films end inside their interval, and how far off it is.
    Eta(eta::Eta),
    /// The scheduler: submits, leases, decisions, restart and memory, beside other queues.
    Farm(farm::Farm),
}

impl Bench {
    pub fn run(&self) -> Result<()> {
        let machine = Machine::look();
        let (name, rows) = match &self.name {
            Name::Engine(engine) => ("engine", engine.run()?),
            Name::Eta(eta) => ("eta", eta.run()?),
            Name::Farm(farm) => ("farm", farm.run()?),
        };
        println!("{machine}\n{}", row::table(&rows));
        keep(name, &machine, &rows)
    }
}

fn keep(name: &str, machine: &Machine, rows: &[Row]) -> Result<()> {
    let folder = target().join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(format!("{name}.json"));
    let told = serde_json::json!({"bench": name, "machine": machine, "rows": rows});
    fs::write(&path, serde_json::to_string_pretty(&told)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}", path.display());
    Ok(())
}
