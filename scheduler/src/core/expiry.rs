//! Grants that expire: what is left of one goes back to the mint at its instant.
//!
//! Of several grants the one that expires first is used up first, so what is still available is what the
//! later ones gave, and beyond that the rest of this one. What jobs hold at that instant stays theirs.

use schemas::{AccountId, GpuMicros};

use super::{Farm, quota::GRANT, rows::Bucket, timers::Timer, write::Write};

/// When a grant expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpiryRow {
    pub account: AccountId,
    /// Key of the grant in the ledger.
    pub key: String,
    pub expires_at_ms: i64,
    /// It has expired.
    pub done: bool,
}

impl Farm {
    pub(super) fn set_expiry(&mut self, account: AccountId, key: String, expires_at_ms: i64) {
        self.put_expiry(ExpiryRow {
            account,
            key,
            expires_at_ms,
            done: false,
        });
    }

    fn put_expiry(&mut self, row: ExpiryRow) {
        self.arm_expiry(&row);
        let key = (row.account, row.key.clone());
        self.expiries.insert(key, row.clone());
        self.writes.push(Write::PutExpiry(row));
    }

    pub(super) fn arm_expiry(&mut self, row: &ExpiryRow) {
        if !row.done {
            let timer = Timer::Expiry(row.account, row.key.clone());
            self.timers.arm(row.expires_at_ms, timer);
        }
    }

    pub(super) fn expiry_due(&mut self, account: AccountId, key: String) {
        let due = |row: &&ExpiryRow| !row.done && row.expires_at_ms <= self.now;
        let id = (account, key);
        let Some(mut row) = self.expiries.get(&id).filter(due).cloned() else {
            return;
        };
        let rest = self.rest_of(&row);
        let name = row.key.strip_prefix(GRANT).unwrap_or(&row.key);
        let key = format!("expire:{name}");
        row.done = true;
        self.enter_one(account, &key, (Bucket::Available, Bucket::Mint), rest, None);
        self.put_expiry(row);
    }

    /// What is left of a grant, were it to expire now.
    pub(super) fn rest_of(&self, row: &ExpiryRow) -> GpuMicros {
        let grants = self.grants.range((row.account, String::new())..);
        let later: i64 = grants
            .take_while(|((account, _), _)| *account == row.account)
            .filter(|(id, _)| match self.expiries.get(*id) {
                None => true,
                Some(other) => {
                    let order = |row: &ExpiryRow| (row.expires_at_ms, row.key.clone());
                    !other.done && order(other) > order(row)
                }
            })
            .map(|(_, amount)| amount.0)
            .fold(0, i64::saturating_add);
        let balance = self.balances.get(&row.account).copied().unwrap_or_default();
        let own = balance.available.0 + balance.loan.0.min(0);
        let amount = self.grants.get(&(row.account, row.key.clone()));
        GpuMicros((own - later).clamp(0, amount.map_or(0, |amount| amount.0)))
    }
}
