//! `dailies submit`: hands prompts to the farm, or asks first what they would cost.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use schemas::{
    task::GROUP_SIZES,
    video::{Estimate, Money, Video},
};

use crate::{
    api::{Api, ServerArgs, Wish, is_over_rate},
    ask::AskArgs,
    eta,
    film::{FilmArgs, MODEL_DEFAULT},
    given::{self, GivenArgs},
    progress::seconds,
    save::Target,
};

/// Films of one call, as many as the farm estimates at once.
const COUNT_MAX: u32 = 1_000;
/// Beyond the rate of its key a long list waits this long before the next film.
const RATE_PAUSE: Duration = Duration::from_secs(1);

#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct SubmitArgs {
    /// What to see and hear, such as "a red ball falls on a wooden floor".
    #[arg(required_unless_present = "prompts")]
    prompt: Option<String>,
    #[command(flatten)]
    film: FilmArgs,
    /// Name of the model, as in 'sora-2'; its weights decide what it can show.
    #[arg(long, default_value = MODEL_DEFAULT)]
    model: String,
    #[command(flatten)]
    given: GivenArgs,
    #[command(flatten)]
    ask: AskArgs,
    /// So many films of this prompt.
    #[arg(long, default_value_t = 1, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(COUNT_MAX)))]
    count: u32,
    /// A film for each line of this file that is not empty.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "count"])]
    prompts: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
}

const HELP: &str = "Examples:
  dailies submit \"a red ball bounces\" -o film.mp4
  dailies submit --image first.png --keyframe 1.5=then.png \"a red ball bounces\"
  dailies submit --video film.mp4 --retake 1.0..2.0=audio \"a red ball bounces\"
  dailies submit --dry-run --seconds 12 \"a red ball bounces\"     price, start and end before you say yes
  dailies submit --devices 4 \"a red ball bounces\"                four devices of one node work on each shot
  dailies submit --dry-run --start overnight --prompts night.txt  one film for each line, all together";

pub async fn run(mut args: SubmitArgs) -> Result<()> {
    let prompts = prompts(&args)?;
    let many = prompts.len() > 1;
    ensure!(
        !(many && (args.ask.wait || args.ask.output.is_some())),
        "--wait and --output are for one film; 'dailies list' shows many"
    );
    // A film that is given as a whole says how long the new one is.
    if let Some(path) = &args.given.video {
        let (size, seconds) = given::measure(path);
        let film = &mut args.film;
        (film.size, film.seconds) = (film.size.take().or(size), film.seconds.take().or(seconds));
    }
    let api = Api::new(&args.server)?;
    if args.ask.dry_run {
        return show(&estimate(&api, &args, &prompts).await?);
    }
    if many {
        return submit_many(&api, &args, &prompts).await;
    }
    let target = args.ask.output.as_deref().map(Target::new).transpose()?;
    let video = api.create(&wish(&args, &prompts[0])).await?;
    args.ask.follow(&api, video, target).await
}

/// All or, when the farm would not take all of them as it is now, none.
async fn submit_many(api: &Api, args: &SubmitArgs, prompts: &[String]) -> Result<()> {
    let estimate = estimate(api, args, prompts).await?;
    let count = prompts.len();
    if !estimate.accepted {
        tell_reasons(&estimate);
        bail!("the farm would not take these {count} films; nothing was made");
    }
    for (made, prompt) in prompts.iter().enumerate() {
        let video = create(api, &wish(args, prompt)).await;
        let video = video.with_context(|| {
            format!("{made} of {count} films were made; film {}, '{prompt}', and those behind it were not", made + 1)
        })?;
        args.ask.follow(api, video, None).await?;
    }
    let end = eta::of(&estimate.eta);
    eprintln!("{count} films are on their way, all {end}: dailies list");
    Ok(())
}

pub fn devices(text: &str) -> Result<u32, String> {
    let known = text.parse().ok().filter(|n| GROUP_SIZES.contains(n));
    known.ok_or_else(|| "a group has 1, 2, 4 or 8 devices".into())
}

/// One for each film.
fn prompts(args: &SubmitArgs) -> Result<Vec<String>> {
    if let Some(path) = &args.prompts {
        return read_prompts(path);
    }
    let prompt = args.prompt.clone().unwrap_or_default();
    Ok(vec![prompt; args.count as usize])
}

fn read_prompts(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the prompts in {}", path.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let prompts: Vec<String> = lines.map(str::to_string).collect();
    ensure!(!prompts.is_empty(), "{} has no prompt", path.display());
    ensure!(
        prompts.len() <= COUNT_MAX as usize,
        "{} has {} prompts; at most {COUNT_MAX} can be handed over at once",
        path.display(),
        prompts.len()
    );
    Ok(prompts)
}

fn wish<'a>(args: &'a SubmitArgs, prompt: &'a str) -> Wish<'a> {
    Wish {
        prompt,
        film: &args.film,
        given: &args.given,
        model: &args.model,
        ask: &args.ask,
    }
}

async fn estimate(api: &Api, args: &SubmitArgs, prompts: &[String]) -> Result<Estimate> {
    let wish = wish(args, &prompts[0]);
    match args.prompts {
        Some(_) => api.estimate(&wish, 1, prompts).await,
        None => api.estimate(&wish, args.count, &[]).await,
    }
}

