//! Removes rows that are past their time: tombstones, kept answers, records of retries, readings, notices, the log.

use super::{ChoreError, Chores};

/// Answers how many rows were removed.
pub(super) async fn remove(chores: &Chores) -> Result<u64, ChoreError> {
    let now = chores.clock.now_ms();
    let tombstones_before = now - chores.settings.tombstone_ms;
    let expired = chores.store.remove_expired(now, tombstones_before).await?;
    let (samples_before, notices_before) = (
        now - chores.settings.samples_ms,
        now - chores.settings.notices_ms,
    );
    let observed = chores
        .store
        .remove_observed(samples_before, notices_before)
        .await?;
    let cut = chores.store.cut_log(now - chores.settings.log_ms).await?;
    Ok(cut + expired + observed)
}
