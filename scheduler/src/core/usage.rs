//! What each account has had of the farm: charged at the grant by the estimate, corrected at the end.
//!
//! Without the charge at the grant a burst of free devices would all go to one account.

use schemas::{AccountId, TaskId};

use super::{Farm, decay::Decayed, rows::TaskState, write::Write};

impl Farm {
    /// A task was granted now: its account, and those above it, have had what it is expected to take.
    pub(super) fn charge_usage(&mut self, id: TaskId) {
        let estimate_us = self.task_at(id).row.device_us();
        self.use_farm(id, estimate_us, self.now);
    }

    /// An attempt ended: what it took of each device counts in place of the estimate.
    pub(super) fn correct_usage(&mut self, id: TaskId, granted_at_ms: i64, device_us: Option<i64>) {
        let took_us = device_us.unwrap_or((self.now - granted_at_ms).max(0) * 1000);
        let row = &self.task_at(id).row;
        let took_us = took_us.saturating_mul(row.devices().into());
        let more_us = took_us.saturating_sub(row.device_us());
        self.use_farm(id, more_us, granted_at_ms);
    }

    fn use_farm(&mut self, id: TaskId, device_us: i64, at_ms: i64) {
        let job = &self.job_at(self.task_at(id).row.job).row;
        let (account, band, percent) = (job.account(), job.band, job.band.factor_percent());
        if let TaskState::Leased(holder) = self.task_at(id).row.state {
            let recent = self.recent_of(holder.agent, holder.device);
            recent.charge(band, device_us as f64, at_ms);
        }
        let amount = device_us as f64 * percent as f64 / 100.0;
        for account in self.path(account) {
            let usage = self.queue.usage(account).add(amount, at_ms);
            self.queue.set_usage(account, usage);
            self.writes.push(Write::PutUsage { account, usage });
        }
    }

    /// Device seconds that still count for the account.
    pub(super) fn used_s(&self, account: AccountId) -> u64 {
        (self.queue.usage(account).at(self.now) / 1e6).round() as u64
    }

    /// Usage of all accounts that have any.
    pub(super) fn used(&self) -> Vec<(AccountId, Decayed)> {
        let rows = self.accounts.keys().map(|id| (*id, self.queue.usage(*id)));
        rows.filter(|(_, usage)| *usage != Decayed::default())
            .collect()
    }
}
