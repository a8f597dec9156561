//! What an agent may say about a task: every write is fenced before it is believed.

use schemas::{
    AgentId, GpuMicros, TaskId,
    agent::{
        CheckpointRef, CheckpointReport, FailureClass, LeaseProgress, LeaseRef, MemoryTold,
        Outcome, Phase, Report, Times, WriteAnswer,
    },
    task::{Artefact, TaskKind, Variant},
};

use super::{
    Farm,
    command::Refusal,
    limits::{CHECKPOINTS_KEPT, STALL_FIRST_MS, STALL_MS, STALL_STEPS},
    rows::{AttemptRow, CheckpointRow, Holder, TaskRow, TaskState},
    timers::Timer,
    write::Write,
};

/// What heartbeats tell about a lease. Not stored: a new leader starts every lease afresh.
#[derive(Clone, Debug)]
pub(super) struct LiveLease {
    pub expires_at_ms: i64,
    pub phase: Phase,
    /// Since when, as far as it was told.
    pub phase_since_ms: i64,
    pub step: u32,
    pub steps: u32,
    pub step_ms: Option<u32>,
    /// Heartbeats in a row that did not name it.
    pub unnamed: u32,
    /// Its agent is told to give it back.
    pub yields: Option<Yields>,
    /// Where this attempt began.
    pub first_step: u32,
    /// When a step or a phase was last seen to change.
    pub moved_at_ms: i64,
    /// The longest step of this attempt.
    pub slowest_ms: i64,
    /// From the grant to the first denoising: loading weights and reading the prompt.
    pub load_ms: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Yields {
    pub since_ms: i64,
    pub why: YieldWhy,
}

/// Why a task must be given back. A new leader forgets it: the task is then released all the same, and whoever it was
/// for is served in its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum YieldWhy {
    /// A more urgent task, for which its device is kept afterwards.
    For(TaskId),
    /// A task of the account that the device is lent by; it is kept for that task as well.
    Owner(TaskId),
    Drain,
    Quarantine,
    WindowClosed,
    Paused,
}

impl YieldWhy {
    /// What the agent is told.
    pub fn text(self) -> &'static str {
        match self {
            Self::For(_) => "a more urgent task needs the device",
            Self::Owner(_) => "the owner of the device needs it",
            Self::Drain => "the node drains",
            Self::Quarantine => "the device is in quarantine",
            Self::WindowClosed => "its window has closed",
            Self::Paused => "its film is paused",
        }
    }

    /// Who gets the device.
    pub fn beneficiary(self) -> Option<TaskId> {
        match self {
            Self::For(task) | Self::Owner(task) => Some(task),
            Self::Drain | Self::Quarantine | Self::WindowClosed | Self::Paused => None,
        }
    }
}

impl LiveLease {
    pub fn new(expires_at_ms: i64, now: i64) -> Self {
        Self {
            expires_at_ms,
            phase: Phase::Encode,
            phase_since_ms: 0,
            step: 0,
            steps: 0,
            step_ms: None,
            unnamed: 0,
            yields: None,
            first_step: 0,
            moved_at_ms: now,
            slowest_ms: 0,
            load_ms: None,
        }
    }
}

/// A fenced write that may go on, or one whose effect is there already.
enum Checked {
    Current(TaskId),
    Duplicate,
}

impl Farm {
    pub(super) fn checkpoint(&mut self, report: CheckpointReport) -> WriteAnswer {
        let checked = self.check_leased(&report.lease);
        answer(checked.and_then(|task| self.record_checkpoint(task, report.checkpoint)))
    }

    pub(super) fn report(&mut self, report: Report) -> WriteAnswer {
        let lease = report.lease;
        let written = match report.outcome {
            Outcome::Succeeded {
                artefacts,
                device_us,
                steps_run,
                times,
                memory,
            } => self.succeed(&lease, artefacts, device_us, (steps_run, &times, memory)),
            Outcome::Released {
                checkpoint,
                reason,
                device_us,
            } => self.release(&lease, checkpoint, &reason, device_us),
            Outcome::Failed {
                cause,
                message,
                peak_bytes,
            } => self.fail(&lease, cause, message, peak_bytes),
        };
        self.leave_if_drained(lease.agent);
        answer(written)
    }

    /// May this lease write now? Also the rule for uploads.
    pub fn check_leased(&self, lease: &LeaseRef) -> Result<TaskId, Refusal> {
        let task = self.fenced(lease)?;
        let row = &self.task_at(task).row;
        match &row.state {
            TaskState::Leased(holder) if lease.attempt == row.attempt => {
                check_holder(holder, lease)?;
                Ok(task)
            }
            TaskState::Blocked { .. } => Err(Refusal::WrongState {
                state: row.state.name(),
            }),
            _ => Err(Refusal::Fenced {
                sent: lease.attempt,
                current: row.attempt,
            }),
        }
    }

