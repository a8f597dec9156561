//! How a film is asked for, whatever it is made of: the options that all calls to the farm share.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use schemas::video::Video;

use crate::{
    api::{Api, Form},
    film::MakeArgs,
    save::Target,
    submit, watch, when,
};

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "How it is asked for")]
pub struct AskArgs {
    /// How soon and at which price: low (half), normal, high (before your other films) or urgent
    /// (double; takes a device from work that runs).
    #[arg(long, value_parser = ["low", "normal", "high", "urgent"], default_value = "normal")]
    pub priority: String,
    /// When it may start: now, overnight (half the price), or another window of the farm.
    #[arg(long, default_value = "now")]
    pub start: String,
    /// Who asks: shares and quota are counted for this user of the project.
    #[arg(long)]
    pub user: Option<String>,
    /// Start nothing of it before this instant: 20:00 (the next one here), 2027-01-31T20:00 (here),
    /// 2027-01-31T20:00:00+01:00 or Unix seconds.
    #[arg(long, value_name = "INSTANT", value_parser = when::instant)]
    pub not_before: Option<i64>,
    /// It must have begun by this instant, or it fails and costs nothing; as the instant comes near it
    /// goes before other work.
    #[arg(long, value_name = "INSTANT", value_parser = when::instant)]
    pub deadline: Option<i64>,
    /// Devices of one node that work on each shot at once; charged for all of them. It waits until so
    /// many are free together.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = submit::devices)]
    pub devices: u32,
    /// For the price of an estimate that '--dry-run' made; it holds for five minutes.
    #[arg(long, value_name = "QUOTE", conflicts_with = "dry_run")]
    pub quote: Option<String>,
    /// Make nothing: say what it would cost, when it would start and when it would be done.
    #[arg(long)]
    pub dry_run: bool,
    /// Wait until the film is done.
    #[arg(long)]
    pub wait: bool,
    /// Save the film here when it is done; waits for it.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

impl AskArgs {
    /// The fields of every call.
    pub fn form(&self, prompt: &str, make: &MakeArgs) -> Form {
        let text = |text: &Option<String>| text.clone();
        let fields = [
            ("priority", Some(self.priority.clone())),
            ("start", Some(self.start.clone())),
            ("user", text(&self.user)),
            ("not_before", self.not_before.map(|at| at.to_string())),
            ("deadline", self.deadline.map(|at| at.to_string())),
            (
                "devices",
                (self.devices > 1).then(|| self.devices.to_string()),
            ),
            ("quote", text(&self.quote)),
            ("seed", make.seed.map(|seed| seed.to_string())),
            ("steps", make.steps.map(|steps| steps.to_string())),
            (
                "guidance_scale",
                make.guidance.map(|scale| scale.to_string()),
            ),
            (
                "negative_prompt",
                Some(make.negative.clone()).filter(|text| !text.is_empty()),
            ),
        ];
        let form = Form::new().text("prompt", prompt.to_string());
        let said = fields
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        said.fold(form, |form, (name, value)| form.text(name, value))
    }

    /// Hands the form to the call at `path`, and goes on as the options say.
    pub async fn place(&self, api: &Api, path: &str, form: Form) -> Result<()> {
        if self.dry_run {
            return submit::show(&api.post(path, form.text("dry_run", "true")).await?);
        }
        let target = self.output.as_deref().map(Target::new).transpose()?;
        let video = api.post(path, form).await?;
        self.follow(api, video, target).await
    }

    /// Says the id, or waits for the film and saves it.
    pub async fn follow(&self, api: &Api, video: Video, target: Option<Target>) -> Result<()> {
        for warning in &video.warnings {
            eprintln!("warning: {}", warning.message);
        }
        if target.is_none() && !self.wait {
            println!("{}", video.id);
            return Ok(());
        }
        // On stderr: what goes to stdout is the result.
        eprintln!("{}", video.id);
        watch::follow_and_save(api, video, target).await
    }
}
