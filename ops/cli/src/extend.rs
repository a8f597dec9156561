//! `dailies extend`: a finished film of the farm, or a file, goes on from its end.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::{
    api::{Api, ParentArgs, ServerArgs},
    ask::AskArgs,
    film::MakeArgs,
};

#[derive(Args, Debug)]
pub struct ExtendArgs {
    #[command(flatten)]
    parent: ParentArgs,
    /// What happens next.
    prompt: String,
    /// Length of what is added, in whole seconds [default: 4]
    #[arg(long)]
    seconds: Option<String>,
    /// Seconds of the end that it looks back at [default: 1]
    #[arg(long, value_name = "SECONDS")]
    context: Option<f64>,
    /// Last frame of the longer film.
    #[arg(long, value_name = "FILE")]
    last_image: Option<PathBuf>,
    #[command(flatten)]
    make: MakeArgs,
    #[command(flatten)]
    ask: AskArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: ExtendArgs) -> Result<()> {
    let api = Api::new(&args.server)?;
    let form = args.ask.form(&args.prompt, &args.make);
    let mut form = args.parent.named(form)?;
    if let Some(seconds) = args.seconds {
        form = form.text("seconds", seconds);
    }
    if let Some(context) = args.context {
        form = form.text("context_seconds", context.to_string());
    }
    if let Some(path) = &args.last_image {
        form = form.part("last_reference", crate::api::file(path)?);
        form = form.text("reference_fit", "cover");
    }
    args.ask.place(&api, "videos/extensions", form).await
}
