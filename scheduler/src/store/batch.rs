//! Writes a [`Batch`]: a few statements for each table, and as many rows met as were meant.

use sea_orm::{
    ColumnTrait, DatabaseTransaction, EntityTrait, Iterable, QueryFilter, Value,
    sea_query::{Expr, OnConflict},
};

use super::{
    StoreError,
    convert::{
        attempt_model, balance_model, checkpoint_model, dedupe_model, event_model,
        idempotency_model, job_model, json, ledger_model, name, outbox_model, reservation_model,
        task_model, usage_model,
    },
    costs,
    entity::{
        attempt, balance, checkpoint, dedupe, idempotency, job, reservation, shape, task, usage,
        waiting,
    },
    failed,
    group::{Batch, split},
    many::{self, Update},
};
use crate::core::packed::FORMAT;

/// What never changes once a row is there; all other columns are written by an update.
const JOB_FIXED: [job::Column; 9] = [
    job::Column::Id,
    job::Column::Seq,
    job::Column::Project,
    job::Column::Request,
    job::Column::Seed,
    job::Column::Band,
    job::Column::CreatedAtMs,
    job::Column::Rank,
    job::Column::StartWindow,
];
const TASK_FIXED: [task::Column; 7] = [
    task::Column::Id,
    task::Column::Job,
    task::Column::Place,
    task::Column::Kind,
    task::Column::Spec,
    task::Column::Inputs,
    task::Column::EstimateUs,
];

/// Jobs that one statement takes out of `waiting`.
const BEGUN_AT_ONCE: usize = 128;

pub async fn write(tx: &DatabaseTransaction, batch: &Batch<'_>) -> Result<(), StoreError> {
    jobs(tx, batch).await?;
    tasks(tx, batch).await?;
    waiting(tx, batch).await?;
    attempts(tx, batch).await?;
    reservations(tx, batch).await?;
    balances(tx, batch).await?;
    checkpoints(tx, batch).await?;
    let step = "write what users get and pay";
    many::insert(tx, batch.artefacts.clone())
        .await
        .map_err(failed(step))?;
    let ledger = batch.ledger.iter().map(|row| ledger_model(row)).collect();
    many::insert(tx, ledger).await.map_err(failed(step))?;
    let outbox = batch.outbox.iter().map(|row| outbox_model(row)).collect();
    many::insert(tx, outbox).await.map_err(failed(step))?;
    let events = batch.events.iter().map(|row| event_model(row)).collect();
    many::insert(tx, events).await.map_err(failed(step))?;
    for row in batch.costs.values() {
        costs::put(tx, row).await.map_err(failed("write costs"))?;
    }
    kept(tx, batch).await
}

async fn jobs(tx: &DatabaseTransaction, batch: &Batch<'_>) -> Result<(), StoreError> {
    let (new, changed) = split(&batch.jobs);
    let new = new
        .iter()
        .map(|row| job_model(row, batch.requests[&row.id]));
    many::insert(tx, new.collect())
        .await
        .map_err(failed("insert jobs"))?;
    let rows = changed.into_iter().map(|(was, row)| {
        let model = job_model(row, &serde_json::Value::Null);
        (model, vec![name(&was).into()])
    });
    let update = Update::<job::Entity> {
        key: &[job::Column::Id],
        set: &job::Column::iter()
            .filter(|c| !has(&JOB_FIXED, c))
            .collect::<Vec<_>>(),
        guards: &[job::Column::State],
    };
    expect(tx, "jobs", update, rows.collect()).await
}

