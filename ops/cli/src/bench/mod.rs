//! `dailies bench`: how fast this machine works. Rivals are measured by `cargo xtask bench`.

mod engine;
mod farm;
mod rates;

use anyhow::Result;

/// Options of `dailies bench`.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Render one film without a scheduler and say where the time and the memory go.
    ///
    /// Rates are set beside what the `gemm` crate reaches on a 1024^3 product in the same process.
    Engine(engine::EngineArgs),
    /// Decide, commit and start again: how much the scheduler takes on this machine.
    ///
    /// The core alone with up to a million films waiting, then a database if one is named.
    /// Run it while the machine does nothing else. It makes accounts and films: name a new database.
    Farm(farm::FarmArgs),
}

/// Measures, prints a table and, when asked, writes it as JSON.
pub fn run(args: &BenchArgs) -> Result<()> {
    match &args.what {
        What::Engine(args) => engine::run(args),
        What::Farm(args) => farm::run(args),
    }
}
