//! Capacity: how many devices of a pool an account may use, its own and borrowed ones.
//!
//! `may_use = nominal + min(borrow_max, sum over siblings of min(lend_max, nominal - demand))`, and every
//! account above must allow it too. Demand is what works for an account and what waits for it. An account
//! without a row for a pool has no rule there. Only render tasks count: they are what devices are for.
//!
//! A lender that is short of its nominal devices takes them back: see [`super::reclaim`].

use std::collections::BTreeSet;

use schemas::{AccountId, TaskId, task::TaskKind};

use super::{
    Farm,
    command::Refusal,
    explain::Waiting,
    quota::Ordered,
    rows::{Holder, TaskState},
    write::Write,
};

/// Most devices that a rule may name.
pub const CAPACITY_MAX: u32 = 100_000;
/// Longest name of a pool.
pub const POOL_NAME_MAX: usize = 64;

/// Devices of one pool for one account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapacityRow {
    pub account: AccountId,
    /// Device class.
    pub pool: String,
    /// Devices that are its own.
    pub nominal: u32,
    /// Devices that it may use beyond them while siblings do not need theirs.
    pub borrow_max: u32,
    /// Devices that siblings may use while it does not need them.
    pub lend_max: u32,
}

/// A rule and what it comes to now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapacityView {
    pub row: CapacityRow,
    pub used: u32,
    /// Devices that tasks which could start wait for.
    pub waiting: u32,
    /// What siblings lend now.
    pub lent_by_siblings: u32,
    pub may_use: u32,
}

impl Farm {
    pub(super) fn set_capacity(
        &mut self,
        account: AccountId,
        pool: String,
        limits: Option<[u32; 3]>,
    ) -> Result<Ordered, Refusal> {
        if pool.is_empty() || pool.len() > POOL_NAME_MAX {
            return Err(Refusal::Invalid(
                "a pool is named by its device class".into(),
            ));
        }
        let key = (account, pool.clone());
        let Some([nominal, borrow_max, lend_max]) = limits else {
            self.capacities.remove(&key);
            self.short_since.remove(&key);
            self.writes.push(Write::RemoveCapacity { account, pool });
            self.recount_capacity();
            return Ok(Ordered::Now);
        };
        if [nominal, borrow_max, lend_max]
            .iter()
            .any(|n| *n > CAPACITY_MAX)
        {
            return Err(Refusal::Invalid(format!(
                "devices are at most {CAPACITY_MAX}"
            )));
        }
        self.check_pool(&pool)?;
        let row = CapacityRow {
            account,
            pool,
            nominal,
            borrow_max,
            lend_max,
        };
        self.capacities.insert(key, row.clone());
        self.writes.push(Write::PutCapacity(row));
        self.recount_capacity();
        Ok(Ordered::Now)
    }

    /// A class that no node has is most likely mistyped; before any node has come every name will do.
    fn check_pool(&self, pool: &str) -> Result<(), Refusal> {
        let devices = self.agents.values().flat_map(|agent| &agent.row.devices);
        let known: BTreeSet<&str> = devices.map(|device| device.class.as_str()).collect();
        if known.is_empty() || known.contains(pool) {
            return Ok(());
        }
        let known: Vec<&str> = known.into_iter().collect();
        let known = known.join("', '");
        Err(Refusal::Invalid(format!(
            "no node has devices of the class '{pool}'; the farm has '{known}'"
        )))
    }

    /// Counts anew what works and waits: after a rebuild, and when the rules change.
    pub(super) fn recount_capacity(&mut self) {
        self.pool_used.clear();
        self.eligible.clear();
        self.eligible_packed.clear();
        if self.capacities.is_empty() {
            return;
        }
        for id in self.tasks.keys().copied().collect::<Vec<_>>() {
            match self.task_at(id).row.state {
                TaskState::Leased(holder) => self.count_pool(id, holder, 1),
                _ if self.could_start(id) => self.count_eligible(id, 1),
                _ => {}
            }
        }
        for account in self.backlog.accounts() {
            self.count_packed(account);
        }
    }

