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
    // On stderr: each line of stdout is a film.
    match (list.data.is_empty(), &args.after) {
        (false, _) => eprintln!(
            "{:54}  {:11} {:>5}  {:>4}  PROMPT",
            "FILM", "STATUS", "DONE", "LONG"
        ),
        (true, Some(after)) => eprintln!("no film is older than {after}"),
        (true, None) => eprintln!("no films: dailies submit \"a red ball bounces\" makes one"),
    }
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
    let prompt = short(video.prompt.as_deref().unwrap_or_default());
    let why = match (&video.reason, &video.waiting) {
        _ if video.error.is_some() => {
            let error = video.error.as_ref().map_or("", |error| &error.message);
            format!("  ({error})")
        }
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

/// One line that fits, with an ellipsis where it was cut.
fn short(prompt: &str) -> String {
    let line: String = prompt.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(PROMPT_CHARS) {
        Some(_) => line.chars().take(PROMPT_CHARS - 1).chain(['…']).collect(),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_prompt_shows_that_it_was_cut() {
        let long = "a small yellow block falls and bounces on the floor";
        assert_eq!(
            short(long),
            "a small yellow block falls and bounces on the f…"
        );
        assert_eq!(short("a ball\n falls"), "a ball falls");
    }
}
