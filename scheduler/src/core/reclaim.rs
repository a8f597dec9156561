//! A lender that needs its devices takes them back from borrowers, one denoising step later.
//!
//! An account is short in a pool when work of it waits, and fewer devices work for it there than are its
//! own. After [`RECLAIM_AFTER_MS`] of that, if no device is free for it, running work of accounts that use more than
//! their own gives way, the cheapest first. After each victim the shares are counted as if it had left, so that nobody
//! is pressed below what is theirs and no more is taken than the lender is short of.

use std::collections::BTreeMap;

use schemas::{AccountId, TaskId, task::TaskKind};

use super::{
    Farm,
    capacity::CapacityRow,
    limits::{RECLAIM_AFTER_MS, RECLAIM_LOOKED_AT, RECLAIMS_AT_ONCE},
    rows::{Band, TaskState},
    task::YieldWhy,
    timers::Timer,
};

/// How many devices of each pool each account will have more than now: what yields leaves, and those it
/// yields to get what it leaves.
#[derive(Default)]
struct Moving(BTreeMap<AccountId, BTreeMap<String, i64>>);

impl Moving {
    fn add(&mut self, accounts: Vec<AccountId>, pool: &str, by: i64) {
        for account in accounts {
            let pools = self.0.entry(account).or_default();
            *pools.entry(pool.to_owned()).or_default() += by;
        }
    }

    fn of(&self, account: AccountId, pool: &str) -> i64 {
        let by = self.0.get(&account).and_then(|pools| pools.get(pool));
        by.copied().unwrap_or(0)
    }
}

impl Farm {
    /// Asked after every command: of all rules only what is quick to see, and the rest once a clock has run out.
    pub(super) fn reclaim(&mut self) {
        if self.capacities.is_empty() || self.takes_none {
            return;
        }
        let mut moving = self.moving();
        let lacks = |row: &&CapacityRow| {
            let waits = self.eligible.get(&row.account).is_some_and(|n| *n > 0);
            waits && i64::from(row.nominal) > self.share(&moving, row.account, &row.pool)
        };
        let lacking: Vec<CapacityRow> = self.capacities.values().filter(lacks).cloned().collect();
        let is_lacking = |(account, pool): &(AccountId, String)| {
            let mut rows = lacking.iter();
            rows.any(|row| (row.account, &row.pool) == (*account, pool))
        };
        self.short_since.retain(|key, _| is_lacking(key));
        let mut looked_at = 0;
        for row in &lacking {
            let key = (row.account, row.pool.clone());
            let since = self.short_since.get(&key).copied();
            let is_due = since.is_some_and(|since| since + RECLAIM_AFTER_MS <= self.now);
            if is_due && looked_at == RECLAIMS_AT_ONCE {
                self.timers.arm(self.now + 1, Timer::Reclaim); // the next command looks at it
                continue;
            }
            if is_due {
                looked_at += 1;
                self.reclaim_for(row, &mut moving);
            }
            if is_due || since.is_none() {
                // Devices may be free for what waits, or the guards of preemption say not yet.
                self.short_since.insert(key, self.now);
                self.timers.arm(self.now + RECLAIM_AFTER_MS, Timer::Reclaim);
            }
        }
    }

    fn reclaim_for(&mut self, row: &CapacityRow, moving: &mut Moving) {
        let mut taken = Vec::new();
        let waiting = self.queue.first_of(row.account, RECLAIM_LOOKED_AT);
        let unserved: Vec<TaskId> = waiting
            .into_iter()
            // To join a film takes seconds: no render gives way for it.
            .filter(|id| self.task_at(*id).row.kind() == TaskKind::Render)
            .filter(|id| !self.is_served(*id) && self.capped(*id).is_none())
            .filter(|id| !self.free_device(*id, &mut taken))
            .collect();
        let mut short = i64::from(row.nominal) - self.share(moving, row.account, &row.pool);
        for task in unserved {
            let devices = i64::from(self.task_at(task).row.devices());
            if short < devices {
                continue; // it would press others below what is theirs
            }
            short -= devices;
            let own = self.path(self.account_of(task));
            let taking = self.cheapest_taking(task, |id| {
                let band = self.job_at(self.task_at(id).row.job).row.band;
                band > Band::Urgent && self.is_borrowed(id, &row.pool, &own, moving)
            });
            let Some(taking) = taking.filter(|taking| self.take_tokens(taking)) else {
                return;
            };
            for victim in &taking.victims {
                let devices = i64::from(self.task_at(*victim).row.devices());
                moving.add(self.path_of(*victim), &row.pool, -devices);
            }
            self.take_devices(taking, task, YieldWhy::Owner(task));
        }
    }

    /// Devices of a pool that work for an account, as if what yields had left.
    fn share(&self, moving: &Moving, account: AccountId, pool: &str) -> i64 {
        i64::from(self.pool_used(account, pool)) + moving.of(account, pool)
    }

    /// Only renders count, as everywhere in capacity.
    fn moving(&self) -> Moving {
        let mut moving = Moving::default();
        for id in &self.yielding {
            let task = self.task_at(*id);
            let yields = task.live.as_ref().and_then(|live| live.yields);
            let (TaskState::Leased(holder), Some(yields), TaskKind::Render) =
                (&task.row.state, yields, task.row.kind())
            else {
                continue;
            };
            let pool = self.pool_of(holder.agent, holder.device);
            let devices = i64::from(holder.group.count());
            moving.add(self.path_of(*id), pool, -devices);
            let to = yields.why.beneficiary();
            moving.add(to.map_or(Vec::new(), |id| self.path_of(id)), pool, devices);
        }
        for ((agent, device), kept) in &self.handovers {
            if kept.until_ms > self.now && !self.busy.contains_key(&(*agent, *device)) {
                let pool = self.pool_of(*agent, *device);
                moving.add(self.path_of(kept.task), pool, 1);
            }
        }
        moving
    }

    fn path_of(&self, id: TaskId) -> Vec<AccountId> {
        match self.tasks.contains_key(&id) {
            true => self.path(self.account_of(id)),
            false => Vec::new(), // its job was deleted
        }
    }

    /// Whether a running task uses a device that is not its account's own, nor its owner's who asks.
    fn is_borrowed(&self, id: TaskId, pool: &str, asks: &[AccountId], moving: &Moving) -> bool {
        let task = self.task_at(id);
        let runs_here = match task.row.state {
            TaskState::Leased(holder) => self.pool_of(holder.agent, holder.device) == pool,
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
        let above =
            |row: &CapacityRow| self.share(moving, row.account, pool) > i64::from(row.nominal);
        runs_here && (lends_none || ruled.any(above))
    }
}
