//! `dailies list`: the newest films of a key's project.

use anyhow::Result;
use clap::Args;
use schemas::video::{Status, Video};

use crate::{
    api::{Api, ServerArgs},
    eta,
};

/// Characters of a prompt that fit a line.
const PROMPT_CHARS: usize = 48;

#[derive(Args, Debug)]
pub struct ListArgs {
    /// How many, at most 100.
    #[arg(long, default_value_t = 20)]
    limit: u32,
    /// Only those older than this film, for the next page.
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: ListArgs) -> Result<()> {
    let list = Api::new(&args.server)?
        .list(args.limit, args.after.as_deref())
        .await?;
    for video in &list.data {
        println!("{}", line(video));
    }
    if list.has_more
        && let Some(last) = list.last_id
    {
        eprintln!("more: dailies list --after {last}");
    }
    Ok(())
}

fn line(video: &Video) -> String {
    let status = match video.status {
        Status::Queued => "queued",
        Status::InProgress => "in progress",
        Status::Completed => "completed",
        Status::Failed => "failed",
        Status::Cancelled => "cancelled",
    };
    let prompt: String = video
        .prompt
        .as_deref()
        .unwrap_or_default()
        .chars()
        .take(PROMPT_CHARS)
        .collect();
    let why = match (&video.reason, &video.waiting) {
        (Some(reason), _) => format!(
            "  (waits: {}; {}{})",
            reason.message,
            eta::words(video),
            eta::deadline(video)
        ),
        (None, Some(code)) => format!("  (waits: {})", code.replace('_', " ")),
        (None, None) if video.status == Status::InProgress => format!("  ({})", eta::words(video)),
        (None, None) => String::new(),
    };
    format!(
        "{}  {status:11} {:3} %  {:>3} s  {prompt}{why}",
        video.id, video.progress, video.seconds
    )
}
