//! Budgets, capacity, expiries and loans of accounts, as operators write and read them.

use jiff::tz::TimeZone;
use schemas::{
    GpuMicros,
    quota::{QuotaBudget, QuotaCapacity, QuotaExpiry, QuotaLoan},
};

use super::{
    node::{Fields, Node},
    quota::{refuse_rest, seconds, small, text, wrong},
};
use crate::{
    admission::Refusal,
    core::{
        budget::{AtLimit, BudgetRule, Period},
        capacity::CapacityView,
        quota::{BudgetView, LoanView, QuotaChange},
    },
};

/// `"budget": {"limit_seconds", "period", "zone", "at_limit"}`, or `null` for none any more.
pub fn budget(fields: &mut Fields) -> Result<Option<QuotaChange>, Refusal> {
    let mut rule = match fields.remove("budget") {
        None => return Ok(None),
        Some(Node::Null) => return Ok(Some(QuotaChange::Budget(None))),
        Some(Node::Object(rule)) => rule,
        Some(other) => return Err(wrong("budget", "an object", &other)),
    };
    let limit = seconds(&mut rule, "limit_seconds")?;
    let limit = limit.ok_or_else(|| Refusal::missing("budget.limit_seconds"))?;
    let zone = text(&mut rule, "zone")?;
    let rule_of = BudgetRule {
        limit,
        period: period(text(&mut rule, "period")?.as_deref())?,
        zone: zone_of(zone.as_deref())?,
        at_limit: at_limit(text(&mut rule, "at_limit")?.as_deref())?,
    };
    refuse_rest(&rule)?;
    Ok(Some(QuotaChange::Budget(Some(rule_of))))
}

fn period(text: Option<&str>) -> Result<Period, Refusal> {
    let days = |text: &str| text.strip_suffix('d')?.parse().ok();
    match text {
        None | Some("month") => Ok(Period::Month),
        Some(text) => days(text).map(Period::Days).ok_or_else(|| {
            Refusal::wrong_value("budget.period", "it is 'month', or days such as '30d'")
        }),
    }
}

fn zone_of(name: Option<&str>) -> Result<TimeZone, Refusal> {
    let name = name.unwrap_or("UTC");
    TimeZone::get(name).map_err(|_| {
        Refusal::wrong_value("budget.zone", "it is an IANA name such as 'Europe/Berlin'")
    })
}

fn at_limit(text: Option<&str>) -> Result<AtLimit, Refusal> {
    let known = [AtLimit::Complete, AtLimit::Cancel];
    let Some(text) = text else {
        return Ok(AtLimit::default());
    };
    known
        .into_iter()
        .find(|at| at.name() == text)
        .ok_or_else(|| {
            Refusal::wrong_value(
                "budget.at_limit",
                "it is 'stop_and_complete' or 'stop_and_cancel'",
            )
        })
}

/// `"capacity": {POOL: {"nominal", "borrow", "lend"}}`, or `{POOL: null}` for no rule any more.
pub fn capacity(fields: &mut Fields) -> Result<Vec<QuotaChange>, Refusal> {
    let pools = match fields.remove("capacity") {
        None => return Ok(Vec::new()),
        Some(Node::Object(pools)) => pools,
        Some(other) => return Err(wrong("capacity", "an object of pools", &other)),
    };
    let change = |(pool, node): (String, Node)| {
        let limits = match node {
            Node::Null => None,
            Node::Object(mut rule) => {
                let nominal = small(&mut rule, "nominal")?.unwrap_or(0);
                let borrow = small(&mut rule, "borrow")?.unwrap_or(0);
                let lend = small(&mut rule, "lend")?.unwrap_or(0);
                refuse_rest(&rule)?;
                Some([nominal, borrow, lend])
            }
            other => return Err(wrong(&format!("capacity.{pool}"), "an object", &other)),
        };
        Ok(QuotaChange::Capacity { pool, limits })
    };
    pools.into_iter().map(change).collect()
}

/// Unix seconds, or a text such as `2027-01-31T08:00:00+01:00`, in milliseconds.
pub fn instant_ms(fields: &mut Fields, name: &str) -> Result<Option<i64>, Refusal> {
    if let Some(Node::Text(text)) = fields.get(name)
        && let Ok(at) = text.parse::<jiff::Timestamp>()
    {
        fields.remove(name);
        return Ok(Some(at.as_millisecond()));
    }
    Ok(seconds(fields, name)?.map(|us| us.0 / 1_000))
}

pub fn shown_budget(view: &BudgetView) -> QuotaBudget {
    QuotaBudget {
        limit_seconds: view.rule.limit.as_secs_f64(),
        period: match view.rule.period {
            Period::Month => "month".into(),
            Period::Days(days) => format!("{days}d"),
        },
        zone: view.rule.zone.iana_name().unwrap_or("UTC").into(),
        at_limit: view.rule.at_limit.name().into(),
        spent_seconds: view.spent.as_secs_f64(),
        percent: view.percent,
        stopped: view.is_stopped,
        next_edge: view.edge_ms.div_euclid(1_000),
    }
}

pub fn shown_capacity(view: &CapacityView) -> QuotaCapacity {
    QuotaCapacity {
        pool: view.row.pool.clone(),
        nominal: view.row.nominal,
        borrow: view.row.borrow_max,
        lend: view.row.lend_max,
        used: view.used,
        waiting: view.waiting,
        lent_by_siblings: view.lent_by_siblings,
        may_use: view.may_use,
    }
}

pub fn shown_expiry((name, left, expires_at_ms): &(String, GpuMicros, i64)) -> QuotaExpiry {
    QuotaExpiry {
        name: name.clone(),
        left_seconds: left.as_secs_f64(),
        expires_at: expires_at_ms.div_euclid(1_000),
    }
}

pub fn shown_loan(view: &LoanView) -> QuotaLoan {
    QuotaLoan {
        borrower: view.borrower.clone(),
        lender: view.lender.clone(),
        left_seconds: view.left.as_secs_f64(),
    }
}
