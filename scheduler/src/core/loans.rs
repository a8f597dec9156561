//! Loans: an account that lacks device time for a job borrows it from siblings that lend.
//!
//! ```text
//! lender: available -> loan      borrower: loan -> available      at the hold that needs it
//! lender: loan -> available      borrower: available -> loan      at the borrower's next grants
//! ```
//! `loan` of a lender is what it is owed, that of a borrower (below zero) what it owes, so that the loans
//! of all accounts add up to zero.

use schemas::{AccountId, GpuMicros};

use super::{
    Farm,
    rows::{Bucket, LoanRow},
    write::Write,
};

impl Farm {
    /// What siblings would lend, the one with the most to spare first; `None` when it is not enough.
    pub(super) fn lenders(
        &self,
        borrower: AccountId,
        short_by: GpuMicros,
    ) -> Option<Vec<(AccountId, GpuMicros)>> {
        let quota = self.quota(borrower);
        let owes = self.loans.values().filter(|loan| loan.borrower == borrower);
        let owes: i64 = owes.map(|loan| loan.left.0).sum();
        if owes.saturating_add(short_by.0) > quota.borrow.0 {
            return None;
        }
        let parent = self.accounts.get(&borrower)?.parent;
        let siblings = self.quotas.values().filter(|row| {
            let account = self.accounts.get(&row.account);
            row.account != borrower && account.is_some_and(|account| account.parent == parent)
        });
        let mut spare: Vec<(AccountId, i64)> = siblings
            .map(|row| (row.account, self.to_lend(row.account)))
            .filter(|(_, spare)| *spare > 0)
            .collect();
        spare.sort_by_key(|(account, spare)| (std::cmp::Reverse(*spare), *account));
        let mut missing = short_by.0;
        let mut lenders = Vec::new();
        for (account, spare) in spare {
            let part = spare.min(missing);
            if part > 0 {
                lenders.push((account, GpuMicros(part)));
                missing -= part;
            }
        }
        (missing == 0).then_some(lenders)
    }

    fn to_lend(&self, lender: AccountId) -> i64 {
        let quota = self.quota(lender);
        let lent = self.loans.values().filter(|loan| loan.lender == lender);
        let lent: i64 = lent.map(|loan| loan.left.0).sum();
        let available = self.balances.get(&lender).map_or(0, |b| b.available.0);
        match quota.metered {
            true => (quota.lend.0 - lent).min(available),
            false => 0,
        }
    }

    /// Borrows what a hold of this key needs.
    pub(super) fn borrow_for(&mut self, borrower: AccountId, short_by: GpuMicros, hold_key: &str) {
        let lenders = self.lenders(borrower, short_by).unwrap_or_default();
        for (at, (lender, amount)) in lenders.into_iter().enumerate() {
            let row = LoanRow {
                key: format!("loan:{hold_key}:{borrower}:{at}"),
                borrower,
                lender,
                left: amount,
            };
            self.enter_one(
                lender,
                &row.key,
                (Bucket::Available, Bucket::Loan),
                amount,
                None,
            );
            self.enter_one(
                borrower,
                &row.key,
                (Bucket::Loan, Bucket::Available),
                amount,
                None,
            );
            self.loans.insert(row.key.clone(), row.clone());
            self.writes.push(Write::PutLoan(row));
        }
    }

    /// A grant came: what is owed is paid first, the oldest debt first.
    pub(super) fn repay(&mut self, borrower: AccountId, grant: &str) {
        let mut owed: Vec<LoanRow> = self
            .loans
            .values()
            .filter(|loan| loan.borrower == borrower)
            .cloned()
            .collect();
        owed.sort_by(|a, b| a.key.cmp(&b.key));
        for mut loan in owed {
            let available = self.balances.get(&borrower).map_or(0, |b| b.available.0);
            let amount = GpuMicros(loan.left.0.min(available));
            if amount <= GpuMicros::ZERO {
                return;
            }
            let key = format!("repay:{}:{grant}", loan.key);
            self.enter_one(
                borrower,
                &key,
                (Bucket::Available, Bucket::Loan),
                amount,
                None,
            );
            self.enter_one(
                loan.lender,
                &key,
                (Bucket::Loan, Bucket::Available),
                amount,
                None,
            );
            loan.left.0 -= amount.0;
            match loan.left {
                GpuMicros::ZERO => {
                    self.loans.remove(&loan.key);
                    self.writes.push(Write::RemoveLoan(loan.key));
                }
                _ => {
                    self.loans.insert(loan.key.clone(), loan.clone());
                    self.writes.push(Write::PutLoan(loan));
                }
            }
        }
    }
}
