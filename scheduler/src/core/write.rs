//! What a commit does to the database, in order. Every update names the state it expects.

use schemas::{
    AccountId, Digest, JobId, TaskId,
    task::{Artefact, TaskSpec},
};

use super::{
    budget::BudgetRow,
    capacity::CapacityRow,
    costs::CostRow,
    decay::Decayed,
    event::EventRow,
    expiry::ExpiryRow,
    quota::{AuditRow, QuotaRow},
    rows::{
        AccountRow, AgentRow, AgentState, AttemptRow, Balance, CheckpointRow, DedupeRow, GoldenKey,
        IdempotencyRow, JobRow, JobState, KeyRow, LedgerRow, LoanRow, NoticeRow, OutboxRow,
        ReservationRow, ReservationState, TaskRow,
    },
    samples::SampleRow,
    shapes::ShapeId,
};

/// One statement. An update that meets another state than it names fails the whole group.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    InsertJob {
        row: JobRow,
        request: serde_json::Value,
    },
    UpdateJob {
        was: JobState,
        row: JobRow,
    },
    /// Leaves a tombstone. A job that is gone already is no error.
    RemoveJob {
        project: AccountId,
        job: JobId,
        at_ms: i64,
    },
    /// `row` has only the shape of the spec.
    InsertTask {
        row: TaskRow,
        spec: TaskSpec,
    },
    InsertShape {
        number: ShapeId,
        shape: TaskSpec,
    },
    /// A job that has not begun; packed if it is like any new one.
    InsertWaiting {
        job: JobId,
        seq: i64,
        packed: Option<Vec<u8>>,
    },
    /// A job that waits is not like any new one any more: its rows say what it is.
    WaitAsRows(JobId),
    RemoveWaiting(JobId),
    UpdateTask {
        was: TaskGuard,
        row: TaskRow,
    },
    InsertAttempt(AttemptRow),
    EndAttempt(AttemptRow),
    InsertCheckpoint(CheckpointRow),
    RemoveCheckpoint {
        task: TaskId,
        step: u32,
    },
    /// Files of a task that must stay as long as its job.
    KeepArtefacts {
        job: JobId,
        task: TaskId,
        artefacts: Vec<Artefact>,
    },
    /// Files that a task reads (a first frame); their sizes are not known here.
    KeepInputs {
        job: JobId,
        task: TaskId,
        digests: Vec<Digest>,
    },
    /// Nothing of a failed or cancelled job is kept.
    DropArtefacts {
        job: JobId,
    },
    InsertReservation(ReservationRow),
    UpdateReservation {
        was: ReservationState,
        row: ReservationRow,
    },
    InsertLedger(LedgerRow),
    PutBalance {
        account: AccountId,
        was: Option<Balance>,
        now: Balance,
    },
    /// What an account has had of the farm, for its place in the order.
    PutUsage {
        account: AccountId,
        usage: Decayed,
    },
    /// What work of a kind took so far.
    PutCost(CostRow),
    InsertAgent(AgentRow),
    UpdateAgent {
        was: AgentState,
        row: AgentRow,
    },
    InsertAccount(AccountRow),
    PutQuota(QuotaRow),
    PutBudget(Box<BudgetRow>),
    RemoveBudget(AccountId),
    PutCapacity(CapacityRow),
    RemoveCapacity {
        account: AccountId,
        pool: String,
    },
    PutExpiry(ExpiryRow),
    PutLoan(LoanRow),
    RemoveLoan(String),
    PutWeight {
        account: AccountId,
        weight: u32,
    },
    InsertAudit(AuditRow),
    InsertKey(KeyRow),
    RevokeKey {
        hash: String,
        at_ms: i64,
    },
    PutDedupe(DedupeRow),
    PutIdempotency(IdempotencyRow),
    InsertOutbox(OutboxRow),
    InsertEvent(EventRow),
    /// One device over one minute; a second write of the minute replaces the first.
    PutSample(Box<SampleRow>),
    /// The latents that a class of device gives for the probe.
    InsertGolden {
        key: GoldenKey,
        digest: Digest,
    },
    InsertNotice(NoticeRow),
}

/// State and attempt that a task must still have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskGuard {
    pub state: &'static str,
    pub attempt: u32,
}
