//! What the core can be asked, and what it answers. A refusal is a value, never an error.

use schemas::{
    AccountId, AgentId, BootId, GpuMicros, JobId, TaskId,
    agent::{
        CheckpointReport, Heartbeat, HeartbeatAnswer, Hello, LeaseOffer, LeaseRequest, ProbeReport,
        Report, Welcome, WriteAnswer,
    },
};

use super::{
    calibration::Promise,
    explain::Waiting,
    nodes::NodeOrder,
    quota::{Ordered, QuotaOrder},
    rows::{AccountRow, Fingerprint, KeyRow, NewJob},
};

/// Everything that changes the farm. Timers are commands too, so there is one order of events.
#[derive(Clone, Debug)]
pub enum Command {
    /// Accept a job, or find the one that an equal request made before.
    Submit(Box<NewJob>),
    /// End a job for its owner. Final at once; a running attempt is fenced off.
    Cancel {
        project: AccountId,
        job: JobId,
    },
    /// Hold a job back for its owner: nothing of it starts, and what renders stops at its next step.
    Pause {
        project: AccountId,
        job: JobId,
        /// Name of the key.
        by: String,
    },
    /// A job that was held back may start and go on.
    Resume {
        project: AccountId,
        job: JobId,
    },
    /// Cancel what is not finished, then remove the job; only a tombstone stays.
    Delete {
        project: AccountId,
        job: JobId,
    },
    /// A retryable error was answered to a request: its next retry may create a job.
    NoteError {
        fingerprint: Fingerprint,
    },
    /// Keep a 4xx answer for its `Idempotency-Key`.
    KeepAnswer {
        scope: String,
        fingerprint: Fingerprint,
        answer: serde_json::Value,
    },
    AddAccount(AccountRow),
    /// Grant quota to an account, or change its limits.
    OrderQuota(Box<QuotaOrder>),
    AddKey(KeyRow),
    RevokeKey {
        hash: String,
    },

    Hello(Box<Hello>),
    Lease(LeaseRequest),
    Heartbeat(Box<Heartbeat>),
    Checkpoint(CheckpointReport),
    Report(Box<Report>),
    /// A device in quarantine, or one that was asked what its class gives, has rendered the probe.
    Probed(ProbeReport),
    /// An operator's order about a node.
    OrderNode(Box<NodeOrder>),
    /// SIGTERM. With a boot only that life of the agent is meant.
    Drain {
        agent: AgentId,
        boot: Option<BootId>,
    },

    /// Memory was just read from the database.
    Started,
    /// What an answer foretold of a job.
    Promise {
        job: JobId,
        promise: Promise,
    },

    /// Time has passed. Never needed for correctness: every command looks at the clock first.
    Tick,
}

impl Command {
    /// The job that it names: its rows are unpacked before the command is applied.
    pub fn job(&self) -> Option<JobId> {
        match self {
            Self::Cancel { job, .. } | Self::Pause { job, .. } | Self::Delete { job, .. } => {
                Some(*job)
            }
            _ => None,
        }
    }

    /// Short name for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Submit(_) => "submit",
            Self::Cancel { .. } => "cancel",
            Self::Pause { .. } => "pause",
            Self::Resume { .. } => "resume",
            Self::Delete { .. } => "delete",
            Self::NoteError { .. } => "note_error",
            Self::KeepAnswer { .. } => "keep_answer",
            Self::AddAccount(_) => "add_account",
            Self::OrderQuota(_) => "order_quota",
            Self::AddKey(_) => "add_key",
            Self::RevokeKey { .. } => "revoke_key",
            Self::Hello(_) => "hello",
            Self::Lease(_) => "lease",
            Self::Heartbeat(_) => "heartbeat",
            Self::Checkpoint(_) => "checkpoint",
            Self::Report(_) => "report",
            Self::Probed(_) => "probed",
            Self::OrderNode(_) => "order_node",
            Self::Drain { .. } => "drain",
            Self::Started => "started",
            Self::Promise { .. } => "promise",
            Self::Tick => "tick",
        }
    }
}

/// The answer to the [`Command`] of the same name.
#[derive(Clone, Debug)]
pub enum Reply {
    Submitted(Submitted),
    Cancelled(Ended),
    Deleted,
    Done,
    Welcomed(Result<Welcome, Refusal>),
    Leased(LeaseReply),
    Beat(HeartbeatAnswer),
    Written(WriteAnswer),
    Ordered(Result<Ordered, Refusal>),
}

/// How a submit ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Submitted {
    /// A new job.
    Created(JobId),
    /// A retry of a request whose answer was lost: its job, as it is now.
    Deduplicated(JobId),
    /// The same `Idempotency-Key` and body as before: its job, as it is now.
    Replayed(JobId),
    /// The same `Idempotency-Key` and body as before, which was refused with this answer.
    ReplayedAnswer(serde_json::Value),
    Refused(Refusal),
}

/// How a cancel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Now,
    /// Terminal before; nothing changed.
    Before,
    /// Not in memory: unknown, of another project, or ended long ago. The store knows.
    NotLive,
}

#[derive(Clone, Debug)]
pub enum LeaseReply {
    /// The offer's `ttl_ms` is left at 0: the edge counts it from when the request came in.
    Offer {
        offer: Box<LeaseOffer>,
        expires_at_ms: i64,
    },
    Idle(Waiting),
    /// Render the probe and say what came out.
    Probe,
    UnknownAgent,
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{}", fenced(*sent, *current))]
    Fenced { sent: u32, current: u32 },
    #[error("the task is {state}")]
    WrongState { state: &'static str },
    #[error("there is no node {0}")]
    UnknownNode(String),
    #[error("the node is gone")]
    NodeGone,
    #[error("task {0} is not known here")]
    UnknownTask(TaskId),
    #[error("the write comes from another agent or an earlier start of it")]
    StaleBoot,
    #[error("the write names term {sent}, this scheduler has term {term}")]
    StaleTerm { sent: u64, term: u64 },
    #[error("{0}")]
    Conflict(String),
    #[error("the idempotency key was used with another request")]
    KeyReused,
    #[error("the job is not valid: {0}")]
    Invalid(String),
    /// No instant is left at which the job may begin; `param` is the field of the request to blame.
    #[error("the job could never start: {why}")]
    NeverStarts { param: &'static str, why: String },
    /// The budget of an account is used up until this instant.
    #[error("the budget of {account} is used up")]
    OverBudget { account: String, until_ms: i64 },
    /// A metered account lacks what the job would hold.
    #[error("account {account} is short by {} s", short_by.as_secs_f64())]
    OverQuota {
        account: String,
        short_by: GpuMicros,
    },
}

fn fenced(sent: u32, current: u32) -> String {
    match sent == current {
        true => format!("attempt {sent} is fenced off: it has ended"),
        false => format!("attempt {sent} is fenced off: the current attempt is {current}"),
    }
}
