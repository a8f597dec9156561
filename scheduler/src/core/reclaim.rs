//! A lender that needs its devices takes them back from borrowers, one denoising step later.
//!
//! An account is short in a pool when work of it waits, and fewer devices work for it there than are its
//! own. After [`RECLAIM_AFTER_MS`] of that, running work of accounts that use more than their own gives
//! way, the cheapest first. After each victim the shares are counted as if it had left, so that nobody
//! is pressed below what is theirs and no more is taken than the lender is short of.

use std::collections::BTreeMap;

use schemas::{AccountId, TaskId, task::TaskKind};

use super::{
    Farm,
    capacity::CapacityRow,
    limits::{RECLAIM_AFTER_MS, RECLAIM_LOOKED_AT},
    rows::Band,
    task::YieldWhy,
    timers::Timer,
};

/// Devices of a pool by account, as if what yields had left.
type Shares = BTreeMap<AccountId, i64>;

impl Farm {
    pub(super) fn reclaim(&mut self) {
        if self.capacities.is_empty() || self.takes_none {
            return;
        }
        for row in self.capacities.values().cloned().collect::<Vec<_>>() {
            self.reclaim_for(&row);
        }
    }

    fn reclaim_for(&mut self, row: &CapacityRow) {
        let key = (row.account, row.pool.clone());
        let mut shares = self.shares(&row.pool);
        let mut taken = Vec::new();
        let waiting = self.queue.first_of(row.account, RECLAIM_LOOKED_AT);
        let unserved: Vec<TaskId> = waiting
            .into_iter()
            // To join a film takes seconds: no render gives way for it.
            .filter(|id| self.task_at(*id).row.kind() == TaskKind::Render)
            .filter(|id| !self.is_served(*id) && self.capped(*id).is_none())
            .filter(|id| !self.free_device(*id, &mut taken))
            .collect();
        let short = i64::from(row.nominal) - shares.get(&row.account).copied().unwrap_or(0);
        if unserved.is_empty() || short < 1 {
            self.short_since.remove(&key);
            return;
        }
        let since = *self.short_since.entry(key).or_insert(self.now);
        if self.now < since + RECLAIM_AFTER_MS {
            self.timers.arm(since + RECLAIM_AFTER_MS, Timer::Reclaim);
            return;
        }
        let mut short = short;
        for task in unserved {
            let devices = i64::from(self.task_at(task).row.devices());
            if short < devices {
                continue; // it would press others below what is theirs
            }
            short -= devices;
            let own = self.path(self.account_of(task));
            let taking = self.cheapest_taking(task, |id| {
                let band = self.job_at(self.task_at(id).row.job).row.band;
                band > Band::Urgent && self.is_borrowed(id, &row.pool, &own, &shares)
            });
            let Some(taking) = taking.filter(|taking| self.take_tokens(taking)) else {
                // The guards of preemption say not yet.
                self.timers.arm(self.now + RECLAIM_AFTER_MS, Timer::Reclaim);
                return;
            };
            for victim in &taking.victims {
                let devices = i64::from(self.task_at(*victim).row.devices());
                for account in self.path(self.account_of(*victim)) {
                    *shares.entry(account).or_default() -= devices;
                }
            }
            self.take_devices(taking, task, YieldWhy::Owner(task));
        }
    }

    /// Devices that work for each account: those that yield count for whom they yield.
    fn shares(&self, pool: &str) -> Shares {
        let mut shares = Shares::new();
        for ((agent, device), id) in &self.busy {
            if self.pool_of(*agent, *device) != pool {
                continue;
            }
            let live = self.task_at(*id).live.as_ref();
            let works_for = match live.and_then(|live| live.yields) {
                Some(yields) => yields.why.beneficiary(),
                None => Some(*id),
            };
            for account in works_for.map_or(Vec::new(), |id| self.path_of(id)) {
                *shares.entry(account).or_default() += 1;
            }
        }
        for ((agent, device), kept) in &self.handovers {
            if kept.until_ms > self.now && self.pool_of(*agent, *device) == pool {
                for account in self.path_of(kept.task) {
                    *shares.entry(account).or_default() += 1;
                }
            }
        }
        shares
    }

    fn path_of(&self, id: TaskId) -> Vec<AccountId> {
        match self.tasks.contains_key(&id) {
            true => self.path(self.account_of(id)),
            false => Vec::new(), // its job was deleted
        }
    }

    /// Whether a running task uses a device that is not its account's own, nor its owner's who asks.
    fn is_borrowed(&self, id: TaskId, pool: &str, asks: &[AccountId], shares: &Shares) -> bool {
        let task = self.task_at(id);
        let runs_here = match task.row.state {
            super::rows::TaskState::Leased(holder) => {
                self.pool_of(holder.agent, holder.device) == pool
            }
            _ => false,
        };
        let others = self
            .path(self.account_of(id))
            .into_iter()
            .filter(|account| !asks.contains(account));
        let mut ruled = others
            .filter_map(|account| self.capacities.get(&(account, pool.to_owned())))
            .peekable();
        // Who has no rule here owns no device here.
        let lends_none = ruled.peek().is_none() && !asks.contains(&self.account_of(id));
        let above = |row: &CapacityRow| {
            shares.get(&row.account).copied().unwrap_or(0) > i64::from(row.nominal)
        };
        runs_here && (lends_none || ruled.any(above))
    }
}
