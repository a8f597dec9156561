//! The durable part of each entity: what memory is folded from and what a commit writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use schemas::{
    AccountId, AgentId, BootId, Digest, GpuMicros, JobId, TaskId,
    agent::{CheckpointRef, Device, FailureClass, WeightsInfo},
    task::{Artefact, TaskKind, TaskSpec},
};
use serde::{Deserialize, Serialize};

use super::{group::Group, health::Health, packed::Start, quota::Arithmetic, users::User};

/// SHA-256 over a request, in lower-case hex.
pub type Fingerprint = String;

/// A job as admission hands it over. Everything in it is decided; the core only checks its shape.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewJob {
    pub id: JobId,
    pub project: AccountId,
    /// The request as the API keeps it; opaque here.
    pub request: serde_json::Value,
    pub seed: u64,
    pub band: Band,
    /// Render tasks and one `Assemble`, which must be the last and wait for all others.
    pub tasks: Vec<NewTask>,
    /// Held at submit, charged at the end at most.
    pub hold: GpuMicros,
    /// See [`JobRow::rank`].
    pub rank: i32,
    /// See [`JobRow::window`].
    pub window: Option<String>,
    /// Who of the project asks, for shares and quota of their own.
    pub user: Option<User>,
    /// See [`JobRow::not_before_ms`].
    pub not_before_ms: Option<i64>,
    /// See [`JobRow::deadline_ms`].
    pub deadline_ms: Option<i64>,
    /// Absent for a caller that wants no retry protection.
    pub dedupe: Option<Dedupe>,
    pub idempotency: Option<Idempotency>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewTask {
    pub id: TaskId,
    pub spec: TaskSpec,
    /// Indices of the tasks whose outputs it needs, in the order in which it gets them.
    pub inputs: Vec<u32>,
    /// Expected time on its devices, which is that of each of them; also the task's share of the job's progress.
    pub estimate: GpuMicros,
    /// Artefacts that the spec names (a first frame), kept alive with the job.
    pub reads: Vec<Digest>,
}

/// Retry protection for clients that send no idempotency key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dedupe {
    pub fingerprint: Fingerprint,
    /// `x-stainless-retry-count`; 0 always makes a new job.
    pub retry_count: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Idempotency {
    /// Project, method, path and key.
    pub scope: String,
    pub fingerprint: Fingerprint,
}

/// Price class of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Band {
    Urgent,
    #[default]
    Standard,
    Overnight,
}

impl Band {
    /// In the order of service.
    pub const ALL: [Self; 3] = [Self::Urgent, Self::Standard, Self::Overnight];

