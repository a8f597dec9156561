//! Budgets: what an account may spend in a period, counted by civil days of its zone.
//!
//! A post counts on the day on which it is made, a refund takes it off its own day. Warnings at
//! [`WARNED_PERCENT`] go to the outbox, once in a period. At the limit no task of the account, or of one
//! below it, is granted any more; what runs finishes, or ends as well, as the operator chose. The first
//! instant at which old days no longer count lets work go on.

use std::collections::BTreeMap;

use jiff::{ToSpan, civil::Date, tz::TimeZone};
use schemas::{AccountId, GpuMicros, JobId};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Farm,
    command::Refusal,
    explain::Waiting,
    quota::{Ordered, QUOTA_MAX},
    rows::{JobError, JobState, OutboxRow},
    timers::Timer,
    write::Write,
};

/// Shares of a budget, in percent, at which its account is warned; the last is the limit itself.
pub const WARNED_PERCENT: [u32; 4] = [50, 80, 95, 100];
/// Longest rolling period.
pub const BUDGET_DAYS_MAX: u32 = 366;

/// A budget and what counts for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetRow {
    pub account: AccountId,
    pub rule: BudgetRule,
    /// Spent by civil day of the zone; days that no period reaches any more are left out.
    pub days: BTreeMap<Date, GpuMicros>,
    /// The highest of [`WARNED_PERCENT`] that was told and still holds; 0 for none.
    pub told_percent: u32,
}

/// What an operator sets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetRule {
    pub limit: GpuMicros,
    pub period: Period,
    #[serde(with = "jiff::fmt::serde::tz::required")]
    pub zone: TimeZone,
    pub at_limit: AtLimit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Period {
    /// From the first of the month.
    Month,
    /// Today and the days before it, so many in all.
    Days(u32),
}

/// What becomes of work when the limit is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AtLimit {
    /// Nothing more starts; what runs finishes.
    #[default]
    Complete,
    /// What runs or waits ends too; what was posted stays posted.
    Cancel,
}

impl AtLimit {
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "stop_and_complete",
            Self::Cancel => "stop_and_cancel",
        }
    }
}

impl BudgetRule {
    fn today(&self, now: i64) -> Date {
        let at = jiff::Timestamp::from_millisecond(now).unwrap_or_default();
        at.to_zoned(self.zone.clone()).date()
    }

    /// The first day that counts at `now`.
    fn first_day(&self, now: i64) -> Date {
        let today = self.today(now);
        match self.period {
            Period::Month => today.first_of_month(),
            Period::Days(days) => today.saturating_sub(i64::from(days.max(1) - 1).days()),
        }
    }

    /// The next instant at which a day may stop to count.
    pub fn edge_ms(&self, now: i64) -> i64 {
        let today = self.today(now);
        let next = match self.period {
            Period::Month => today.last_of_month().saturating_add(1.day()),
            Period::Days(_) => today.saturating_add(1.day()),
        };
        // A midnight in a gap is the first instant after it.
        let edge = next.to_zoned(self.zone.clone());
        edge.map_or(i64::MAX, |edge| edge.timestamp().as_millisecond())
    }
}

impl BudgetRow {
    pub fn new(account: AccountId, rule: BudgetRule) -> Self {
        Self {
            account,
            rule,
            days: BTreeMap::new(),
            told_percent: 0,
        }
    }

    /// What counts at `now`.
    pub fn spent(&self, now: i64) -> GpuMicros {
        let days = self.days.range(self.rule.first_day(now)..);
        GpuMicros(days.map(|(_, spent)| spent.0).sum::<i64>().max(0))
    }

    pub fn percent(&self, now: i64) -> u32 {
        let percent = i128::from(self.spent(now).0) * 100 / i128::from(self.rule.limit.0.max(1));
        u32::try_from(percent).unwrap_or(u32::MAX)
    }

    /// Until when nothing may start, or `None` below the limit. Rolling periods may need several edges.
    pub fn stopped_until_ms(&self, now: i64) -> Option<i64> {
        (self.spent(now) >= self.rule.limit).then(|| self.rule.edge_ms(now))
    }

    fn add(&mut self, amount: GpuMicros, now: i64) {
        let first = self.rule.first_day(now);
        self.days.retain(|day, _| *day >= first);
        self.days.entry(self.rule.today(now)).or_default().0 += amount.0;
    }

    /// The highest warning that holds.
    fn due_percent(&self, now: i64) -> u32 {
        let percent = self.percent(now);
        let passed = WARNED_PERCENT.into_iter().filter(|at| *at <= percent);
        passed.max().unwrap_or(0)
    }
}

