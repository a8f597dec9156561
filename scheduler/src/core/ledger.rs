//! Quota: one reservation a job, double entries on every account of its path.
//!
//! ```text
//! Pending{held, posted} --settle--> Posted
//!         '--void--> Voided (nothing posted) or Posted
//! ```
//! A hold moves `available -> held`; a post `held -> spent`; a void `held -> available`; a refund
//! `spent -> available`; a grant `mint -> available`, and back when it expires. Work counts up to the hold, which is the ceiling
//! that was quoted. Every entry is chained to the one before it, so that none can be changed unseen.

use schemas::{AccountId, Digest, GpuMicros, JobId, TaskId};

use super::{
    Farm,
    quota::{Arithmetic, chained},
    rows::{Balance, Bucket, LedgerRow, ReservationRow, ReservationState},
    write::Write,
};

/// Levels of accounts from a user up; the walk ends there even if the rows had a cycle.
const LEVELS_MAX: usize = 4;

impl Farm {
    /// The reservation of a new job, which enters memory with it.
    pub(super) fn hold(
        &mut self,
        job: JobId,
        account: AccountId,
        held: GpuMicros,
    ) -> ReservationRow {
        let row = ReservationRow::new(job, account, held);
        self.writes.push(Write::InsertReservation(row.clone()));
        let key = format!("hold:{job}");
        for account in self.path(account) {
            if let Some(short_by) = self.short_by(account, held) {
                self.borrow_for(account, short_by, &key);
            }
        }
        self.enter_all(account, key, (Bucket::Available, Bucket::Held), held, None);
        row
    }

    /// Charges the work of one finished task, at most what is still held.
    pub(super) fn post_part(&mut self, job: JobId, task: TaskId, attempt: u32) {
        let row = self.reservation(job);
        let (account, held) = (row.account, row.held);
        let why = self.arithmetic(job, task, held);
        let amount = why.amount();
        self.change_reservation(job, |row| {
            row.held.0 -= amount.0;
            row.posted.0 += amount.0;
        });
        self.charge_budgets(account, amount, job);
        let key = format!("post:{task}:{attempt}");
        self.enter_all(
            account,
            key,
            (Bucket::Held, Bucket::Spent),
            amount,
            Some(why),
        );
    }

    /// Every device counts as one of the reference class so far.
    fn arithmetic(&self, job: JobId, task: TaskId, held: GpuMicros) -> Arithmetic {
        let row = &self.task_at(task).row;
        Arithmetic {
            steps: row.steps,
            device_us: row.used.0,
            devices: row.devices(),
            rate_ppm: 1_000_000,
            factor_percent: self.job_at(job).row.band.factor_percent(),
            at_most_us: held.0,
        }
    }

    /// The job is published: what was not used goes back.
    pub(super) fn settle(&mut self, job: JobId) {
        self.release_rest(job, ReservationState::Posted);
    }

    pub(super) fn void(&mut self, job: JobId) {
        let state = match self.reservation(job).posted {
            GpuMicros::ZERO => ReservationState::Voided,
            _ => ReservationState::Posted,
        };
        self.release_rest(job, state);
    }

    /// The farm is to blame, or nothing came of it: the owner gets back what was posted.
    pub(super) fn refund_all(&mut self, job: JobId) {
        let row = self.reservation(job);
        let (account, amount) = (row.account, GpuMicros(row.posted.0 - row.refunded.0));
        if amount == GpuMicros::ZERO {
            return;
        }
        self.change_reservation(job, |row| row.refunded = row.posted);
        self.charge_budgets(account, GpuMicros(-amount.0), job);
        let key = format!("refund:{job}:failed");
        self.enter_all(
            account,
            key,
            (Bucket::Spent, Bucket::Available),
            amount,
            None,
        );
    }

    fn release_rest(&mut self, job: JobId, state: ReservationState) {
        let row = self.reservation(job);
        let (account, rest) = (row.account, row.held);
        self.change_reservation(job, |row| {
            row.held = GpuMicros::ZERO;
            row.state = state;
        });
        let key = format!("void:{job}");
        self.enter_all(account, key, (Bucket::Held, Bucket::Available), rest, None);
    }

    fn reservation(&self, job: JobId) -> &ReservationRow {
        self.reservations
            .get(&job)
            .expect("every job in memory has its reservation")
    }

    fn change_reservation(&mut self, job: JobId, edit: impl FnOnce(&mut ReservationRow)) {
        let row = self
            .reservations
            .get_mut(&job)
            .expect("every job in memory has its reservation");
        let was = row.state;
        edit(row);
        let row = row.clone();
        self.writes.push(Write::UpdateReservation { was, row });
    }

    /// The same entry on each account from this one up.
    fn enter_all(
        &mut self,
        account: AccountId,
        key: String,
        way: (Bucket, Bucket),
        amount: GpuMicros,
        why: Option<Arithmetic>,
    ) {
        for account in self.path(account) {
            self.enter_one(account, &key, way, amount, why);
        }
    }

    /// One entry, chained to the one before it, and the balance after it.
    pub(super) fn enter_one(
        &mut self,
        account: AccountId,
        key: &str,
        (from, to): (Bucket, Bucket),
        amount: GpuMicros,
        why: Option<Arithmetic>,
    ) {
        if amount == GpuMicros::ZERO {
            return;
        }
        let mut row = LedgerRow {
            seq: self.next_seq(),
            key: key.to_owned(),
            account,
            from,
            to,
            amount,
            at_ms: self.now,
            why,
            hash: Digest::of(&[]),
        };
        row.hash = chained(self.chain, &row);
        self.chain = Some(row.hash);
        let was = self.balances.get(&account).copied();
        let mut now = was.unwrap_or_default();
        now.bucket(from).0 -= amount.0;
        now.bucket(to).0 += amount.0;
        self.balances.insert(account, now);
        self.writes.push(Write::InsertLedger(row));
        self.writes.push(Write::PutBalance { account, was, now });
    }

    /// The account and those above it.
    pub(super) fn path(&self, account: AccountId) -> Vec<AccountId> {
        let mut path = Vec::new();
        let mut next = Some(account);
        while let Some(id) = next
            && path.len() < LEVELS_MAX
        {
            path.push(id);
            next = self.accounts.get(&id).and_then(|row| row.parent);
        }
        path
    }
}

impl Balance {
    pub fn bucket(&mut self, bucket: Bucket) -> &mut GpuMicros {
        match bucket {
            Bucket::Available => &mut self.available,
            Bucket::Held => &mut self.held,
            Bucket::Spent => &mut self.spent,
            Bucket::Mint => &mut self.mint,
            Bucket::Loan => &mut self.loan,
        }
    }
}
