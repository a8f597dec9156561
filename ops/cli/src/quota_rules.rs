//! Budgets, capacity, loans and expiring grants of an account, as `dailies quota` reads and shows them.

use crate::quota::time;
use anyhow::{Result, bail};
use schemas::quota::{QuotaAccount, QuotaBudget, QuotaCapacity};
use serde_json::{Map, Value, json};

/// `POOL=8,borrow=4,lend=8` or `POOL=none`, several of them.
pub fn capacity_body(rules: &[String]) -> Result<Value> {
    let mut body = Map::new();
    for rule in rules {
        let Some((pool, rest)) = rule.split_once('=') else {
            bail!("--capacity is POOL=N[,borrow=N][,lend=N] or POOL=none, not '{rule}'");
        };
        body.insert(pool.into(), capacity_rule(rest)?);
    }
    Ok(body.into())
}

fn capacity_rule(text: &str) -> Result<Value> {
    if text == "none" {
        return Ok(Value::Null);
    }
    let mut rule = json!({"nominal": 0, "borrow": 0, "lend": 0});
    for part in text.split(',') {
        let (name, number) = part.split_once('=').unwrap_or(("nominal", part));
        let Ok(number) = number.parse::<u32>() else {
            bail!("'{number}' in --capacity is no number of devices");
        };
        match rule.get_mut(name) {
            Some(place) => *place = number.into(),
            None => bail!("'{name}' in --capacity is not known: write borrow=N or lend=N"),
        }
    }
    Ok(rule)
}

/// What there is to say about an account beyond its row in the table.
pub fn lines(account: &QuotaAccount) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(account.budget.as_ref().map(budget));
    lines.extend(account.capacity.iter().map(capacity));
    if account.lend_seconds > 0.0 || account.borrow_seconds > 0.0 {
        lines.push(format!(
            "loans   lends up to {}, borrows up to {}",
            time(account.lend_seconds),
            time(account.borrow_seconds)
        ));
    }
    lines.extend(account.loans.iter().map(|loan| {
        let left = time(loan.left_seconds);
        format!("loan    {} owes {} {left}", loan.borrower, loan.lender)
    }));
    lines.extend(account.expiring.iter().map(|grant| {
        let (left, at) = (time(grant.left_seconds), instant(grant.expires_at));
        format!("grant   {}: {left} left, expires {at}", grant.name)
    }));
    lines
}

fn budget(budget: &QuotaBudget) -> String {
    let stopped = match budget.stopped {
        true => ", STOPPED",
        false => "",
    };
    format!(
        "budget  {} of {} in {} = {} %{stopped}; {}, {}, next edge {}",
        time(budget.spent_seconds),
        time(budget.limit_seconds),
        budget.period,
        budget.percent,
        budget.zone,
        budget.at_limit.replace('_', " "),
        instant(budget.next_edge)
    )
}

fn capacity(row: &QuotaCapacity) -> String {
    format!(
        "pool    {}: uses {} of {} = {} own + min({} to borrow, {} lent by siblings); lends up to {}; {} tasks wait",
        row.pool,
        row.used,
        row.may_use,
        row.nominal,
        row.borrow,
        row.lent_by_siblings,
        row.lend,
        row.waiting
    )
}

fn instant(unix_s: i64) -> String {
    let at = jiff::Timestamp::from_second(unix_s).unwrap_or_default();
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capacity_is_read_or_refused() {
        let rules = ["H200=8,borrow=4".to_owned(), "cpu=none".to_owned()];
        let body = capacity_body(&rules).unwrap();
        assert_eq!(
            body,
            json!({"H200": {"nominal": 8, "borrow": 4, "lend": 0}, "cpu": null})
        );
        for wrong in ["H200", "H200=many", "H200=1,steal=2", "H200=1,borrow=-1"] {
            assert!(capacity_body(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_pool_shows_its_formula() {
        let row = QuotaCapacity {
            pool: "H200".into(),
            nominal: 4,
            borrow: 8,
            lend: 4,
            used: 5,
            waiting: 2,
            lent_by_siblings: 2,
            may_use: 6,
        };
        assert_eq!(
            capacity(&row),
            "pool    H200: uses 5 of 6 = 4 own + min(8 to borrow, 2 lent by siblings); lends up to 4; 2 tasks wait"
        );
    }
}