async fn tasks(tx: &DatabaseTransaction, batch: &Batch<'_>) -> Result<(), StoreError> {
    let (new, changed) = split(&batch.tasks);
    let new = new
        .into_iter()
        .map(|row| task_model(row, batch.specs[&row.id]))
        .collect();
    many::insert(tx, new)
        .await
        .map_err(failed("insert tasks"))?;
    let rows = changed.into_iter().map(|(was, row)| {
        let were = vec![was.state.into(), i64::from(was.attempt).into()];
        (task_model(row, &row.spec), were)
    });
    let update = Update::<task::Entity> {
        key: &[task::Column::Id],
        set: &task::Column::iter()
            .filter(|c| !has(&TASK_FIXED, c))
            .collect::<Vec<_>>(),
        guards: &[task::Column::State, task::Column::Attempt],
    };
    expect(tx, "tasks", update, rows.collect()).await
}

/// The packed form of jobs that have not begun, from which the next start reads them.
async fn waiting(tx: &DatabaseTransaction, batch: &Batch<'_>) -> Result<(), StoreError> {
    let step = "write what waits";
    let shapes = batch.shapes.iter().map(|(number, spec)| shape::Model {
        number: (*number).into(),
        spec: json(spec),
    });
    many::insert(tx, shapes.collect())
        .await
        .map_err(failed(step))?;
    let new = batch
        .waiting
        .iter()
        .map(|(job, (seq, packed))| waiting::Model {
            job: job.0,
            seq: *seq,
            format: packed.map_or(0, |_| FORMAT.into()),
            packed: packed.map(<[u8]>::to_vec),
        });
    many::insert(tx, new.collect())
        .await
        .map_err(failed(step))?;
    for changed in batch.as_rows.chunks(BEGUN_AT_ONCE) {
        waiting::Entity::update_many()
            .col_expr(waiting::Column::Packed, Expr::value(None::<Vec<u8>>))
            .filter(waiting::Column::Job.is_in(changed.iter().map(|job| job.0)))
            .exec(tx)
            .await
            .map_err(failed(step))?;
    }
    for begun in batch.begun.chunks(BEGUN_AT_ONCE) {
        let gone = waiting::Entity::delete_many()
            .filter(waiting::Column::Job.is_in(begun.iter().map(|job| job.0)))
            .exec(tx)
            .await
            .map_err(failed(step))?;
        if gone.rows_affected != begun.len() as u64 {
            return Err(StoreError::Unexpected {
                write: format!("{} of {} jobs waited", gone.rows_affected, begun.len()),
            });
        }
    }
    Ok(())
}

async fn attempts(tx: &DatabaseTransaction, batch: &Batch<'_>) -> Result<(), StoreError> {
    let (new, ended) = split(&batch.attempts);
    let new = new.into_iter().map(attempt_model).collect();
    many::insert(tx, new)
        .await
        .map_err(failed("insert attempts"))?;
    let none = Value::BigInt(None);
    let rows = ended
        .into_iter()
        .map(|((), row)| (attempt_model(row), vec![none.clone()]));
    let update = Update::<attempt::Entity> {
        key: &[attempt::Column::Task, attempt::Column::Number],
        set: &[
            attempt::Column::EndedAtMs,
            attempt::Column::Outcome,
            attempt::Column::Message,
            attempt::Column::DeviceUs,
        ],
        guards: &[attempt::Column::EndedAtMs],
    };
    expect(tx, "attempts", update, rows.collect()).await
}

async fn reservations(tx: &DatabaseTransaction, batch: &Batch<'_>) -> Result<(), StoreError> {
    let (new, changed) = split(&batch.reservations);
    let new = new.into_iter().map(reservation_model).collect();
    many::insert(tx, new)
        .await
        .map_err(failed("insert reservations"))?;
    let rows = changed.into_iter().map(|(was, row)| {
        let were = vec![name(&was).into()];
        (reservation_model(row), were)
    });
    let update = Update::<reservation::Entity> {
        key: &[reservation::Column::Job],
        set: &[
            reservation::Column::State,
            reservation::Column::HeldUs,
            reservation::Column::PostedUs,
            reservation::Column::RefundedUs,
        ],
        guards: &[reservation::Column::State],
    };
    expect(tx, "reservations", update, rows.collect()).await
}

