//! One transaction a group: the leader guard, then the core's writes, as few statements as their order allows.

use schemas::{AccountId, JobId};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel,
    QueryFilter, Set, sea_query::Expr,
};

use super::{
    Store, StoreError, batch,
    convert::{account_model, agent_model, key_model, name},
    entity::{agent, api_key, artefact_ref, job, leader, task, tombstone},
    failed,
    group::Batch,
    health, quota, rules,
};
use crate::core::{
    rows::{AgentRow, AgentState},
    write::Write,
};

impl Store {
    /// Commits all writes or none. `seq` is the core's number after the last of them.
    pub async fn commit(&self, term: u64, seq: i64, writes: &[Write]) -> Result<(), StoreError> {
        let tx = self.write_tx().await?;
        let led = leader::Entity::update_many()
            .col_expr(leader::Column::Seq, Expr::value(seq))
            .filter(leader::Column::Term.eq(term.cast_signed()))
            .exec(&tx)
            .await
            .map_err(failed("check its leader"))?;
        if led.rows_affected != 1 {
            return Err(StoreError::Deposed { term });
        }
        let mut batch = Batch::default();
        for write in writes {
            if batch.take(write) {
                continue;
            }
            batch::write(&tx, &std::mem::take(&mut batch)).await?;
            let rows = run(&tx, write).await.map_err(failed("write"))?;
            if rows.is_some_and(|rows| rows != 1) {
                return Err(StoreError::Unexpected {
                    write: format!("{write:?}").chars().take(300).collect(),
                });
            }
        }
        batch::write(&tx, &batch).await?;
        tx.commit().await.map_err(failed("commit"))
    }
}

/// Runs one write that is no part of a batch; answers how many rows a guarded one met, which must be one.
async fn run(tx: &DatabaseTransaction, write: &Write) -> Result<Option<u64>, DbErr> {
    match write {
        Write::UpdateAgent { was, row } => return update_agent(tx, *was, row).await.map(Some),
        Write::InsertAgent(row) => insert(tx, agent_model(row)).await?,
        Write::InsertAccount(row) => insert(tx, account_model(row)).await?,
        Write::InsertKey(row) => insert(tx, key_model(row)).await?,
        Write::PutSample(row) => health::put_sample(tx, row).await?,
        Write::InsertGolden { key, digest } => health::learn(tx, key, *digest).await?,
        Write::InsertNotice(row) => health::note(tx, row).await?,
        Write::PutQuota(row) => quota::put(tx, row).await?,
        Write::PutWeight { account, weight } => {
            return quota::put_weight(tx, *account, *weight).await.map(Some);
        }
        Write::InsertAudit(row) => quota::note(tx, row).await?,
        Write::PutBudget(_)
        | Write::RemoveBudget(_)
        | Write::PutCapacity(_)
        | Write::RemoveCapacity { .. }
        | Write::PutExpiry(_)
        | Write::PutLoan(_)
        | Write::RemoveLoan(_) => rules::run(tx, write).await?,
        _ => remove(tx, write).await?,
    }
    Ok(None)
}

pub(super) async fn insert<M, A>(tx: &DatabaseTransaction, model: M) -> Result<(), DbErr>
where
    M: IntoActiveModel<A>,
    A: ActiveModelTrait,
{
    <A::Entity as EntityTrait>::insert(model.into_active_model())
        .exec_without_returning(tx)
        .await
        .map(drop)
}

async fn update_agent(
    tx: &DatabaseTransaction,
    was: AgentState,
    row: &AgentRow,
) -> Result<u64, DbErr> {
    let model = agent_model(row);
    let set = agent::ActiveModel {
        boot: Set(model.boot),
        last_boot: Set(model.last_boot),
        state: Set(model.state),
        drained: Set(model.drained),
        version: Set(model.version),
        devices: Set(model.devices),
        weights: Set(model.weights),
        ffmpeg: Set(model.ffmpeg),
        health: Set(model.health),
        group_max: Set(model.group_max),
        ..Default::default()
    };
    let done = agent::Entity::update_many()
        .set(set)
        .filter(agent::Column::Id.eq(row.id.0))
        .filter(agent::Column::State.eq(name(&was)))
        .exec(tx)
        .await?;
    Ok(done.rows_affected)
}

async fn remove(tx: &DatabaseTransaction, write: &Write) -> Result<(), DbErr> {
    match write {
        Write::DropArtefacts { job } => artefact_ref::Entity::delete_many()
            .filter(artefact_ref::Column::Job.eq(job.0))
            .exec(tx)
            .await
            .map(drop),
        Write::RevokeKey { hash, at_ms } => api_key::Entity::update_many()
            .col_expr(api_key::Column::RevokedAtMs, Expr::value(*at_ms))
            .filter(api_key::Column::Hash.eq(hash.as_str()))
            .filter(api_key::Column::RevokedAtMs.is_null())
            .exec(tx)
            .await
            .map(drop),
        Write::RemoveJob {
            project,
            job,
            at_ms,
        } => remove_job(tx, *project, *job, *at_ms).await,
        other => unreachable!("{other:?} removes nothing"),
    }
}

async fn remove_job(
    tx: &DatabaseTransaction,
    project: AccountId,
    id: JobId,
    at_ms: i64,
) -> Result<(), DbErr> {
    let row = job::Entity::find_by_id(id.0)
        .filter(job::Column::Project.eq(project.0))
        .one(tx)
        .await?;
    let Some(row) = row else {
        return Ok(());
    };
    let tombstone = tombstone::Model {
        job: row.id,
        project: row.project,
        created_at_ms: row.created_at_ms,
        deleted_at_ms: at_ms,
    };
    insert(tx, tombstone).await?;
    artefact_ref::Entity::delete_many()
        .filter(artefact_ref::Column::Job.eq(id.0))
        .exec(tx)
        .await?;
    task::Entity::delete_many()
        .filter(task::Column::Job.eq(id.0))
        .exec(tx)
        .await?;
    job::Entity::delete_by_id(id.0).exec(tx).await.map(drop)
}
