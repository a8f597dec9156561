//! What an account may have: a limit in device time, caps on what runs at once, and who changed them.
//!
//! An account without a [`QuotaRow`], or with one that is not metered, has no limit: what it uses is
//! counted all the same. A metered one must have what a job holds, or the job is not made.

use std::collections::BTreeMap;

use schemas::{AccountId, Digest, GpuMicros};
use serde::{Deserialize, Serialize};

use super::{
    Farm,
    budget::{BudgetRow, BudgetRule, Period},
    capacity::CapacityView,
    command::{Refusal, Reply},
    explain::Waiting,
    rows::{AccountRow, Balance, Bucket, LedgerRow, Level, LoanRow},
    write::Write,
};

/// Longest name of a grant; it is part of a key in the ledger.
pub const GRANT_NAME_MAX: usize = 80;
/// Longest name of an account.
pub const ACCOUNT_NAME_MAX: usize = 32;
/// Largest single grant and overdraft: ten thousand device-years, far below where sums overflow.
pub const QUOTA_MAX: GpuMicros = GpuMicros(10_000 * 365 * 86_400 * 1_000_000);
/// Largest weight of an account beside its siblings.
pub const WEIGHT_MAX: u32 = 1_000;

/// Limits of one account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct QuotaRow {
    pub account: AccountId,
    /// Jobs need what they hold in `available`; off, the account has no limit.
    pub metered: bool,
    /// How far below zero `available` may fall by a hold.
    pub overdraft: GpuMicros,
    /// Jobs of it that may be rendering at once.
    pub jobs_max: Option<u32>,
    /// Devices that may work for it at once; 0 stops it.
    pub devices_max: Option<u32>,
    /// What siblings may owe it in all.
    pub lend: GpuMicros,
    /// What it may owe siblings in all.
    pub borrow: GpuMicros,
}

impl QuotaRow {
    pub fn unlimited(account: AccountId) -> Self {
        Self {
            account,
            metered: false,
            overdraft: GpuMicros::ZERO,
            jobs_max: None,
            devices_max: None,
            lend: GpuMicros::ZERO,
            borrow: GpuMicros::ZERO,
        }
    }
}

/// How the amount of a post came about: `device_us × devices × rate × factor`, at most what was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arithmetic {
    /// Sampler steps of the result; 0 where there are none, as in an assembly.
    pub steps: u32,
    /// Device time of all attempts that led to the result, each step once.
    pub device_us: i64,
    pub devices: u32,
    /// What the device class counts beside the reference class, in parts per million.
    pub rate_ppm: i64,
    /// Of the job's band.
    pub factor_percent: i64,
    /// What was still held: the ceiling.
    pub at_most_us: i64,
}

impl Arithmetic {
    /// What is charged.
    pub fn amount(&self) -> GpuMicros {
        let whole = i128::from(self.device_us)
            * i128::from(self.devices)
            * i128::from(self.rate_ppm)
            * i128::from(self.factor_percent);
        let full = i64::try_from(whole / (1_000_000 * 100)).unwrap_or(i64::MAX);
        GpuMicros(full.clamp(0, self.at_most_us.max(0)))
    }
}

/// What an operator did, kept for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    pub seq: i64,
    pub at_ms: i64,
    /// Name of the key that asked.
    pub actor: String,
    pub command: &'static str,
    pub account: AccountId,
    pub was: String,
    pub now: String,
}

/// An operator's order about one account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QuotaOrder {
    /// Name of the key that asks.
    pub actor: String,
    pub account: AccountId,
    pub change: QuotaChange,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum QuotaChange {
    /// More device time, once for each `name`. Makes the account metered.
    Grant {
        name: String,
        amount: GpuMicros,
        /// When what is left of it goes back; absent: never.
        expires_at_ms: Option<i64>,
    },
    Limits(LimitsChange),
    /// A budget for each period, or none any more.
    Budget(Option<BudgetRule>),
    /// Devices of a pool: its own, borrowed, lent; or no rule any more.
    Capacity {
        pool: String,
        limits: Option<[u32; 3]>,
    },
    /// A new account: an org, or a project of the org `parent`.
    Open {
        name: String,
        parent: Option<AccountId>,
    },
}

/// `None` leaves a limit as it is, `Some(None)` removes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsChange {
    pub metered: Option<bool>,
    pub overdraft: Option<GpuMicros>,
    pub jobs_max: Option<Option<u32>>,
    pub devices_max: Option<Option<u32>>,
    pub weight: Option<u32>,
    pub lend: Option<GpuMicros>,
    pub borrow: Option<GpuMicros>,
}

/// How an order ended that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordered {
    Now,
    /// The same grant came before; nothing changed.
    Before,
}