    fn fenced(&self, lease: &LeaseRef) -> Result<TaskId, Refusal> {
        if lease.term > self.term {
            return Err(Refusal::StaleTerm {
                sent: lease.term,
                term: self.term,
            });
        }
        match self.tasks.contains_key(&lease.task) {
            true => Ok(lease.task),
            false => Err(Refusal::UnknownTask(lease.task)),
        }
    }

    /// For reports that may come twice: after the first the task is `Ready` again.
    fn check_ending(&self, lease: &LeaseRef) -> Result<Checked, Refusal> {
        let task = self.fenced(lease)?;
        let row = &self.task_at(task).row;
        match row.state {
            TaskState::Ready { .. } if row.attempt == lease.attempt => Ok(Checked::Duplicate),
            _ => self.check_leased(lease).map(Checked::Current),
        }
    }

    fn record_checkpoint(&mut self, id: TaskId, at: CheckpointRef) -> Result<WriteAnswer, Refusal> {
        let task = self.task_at(id);
        let TaskState::Leased(holder) = task.row.state else {
            unreachable!("a fenced task is leased");
        };
        match task.checkpoints.last().map(|c| c.at) {
            Some(last) if last == at => return Ok(WriteAnswer::Duplicate),
            Some(last) if at.step <= last.step => {
                return Err(Refusal::Conflict(format!(
                    "step {} is not beyond the recorded step {}",
                    at.step, last.step
                )));
            }
            _ => {}
        }
        self.add_checkpoint(CheckpointRow {
            task: id,
            at,
            agent: holder.agent,
            made_at_ms: self.now,
        });
        Ok(WriteAnswer::Accepted)
    }

    fn add_checkpoint(&mut self, row: CheckpointRow) {
        let task = row.task;
        self.writes.push(Write::InsertCheckpoint(row.clone()));
        let kept = &mut self.task_at_mut(task).checkpoints;
        kept.push(row);
        if kept.len() > CHECKPOINTS_KEPT {
            let step = kept.remove(0).at.step;
            self.writes.push(Write::RemoveCheckpoint { task, step });
        }
    }

    pub(super) fn drop_checkpoints(&mut self, task: TaskId) {
        for row in std::mem::take(&mut self.task_at_mut(task).checkpoints) {
            let step = row.at.step;
            self.writes.push(Write::RemoveCheckpoint { task, step });
        }
    }

    fn succeed(
        &mut self,
        lease: &LeaseRef,
        output: Vec<Artefact>,
        device_us: u64,
        (steps_run, times, memory): (u32, &Times, MemoryTold),
    ) -> Result<WriteAnswer, Refusal> {
        if let Some(known) = self.succeeded_before(lease, &output) {
            return known;
        }
        let id = self.check_leased(lease)?;
        if let Err(why) = check_output(self.task_at(id).row.kind(), &output) {
            self.fail_task(id, FailureClass::Internal, why.clone(), None);
            return Err(Refusal::Conflict(why));
        }
        let job = self.task_at(id).row.job;
        let used = micros(device_us);
        if let TaskState::Leased(holder) = self.task_at(id).row.state {
            for device in holder.group.devices() {
                self.trust(holder.agent, *device);
            }
        }
        let first_step = self
            .task_at(id)
            .live
            .as_ref()
            .map_or(0, |live| live.first_step);
        let steps = first_step.saturating_add(steps_run);
        self.learn(id, times, steps_run);
        self.learn_memory(id, memory);
        self.attempts_seen[0] += 1;
        self.end_attempt(id, "succeeded", None, Some(used.0));
        self.keep_artefacts(job, id, &output);
        self.change_task(id, |row| {
            row.used.0 = row.used.0.saturating_add(used.0);
            // A short film ends before its steps were ever written.
            row.steps = row.steps.max(steps);
            row.step = row.steps;
            row.state = TaskState::Succeeded { output };
        });
        self.drop_checkpoints(id);
        let kind = self.task_at(id).row.kind();
        self.post_part(job, id, lease.attempt);
        match kind {
            TaskKind::Render => {
                self.input_done(id);
                self.write_progress(job);
            }
            TaskKind::Assemble => self.publish(job),
        }
        Ok(WriteAnswer::Accepted)
    }

    /// A repeated success is known by its attempt and its files.
    fn succeeded_before(
        &self,
        lease: &LeaseRef,
        sent: &[Artefact],
    ) -> Option<Result<WriteAnswer, Refusal>> {
        let row = &self.tasks.get(&lease.task)?.row;
        let TaskState::Succeeded { output } = &row.state else {
            return None;
        };
        Some(match (lease.attempt == row.attempt, output == sent) {
            (true, true) => Ok(WriteAnswer::Duplicate),
            (true, false) => Err(Refusal::Conflict(
                "the attempt has succeeded with other files".into(),
            )),
            _ => Err(Refusal::Fenced {
                sent: lease.attempt,
                current: row.attempt,
            }),
        })
    }