/// Of many films each waits until the rate of the key allows it.
async fn create(api: &Api, wish: &Wish<'_>) -> Result<Video> {
    loop {
        match api.create(wish).await {
            Err(error) if is_over_rate(&error) => tokio::time::sleep(RATE_PAUSE).await,
            made => return made,
        }
    }
}

pub fn show(estimate: &Estimate) -> Result<()> {
    print!("{}", table(estimate));
    if estimate.accepted {
        return Ok(());
    }
    tell_reasons(estimate);
    bail!("the farm would not take it");
}

fn tell_reasons(estimate: &Estimate) {
    for reason in &estimate.reasons {
        let about = reason.error.param.as_deref();
        let about = about.map_or(String::new(), |param| format!("{param}: "));
        eprintln!("{about}{}", reason.error.message);
    }
}

fn table(estimate: &Estimate) -> String {
    let films = match estimate.count {
        1 => "one film".to_string(),
        count => format!("{count} films"),
    };
    let mut told = format!("{films} by {}; nothing was made\n", estimate.model);
    let mut row = |name: &str, text: String| told += &format!("  {name:8}{text}\n");
    if let (Some(price), Some(most)) = (&estimate.price, &estimate.price_at_most) {
        row(
            "price",
            format!("{} expected, at most {}", money(price), money(most)),
        );
    }
    if let Some(time) = estimate.gpu_seconds {
        let left = estimate.quota_after.map_or(String::new(), |quota| {
            format!(
                "; {} of your quota left then",
                seconds(quota.gpu_seconds_remaining)
            )
        });
        row(
            "quota",
            format!(
                "{} of a device expected, {} held{left}",
                seconds(time.p50),
                seconds(time.p90)
            ),
        );
    }
    if let Some(place) = estimate.queue_position {
        let why = estimate.reason.as_ref();
        let why = why.map_or("starts at once".into(), |why| {
            format!("waits: {}", why.message)
        });
        row("place", format!("{place}; {why}"));
        let end = match estimate.late {
            late if late == estimate.count => String::new(),
            _ => eta::of(&estimate.eta),
        };
        row("end", end + &too_late(estimate));
    }
    if let Some(quote) = &estimate.quote {
        row(
            "quote",
            format!("{quote} is this price for five minutes: --quote"),
        );
    }
    told
}

/// What a deadline would cost; nothing when all begin in time.
fn too_late(estimate: &Estimate) -> String {
    match (estimate.late, estimate.count) {
        (0, _) => String::new(),
        (late, count) if late == count => "none would begin by the deadline, and all fail".into(),
        (late, _) => format!("; {late} would not begin by the deadline, and fail"),
    }
}

/// Small amounts keep two digits that say something.
fn money(money: &Money) -> String {
    let digits = match money.value {
        0.1.. => 2,
        0.01.. => 3,
        _ => 4,
    };
    format!("{:.digits$} {}", money.value, money.currency)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use schemas::video::{Eta, GpuSeconds, QuotaAfter};

    use super::*;

    #[test]
    fn an_estimate_reads_as_a_small_table() {
        let money = |value| {
            Some(Money {
                value,
                currency: "eur".into(),
            })
        };
        let mut estimate = Estimate {
            object: "video.estimate".into(),
            model: "sora-2".into(),
            count: 500,
            accepted: true,
            reasons: Vec::new(),
            price: money(12.4),
            price_at_most: money(15.123),
            gpu_seconds: Some(GpuSeconds {
                p50: 17_900.0,
                p90: 21_800.0,
            }),
            queue_position: Some(4),
            eta: Eta::default(),
            late: 0,
            reason: None,
            quota_after: Some(QuotaAfter {
                gpu_seconds_remaining: 300.0,
            }),
            quote: Some("quote_1".into()),
            valid_until: 0,
        };
        expect![[r#"
            500 films by sora-2; nothing was made
              price   12.40 eur expected, at most 15.12 eur
              quota   4 h 58 min of a device expected, 6 h 3 min held; 5 min 0 s of your quota left then
              place   4; starts at once
              end     its end cannot be foretold
              quote   quote_1 is this price for five minutes: --quote
        "#]]
        .assert_eq(&table(&estimate));
        estimate.late = 120;
        let end = "its end cannot be foretold; 120 would not begin by the deadline, and fail";
        assert!(table(&estimate).contains(end));
        estimate.late = 500;
        assert!(
            table(&estimate).contains("end     none would begin by the deadline, and all fail")
        );
        (estimate.count, estimate.price, estimate.quota_after) = (1, None, None);
        (estimate.gpu_seconds, estimate.queue_position) = (None, None);
        estimate.quote = None;
        assert_eq!(table(&estimate), "one film by sora-2; nothing was made\n");
        let told = |value| super::money(&money(value).unwrap());
        assert_eq!(told(0.0034), "0.0034 eur");
        assert_eq!(told(0.0342), "0.034 eur");
    }

    #[test]
    fn a_file_has_a_film_on_each_line_that_is_not_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("night.txt");
        std::fs::write(&path, "a ball\n\n  two balls \r\n").unwrap();
        assert_eq!(read_prompts(&path).unwrap(), ["a ball", "two balls"]);
        std::fs::write(&path, "\n").unwrap();
        assert!(
            read_prompts(&path)
                .unwrap_err()
                .to_string()
                .contains("no prompt")
        );
    }
}