/// An account as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaView {
    pub account: AccountRow,
    pub quota: QuotaRow,
    pub balance: Balance,
    pub jobs: u32,
    pub devices: u32,
    pub budget: Option<BudgetView>,
    pub capacity: Vec<CapacityView>,
    /// Grants that will expire: name, what is left, instant.
    pub expiring: Vec<(String, GpuMicros, i64)>,
    pub loans: Vec<LoanView>,
}

/// A budget and how much of it is used now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetView {
    pub rule: BudgetRule,
    pub spent: GpuMicros,
    pub percent: u32,
    /// When a day next stops to count.
    pub edge_ms: i64,
    pub is_stopped: bool,
}

/// What an account owes a sibling, or a sibling owes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoanView {
    pub borrower: String,
    pub lender: String,
    pub left: GpuMicros,
}

impl Farm {
    pub(super) fn order_quota(&mut self, order: QuotaOrder) -> Reply {
        let opens = matches!(order.change, QuotaChange::Open { .. });
        if !opens && !self.accounts.contains_key(&order.account) {
            let why = format!("no account {}", order.account);
            return Reply::Ordered(Err(Refusal::Invalid(why)));
        }
        let QuotaOrder {
            actor,
            account,
            change,
        } = order;
        Reply::Ordered(match change {
            QuotaChange::Grant {
                name,
                amount,
                expires_at_ms,
            } => self.grant_quota(actor, account, &name, amount, expires_at_ms),
            QuotaChange::Budget(rule) => self.order_rule(actor, "quota_budget", account, |farm| {
                farm.set_budget(account, rule)
            }),
            QuotaChange::Capacity { pool, limits } => {
                self.order_rule(actor, "quota_capacity", account, |farm| {
                    farm.set_capacity(account, pool, limits)
                })
            }
            QuotaChange::Limits(change) => self.change_limits(actor, account, change),
            QuotaChange::Open { name, parent } => self.open_account(actor, account, name, parent),
        })
    }

    fn grant_quota(
        &mut self,
        actor: String,
        account: AccountId,
        name: &str,
        amount: GpuMicros,
        expires_at_ms: Option<i64>,
    ) -> Result<Ordered, Refusal> {
        if amount <= GpuMicros::ZERO || amount > QUOTA_MAX {
            return Err(invalid(
                "a grant is more than nothing and not absurdly much",
            ));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > GRANT_NAME_MAX || !name.chars().all(plain) {
            return Err(invalid("the name of a grant is letters, digits and -_."));
        }
        match self.grants.get(&(account, grant_key(name))) {
            Some(given) if *given == amount => return Ok(Ordered::Before),
            Some(given) => {
                return Err(Refusal::Conflict(format!(
                    "grant {name} gave {} s before",
                    given.as_secs_f64()
                )));
            }
            None => {}
        }
        if expires_at_ms.is_some_and(|at| at <= self.now) {
            return Err(invalid("a grant expires later than now"));
        }
        let was = self.quota_text(account);
        self.meter(account);
        self.mint(account, grant_key(name), amount);
        if let Some(at_ms) = expires_at_ms {
            self.set_expiry(account, grant_key(name), at_ms);
        }
        self.repay(account, name);
        self.note_order(actor, "quota_grant", account, was);
        self.wake = true;
        Ok(Ordered::Now)
    }

    fn change_limits(
        &mut self,
        actor: String,
        account: AccountId,
        change: LimitsChange,
    ) -> Result<Ordered, Refusal> {
        check_limits(change)?;
        let was = self.quota_text(account);
        if change.metered == Some(true) {
            self.meter(account);
        }
        let mut row = self.quota(account);
        row.metered = change.metered.unwrap_or(row.metered);
        row.overdraft = change.overdraft.unwrap_or(row.overdraft);
        row.jobs_max = change.jobs_max.unwrap_or(row.jobs_max);
        row.devices_max = change.devices_max.unwrap_or(row.devices_max);
        row.lend = change.lend.unwrap_or(row.lend);
        row.borrow = change.borrow.unwrap_or(row.borrow);
        self.put_quota(row);
        if let Some(weight) = change.weight {
            self.change_weight(account, weight);
        }
        self.note_order(actor, "quota_set", account, was);
        self.wake = true;
        Ok(Ordered::Now)
    }

    /// Sets a rule and notes who did.
    fn order_rule(
        &mut self,
        actor: String,
        command: &'static str,
        account: AccountId,
        set: impl FnOnce(&mut Self) -> Result<Ordered, Refusal>,
    ) -> Result<Ordered, Refusal> {
        let was = self.quota_text(account);
        let done = set(self)?;
        self.note_order(actor, command, account, was);
        self.wake = true;
        Ok(done)
    }

    fn open_account(
        &mut self,
        actor: String,
        id: AccountId,
        name: String,
        parent: Option<AccountId>,
    ) -> Result<Ordered, Refusal> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > ACCOUNT_NAME_MAX || !name.chars().all(plain) {
            return Err(invalid("the name of an account is a-z, 0-9 and -"));
        }
        if self.accounts.contains_key(&id) || self.accounts.values().any(|row| row.name == name) {
            return Err(Refusal::Conflict(format!("account {name} exists already")));
        }
        let above = parent.map(|id| self.accounts.get(&id).map(|row| row.level));
        let level = match above {
            None => Level::Org,
            Some(Some(Level::Org)) => Level::Project,
            Some(_) => {
                let why = "a project belongs to an org, and what was named is none; \
                           'dailies quota' shows which there are";
                return Err(invalid(why));
            }
        };
        let created_at_ms = self.now;
        self.add_account(AccountRow {
            id,
            parent,
            level,
            name,
            created_at_ms,
            weight: 1,
        });
        self.note_order(actor, "quota_add", id, String::new());
        Ok(Ordered::Now)
    }

