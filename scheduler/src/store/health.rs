//! Readings of devices by the minute, notices to operators, known latents of probes.

use schemas::{AgentId, Digest, TaskId};
use sea_orm::{
    ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder,
    QuerySelect, sea_query::OnConflict,
};

use super::{
    Store, StoreError,
    commit::insert,
    convert::{digest, from_json, json, text},
    entity::{device_sample, golden, notice, task},
    failed,
    load::all,
};
use crate::core::{
    fold::Snapshot,
    rows::{GoldenKey, NoticeRow},
    samples::SampleRow,
};

pub async fn learn(tx: &DatabaseTransaction, key: &GoldenKey, known: Digest) -> Result<(), DbErr> {
    let model = golden::Model {
        class: text(&key.class),
        weights: key.weights.to_string(),
        version: text(&key.version),
        digest: known.to_string(),
    };
    insert(tx, model).await
}

/// A recipe is completed by its words, which only the database has.
pub async fn note(tx: &DatabaseTransaction, row: &NoticeRow) -> Result<(), DbErr> {
    let mut detail = row.detail.clone();
    if let Some(recipe) = detail.get_mut("recipe")
        && let Ok(id) = row.subject.parse::<TaskId>()
        && let Some(task) = task::Entity::find_by_id(id.0).one(tx).await?
        && let Ok(whole) = serde_json::from_str(&task.spec)
    {
        *recipe = whole;
    }
    let model = notice::Model {
        seq: row.seq,
        at_ms: row.at_ms,
        kind: row.kind.clone(),
        actor: row.actor.as_deref().map(text),
        subject: text(&row.subject),
        // In JSON a NUL is written as six letters, so PostgreSQL takes it.
        detail: detail.to_string(),
    };
    insert(tx, model).await
}

pub async fn put_sample(tx: &DatabaseTransaction, row: &SampleRow) -> Result<(), DbErr> {
    use device_sample::Column;
    let replace = OnConflict::columns([Column::Agent, Column::Device, Column::MinuteMs])
        .update_columns([
            Column::Readings,
            Column::UtilisationPercent,
            Column::MemoryUsedMaxBytes,
            Column::MemoryTotalBytes,
            Column::PowerMw,
            Column::TemperatureMaxC,
            Column::SmClockMhz,
            Column::Throttled,
            Column::EccUncorrected,
            Column::Xids,
        ])
        .to_owned();
    device_sample::Entity::insert(sample_model(row).into_active_model())
        .on_conflict(replace)
        .exec_without_returning(tx)
        .await
        .map(drop)
}

fn sample_model(row: &SampleRow) -> device_sample::Model {
    // A reading beyond i64 is no reading.
    let signed = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok());
    device_sample::Model {
        agent: row.agent.0,
        device: row.device.into(),
        minute_ms: row.minute_ms,
        readings: row.readings.into(),
        utilisation_percent: signed(row.utilisation.mean()),
        memory_used_max_bytes: signed(row.memory_used_max_bytes),
        memory_total_bytes: signed(row.memory_total_bytes),
        power_mw: signed(row.power_mw.mean()),
        temperature_max_c: row.temperature_max_c.map(i64::from),
        sm_clock_mhz: signed(row.sm_clock_mhz.mean()),
        throttled: row.throttled.into(),
        ecc_uncorrected: signed(row.ecc_uncorrected),
        xids: json(&row.xids),
    }
}

pub async fn read(tx: &DatabaseTransaction, into: &mut Snapshot) -> Result<(), StoreError> {
    let rows = all(tx, golden::Entity::find(), "read known latents").await?;
    let known = |model: golden::Model| {
        let key = GoldenKey {
            class: model.class,
            weights: digest(&model.weights)?,
            version: model.version,
        };
        Ok((key, digest(&model.digest)?))
    };
    into.golden = rows
        .into_iter()
        .map(known)
        .collect::<Result<_, StoreError>>()?;
    into.golden.sort();
    Ok(())
}

/// A minute of a device as it is kept; see [`SampleRow`].
pub type SampleMinute = device_sample::Model;

impl Store {
    /// The newest notices, newest first.
    pub async fn notices(&self, limit: u64) -> Result<Vec<NoticeRow>, StoreError> {
        let models = notice::Entity::find()
            .order_by_desc(notice::Column::Seq)
            .limit(limit)
            .all(&self.readers)
            .await
            .map_err(failed("read notices"))?;
        let row = |model: notice::Model| {
            Ok(NoticeRow {
                seq: model.seq,
                at_ms: model.at_ms,
                kind: model.kind,
                actor: model.actor,
                subject: model.subject,
                detail: from_json("notice.detail", &model.detail)?,
            })
        };
        models.into_iter().map(row).collect()
    }

    /// Minutes of a node's devices from `since_ms` on, oldest first.
    pub async fn samples(
        &self,
        agent: AgentId,
        since_ms: i64,
    ) -> Result<Vec<SampleMinute>, StoreError> {
        device_sample::Entity::find()
            .filter(device_sample::Column::Agent.eq(agent.0))
            .filter(device_sample::Column::MinuteMs.gte(since_ms))
            .order_by_asc(device_sample::Column::MinuteMs)
            .order_by_asc(device_sample::Column::Device)
            .all(&self.readers)
            .await
            .map_err(failed("read samples of devices"))
    }

    /// Removes samples and notices from before these instants. Answers the number of rows.
    pub async fn remove_observed(
        &self,
        samples_before: i64,
        notices_before: i64,
    ) -> Result<u64, StoreError> {
        let step = "remove what was observed long ago";
        let tx = self.write_tx().await?;
        let samples = device_sample::Entity::delete_many()
            .filter(device_sample::Column::MinuteMs.lt(samples_before))
            .exec(&tx)
            .await
            .map_err(failed(step))?;
        let notices = notice::Entity::delete_many()
            .filter(notice::Column::AtMs.lt(notices_before))
            .exec(&tx)
            .await
            .map_err(failed(step))?;
        tx.commit().await.map_err(failed(step))?;
        Ok(samples.rows_affected + notices.rows_affected)
    }
}
