//! `dailies pause` and `dailies resume`: hold films back, and let them go on.

use anyhow::{Result, bail};
use clap::Args;
use schemas::video::Status;

use crate::api::{Api, ServerArgs};

#[derive(Args, Debug)]
pub struct PauseArgs {
    /// Ids of the films: video_…
    #[arg(required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Nothing of them starts; what renders stops at its next step, which is saved.
pub async fn pause(args: PauseArgs) -> Result<()> {
    each(&args, "pause", |status, id| match status {
        Status::InProgress => format!(
            "{id}: paused; what renders stops at its next step. Go on with: dailies resume {id}"
        ),
        _ => format!("{id}: paused. Go on with: dailies resume {id}"),
    })
    .await
}

pub async fn resume(args: PauseArgs) -> Result<()> {
    each(&args, "resume", |status, id| match status {
        Status::InProgress => format!("{id}: goes on from where it stopped"),
        _ => format!("{id}: waits for a device again"),
    })
    .await
}

/// All of them, also behind one that is not there or has ended; then it fails.
async fn each(args: &PauseArgs, verb: &str, done: impl Fn(Status, &str) -> String) -> Result<()> {
    let api = Api::new(&args.server)?;
    let mut failed = 0;
    for id in &args.ids {
        match api.tell(&format!("videos/{id}/{verb}")).await {
            Ok(video) if video.status.is_terminal() => {
                failed += 1;
                eprintln!("{id}: has ended; there is nothing to {verb}");
            }
            Ok(video) => println!("{}", done(video.status, id)),
            Err(error) => {
                failed += 1;
                eprintln!("{id}: {error:#}");
            }
        }
    }
    match failed {
        0 => Ok(()),
        1 => bail!("one film could not be told to {verb}"),
        _ => bail!("{failed} films could not be told to {verb}"),
    }
}
