//! `dailies eval`: measures the films of a model by what is seen and heard in them.
//!
//! Every scene of a fixed list is rendered three times: from its formulas (the oracle), through the
//! codecs, and by the model from the caption alone. The same detectors read all of them, so a metric that
//! the oracle misses is a fault of the tool. They read pixels and samples only.

mod bench;
mod codec;
mod columns;
mod engine;
mod film;
mod flight;
mod judge;
mod mark;
mod metrics;
mod oracle;
mod report;
mod scene;
mod segment;
mod sound;
mod stats;
mod suite;
mod t1;
mod track;

use std::path::PathBuf;
use std::process::ExitCode;

use columns::Reading;
pub use engine::peak_rss_mib;
use film::Film;

/// Options of `dailies eval`.
#[derive(Debug, clap::Args)]
pub struct EvalArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Measure a model of the procedural world, such as the built-in one.
    Builtin(BuiltinArgs),
}

#[derive(Debug, clap::Args)]
struct BuiltinArgs {
    /// Folder of the weights [default: the built-in model].
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// `core`: 64 prompts and the marks that CI checks; `full`: everything.
    #[arg(long, value_enum, default_value = "full")]
    suite: Suite,
    /// Prompts, from the start of the list [default: 64 for core, 256 for full].
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..))]
    n: Option<u32>,
    /// Seed of the films and of the resampling.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Folder for the report, the contact sheet and the clips.
    #[arg(long, value_name = "DIR", default_value = "target/eval")]
    out: PathBuf,
    /// Another list of scenes (JSON) in place of the built-in one.
    #[arg(long, value_name = "FILE", conflicts_with = "oracle")]
    scenes: Option<PathBuf>,
    /// Measure a model of world T1 (speech, collisions, styles, cameras) against the films in this folder,
    /// which `python -m ops.train.eval_list --variant t1 --oracle DIR` writes.
    #[arg(long, value_name = "DIR")]
    oracle: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum Suite {
    Core,
    Full,
}

/// Measures, writes the report and prints its table.
///
/// Exit code 0: every mark is met; 1: the model misses one; 2: the tool failed or its oracle misses one.
pub fn run(args: EvalArgs) -> anyhow::Result<ExitCode> {
    let What::Builtin(args) = args.what;
    let measured = match &args.oracle {
        Some(folder) => t1::run(&args, folder),
        None => suite::run(&args),
    };
    match measured {
        Ok(report) => {
            print!("{}", report.markdown());
            println!("\nReport, contact sheet and clips: {}", args.out.display());
            Ok(ExitCode::from(report.exit_code()))
        }
        Err(error) => {
            eprintln!("error: the evaluation failed: {error:#}");
            Ok(ExitCode::from(2))
        }
    }
}

/// Looks at a film and listens to it.
fn read(film: &Film) -> Reading {
    Reading {
        seen: track::look(film),
        heard: sound::listen(&film.samples, film.rate),
    }
}
