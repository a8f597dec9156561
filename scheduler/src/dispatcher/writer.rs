//! The task behind the dispatcher: groups, commits, timers, rebuilds.

use std::{collections::BTreeMap, pin::Pin, time::Duration};

use schemas::{TaskId, agent::LeaseOffer, task::TaskSpec};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Answer, DispatchError, FoldError, Message,
    polls::{Poll, Polls},
};
use crate::{
    clock::Clock,
    core::{
        Farm, class_name,
        command::{Command, LeaseReply, Reply},
        limits::Limits,
        rows::{NoticeRow, TaskRow, TaskState},
        write::{TaskGuard, Write},
    },
    metrics::Metrics,
    store::{Store, StoreError},
};

/// Commands in one commit.
const GROUP_MAX: usize = 512;
const REBUILD_PAUSE_FIRST: Duration = Duration::from_millis(50);
const REBUILD_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Longest sleep without looking at the timers again.
const SLEEP_MAX: Duration = Duration::from_secs(60);

pub(super) struct Writer {
    farm: Farm,
    store: Store,
    limits: Limits,
    clock: Clock,
    metrics: Metrics,
    /// Applied, not yet on its way to the disk.
    group: Group,
    polls: Polls,
}

/// Commands that are committed together.
#[derive(Default)]
struct Group {
    writes: Vec<Write>,
    replies: Vec<(Answer, Reply)>,
    commands: usize,
}

impl Group {
    /// Tasks that are offered to agents.
    fn offers(&mut self) -> Vec<TaskId> {
        let offers = self
            .replies
            .iter_mut()
            .filter_map(|(_, reply)| offer(reply));
        offers.map(|offer| offer.lease.task).collect()
    }

    /// What these tasks are, where that is in the writes of the group itself.
    fn specs(&self, tasks: &[TaskId]) -> BTreeMap<TaskId, TaskSpec> {
        let known = self.writes.iter().filter_map(|write| match write {
            Write::InsertTask { row, spec } if tasks.contains(&row.id) => {
                Some((row.id, spec.clone()))
            }
            _ => None,
        });
        known.collect()
    }

    /// Completes the offers by what only the database knows.
    fn tell(&mut self, specs: BTreeMap<TaskId, TaskSpec>) -> Result<(), StoreError> {
        for offer in self
            .replies
            .iter_mut()
            .filter_map(|(_, reply)| offer(reply))
        {
            let spec = specs.get(&offer.lease.task);
            offer.spec = spec.cloned().ok_or_else(|| StoreError::Unexpected {
                write: format!("task {} is not there", offer.lease.task),
            })?;
        }
        Ok(())
    }
}

fn offer(reply: &mut Reply) -> Option<&mut LeaseOffer> {
    match reply {
        Reply::Leased(LeaseReply::Offer { offer, .. }) => Some(offer),
        _ => None,
    }
}

type InFlight = Pin<Box<dyn Future<Output = (Group, Result<(), StoreError>)> + Send>>;

/// Reads the database and folds memory from it.
pub(super) async fn fold(store: &Store, limits: &Limits, clock: Clock) -> Result<Farm, FoldError> {
    let now = clock.now_ms();
    let snapshot = store.load(now).await?;
    Ok(Farm::fold(limits.clone(), snapshot, now)?)
}

/// What the loop does next.
enum Event {
    Message(Option<Message>),
    Committed(Box<Group>, Result<(), StoreError>),
    Due,
}

impl Writer {
    pub fn new(farm: Farm, store: Store, limits: Limits, clock: Clock, metrics: Metrics) -> Self {
        Self {
            farm,
            store,
            limits,
            clock,
            metrics,
            group: Group::default(),
            polls: Polls::default(),
        }
    }

    /// Runs until `stop`, and then until everything that was accepted is committed.
    pub async fn run(mut self, mut messages: mpsc::Receiver<Message>, stop: CancellationToken) {
        self.apply(Command::Started, None);
        let mut in_flight: Option<InFlight> = None;
        loop {
            if in_flight.is_none() {
                in_flight = self.next_commit(&mut messages);
            }
            if in_flight.is_none() && stop.is_cancelled() {
                return;
            }
            let event = self.next_event(&mut messages, &mut in_flight, &stop).await;
            match event {
                Event::Message(Some(message)) => self.take(message),
                Event::Message(None) => messages.close(), // stopped, or nobody can ask any more
                Event::Due => self.tick(),
                Event::Committed(group, Ok(())) => {
                    in_flight = None;
                    self.metrics.commits.inc();
                    self.reply(*group);
                }
                Event::Committed(group, Err(error)) => {
                    in_flight = None;
                    tracing::error!(%error, cause = ?error, "a commit failed");
                    if !self.rebuild(*group, &error, &mut messages, &stop).await {
                        return;
                    }
                }
            }
        }
    }

