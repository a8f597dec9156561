//! `dailies remix`: a finished film of the farm, or a file, anew by another prompt, or a stretch of it.

use anyhow::Result;
use clap::Args;

use crate::{
    api::{Api, ParentArgs, ServerArgs},
    ask::AskArgs,
    film::MakeArgs,
    given::{Retake, retake},
};

#[derive(Args, Debug)]
pub struct RemixArgs {
    #[command(flatten)]
    parent: ParentArgs,
    /// What to see and hear in it.
    prompt: String,
    /// How much is made anew, from a little above 0 to 1, which is everything
    /// [default: what suits the model: 0.95 for the built-in one]
    #[arg(long, value_name = "SHARE")]
    strength: Option<f64>,
    /// Only this stretch: seconds and what, one of video, audio and both. All else stays.
    #[arg(long, value_name = "FROM..TO=WHAT", value_parser = retake)]
    retake: Option<Retake>,
    #[command(flatten)]
    make: MakeArgs,
    #[command(flatten)]
    ask: AskArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: RemixArgs) -> Result<()> {
    let api = Api::new(&args.server)?;
    let mut form = args.ask.form(&args.prompt, &args.make);
    if let Some(strength) = args.strength {
        form = form.text("strength", strength.to_string());
    }
    if let Some(retake) = &args.retake {
        form = crate::api::with_retake(form, retake);
    }
    if args.parent.is_file() {
        let form = args.parent.named(form)?;
        return args.ask.place(&api, "videos/edits", form).await;
    }
    let path = format!("videos/{}/remix", args.parent.film);
    args.ask.place(&api, &path, form).await
}
