//! How much of the farm an account has at this moment, and whether its caps allow more.
//!
//! Jobs and devices are counted on every level of the path, with caps or without, so that a cap
//! set later is right at once. Derived from jobs and leases; a rebuild counts anew.

use schemas::{AccountId, JobId, TaskId};

use super::{
    Farm,
    command::Refusal,
    explain::Waiting,
    rows::{JobState, NewTask, TaskState},
};

/// What runs for an account and those below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub jobs: u32,
    pub devices: u32,
}

impl Farm {
    /// The devices of a lease begin (`by` = 1) or end (-1) to work for the task's account.
    pub(super) fn count_device(&mut self, id: TaskId, by: i32) {
        let band = self.job_at(self.task_at(id).row.job).row.band;
        let leased = &mut self.leased[band as usize];
        *leased = leased
            .checked_add_signed(by)
            .expect("only what was counted is taken off");
        if let TaskState::Leased(holder) = self.task_at(id).row.state {
            self.count_pool(id, holder, by);
        }
        let devices = by * self.task_at(id).row.devices() as i32;
        self.count(self.account_of(id), |load| &mut load.devices, devices);
    }

    /// A job has changed from state `was`.
    pub(super) fn count_job(&mut self, id: JobId, was: Option<JobState>) {
        let row = &self.job_at(id).row;
        let renders = |state| state == JobState::Rendering;
        let (account, now) = (row.account(), renders(row.state));
        match (was.is_some_and(renders), now) {
            (false, true) => self.count(account, |load| &mut load.jobs, 1),
            (true, false) => self.count(account, |load| &mut load.jobs, -1),
            _ => {}
        }
    }

    fn count(&mut self, account: AccountId, part: impl Fn(&mut Load) -> &mut u32, by: i32) {
        for account in self.path(account) {
            let load = self.loads.entry(account).or_default();
            let number = part(load);
            *number = number
                .checked_add_signed(by)
                .expect("only what was counted is taken off");
            if *load == Load::default() {
                self.loads.remove(&account);
            }
        }
    }

    /// A group that is larger than an account may have devices at once could never start. One that may have none is
    /// held back by its operator, and its films wait.
    pub(super) fn group_over_cap(&self, account: AccountId, tasks: &[NewTask]) -> Option<Refusal> {
        let devices = tasks.iter().map(|task| task.spec.devices()).max()?;
        self.path(account).into_iter().find_map(|account| {
            let max = self.quotas.get(&account)?.devices_max?;
            let name = &self.accounts[&account].name;
            let why = format!(
                "'{name}' may use {max} devices at once, and each shot asks for {devices}; ask for fewer, \
                 or have an operator allow more: dailies quota set {name} --devices {devices}"
            );
            let param = "devices";
            (devices > 1 && (1..devices).contains(&max)).then_some(Refusal::NeverStarts { param, why })
        })
    }

    /// The first account from the task's up whose budget is used up, or whose cap a grant of it would break.
    pub(super) fn capped(&self, id: TaskId) -> Option<Waiting> {
        let stopped = self.budget_stops(self.account_of(id));
        if stopped.is_some() || self.quotas.is_empty() {
            return stopped;
        }
        let row = &self.task_at(id).row;
        let (job, devices) = (&self.job_at(row.job).row, row.devices());
        let begins = job.state == JobState::Waiting;
        self.path(job.account()).into_iter().find_map(|account| {
            let quota = self.quotas.get(&account)?;
            let load = self.loads.get(&account).copied().unwrap_or_default();
            let full = |used: u32, more: u32, max: Option<u32>| {
                Some((used, max.filter(|max| used + more > *max)?))
            };
            let jobs = || full(load.jobs, 1, quota.jobs_max).filter(|_| begins);
            let (used, of) = full(load.devices, devices, quota.devices_max).or_else(jobs)?;
            let account = self.accounts[&account].name.clone();
            Some(Waiting::ConcurrencyCap { account, used, of })
        })
    }
}