    /// Unblocks the tasks that waited for this one.
    fn input_done(&mut self, id: TaskId) {
        let row = &self.task_at(id).row;
        let (job, index, now) = (row.job, row.index, self.now);
        for waiting in self.job_at(job).tasks.clone() {
            let row = &self.task_at(waiting).row;
            let TaskState::Blocked { inputs_left } = row.state else {
                continue;
            };
            let count = row.inputs.iter().filter(|input| **input == index).count() as u32;
            if count == 0 {
                continue;
            }
            self.change_task(waiting, |row| {
                row.state = match inputs_left - count {
                    0 => TaskState::Ready {
                        eligible_at_ms: now,
                        backoff: None,
                    },
                    inputs_left => TaskState::Blocked { inputs_left },
                };
            });
        }
    }

    fn release(
        &mut self,
        lease: &LeaseRef,
        checkpoint: Option<CheckpointRef>,
        reason: &str,
        device_us: u64,
    ) -> Result<WriteAnswer, Refusal> {
        let id = match self.check_ending(lease)? {
            Checked::Current(id) => id,
            Checked::Duplicate => return Ok(WriteAnswer::Duplicate),
        };
        let saved = match checkpoint {
            // One that does not grow is as good as the recorded one: the release itself stands.
            Some(at) => self.record_checkpoint(id, at).is_ok(),
            None => false,
        };
        let used = micros(device_us);
        self.end_attempt(id, "released", Some(reason.to_string()), Some(used.0));
        let eligible_at_ms = self.now;
        let step = self.task_at(id).resume_step();
        self.change_task(id, |row| {
            row.step = step;
            if saved {
                row.used.0 = row.used.0.saturating_add(used.0);
            }
            row.state = TaskState::Ready {
                eligible_at_ms,
                backoff: None,
            };
        });
        Ok(WriteAnswer::Accepted)
    }

    fn fail(
        &mut self,
        lease: &LeaseRef,
        cause: FailureClass,
        message: String,
        peak_bytes: Option<u64>,
    ) -> Result<WriteAnswer, Refusal> {
        if self.failed_before(lease) {
            return Ok(WriteAnswer::Duplicate);
        }
        match self.check_ending(lease)? {
            Checked::Current(id) => self.fail_task(id, cause, message, peak_bytes),
            Checked::Duplicate => return Ok(WriteAnswer::Duplicate),
        }
        Ok(WriteAnswer::Accepted)
    }

    fn failed_before(&self, lease: &LeaseRef) -> bool {
        self.tasks.get(&lease.task).is_some_and(|task| {
            let ended = matches!(
                task.row.state,
                TaskState::Failed { .. } | TaskState::Cancelled
            );
            ended && task.row.attempt == lease.attempt
        })
    }

    /// A heartbeat named the lease: it runs its full time again from now.
    pub(super) fn renew(&mut self, id: TaskId, progress: &LeaseProgress) {
        let expires_at_ms = self.now + self.limits.lease_ttl_ms;
        let (now, granted_at_ms) = (self.now, self.granted_at_ms(id));
        let live = self.live_mut(id);
        live.expires_at_ms = expires_at_ms;
        live.unnamed = 0;
        live.steps = progress.steps;
        let step = live.step.max(progress.step.min(progress.steps));
        if (step, progress.phase) != (live.step, live.phase) {
            live.moved_at_ms = now;
        }
        if live.phase == Phase::Encode && progress.phase == Phase::Denoise {
            live.load_ms = Some(now - granted_at_ms);
        }
        if live.phase != progress.phase {
            (live.phase, live.phase_since_ms) = (progress.phase, now);
        }
        live.step = step;
        live.step_ms = progress.step_ms.or(live.step_ms);
        live.slowest_ms = live.slowest_ms.max(live.step_ms.unwrap_or(0).into());
        let job = self.task_at(id).row.job;
        let due = self.job_at(job).progress_written_ms + self.limits.progress_write_ms;
        if self.now >= due {
            self.write_step(id);
            self.write_progress(job);
        }
    }

    /// Says for how long there was no step, when that is too long.
    pub(super) fn stalled(&self, id: TaskId) -> Option<String> {
        let task = self.task_at(id);
        let live = task.live.as_ref()?;
        let expected_ms = task.row.estimate.0 / 1_000 / i64::from(live.steps.max(1));
        let limit_ms = match live.slowest_ms {
            0 => STALL_FIRST_MS.max(STALL_STEPS * expected_ms),
            slowest_ms => STALL_MS.max(STALL_STEPS * slowest_ms),
        };
        let still_ms = self.now - live.moved_at_ms;
        (live.phase == Phase::Denoise && still_ms > limit_ms)
            .then(|| format!("no step for {} s", still_ms / 1_000))
    }