    /// From now on it has a limit. What it spent while it had none is forgiven by a grant of as much;
    /// what is held stays owed, so work in flight comes out of what is granted next.
    fn meter(&mut self, account: AccountId) {
        let mut row = self.quota(account);
        if row.metered {
            return;
        }
        row.metered = true;
        self.put_quota(row);
        let balance = self.balances.get(&account).copied().unwrap_or_default();
        let owed = GpuMicros(-(balance.available.0 + balance.held.0));
        if owed > GpuMicros::ZERO {
            let key = format!("open:{}", self.seq);
            self.mint(account, key, owed);
        }
    }

    fn mint(&mut self, account: AccountId, key: String, amount: GpuMicros) {
        if key.starts_with(GRANT) {
            self.grants.insert((account, key.clone()), amount);
        }
        self.enter_one(
            account,
            &key,
            (Bucket::Mint, Bucket::Available),
            amount,
            None,
        );
    }

    fn put_quota(&mut self, row: QuotaRow) {
        self.quotas.insert(row.account, row);
        self.writes.push(Write::PutQuota(row));
    }

    fn change_weight(&mut self, account: AccountId, weight: u32) {
        let row = self
            .accounts
            .get_mut(&account)
            .expect("orders are about known accounts");
        row.weight = weight;
        let (parent, was) = (row.parent, account);
        self.queue.add_account(was, parent, weight);
        self.writes.push(Write::PutWeight { account, weight });
    }

    fn note_order(
        &mut self,
        actor: String,
        command: &'static str,
        account: AccountId,
        was: String,
    ) {
        let row = AuditRow {
            seq: self.next_seq(),
            at_ms: self.now,
            actor,
            command,
            account,
            was,
            now: self.quota_text(account),
        };
        self.writes.push(Write::InsertAudit(row));
    }

    fn quota_text(&self, account: AccountId) -> String {
        let (row, weight) = (self.quota(account), self.accounts[&account].weight);
        let available = self.balances.get(&account).map_or(0, |b| b.available.0);
        let budget = self.budgets.get(&account).map(|row| {
            let period = match row.rule.period {
                Period::Month => "month".to_owned(),
                Period::Days(days) => format!("{days}d"),
            };
            let (limit, at_limit) = (row.rule.limit.0, row.rule.at_limit.name());
            serde_json::json!({"limit_us": limit, "period": period, "at_limit": at_limit})
        });
        let rules = self
            .capacities
            .values()
            .filter(|row| row.account == account);
        let capacity: BTreeMap<&str, [u32; 3]> = rules
            .map(|row| {
                (
                    row.pool.as_str(),
                    [row.nominal, row.borrow_max, row.lend_max],
                )
            })
            .collect();
        serde_json::json!({
            "metered": row.metered, "overdraft_us": row.overdraft.0, "jobs_max": row.jobs_max,
            "devices_max": row.devices_max, "weight": weight, "available_us": available,
            "lend_us": row.lend.0, "borrow_us": row.borrow.0, "budget": budget, "capacity": capacity,
        })
        .to_string()
    }

    pub(super) fn quota(&self, account: AccountId) -> QuotaRow {
        let row = self.quotas.get(&account).copied();
        row.unwrap_or_else(|| QuotaRow::unlimited(account))
    }

    /// What a metered account lacks for a hold.
    pub(super) fn short_by(&self, account: AccountId, hold: GpuMicros) -> Option<GpuMicros> {
        let quota = self.quotas.get(&account).filter(|row| row.metered)?;
        let available = self.balances.get(&account).map_or(0, |b| b.available.0);
        let after = available.saturating_sub(hold.0);
        let short_by = GpuMicros((-quota.overdraft.0).saturating_sub(after));
        (short_by > GpuMicros::ZERO && hold > GpuMicros::ZERO).then_some(short_by)
    }

