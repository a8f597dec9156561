//! `dailies doctor`: what is here, what is missing, and how to get it.

use std::path::PathBuf;

use agent::{
    Settings,
    doctor::{State, examine, is_well},
};
use anyhow::{Result, bail};
use clap::Args;
use scheduler::store::quota::{self, Looked};

#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Folder that the farm would write to.
    #[arg(long, env = "DAILIES_DATA", default_value = "data")]
    data: PathBuf,
    /// Settings file of the agent (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub async fn run(args: DoctorArgs) -> Result<()> {
    let settings = Settings::read(args.config.as_deref())?;
    let scheduler = scheduler::Settings {
        data: args.data.clone(),
        ..scheduler::Settings::read(None)?
    };
    let database = scheduler.database();
    let look = move || examine(&settings, &args.data);
    let findings = tokio::task::spawn_blocking(look).await?;
    for finding in &findings {
        let mark = match finding.state {
            State::Found => "found  ",
            State::Absent => "absent ",
            State::Missing => "MISSING",
        };
        println!("{mark}  {:12} {}", finding.what, finding.detail);
    }
    let ledger = quota::look(database.clone()).await?;
    if let Some(line) = ledger_line(&ledger) {
        println!("{line}");
    }
    if let Looked::Faults(faults) = &ledger {
        bail!(
            "the ledger of quota is not whole: {} faults; restore a backup of {}",
            faults.len(),
            database
        );
    }
    match is_well(&findings) {
        true => {
            println!("\nready to render: dailies render \"a red ball bounces\" -o film.mp4");
            Ok(())
        }
        false => bail!("something is missing; nothing can be rendered until it is there"),
    }
}

fn ledger_line(ledger: &Looked) -> Option<String> {
    let (mark, detail) = match ledger {
        Looked::Nothing => return None,
        Looked::Whole => ("found  ", "whole: chain, balances and holds".into()),
        Looked::Faults(faults) => ("BROKEN ", faults.first()?.to_string()),
    };
    Some(format!("{mark}  {:12} {detail}", "ledger"))
}
