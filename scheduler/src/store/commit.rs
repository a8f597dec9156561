//! One transaction a group: the leader guard, then the core's writes in order.

use schemas::{AccountId, JobId};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel,
    QueryFilter, Set,
    sea_query::{Expr, OnConflict},
};

use super::{
    Store, StoreError,
    convert::{
        account_model, agent_model, attempt_model, balance_model, checkpoint_model, dedupe_model,
        idempotency_model, job_model, key_model, ledger_model, name, outbox_model,
        reservation_model, task_model, text, usage_model,
    },
    costs,
    entity::{
        agent, api_key, artefact_ref, attempt, balance, checkpoint, dedupe, idempotency, job,
        leader, reservation, task, tombstone, usage,
    },
    failed, quota, rules,
};
use crate::core::{
    decay::Decayed,
    rows::{
        AgentRow, AgentState, AttemptRow, Balance, DedupeRow, IdempotencyRow, JobRow, JobState,
        ReservationRow, ReservationState, TaskRow,
    },
    write::{TaskGuard, Write},
};

/// How an artefact that a task reads is named among the references.
const INPUT: &str = "input";

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
        for write in writes {
            let rows = run(&tx, write).await.map_err(failed("write"))?;
            if rows.is_some_and(|rows| rows != 1) {
                return Err(StoreError::Unexpected {
                    write: format!("{write:?}").chars().take(300).collect(),
                });
            }
        }
        tx.commit().await.map_err(failed("commit"))
    }
}

