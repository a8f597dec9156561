//! What was charged and what was published in a stretch of time.

use std::collections::BTreeMap;

use schemas::{AccountId, GpuMicros};
use sea_orm::{
    ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait,
};
use uuid::Uuid;

use super::{
    Store, StoreError,
    convert::{from_json, name},
    entity::{job, ledger_entry, reservation},
    failed,
};
use crate::core::rows::{Bucket, JobState};

/// A post, or with a negative amount a refund, of one account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    pub account: AccountId,
    pub at_ms: i64,
    pub amount: GpuMicros,
}

/// A job that succeeded.
#[derive(Clone, Debug)]
pub struct Published {
    pub project: AccountId,
    pub request: serde_json::Value,
    pub ended_at_ms: i64,
    pub charged: GpuMicros,
}

impl Store {
    /// Posts and refunds of all accounts in `[from_ms, to_ms)`, in their order.
    pub async fn charges(&self, from_ms: i64, to_ms: i64) -> Result<Vec<Charge>, StoreError> {
        let spent = name(&Bucket::Spent);
        let rows: Vec<(Uuid, i64, String, i64)> = ledger_entry::Entity::find()
            .select_only()
            .column(ledger_entry::Column::Account)
            .column(ledger_entry::Column::AtMs)
            .column(ledger_entry::Column::ToBucket)
            .column(ledger_entry::Column::AmountUs)
            .filter(ledger_entry::Column::AtMs.gte(from_ms))
            .filter(ledger_entry::Column::AtMs.lt(to_ms))
            .filter(
                Condition::any()
                    .add(ledger_entry::Column::ToBucket.eq(spent.as_str()))
                    .add(ledger_entry::Column::FromBucket.eq(spent.as_str())),
            )
            .order_by_asc(ledger_entry::Column::Seq)
            .into_tuple()
            .all(&self.readers)
            .await
            .map_err(failed("read charges"))?;
        let charge = |(account, at_ms, to, amount): (Uuid, i64, String, i64)| Charge {
            account: AccountId(account),
            at_ms,
            amount: GpuMicros(if to == spent { amount } else { -amount }),
        };
        Ok(rows.into_iter().map(charge).collect())
    }

    /// Jobs that succeeded in `[from_ms, to_ms)` and are still there.
    pub async fn published(&self, from_ms: i64, to_ms: i64) -> Result<Vec<Published>, StoreError> {
        let step = "read published jobs";
        let found = || {
            job::Entity::find()
                .filter(job::Column::State.eq(name(&JobState::Succeeded)))
                .filter(job::Column::EndedAtMs.gte(from_ms))
                .filter(job::Column::EndedAtMs.lt(to_ms))
        };
        let rows: Vec<(Uuid, Uuid, String, i64)> = found()
            .select_only()
            .column(job::Column::Id)
            .column(job::Column::Project)
            .column(job::Column::Request)
            .column(job::Column::EndedAtMs)
            .order_by_asc(job::Column::Seq)
            .into_tuple()
            .all(&self.readers)
            .await
            .map_err(failed(step))?;
        let ids = found().select_only().column(job::Column::Id).into_query();
        let paid: Vec<(Uuid, i64, i64)> = reservation::Entity::find()
            .select_only()
            .column(reservation::Column::Job)
            .column(reservation::Column::PostedUs)
            .column(reservation::Column::RefundedUs)
            .filter(reservation::Column::Job.in_subquery(ids))
            .into_tuple()
            .all(&self.readers)
            .await
            .map_err(failed(step))?;
        let paid: BTreeMap<Uuid, i64> = paid
            .into_iter()
            .map(|(job, posted, refunded)| (job, posted - refunded))
            .collect();
        let published = |(id, project, request, ended_at_ms): (Uuid, Uuid, String, i64)| {
            Ok(Published {
                project: AccountId(project),
                request: from_json("job.request", &request)?,
                ended_at_ms,
                charged: GpuMicros(paid.get(&id).copied().unwrap_or(0)),
            })
        };
        rows.into_iter().map(published).collect()
    }
}
