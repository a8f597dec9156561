//! `dailies bench farm`: the scheduler on this machine, in numbers.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use scheduler::{
    bench::{Plan, Row, decide, durable},
    store::DatabaseUrl,
};

/// Options of `dailies bench farm`.
#[derive(Debug, clap::Args)]
pub struct FarmArgs {
    /// Measure this database too: sqlite:FILE or postgres://USER@HOST/NAME; neither may be there yet.
    #[arg(
        long,
        value_name = "URL",
        env = "DAILIES_BENCH_DATABASE",
        hide_env_values = true
    )]
    database: Option<DatabaseUrl>,
    /// Films that wait when the scheduler starts again; filling a database with a million takes minutes.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    restart: u64,
    /// Do everything once and small: says whether it works, not how fast it is.
    #[arg(long)]
    tiny: bool,
    /// Write the numbers here as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub fn run(args: &FarmArgs) -> Result<()> {
    if let Some(DatabaseUrl::Sqlite(file)) = &args.database {
        ensure!(
            !file.exists(),
            "{} is there already: name a new file",
            file.display()
        );
    }
    let plan = match args.tiny {
        true => Plan::tiny(),
        false => Plan {
            restart: args.restart,
            ..Plan::full()
        },
    };
    let mut rows = tell(decide::measure(&plan));
    if let Some(url) = args.database.clone() {
        let name = if url.is_postgres() {
            "PostgreSQL"
        } else {
            "SQLite"
        };
        let runtime = tokio::runtime::Runtime::new()?;
        let measured = runtime.block_on(durable::measure(&plan, url, name));
        rows.extend(tell(measured.map_err(|error| anyhow!(error))?));
    }
    let Some(path) = &args.json else {
        return Ok(());
    };
    fs::write(path, serde_json::to_string_pretty(&rows)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

fn tell(rows: Vec<Row>) -> Vec<Row> {
    for row in &rows {
        println!(
            "{:<60} {:>12.3} {:<4} {}",
            row.name, row.value, row.unit, row.conditions
        );
    }
    rows
}