    async fn next_event(
        &self,
        messages: &mut mpsc::Receiver<Message>,
        in_flight: &mut Option<InFlight>,
        stop: &CancellationToken,
    ) -> Event {
        let open = !messages.is_closed() && self.group.commands < GROUP_MAX;
        let due = self.farm.next_deadline().map(|at| {
            let left_ms = at - self.clock.now_ms();
            Duration::from_millis(left_ms.max(0) as u64).min(SLEEP_MAX)
        });
        let asked = self.polls.next().map(|until| until - Instant::now());
        let due = due.into_iter().chain(asked).min().unwrap_or(SLEEP_MAX);
        let committed = async {
            match in_flight {
                Some(commit) => commit.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            (group, result) = committed => Event::Committed(Box::new(group), result),
            message = messages.recv(), if open => Event::Message(message),
            () = sleep(due), if self.group.commands < GROUP_MAX => Event::Due,
            () = stop.cancelled(), if open => Event::Message(None),
        }
    }

    /// Takes what waits into the group and starts its commit; answers at once what writes nothing.
    fn next_commit(&mut self, messages: &mut mpsc::Receiver<Message>) -> Option<InFlight> {
        while self.group.commands < GROUP_MAX {
            match messages.try_recv() {
                Ok(message) => self.take(message),
                Err(_) => break,
            }
        }
        self.ask_polls();
        let mut group = std::mem::take(&mut self.group);
        let mut offers = group.offers();
        if group.writes.is_empty() && offers.is_empty() {
            self.reply(group);
            return None;
        }
        self.metrics.group_commands.observe(group.commands as f64);
        let timer = self.metrics.commit_seconds.start_timer();
        let (store, term, seq) = (self.store.clone(), self.farm.term(), self.farm.seq());
        let mut specs = group.specs(&offers);
        offers.retain(|task| !specs.contains_key(task));
        Some(Box::pin(async move {
            let mut result = match group.writes.is_empty() {
                true => Ok(()),
                false => store.commit(term, seq, &group.writes).await,
            };
            timer.observe_duration();
            if result.is_ok() && !offers.is_empty() {
                result = store.specs(&offers).await.map(|read| specs.extend(read));
            }
            let result = result.and_then(|()| group.tell(specs));
            (group, result)
        }))
    }

    /// Asks for all devices that wait, if something may have come for one. What they get is committed
    /// with what it came with.
    fn ask_polls(&mut self) {
        for (poll, why) in self.polls.take_if_due() {
            match self.group.commands < GROUP_MAX {
                true => self.poll(poll),
                false => {
                    self.polls.park(poll, why);
                    self.polls.wake(); // in the next group
                }
            }
        }
    }

    /// A device gets what there is for it, or waits.
    fn poll(&mut self, poll: Poll) {
        if poll.answer.is_closed() {
            return; // its agent has gone: what it got would lie until its lease ends
        }
        match self.decide(Command::Lease(poll.request.clone())) {
            Reply::Leased(LeaseReply::Idle(why)) if poll.until > Instant::now() => {
                self.polls.park(poll, why);
            }
            reply => {
                self.group.commands += 1;
                self.group.replies.push((poll.answer, reply));
            }
        }
    }

    /// What is due by now: of the farm, and polls that have waited long enough.
    fn tick(&mut self) {
        self.apply(Command::Tick, None);
        while let Some((poll, why)) = self.polls.pop_over(Instant::now()) {
            let reply = Reply::Leased(LeaseReply::Idle(why));
            let _ = poll.answer.send(Ok(reply)); // the asker may have gone
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Command(command, answer) => self.apply(command, Some(answer)),
            Message::Poll(poll) => self.poll(poll),
            Message::Look(look) => look(&self.farm),
        }
    }

    fn apply(&mut self, command: Command, answer: Option<Answer>) {
        self.group.commands += 1;
        let reply = self.decide(command);
        self.group
            .replies
            .extend(answer.map(|answer| (answer, reply)));
    }

    /// Decides a command; what it writes belongs to the group.
    fn decide(&mut self, command: Command) -> Reply {
        let counted = self.metrics.commands.with_label_values(&[command.name()]);
        counted.inc();
        let outcome = self.farm.apply(command, self.clock.now_ms());
        for ended in outcome.attempts_ended {
            self.metrics.attempts.with_label_values(&[ended]).inc();
        }
        for observed in outcome.observed {
            self.metrics.observe(observed);
        }
        for finished in &outcome.finished {
            self.metrics.finished(finished);
        }
        log_changes(&outcome.writes);
        self.group.writes.extend(outcome.writes);
        if outcome.wake {
            self.polls.wake();
        }
        outcome.reply
    }

    fn reply(&self, group: Group) {
        for (answer, reply) in group.replies {
            let _ = answer.send(Ok(reply)); // the asker may have gone
        }
    }

    /// Drops memory and folds it anew. False when this scheduler must not write any more.
    async fn rebuild(
        &mut self,
        failed: Group,
        error: &StoreError,
        messages: &mut mpsc::Receiver<Message>,
        stop: &CancellationToken,
    ) -> bool {
        for group in [failed, std::mem::take(&mut self.group)] {
            for (answer, _) in group.replies {
                let _ = answer.send(Err(DispatchError::Retry)); // the asker may have gone
            }
        }
        if matches!(error, StoreError::Deposed { .. }) {
            return false;
        }
        let (mut pause, mut away) = (REBUILD_PAUSE_FIRST, false);
        loop {
            self.metrics.rebuilds.inc();
            let folding = fold(&self.store, &self.limits, self.clock);
            // What comes during the first fold waits for it; a database that is away is waited for
            // by nobody.
            let folded = if away {
                refusing(messages, folding).await
            } else {
                folding.await
            };
            match folded {
                Ok(farm) if farm.term() == self.farm.term() => {
                    self.farm = farm;
                    self.apply(Command::Started, None);
                    self.polls.wake();
                    return true;
                }
                Ok(farm) => {
                    tracing::error!(
                        term = farm.term(),
                        "another scheduler leads: this one stops"
                    );
                    return false;
                }
                Err(error) => tracing::error!(cause = ?error, "cannot fold the farm: {error}"),
            }
            away = true;
            tokio::select! {
                () = refusing(messages, sleep(pause)) => pause = (pause * 2).min(REBUILD_PAUSE_MAX),
                () = stop.cancelled() => return false,
            }
        }
    }
}

/// Does `work` and meanwhile asks everyone to try again.
async fn refusing<T>(messages: &mut mpsc::Receiver<Message>, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            Some(message) = messages.recv() => match message {
                Message::Command(_, answer) => {
                    let _ = answer.send(Err(DispatchError::Retry)); // the asker may have gone
                }
                Message::Poll(poll) => {
                    let _ = poll.answer.send(Err(DispatchError::Retry)); // the asker may have gone
                }
                Message::Look(look) => drop(look), // so its asker is answered
            },
        }
    }
}