    /// What waits packed for an account itself has changed, or may have.
    pub(super) fn count_packed(&mut self, account: AccountId) {
        if self.capacities.is_empty() {
            return;
        }
        let now = self.backlog.devices(account) as u32;
        let was = self.eligible_packed.insert(account, now).unwrap_or(0);
        let by = now.cast_signed() - was.cast_signed();
        if by != 0 {
            for account in self.path(account) {
                add(self.eligible.entry(account).or_default(), by);
            }
        }
    }

    /// Devices of a pool begin (`by` = 1) or end (-1) to work for the task's accounts.
    pub(super) fn count_pool(&mut self, id: TaskId, holder: Holder, by: i32) {
        if self.capacities.is_empty() || self.task_at(id).row.kind() != TaskKind::Render {
            return;
        }
        let pool = self.pool_of(holder.agent, holder.device).to_owned();
        let by = by * holder.group.count() as i32;
        for account in self.path(self.account_of(id)) {
            let pools = self.pool_used.entry(account).or_default();
            match pools.get_mut(&pool) {
                Some(used) => add(used, by),
                None => add(pools.entry(pool.clone()).or_default(), by),
            }
        }
    }

    /// A task begins or ends to wait for its devices.
    pub(super) fn count_eligible(&mut self, id: TaskId, by: i32) {
        if self.capacities.is_empty() || self.task_at(id).row.kind() != TaskKind::Render {
            return;
        }
        let by = by * self.task_at(id).row.devices() as i32;
        for account in self.path(self.account_of(id)) {
            add(self.eligible.entry(account).or_default(), by);
        }
    }

    pub(super) fn account_of(&self, id: TaskId) -> AccountId {
        self.job_at(self.task_at(id).row.job).row.account()
    }

    pub(super) fn pool_used(&self, account: AccountId, pool: &str) -> u32 {
        let used = self.pool_used.get(&account).and_then(|of| of.get(pool));
        used.copied().unwrap_or(0)
    }

    fn demand(&self, account: AccountId, pool: &str) -> u32 {
        let waiting = self.eligible.get(&account).copied().unwrap_or(0);
        self.pool_used(account, pool).saturating_add(waiting)
    }

    fn lent_by_siblings(&self, account: AccountId, pool: &str) -> u32 {
        let parent = self.accounts.get(&account).and_then(|row| row.parent);
        let siblings = self.capacities.values().filter(|row| {
            let of = self.accounts.get(&row.account).and_then(|row| row.parent);
            row.pool == pool && row.account != account && of == parent
        });
        siblings
            .map(|row| {
                let idle = row.nominal.saturating_sub(self.demand(row.account, pool));
                idle.min(row.lend_max)
            })
            .fold(0, u32::saturating_add)
    }

    fn may_use(&self, row: &CapacityRow) -> u32 {
        let lent = self.lent_by_siblings(row.account, &row.pool);
        row.nominal.saturating_add(row.borrow_max.min(lent))
    }

    /// The first account from the task's up that may not use as many more devices of the pool.
    pub(super) fn over_capacity(&self, id: TaskId, pool: &str) -> Option<Waiting> {
        if self.capacities.is_empty() || self.task_at(id).row.kind() != TaskKind::Render {
            return None;
        }
        let devices = self.task_at(id).row.devices();
        self.path(self.account_of(id))
            .into_iter()
            .find_map(|account| {
                let row = self.capacities.get(&(account, pool.to_owned()))?;
                let (used, of) = (self.pool_used(account, pool), self.may_use(row));
                let account = self.accounts[&account].name.clone();
                (used.saturating_add(devices) > of).then_some(Waiting::BorrowLimit {
                    account,
                    used,
                    of,
                })
            })
    }

    /// Rules of an account, with what they come to now.
    pub fn capacity_views(&self, account: AccountId) -> Vec<CapacityView> {
        let rows = self
            .capacities
            .values()
            .filter(|row| row.account == account);
        rows.map(|row| CapacityView {
            used: self.pool_used(account, &row.pool),
            waiting: self.eligible.get(&account).copied().unwrap_or(0),
            lent_by_siblings: self.lent_by_siblings(account, &row.pool),
            may_use: self.may_use(row),
            row: row.clone(),
        })
        .collect()
    }
}

fn add(number: &mut u32, by: i32) {
    *number = number
        .checked_add_signed(by)
        .expect("only what was counted is taken off");
}
