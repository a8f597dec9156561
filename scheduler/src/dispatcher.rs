//! The single writer: drains commands, applies them to the core, commits the group, then replies.
//!
//! One commit is in flight while the next group forms. Memory may run ahead of the disk, replies
//! may not. A commit that fails, or whose fate is in doubt, drops memory and folds it anew from the
//! database; everyone who waits for that group is asked to try again. There is no repair code.

mod polls;
mod writer;

#[cfg(test)]
mod tests;

use std::time::Duration;

use schemas::{
    AccountId, AgentId, BootId, GpuMicros, JobId,
    agent::{
        CheckpointReport, Heartbeat, HeartbeatAnswer, Hello, LeaseRef, LeaseRequest, ProbeReport,
        Report, WeightsInfo, Welcome, WriteAnswer,
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    core::{
        Farm,
        calibration::Promise,
        command::{Command, Ended, LeaseReply, Refusal, Reply, Submitted},
        decay::Decayed,
        limits::Limits,
        live::{Counts, LiveJob},
        nodes::{NodeOrder, NodeView},
        outlook::{Frame, LiveCopy, Looked},
        prices::PriceBook,
        quota::{Ordered, QuotaOrder, QuotaView},
        rows::{AccountRow, Fingerprint, KeyRow, NewJob},
    },
    metrics::Metrics,
    store::{Store, StoreError},
};

use self::{polls::Poll, writer::Writer};

/// Commands that may wait; one more is refused.
const CHANNEL_MAX: usize = 4096;

/// Handle to the single writer; cheap to clone.
#[derive(Clone, Debug)]
pub struct Dispatcher {
    messages: mpsc::Sender<Message>,
    clock: Clock,
    stop: CancellationToken,
    metrics: Metrics,
    /// The term in which this scheduler leads; absent while another one does.
    term: Option<u64>,
}

/// The two ends of a scheduler: first nobody waits any more, then nothing is written any more.
#[derive(Clone, Debug, Default)]
pub struct Stops {
    pub serving: CancellationToken,
    pub writing: CancellationToken,
}

/// The command may or may not have happened; the client should try again (503 on the wire).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DispatchError {
    #[error("the scheduler has too much to do; try again shortly")]
    Full,
    #[error("the database did not take the change; try again shortly")]
    Retry,
    #[error("the scheduler is stopping")]
    Closed,
}

