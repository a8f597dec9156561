//! Budgets, capacity, expiries and loans of accounts: rows that are put and removed whole.

use std::collections::BTreeMap;

use jiff::{civil::Date, tz::TimeZone};
use schemas::{AccountId, GpuMicros};
use sea_orm::{
    ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel, QueryFilter,
    sea_query::OnConflict,
};

use super::{
    StoreError,
    convert::{from_json, json},
    entity::{budget, capacity, grant_expiry, loan},
    load::all,
};
use crate::core::{
    budget::{AtLimit, BudgetRow, BudgetRule, Period},
    capacity::CapacityRow,
    expiry::ExpiryRow,
    fold::Snapshot,
    rows::LoanRow,
    write::Write,
};

/// Runs one of the writes of this file.
pub async fn run(tx: &DatabaseTransaction, write: &Write) -> Result<(), DbErr> {
    match write {
        Write::PutBudget(row) => put_budget(tx, row).await,
        Write::RemoveBudget(account) => budget::Entity::delete_by_id(account.0)
            .exec(tx)
            .await
            .map(drop),
        Write::PutCapacity(row) => put_capacity(tx, row).await,
        Write::RemoveCapacity { account, pool } => capacity::Entity::delete_many()
            .filter(capacity::Column::Account.eq(account.0))
            .filter(capacity::Column::Pool.eq(pool.as_str()))
            .exec(tx)
            .await
            .map(drop),
        Write::PutExpiry(row) => put_expiry(tx, row).await,
        Write::PutLoan(row) => put_loan(tx, row).await,
        Write::RemoveLoan(key) => loan::Entity::delete_by_id(key.as_str())
            .exec(tx)
            .await
            .map(drop),
        other => unreachable!("{other:?} is no rule of an account"),
    }
}

async fn put_budget(tx: &DatabaseTransaction, row: &BudgetRow) -> Result<(), DbErr> {
    let days: BTreeMap<String, i64> = row
        .days
        .iter()
        .map(|(day, us)| (day.to_string(), us.0))
        .collect();
    let model = budget::Model {
        account: row.account.0,
        limit_us: row.rule.limit.0,
        days: match row.rule.period {
            Period::Month => None,
            Period::Days(days) => Some(days.into()),
        },
        zone: row.rule.zone.iana_name().unwrap_or("UTC").into(),
        at_limit: row.rule.at_limit.name().into(),
        spent: json(&days),
        told_percent: row.told_percent.into(),
    };
    let replace = OnConflict::column(budget::Column::Account)
        .update_columns([
            budget::Column::LimitUs,
            budget::Column::Days,
            budget::Column::Zone,
            budget::Column::AtLimit,
            budget::Column::Spent,
            budget::Column::ToldPercent,
        ])
        .to_owned();
    budget::Entity::insert(model.into_active_model())
        .on_conflict(replace)
        .exec_without_returning(tx)
        .await
        .map(drop)
}

async fn put_capacity(tx: &DatabaseTransaction, row: &CapacityRow) -> Result<(), DbErr> {
    let model = capacity::Model {
        account: row.account.0,
        pool: row.pool.clone(),
        nominal: row.nominal.into(),
        borrow_max: row.borrow_max.into(),
        lend_max: row.lend_max.into(),
    };
    let replace = OnConflict::columns([capacity::Column::Account, capacity::Column::Pool])
        .update_columns([
            capacity::Column::Nominal,
            capacity::Column::BorrowMax,
            capacity::Column::LendMax,
        ])
        .to_owned();
    capacity::Entity::insert(model.into_active_model())
        .on_conflict(replace)
        .exec_without_returning(tx)
        .await
        .map(drop)
}

async fn put_expiry(tx: &DatabaseTransaction, row: &ExpiryRow) -> Result<(), DbErr> {
    let model = grant_expiry::Model {
        account: row.account.0,
        entry_key: row.key.clone(),
        expires_at_ms: row.expires_at_ms,
        done: row.done,
    };
    let replace = OnConflict::columns([
        grant_expiry::Column::Account,
        grant_expiry::Column::EntryKey,
    ])
    .update_columns([
        grant_expiry::Column::ExpiresAtMs,
        grant_expiry::Column::Done,
    ])
    .to_owned();
    grant_expiry::Entity::insert(model.into_active_model())
        .on_conflict(replace)
        .exec_without_returning(tx)
        .await
        .map(drop)
}

