//! One row a commit, as fast as the database takes it: what every durable queue is measured against.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::postgres::Server;

/// One client, as a caller that waits; and several, which the server commits together.
pub const CLIENTS: [u32; 2] = [1, 8];
const TABLE: &str = "CREATE TABLE IF NOT EXISTS raw_commits (at timestamptz, words text)";
const INSERT: &str = "INSERT INTO raw_commits VALUES (now(), repeat('x', 200));\n";

/// Commits a second of so many clients.
pub fn commits(server: &Server, folder: &Path, clients: u32, seconds: u32) -> Result<f64> {
    let script = folder.join("raw.sql");
    fs::write(&script, INSERT)?;
    let url = server.database("postgres");
    said(server.client("psql").args([&url, "-qc", TABLE]))?;
    let clients = clients.to_string();
    let told = said(
        server
            .client("pgbench")
            .args(["-n", "-M", "prepared", "-j", "2", "-c", &clients])
            .args(["-T", &seconds.to_string(), "-f"])
            .arg(&script)
            .arg(&url),
    )?;
    let rate = told
        .lines()
        .find_map(|line| line.strip_prefix("tps = "))
        .and_then(|rest| rest.split(' ').next())
        .with_context(|| format!("pgbench told no rate:\n{told}"))?;
    Ok(rate.parse()?)
}

fn said(command: &mut Command) -> Result<String> {
    let answer = command.stdout(Stdio::piped()).output()?; // clients are quiet unless asked
    let told = String::from_utf8_lossy(&answer.stdout).into_owned();
    let why = String::from_utf8_lossy(&answer.stderr);
    ensure!(
        answer.status.success(),
        "the database's own client failed: {why}"
    );
    Ok(told)
}
