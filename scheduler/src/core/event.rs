//! The log of what the farm was told and what it granted: enough for the same core to decide it again.
//!
//! An event is a command that changed something, with the instant at which it was applied. Words of
//! users, keys and answers are not in it. What a command that is not logged changed (a heartbeat that
//! renewed leases, a poll that found nothing) is either made up by who replays, or its effects are
//! logged: a [`Event::Tick`] stands for time that passed, [`Event::Progress`] for what heartbeats had
//! told when a device was taken away because of it.

use schemas::{
    AccountId, AgentId, BootId, JobId, TaskId,
    agent::{
        CheckpointReport, FailureClass, Heartbeat, Hello, LeaseProgress, LeaseRequest, ProbeReport,
        Report,
    },
};
use serde::{Deserialize, Serialize};

use super::{
    Farm, class_name,
    command::{Command, LeaseReply, Reply},
    nodes::NodeOrder,
    quota::QuotaOrder,
    rows::{AccountRow, AgentState, NewJob, TaskState},
    shapes::shape_of,
    task::LiveLease,
    write::Write,
};

/// One row of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    pub seq: i64,
    pub at_ms: i64,
    pub term: u64,
    pub kind: &'static str,
    /// The [`Event`] as JSON.
    pub payload: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// Memory was read from the database: what only memory knew is gone.
    Start,
    Submit {
        job: Box<NewJob>,
    },
    Cancel {
        project: AccountId,
        job: JobId,
    },
    Pause {
        project: AccountId,
        job: JobId,
        by: String,
    },
    Resume {
        project: AccountId,
        job: JobId,
    },
    Delete {
        project: AccountId,
        job: JobId,
    },
    Account {
        row: AccountRow,
    },
    Quota {
        order: Box<QuotaOrder>,
    },
    Hello {
        hello: Box<Hello>,
    },
    /// A device asked and got this attempt.
    Grant {
        request: LeaseRequest,
        task: TaskId,
        attempt: u32,
    },
    Heartbeat {
        beat: Box<Heartbeat>,
    },
    Checkpoint {
        report: CheckpointReport,
    },
    Report {
        report: Box<Report>,
    },
    Drain {
        agent: AgentId,
        boot: Option<BootId>,
    },
    /// A device asked and was told to render the probe, or other work went before a group that then claimed devices.
    Ask {
        request: LeaseRequest,
    },
    Probed {
        report: ProbeReport,
    },
    Node {
        order: Box<NodeOrder>,
    },
    /// How far running work was when the next event made some of it give way, and since when each
    /// lender was short of devices of its own.
    Progress {
        leases: Vec<LeaseProgress>,
        #[serde(default)]
        short: Vec<(AccountId, String, i64)>,
    },
    /// These nodes were not heard of for too long when the next event came.
    Silent {
        agents: Vec<AgentId>,
    },
    /// The next heartbeat finds that this work has stood still for too long.
    Stalled {
        leases: Vec<LeaseProgress>,
    },
    /// Time that passed had effects, whatever was asked meanwhile.
    Tick,
}

/// What decides which work gives way.
#[derive(Clone, Debug)]
pub(super) struct Known {
    leases: Vec<LeaseProgress>,
    short: Vec<(AccountId, String, i64)>,
}

