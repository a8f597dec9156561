//! What memory is folded from: live rows and what ended lately, never a replay of history.

use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter,
    QueryOrder, QuerySelect, QueryTrait, sea_query::SelectStatement,
};

use super::{
    Store, StoreError,
    convert::{
        account_row, agent_row, balance_row, checkpoint_row, dedupe_row, idempotency_row, job_row,
        reservation_row, task_row, usage_row,
    },
    costs,
    entity::{
        account, agent, balance, checkpoint, dedupe, idempotency, job, leader, reservation, task,
        usage,
    },
    failed, quota,
};
use crate::core::{decay::Decayed, fold::Snapshot, limits::RECENT_MS};

impl Store {
    /// One consistent picture of the database at `now`.
    pub async fn load(&self, now: i64) -> Result<Snapshot, StoreError> {
        // On the writer, and every group begins with the leader's row, which `read_leader` locks:
        // nothing can change while it is read, and a commit in doubt has happened or never will.
        let tx = self.write_tx().await?;
        let recent = now - RECENT_MS;
        let mut snapshot = Snapshot::default();
        read_leader(&tx, &mut snapshot).await?;
        read_jobs(&tx, &mut snapshot, recent).await?;
        read_farm(&tx, &mut snapshot, now).await?;
        tx.rollback().await.map_err(failed("end a read"))?;
        Ok(snapshot)
    }
}

async fn read_leader(tx: &DatabaseTransaction, into: &mut Snapshot) -> Result<(), StoreError> {
    let row = leader::Entity::find_by_id(1)
        .lock_exclusive()
        .one(tx)
        .await
        .map_err(failed("read its leader"))?
        .ok_or(StoreError::Broken {
            column: "leader",
            value: "no row".into(),
        })?;
    into.term = row.term.cast_unsigned();
    into.seq = row.seq;
    Ok(())
}

fn in_memory(recent: i64) -> Condition {
    Condition::any()
        .add(job::Column::EndedAtMs.is_null())
        .add(job::Column::EndedAtMs.gt(recent))
}

fn ids_in_memory(recent: i64) -> SelectStatement {
    job::Entity::find()
        .select_only()
        .column(job::Column::Id)
        .filter(in_memory(recent))
        .into_query()
}

async fn read_jobs(
    tx: &DatabaseTransaction,
    into: &mut Snapshot,
    recent: i64,
) -> Result<(), StoreError> {
    // In an order that does not depend on where PostgreSQL has put the rows.
    let found = job::Entity::find().filter(in_memory(recent));
    let jobs = all(tx, found.order_by_asc(job::Column::Seq), "read jobs").await?;
    into.jobs = jobs.iter().map(job_row).collect::<Result<_, _>>()?;

    let of_jobs = task::Column::Job.in_subquery(ids_in_memory(recent));
    let found = task::Entity::find().filter(of_jobs);
    let found = found.order_by_asc(task::Column::Job);
    let tasks = all(tx, found.order_by_asc(task::Column::Place), "read tasks").await?;
    into.tasks = tasks.iter().map(task_row).collect::<Result<_, _>>()?;

    // Checkpoints go with the end of their task, so all there are belong to live ones.
    let rows = all(tx, checkpoint::Entity::find(), "read checkpoints").await?;
    into.checkpoints = rows.iter().map(checkpoint_row).collect::<Result<_, _>>()?;

    let of_jobs = reservation::Column::Job.in_subquery(ids_in_memory(recent));
    let query = reservation::Entity::find().filter(of_jobs);
    let rows = all(tx, query, "read reservations").await?;
    into.reservations = rows.iter().map(reservation_row).collect::<Result<_, _>>()?;
    Ok(())
}

async fn read_farm(
    tx: &DatabaseTransaction,
    into: &mut Snapshot,
    now: i64,
) -> Result<(), StoreError> {
    let rows = all(tx, account::Entity::find(), "read accounts").await?;
    into.accounts = rows
        .into_iter()
        .map(account_row)
        .collect::<Result<_, _>>()?;
    let rows = all(tx, balance::Entity::find(), "read balances").await?;
    into.balances = rows.iter().map(balance_row).collect();
    let rows = all(tx, usage::Entity::find(), "read usage").await?;
    let used = rows.iter().map(usage_row);
    into.usage = used
        .filter(|(_, usage)| *usage != Decayed::default())
        .collect();
    let rows = all(tx, agent::Entity::find(), "read agents").await?;
    into.agents = rows.into_iter().map(agent_row).collect::<Result<_, _>>()?;
    let live = dedupe::Entity::find().filter(dedupe::Column::ExpiresAtMs.gt(now));
    let rows = all(tx, live, "read what was deduplicated").await?;
    into.dedupe = rows.into_iter().map(dedupe_row).collect::<Result<_, _>>()?;
    let live = idempotency::Entity::find().filter(idempotency::Column::ExpiresAtMs.gt(now));
    let rows = all(tx, live, "read idempotency keys").await?;
    into.idempotency = rows
        .into_iter()
        .map(idempotency_row)
        .collect::<Result<_, _>>()?;
    costs::read(tx, into).await?;
    quota::read(tx, into).await
}

pub(super) async fn all<E: EntityTrait, C: ConnectionTrait>(
    db: &C,
    query: sea_orm::Select<E>,
    step: &'static str,
) -> Result<Vec<E::Model>, StoreError> {
    query.all(db).await.map_err(failed(step))
}
