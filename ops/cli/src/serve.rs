//! `dailies serve`: the scheduler alone.

use std::{
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use scheduler::{Running, Scheduler, Settings};

use crate::signals;

/// Pause before a scheduler that was deposed stands by.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

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
    /// file:FOLDER or s3://BUCKET/PREFIX for films and what they are made from [default: cas in the
    /// data folder]. The server of S3 is DAILIES__SCHEDULER__S3__ENDPOINT, or Amazon's; its keys are
    /// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Films cross an http:// endpoint unencrypted.
    #[arg(long, value_name = "URL")]
    pub artifacts: Option<String>,
    /// http://HOST:PORT at which a second scheduler on the same PostgreSQL reaches this one
    /// [default: where it listens]
    #[arg(long, value_name = "URL")]
    pub advertise: Option<String>,
}

impl ServeArgs {
    pub fn settings(self) -> Result<Settings> {
        let read = Settings::read(self.config.as_deref());
        let read = read.with_context(|| wrong_settings(self.config.as_deref()))?;
        let named = self.database.map(|url| url.parse()).transpose();
        let named = named.context("--database cannot be used")?;
        let bucket = self.artifacts.map(|url| url.parse()).transpose();
        let bucket = bucket.context("--artifacts cannot be used")?;
        Ok(Settings {
            advertise: self.advertise.or(read.advertise),
            artifacts: bucket.or(read.artifacts),
            data: self.data.unwrap_or(read.data),
            listen: self.listen.unwrap_or(read.listen),
            database: named.or(read.database),
            ..read
        })
    }
}

/// Where the settings are that cannot be used.
pub fn wrong_settings(file: Option<&Path>) -> String {
    match file {
        Some(file) => format!("settings of {} or DAILIES__ variables", file.display()),
        None => "settings in DAILIES__ variables".into(),
    }
}

pub async fn run(args: ServeArgs) -> Result<()> {
    let settings = args.settings()?;
    while !serve(settings.clone()).await? {
        tracing::warn!("no longer leads; standing by");
        tokio::time::sleep(AGAIN_AFTER).await;
    }
    Ok(())
}

/// True when it was asked to end; false when another scheduler may have taken over, to whom this
/// one may be the next standby.
async fn serve(settings: Settings) -> Result<bool> {
    let token = settings.data.join("agent-token").display().to_string();
    let has_others = settings.database().is_postgres();
    let running = tokio::select! {
        running = Scheduler::stand_by(settings) => running?,
        why = signals::asked_to_end() => return Ok(why.map(|_| true)?),
    };
    let url = running.url();
    greet(
        &running,
        &format!("agents    dailies agent --scheduler {url} --token-file {token}"),
    );
    let asked = tokio::select! {
        why = signals::asked_to_end() => Some(why?),
        () = running.ended() => None,
    };
    tracing::info!(
        why = asked.unwrap_or("it can write no more"),
        "shutting down"
    );
    running.shutdown().await;
    match asked {
        None if !has_others => {
            bail!("the scheduler lost its database; see the log, then start it again")
        }
        asked => Ok(asked.is_some()),
    }
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