impl Event {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Submit { .. } => "submit",
            Self::Cancel { .. } => "cancel",
            Self::Pause { .. } => "pause",
            Self::Resume { .. } => "resume",
            Self::Delete { .. } => "delete",
            Self::Account { .. } => "account",
            Self::Quota { .. } => "quota",
            Self::Hello { .. } => "hello",
            Self::Grant { .. } => "grant",
            Self::Heartbeat { .. } => "heartbeat",
            Self::Checkpoint { .. } => "checkpoint",
            Self::Report { .. } => "report",
            Self::Drain { .. } => "drain",
            Self::Ask { .. } => "ask",
            Self::Probed { .. } => "probed",
            Self::Node { .. } => "node",
            Self::Progress { .. } => "progress",
            Self::Silent { .. } => "silent",
            Self::Stalled { .. } => "stalled",
            Self::Tick => "tick",
        }
    }

    /// What would be logged of a command, if it changes something.
    pub(super) fn of(command: &Command) -> Self {
        match command {
            Command::Started => Self::Start,
            Command::Submit(job) => Self::Submit {
                job: Box::new(without_words(job)),
            },
            Command::Cancel { project, job } => Self::Cancel {
                project: *project,
                job: *job,
            },
            Command::Pause { project, job, by } => Self::Pause {
                project: *project,
                job: *job,
                by: by.clone(),
            },
            Command::Resume { project, job } => Self::Resume {
                project: *project,
                job: *job,
            },
            Command::Delete { project, job } => Self::Delete {
                project: *project,
                job: *job,
            },
            Command::AddAccount(row) => Self::Account { row: row.clone() },
            Command::OrderQuota(order) => Self::Quota {
                order: order.clone(),
            },
            Command::Hello(hello) => Self::Hello {
                hello: hello.clone(),
            },
            Command::Heartbeat(beat) => Self::Heartbeat { beat: beat.clone() },
            Command::Checkpoint(report) => Self::Checkpoint {
                report: report.clone(),
            },
            Command::Report(report) => Self::Report {
                report: report.clone(),
            },
            Command::Drain { agent, boot } => Self::Drain {
                agent: *agent,
                boot: *boot,
            },
            Command::Lease(request) => Self::Ask {
                request: request.clone(),
            },
            Command::Probed(report) => Self::Probed {
                report: report.clone(),
            },
            Command::OrderNode(order) => Self::Node {
                order: order.clone(),
            },
            _ => Self::Tick,
        }
    }

    /// The command to apply again; none for what is not a command.
    pub fn command(self) -> Option<Command> {
        Some(match self {
            Self::Start | Self::Progress { .. } | Self::Silent { .. } | Self::Stalled { .. } => {
                return None;
            }
            Self::Submit { job } => Command::Submit(job),
            Self::Cancel { project, job } => Command::Cancel { project, job },
            Self::Pause { project, job, by } => Command::Pause { project, job, by },
            Self::Resume { project, job } => Command::Resume { project, job },
            Self::Delete { project, job } => Command::Delete { project, job },
            Self::Account { row } => Command::AddAccount(row),
            Self::Quota { order } => Command::OrderQuota(order),
            Self::Hello { hello } => Command::Hello(hello),
            Self::Grant { request, .. } | Self::Ask { request } => Command::Lease(request),
            Self::Probed { report } => Command::Probed(report),
            Self::Node { order } => Command::OrderNode(order),
            Self::Heartbeat { beat } => Command::Heartbeat(beat),
            Self::Checkpoint { report } => Command::Checkpoint(report),
            Self::Report { report } => Command::Report(report),
            Self::Drain { agent, boot } => Command::Drain { agent, boot },
            Self::Tick => Command::Tick,
        })
    }
}

/// The job as decisions see it.
fn without_words(job: &NewJob) -> NewJob {
    let mut job = NewJob {
        request: serde_json::Value::Null,
        dedupe: None,
        idempotency: None,
        ..job.clone()
    };
    for task in &mut job.tasks {
        task.spec = shape_of(&task.spec);
        task.reads.clear();
    }
    job
}

impl Farm {
    /// Logs what has just been applied, if it changed more than progress.
    pub(super) fn log(&mut self, event: Event, reply: &Reply) {
        let taken = std::mem::take(&mut self.taken);
        let claimed = std::mem::take(&mut self.claimed);
        let is_told = match &event {
            Event::Start => true,
            Event::Heartbeat { beat } => self.fails_to_name(beat.agent),
            Event::Ask { .. } => matches!(reply, Reply::Leased(LeaseReply::Probe)),
            _ => false,
        };
        if !is_told && !claimed && taken.is_none() && !self.writes.iter().any(Write::is_notable) {
            return;
        }
        if let Some(Known { leases, short }) = taken {
            self.log_one(Event::Progress { leases, short });
        }
        let agents: Vec<_> = self.writes.iter().filter_map(fell_silent).collect();
        if !agents.is_empty() {
            self.log_one(Event::Silent { agents });
        }
        if let Event::Heartbeat { beat } = &event {
            let leases = self.found_still(beat);
            if !leases.is_empty() {
                self.log_one(Event::Stalled { leases });
            }
        }
        let granted = self
            .writes
            .iter()
            .any(|write| matches!(write, Write::InsertAttempt(_)));
        let event = match (event, reply) {
            (_, Reply::Leased(LeaseReply::Offer { offer, .. })) if granted => Event::Grant {
                request: self.request_of(offer.lease.task),
                task: offer.lease.task,
                attempt: offer.lease.attempt,
            },
            // Whatever it was told, time has passed.
            (Event::Ask { .. }, reply)
                if !claimed && !matches!(reply, Reply::Leased(LeaseReply::Probe)) =>
            {
                Event::Tick
            }
            (event, _) => event,
        };
        self.log_one(event);
    }

    /// A second heartbeat that does not name a lease loses it, so the first one matters.
    fn fails_to_name(&self, agent: AgentId) -> bool {
        let mut leases = self.leases_of(agent).into_iter();
        leases.any(|id| {
            let live = self.task_at(id).live.as_ref();
            live.is_some_and(|live| live.unnamed > 0)
        })
    }

