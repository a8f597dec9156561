//! `dailies serve`: the scheduler alone.

use std::{io::Write, net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use scheduler::{Running, Scheduler, Settings};

use crate::signals;

#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Folder for database, films, key and token; made when it is not there [default: data]
    #[arg(long, env = "DAILIES_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Address for users and agents; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<SocketAddr>,
    /// Settings file of the scheduler (TOML). Variables DAILIES__SCHEDULER__… win over it,
    /// options over both.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// sqlite:FILE or postgres://USER:PASSWORD@HOST/NAME [default: a file in the data folder].
    /// Others can read an option: put a password into DAILIES__SCHEDULER__DATABASE.
    #[arg(long, value_name = "URL")]
    pub database: Option<String>,
}

impl ServeArgs {
    pub fn settings(self) -> Result<Settings> {
        let read = Settings::read(self.config.as_deref())?;
        let named = self.database.map(|url| url.parse()).transpose();
        let named = named.context("--database cannot be used")?;
        Ok(Settings {
            data: self.data.unwrap_or(read.data),
            listen: self.listen.unwrap_or(read.listen),
            database: named.or(read.database),
            ..read
        })
    }
}

pub async fn run(args: ServeArgs) -> Result<()> {
    let running = tokio::select! {
        running = Scheduler::stand_by(args.settings()?) => running?,
        why = signals::asked_to_end() => return why.map(drop).map_err(Into::into),
    };
    let url = running.url();
    greet(
        &running,
        &format!("agents    dailies agent --scheduler {url} --token-file FILE"),
    );
    let why = tokio::select! {
        why = signals::asked_to_end() => why?,
        () = running.ended() => bail!("the scheduler lost its database; see the log, then start it again"),
    };
    tracing::info!(why, "shutting down");
    running.shutdown().await;
    Ok(())
}

/// Says where it is, where the key is, and `next`. A reader that has gone away does not end a farm.
pub fn greet(running: &Running, next: &str) {
    let made = running
        .first_key()
        .map(|key| format!("          made now: {key}\n"));
    let text = format!(
        "base_url  {}/v1\napi_key   in {}\n{}{next}\n",
        running.url(),
        running.api_key_file().display(),
        made.unwrap_or_default(),
    );
    let mut stdout = std::io::stdout();
    let _ = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
}
