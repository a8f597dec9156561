//! A recorded log beside what-if: the replay that checks it, and the same load on a changed farm.

use std::collections::{BTreeMap, BTreeSet};

use schemas::GpuMicros;
use serde::Deserialize;

use super::{
    replay::{Check, Logged, check},
    report::Report,
    watch::Watch,
    whatif::{Change, play},
};
use crate::{
    core::{
        event::Event,
        limits::Limits,
        quota::{LimitsChange, QuotaChange, QuotaOrder},
    },
    store::events::StoredEvent,
};

/// Which time is told of, and what a charged device hour costs.
#[derive(Clone, Debug)]
pub struct Scope {
    pub from_ms: i64,
    pub to_ms: i64,
    pub price_per_device_hour: f64,
}

/// What came of a log.
#[derive(Debug)]
pub struct Replayed {
    pub check: Check,
    /// As it was recorded; up to the first difference, if there is one.
    pub recorded: Report,
    /// The changed farm; absent where nothing was changed.
    pub changed: Option<Report>,
    /// The log begins later than the farm: what was there before is missing.
    pub is_cut: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error(
        "the log holds nothing before the end of the time; a farm logs from its first start on"
    )]
    Empty,
    #[error("event {seq} of the log cannot be read: {why}; it is of another version")]
    Event { seq: i64, why: String },
    #[error("{0}")]
    Change(String),
}

/// Replays a log and, if there is a change, plays its load on the changed farm. `rules` are those of
/// the recorded farm, `changed_rules` those of the changed one.
///
/// # Errors
/// [`LogError`]
pub fn replay(
    stored: &[StoredEvent],
    scope: &Scope,
    rules: &Limits,
    change: Option<(&Change, &Limits)>,
) -> Result<Replayed, LogError> {
    let log = parse(stored)?;
    let time = (scope.from_ms, scope.to_ms);
    let watch = |name| Watch::new(name, time, scope.price_per_device_hour);
    let mut recorded = watch("as recorded");
    let (check, costs) = check(&log, rules, &mut recorded);
    let changed = match change {
        None => None,
        Some((change, rules)) => {
            let mut changed = watch("changed");
            play((&log, &costs), rules, change, time, &mut changed).map_err(LogError::Change)?;
            Some(changed.report())
        }
    };
    Ok(Replayed {
        check,
        recorded: recorded.report(),
        changed,
        is_cut: is_cut(&log),
    })
}

fn parse(stored: &[StoredEvent]) -> Result<Vec<Logged>, LogError> {
    let logged = |row: &StoredEvent| {
        let event = serde_json::from_str(&row.payload).map_err(|error| LogError::Event {
            seq: row.seq,
            why: error.to_string(),
        })?;
        Ok(Logged {
            seq: row.seq,
            at_ms: row.at_ms,
            event,
        })
    };
    if stored.is_empty() {
        return Err(LogError::Empty);
    }
    stored.iter().map(logged).collect()
}

/// Whether the log names an account that it does not open.
fn is_cut(log: &[Logged]) -> bool {
    let mut opened = BTreeSet::new();
    log.iter().any(|logged| match &logged.event {
        Event::Account { row } => {
            opened.insert(row.id);
            false
        }
        Event::Quota { order } if matches!(order.change, QuotaChange::Open { .. }) => {
            opened.insert(order.account);
            false
        }
        Event::Submit { job } => !opened.contains(&job.project),
        _ => false,
    })
}

/// What an operator would set for one account; absent limits stay as they are.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wish {
    pub weight: Option<u32>,
    pub devices_max: Option<u32>,
    pub jobs_max: Option<u32>,
    /// Seconds of a device that are granted.
    pub grant_s: Option<u32>,
}

/// The orders that would bring wishes about, by the names of accounts.
///
/// # Errors
/// [`LogError::Change`] for an account that the log does not know.
pub fn orders(
    stored: &[StoredEvent],
    wishes: &BTreeMap<String, Wish>,
) -> Result<Vec<QuotaOrder>, LogError> {
    let mut accounts = BTreeMap::new();
    for logged in parse(stored)? {
        if let Event::Account { row } = logged.event {
            accounts.insert(row.name, row.id);
        }
    }
    let mut orders = Vec::new();
    for (name, wish) in wishes {
        let Some(account) = accounts.get(name).copied() else {
            let known: Vec<&str> = accounts.keys().map(String::as_str).collect();
            let known = known.join(", ");
            let why = format!("the farm has no account '{name}'; it has {known}");
            return Err(LogError::Change(why));
        };
        let mut order = |change| {
            orders.push(QuotaOrder {
                actor: "what if".into(),
                account,
                change,
            });
        };
        if let Some(seconds) = wish.grant_s {
            order(QuotaChange::Grant {
                name: "what-if".into(),
                amount: GpuMicros(i64::from(seconds) * 1_000_000),
                expires_at_ms: None,
            });
        }
        order(QuotaChange::Limits(LimitsChange {
            weight: wish.weight,
            devices_max: wish.devices_max.map(Some),
            jobs_max: wish.jobs_max.map(Some),
            ..LimitsChange::default()
        }));
    }
    Ok(orders)
}

/// `2026-11-26` (midnight where this machine is), `2026-11-26T19:00` or an instant with its zone.
///
/// # Errors
/// A text that says what a date looks like.
pub fn instant_ms(text: &str) -> Result<i64, String> {
    if let Ok(instant) = text.parse::<jiff::Timestamp>() {
        return Ok(instant.as_millisecond());
    }
    let civil = text.parse::<jiff::civil::DateTime>();
    let zoned = civil.and_then(|at| at.to_zoned(jiff::tz::TimeZone::system()));
    zoned
        .map(|at| at.timestamp().as_millisecond())
        .map_err(|_| format!("'{text}' is no date such as 2026-11-26 or 2026-11-26T19:00"))
}

/// The instant as people write it, where this machine is.
pub fn date(ms: i64) -> String {
    let at = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    let zoned = at.to_zoned(jiff::tz::TimeZone::system());
    zoned.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::{PROJECT, job};

    #[test]
    fn a_log_that_opens_its_accounts_is_whole() {
        let logged = |event| Logged {
            seq: 1,
            at_ms: 0,
            event,
        };
        let submit = || {
            logged(Event::Submit {
                job: Box::new(job(1, 1)),
            })
        };
        let order = QuotaOrder {
            actor: "operator".into(),
            account: PROJECT,
            change: QuotaChange::Open {
                name: "project".into(),
                parent: None,
            },
        };
        let open = logged(Event::Quota {
            order: Box::new(order),
        });
        assert!(!is_cut(&[open, submit()]));
        assert!(is_cut(&[submit()]));
    }
}
