//! `dailies simulate`: the production scheduler on a farm that exists only in numbers.

mod replay;

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use scheduler::simulate::{self, NodeGroup, Scenario};

#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct SimulateArgs {
    /// The farm and its load, in TOML; a night on twelve devices when absent.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Print the scenario as TOML instead of playing it: a start for one of your own.
    #[arg(long)]
    print: bool,
    /// Replay this farm's own log from this date on instead: 2026-11-26, 2026-11-26T19:00.
    #[arg(long, value_name = "DATE", requires = "to", conflicts_with_all = ["scenario", "print"])]
    from: Option<String>,
    /// The end of the time that is replayed.
    #[arg(long, value_name = "DATE", requires = "from")]
    to: Option<String>,
    /// Limits of accounts as they might be (TOML): [NAME] weight, devices_max, jobs_max, grant_s.
    #[arg(long, value_name = "FILE", requires = "from")]
    quota: Option<PathBuf>,
    /// Settings of the scheduler as they might be (TOML): [farm] and [windows.NAME].
    #[arg(long, value_name = "FILE", requires = "from")]
    policy: Option<PathBuf>,
    /// Windows as they might be (TOML): [windows.NAME].
    #[arg(
        long,
        value_name = "FILE",
        requires = "from",
        conflicts_with = "policy"
    )]
    window: Option<PathBuf>,
    /// What a charged device hour costs, for the column of costs.
    #[arg(long, default_value_t = 1.0, requires = "from")]
    price: f64,
    /// Folder of the farm whose log is replayed.
    #[arg(long, env = "DAILIES_DATA", default_value = "data")]
    data: PathBuf,
    /// What if there were N more nodes of one device each: +N:CLASS; may be given again.
    #[arg(long, value_name = "+N:CLASS")]
    devices: Vec<More>,
    /// Play it with this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Draw devices and queue over time into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

const HELP: &str = "Examples:
  dailies simulate                                  500 films at seven, a node dies at two, urgent work at three
  dailies simulate --devices +8:gpu --svg night.svg the same with eight more devices, beside the farm as it is
  dailies simulate --print > farm.toml              write it down, change it, and play it:
  dailies simulate --scenario farm.toml
  dailies simulate --from 2026-11-26 --to 2026-11-27                   what this farm did that day, decided again
  dailies simulate --from 2026-11-26 --to 2026-11-27 --devices +8:cpu  and what eight more devices would have done

Every decision is made by the scheduler's own core; only rendering is replaced by its duration.
A scenario brings its own devices and times (shot_s, speed), whatever farm is near: it is the same on every machine.
To ask with the times that a farm has measured, replay its log: --from and --to with --devices, --quota or --policy.";

/// `+8:gpu`.
#[derive(Clone, Debug)]
struct More {
    count: u32,
    class: String,
}

impl std::str::FromStr for More {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not +N:CLASS, for example +8:gpu");
        let (count, class) = text
            .strip_prefix('+')
            .and_then(|rest| rest.split_once(':'))
            .ok_or_else(wrong)?;
        let count = count
            .parse()
            .ok()
            .filter(|count| *count > 0)
            .ok_or_else(wrong)?;
        Ok(Self {
            count,
            class: class.into(),
        })
    }
}

pub fn run(args: &SimulateArgs) -> Result<()> {
    if args.from.is_some() {
        return replay::run(args);
    }
    let mut scenario = match &args.scenario {
        Some(path) => read(path)?,
        None => Scenario::night(),
    };
    scenario.seed = args.seed.unwrap_or(scenario.seed);
    if args.print {
        print!(
            "{}",
            toml::to_string(&scenario).context("cannot write the scenario")?
        );
        return Ok(());
    }
    let mut report = simulate::run(&scenario)?;
    if !args.devices.is_empty() {
        if !args.json {
            println!("{report}");
        }
        report = simulate::run(&with(scenario, &args.devices)?)?;
    }
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{report}"),
    }
    if let Some(path) = &args.svg {
        let picture =
            simulate::svg(&report).map_err(|error| anyhow::anyhow!("cannot draw: {error}"))?;
        fs::write(path, picture).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn read(path: &PathBuf) -> Result<Scenario> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| {
        format!(
            "{} is no scenario; 'dailies simulate --print' shows one",
            path.display()
        )
    })
}

/// More nodes, as fast as those of their class that are there.
fn with(mut scenario: Scenario, more: &[More]) -> Result<Scenario> {
    for More { count, class } in more {
        let known: Vec<&str> = scenario
            .nodes
            .iter()
            .map(|group| group.class.as_str())
            .collect();
        let like = scenario.nodes.iter().find(|group| &group.class == class);
        ensure!(
            like.is_some(),
            "the scenario has no class '{class}'; it has {}",
            known.join(", ")
        );
        let group = NodeGroup {
            count: *count,
            devices: 1,
            dies_at_h: None,
            ..like.expect("it was just found").clone()
        };
        scenario.name = format!("{} and {count} more {class}", scenario.name);
        scenario.nodes.push(group);
    }
    Ok(scenario)
}