    /// Work that this heartbeat named and that has failed because of it.
    fn found_still(&self, beat: &Heartbeat) -> Vec<LeaseProgress> {
        let still = class_name(FailureClass::Stalled);
        let ended = |write: &Write| match write {
            Write::EndAttempt(row) if row.outcome.as_deref() == Some(still) => Some(row.task),
            _ => None,
        };
        let tasks: Vec<TaskId> = self.writes.iter().filter_map(ended).collect();
        let named = beat.leases.iter();
        named
            .filter(|told| tasks.contains(&told.lease.task))
            .cloned()
            .collect()
    }

    fn log_one(&mut self, event: Event) {
        let row = EventRow {
            seq: self.next_seq(),
            at_ms: self.now,
            term: self.term,
            kind: event.kind(),
            payload: serde_json::to_string(&event)
                .expect("ids, numbers and texts have a JSON form"),
        };
        self.writes.push(Write::InsertEvent(row));
    }

    /// The poll that got the task.
    fn request_of(&self, task: TaskId) -> LeaseRequest {
        let TaskState::Leased(holder) = self.task_at(task).row.state else {
            unreachable!("a task that was just granted is leased");
        };
        LeaseRequest {
            agent: holder.agent,
            boot: holder.boot,
            device: holder.device,
            poll_id: holder.poll_id,
        }
    }

    /// Work is told to give way because of what is known of it now.
    pub(super) fn keep_progress(&mut self) {
        if self.taken.is_none() {
            let short = self.short_since.iter();
            let short = short.map(|((account, pool), since)| (*account, pool.clone(), *since));
            self.taken = Some(Known {
                leases: self.progress(),
                short: short.collect(),
            });
        }
    }

    /// What is known of all running work; kept when a device is taken away because of it.
    fn progress(&self) -> Vec<LeaseProgress> {
        let running = self.running().map(|id| self.task_at(id));
        running.filter_map(|task| self.progress_of(task)).collect()
    }

    fn progress_of(&self, task: &super::Task) -> Option<LeaseProgress> {
        let (live, row) = (task.live.as_ref()?, &task.row);
        let TaskState::Leased(holder) = row.state else {
            return None;
        };
        Some(LeaseProgress {
            lease: schemas::agent::LeaseRef {
                task: row.id,
                attempt: row.attempt,
                term: self.term,
                agent: holder.agent,
                boot: holder.boot,
            },
            phase: live.phase,
            step: live.step,
            steps: live.steps,
            step_ms: live.step_ms,
        })
    }

    /// Takes devices from nobody until the next [`note_progress`](Self::note_progress): what
    /// heartbeats told in between is not known.
    pub fn take_none(&mut self) {
        self.takes_none = true;
    }

    /// Takes over what heartbeats had told, and since when lenders were short, without deciding anything.
    /// What was known of work at `now` does not look as if it had stood still since it was known last.
    pub fn note_progress(
        &mut self,
        leases: &[LeaseProgress],
        short: &[(AccountId, String, i64)],
        now: i64,
    ) {
        self.takes_none = false;
        let short = short.iter();
        let short = short.map(|(account, pool, since)| ((*account, pool.clone()), *since));
        self.short_since = short.collect();
        for told in leases {
            let task = self.tasks.get_mut(&told.lease.task);
            if let Some(live) = task.and_then(|task| task.live.as_mut()) {
                live.tell(told);
                live.moved_at_ms = now;
            }
        }
    }

    /// This work has been where it is for so long that the next heartbeat which says the same fails it.
    pub fn note_stalled(&mut self, leases: &[LeaseProgress]) {
        for told in leases {
            let task = self.tasks.get_mut(&told.lease.task);
            if let Some(live) = task.and_then(|task| task.live.as_mut()) {
                live.tell(told);
                live.moved_at_ms = i64::MIN / 2;
            }
        }
    }

    /// Leases that an agent would name in its heartbeat now, with what is known of them.
    pub fn leases_named(&self, agent: AgentId) -> Vec<LeaseProgress> {
        let tasks = self.leases_of(agent).into_iter();
        tasks
            .filter_map(|id| self.progress_of(self.task_at(id)))
            .collect()
    }
}

impl LiveLease {
    fn tell(&mut self, told: &LeaseProgress) {
        self.phase = told.phase;
        self.step = told.step;
        self.steps = told.steps;
        self.step_ms = told.step_ms;
    }
}

fn fell_silent(write: &Write) -> Option<AgentId> {
    match write {
        Write::UpdateAgent { row, .. } if row.state == AgentState::Unresponsive => Some(row.id),
        _ => None,
    }
}

impl Write {
    /// Whether it is more than how far work is, or what is kept for clients that ask again.
    fn is_notable(&self) -> bool {
        match self {
            Self::UpdateTask { was, row } => {
                (was.state, was.attempt) != (row.state.name(), row.attempt)
            }
            Self::UpdateJob { was, row } => *was != row.state,
            Self::InsertKey(_)
            | Self::RevokeKey { .. }
            | Self::PutCost(_)
            | Self::PutDedupe(_)
            | Self::PutIdempotency(_) => false,
            _ => true,
        }
    }
}
