//! `dailies`: the one binary. One file a subcommand; this one parses and dispatches.

#[macro_use]
mod out;

mod agent_cmd;
mod api;
mod ask;
mod bench;
mod doctor;
mod eta;
mod eval;
mod extend;
mod film;
mod given;
mod keys;
mod list;
mod nodes;
mod orders;
mod progress;
mod quota;
mod quota_rules;
mod remix;
mod render;
mod save;
mod serve;
mod signals;
mod simulate;
mod submit;
mod summary;
mod tensors;
mod up;
mod watch;
mod when;

use std::{io::IsTerminal, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Makes film with sound from prompts, on machines you own.
#[derive(Parser, Debug)]
#[command(name = "dailies", version, about, propagate_version = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  dailies doctor                                   what is here and what is missing
  dailies render \"a red ball bounces\" -o film.mp4  one film, here and now
  dailies up                                       a farm in one process; then, beside it:
  dailies submit \"a red ball bounces\" -o film.mp4  the same film through the farm

More about a command: dailies help COMMAND";

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a whole farm in this process: the scheduler and one agent on the CPU.
    Up(up::UpArgs),
    /// Render one prompt here, without a scheduler.
    Render(Box<render::RenderArgs>),
    /// Hand a prompt to the farm.
    Submit(Box<submit::SubmitArgs>),
    /// Go on from the end of a finished film.
    Extend(extend::ExtendArgs),
    /// Make a finished film anew by another prompt, or a stretch of it.
    Remix(remix::RemixArgs),
    /// Show the newest films.
    List(list::ListArgs),
    /// Follow a film to its end, and save it.
    Watch(watch::WatchArgs),
    /// Hold films back: nothing of them starts, and what renders stops at its next step.
    Pause(orders::IdsArgs),
    /// Let films that were paused start, or go on from where they stopped.
    Resume(orders::IdsArgs),
    /// End films that are not finished; what is finished stays.
    Cancel(orders::IdsArgs),
    /// Remove films for good, finished or not.
    Delete(orders::IdsArgs),
    /// Run the scheduler alone, for agents on other nodes.
    Serve(serve::ServeArgs),
    /// Run an agent that renders for a scheduler elsewhere.
    Agent(agent_cmd::AgentArgs),
    /// Ask what another farm, or another load, would do to waits, costs and the last film.
    Simulate(simulate::SimulateArgs),
    /// Measure what a model's films show and sound like.
    Eval(eval::EvalArgs),
    /// Measure how fast this machine renders, and where the time and the memory go.
    Bench(bench::BenchArgs),
    /// Run one module of a checkpoint on given tensors.
    Tensors(tensors::TensorsArgs),
    /// Show nodes and their devices; take them out of work and bring them back.
    Nodes(nodes::NodesArgs),
    /// Show and change what accounts may have of the farm.
    Quota(quota::QuotaArgs),
    /// Make, show and end API keys.
    Keys(keys::KeysArgs),
    /// Look what is here, what is missing, and how to get it.
    Doctor(doctor::DoctorArgs),
}

/// Parses the arguments and runs; errors are one line on stderr and exit code 1.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    log(&cli.command);
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    if let Command::Eval(args) = command {
        return eval::run(args);
    }
    if let Command::Simulate(args) = command {
        simulate::run(&args)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Bench(args) = command {
        bench::run(&args)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Tensors(args) = command {
        tensors::run(&args)?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(dispatch(command))?;
    Ok(ExitCode::SUCCESS)
}

async fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Up(args) => up::run(args).await,
        Command::Render(args) => render::run(*args).await,
        Command::Submit(args) => or_asked_to_end(submit::run(*args)).await,
        Command::Extend(args) => or_asked_to_end(extend::run(args)).await,
        Command::Remix(args) => or_asked_to_end(remix::run(args)).await,
        Command::List(args) => list::run(args).await,
        Command::Watch(args) => or_asked_to_end(watch::run(args)).await,
        Command::Pause(args) => orders::pause(args).await,
        Command::Resume(args) => orders::resume(args).await,
        Command::Cancel(args) => orders::cancel(args).await,
        Command::Delete(args) => orders::delete(args).await,
        Command::Serve(args) => serve::run(args).await,
        Command::Agent(args) => agent_cmd::run(args).await,
        Command::Nodes(args) => nodes::run(args).await,
        Command::Quota(args) => quota::run(args).await,
        Command::Keys(args) => keys::run(args).await,
        Command::Doctor(args) => doctor::run(args).await,
        Command::Eval(_) | Command::Simulate(_) | Command::Bench(_) | Command::Tensors(_) => {
            unreachable!("they need no runtime and were run before")
        }
    }
}

/// Drops `work` on Ctrl-C, so that what it has half written goes with it.
async fn or_asked_to_end(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::select! {
        ended = work => ended,
        why = signals::asked_to_end() => {
            anyhow::bail!("stopped by {}; a film that was submitted goes on: dailies list", why?)
        }
    }
}

/// Logs to stderr: services say what they do, the others only warn. `DAILIES_LOG` decides finer.
fn log(command: &Command) {
    let default = match command {
        Command::Up(_) | Command::Serve(_) | Command::Agent(_) => "info,sea_orm_migration=warn",
        _ => "warn",
    };
    let filter = EnvFilter::try_from_env("DAILIES_LOG").unwrap_or_else(|_| default.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does() {
        for command in Cli::command().get_subcommands() {
            assert!(
                command.get_about().is_some(),
                "{} has no help",
                command.get_name()
            );
        }
    }
}
