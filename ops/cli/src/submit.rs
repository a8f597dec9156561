//! `dailies submit`: hands a prompt to the farm.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::{
    api::{Api, ServerArgs},
    film::{FilmArgs, MODEL_DEFAULT},
    save::Target,
    watch,
};

#[derive(Args, Debug)]
pub struct SubmitArgs {
    #[command(flatten)]
    film: FilmArgs,
    /// Name of the model, as in 'sora-2'; its weights decide what it can show.
    #[arg(long, default_value = MODEL_DEFAULT)]
    model: String,
    /// How soon and at which price: low (half), normal, high (before your other films) or urgent
    /// (double; takes a device from work that runs).
    #[arg(long, value_parser = ["low", "normal", "high", "urgent"], default_value = "normal")]
    priority: String,
    /// When it may start: now, overnight (half the price), or another window of the farm.
    #[arg(long, default_value = "now")]
    start: String,
    /// Who asks: shares and quota are counted for this user of the project.
    #[arg(long)]
    user: Option<String>,
    /// Start nothing of it before this instant, as in 2027-01-31T20:00:00+01:00 or Unix seconds.
    #[arg(long, value_name = "INSTANT")]
    not_before: Option<String>,
    /// It must have begun by this instant, or it fails and costs nothing; as the instant comes near it
    /// goes before other work.
    #[arg(long, value_name = "INSTANT")]
    deadline: Option<String>,
    /// Wait until the film is done.
    #[arg(long)]
    wait: bool,
    /// Save the film here when it is done; waits for it.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: SubmitArgs) -> Result<()> {
    let api = Api::new(&args.server)?;
    let target = args.output.as_deref().map(Target::new).transpose()?;
    let wishes = [
        ("model", Some(args.model)),
        ("priority", Some(args.priority)),
        ("start", Some(args.start)),
        ("user", args.user),
        ("not_before", args.not_before),
        ("deadline", args.deadline),
    ];
    let video = api.create(&args.film, wishes).await?;
    for warning in &video.warnings {
        eprintln!("warning: {}", warning.message);
    }
    if target.is_none() && !args.wait {
        println!("{}", video.id);
        return Ok(());
    }
    // On stderr: what goes to stdout is the result.
    eprintln!("{}", video.id);
    watch::follow_and_save(&api, video, target).await
}
