//! The net effect of a group of writes on each row, so that a row is written once.
//!
//! Writes to different rows may change places; those to one row become one. What is rare, or touches
//! many rows at once, is no part of a batch: it runs by itself, in its place between two of them.

use std::collections::{BTreeMap, BTreeSet};

use schemas::{AccountId, JobId, TaskId, task::TaskSpec};

use super::{convert::artefact_models, entity::artefact_ref};
use crate::core::{
    costs::{CostKey, CostRow},
    decay::Decayed,
    event::EventRow,
    rows::{
        AttemptRow, Balance, CheckpointRow, DedupeRow, IdempotencyRow, JobRow, JobState, LedgerRow,
        OutboxRow, ReservationRow, ReservationState, TaskRow,
    },
    shapes::ShapeId,
    write::{TaskGuard, Write},
};

/// What becomes of one row.
pub struct Change<'a, G, R> {
    /// The state that it must have; absent for a new row.
    pub was: Option<G>,
    pub now: &'a R,
}

type Changes<'a, K, G, R> = BTreeMap<K, Change<'a, G, R>>;

#[derive(Default)]
pub struct Batch<'a> {
    pub jobs: Changes<'a, JobId, JobState, JobRow>,
    pub requests: BTreeMap<JobId, &'a serde_json::Value>,
    pub tasks: Changes<'a, TaskId, TaskGuard, TaskRow>,
    pub specs: BTreeMap<TaskId, &'a TaskSpec>,
    pub shapes: Vec<(ShapeId, &'a TaskSpec)>,
    pub waiting: BTreeMap<JobId, (i64, Option<&'a [u8]>)>,
    /// Their packed form says no longer what they are.
    pub as_rows: Vec<JobId>,
    /// They wait no more.
    pub begun: Vec<JobId>,
    pub attempts: Changes<'a, (TaskId, u32), (), AttemptRow>,
    pub reservations: Changes<'a, JobId, ReservationState, ReservationRow>,
    pub balances: Changes<'a, AccountId, &'a Balance, Balance>,
    pub usage: BTreeMap<AccountId, Decayed>,
    pub checkpoints: BTreeMap<(TaskId, u32), &'a CheckpointRow>,
    /// Removed before those above are inserted.
    pub checkpoints_removed: BTreeSet<(TaskId, u32)>,
    pub artefacts: Vec<artefact_ref::Model>,
    pub ledger: Vec<&'a LedgerRow>,
    pub outbox: Vec<&'a OutboxRow>,
    pub events: Vec<&'a EventRow>,
    pub costs: BTreeMap<&'a CostKey, &'a CostRow>,
    pub dedupe: BTreeMap<&'a str, &'a DedupeRow>,
    pub idempotency: BTreeMap<&'a str, &'a IdempotencyRow>,
}

impl<'a> Batch<'a> {
    /// False when the write must run by itself, after all that were taken.
    pub fn take(&mut self, write: &'a Write) -> bool {
        match write {
            Write::InsertJob { row, request } => {
                self.requests.insert(row.id, request);
                change(&mut self.jobs, row.id, None, row);
            }
            Write::UpdateJob { was, row } => change(&mut self.jobs, row.id, Some(*was), row),
            Write::InsertTask { row, spec } => {
                self.specs.insert(row.id, spec);
                change(&mut self.tasks, row.id, None, row);
            }
            Write::InsertShape { number, shape } => self.shapes.push((*number, shape)),
            Write::InsertWaiting { job, seq, packed } => {
                self.waiting.insert(*job, (*seq, packed.as_deref()));
            }
            Write::WaitAsRows(job) => match self.waiting.get_mut(job) {
                Some((_, packed)) => *packed = None,
                None => self.as_rows.push(*job),
            },
            Write::RemoveWaiting(job) => {
                // One that came in this batch is in no table yet.
                if self.waiting.remove(job).is_none() {
                    self.begun.push(*job);
                }
            }
            Write::UpdateTask { was, row } => change(&mut self.tasks, row.id, Some(*was), row),
            Write::InsertAttempt(row) => {
                change(&mut self.attempts, (row.task, row.number), None, row);
            }
            Write::EndAttempt(row) => {
                change(&mut self.attempts, (row.task, row.number), Some(()), row);
            }
            Write::InsertReservation(row) => change(&mut self.reservations, row.job, None, row),
            Write::UpdateReservation { was, row } => {
                change(&mut self.reservations, row.job, Some(*was), row);
            }
            Write::PutBalance { account, was, now } => {
                change(&mut self.balances, *account, was.as_ref(), now);
            }
            Write::PutUsage { account, usage } => drop(self.usage.insert(*account, *usage)),
            Write::InsertCheckpoint(row) => {
                self.checkpoints.insert((row.task, row.at.step), row);
            }
            Write::RemoveCheckpoint { task, step } => {
                // One that was inserted in this batch is in no table yet.
                if self.checkpoints.remove(&(*task, *step)).is_none() {
                    self.checkpoints_removed.insert((*task, *step));
                }
            }
            Write::KeepArtefacts { .. } | Write::KeepInputs { .. } => {
                self.artefacts.extend(artefact_models(write));
            }
            Write::InsertLedger(row) => self.ledger.push(row),
            Write::InsertOutbox(row) => self.outbox.push(row),
            Write::InsertEvent(row) => self.events.push(row),
            Write::PutCost(row) => drop(self.costs.insert(&row.key, row)),
            Write::PutDedupe(row) => drop(self.dedupe.insert(&row.fingerprint, row)),
            Write::PutIdempotency(row) => drop(self.idempotency.insert(&row.scope, row)),
            _ => return false,
        }
        true
    }
}

/// The first state that a row must have, and the last that it gets.
fn change<'a, K: Ord, G, R>(rows: &mut Changes<'a, K, G, R>, key: K, was: Option<G>, now: &'a R) {
    rows.entry(key).or_insert(Change { was, now }).now = now;
}

/// New rows, and those that change with the state that they must have.
pub fn split<'a, K, G: Copy, R>(rows: &Changes<'a, K, G, R>) -> (Vec<&'a R>, Vec<(G, &'a R)>) {
    let (mut new, mut changed) = (Vec::new(), Vec::new());
    for row in rows.values() {
        match row.was {
            None => new.push(row.now),
            Some(was) => changed.push((was, row.now)),
        }
    }
    (new, changed)
}