async fn put_loan(tx: &DatabaseTransaction, row: &LoanRow) -> Result<(), DbErr> {
    let model = loan::Model {
        entry_key: row.key.clone(),
        borrower: row.borrower.0,
        lender: row.lender.0,
        left_us: row.left.0,
    };
    let replace = OnConflict::column(loan::Column::EntryKey)
        .update_column(loan::Column::LeftUs)
        .to_owned();
    loan::Entity::insert(model.into_active_model())
        .on_conflict(replace)
        .exec_without_returning(tx)
        .await
        .map(drop)
}

/// All of them, in the order of their keys.
pub async fn read(tx: &DatabaseTransaction, into: &mut Snapshot) -> Result<(), StoreError> {
    let rows = all(tx, budget::Entity::find(), "read budgets").await?;
    into.budgets = rows.iter().map(budget_row).collect::<Result<_, _>>()?;
    into.budgets.sort_by_key(|row| row.account);
    let rows = all(tx, capacity::Entity::find(), "read capacities").await?;
    into.capacities = rows.into_iter().map(capacity_row).collect();
    into.capacities
        .sort_by_key(|row| (row.account, row.pool.clone()));
    let rows = all(tx, grant_expiry::Entity::find(), "read expiries").await?;
    into.expiries = rows.into_iter().map(expiry_row).collect();
    into.expiries
        .sort_by_key(|row| (row.account, row.key.clone()));
    let rows = all(tx, loan::Entity::find(), "read loans").await?;
    into.loans = rows.into_iter().map(loan_row).collect();
    into.loans.sort_by_key(|row| row.key.clone());
    Ok(())
}

fn budget_row(model: &budget::Model) -> Result<BudgetRow, StoreError> {
    let broken = |column, value: &str| StoreError::Broken {
        column,
        value: value.into(),
    };
    let spent: BTreeMap<String, i64> = from_json("budget.spent", &model.spent)?;
    let day = |(day, us): (&String, &i64)| match day.parse::<Date>() {
        Ok(date) => Ok((date, GpuMicros(*us))),
        Err(_) => Err(broken("budget.spent", day)),
    };
    let zone = TimeZone::get(&model.zone).map_err(|_| broken("budget.zone", &model.zone))?;
    let limits = [AtLimit::Complete, AtLimit::Cancel];
    let at_limit = limits
        .into_iter()
        .find(|limit| limit.name() == model.at_limit);
    Ok(BudgetRow {
        account: AccountId(model.account),
        rule: BudgetRule {
            limit: GpuMicros(model.limit_us),
            period: model
                .days
                .map_or(Period::Month, |days| Period::Days(days as u32)),
            zone,
            at_limit: at_limit.ok_or_else(|| broken("budget.at_limit", &model.at_limit))?,
        },
        days: spent.iter().map(day).collect::<Result<_, _>>()?,
        told_percent: model.told_percent as u32,
    })
}

fn capacity_row(model: capacity::Model) -> CapacityRow {
    CapacityRow {
        account: AccountId(model.account),
        pool: model.pool,
        nominal: model.nominal as u32,
        borrow_max: model.borrow_max as u32,
        lend_max: model.lend_max as u32,
    }
}

fn expiry_row(model: grant_expiry::Model) -> ExpiryRow {
    ExpiryRow {
        account: AccountId(model.account),
        key: model.entry_key,
        expires_at_ms: model.expires_at_ms,
        done: model.done,
    }
}

fn loan_row(model: loan::Model) -> LoanRow {
    LoanRow {
        key: model.entry_key,
        borrower: AccountId(model.borrower),
        lender: AccountId(model.lender),
        left: GpuMicros(model.left_us),
    }
}