    /// What a second of a device counts, in percent: for the share of an account and for the price.
    pub fn factor_percent(self) -> i64 {
        match self {
            Self::Urgent => 200,
            Self::Standard => 100,
            Self::Overnight => 50,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Standard => "standard",
            Self::Overnight => "overnight",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct JobRow {
    pub id: JobId,
    /// Place in the order of submissions.
    pub seq: i64,
    pub project: AccountId,
    /// Account of the user who asked, if the request named one.
    pub user: Option<AccountId>,
    pub seed: u64,
    pub band: Band,
    pub state: JobState,
    /// Percent; only grows, 100 exactly when published.
    pub progress: u8,
    pub created_at_ms: i64,
    pub ended_at_ms: Option<i64>,
    pub error: Option<JobError>,
    /// Order among the account's waiting jobs of one band, before that of submission; smaller is sooner.
    pub rank: i32,
    /// Name of the window in which its tasks may start; absent: at any time.
    pub window: Option<String>,
    /// No task starts before this instant.
    pub not_before_ms: Option<i64>,
    /// A job that has not begun by then fails; as it comes near, its tasks age.
    pub deadline_ms: Option<i64>,
    /// When it could have begun, had no cheaper hour been waited for; only where its window has prices.
    pub could_start_ms: Option<i64>,
    /// What waiting for a cheaper hour saved, in millionths of the unit of the prices.
    pub saved: Option<i64>,
    /// None of its tasks may start.
    pub paused: Option<Paused>,
}

/// By whom a job is held back, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paused {
    /// Name of the key.
    pub by: String,
    pub since_ms: i64,
}

impl JobRow {
    /// Who is served and charged: the user, or the project.
    pub fn account(&self) -> AccountId {
        self.user.unwrap_or(self.project)
    }
}

/// ```text
/// Waiting -> Rendering -> Succeeded
///    |           |-----> Failed, Cancelled
///    '-----------------> Failed, Cancelled
/// ```
/// The first grant of a task moves `Waiting` on; the publishing transaction ends `Rendering`;
/// a failed task or its owner ends either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    Waiting,
    Rendering,
    Succeeded,
    Failed,
    Cancelled,
}

impl JobRow {
    /// A job as it begins.
    pub(super) fn new(start: &Start) -> Self {
        Self {
            id: start.id,
            seq: start.seq,
            project: start.project,
            user: start.user,
            seed: start.seed,
            band: start.band,
            state: JobState::Waiting,
            progress: 0,
            created_at_ms: start.created_at_ms,
            ended_at_ms: None,
            error: None,
            rank: start.rank,
            window: start.window.clone(),
            not_before_ms: start.not_before_ms,
            deadline_ms: start.deadline_ms,
            could_start_ms: start.could_start_ms,
            saved: None,
            paused: None,
        }
    }
}

impl JobState {
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// Why a job failed, in the words of the Videos API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobError {
    pub code: String,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TaskRow {
    pub id: TaskId,
    pub job: JobId,
    pub index: u32,
    /// Only its shape: see [`shapes`](super::shapes). The words are in the database.
    pub spec: Arc<TaskSpec>,
    /// Indices of the tasks whose outputs it needs, in order.
    pub inputs: Vec<u32>,
    pub estimate: GpuMicros,
    pub state: TaskState,
    /// The last attempt that was granted; 0 before the first. The fencing token.
    pub attempt: u32,
    /// Failures by class; never derived from the attempt number.
    pub failures: BTreeMap<FailureClass, u32>,
    /// Nodes where it failed, avoided while another capable one exists.
    pub failed_on: BTreeSet<AgentId>,
    /// Device time charged for it: that of the phases that led to the result.
    pub used: GpuMicros,
    /// Denoising steps done and of how many, as last written; live values come from memory.
    pub step: u32,
    pub steps: u32,
    /// Times its device was asked for by a more urgent task.
    pub preemptions: u32,
    /// When that was last; for a while it then takes no device itself.
    pub preempted_at_ms: Option<i64>,
    /// Nodes on which each error came, by its signature.
    pub signatures: BTreeMap<String, BTreeSet<AgentId>>,
    /// Memory that each of its devices must have, since it ran out on a smaller one.
    pub memory_bytes: Option<u64>,
}

/// ```text
/// Blocked -> Ready -> Leased -> Succeeded
///              ^        |-----> Failed
///              '--------'          any live state -> Cancelled
/// ```
/// `Blocked`: the last of its inputs moves it on. `Ready`: a grant does, from `eligible_at_ms` on while its window lets it.
/// `Leased`: its agent's report, its expiry or the end of the agent's boot does.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskState {
    Blocked {
        inputs_left: u32,
    },
    Ready {
        eligible_at_ms: i64,
        /// The class that made it wait; absent when it may start at once.
        backoff: Option<FailureClass>,
    },
    Leased(Holder),
    Succeeded {
        output: Vec<Artefact>,
    },
    Failed {
        class: FailureClass,
        message: String,
    },
    Cancelled,
}

impl TaskState {
    /// Of a new task that needs so many others first.
    pub(super) fn new(inputs: usize, eligible_at_ms: i64) -> Self {
        match inputs as u32 {
            0 => Self::Ready {
                eligible_at_ms,
                backoff: None,
            },
            inputs_left => Self::Blocked { inputs_left },
        }
    }

