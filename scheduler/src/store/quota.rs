//! Limits of accounts, the entries of the ledger with their arithmetic, and the check of all of it.

use std::collections::{BTreeMap, BTreeSet};

use schemas::{AccountId, Digest, GpuMicros};
use sea_orm::{
    ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder,
    QuerySelect,
    sea_query::{Expr, OnConflict},
};

use super::{
    Store, StoreError,
    commit::insert,
    convert::{balance_row, digest, from_json, from_name},
    entity::{account, audit, balance, ledger_entry, quota, reservation},
    failed,
    load::all,
    rules,
};
use crate::core::{
    fold::Snapshot,
    quota::{AuditRow, GRANT, QuotaRow, chained},
    rows::{Balance, LedgerRow},
};

/// Entries that a check reads at a time.
const CHECKED_AT_ONCE: u64 = 10_000;

pub async fn put(tx: &DatabaseTransaction, row: &QuotaRow) -> Result<(), DbErr> {
    let model = quota::Model {
        account: row.account.0,
        metered: row.metered,
        overdraft_us: row.overdraft.0,
        jobs_max: row.jobs_max.map(i64::from),
        devices_max: row.devices_max.map(i64::from),
        lend_us: row.lend.0,
        borrow_us: row.borrow.0,
    };
    let replace = OnConflict::column(quota::Column::Account)
        .update_columns([
            quota::Column::Metered,
            quota::Column::OverdraftUs,
            quota::Column::JobsMax,
            quota::Column::DevicesMax,
            quota::Column::LendUs,
            quota::Column::BorrowUs,
        ])
        .to_owned();
    quota::Entity::insert(model.into_active_model())
        .on_conflict(replace)
        .exec_without_returning(tx)
        .await
        .map(drop)
}

pub async fn put_weight(
    tx: &DatabaseTransaction,
    id: AccountId,
    weight: u32,
) -> Result<u64, DbErr> {
    let done = account::Entity::update_many()
        .col_expr(account::Column::Weight, Expr::value(i64::from(weight)))
        .filter(account::Column::Id.eq(id.0))
        .exec(tx)
        .await?;
    Ok(done.rows_affected)
}

pub async fn note(tx: &DatabaseTransaction, row: &AuditRow) -> Result<(), DbErr> {
    let model = audit::Model {
        seq: row.seq,
        at_ms: row.at_ms,
        actor: row.actor.clone(),
        command: row.command.into(),
        account: row.account.0,
        was: row.was.clone(),
        became: row.now.clone(),
    };
    insert(tx, model).await
}

/// What memory needs of it: limits, grants, the end of the chain.
pub async fn read(tx: &DatabaseTransaction, into: &mut Snapshot) -> Result<(), StoreError> {
    let rows = all(tx, quota::Entity::find(), "read quotas").await?;
    into.quotas = rows.iter().map(quota_row).collect();
    let granted = ledger_entry::Entity::find()
        .filter(Expr::cust(format!("entry_key LIKE '{GRANT}%'"))) // as the index says it
        .order_by_asc(ledger_entry::Column::Account)
        .order_by_asc(ledger_entry::Column::EntryKey);
    let rows = all(tx, granted, "read grants").await?;
    let grant = |row: ledger_entry::Model| {
        let key = (AccountId(row.account), row.entry_key);
        (key, GpuMicros(row.amount_us))
    };
    into.grants = rows.into_iter().map(grant).collect();
    into.grants.sort();
    let last = ledger_entry::Entity::find().order_by_desc(ledger_entry::Column::Seq);
    let last = all(tx, last.limit(1), "read the end of the ledger").await?;
    let hash = last.into_iter().next().and_then(|row| row.hash);
    into.chain = hash.as_deref().map(digest).transpose()?;
    rules::read(tx, into).await
}

fn quota_row(model: &quota::Model) -> QuotaRow {
    QuotaRow {
        account: AccountId(model.account),
        metered: model.metered,
        overdraft: GpuMicros(model.overdraft_us),
        jobs_max: model.jobs_max.map(|max| max as u32),
        devices_max: model.devices_max.map(|max| max as u32),
        lend: GpuMicros(model.lend_us),
        borrow: GpuMicros(model.borrow_us),
    }
}

/// An entry with its hash, if it is not from before there were hashes.
fn entry(model: ledger_entry::Model) -> Result<(LedgerRow, Option<Digest>), StoreError> {
    let why = model.why.as_deref();
    let hash = model.hash.as_deref().map(digest).transpose()?;
    let row = LedgerRow {
        seq: model.seq,
        account: AccountId(model.account),
        from: from_name("ledger_entry.from_bucket", &model.from_bucket)?,
        to: from_name("ledger_entry.to_bucket", &model.to_bucket)?,
        amount: GpuMicros(model.amount_us),
        at_ms: model.at_ms,
        why: why
            .map(|text| from_json("ledger_entry.why", text))
            .transpose()?,
        hash: hash.unwrap_or_else(|| Digest::of(&[])),
        key: model.entry_key,
    };
    Ok((row, hash))
}