/// Runs one write; answers how many rows a guarded one met, which must be one.
async fn run(tx: &DatabaseTransaction, write: &Write) -> Result<Option<u64>, DbErr> {
    match write {
        Write::UpdateJob { was, row } => return update_job(tx, *was, row).await.map(Some),
        Write::UpdateTask { was, row } => return update_task(tx, *was, row).await.map(Some),
        Write::EndAttempt(row) => return end_attempt(tx, row).await.map(Some),
        Write::UpdateReservation { was, row } => {
            return update_reservation(tx, *was, row).await.map(Some);
        }
        Write::UpdateAgent { was, row } => return update_agent(tx, *was, row).await.map(Some),
        Write::PutBalance { account, was, now } => {
            return put_balance(tx, *account, was.as_ref(), now).await;
        }
        Write::InsertJob { row, request } => insert(tx, job_model(row, request)).await?,
        Write::InsertTask(row) => insert(tx, task_model(row)).await?,
        Write::InsertAttempt(row) => insert(tx, attempt_model(row)).await?,
        Write::InsertCheckpoint(row) => insert(tx, checkpoint_model(row)).await?,
        Write::InsertReservation(row) => insert(tx, reservation_model(row)).await?,
        Write::InsertLedger(row) => insert(tx, ledger_model(row)).await?,
        Write::InsertAgent(row) => insert(tx, agent_model(row)).await?,
        Write::InsertAccount(row) => insert(tx, account_model(row)).await?,
        Write::InsertKey(row) => insert(tx, key_model(row)).await?,
        Write::InsertOutbox(row) => insert(tx, outbox_model(row)).await?,
        Write::PutUsage { account, usage } => put_usage(tx, *account, *usage).await?,
        Write::PutCost(row) => costs::put(tx, row).await?,
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
        Write::PutDedupe(row) => put_dedupe(tx, row).await?,
        Write::PutIdempotency(row) => put_idempotency(tx, row).await?,
        Write::KeepArtefacts { .. } | Write::KeepInputs { .. } => keep(tx, write).await?,
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

async fn update_job(tx: &DatabaseTransaction, was: JobState, row: &JobRow) -> Result<u64, DbErr> {
    let model = job_model(row, &serde_json::Value::Null);
    let set = job::ActiveModel {
        state: Set(model.state),
        progress: Set(model.progress),
        ended_at_ms: Set(model.ended_at_ms),
        error_code: Set(model.error_code),
        error_message: Set(model.error_message),
        saved: Set(model.saved),
        ..Default::default()
    };
    let done = job::Entity::update_many()
        .set(set)
        .filter(job::Column::Id.eq(row.id.0))
        .filter(job::Column::State.eq(name(&was)))
        .exec(tx)
        .await?;
    Ok(done.rows_affected)
}

async fn update_task(
    tx: &DatabaseTransaction,
    was: TaskGuard,
    row: &TaskRow,
) -> Result<u64, DbErr> {
    let model = task_model(row);
    let set = task::ActiveModel {
        state: Set(model.state),
        attempt: Set(model.attempt),
        inputs_left: Set(model.inputs_left),
        eligible_at_ms: Set(model.eligible_at_ms),
        backoff: Set(model.backoff),
        agent: Set(model.agent),
        boot: Set(model.boot),
        device: Set(model.device),
        poll_id: Set(model.poll_id),
        granted_at_ms: Set(model.granted_at_ms),
        output: Set(model.output),
        failed_class: Set(model.failed_class),
        failed_message: Set(model.failed_message),
        failures: Set(model.failures),
        failed_on: Set(model.failed_on),
        used_us: Set(model.used_us),
        step: Set(model.step),
        steps: Set(model.steps),
        preemptions: Set(model.preemptions),
        ..Default::default()
    };
    let done = task::Entity::update_many()
        .set(set)
        .filter(task::Column::Id.eq(row.id.0))
        .filter(task::Column::State.eq(was.state))
        .filter(task::Column::Attempt.eq(i64::from(was.attempt)))
        .exec(tx)
        .await?;
    Ok(done.rows_affected)
}

async fn end_attempt(tx: &DatabaseTransaction, row: &AttemptRow) -> Result<u64, DbErr> {
    let set = attempt::ActiveModel {
        ended_at_ms: Set(row.ended_at_ms),
        outcome: Set(row.outcome.clone()),
        message: Set(row.message.as_deref().map(text)),
        device_us: Set(row.device_us),
        ..Default::default()
    };
    let done = attempt::Entity::update_many()
        .set(set)
        .filter(attempt::Column::Task.eq(row.task.0))
        .filter(attempt::Column::Number.eq(i64::from(row.number)))
        .filter(attempt::Column::EndedAtMs.is_null())
        .exec(tx)
        .await?;
    Ok(done.rows_affected)
}

async fn update_reservation(
    tx: &DatabaseTransaction,
    was: ReservationState,
    row: &ReservationRow,
) -> Result<u64, DbErr> {
    let model = reservation_model(row);
    let set = reservation::ActiveModel {
        state: Set(model.state),
        held_us: Set(model.held_us),
        posted_us: Set(model.posted_us),
        refunded_us: Set(model.refunded_us),
        ..Default::default()
    };
    let done = reservation::Entity::update_many()
        .set(set)
        .filter(reservation::Column::Job.eq(row.job.0))
        .filter(reservation::Column::State.eq(name(&was)))
        .exec(tx)
        .await?;
    Ok(done.rows_affected)
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

async fn put_balance(
    tx: &DatabaseTransaction,
    account: AccountId,
    was: Option<&Balance>,
    now: &Balance,
) -> Result<Option<u64>, DbErr> {
    let model = balance_model(account, now);
    let Some(was) = was else {
        insert(tx, model).await?;
        return Ok(None);
    };
    let set = balance::ActiveModel {
        available_us: Set(model.available_us),
        held_us: Set(model.held_us),
        spent_us: Set(model.spent_us),
        mint_us: Set(model.mint_us),
        loan_us: Set(model.loan_us),
        ..Default::default()
    };
    let done = balance::Entity::update_many()
        .set(set)
        .filter(balance::Column::Account.eq(account.0))
        .filter(balance::Column::AvailableUs.eq(was.available.0))
        .filter(balance::Column::HeldUs.eq(was.held.0))
        .filter(balance::Column::SpentUs.eq(was.spent.0))
        .filter(balance::Column::MintUs.eq(was.mint.0))
        .filter(balance::Column::LoanUs.eq(was.loan.0))
        .exec(tx)
        .await?;
    Ok(Some(done.rows_affected))
}

async fn put_usage(
    tx: &DatabaseTransaction,
    account: AccountId,
    usage: Decayed,
) -> Result<(), DbErr> {
    let replace = OnConflict::column(usage::Column::Account)
        .update_columns([usage::Column::Exponent, usage::Column::MantissaBits])
        .to_owned();
    usage::Entity::insert(usage_model(account, usage).into_active_model())
        .on_conflict(replace)
        .exec_without_returning(tx)
        .await
        .map(drop)
}

async fn put_dedupe(tx: &DatabaseTransaction, row: &DedupeRow) -> Result<(), DbErr> {
    let replace = OnConflict::column(dedupe::Column::Fingerprint)
        .update_columns([
            dedupe::Column::Jobs,
            dedupe::Column::Errors,
            dedupe::Column::ExpiresAtMs,
        ])
        .to_owned();
    dedupe::Entity::insert(dedupe_model(row).into_active_model())
        .on_conflict(replace)
        .exec_without_returning(tx)
        .await
        .map(drop)
}

async fn put_idempotency(tx: &DatabaseTransaction, row: &IdempotencyRow) -> Result<(), DbErr> {
    let replace = OnConflict::column(idempotency::Column::Scope)
        .update_columns([
            idempotency::Column::Fingerprint,
            idempotency::Column::Outcome,
            idempotency::Column::ExpiresAtMs,
        ])
        .to_owned();
    idempotency::Entity::insert(idempotency_model(row).into_active_model())
        .on_conflict(replace)
        .exec_without_returning(tx)
        .await
        .map(drop)
}

async fn keep(tx: &DatabaseTransaction, write: &Write) -> Result<(), DbErr> {
    let models: Vec<artefact_ref::Model> = match write {
        Write::KeepArtefacts {
            job,
            task,
            artefacts,
        } => artefacts
            .iter()
            .map(|artefact| artefact_ref::Model {
                job: job.0,
                task: task.0,
                variant: artefact.variant.name().into(),
                digest: artefact.digest.to_string(),
                bytes: artefact.bytes.cast_signed(),
            })
            .collect(),
        Write::KeepInputs { job, task, digests } => digests
            .iter()
            .map(|digest| artefact_ref::Model {
                job: job.0,
                task: task.0,
                variant: INPUT.into(),
                digest: digest.to_string(),
                bytes: 0,
            })
            .collect(),
        other => unreachable!("{other:?} keeps nothing"),
    };
    for model in models {
        insert(tx, model).await?;
    }
    Ok(())
}

async fn remove(tx: &DatabaseTransaction, write: &Write) -> Result<(), DbErr> {
    match write {
        Write::RemoveCheckpoint { task, step } => checkpoint::Entity::delete_many()
            .filter(checkpoint::Column::Task.eq(task.0))
            .filter(checkpoint::Column::Step.eq(i64::from(*step)))
            .exec(tx)
            .await
            .map(drop),
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