    /// Tells the agent of a running task to give it back at its next heartbeat.
    pub(super) fn order_yield(&mut self, id: TaskId, why: YieldWhy) {
        let since_ms = self.now;
        let live = self.live_mut(id);
        live.yields = live.yields.or(Some(Yields { since_ms, why }));
        self.yielding.insert(id);
    }

    fn write_step(&mut self, id: TaskId) {
        let live = self.live_mut(id);
        let (step, steps) = (live.step, live.steps);
        let row = &self.task_at(id).row;
        if (row.step, row.steps) != (step, steps) {
            self.change_task(id, |row| {
                row.step = step;
                row.steps = steps;
            });
        }
    }

    pub(super) fn live_mut(&mut self, id: TaskId) -> &mut LiveLease {
        self.task_at_mut(id)
            .live
            .as_mut()
            .expect("a leased task has its live part")
    }

    pub(super) fn lease_due(&mut self, id: TaskId) {
        let Some(live) = self.tasks.get(&id).and_then(|task| task.live.as_ref()) else {
            return;
        };
        let expires_at_ms = live.expires_at_ms;
        if expires_at_ms <= self.now {
            self.fail_task(id, FailureClass::Lost, "its lease ran out".into(), None);
        } else {
            let early_ms = expires_at_ms - self.spread_ms(id);
            let at_ms = if early_ms > self.now {
                early_ms
            } else {
                expires_at_ms
            };
            self.timers.arm(at_ms, Timer::Lease(id));
        }
    }

    /// Leases of one instant (all of them, after a restart) are not looked at again in one instant.
    fn spread_ms(&self, id: TaskId) -> i64 {
        let [.., high, low] = *id.0.as_bytes();
        i64::from(u16::from_be_bytes([high, low])) % (self.limits.lease_ttl_ms / 2).max(1)
    }

    /// Closes the audit row of the attempt that a leased task has.
    pub(super) fn end_attempt(
        &mut self,
        id: TaskId,
        outcome: &'static str,
        message: Option<String>,
        device_us: Option<i64>,
    ) {
        let row = &self.task_at(id).row;
        let TaskState::Leased(holder) = row.state else {
            unreachable!("only a leased task has an open attempt");
        };
        let number = row.attempt;
        let yields = self.task_at(id).live.as_ref().and_then(|live| live.yields);
        if let Some(task) = yields.and_then(|yields| yields.why.beneficiary()) {
            self.hand_over(&holder, task);
        }
        self.correct_usage(id, holder.granted_at_ms, device_us);
        self.attempts_ended.push(outcome);
        self.writes.push(Write::EndAttempt(AttemptRow {
            task: id,
            number,
            term: self.term,
            holder,
            ended_at_ms: Some(self.now),
            outcome: Some(outcome.into()),
            message,
            device_us,
        }));
    }

    /// The live lease of this agent's task, by task and attempt, for a heartbeat.
    pub(super) fn holds(&self, agent: AgentId, lease: &LeaseRef) -> bool {
        lease.agent == agent && self.check_leased(lease).is_ok()
    }
}

impl super::Task {
    pub(super) fn new(row: TaskRow) -> Self {
        Self {
            row,
            checkpoints: Vec::new(),
            live: None,
            queued_ms: None,
        }
    }

    /// Where the next attempt starts.
    pub(super) fn resume_step(&self) -> u32 {
        self.checkpoints.last().map_or(0, |c| c.at.step)
    }
}

fn check_holder(holder: &Holder, lease: &LeaseRef) -> Result<(), Refusal> {
    match (holder.agent, holder.boot) == (lease.agent, lease.boot) {
        true => Ok(()),
        false => Err(Refusal::StaleBoot),
    }
}

fn check_output(kind: TaskKind, output: &[Artefact]) -> Result<(), String> {
    let mut found: Vec<Variant> = output.iter().map(|a| a.variant).collect();
    found.sort();
    let wanted: &[Variant] = match kind {
        TaskKind::Render => &[Variant::Shot],
        TaskKind::Assemble => &[Variant::Film, Variant::Thumbnail, Variant::Spritesheet],
    };
    match found == wanted {
        true => Ok(()),
        false => Err(format!("it made {found:?} where {wanted:?} were due")),
    }
}

fn micros(device_us: u64) -> GpuMicros {
    GpuMicros(i64::try_from(device_us).unwrap_or(i64::MAX))
}

fn answer(result: Result<WriteAnswer, Refusal>) -> WriteAnswer {
    result.unwrap_or_else(|refusal| WriteAnswer::Refused {
        why: refusal.to_string(),
    })
}
