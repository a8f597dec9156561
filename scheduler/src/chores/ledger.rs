//! Checks the ledger of quota: its chain, every balance, every hold. It repairs nothing.

use super::{ChoreError, Chores};

/// Answers 0, the number of faults; with any the chore fails and says the first.
pub(super) async fn check(chores: &Chores) -> Result<u64, ChoreError> {
    let faults = chores.store.check_ledger().await?;
    for fault in &faults {
        tracing::error!(%fault, "the ledger of quota is not whole");
    }
    match faults.first() {
        None => Ok(0),
        Some(first) => Err(ChoreError::Ledger {
            first: first.clone(),
            faults: faults.len(),
        }),
    }
}
