//! What an account may have: a limit in device time, caps on what runs at once, and who changed them.
//!
//! An account without a [`QuotaRow`], or with one that is not metered, has no limit: what it uses is
//! counted all the same. A metered one must have what a job holds, or the job is not made.

use schemas::{AccountId, Digest, GpuMicros};
use serde::{Deserialize, Serialize};

use super::{
    Farm,
    command::{Refusal, Reply},
    rows::{AccountRow, Balance, Bucket, LedgerRow, Level},
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
}

impl QuotaRow {
    pub fn unlimited(account: AccountId) -> Self {
        Self {
            account,
            metered: false,
            overdraft: GpuMicros::ZERO,
            jobs_max: None,
            devices_max: None,
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
    },
    Limits(LimitsChange),
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
            QuotaChange::Grant { name, amount } => self.grant_quota(actor, account, &name, amount),
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
        let was = self.quota_text(account);
        self.meter(account);
        self.mint(account, grant_key(name), amount);
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
        self.put_quota(row);
        if let Some(weight) = change.weight {
            self.change_weight(account, weight);
        }
        self.note_order(actor, "quota_set", account, was);
        self.wake = true;
        Ok(Ordered::Now)
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
            Some(_) => return Err(invalid("a project belongs to an org")),
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
        serde_json::json!({
            "metered": row.metered, "overdraft_us": row.overdraft.0, "jobs_max": row.jobs_max,
            "devices_max": row.devices_max, "weight": weight, "available_us": available,
        })
        .to_string()
    }

    pub(super) fn quota(&self, account: AccountId) -> QuotaRow {
        let row = self.quotas.get(&account).copied();
        row.unwrap_or_else(|| QuotaRow::unlimited(account))
    }

    /// The first metered account from the project up that lacks what a job would hold.
    pub fn over_quota(&self, project: AccountId, hold: GpuMicros) -> Option<Refusal> {
        self.path(project).into_iter().find_map(|account| {
            let quota = self.quotas.get(&account).filter(|row| row.metered)?;
            let available = self.balances.get(&account).map_or(0, |b| b.available.0);
            let after = available.saturating_sub(hold.0);
            let short_by = GpuMicros((-quota.overdraft.0).saturating_sub(after));
            (short_by > GpuMicros::ZERO && hold > GpuMicros::ZERO).then(|| Refusal::OverQuota {
                account: self.accounts[&account].name.clone(),
                short_by,
            })
        })
    }

    /// What the tightest limit above the project leaves; `None` where nothing is metered.
    pub fn quota_left(&self, project: AccountId) -> Option<GpuMicros> {
        let left = |account: AccountId| {
            let quota = self.quotas.get(&account).filter(|row| row.metered)?;
            let available = self.balances.get(&account).map_or(0, |b| b.available.0);
            Some(GpuMicros(available.saturating_add(quota.overdraft.0)))
        };
        self.path(project).into_iter().filter_map(left).min()
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
            }
        };
        self.accounts.values().map(view).collect()
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
    match change.overdraft {
        Some(amount) if amount < GpuMicros::ZERO || amount > QUOTA_MAX => Err(invalid(
            "an overdraft is not negative and not absurdly much",
        )),
        _ => Ok(()),
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