    /// The first metered account from this one up that lacks what a job would hold, and whose siblings do not lend it.
    pub(super) fn over_quota(&self, account: AccountId, hold: GpuMicros) -> Option<Refusal> {
        self.path(account).into_iter().find_map(|account| {
            let short_by = self.short_by(account, hold)?;
            let lent = self.lenders(account, short_by).is_some();
            (!lent).then(|| Refusal::OverQuota {
                account: self.accounts[&account].name.clone(),
                short_by,
            })
        })
    }

    /// The first account from this one up whose budget is used up.
    pub(super) fn over_budget(&self, account: AccountId) -> Option<Refusal> {
        match self.budget_stops(account)? {
            Waiting::BudgetStopped { account, until_ms } => {
                Some(Refusal::OverBudget { account, until_ms })
            }
            _ => None,
        }
    }

    /// What the tightest limit from the account up leaves; `None` where nothing is metered.
    pub fn quota_left(&self, account: AccountId) -> Option<GpuMicros> {
        let left = |account: AccountId| {
            let quota = self.quotas.get(&account).filter(|row| row.metered)?;
            let available = self.balances.get(&account).map_or(0, |b| b.available.0);
            Some(GpuMicros(available.saturating_add(quota.overdraft.0)))
        };
        self.path(account).into_iter().filter_map(left).min()
    }

    /// All accounts, in the order of their ids.
    pub fn quota_views(&self) -> Vec<QuotaView> {
        let view = |row: &AccountRow| {
            let load = self.loads.get(&row.id).copied().unwrap_or_default();
            QuotaView {
                account: row.clone(),
                quota: self.quota(row.id),
                balance: self.balances.get(&row.id).copied().unwrap_or_default(),
                jobs: load.jobs,
                devices: load.devices,
                budget: self.budgets.get(&row.id).map(|row| self.budget_view(row)),
                capacity: self.capacity_views(row.id),
                expiring: self.expiring(row.id),
                loans: self.loan_views(row.id),
            }
        };
        self.accounts.values().map(view).collect()
    }

    fn budget_view(&self, row: &BudgetRow) -> BudgetView {
        BudgetView {
            rule: row.rule.clone(),
            spent: row.spent(self.now),
            percent: row.percent(self.now),
            edge_ms: row.rule.edge_ms(self.now),
            is_stopped: self.stopped.contains_key(&row.account),
        }
    }

    fn expiring(&self, account: AccountId) -> Vec<(String, GpuMicros, i64)> {
        let rows = self
            .expiries
            .values()
            .filter(|row| row.account == account && !row.done);
        let name = |key: &str| key.strip_prefix(GRANT).unwrap_or(key).to_owned();
        rows.map(|row| (name(&row.key), self.rest_of(row), row.expires_at_ms))
            .collect()
    }

    fn loan_views(&self, account: AccountId) -> Vec<LoanView> {
        let of = |loan: &&LoanRow| [loan.borrower, loan.lender].contains(&account);
        let view = |loan: &LoanRow| LoanView {
            borrower: self.accounts[&loan.borrower].name.clone(),
            lender: self.accounts[&loan.lender].name.clone(),
            left: loan.left,
        };
        self.loans.values().filter(of).map(view).collect()
    }
}

/// Keys of grants begin with it.
pub const GRANT: &str = "grant:";

fn grant_key(name: &str) -> String {
    format!("{GRANT}{name}")
}

fn invalid(why: &str) -> Refusal {
    Refusal::Invalid(why.into())
}

fn check_limits(change: LimitsChange) -> Result<(), Refusal> {
    if change.weight.is_some_and(|w| w == 0 || w > WEIGHT_MAX) {
        return Err(Refusal::Invalid(format!("a weight is 1 to {WEIGHT_MAX}")));
    }
    let amounts = [change.overdraft, change.lend, change.borrow];
    let odd = |amount: &GpuMicros| *amount < GpuMicros::ZERO || *amount > QUOTA_MAX;
    match amounts.iter().flatten().any(odd) {
        true => Err(invalid(
            "an overdraft and what is lent or borrowed are not negative and not absurdly much",
        )),
        false => Ok(()),
    }
}

/// Hash of an entry: BLAKE3 over the hash before it and all of its fields. The first has none before it.
pub fn chained(before: Option<Digest>, row: &LedgerRow) -> Digest {
    let before = before.map(|digest| digest.to_string());
    let fields = (
        before,
        row.seq,
        &row.key,
        row.account,
        row.from,
        row.to,
        row.amount,
        row.at_ms,
        row.why,
    );
    let bytes = serde_json::to_vec(&fields).expect("numbers, texts and ids have a JSON form");
    Digest::of(&bytes)
}
