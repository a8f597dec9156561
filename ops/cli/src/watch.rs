//! `dailies watch`: follows a film to its end, and saves it.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use schemas::video::{Status, Video};

use crate::{
    api::{Api, ServerArgs, is_passing},
    eta,
    progress::{Bar, seconds},
    save::Target,
    summary,
};

const POLL_EVERY: Duration = Duration::from_millis(400);
/// A scheduler that is away this long is given up; the film goes on without the watcher.
const AWAY_MAX: Duration = Duration::from_secs(120);

#[derive(Args, Debug)]
pub struct WatchArgs {
    /// Id of the film: video_…
    id: String,
    /// Save the film here when it is done.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: WatchArgs) -> Result<()> {
    let api = Api::new(&args.server)?;
    let target = args.output.as_deref().map(Target::new).transpose()?;
    let video = api.get(&args.id).await?;
    follow_and_save(&api, video, target).await
}

/// Waits for the end of `video`; saves the film to `target`, if there is one.
pub async fn follow_and_save(api: &Api, video: Video, target: Option<Target>) -> Result<()> {
    let id = video.id.clone();
    let video = follow(api, video).await?;
    match video.status {
        Status::Completed => {}
        Status::Cancelled => bail!("{id} was cancelled"),
        _ => {
            let why = video
                .error
                .map_or_else(|| "no reason was given".into(), |e| e.message);
            bail!("{id} failed: {why}");
        }
    }
    let Some(target) = target else {
        println!("{id}: completed");
        return Ok(());
    };
    let film = target.work().join("film.mp4");
    api.download(&id, &film).await?;
    let facts = schemas::mp4::read(&film).context("the downloaded film is damaged: try again")?;
    let shown = target.path().display().to_string();
    target.put(&film)?;
    println!(
        "{shown}: {}, rendered at {} in {} of a device, seed {}",
        summary::line(&facts),
        video.native_size,
        seconds(video.usage.gpu_seconds),
        video.seed
    );
    Ok(())
}

async fn follow(api: &Api, mut video: Video) -> Result<Video> {
    let bar = Bar::new();
    let mut away_since = None;
    while !video.status.is_terminal() {
        show(&bar, &video);
        tokio::time::sleep(POLL_EVERY).await;
        match api.get(&video.id).await {
            Ok(now) => (video, away_since) = (now, None),
            Err(error) if is_passing(&error) => {
                let since = *away_since.get_or_insert_with(Instant::now);
                if since.elapsed() > AWAY_MAX {
                    return Err(error.context(format!(
                        "the scheduler is away; {} is not lost: 'dailies watch {0}' goes on",
                        video.id
                    )));
                }
                bar.show(
                    "scheduler is away",
                    u64::from(video.steps_done),
                    total(&video),
                    None,
                );
            }
            Err(error) => return Err(error),
        }
    }
    Ok(video)
}

fn show(bar: &Bar, video: &Video) {
    let done = u64::from(video.steps_done);
    let why = video
        .reason
        .as_ref()
        .map(|reason| format!(": {}", reason.message));
    let word = match (video.status, video.queue_position) {
        (Status::Queued, Some(place)) => format!("queued, place {place}{}", eta::deadline(video)),
        (Status::Queued, None) => "queued".into(),
        _ if done >= total(video) => "decode and film".into(),
        _ => "denoise".into(),
    };
    let word = word + why.as_deref().unwrap_or_default();
    bar.show(&word, done, total(video), left_s(video));
}

fn total(video: &Video) -> u64 {
    u64::from(video.steps_total.max(1))
}

/// Seconds until the film is expected; none when it is overdue, since a guess would mislead.
fn left_s(video: &Video) -> Option<f64> {
    let at = video.eta.completes_at_p50?;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .ok()?;
    Some(at as f64 - now.as_secs_f64()).filter(|left| *left >= 0.0)
}
