//! Accepting jobs: shape, retries of lost answers, idempotency keys.

use std::collections::BTreeSet;

use schemas::{
    JobId,
    task::{GROUP_SIZES, TaskKind},
};

use super::{
    Farm,
    command::{Refusal, Reply, Submitted},
    limits::{DEDUPE_JOBS_MAX, DEDUPE_MS, IDEMPOTENCY_MS, SHOTS_MAX},
    packed::{Start, Whole},
    rows::{
        Dedupe, DedupeJob, DedupeRow, Fingerprint, IdempotencyRow, JobRow, KeptOutcome, NewJob,
        NewTask, TaskRow, TaskState,
    },
    start::Expected,
    timers::Timer,
    write::Write,
};

impl Farm {
    pub(super) fn submit(&mut self, job: NewJob) -> Submitted {
        if let Err(why) = self.check_job(&job) {
            return Submitted::Refused(Refusal::Invalid(why));
        }
        if let Some(answer) = self.kept_answer(&job) {
            return answer;
        }
        if !job.dedupe.as_ref().is_some_and(|d| self.knows(d))
            && let Some(refusal) = self.refused(&job)
        {
            return Submitted::Refused(refusal);
        }
        if let Some(made) = job.dedupe.as_ref().and_then(|d| self.claim(d)) {
            return Submitted::Deduplicated(made);
        }
        let id = job.id;
        if let Some(idempotency) = &job.idempotency {
            self.keep(IdempotencyRow {
                scope: idempotency.scope.clone(),
                fingerprint: idempotency.fingerprint.clone(),
                outcome: KeptOutcome::Job(id),
                expires_at_ms: self.now + IDEMPOTENCY_MS,
            });
        }
        if let Some(dedupe) = &job.dedupe {
            self.remember(&dedupe.fingerprint, id);
        }
        self.create(job);
        Submitted::Created(id)
    }

    /// Why a job that is well formed is not taken: it could never start, or it cannot be paid.
    pub fn refused(&self, job: &NewJob) -> Option<Refusal> {
        let user = job.user.as_ref().map(|user| user.id);
        let account = user.filter(|id| self.accounts.contains_key(id));
        let account = account.unwrap_or(job.project);
        let window = job.window.as_deref();
        let expected = expected(&job.tasks);
        self.never_starts(window, job.not_before_ms, job.deadline_ms, expected)
            .or_else(|| self.group_over_cap(account, &job.tasks))
            .or_else(|| self.over_budget(account))
            .or_else(|| self.over_quota(account, job.hold))
    }

    fn check_job(&self, job: &NewJob) -> Result<(), String> {
        if self.jobs.contains_key(&job.id) || self.backlog.holds(job.id) {
            return Err(format!("{} exists already", job.id));
        }
        if !self.accounts.contains_key(&job.project) {
            return Err(format!("no project {}", job.project));
        }
        if job.hold.0 < 0 {
            return Err("its hold is negative".into());
        }
        check_tasks(&job.tasks)?;
        match job.tasks.iter().find(|t| self.tasks.contains_key(&t.id)) {
            Some(task) => Err(format!("task {} exists already", task.id)),
            None => Ok(()),
        }
    }

    /// What a request with the same idempotency key was answered.
    pub fn kept_answer(&self, job: &NewJob) -> Option<Submitted> {
        let sent = job.idempotency.as_ref()?;
        let kept = self.idempotency.get(&sent.scope)?;
        if kept.fingerprint != sent.fingerprint {
            return Some(Submitted::Refused(Refusal::KeyReused));
        }
        Some(match &kept.outcome {
            KeptOutcome::Job(id) => Submitted::Replayed(*id),
            KeptOutcome::Answer(answer) => Submitted::ReplayedAnswer(answer.clone()),
        })
    }

    /// [`claim`](Self::claim) would find a job.
    fn knows(&self, dedupe: &Dedupe) -> bool {
        self.dedupe.get(&dedupe.fingerprint).is_some_and(|row| {
            dedupe.retry_count > 0 && row.errors == 0 && row.jobs.iter().any(|j| !j.claimed)
        })
    }

    /// The job that a retried request made before; `None` when it must make one.
    fn claim(&mut self, dedupe: &Dedupe) -> Option<JobId> {
        let row = self.dedupe.get_mut(&dedupe.fingerprint)?;
        if dedupe.retry_count == 0 {
            return None;
        }
        if row.errors > 0 {
            row.errors -= 1; // written with the job that follows
            return None;
        }
        let job = row.jobs.iter_mut().rev().find(|j| !j.claimed)?;
        job.claimed = true;
        let id = job.job;
        let row = row.clone();
        self.put_dedupe(row);
        Some(id)
    }

    fn remember(&mut self, fingerprint: &Fingerprint, job: JobId) {
        let mut row = self.dedupe_row(fingerprint);
        if row.jobs.len() == DEDUPE_JOBS_MAX {
            row.jobs.remove(0);
        }
        row.jobs.push(DedupeJob {
            job,
            claimed: false,
        });
        self.put_dedupe(row);
    }

    fn dedupe_row(&self, fingerprint: &Fingerprint) -> DedupeRow {
        self.dedupe
            .get(fingerprint)
            .cloned()
            .unwrap_or_else(|| DedupeRow {
                fingerprint: fingerprint.clone(),
                jobs: Vec::new(),
                errors: 0,
                expires_at_ms: 0,
            })
    }

    fn put_dedupe(&mut self, mut row: DedupeRow) {
        row.expires_at_ms = self.now + DEDUPE_MS;
        let timer = Timer::Dedupe(row.fingerprint.clone());
        self.timers.arm(row.expires_at_ms, timer);
        self.dedupe.insert(row.fingerprint.clone(), row.clone());
        self.writes.push(Write::PutDedupe(row));
    }

