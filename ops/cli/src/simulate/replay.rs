//! `dailies simulate --from DATE --to DATE`: the farm's own log, decided again and under a change.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};
use scheduler::{
    Settings,
    simulate::{self, Change, Replayed, Scope, Wish},
    store::events::{self, StoredEvent},
};

use super::SimulateArgs;

pub fn run(args: &SimulateArgs) -> Result<()> {
    let date = |text: &Option<String>| {
        let text = text.as_deref().unwrap_or_default();
        simulate::instant_ms(text).map_err(anyhow::Error::msg)
    };
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let scope = Scope {
        from_ms: date(&args.from)?,
        to_ms: date(&args.to)?.min(now_ms), // what is to come is in no log
        price_per_device_hour: args.price,
    };
    ensure!(
        scope.from_ms < scope.to_ms,
        "--to must be later than --from, and --from must be in the past"
    );
    let settings = settings(args, None)?;
    let log = log(&settings, scope.to_ms)?;
    let rules = settings.limits().map_err(anyhow::Error::msg)?;
    let changed = [&args.policy, &args.window].into_iter().flatten().next();
    let changed = match changed {
        Some(file) => self::settings(args, Some(file))?.limits(),
        None => settings.limits(),
    };
    let changed = changed.map_err(anyhow::Error::msg)?;
    let change = Change {
        devices: args
            .devices
            .iter()
            .map(|more| (more.count, more.class.clone()))
            .collect(),
        quota: simulate::orders(&log, &wishes(args.quota.as_deref())?)?,
        seed: args.seed.unwrap_or(0),
    };
    let is_changed = !change.devices.is_empty() || !change.quota.is_empty() || changed != rules;
    let change = is_changed.then_some((&change, &changed));
    let replayed = simulate::replay(&log, &scope, &rules, change)?;
    show(args, &scope, &replayed)
}

fn settings(args: &SimulateArgs, file: Option<&Path>) -> Result<Settings> {
    Ok(Settings {
        data: args.data.clone(),
        ..Settings::read(file)?
    })
}

fn log(settings: &Settings, to_ms: i64) -> Result<Vec<StoredEvent>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let found = runtime.block_on(events::read(settings.database(), to_ms))?;
    found.with_context(|| {
        format!(
            "{} is no database of this version: --data names the farm's folder",
            settings.database()
        )
    })
}

fn wishes(file: Option<&Path>) -> Result<BTreeMap<String, Wish>> {
    let Some(file) = file else {
        return Ok(BTreeMap::new());
    };
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    toml::from_str(&text).with_context(|| format!("{} holds no limits", file.display()))
}

fn show(args: &SimulateArgs, scope: &Scope, replayed: &Replayed) -> Result<()> {
    let check = &replayed.check;
    if args.json {
        let told = serde_json::json!({
            "from_ms": scope.from_ms, "to_ms": scope.to_ms, "check": check,
            "recorded": replayed.recorded, "changed": replayed.changed,
        });
        println!("{}", serde_json::to_string_pretty(&told)?);
    } else {
        println!(
            "{} to {}; hours count from the first",
            simulate::date(scope.from_ms),
            simulate::date(scope.to_ms)
        );
        print!("{}", replayed.recorded);
        if let Some(changed) = &replayed.changed {
            print!("\n{changed}");
        }
        match &check.difference {
            None => println!(
                "\nself-check: {} events decided again, all {} grants as they were recorded",
                check.events, check.grants
            ),
            Some(difference) => {
                println!(
                    "\nself-check: {} grants as recorded, then {difference}",
                    check.grants
                );
            }
        }
        if replayed.is_cut {
            println!("the log begins later than the farm: what it held before is missing here");
        }
    }
    if let Some(path) = &args.svg {
        let report = replayed.changed.as_ref().unwrap_or(&replayed.recorded);
        let picture =
            simulate::svg(report).map_err(|error| anyhow::anyhow!("cannot draw: {error}"))?;
        fs::write(path, picture).with_context(|| format!("cannot write {}", path.display()))?;
    }
    ensure!(
        check.difference.is_none() || replayed.is_cut,
        "this build does not decide as the recorded one did"
    );
    Ok(())
}
