//! What memory is folded from: live rows and what ended lately, never a replay of history.

use schemas::task::TaskSpec;
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, DbBackend, EntityTrait,
    QueryFilter, QueryOrder, QuerySelect, QueryTrait, Statement,
};

use super::{
    Store, StoreError,
    convert::{
        account_row, agent_row, balance_row, checkpoint_row, dedupe_row, from_json,
        idempotency_row, job_row, name, reservation_row, task_row, usage_row,
    },
    costs,
    entity::{
        account, agent, balance, checkpoint, dedupe, idempotency, job, leader, reservation, shape,
        task, usage, waiting,
    },
    failed, health, quota,
};
use crate::core::{
    decay::Decayed, fold::Snapshot, limits::RECENT_MS, packed::FORMAT, rows::JobState,
};

/// Jobs whose tasks are asked for at once.
const JOBS_AT_ONCE: usize = 1_000;
/// Numbers in one part of the packed jobs; a job takes about ten.
const SEQS_AT_ONCE: i64 = 10_000;

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
        read_waiting(&tx, &mut snapshot).await?;
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

/// Jobs that memory holds as rows: what has begun or ended lately, and what waits but cannot be packed.
async fn jobs_as_rows(
    tx: &DatabaseTransaction,
    recent: i64,
) -> Result<Vec<job::Model>, StoreError> {
    let step = "read jobs";
    let live = job::Entity::find()
        .filter(job::Column::EndedAtMs.is_null())
        .filter(job::Column::State.ne(name(&JobState::Waiting)));
    let ended = job::Entity::find().filter(job::Column::EndedAtMs.gt(recent));
    let mut rows = all(tx, live, step).await?;
    rows.extend(all(tx, ended, step).await?);
    let other = Condition::any()
        .add(waiting::Column::Packed.is_null())
        .add(waiting::Column::Format.ne(i32::from(FORMAT)));
    let waits = waiting::Entity::find()
        .select_only()
        .column(waiting::Column::Job)
        .filter(other)
        .into_query();
    let waits = job::Entity::find().filter(job::Column::Id.in_subquery(waits));
    rows.extend(all(tx, waits, step).await?);
    // In an order that does not depend on where PostgreSQL has put the rows.
    rows.sort_by_key(|row| row.seq);
    Ok(rows)
}

async fn read_jobs(
    tx: &DatabaseTransaction,
    into: &mut Snapshot,
    recent: i64,
) -> Result<(), StoreError> {
    let jobs = jobs_as_rows(tx, recent).await?;
    into.jobs = jobs.iter().map(job_row).collect::<Result<_, _>>()?;
    for some in jobs.chunks(JOBS_AT_ONCE) {
        let ids = || some.iter().map(|row| row.id);
        let query = task::Entity::find().filter(task::Column::Job.is_in(ids()));
        for row in all(tx, query, "read tasks").await? {
            into.tasks.push(task_row(&row)?);
        }
        let query = reservation::Entity::find().filter(reservation::Column::Job.is_in(ids()));
        for row in all(tx, query, "read reservations").await? {
            into.reservations.push(reservation_row(&row)?);
        }
    }
    into.tasks.sort_by_key(|row| (row.job, row.index));
    into.reservations.sort_by_key(|row| row.job);

    // Checkpoints go with the end of their task, so all there are belong to live ones.
    let rows = all(tx, checkpoint::Entity::find(), "read checkpoints").await?;
    into.checkpoints = rows.iter().map(checkpoint_row).collect::<Result<_, _>>()?;
    Ok(())
}

/// Packed jobs, a thousand or so in a row of the answer: a million rows would take most of a start.
async fn read_waiting(tx: &DatabaseTransaction, into: &mut Snapshot) -> Result<(), StoreError> {
    let shapes = shape::Entity::find().order_by_asc(shape::Column::Number);
    for row in all(tx, shapes, "read shapes").await? {
        let spec: TaskSpec = from_json("shape.spec", &row.spec)?;
        into.shapes.push((row.number as u32, spec));
    }
    let step = "read what waits";
    let backend = tx.get_database_backend();
    let joined = match backend {
        DbBackend::Postgres => "string_agg(packed, ''::bytea)",
        _ => "group_concat(hex(packed), '')",
    };
    let sql = format!(
        "SELECT {joined} AS part FROM waiting WHERE packed IS NOT NULL AND format = {FORMAT}
         GROUP BY seq / {SEQS_AT_ONCE}"
    );
    let rows = tx
        .query_all_raw(Statement::from_string(backend, sql))
        .await
        .map_err(failed(step))?;
    for row in rows {
        into.waiting.push(match backend {
            DbBackend::Postgres => row.try_get("", "part").map_err(failed(step))?,
            _ => {
                let text: String = row.try_get("", "part").map_err(failed(step))?;
                hex::decode(&text).map_err(|_| StoreError::Broken {
                    column: "waiting.packed",
                    value: text.chars().take(200).collect(),
                })?
            }
        });
    }
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
    health::read(tx, into).await?;
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