async fn balances(tx: &DatabaseTransaction, batch: &Batch<'_>) -> Result<(), StoreError> {
    let (mut new, mut changed) = (Vec::new(), Vec::new());
    for (account, row) in &batch.balances {
        let model = balance_model(*account, row.now);
        match row.was {
            None => new.push(model),
            Some(was) => {
                let were = [was.available, was.held, was.spent, was.mint, was.loan];
                changed.push((model, were.map(|amount| amount.0.into()).to_vec()));
            }
        }
    }
    many::insert(tx, new)
        .await
        .map_err(failed("insert balances"))?;
    let amounts = &[
        balance::Column::AvailableUs,
        balance::Column::HeldUs,
        balance::Column::SpentUs,
        balance::Column::MintUs,
        balance::Column::LoanUs,
    ];
    let update = Update::<balance::Entity> {
        key: &[balance::Column::Account],
        set: amounts,
        guards: amounts,
    };
    expect(tx, "balances", update, changed).await
}

async fn checkpoints(tx: &DatabaseTransaction, batch: &Batch<'_>) -> Result<(), StoreError> {
    for (task, step) in &batch.checkpoints_removed {
        checkpoint::Entity::delete_by_id((task.0, i64::from(*step)))
            .exec(tx)
            .await
            .map_err(failed("remove a checkpoint"))?;
    }
    let rows = batch.checkpoints.values().map(|row| checkpoint_model(row));
    many::insert(tx, rows.collect())
        .await
        .map_err(failed("insert checkpoints"))
}

/// What the last write replaces.
async fn kept(tx: &DatabaseTransaction, batch: &Batch<'_>) -> Result<(), StoreError> {
    let rows = batch
        .usage
        .iter()
        .map(|(account, usage)| usage_model(*account, *usage));
    let replace = OnConflict::column(usage::Column::Account)
        .update_columns([usage::Column::Exponent, usage::Column::MantissaBits])
        .to_owned();
    many::put(tx, rows.collect(), Some(replace))
        .await
        .map_err(failed("write usage"))?;
    let rows = batch.dedupe.values().map(|row| dedupe_model(row));
    let replace = OnConflict::column(dedupe::Column::Fingerprint)
        .update_columns([
            dedupe::Column::Jobs,
            dedupe::Column::Errors,
            dedupe::Column::ExpiresAtMs,
        ])
        .to_owned();
    let step = "write what was asked lately";
    many::put(tx, rows.collect(), Some(replace))
        .await
        .map_err(failed(step))?;
    let rows = batch.idempotency.values().map(|row| idempotency_model(row));
    let replace = OnConflict::column(idempotency::Column::Scope)
        .update_columns([
            idempotency::Column::Fingerprint,
            idempotency::Column::Outcome,
            idempotency::Column::ExpiresAtMs,
        ])
        .to_owned();
    many::put(tx, rows.collect(), Some(replace))
        .await
        .map_err(failed(step))
}

/// Every row must be met as it was expected; memory and database differ otherwise.
async fn expect<E: EntityTrait>(
    tx: &DatabaseTransaction,
    what: &'static str,
    update: Update<'_, E>,
    rows: Vec<(E::Model, Vec<Value>)>,
) -> Result<(), StoreError>
where
    E::Model: sea_orm::ModelTrait<Entity = E>,
{
    let met = update.run(tx, &rows).await.map_err(failed("update rows"))?;
    match met == rows.len() as u64 {
        true => Ok(()),
        false => Err(StoreError::Unexpected {
            write: format!(
                "{met} of {} {what} were as expected: {:?}",
                rows.len(),
                rows.first()
            ),
        }),
    }
}

fn has<C: sea_orm::IdenStatic>(columns: &[C], column: &C) -> bool {
    columns
        .iter()
        .any(|fixed| fixed.as_str() == column.as_str())
}
