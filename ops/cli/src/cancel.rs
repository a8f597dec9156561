//! `dailies cancel`: ends a film that is not finished, and removes it.

use anyhow::Result;
use clap::Args;

use crate::api::{Api, ServerArgs};

#[derive(Args, Debug)]
pub struct CancelArgs {
    /// Ids of the films: video_…
    #[arg(required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: CancelArgs) -> Result<()> {
    let api = Api::new(&args.server)?;
    for id in &args.ids {
        let deleted = api.delete(id).await?;
        println!("{}: cancelled and removed", deleted.id);
    }
    Ok(())
}
