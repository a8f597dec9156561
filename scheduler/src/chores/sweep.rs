//! Removes artefacts that no job and no checkpoint refers to.

use std::time::{Duration, SystemTime};

use futures::TryStreamExt;

use super::{ChoreError, Chores};
use crate::artifacts::Stored;

/// Answers how many artefacts were removed.
pub(super) async fn sweep(chores: &Chores) -> Result<u64, ChoreError> {
    let age = Duration::from_millis(chores.settings.sweep_older_than_ms.max(0) as u64);
    let Some(oldest_kept) = SystemTime::now().checked_sub(age) else {
        return Ok(0);
    };
    // Listed before the references are read: what is stored later is not looked at, and what was
    // stored before and is referred to by now is found among the references.
    let old = |stored: &Stored| stored.modified < oldest_kept;
    let listed: Vec<Stored> = chores.artifacts.list().try_collect().await?;
    let mut candidates: Vec<Stored> = listed.into_iter().filter(old).collect();
    let referenced = chores.store.referenced_artefacts().await?;
    candidates.retain(|stored| !referenced.contains(&stored.digest));
    let mut removed = 0;
    for candidate in candidates {
        // A second upload of the same bytes makes them young again.
        if chores
            .artifacts
            .modified(candidate.digest)
            .await?
            .as_ref()
            .is_some_and(|at| *at < oldest_kept)
        {
            chores.artifacts.remove(candidate.digest).await?;
            removed += 1;
        }
    }
    Ok(removed)
}