/// One event a change of state.
fn log_changes(writes: &[Write]) {
    for write in writes {
        match write {
            Write::UpdateTask { was, row } if was.state != row.state.name() => log_task(was, row),
            Write::UpdateJob { was, row } if *was != row.state => {
                tracing::info!(job = %row.id, from = ?was, to = ?row.state, "job");
            }
            Write::UpdateAgent { was, row } if *was != row.state => {
                tracing::info!(agent = %row.name, from = was.name(), to = row.state.name(), "agent");
            }
            Write::InsertNotice(row) => log_notice(row),
            _ => {}
        }
    }
}

fn log_task(was: &TaskGuard, row: &TaskRow) {
    let (agent, device) = match row.state {
        TaskState::Leased(holder) => (Some(holder.agent), Some(holder.device)),
        _ => (None, None),
    };
    let backoff = match row.state {
        TaskState::Ready { backoff, .. } => backoff.map(class_name),
        _ => None,
    };
    tracing::info!(
        task = %row.id,
        job = %row.job,
        attempt = row.attempt,
        from = was.state,
        to = row.state.name(),
        agent = agent.map(tracing::field::display),
        device,
        failed = backoff,
        "task"
    );
}

/// What an operator ordered is information; what the farm found wrong is a warning.
fn log_notice(row: &NoticeRow) {
    match &row.actor {
        Some(actor) => tracing::info!(
            target: "audit", kind = row.kind, actor, subject = row.subject, detail = %row.detail,
            "operator"
        ),
        None => tracing::warn!(
            kind = row.kind, subject = row.subject, detail = %row.detail, "notice"
        ),
    }
}
