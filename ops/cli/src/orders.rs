//! `dailies pause`, `resume`, `cancel` and `delete`: one order to films that are named by their ids.

use anyhow::{Result, bail};
use clap::Args;
use schemas::video::{Status, Video};

use crate::api::{Api, ServerArgs};

#[derive(Args, Debug)]
pub struct IdsArgs {
    /// Ids of the films: video_…
    #[arg(required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Nothing of them starts; what renders stops at its next step, which is saved.
pub async fn pause(args: IdsArgs) -> Result<()> {
    each(&args, "pause", async |api, id| {
        let stops = match unfinished(api, id, "pause").await?.status {
            Status::InProgress => "; what renders stops at its next step",
            _ => "",
        };
        Ok(format!("paused{stops}. Go on with: dailies resume {id}"))
    })
    .await
}

pub async fn resume(args: IdsArgs) -> Result<()> {
    each(&args, "resume", async |api, id| {
        Ok(match unfinished(api, id, "resume").await?.status {
            Status::InProgress => "goes on from where it stopped".into(),
            _ => "waits for a device again".into(),
        })
    })
    .await
}

/// One that was finished before keeps its film.
pub async fn cancel(args: IdsArgs) -> Result<()> {
    each(&args, "cancel", async |api, id| {
        Ok(match tell(api, id, "cancel").await?.status {
            Status::Completed => "is completed and stays; 'dailies delete' removes it".into(),
            Status::Failed => "had failed before".into(),
            _ => "cancelled".into(),
        })
    })
    .await
}

/// For good, finished or not.
pub async fn delete(args: IdsArgs) -> Result<()> {
    each(&args, "delete", async |api, id| {
        api.delete(id).await?;
        Ok("deleted".into())
    })
    .await
}

async fn tell(api: &Api, id: &str, verb: &str) -> Result<Video> {
    api.tell(&format!("videos/{id}/{verb}")).await
}

async fn unfinished(api: &Api, id: &str, verb: &str) -> Result<Video> {
    let video = tell(api, id, verb).await?;
    match video.status.is_terminal() {
        true => bail!("has ended; there is nothing to {verb}"),
        false => Ok(video),
    }
}

/// All of them, also behind one that is not there or has ended; then it fails.
async fn each(
    args: &IdsArgs,
    verb: &str,
    order: impl AsyncFn(&Api, &str) -> Result<String>,
) -> Result<()> {
    let api = Api::new(&args.server)?;
    let mut failed = 0;
    for id in &args.ids {
        match order(&api, id).await {
            Ok(done) => println!("{id}: {done}"),
            Err(error) => {
                failed += 1;
                eprintln!("{id}: {error:#}");
            }
        }
    }
    match failed {
        0 => Ok(()),
        _ => bail!("failed to {verb} {failed} of {} films", args.ids.len()),
    }
}