impl Farm {
    pub(super) fn set_budget(
        &mut self,
        account: AccountId,
        rule: Option<BudgetRule>,
    ) -> Result<Ordered, Refusal> {
        let Some(rule) = rule else {
            self.budgets.remove(&account);
            self.stopped.remove(&account);
            self.writes.push(Write::RemoveBudget(account));
            return Ok(Ordered::Now);
        };
        check_rule(&rule)?;
        let mut row = match self.budgets.get(&account) {
            // Days of another zone begin at other instants, so they cannot be added up.
            Some(old) if old.rule.zone == rule.zone => BudgetRow {
                rule,
                ..old.clone()
            },
            _ => BudgetRow::new(account, rule),
        };
        row.told_percent = row.told_percent.min(row.due_percent(self.now));
        self.put_budget(row);
        self.look_at_budget(account, None);
        Ok(Ordered::Now)
    }

    /// Counts a post, or with a negative amount a refund, for every account from this one up.
    pub(super) fn charge_budgets(&mut self, account: AccountId, amount: GpuMicros, job: JobId) {
        if self.budgets.is_empty() || amount == GpuMicros::ZERO {
            return;
        }
        for account in self.path(account) {
            let Some(mut row) = self.budgets.get(&account).cloned() else {
                continue;
            };
            row.add(amount, self.now);
            self.put_budget(row);
            self.look_at_budget(account, Some(job));
        }
    }

    fn put_budget(&mut self, row: BudgetRow) {
        self.budgets.insert(row.account, row.clone());
        self.writes.push(Write::PutBudget(Box::new(row)));
    }

    /// Tells what is due, stops or frees the account, and looks again at the next edge.
    fn look_at_budget(&mut self, account: AccountId, job: Option<JobId>) {
        let row = self.budgets[&account].clone();
        let (due, told) = (row.due_percent(self.now), row.told_percent);
        let (at_limit, until) = (row.rule.at_limit, row.stopped_until_ms(self.now));
        self.arm_budget(account);
        if due != told {
            self.put_budget(BudgetRow {
                told_percent: due,
                ..row
            });
        }
        if let Some(job) = job {
            let passed = WARNED_PERCENT.into_iter();
            for percent in passed.filter(|at| (told + 1..=due).contains(at)) {
                self.warn_of_budget(account, job, percent);
            }
        }
        match until {
            Some(until_ms) => {
                self.stopped.insert(account, until_ms);
                if at_limit == AtLimit::Cancel {
                    self.to_cancel.insert(account);
                }
            }
            None if self.stopped.remove(&account).is_some() => self.wake = true,
            None => {}
        }
    }

    pub(super) fn arm_budget(&mut self, account: AccountId) {
        let edge_ms = self.budgets[&account].rule.edge_ms(self.now);
        self.timers.arm(edge_ms, Timer::Budget(account));
    }

    /// A day has ended, and with it perhaps a period.
    pub(super) fn budget_due(&mut self, account: AccountId) {
        if self.budgets.contains_key(&account) {
            self.look_at_budget(account, None);
        }
    }

    pub(super) fn fold_budgets(&mut self) {
        let rows: Vec<_> = self.budgets.values().cloned().collect();
        for row in rows {
            self.arm_budget(row.account);
            if let Some(until_ms) = row.stopped_until_ms(self.now) {
                self.stopped.insert(row.account, until_ms);
            }
        }
    }

    /// The event names the job whose charge passed the mark; operators read of it in their log.
    fn warn_of_budget(&mut self, account: AccountId, job: JobId, percent: u32) {
        let why = format!("{percent} % of the budget of this period is spent");
        let name = self.accounts[&account].name.clone();
        self.note_about("budget", None, name, json!({"why": why}));
        let kind = match percent {
            100 => "quota.budget_used".into(),
            _ => format!("quota.budget_warning_{percent}"),
        };
        let row = OutboxRow {
            seq: self.next_seq(),
            kind,
            job,
            project: account,
            at_ms: self.now,
        };
        self.writes.push(Write::InsertOutbox(row));
    }

    /// The first account from this one up whose budget is used up.
    pub(super) fn budget_stops(&self, account: AccountId) -> Option<Waiting> {
        if self.stopped.is_empty() {
            return None;
        }
        self.path(account).into_iter().find_map(|account| {
            let until_ms = *self.stopped.get(&account)?;
            let account = self.accounts[&account].name.clone();
            Some(Waiting::BudgetStopped { account, until_ms })
        })
    }