    /// The state's name in the database, on the wire and in refusals.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Blocked { .. } => "blocked",
            Self::Ready { .. } => "ready",
            Self::Leased(_) => "leased",
            Self::Succeeded { .. } => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn is_terminal(&self) -> bool {
        matches!(
            self,
            Self::Succeeded { .. } | Self::Failed { .. } | Self::Cancelled
        )
    }
}

impl TaskRow {
    /// A task as it begins. Its estimate, inputs and state are its job's to say.
    pub(super) fn new(id: TaskId, job: JobId, index: u32, spec: Arc<TaskSpec>) -> Self {
        Self {
            id,
            job,
            index,
            spec,
            inputs: Vec::new(),
            estimate: GpuMicros::ZERO,
            state: TaskState::new(0, 0),
            attempt: 0,
            failures: BTreeMap::new(),
            failed_on: BTreeSet::new(),
            used: GpuMicros::ZERO,
            step: 0,
            steps: 0,
            preemptions: 0,
            preempted_at_ms: None,
            signatures: BTreeMap::new(),
            memory_bytes: None,
        }
    }

    pub fn kind(&self) -> TaskKind {
        self.spec.kind()
    }

    /// Devices that it runs on at once.
    pub fn devices(&self) -> u32 {
        self.spec.devices()
    }

    /// What it is expected to take of all of its devices, in microseconds.
    pub fn device_us(&self) -> i64 {
        self.estimate.0.saturating_mul(self.devices().into())
    }

    /// Its files, once it has succeeded.
    pub fn output(&self) -> &[Artefact] {
        match &self.state {
            TaskState::Succeeded { output } => output,
            _ => &[],
        }
    }
}

/// Who works an attempt. Its expiry is not stored: a new leader starts every lease afresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    pub agent: AgentId,
    pub boot: BootId,
    /// The device that asked.
    pub device: u32,
    /// All devices that work on it, that one among them.
    pub group: Group,
    /// The poll that got the grant; the same poll gets it again.
    pub poll_id: u64,
    pub granted_at_ms: i64,
}

/// A checkpoint whose bytes are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointRow {
    pub task: TaskId,
    pub at: CheckpointRef,
    pub agent: AgentId,
    pub made_at_ms: i64,
}

/// One attempt, kept for audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRow {
    pub task: TaskId,
    pub number: u32,
    pub term: u64,
    pub holder: Holder,
    pub ended_at_ms: Option<i64>,
    /// `succeeded`, `released`, `cancelled` or the failure class.
    pub outcome: Option<String>,
    pub message: Option<String>,
    pub device_us: Option<i64>,
}

/// Quota held for a job, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservationRow {
    pub job: JobId,
    /// The lowest account that pays; all above it do as well.
    pub account: AccountId,
    pub state: ReservationState,
    /// What was held at submit.
    pub reserved: GpuMicros,
    pub held: GpuMicros,
    pub posted: GpuMicros,
    pub refunded: GpuMicros,
}

