//! `dailies bench`: how fast this machine works. Rivals are measured by `cargo xtask bench`.

mod engine;
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
}

/// Measures, prints a table and, when asked, writes it as JSON.
pub fn run(args: &BenchArgs) -> Result<()> {
    match &args.what {
        What::Engine(args) => engine::run(args),
    }
}
