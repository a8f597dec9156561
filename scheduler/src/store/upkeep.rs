//! What chores ask and remove: references of artefacts, rows past their time.

use std::collections::BTreeSet;

use schemas::Digest;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect};

use super::{
    Store, StoreError,
    convert::digest,
    entity::{artefact_ref, checkpoint, dedupe, idempotency, tombstone},
    failed,
};

impl Store {
    /// Every artefact that a job or a checkpoint needs.
    pub async fn referenced_artefacts(&self) -> Result<BTreeSet<Digest>, StoreError> {
        let step = "read which artefacts are in use";
        let mut texts: Vec<String> = artefact_ref::Entity::find()
            .select_only()
            .column(artefact_ref::Column::Digest)
            .into_tuple()
            .all(&self.readers)
            .await
            .map_err(failed(step))?;
        let checkpoints: Vec<String> = checkpoint::Entity::find()
            .select_only()
            .column(checkpoint::Column::Digest)
            .into_tuple()
            .all(&self.readers)
            .await
            .map_err(failed(step))?;
        texts.extend(checkpoints);
        texts.iter().map(|text| digest(text)).collect()
    }

    /// Removes tombstones deleted before `tombstones_before` and kept answers that ended before `now`.
    /// Answers the number of rows.
    pub async fn remove_expired(
        &self,
        now: i64,
        tombstones_before: i64,
    ) -> Result<u64, StoreError> {
        let step = "remove what is past its time";
        let tx = self.write_tx().await?;
        let tombstones = tombstone::Entity::delete_many()
            .filter(tombstone::Column::DeletedAtMs.lt(tombstones_before))
            .exec(&tx)
            .await
            .map_err(failed(step))?;
        let dedupe = dedupe::Entity::delete_many()
            .filter(dedupe::Column::ExpiresAtMs.lte(now))
            .exec(&tx)
            .await
            .map_err(failed(step))?;
        let idempotency = idempotency::Entity::delete_many()
            .filter(idempotency::Column::ExpiresAtMs.lte(now))
            .exec(&tx)
            .await
            .map_err(failed(step))?;
        tx.commit().await.map_err(failed(step))?;
        Ok(tombstones.rows_affected + dedupe.rows_affected + idempotency.rows_affected)
    }
}