impl ReservationRow {
    pub(super) fn new(job: JobId, account: AccountId, held: GpuMicros) -> Self {
        Self {
            job,
            account,
            state: ReservationState::Pending,
            reserved: held,
            held,
            posted: GpuMicros::ZERO,
            refunded: GpuMicros::ZERO,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReservationState {
    Pending,
    Posted,
    Voided,
}

/// Where the quota of an account is. The five parts always add up to zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    pub available: GpuMicros,
    pub held: GpuMicros,
    pub spent: GpuMicros,
    /// What the cell's mint has given to the account, as the mint's debt: never above zero.
    pub mint: GpuMicros,
    /// What siblings owe it; below zero: what it owes them.
    pub loan: GpuMicros,
}

/// What a borrower still owes a lender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoanRow {
    /// Key of the entries that lent it.
    pub key: String,
    pub borrower: AccountId,
    pub lender: AccountId,
    pub left: GpuMicros,
}

/// One double entry: `amount` leaves `from` and reaches `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerRow {
    pub seq: i64,
    /// Names the operation for this account; a second arrival changes nothing.
    pub key: String,
    pub account: AccountId,
    pub from: Bucket,
    pub to: Bucket,
    pub amount: GpuMicros,
    pub at_ms: i64,
    /// How the amount came about; only posts have it.
    pub why: Option<Arithmetic>,
    /// See [`chained`](super::quota::chained).
    pub hash: Digest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bucket {
    Available,
    Held,
    Spent,
    /// Where quota comes from; the cell has one, each account its part of it.
    Mint,
    /// What siblings owe an account, or it owes them.
    Loan,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AgentRow {
    pub id: AgentId,
    pub name: String,
    pub boot: BootId,
    /// The life before; a late hello of it is refused.
    pub last_boot: Option<BootId>,
    pub state: AgentState,
    /// Told to leave: only a new boot may come back.
    pub drained: bool,
    pub version: String,
    pub devices: Vec<Device>,
    pub weights: Vec<WeightsInfo>,
    pub ffmpeg: Option<String>,
    /// Most devices that one shot can run on at once here.
    pub group_max: u32,
    /// What keeps work from it; outlives its boots.
    pub health: Health,
}

/// ```text
/// Online <-> Unresponsive -> Gone
///    '-> Draining -----------^
/// ```
/// A hello makes any of them `Online`; three missed heartbeats make it `Unresponsive`;
/// the end of its last lease while it drains, or ten minutes of silence, make it `Gone`.
/// A cordon and a quarantine are no states but flags beside them: see [`Health`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    Online,
    Draining,
    Unresponsive,
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Org,
    Project,
    User,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountRow {
    pub id: AccountId,
    pub parent: Option<AccountId>,
    pub level: Level,
    /// Unique, for people and headers.
    pub name: String,
    pub created_at_ms: i64,
    /// Its part of the farm beside its siblings.
    pub weight: u32,
}

/// What the latents of a probe depend on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoldenKey {
    /// Of the device.
    pub class: String,
    pub weights: Digest,
    /// Of the agent.
    pub version: String,
}

/// Something that an operator did or should know.
#[derive(Clone, Debug, PartialEq)]
pub struct NoticeRow {
    pub seq: i64,
    pub at_ms: i64,
    /// `poison`, `quarantined`, `cordon` …
    pub kind: String,
    /// Name of the key that ordered it; absent when the farm did it itself.
    pub actor: Option<String>,
    /// A node's name, or a task.
    pub subject: String,
    pub detail: serde_json::Value,
}

/// An API key. The key itself is never stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// BLAKE3 of the key, in hex.
    pub hash: String,
    pub project: AccountId,
    pub name: String,
    pub created_at_ms: i64,
    pub revoked_at_ms: Option<i64>,
    /// May see and change quota and nodes of the whole farm.
    pub admin: bool,
    /// The highest priority that it may send.
    pub priority_max: Priority,
}

/// How soon a film is wanted, and at which price. The order is that of urgency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// After all others, at half the price.
    Low,
    #[default]
    Normal,
    /// Before the account's other jobs.
    High,
    /// Before everybody's, at twice the price; takes devices from work that runs.
    Urgent,
}

impl Priority {
    pub const ALL: [Self; 4] = [Self::Low, Self::Normal, Self::High, Self::Urgent];

    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Urgent => "urgent",
        }
    }

    pub fn band(self) -> Band {
        match self {
            Self::Low => Band::Overnight,
            Self::Normal | Self::High => Band::Standard,
            Self::Urgent => Band::Urgent,
        }
    }

    /// Order inside the account; smaller is sooner.
    pub fn rank(self) -> i32 {
        match self {
            Self::High => -1,
            _ => 0,
        }
    }
}

/// Jobs that equal requests made lately, and errors that were answered to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DedupeRow {
    pub fingerprint: Fingerprint,
    pub jobs: Vec<DedupeJob>,
    /// Retryable errors answered and not yet spent by a retry.
    pub errors: u32,
    pub expires_at_ms: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DedupeJob {
    pub job: JobId,
    /// A retry was answered with it already.
    pub claimed: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct IdempotencyRow {
    pub scope: String,
    pub fingerprint: Fingerprint,
    pub outcome: KeptOutcome,
    pub expires_at_ms: i64,
}

/// What a request with an idempotency key led to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptOutcome {
    Job(JobId),
    Answer(serde_json::Value),
}

/// A fact for the outside, numbered in commit order.
#[derive(Clone, Debug, PartialEq)]
pub struct OutboxRow {
    pub seq: i64,
    pub kind: String,
    pub job: JobId,
    pub project: AccountId,
    pub at_ms: i64,
}
