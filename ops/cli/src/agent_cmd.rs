//! `dailies agent`: the process on a node that renders for a scheduler elsewhere.

use std::path::PathBuf;

use agent::{Running, Settings};
use anyhow::{Context, Result};
use clap::Args;

use crate::{serve::wrong_settings, signals};

#[derive(Args, Debug)]
pub struct AgentArgs {
    /// Address of the scheduler, http:// or https://; with standbys all of them, as A,B [default:
    /// http://127.0.0.1:8080]
    #[arg(long, value_name = "URL")]
    scheduler: Option<String>,
    /// File with the agent token, from the scheduler's data folder [default: data/agent-token]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Name of this node, unique in the farm [default: the host's]
    #[arg(long)]
    name: Option<String>,
    /// Folder for work in progress, emptied at every start [default: data/scratch]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Weights to offer, as DIR or NAME=DIR; the built-in model comes on top. Repeatable.
    #[arg(long, value_name = "DIR")]
    weights: Vec<String>,
    /// Threads of the engine [default: one for each core]
    #[arg(long)]
    threads: Option<usize>,
    /// Devices that the processor counts as: each takes work of its own with its part of the threads, and
    /// 'submit --devices N' gets N of them for a shot [default: 1]
    #[arg(long, value_name = "N")]
    devices: Option<u32>,
    /// Settings file (TOML). Variables DAILIES__AGENT__… win over it, options over both.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl AgentArgs {
    fn settings(self) -> Result<Settings> {
        let read = Settings::read(self.config.as_deref());
        let read = read.with_context(|| wrong_settings(self.config.as_deref()))?;
        Ok(Settings {
            scheduler_url: self.scheduler.unwrap_or(read.scheduler_url),
            token_file: self.token_file.or(read.token_file),
            name: self.name.unwrap_or(read.name),
            scratch: self.scratch.unwrap_or(read.scratch),
            weights: if self.weights.is_empty() {
                read.weights
            } else {
                self.weights
            },
            threads: self.threads.unwrap_or(read.threads),
            devices: self.devices.unwrap_or(read.devices),
            ..read
        })
    }
}

pub async fn run(args: AgentArgs) -> Result<()> {
    let settings = args.settings()?;
    let token = agent::read_token(&settings)?;
    let running = agent::start(settings, &token).await?;
    until_asked(running).await
}

/// Runs until the agent ends by itself, is drained by the scheduler, or this process is asked to
/// end; a second request ends it at once.
pub async fn until_asked(running: Running) -> Result<()> {
    let drain = running.drain_handle();
    let mut ended = Box::pin(running.join());
    let why = tokio::select! {
        ended = &mut ended => return Ok(ended?),
        why = signals::asked_to_end() => why?,
    };
    tracing::info!(why, "draining: finishing or giving back what runs");
    drain.drain();
    tokio::select! {
        ended = &mut ended => Ok(ended?),
        why = signals::asked_to_end() => anyhow::bail!("{} again: left without draining", why?),
    }
}
