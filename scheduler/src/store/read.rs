//! What the API reads: jobs with their tasks, artefacts and quota.

use std::collections::BTreeMap;

use schemas::{
    AccountId, GpuMicros, JobId, TaskId,
    task::{Artefact, TaskKind, TaskSpec, Variant},
};
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use super::{
    Store, StoreError,
    convert::{account_row, digest, from_json, job_row, key_row, reservation_row, task_row},
    entity::{account, api_key, artefact_ref, job, reservation, task, tombstone},
    failed,
};
pub use crate::core::live::{LiveJob, LiveTask};
use crate::core::rows::{AccountRow, JobError, JobState, KeyRow, ReservationState};

/// A job as it is committed.
#[derive(Clone, Debug)]
pub struct JobView {
    pub id: JobId,
    pub project: AccountId,
    pub request: serde_json::Value,
    pub seed: u64,
    pub state: JobState,
    /// 0 to 100; only grows.
    pub progress: u8,
    pub created_at_ms: i64,
    pub ended_at_ms: Option<i64>,
    pub error: Option<JobError>,
    /// See [`crate::core::rows::JobRow::saved`].
    pub saved: Option<i64>,
    /// Render tasks in the order of shots, then `Assemble`.
    pub tasks: Vec<TaskView>,
    /// Published files; empty until `Succeeded`.
    pub artefacts: Vec<Artefact>,
    pub reservation: ReservationView,
}

impl JobView {
    pub fn artefact(&self, variant: Variant) -> Option<&Artefact> {
        self.artefacts.iter().find(|a| a.variant == variant)
    }
}

#[derive(Clone, Debug)]
pub struct TaskView {
    pub id: TaskId,
    pub index: u32,
    pub kind: TaskKind,
    /// `blocked`, `ready`, `leased`, `succeeded`, `failed` or `cancelled`.
    pub state: String,
    /// The last attempt granted; 0 before the first.
    pub attempt: u32,
    pub step: u32,
    pub steps: u32,
    /// Failures of all classes.
    pub failures: u32,
    pub estimate: GpuMicros,
    pub used: GpuMicros,
}

#[derive(Clone, Copy, Debug)]
pub struct ReservationView {
    pub state: ReservationState,
    /// What was held at submit.
    pub reserved: GpuMicros,
    pub posted: GpuMicros,
    pub refunded: GpuMicros,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Newest first.
    Desc,
    Asc,
}

/// Where a page starts: behind this job, by (`created_at_ms`, id).
#[derive(Clone, Copy, Debug)]
pub struct After {
    pub created_at_ms: i64,
    pub id: JobId,
}

#[derive(Clone, Debug)]
pub struct JobsPage {
    pub jobs: Vec<JobView>,
    pub has_more: bool,
}

/// What is left of a deleted job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tombstone {
    pub id: JobId,
    pub created_at_ms: i64,
    pub deleted_at_ms: i64,
}

impl Store {
    /// `None` for an unknown, deleted or foreign job.
    pub async fn job(&self, project: AccountId, id: JobId) -> Result<Option<JobView>, StoreError> {
        let model = job::Entity::find_by_id(id.0)
            .filter(job::Column::Project.eq(project.0))
            .one(&self.readers)
            .await
            .map_err(failed("read a job"))?;
        let models = model.into_iter().collect();
        Ok(self.views(models).await?.pop())
    }

    /// The whole specs of these tasks, words included; memory has only their shapes.
    pub async fn specs(&self, ids: &[TaskId]) -> Result<BTreeMap<TaskId, TaskSpec>, StoreError> {
        let rows: Vec<(Uuid, String)> = task::Entity::find()
            .select_only()
            .column(task::Column::Id)
            .column(task::Column::Spec)
            .filter(task::Column::Id.is_in(ids.iter().map(|id| id.0)))
            .into_tuple()
            .all(&self.readers)
            .await
            .map_err(failed("read what a task is"))?;
        let spec = |(id, text): (Uuid, String)| Ok((TaskId(id), from_json("task.spec", &text)?));
        rows.into_iter().map(spec).collect()
    }