    pub(super) fn note_error(&mut self, fingerprint: Fingerprint) -> Reply {
        let mut row = self.dedupe_row(&fingerprint);
        row.errors = row.errors.saturating_add(1);
        self.put_dedupe(row);
        Reply::Done
    }

    pub(super) fn keep_answer(
        &mut self,
        scope: String,
        fingerprint: Fingerprint,
        answer: serde_json::Value,
    ) -> Reply {
        if !self.idempotency.contains_key(&scope) {
            self.keep(IdempotencyRow {
                scope,
                fingerprint,
                outcome: KeptOutcome::Answer(answer),
                expires_at_ms: self.now + IDEMPOTENCY_MS,
            });
        }
        Reply::Done
    }

    fn keep(&mut self, row: IdempotencyRow) {
        let timer = Timer::Idempotency(row.scope.clone());
        self.timers.arm(row.expires_at_ms, timer);
        self.idempotency.insert(row.scope.clone(), row.clone());
        self.writes.push(Write::PutIdempotency(row));
    }

    /// The rows themselves are removed from the database by a chore.
    pub(super) fn dedupe_due(&mut self, fingerprint: Fingerprint) {
        if let Some(row) = self.dedupe.get(&fingerprint)
            && row.expires_at_ms <= self.now
        {
            self.dedupe.remove(&fingerprint);
        }
    }

    pub(super) fn idempotency_due(&mut self, scope: String) {
        if let Some(row) = self.idempotency.get(&scope)
            && row.expires_at_ms <= self.now
        {
            self.idempotency.remove(&scope);
        }
    }

    fn create(&mut self, job: NewJob) {
        let expected = expected(&job.tasks);
        let [starts_ms, could_start_ms] = self.plan_start(&job, expected);
        let user = self.user_of(job.project, job.user);
        let start = Start {
            id: job.id,
            project: job.project,
            user,
            band: job.band,
            rank: job.rank,
            seq: self.next_seq(),
            seed: job.seed,
            created_at_ms: self.now,
            held: job.hold,
            window: job.window,
            not_before_ms: job.not_before_ms,
            deadline_ms: job.deadline_ms,
            starts_ms,
            could_start_ms,
        };
        let (row, eligible_at_ms) = (JobRow::new(&start), start.own_ms());
        self.writes.push(Write::InsertJob {
            row: row.clone(),
            request: job.request,
        });
        let tasks = job.tasks.into_iter().enumerate();
        let tasks = tasks
            .map(|(index, task)| self.create_task(job.id, index as u32, task, eligible_at_ms))
            .collect();
        let reservation = self.hold(job.id, row.account(), job.hold);
        let packed = self.join_line(Whole {
            job: row,
            tasks,
            reservation,
        });
        self.writes.push(Write::InsertWaiting {
            job: job.id,
            seq: start.seq,
            packed,
        });
        self.announce_for(job.project, job.id, "video.queued");
    }

    fn create_task(
        &mut self,
        job: JobId,
        index: u32,
        task: NewTask,
        eligible_at_ms: i64,
    ) -> TaskRow {
        let (shape, new) = self.shapes.intern(&task.spec);
        if let Some(number) = new {
            let shape = (*shape).clone();
            self.writes.push(Write::InsertShape { number, shape });
        }
        let row = TaskRow {
            state: TaskState::new(task.inputs.len(), eligible_at_ms),
            inputs: task.inputs,
            estimate: task.estimate,
            ..TaskRow::new(task.id, job, index, shape)
        };
        self.writes.push(Write::InsertTask {
            row: row.clone(),
            spec: task.spec,
        });
        if !task.reads.is_empty() {
            self.writes.push(Write::KeepInputs {
                job,
                task: task.id,
                digests: task.reads,
            });
        }
        row
    }
}

fn expected(tasks: &[NewTask]) -> Expected {
    let mut expected = Expected::default();
    for task in tasks {
        expected.add(task.spec.kind(), task.estimate);
    }
    expected
}

fn check_tasks(tasks: &[NewTask]) -> Result<(), String> {
    let Some((last, renders)) = tasks.split_last() else {
        return Err("it has no tasks".into());
    };
    if renders.is_empty() || renders.len() > SHOTS_MAX {
        return Err(format!(
            "it has {} shots, not 1 to {SHOTS_MAX}",
            renders.len()
        ));
    }
    let all: Vec<u32> = (0..renders.len() as u32).collect();
    if last.spec.kind() != TaskKind::Assemble || last.inputs != all {
        return Err("its last task does not assemble all others in order".into());
    }
    for (index, task) in renders.iter().enumerate() {
        if task.spec.kind() != TaskKind::Render {
            return Err(format!("task {index} is not a render task"));
        }
        if !GROUP_SIZES.contains(&task.spec.devices()) {
            return Err(format!(
                "task {index} needs {} devices, not 1, 2, 4 or 8",
                task.spec.devices()
            ));
        }
        if task.inputs.iter().any(|input| *input as usize >= index) {
            return Err(format!("task {index} waits for a later one"));
        }
    }
    let ids: BTreeSet<_> = tasks.iter().map(|t| t.id).collect();
    let estimates = tasks.iter().all(|t| t.estimate.0 >= 0);
    match (ids.len() == tasks.len(), estimates) {
        (false, _) => Err("two of its tasks have the same id".into()),
        (_, false) => Err("an estimate is negative".into()),
        _ => Ok(()),
    }
}
