//! `dailies quota`: accounts of a running farm, their limits and charges. A project's key sees its own.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use schemas::quota::{QuotaAccount, QuotaArithmetic, QuotaEntry};
use serde_json::{Map, Value, json};

use crate::{
    api::{Api, ServerArgs},
    progress, quota_rules, when,
};

const HOUR_S: f64 = 3_600.0;

const HELP: &str = "A project's key sees the project's own account; all others, and changes, are the operator's.

Examples:
  dailies quota                                            all accounts
  dailies quota show films                                 one of them, its rules and its last charges
  dailies quota add acme && dailies quota add films --under acme
  dailies quota grant films 40 --name october              40 hours; the same name gives nothing twice
  dailies quota set films --budget 40 --period month --at-limit complete";

#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct QuotaArgs {
    #[command(subcommand)]
    command: Option<QuotaCommand>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Subcommand, Debug)]
enum QuotaCommand {
    /// Show one account and its last charges, each with its arithmetic.
    Show {
        /// Name of the account.
        account: String,
    },
    /// Give an account device time; from the first grant on it has a limit.
    Grant {
        /// Name of the account.
        account: String,
        /// Hours of the reference device, as in 2.5.
        hours: f64,
        /// Names the grant: the same name gives nothing a second time.
        #[arg(long)]
        name: Option<String>,
        /// When what is left of it goes back: 2027-02-01T00:00 (here), 2027-02-01T00:00:00+01:00 or Unix seconds.
        #[arg(long, value_name = "INSTANT", value_parser = when::instant)]
        expires: Option<i64>,
    },
    /// Make a new account. Its keys: dailies keys create NAME --project ACCOUNT.
    Add {
        /// Name of the new account: a-z, 0-9 and -.
        account: String,
        /// The org that it is a project of; left out, it is an org itself.
        #[arg(long, value_name = "ORG")]
        under: Option<String>,
    },
    /// Change limits of an account; what is not named stays.
    Set(SetArgs),
}