/// Why memory could not be folded from the database.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    #[error("cannot read the farm from the database")]
    Store(#[from] StoreError),
    #[error("the database is damaged")]
    Inconsistent(#[from] crate::core::fold::Inconsistent),
}

type Answer = oneshot::Sender<Result<Reply, DispatchError>>;

enum Message {
    Command(Command, Answer),
    /// A device asks for work and waits for some.
    Poll(Poll),
    /// Looks at memory, changes nothing.
    Look(Box<dyn FnOnce(&Farm) + Send>),
}

impl Dispatcher {
    /// Takes the next term and folds memory. The second answer is the writer itself: spawn it. It
    /// ends after `stops.writing`, when what was accepted before is committed, or earlier when
    /// another scheduler leads.
    ///
    /// # Errors
    /// [`FoldError`] when the database cannot be read.
    pub async fn start(
        store: Store,
        limits: Limits,
        metrics: Metrics,
        stops: Stops,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<>), FoldError> {
        Self::start_by(Clock::start(), store, limits, metrics, stops).await
    }

    async fn start_by(
        clock: Clock,
        store: Store,
        limits: Limits,
        metrics: Metrics,
        stops: Stops,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<>), FoldError> {
        let term = store.take_term().await?;
        store.end_impossible_waits(clock.now_ms()).await?;
        let farm = writer::fold(&store, &limits, clock).await?;
        tracing::info!(term, "this scheduler leads");
        let (sender, receiver) = mpsc::channel(CHANNEL_MAX);
        let writer = Writer::new(farm, store, limits, clock, metrics.clone());
        let run = writer.run(receiver, stops.writing.clone());
        let dispatcher = Self {
            messages: sender,
            clock,
            stop: stops.serving,
            metrics,
            term: Some(term),
        };
        Ok((dispatcher, run))
    }

    /// The handle of a scheduler that only reads: it knows nothing beyond the database and takes no
    /// command.
    pub fn follower(metrics: Metrics, stop: CancellationToken) -> Self {
        let (messages, _) = mpsc::channel(1);
        Self {
            messages,
            clock: Clock::start(),
            stop,
            metrics,
            term: None,
        }
    }

    /// The term in which this scheduler leads; absent in a follower.
    pub fn term(&self) -> Option<u64> {
        self.term
    }

    /// Sends one command and waits until its writes are durable.
    ///
    /// # Errors
    /// [`DispatchError`]; after `Retry` the command may have happened.
    pub async fn send(&self, command: Command) -> Result<Reply, DispatchError> {
        let (answer, reply) = oneshot::channel();
        self.post(Message::Command(command, answer))?;
        reply.await.unwrap_or(Err(DispatchError::Closed))
    }

    fn post(&self, message: Message) -> Result<(), DispatchError> {
        self.messages
            .try_send(message)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => DispatchError::Full,
                mpsc::error::TrySendError::Closed(_) => DispatchError::Closed,
            })
    }

    async fn look<T: Send + 'static>(
        &self,
        at: impl FnOnce(&Farm) -> T + Send + 'static,
    ) -> Result<T, DispatchError> {
        let (answer, reply) = oneshot::channel();
        self.post(Message::Look(Box::new(move |farm| {
            let _ = answer.send(at(farm)); // the asker may have gone
        })))?;
        let unseen = |_| match self.messages.is_closed() {
            true => DispatchError::Closed,
            false => DispatchError::Retry, // the database is away: there is no memory to look at
        };
        reply.await.map_err(unseen)
    }

    pub async fn submit(&self, job: NewJob) -> Result<Submitted, DispatchError> {
        match self.send(Command::Submit(Box::new(job))).await? {
            Reply::Submitted(submitted) => Ok(submitted),
            other => unexpected(&other),
        }
    }

    pub async fn cancel(&self, project: AccountId, job: JobId) -> Result<Ended, DispatchError> {
        match self.send(Command::Cancel { project, job }).await? {
            Reply::Cancelled(ended) => Ok(ended),
            other => unexpected(&other),
        }
    }

    /// Of a job that has ended, or is paused already, it changes nothing.
    pub async fn pause(
        &self,
        project: AccountId,
        job: JobId,
        by: String,
    ) -> Result<(), DispatchError> {
        let command = Command::Pause { project, job, by };
        self.send(command).await.map(drop)
    }

    pub async fn resume(&self, project: AccountId, job: JobId) -> Result<(), DispatchError> {
        self.send(Command::Resume { project, job }).await.map(drop)
    }

    /// Look for the job in the store first: deleting an unknown one is a success here.
    pub async fn delete(&self, project: AccountId, job: JobId) -> Result<(), DispatchError> {
        self.send(Command::Delete { project, job }).await.map(drop)
    }

    pub async fn note_error(&self, fingerprint: Fingerprint) -> Result<(), DispatchError> {
        self.send(Command::NoteError { fingerprint })
            .await
            .map(drop)
    }

    pub async fn keep_answer(
        &self,
        scope: String,
        fingerprint: Fingerprint,
        answer: serde_json::Value,
    ) -> Result<(), DispatchError> {
        let command = Command::KeepAnswer {
            scope,
            fingerprint,
            answer,
        };
        self.send(command).await.map(drop)
    }

    pub async fn add_account(&self, row: AccountRow) -> Result<(), DispatchError> {
        self.send(Command::AddAccount(row)).await.map(drop)
    }

    pub async fn order_quota(
        &self,
        order: QuotaOrder,
    ) -> Result<Result<Ordered, Refusal>, DispatchError> {
        match self.send(Command::OrderQuota(Box::new(order))).await? {
            Reply::Ordered(done) => Ok(done),
            other => unexpected(&other),
        }
    }

    /// Limits, balances and loads of all accounts.
    pub async fn quota_views(&self) -> Result<Vec<QuotaView>, DispatchError> {
        self.look(Farm::quota_views).await
    }

    /// What this job would be refused with: it could never start, or it cannot be paid.
    pub async fn refusal(&self, job: NewJob) -> Result<Option<Refusal>, DispatchError> {
        self.look(move |farm| farm.refused(&job)).await
    }

    /// What a job with the same idempotency key was answered.
    pub async fn kept_answer(&self, job: NewJob) -> Result<Option<Submitted>, DispatchError> {
        self.look(move |farm| farm.kept_answer(&job)).await
    }

    pub async fn add_key(&self, row: KeyRow) -> Result<(), DispatchError> {
        self.send(Command::AddKey(row)).await.map(drop)
    }

    /// `hash` is the BLAKE3 of the key in hex. Revoking an unknown key changes nothing.
    pub async fn revoke_key(&self, hash: String) -> Result<(), DispatchError> {
        self.send(Command::RevokeKey { hash }).await.map(drop)
    }

    pub async fn hello(&self, hello: Hello) -> Result<Result<Welcome, Refusal>, DispatchError> {
        match self.send(Command::Hello(Box::new(hello))).await? {
            Reply::Welcomed(welcome) => Ok(welcome),
            other => unexpected(&other),
        }
    }

    /// Asks for work until there is some or `limit` has passed.
    pub async fn lease(
        &self,
        request: LeaseRequest,
        limit: Duration,
    ) -> Result<LeaseReply, DispatchError> {
        let (answer, reply) = oneshot::channel();
        let until = Instant::now() + limit;
        self.post(Message::Poll(Poll {
            request,
            until,
            answer,
        }))?;
        let reply = tokio::select! {
            reply = reply => reply.unwrap_or(Err(DispatchError::Closed))?,
            () = self.stop.cancelled() => return Err(DispatchError::Closed),
        };
        let Reply::Leased(reply) = reply else {
            unexpected(&reply)
        };
        match &reply {
            LeaseReply::Offer { .. } => self.metrics.grants.inc(),
            LeaseReply::Idle(why) => {
                let polls = &self.metrics.idle_polls;
                polls.with_label_values(&[why.code()]).inc();
            }
            _ => {}
        }
        Ok(reply)
    }

    pub async fn heartbeat(&self, beat: Heartbeat) -> Result<HeartbeatAnswer, DispatchError> {
        match self.send(Command::Heartbeat(Box::new(beat))).await? {
            Reply::Beat(answer) => Ok(answer),
            other => unexpected(&other),
        }
    }

    pub async fn checkpoint(&self, report: CheckpointReport) -> Result<WriteAnswer, DispatchError> {
        match self.send(Command::Checkpoint(report)).await? {
            Reply::Written(answer) => Ok(answer),
            other => unexpected(&other),
        }
    }

    pub async fn report(&self, report: Report) -> Result<WriteAnswer, DispatchError> {
        match self.send(Command::Report(Box::new(report))).await? {
            Reply::Written(answer) => Ok(answer),
            other => unexpected(&other),
        }
    }

    pub async fn drain(&self, agent: AgentId, boot: Option<BootId>) -> Result<(), DispatchError> {
        self.send(Command::Drain { agent, boot }).await.map(drop)
    }

    pub async fn probed(&self, report: ProbeReport) -> Result<WriteAnswer, DispatchError> {
        match self.send(Command::Probed(report)).await? {
            Reply::Written(answer) => Ok(answer),
            other => unexpected(&other),
        }
    }

    pub async fn order_node(
        &self,
        order: NodeOrder,
    ) -> Result<Result<Ordered, Refusal>, DispatchError> {
        match self.send(Command::OrderNode(Box::new(order))).await? {
            Reply::Ordered(done) => Ok(done),
            other => unexpected(&other),
        }
    }

    /// All nodes, by name.
    pub async fn nodes(&self) -> Result<Vec<NodeView>, DispatchError> {
        self.look(Farm::nodes).await
    }

    /// Whether this lease may write now; the rule for uploads.
    pub async fn check_leased(
        &self,
        lease: LeaseRef,
    ) -> Result<Result<(), Refusal>, DispatchError> {
        self.look(move |farm| farm.check_leased(&lease).map(drop))
            .await
    }

    /// What memory knows beyond the store; `None` for a job that has ended or is unknown.
    pub async fn live(&self, job: JobId) -> Result<Option<LiveJob>, DispatchError> {
        if self.term.is_none() {
            return Ok(None);
        }
        self.look(move |farm| farm.live(job)).await
    }

    /// Weights that agents of the farm can render with, by name; those of agents online first.
    pub async fn weights(&self) -> Result<Vec<WeightsInfo>, DispatchError> {
        self.look(Farm::weights).await
    }

    /// What the tightest limit above the project leaves; `None` where nothing is metered.
    pub async fn quota_left(&self, project: AccountId) -> Result<Option<GpuMicros>, DispatchError> {
        self.look(move |farm| farm.quota_left(project)).await
    }

    /// The farm without its jobs, to look ahead with.
    pub async fn outlook_frame(&self) -> Result<Frame, DispatchError> {
        self.look(Farm::outlook_frame).await
    }

    /// Accounts behind `after`, at most `limit`, with what they have had of the farm.
    pub async fn outlook_accounts(
        &self,
        after: Option<AccountId>,
        limit: usize,
    ) -> Result<Vec<(AccountRow, Decayed)>, DispatchError> {
        self.look(move |farm| farm.outlook_accounts(after, limit))
            .await
    }

    /// Jobs that have not ended, in pages; with the last looked at, or `None` at the end.
    pub async fn outlook_page(
        &self,
        after: Option<Looked>,
        limit: usize,
    ) -> Result<(Vec<LiveCopy>, Option<Looked>), DispatchError> {
        self.look(move |farm| farm.outlook_page(after, limit)).await
    }

    /// Remembers what was foretold of a job, to compare it with the truth.
    pub async fn promise(&self, job: JobId, promise: Promise) -> Result<(), DispatchError> {
        self.send(Command::Promise { job, promise }).await.map(drop)
    }

    /// What work takes, and on which devices.
    pub async fn prices(&self) -> Result<PriceBook, DispatchError> {
        self.look(Farm::prices).await
    }

    /// Windows that a job may name.
    pub async fn window_names(&self) -> Result<Vec<String>, DispatchError> {
        self.look(Farm::window_names).await
    }

    /// Counts of now, for the metrics.
    pub async fn counts(&self) -> Result<Counts, DispatchError> {
        self.look(Farm::counts).await
    }

    /// The farm's clock, Unix milliseconds; steady within a process.
    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }
}

fn unexpected(reply: &Reply) -> ! {
    unreachable!("the core answers each command with its own reply, not {reply:?}")
}