/// The ledger is not what it must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("entry {seq} was changed, or one before it was removed")]
    Chain { seq: i64 },
    #[error("the entries of account {account} do not add up to its balance")]
    Balance { account: AccountId },
    #[error("the parts of account {account} do not add up to zero")]
    Sum { account: AccountId },
    #[error("what accounts lent and what they owe differ by {differ_us} µs")]
    Loans { differ_us: i64 },
    #[error("account {account} holds {held_us} µs, its jobs {pending_us} µs")]
    Held {
        account: AccountId,
        held_us: i64,
        pending_us: i64,
    },
}

impl Store {
    /// The last entries of an account, newest first.
    pub async fn entries(&self, id: AccountId, limit: u64) -> Result<Vec<LedgerRow>, StoreError> {
        let models = ledger_entry::Entity::find()
            .filter(ledger_entry::Column::Account.eq(id.0))
            .order_by_desc(ledger_entry::Column::Seq)
            .limit(limit)
            .all(&self.readers)
            .await
            .map_err(failed("read the ledger"))?;
        models
            .into_iter()
            .map(|model| entry(model).map(|(row, _)| row))
            .collect()
    }

    /// Checks the chain, every balance against its entries, and holds against reservations.
    pub async fn check_ledger(&self) -> Result<Vec<Fault>, StoreError> {
        let step = "check the ledger";
        let tx = self.read_tx().await?;
        let mut faults = Vec::new();
        let summed = check_chain(&tx, &mut faults).await?;
        let kept = all(&tx, balance::Entity::find(), step).await?;
        let kept: BTreeMap<AccountId, Balance> = kept.iter().map(balance_row).collect();
        let pending = pending(&tx).await?;
        let none = Balance::default();
        for account in summed.keys().chain(kept.keys()).collect::<BTreeSet<_>>() {
            let balance = *kept.get(account).unwrap_or(&none);
            check_balance(
                *account,
                balance,
                *summed.get(account).unwrap_or(&none),
                &mut faults,
            );
            let pending_us = pending.get(account).copied().unwrap_or(0);
            if balance.held.0 != pending_us {
                faults.push(Fault::Held {
                    account: *account,
                    held_us: balance.held.0,
                    pending_us,
                });
            }
        }
        let loans = kept.values().map(|balance| i128::from(balance.loan.0));
        let differ_us = loans.sum::<i128>() as i64;
        if differ_us != 0 {
            faults.push(Fault::Loans { differ_us });
        }
        tx.rollback().await.map_err(failed(step))?;
        Ok(faults)
    }
}

fn check_balance(account: AccountId, kept: Balance, summed: Balance, faults: &mut Vec<Fault>) {
    if kept != summed {
        faults.push(Fault::Balance { account });
    }
    let parts = [kept.available, kept.held, kept.spent, kept.mint, kept.loan];
    if parts.iter().map(|part| i128::from(part.0)).sum::<i128>() != 0 {
        faults.push(Fault::Sum { account });
    }
}

/// Follows the chain and adds the entries up. A broken link is told once.
async fn check_chain(
    tx: &DatabaseTransaction,
    faults: &mut Vec<Fault>,
) -> Result<BTreeMap<AccountId, Balance>, StoreError> {
    let (mut summed, mut chain, mut after, mut whole) = (BTreeMap::new(), None, i64::MIN, true);
    loop {
        let page = ledger_entry::Entity::find()
            .filter(ledger_entry::Column::Seq.gt(after))
            .order_by_asc(ledger_entry::Column::Seq)
            .limit(CHECKED_AT_ONCE);
        let page = all(tx, page, "check the ledger").await?;
        let Some(last) = page.last() else {
            return Ok(summed);
        };
        after = last.seq;
        for model in page {
            let (row, hash) = entry(model)?;
            let expected = (chain.is_some() || hash.is_some()).then(|| chained(chain, &row));
            if whole && hash != expected {
                whole = false;
                faults.push(Fault::Chain { seq: row.seq });
            }
            chain = hash;
            let balance: &mut Balance = summed.entry(row.account).or_default();
            balance.bucket(row.from).0 -= row.amount.0;
            balance.bucket(row.to).0 += row.amount.0;
        }
    }
}

/// What live reservations hold, on every level.
async fn pending(tx: &DatabaseTransaction) -> Result<BTreeMap<AccountId, i64>, StoreError> {
    let step = "check the ledger";
    let accounts = all(tx, account::Entity::find(), step).await?;
    let parents: BTreeMap<_, _> = accounts.iter().map(|row| (row.id, row.parent)).collect();
    let live = reservation::Entity::find().filter(reservation::Column::HeldUs.ne(0));
    let mut pending = BTreeMap::new();
    for row in all(tx, live, step).await? {
        let mut next = Some(row.project);
        for _ in 0..parents.len() {
            let Some(id) = next else { break };
            *pending.entry(AccountId(id)).or_default() += row.held_us;
            next = parents.get(&id).copied().flatten();
        }
    }
    Ok(pending)
}