    /// Ends the jobs of accounts whose budget ends them; what was posted stays posted.
    pub(super) fn cancel_over_budget(&mut self) {
        for account in std::mem::take(&mut self.to_cancel) {
            let name = self.accounts[&account].name.clone();
            self.unpack_below(account);
            let live = |state: JobState| !state.is_terminal();
            let mut jobs: Vec<_> = self
                .jobs
                .values()
                .filter(|job| live(job.row.state))
                .collect();
            jobs.retain(|job| self.path(job.row.account()).contains(&account));
            for id in jobs.into_iter().map(|job| job.row.id).collect::<Vec<_>>() {
                let error = JobError {
                    code: "cancelled_by_operator".into(),
                    message: format!("The budget of '{name}' for this period is used up."),
                };
                self.stop_job(id, error);
            }
        }
    }
}

fn check_rule(rule: &BudgetRule) -> Result<(), Refusal> {
    let wrong = |why: &str| Err(Refusal::Invalid(why.into()));
    if rule.limit <= GpuMicros::ZERO || rule.limit > QUOTA_MAX {
        return wrong("a budget is more than nothing and not absurdly much");
    }
    match rule.period {
        Period::Days(days) if !(1..=BUDGET_DAYS_MAX).contains(&days) => Err(Refusal::Invalid(
            format!("a period has 1 to {BUDGET_DAYS_MAX} days"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn ms(text: &str) -> i64 {
        text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
    }

    fn row(period: Period, zone: &str) -> BudgetRow {
        let rule = BudgetRule {
            limit: GpuMicros(100),
            period,
            zone: TimeZone::get(zone).unwrap(),
            at_limit: AtLimit::Complete,
        };
        BudgetRow::new(AccountId(Uuid::nil()), rule)
    }

    #[test]
    fn a_month_ends_at_midnight_of_its_zone_also_across_changes_of_the_clocks() {
        for (zone, now, edge) in [
            (
                "Europe/Berlin",
                "2027-03-15T12:00:00Z",
                "2027-03-31T22:00:00Z",
            ),
            (
                "Europe/Berlin",
                "2027-10-31T22:59:59Z",
                "2027-10-31T23:00:00Z",
            ),
            (
                "America/New_York",
                "2027-12-31T12:00:00Z",
                "2028-01-01T05:00:00Z",
            ),
            // Midnight of 30 April 2027 does not exist in Cairo; that of 1 May does.
            (
                "Africa/Cairo",
                "2027-04-30T12:00:00Z",
                "2027-04-30T21:00:00Z",
            ),
        ] {
            let rule = row(Period::Month, zone).rule;
            assert_eq!(rule.edge_ms(ms(now)), ms(edge), "{zone} {now}");
        }
        let rule = row(Period::Days(7), "Africa/Cairo").rule;
        assert_eq!(
            rule.edge_ms(ms("2027-04-29T12:00:00Z")),
            ms("2027-04-29T22:00:00Z")
        );
    }

    #[test]
    fn a_new_month_begins_with_nothing_and_a_rolling_week_forgets_day_by_day() {
        let mut month = row(Period::Month, "Europe/Berlin");
        month.add(GpuMicros(80), ms("2027-01-31T22:00:00Z"));
        assert_eq!(month.spent(ms("2027-01-31T22:59:59Z")), GpuMicros(80));
        assert_eq!(month.spent(ms("2027-01-31T23:00:00Z")), GpuMicros(0));
        let mut week = row(Period::Days(7), "UTC");
        week.add(GpuMicros(60), ms("2027-01-01T10:00:00Z"));
        week.add(GpuMicros(40), ms("2027-01-03T10:00:00Z"));
        assert_eq!(
            week.stopped_until_ms(ms("2027-01-03T11:00:00Z")),
            Some(ms("2027-01-04T00:00:00Z"))
        );
        assert_eq!(week.spent(ms("2027-01-07T23:59:59Z")), GpuMicros(100));
        assert_eq!(week.spent(ms("2027-01-08T00:00:00Z")), GpuMicros(40));
        assert_eq!(week.stopped_until_ms(ms("2027-01-08T00:00:00Z")), None);
        assert_eq!(week.spent(ms("2027-01-10T00:00:00Z")), GpuMicros(0));
    }

    #[test]
    fn a_refund_is_taken_off_and_never_makes_a_credit() {
        let mut month = row(Period::Month, "UTC");
        month.add(GpuMicros(96), ms("2027-01-02T00:00:00Z"));
        assert_eq!(month.due_percent(ms("2027-01-02T00:00:00Z")), 95);
        month.add(GpuMicros(-96), ms("2027-01-03T00:00:00Z"));
        month.add(GpuMicros(-96), ms("2027-01-03T00:00:00Z"));
        assert_eq!(month.spent(ms("2027-01-03T00:00:00Z")), GpuMicros(0));
    }
}
