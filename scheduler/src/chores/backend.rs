//! Our apalis backend: runs come from the `chore` table, one at a time.
//!
//! Batches are 1: with more, `Persisted` neither renews nor acknowledges while it holds a buffer.
//! A passing fault of the database is answered with "nothing to do", since an error ends the worker.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use apalis_codec::json::JsonCodec;
use apalis_core::{
    backend::{
        Backend, BackendConfig, WireFormatBackend,
        finalize::Durable,
        persistence::{Persisted, Persistence, TaskEvent, TaskPersistLayer},
    },
    task::{Task, builder::TaskBuilder, task_id::TaskId},
    worker::context::WorkerContext,
};
use serde_json::Value;

use super::Chore;
use crate::{clock::Clock, store::Store};

/// How long a run holds its chore without a renewal.
pub(super) const LEASE_MS: i64 = 30_000;
/// How often an idle worker looks for something due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const BATCH: usize = 1;
const BACKOFF_FIRST_MS: i64 = 5_000;
const BACKOFF_MAX_MS: i64 = 6 * 3_600_000;
/// Characters of an error that are kept in the row.
const ERROR_CHARS_MAX: usize = 500;

/// Names one run: its chore and its fencing number. Handlers get it as `Data<Ticket>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub name: String,
    pub run: i64,
}

#[derive(Clone, Debug)]
pub(super) struct ChoreTable {
    store: Store,
    clock: Clock,
    /// The run of each chore that this worker took last.
    taken: Arc<Mutex<BTreeMap<String, i64>>>,
}

impl ChoreTable {
    fn note(&self, name: &str, run: i64) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.insert(name.into(), run);
    }

    fn run_of(&self, name: &str) -> Option<i64> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.get(name).copied()
    }

    /// A run that ended badly, or panicked, is tried again later and later.
    async fn fail(&self, name: &str, error: &str) {
        let Some(run) = self.run_of(name) else {
            return;
        };
        let error: String = error.chars().take(ERROR_CHARS_MAX).collect();
        tracing::warn!(chore = name, run, error, "a chore failed");
        let failures = match self.store.chores().await {
            Ok(rows) => rows
                .iter()
                .find(|row| row.name == name)
                .map_or(0, |r| r.failures),
            Err(_) => 0,
        };
        let pause = (BACKOFF_FIRST_MS << failures.clamp(0, 20)).min(BACKOFF_MAX_MS);
        let next_at_ms = self.clock.now_ms() + pause;
        let noted = self.store.fail_chore(name, run, &error, next_at_ms).await;
        if let Err(error) = noted {
            tracing::warn!(%error, "its lease will run out instead");
        }
    }
}

impl Persistence for ChoreTable {
    type Compact = Value;
    type Response = Value;
    type Error = Infallible;

    async fn register(&mut self, _: &WorkerContext) -> Result<(), Infallible> {
        Ok(())
    }

    async fn heartbeat(&mut self, _: &WorkerContext) -> Result<(), Infallible> {
        Ok(())
    }

    async fn fetch_next(&mut self, _: &WorkerContext) -> Result<Vec<Task<Value>>, Infallible> {
        let taken = self.store.take_chore(self.clock.now_ms(), LEASE_MS).await;
        let taken = match taken {
            Ok(Some(taken)) => taken,
            Ok(None) => return Ok(Vec::new()),
            Err(error) => {
                tracing::warn!(%error, "cannot look for chores");
                return Ok(Vec::new());
            }
        };
        self.note(&taken.name, taken.run);
        // Read here already: apalis gives the whole worker up over a payload that it cannot read.
        let payload = match serde_json::from_str::<Chore>(&taken.payload) {
            Ok(chore) => serde_json::json!(chore),
            Err(error) => {
                self.fail(&taken.name, &error.to_string()).await;
                return Ok(Vec::new());
            }
        };
        let task = TaskBuilder::new(payload)
            .task_id(TaskId::from_string(taken.name.clone()))
            .data(Ticket {
                name: taken.name,
                run: taken.run,
            });
        Ok(vec![task.build()])
    }

    async fn reenqueue_abandoned(
        &mut self,
        tasks: Vec<Task<Value>>,
        _: &WorkerContext,
    ) -> Result<u64, Infallible> {
        for task in &tasks {
            if let Some(name) = task.ctx().task_id().and_then(TaskId::as_string) {
                self.fail(name, "the worker ended before the run began")
                    .await;
            }
        }
        Ok(tasks.len() as u64)
    }

    async fn handle_events(
        &mut self,
        events: Vec<TaskEvent<Value>>,
        _: &WorkerContext,
    ) -> Result<(), Infallible> {
        for event in events {
            // A run that went well has ended its row itself.
            if let TaskEvent::Complete(done) = event
                && let Err(error) = done.result()
                && let Some(name) = done.task_id().as_string()
            {
                self.fail(name, error).await;
            }
        }
        Ok(())
    }

    async fn push_tasks(&mut self, tasks: Vec<Task<Value>>) -> Result<(), Infallible> {
        // Chores are rows that the store enters; nothing pushes through apalis.
        tracing::warn!(tasks = tasks.len(), "chores are entered through the store");
        Ok(())
    }
}

pub(super) struct ChoreBackend {
    persisted: Persisted<ChoreTable>,
    codec: JsonCodec<Value>,
}

impl ChoreBackend {
    pub fn new(store: Store, clock: Clock) -> Self {
        let table = ChoreTable {
            store,
            clock,
            taken: Arc::default(),
        };
        Self {
            persisted: Persisted::new(table),
            codec: JsonCodec::default(),
        }
    }
}

impl Backend for ChoreBackend {
    type Task = Task<Value>;
    type Error = Infallible;

    fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Result<(), Infallible>> {
        self.persisted.poll_ready(cx, worker, LOOK_EVERY)
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Option<Result<Task<Value>, Infallible>>> {
        self.persisted.poll_next(cx, worker)
    }

    fn poll_close(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Result<(), Infallible>> {
        self.persisted.poll_close(cx, worker)
    }
}

impl BackendConfig for ChoreBackend {
    type Args = Chore;
    type Id = String;
    type Kind = Durable;
    type Config = ();
    type Layer = TaskPersistLayer<JsonCodec<Value>, Value>;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Self::Layer {
        self.persisted
            .layer(self.codec.clone(), BATCH)
            .persist_results(true)
            .lock_tasks(true)
    }
}

impl WireFormatBackend for ChoreBackend {
    type Codec = JsonCodec<Value>;
    type Compact = Value;

    fn codec(&self) -> &JsonCodec<Value> {
        &self.codec
    }
}
