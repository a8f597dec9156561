//! `dailies cancel`: ends films that are not finished. `dailies delete`: removes films, finished or not.

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

pub async fn cancel(args: IdsArgs) -> Result<()> {
    let api = Api::new(&args.server)?;
    let mut failed = 0;
    for id in &args.ids {
        match api.tell(&format!("videos/{id}/cancel")).await {
            Ok(video) => println!("{}", cancelled(&video)),
            Err(error) => failed += told(&error),
        }
    }
    all(failed, args.ids.len(), "cancelled")
}

pub async fn delete(args: IdsArgs) -> Result<()> {
    let api = Api::new(&args.server)?;
    let mut failed = 0;
    for id in &args.ids {
        match api.delete(id).await {
            Ok(deleted) => println!("{}: deleted", deleted.id),
            Err(error) => failed += told(&error),
        }
    }
    all(failed, args.ids.len(), "deleted")
}

/// One that was finished before keeps its film.
fn cancelled(video: &Video) -> String {
    let id = &video.id;
    match video.status {
        Status::Completed => format!("{id}: is completed and stays; 'dailies delete' removes it"),
        Status::Failed => format!("{id}: had failed before"),
        _ => format!("{id}: cancelled"),
    }
}

/// Films behind one that is not there have their turn too.
fn told(error: &anyhow::Error) -> usize {
    eprintln!("error: {error:#}");
    1
}

fn all(failed: usize, of: usize, done: &str) -> Result<()> {
    match failed {
        0 => Ok(()),
        _ if of == 1 => bail!("nothing was {done}"),
        _ => bail!("{failed} of {of} films were not {done}"),
    }
}
