//! `dailies up`: a whole farm in one process, the embedded default.
//!
//! Scheduler and agent talk over loopback HTTP like any other two: nothing here is a short cut.

use std::path::Path;

use agent::Settings;
use anyhow::{Context, Result, bail};
use clap::Args;
use scheduler::{Running, Scheduler};

use crate::{
    api::{DATA_DEFAULT, URL_DEFAULT},
    serve::{ServeArgs, greet, wrong_settings},
    signals,
};

#[derive(Args, Debug)]
pub struct UpArgs {
    #[command(flatten)]
    serve: ServeArgs,
    /// Weights to offer, as DIR or NAME=DIR; the built-in model comes on top. Repeatable.
    #[arg(long, value_name = "DIR")]
    weights: Vec<String>,
    /// Threads of the engine [default: one for each core]
    #[arg(long)]
    threads: Option<usize>,
    /// Settings file of the agent (TOML). Variables DAILIES__AGENT__… win over it.
    #[arg(long, value_name = "FILE")]
    agent_config: Option<std::path::PathBuf>,
}

pub async fn run(args: UpArgs) -> Result<()> {
    let read = Settings::read(args.agent_config.as_deref());
    let read = read.with_context(|| wrong_settings(args.agent_config.as_deref()))?;
    let settings = args.serve.settings()?;
    let scratch = settings.data.join("scratch");
    let running = Scheduler::start(settings).await?;
    let node = Settings {
        scheduler_url: running.url(),
        scratch,
        weights: if args.weights.is_empty() {
            read.weights.clone()
        } else {
            args.weights
        },
        threads: args.threads.unwrap_or(read.threads),
        ..read
    };
    let ended = farm(&running, node).await;
    running.shutdown().await;
    ended
}

/// What to type next, with what differs from the defaults of a command.
fn first_command(url: &str, data: &Path) -> String {
    let mut command = "ready     dailies submit \"a red ball bounces\" -o film.mp4".to_owned();
    if url != URL_DEFAULT {
        command += &format!(" --url {url}");
    }
    if data != Path::new(DATA_DEFAULT) {
        command += &format!(" --data {}", data.display());
    }
    command
}

/// Runs the agent until this process is asked to end. The scheduler lives longer than the agent,
/// so that what the agent gives back is taken.
async fn farm(running: &Running, node: Settings) -> Result<()> {
    let agent = agent::start(node, running.agent_token()).await?;
    let key = running.api_key_file();
    let data = key.parent().unwrap_or(Path::new(DATA_DEFAULT));
    greet(running, &first_command(&running.url(), data));
    let drain = agent.drain_handle();
    let mut left = Box::pin(agent.join());
    let why = tokio::select! {
        left = &mut left => { left?; bail!("the agent left; see the log, then start it again") }
        () = running.ended() => bail!("the scheduler lost its database; see the log, then start it again"),
        why = signals::asked_to_end() => why?,
    };
    tracing::info!(why, "draining: finishing or giving back what runs");
    drain.drain();
    tokio::select! {
        left = &mut left => Ok(left?),
        why = signals::asked_to_end() => bail!("{} again: left without draining", why?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_command_names_what_is_not_where_commands_look() {
        let told = first_command(URL_DEFAULT, Path::new(DATA_DEFAULT));
        assert!(!told.contains("--"), "{told}");
        let told = first_command("http://127.0.0.1:9", Path::new("/srv/farm"));
        assert!(
            told.ends_with("--url http://127.0.0.1:9 --data /srv/farm"),
            "{told}"
        );
    }
}
