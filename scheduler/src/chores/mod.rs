//! Background work of the scheduler that must survive a restart, run by apalis on our own table.
//!
//! [`backend`] lets apalis take runs from the `chore` table; a run is leased and fenced by its number.
//! [`sweep`] removes artefacts that nothing refers to, [`retention`] removes rows past their time,
//! [`ledger`] checks the ledger of quota.

mod backend;
mod ledger;
mod retention;
mod sweep;

#[cfg(test)]
mod tests;

use std::time::Duration;

use apalis::{
    layers::WorkerBuilderExt,
    prelude::{Data, WorkerBuilder},
};
use apalis_core::error::WorkerError;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::backend::{ChoreBackend, LEASE_MS, Ticket};
use crate::{
    artifacts::{ArtifactError, Artifacts},
    clock::Clock,
    store::{Store, StoreError, quota::Fault},
};

/// Pause before the worker is started again after apalis gave it up.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// When chores run, and what they leave alone.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChoreSettings {
    pub sweep_every_ms: i64,
    /// Unreferenced artefacts younger than this stay: their report may be on its way.
    pub sweep_older_than_ms: i64,
    pub retention_every_ms: i64,
    /// How long the place of a deleted job is remembered.
    pub tombstone_ms: i64,
    /// How long the log is kept that `dailies simulate --from` replays.
    pub log_ms: i64,
    /// How long readings of devices are kept.
    pub samples_ms: i64,
    /// How long notices to operators are kept.
    pub notices_ms: i64,
    pub check_ledger_every_ms: i64,
}

impl Default for ChoreSettings {
    fn default() -> Self {
        let (minute, hour) = (60_000, 3_600_000);
        Self {
            sweep_every_ms: hour,
            sweep_older_than_ms: 24 * hour,
            retention_every_ms: 10 * minute,
            tombstone_ms: 30 * 24 * hour,
            log_ms: 90 * 24 * hour,
            samples_ms: 14 * 24 * hour,
            notices_ms: 90 * 24 * hour,
            check_ledger_every_ms: 24 * hour,
        }
    }
}

/// What a row of the table asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Chore {
    SweepArtefacts,
    Retention,
    CheckLedger,
}

impl Chore {
    const ALL: [Self; 3] = [Self::SweepArtefacts, Self::Retention, Self::CheckLedger];

    fn name(self) -> &'static str {
        match self {
            Self::SweepArtefacts => "sweep_artefacts",
            Self::Retention => "retention",
            Self::CheckLedger => "check_ledger",
        }
    }

    fn every_ms(self, settings: &ChoreSettings) -> i64 {
        match self {
            Self::SweepArtefacts => settings.sweep_every_ms,
            Self::Retention => settings.retention_every_ms,
            Self::CheckLedger => settings.check_ledger_every_ms,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ChoreError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
    #[error("the ledger of quota is not whole: {first}; {faults} faults in all")]
    Ledger { first: Fault, faults: usize },
    #[error("another run of the chore has begun")]
    Overtaken,
}

/// What every chore works with; cheap to clone.
#[derive(Clone, Debug)]
struct Chores {
    settings: ChoreSettings,
    store: Store,
    artifacts: Artifacts,
    clock: Clock,
}

/// Enters the chores and starts their worker in `tasks`; it ends after `stop`.
///
/// # Errors
/// [`ChoreError`] when the table cannot be written.
pub async fn start(
    settings: ChoreSettings,
    store: Store,
    artifacts: Artifacts,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> Result<(), ChoreError> {
    let chores = Chores {
        settings,
        store,
        artifacts,
        clock: Clock::start(),
    };
    for chore in Chore::ALL {
        let payload = serde_json::json!(chore).to_string();
        let now = chores.clock.now_ms();
        chores
            .store
            .enter_chore(chore.name(), &payload, now)
            .await?;
    }
    tasks.spawn(work(chores, stop));
    Ok(())
}

/// Runs the worker; one that apalis has given up is started again.
async fn work(chores: Chores, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = worker(chores.clone(), stop.clone()).await {
            tracing::warn!(%error, "the worker of the chores ended");
        }
        tokio::select! {
            () = tokio::time::sleep(RESTART_PAUSE) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Boxed: the compiler cannot see through the panic layer's type that the future is `Send`.
fn worker(chores: Chores, stop: CancellationToken) -> BoxFuture<'static, Result<(), WorkerError>> {
    let backend = ChoreBackend::new(chores.store.clone(), chores.clock);
    let worker = WorkerBuilder::new("chores")
        .backend(backend)
        .data(chores)
        .concurrency(1)
        .catch_panic()
        .build(run);
    Box::pin(worker.run_until(async move {
        stop.cancelled().await;
        Ok::<(), std::io::Error>(())
    }))
}

/// One run: the work, its lease renewed beside it, and its end written by itself.
async fn run(chore: Chore, chores: Data<Chores>, ticket: Data<Ticket>) -> Result<(), ChoreError> {
    let (chores, ticket) = (Chores::clone(&chores), Ticket::clone(&ticket));
    let work = async {
        match chore {
            Chore::SweepArtefacts => sweep::sweep(&chores).await,
            Chore::Retention => retention::remove(&chores).await,
            Chore::CheckLedger => ledger::check(&chores).await,
        }
    };
    let done = tokio::select! {
        done = work => done?,
        lost = keep_lease(&chores, &ticket) => return lost,
    };
    let now = chores.clock.now_ms();
    let next = now + chore.every_ms(&chores.settings);
    let store = &chores.store;
    match store
        .finish_chore(&ticket.name, ticket.run, now, next)
        .await?
    {
        true => {
            tracing::info!(chore = ticket.name, run = ticket.run, done, "chore");
            Ok(())
        }
        false => Err(ChoreError::Overtaken),
    }
}

/// apalis does not renew while it drains, so each run does it itself. Ends only when the run is lost.
async fn keep_lease(chores: &Chores, ticket: &Ticket) -> Result<(), ChoreError> {
    loop {
        tokio::time::sleep(Duration::from_millis(LEASE_MS as u64 / 3)).await;
        let until_ms = chores.clock.now_ms() + LEASE_MS;
        let store = &chores.store;
        if !store
            .renew_chore(&ticket.name, ticket.run, until_ms)
            .await?
        {
            return Err(ChoreError::Overtaken);
        }
    }
}
