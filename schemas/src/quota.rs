//! Quota on the wire: accounts with their limits and balances, entries of the ledger with their arithmetic.

use serde::{Deserialize, Serialize};

/// An account as an operator sees it. Seconds are of the reference device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuotaAccount {
    /// Always `quota.account`.
    pub object: String,
    pub name: String,
    /// `org`, `project` or `user`.
    pub level: String,
    /// Name of the account above.
    pub parent: Option<String>,
    pub weight: u32,
    /// Jobs need what they hold in `available_seconds`; off, the account has no limit.
    pub metered: bool,
    pub overdraft_seconds: f64,
    pub max_jobs: Option<u32>,
    pub max_devices: Option<u32>,
    pub granted_seconds: f64,
    pub available_seconds: f64,
    pub held_seconds: f64,
    pub spent_seconds: f64,
    pub running_jobs: u32,
    pub running_devices: u32,
    /// What siblings may owe it in all, and what it may owe them.
    #[serde(default)]
    pub lend_seconds: f64,
    #[serde(default)]
    pub borrow_seconds: f64,
    #[serde(default)]
    pub budget: Option<QuotaBudget>,
    /// Devices by pool.
    #[serde(default)]
    pub capacity: Vec<QuotaCapacity>,
    /// Grants that will expire.
    #[serde(default)]
    pub expiring: Vec<QuotaExpiry>,
    #[serde(default)]
    pub loans: Vec<QuotaLoan>,
}

/// What may be spent in a period. Warnings at 50, 80 and 95 % are events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuotaBudget {
    pub limit_seconds: f64,
    /// `month`, or a number of days as in `30d`.
    pub period: String,
    /// IANA name of the zone whose days count.
    pub zone: String,
    /// `stop_and_complete` or `stop_and_cancel`.
    pub at_limit: String,
    pub spent_seconds: f64,
    pub percent: u32,
    /// Nothing more starts.
    pub stopped: bool,
    /// Unix seconds at which a day next stops to count.
    pub next_edge: i64,
}

/// `may_use = nominal + min(borrow, lent_by_siblings)`, in devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuotaCapacity {
    /// Device class.
    pub pool: String,
    pub nominal: u32,
    pub borrow: u32,
    pub lend: u32,
    pub used: u32,
    /// Tasks that wait and could start.
    pub waiting: u32,
    pub lent_by_siblings: u32,
    pub may_use: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuotaExpiry {
    /// Of the grant.
    pub name: String,
    pub left_seconds: f64,
    /// Unix seconds.
    pub expires_at: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuotaLoan {
    pub borrower: String,
    pub lender: String,
    pub left_seconds: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuotaList {
    /// Always `list`.
    pub object: String,
    pub data: Vec<QuotaAccount>,
}

/// An account and its last entries, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuotaDetail {
    pub account: QuotaAccount,
    pub entries: Vec<QuotaEntry>,
}

/// One entry of the ledger: `seconds` left `from` and reached `to`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuotaEntry {
    pub seq: i64,
    /// Unix seconds.
    pub created_at: i64,
    /// What it is for, as `post:TASK:ATTEMPT` or `hold:JOB`.
    pub key: String,
    pub from: String,
    pub to: String,
    pub seconds: f64,
    /// Only charges have it.
    pub arithmetic: Option<QuotaArithmetic>,
}

/// `steps × seconds_per_step × devices × rate × factor`, at most `at_most_seconds`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuotaArithmetic {
    /// 1 for work without steps, whose time is then one step.
    pub steps: u32,
    pub seconds_per_step: f64,
    pub devices: u32,
    pub rate: f64,
    pub factor: f64,
    pub at_most_seconds: f64,
}

/// The answer to a grant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuotaGrant {
    /// Always `quota.grant`.
    pub object: String,
    /// Names the grant; the same name gives nothing a second time.
    pub name: String,
    /// False when the same grant came before.
    pub granted: bool,
    pub account: QuotaAccount,
}