    /// A page of a project's jobs; `limit` 0 gives an empty page.
    pub async fn jobs_page(
        &self,
        project: AccountId,
        after: Option<After>,
        limit: u64,
        order: Order,
    ) -> Result<JobsPage, StoreError> {
        if limit == 0 {
            return Ok(JobsPage {
                jobs: Vec::new(),
                has_more: false,
            });
        }
        let direction = match order {
            Order::Desc => sea_orm::Order::Desc,
            Order::Asc => sea_orm::Order::Asc,
        };
        let mut query = job::Entity::find().filter(job::Column::Project.eq(project.0));
        if let Some(after) = after {
            query = query.filter(behind(after, order));
        }
        let mut models = query
            .order_by(job::Column::CreatedAtMs, direction.clone())
            .order_by(job::Column::Id, direction)
            .limit(limit + 1)
            .all(&self.readers)
            .await
            .map_err(failed("read a page of jobs"))?;
        let has_more = models.len() as u64 > limit;
        models.truncate(limit as usize);
        Ok(JobsPage {
            jobs: self.views(models).await?,
            has_more,
        })
    }

    /// The place of a job in the list, deleted or not; `None` for an id that was never there.
    pub async fn cursor(&self, project: AccountId, id: JobId) -> Result<Option<After>, StoreError> {
        let model = job::Entity::find_by_id(id.0)
            .filter(job::Column::Project.eq(project.0))
            .one(&self.readers)
            .await
            .map_err(failed("read a job"))?;
        if let Some(model) = model {
            let created_at_ms = model.created_at_ms;
            return Ok(Some(After { created_at_ms, id }));
        }
        let dead = self.tombstone(project, id).await?;
        Ok(dead.map(|dead| After {
            created_at_ms: dead.created_at_ms,
            id,
        }))
    }

    pub async fn tombstone(
        &self,
        project: AccountId,
        id: JobId,
    ) -> Result<Option<Tombstone>, StoreError> {
        let model = tombstone::Entity::find_by_id(id.0)
            .filter(tombstone::Column::Project.eq(project.0))
            .one(&self.readers)
            .await
            .map_err(failed("read a tombstone"))?;
        Ok(model.map(|model| Tombstone {
            id,
            created_at_ms: model.created_at_ms,
            deleted_at_ms: model.deleted_at_ms,
        }))
    }

    /// The key with this BLAKE3 hash (hex), revoked ones too.
    pub async fn key(&self, hash: &str) -> Result<Option<KeyRow>, StoreError> {
        let model = api_key::Entity::find_by_id(hash)
            .one(&self.readers)
            .await
            .map_err(failed("read a key"))?;
        model.map(key_row).transpose()
    }

    pub async fn keys(&self) -> Result<Vec<KeyRow>, StoreError> {
        let models = api_key::Entity::find()
            .order_by_asc(api_key::Column::CreatedAtMs)
            .all(&self.readers)
            .await
            .map_err(failed("read keys"))?;
        models.into_iter().map(key_row).collect()
    }

    pub async fn account(&self, id: AccountId) -> Result<Option<AccountRow>, StoreError> {
        let model = account::Entity::find_by_id(id.0)
            .one(&self.readers)
            .await
            .map_err(failed("read an account"))?;
        model.map(account_row).transpose()
    }

    pub async fn accounts(&self) -> Result<Vec<AccountRow>, StoreError> {
        let models = account::Entity::find()
            .order_by_asc(account::Column::CreatedAtMs)
            .all(&self.readers)
            .await
            .map_err(failed("read accounts"))?;
        models.into_iter().map(account_row).collect()
    }