#[derive(Args, Debug)]
struct SetArgs {
    /// Name of the account.
    account: String,
    /// Its part of the farm beside its siblings, 1 to 1000.
    #[arg(long)]
    weight: Option<u32>,
    /// Jobs that may render at once, or 'none'.
    #[arg(long, value_name = "N|none", value_parser = cap)]
    jobs: Option<Cap>,
    /// Devices that may work for it at once, or 'none'; 0 stops it.
    #[arg(long, value_name = "N|none", value_parser = cap)]
    devices: Option<Cap>,
    /// Hours that it may go below zero.
    #[arg(long, value_name = "HOURS")]
    overdraft: Option<f64>,
    /// Whether jobs need quota at all.
    #[arg(long)]
    metered: Option<bool>,
    /// Hours that it may spend in a period, or 'none'. Warnings at 50, 80 and 95 % are in `dailies nodes log`.
    #[arg(long, value_name = "HOURS|none")]
    budget: Option<String>,
    /// Period of the budget: month, or days such as 30d.
    #[arg(long, requires = "budget", default_value = "month")]
    period: String,
    /// Zone whose days the budget counts, as in Europe/Berlin.
    #[arg(long, requires = "budget", default_value = "UTC")]
    zone: String,
    /// What becomes of work when the budget is used up: complete (nothing more starts) or cancel (all of it ends).
    #[arg(long, requires = "budget", value_parser = ["complete", "cancel"], default_value = "complete")]
    at_limit: String,
    /// Devices of a pool (a device class; a wrong name is answered with those of the farm): its own, and how many it may borrow from and lend to siblings, or 'none' for
    /// no rule, as in H200=8,borrow=4,lend=8 or H200=none; may be given again.
    #[arg(long, value_name = "POOL=N[,borrow=N][,lend=N]")]
    capacity: Vec<String>,
    /// Hours that siblings short of quota may owe it.
    #[arg(long, value_name = "HOURS")]
    lend: Option<f64>,
    /// Hours that it may owe siblings; grants pay that back first.
    #[arg(long, value_name = "HOURS")]
    borrow: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Cap(Option<u32>);

fn cap(text: &str) -> Result<Cap, String> {
    match text {
        "none" => Ok(Cap(None)),
        number => number
            .parse()
            .map(|n| Cap(Some(n)))
            .map_err(|_| "a number or 'none'".into()),
    }
}

pub async fn run(args: QuotaArgs) -> Result<()> {
    let api = Api::new(&args.server)?;
    match args.command {
        None => table(&api.quota().await?.data),
        Some(QuotaCommand::Show { account }) => {
            let detail = api.quota_of(&account).await?;
            table(std::slice::from_ref(&detail.account));
            for line in quota_rules::lines(&detail.account) {
                println!("{line}");
            }
            println!();
            for entry in &detail.entries {
                println!("{}", line(entry));
            }
        }
        Some(QuotaCommand::Grant {
            account,
            hours,
            name,
            expires,
        }) => {
            let mut body = json!({"seconds": seconds(hours)?});
            if let Some(name) = name {
                body["name"] = name.into();
            }
            if let Some(expires) = expires {
                body["expires_at"] = expires.into();
            }
            let done = api.grant_quota(&account, &body).await?;
            match done.granted {
                true => println!("granted {}", done.name),
                false => println!("{} was granted before; nothing changed", done.name),
            }
            table(&[done.account]);
        }
        Some(QuotaCommand::Add { account, under }) => {
            let mut body = json!({"name": &account});
            if let Some(org) = under {
                body["parent"] = org.into();
            }
            let added = api.add_account(&body).await?;
            let is_org = added.parent.is_none();
            table(&[added]);
            if is_org {
                println!(
                    "{account} is an org; films and keys are of its projects: \
                     dailies quota add PROJECT --under {account}"
                );
            }
        }
        Some(QuotaCommand::Set(set)) => {
            let changed = api.set_quota(&set.account, &changes(&set)?).await?;
            table(&[changed]);
        }
    }
    Ok(())
}

fn changes(set: &SetArgs) -> Result<Value> {
    let mut body = Map::new();
    if let Some(weight) = set.weight {
        body.insert("weight".into(), weight.into());
    }
    if let Some(Cap(jobs)) = set.jobs {
        body.insert("max_jobs".into(), jobs.into());
    }
    if let Some(Cap(devices)) = set.devices {
        body.insert("max_devices".into(), devices.into());
    }
    if let Some(hours) = set.overdraft {
        body.insert("overdraft_seconds".into(), seconds(hours)?.into());
    }
    if let Some(metered) = set.metered {
        body.insert("metered".into(), metered.into());
    }
    if let Some(hours) = set.lend {
        body.insert("lend_seconds".into(), seconds(hours)?.into());
    }
    if let Some(hours) = set.borrow {
        body.insert("borrow_seconds".into(), seconds(hours)?.into());
    }
    if let Some(budget) = &set.budget {
        body.insert("budget".into(), budget_body(budget, set)?);
    }
    if !set.capacity.is_empty() {
        let capacity = quota_rules::capacity_body(&set.capacity)?;
        body.insert("capacity".into(), capacity);
    }
    match body.is_empty() {
        true => bail!("nothing to change: 'dailies quota set --help' names what there is"),
        false => Ok(body.into()),
    }
}

fn budget_body(budget: &str, set: &SetArgs) -> Result<Value> {
    if budget == "none" {
        return Ok(Value::Null);
    }
    let Ok(hours) = budget.parse() else {
        bail!("--budget is hours, or 'none', not '{budget}'");
    };
    Ok(json!({
        "limit_seconds": seconds(hours)?,
        "period": set.period,
        "zone": set.zone,
        "at_limit": format!("stop_and_{}", set.at_limit),
    }))
}

/// Whole seconds; the ledger knows no fractions that people would write.
fn seconds(hours: f64) -> Result<i64> {
    let seconds = (hours * HOUR_S).round();
    match seconds.is_finite() && (0.0..1e15).contains(&seconds) {
        true => Ok(seconds as i64),
        false => bail!("{hours} is no number of hours"),
    }
}

fn table(accounts: &[QuotaAccount]) {
    println!(
        "{:24} {:8} {:>6} {:>13} {:>13} {:>13} {:>13} {:>9} {:>9}",
        "ACCOUNT", "LEVEL", "WEIGHT", "LIMIT", "LEFT", "HELD", "SPENT", "JOBS", "DEVICES"
    );
    for account in accounts {
        println!("{}", row(account));
    }
}

fn row(account: &QuotaAccount) -> String {
    let limited = |seconds: f64| match account.metered {
        true => time(seconds),
        false => "none".into(),
    };
    let of = |used: u32, max: Option<u32>| match max {
        Some(max) => format!("{used}/{max}"),
        None => used.to_string(),
    };
    format!(
        "{:24} {:8} {:>6} {:>13} {:>13} {:>13} {:>13} {:>9} {:>9}",
        account.name,
        account.level,
        account.weight,
        limited(account.granted_seconds + account.overdraft_seconds),
        limited(account.available_seconds + account.overdraft_seconds),
        time(account.held_seconds),
        time(account.spent_seconds),
        of(account.running_jobs, account.max_jobs),
        of(account.running_devices, account.max_devices),
    )
}

/// Time of a device; below zero where an account owes.
pub fn time(seconds: f64) -> String {
    let sign = if seconds < 0.0 { "-" } else { "" };
    format!("{sign}{}", progress::seconds(seconds.abs()))
}

fn line(entry: &QuotaEntry) -> String {
    let way = format!("{} -> {}", entry.from, entry.to);
    let why = entry.arithmetic.as_ref().map(sum).unwrap_or_default();
    format!("{:>10} s  {way:20} {}{why}", trim(entry.seconds), entry.key)
}

fn sum(why: &QuotaArithmetic) -> String {
    format!(
        "  = {} step{} x {} s x {} device x {} rate x {} band, at most {} s",
        why.steps,
        if why.steps == 1 { "" } else { "s" },
        trim(why.seconds_per_step),
        why.devices,
        why.rate,
        why.factor,
        trim(why.at_most_seconds)
    )
}

fn trim(seconds: f64) -> String {
    format!("{seconds:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_shows_its_arithmetic() {
        let entry = QuotaEntry {
            seq: 4,
            created_at: 0,
            key: "post:t:1".into(),
            from: "held".into(),
            to: "spent".into(),
            seconds: 8.0,
            arithmetic: Some(QuotaArithmetic {
                steps: 8,
                seconds_per_step: 0.5,
                devices: 1,
                rate: 1.0,
                factor: 2.0,
                at_most_seconds: 10.0,
            }),
        };
        assert_eq!(
            line(&entry),
            "     8.000 s  held -> spent        post:t:1  = 8 steps x 0.500 s x 1 device x 1 rate \
             x 2 band, at most 10.000 s"
        );
    }

    #[test]
    fn caps_and_hours_are_read_or_refused() {
        assert_eq!(cap("none").unwrap().0, None);
        assert_eq!(cap("3").unwrap().0, Some(3));
        assert!(cap("-1").is_err());
        assert_eq!(seconds(2.5).unwrap(), 9_000);
        assert!(seconds(-1.0).is_err() && seconds(f64::NAN).is_err());
    }
}
