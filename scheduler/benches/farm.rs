//! Measures the scheduler on this machine: `farm ROWS` writes one JSON object a line.
//!
//! The core alone, or the database that `DAILIES_BENCH_DATABASE` names, which must be new.
//! `cargo xtask bench farm` starts it, with a durable PostgreSQL and the other queues beside it.

use std::{env, error::Error, fs::File, io::Write};

use scheduler::{
    bench::{Plan, Row, decide, durable},
    store::DatabaseUrl,
};

type Failed = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failed> {
    let mut arguments = env::args().skip(1).filter(|word| word != "--bench");
    let mut out = File::create(arguments.next().ok_or("name a file for the rows")?)?;
    let database = env::var("DAILIES_BENCH_DATABASE").ok();
    let mut plan = match env::var_os("DAILIES_BENCH_TINY") {
        Some(_) => Plan::tiny(),
        None => Plan::full(),
    };
    if let Ok(jobs) = env::var("DAILIES_BENCH_RESTART") {
        plan.restart = jobs.parse()?; // filling a database with a million takes minutes
    }
    let Some(database) = database else {
        return tell(&mut out, &decide::measure(&plan));
    };
    let url: DatabaseUrl = database.parse()?;
    let name = match &url {
        DatabaseUrl::Sqlite(_) => "SQLite",
        DatabaseUrl::Postgres(_) => "PostgreSQL",
    };
    let runtime = tokio::runtime::Runtime::new()?;
    tell(
        &mut out,
        &runtime.block_on(durable::measure(&plan, url, name))?,
    )
}

fn tell(out: &mut File, rows: &[Row]) -> Result<(), Failed> {
    for row in rows {
        println!("{:<60} {:>12.3} {}", row.name, row.value, row.unit);
        writeln!(out, "{}", serde_json::to_string(row)?)?;
    }
    Ok(())
}