    /// Jobs with everything that hangs on them, in the order given: three queries for all of them.
    async fn views(&self, models: Vec<job::Model>) -> Result<Vec<JobView>, StoreError> {
        let ids: Vec<_> = models.iter().map(|model| model.id).collect();
        let tasks = task::Entity::find()
            .filter(task::Column::Job.is_in(ids.clone()))
            .order_by_asc(task::Column::Place)
            .all(&self.readers)
            .await
            .map_err(failed("read tasks"))?;
        let files = artefact_ref::Entity::find()
            .filter(artefact_ref::Column::Job.is_in(ids.clone()))
            .all(&self.readers)
            .await
            .map_err(failed("read artefacts"))?;
        let held = reservation::Entity::find()
            .filter(reservation::Column::Job.is_in(ids))
            .all(&self.readers)
            .await
            .map_err(failed("read reservations"))?;
        models
            .into_iter()
            .map(|model| view(model, &tasks, &files, &held))
            .collect()
    }
}

fn behind(after: After, order: Order) -> Condition {
    let (time, id) = (job::Column::CreatedAtMs, job::Column::Id);
    let same_time = |beyond| {
        Condition::all()
            .add(time.eq(after.created_at_ms))
            .add(beyond)
    };
    match order {
        Order::Desc => Condition::any()
            .add(time.lt(after.created_at_ms))
            .add(same_time(id.lt(after.id.0))),
        Order::Asc => Condition::any()
            .add(time.gt(after.created_at_ms))
            .add(same_time(id.gt(after.id.0))),
    }
}

fn view(
    model: job::Model,
    tasks: &[task::Model],
    files: &[artefact_ref::Model],
    held: &[reservation::Model],
) -> Result<JobView, StoreError> {
    let row = job_row(&model)?;
    let tasks = tasks.iter().filter(|task| task.job == model.id);
    let published = row.state == JobState::Succeeded;
    let files = files
        .iter()
        .filter(|file| published && file.job == model.id);
    let reservation = held.iter().find(|row| row.job == model.id);
    Ok(JobView {
        id: row.id,
        project: row.project,
        request: from_json("job.request", &model.request)?,
        seed: row.seed,
        state: row.state,
        progress: row.progress,
        created_at_ms: row.created_at_ms,
        ended_at_ms: row.ended_at_ms,
        error: row.error,
        saved: row.saved,
        tasks: tasks.map(task_view).collect::<Result<_, _>>()?,
        artefacts: files
            .filter_map(|file| artefact(file).transpose())
            .collect::<Result<_, _>>()?,
        reservation: reservation_view(reservation)?,
    })
}

fn task_view(model: &task::Model) -> Result<TaskView, StoreError> {
    let row = task_row(model)?;
    Ok(TaskView {
        id: row.id,
        index: row.index,
        kind: row.kind(),
        state: row.state.name().into(),
        attempt: row.attempt,
        step: row.step,
        steps: row.steps,
        failures: row.failures.values().sum(),
        estimate: row.estimate,
        used: row.used,
    })
}

/// `None` for files that are not for the public: shots and inputs.
fn artefact(model: &artefact_ref::Model) -> Result<Option<Artefact>, StoreError> {
    let public = [Variant::Film, Variant::Thumbnail, Variant::Spritesheet];
    let Some(variant) = public.into_iter().find(|v| v.name() == model.variant) else {
        return Ok(None);
    };
    Ok(Some(Artefact {
        variant,
        digest: digest(&model.digest)?,
        bytes: model.bytes.cast_unsigned(),
    }))
}

fn reservation_view(model: Option<&reservation::Model>) -> Result<ReservationView, StoreError> {
    let row = model.map(reservation_row).transpose()?;
    let row = row.ok_or(StoreError::Broken {
        column: "reservation",
        value: "no row for a job".into(),
    })?;
    Ok(ReservationView {
        state: row.state,
        reserved: row.reserved,
        posted: row.posted,
        refunded: row.refunded,
    })
}
