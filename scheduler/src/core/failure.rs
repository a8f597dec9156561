//! Failed attempts: separate budgets, other nodes, backoff, poison, suspect checkpoints.

use schemas::{TaskId, agent::FailureClass};

use super::{
    Farm, class_name,
    limits::{BACKOFF_MAX_MS, POISON_NODES, SUSPECT_MS, budget},
    rows::{CheckpointRow, JobError, TaskRow, TaskState},
    write::Write,
};

/// Spread of a backoff around its middle, in percent.
const JITTER_PERCENT: i64 = 20;

impl Farm {
    /// Ends the attempt of a leased task; the task tries again, or its job fails.
    pub(super) fn fail_task(&mut self, id: TaskId, class: FailureClass, message: String) {
        self.end_attempt(id, class_name(class), Some(message.clone()), None);
        let saved_step = self.task_at(id).resume_step();
        self.distrust_checkpoints(id, class);
        let step = self.task_at(id).resume_step();
        let now = self.now;
        let may_go_on_ms = self.may_go_on_ms(id);
        let mut ended = None;
        self.change_task(id, |row| {
            blame(row, class);
            row.step = step;
            // Steps that are run again are charged when they are run again.
            if step < saved_step {
                row.used.0 = row.used.0 / i64::from(saved_step) * i64::from(step);
            }
            row.state = match verdict(row, class) {
                Verdict::Retry => {
                    let retry_ms = now + backoff_ms(row, class);
                    TaskState::Ready {
                        eligible_at_ms: retry_ms.max(may_go_on_ms),
                        backoff: (retry_ms >= may_go_on_ms).then_some(class),
                    }
                }
                Verdict::End(error) => {
                    ended = Some(error);
                    TaskState::Failed {
                        class,
                        message: message.clone(),
                    }
                }
            };
        });
        if let Some(code) = ended {
            let job = self.task_at(id).row.job;
            self.drop_checkpoints(id);
            self.fail_job(job, user_error(code, class, message));
        }
    }

    /// What a failing device saved shortly before may be wrong as well.
    fn distrust_checkpoints(&mut self, id: TaskId, class: FailureClass) {
        let TaskState::Leased(holder) = self.task_at(id).row.state else {
            unreachable!("only a leased task fails");
        };
        if !matches!(class, FailureClass::Numeric | FailureClass::DeviceFault) {
            return;
        }
        let trusted_until = self.now - SUSPECT_MS;
        let suspect =
            |row: &CheckpointRow| row.agent == holder.agent && row.made_at_ms > trusted_until;
        let kept = &mut self.task_at_mut(id).checkpoints;
        let dropped: Vec<u32> = kept
            .iter()
            .filter(|c| suspect(c))
            .map(|c| c.at.step)
            .collect();
        kept.retain(|row| !suspect(row));
        for step in dropped {
            self.writes.push(Write::RemoveCheckpoint { task: id, step });
        }
    }
}

/// Counts the failure against its class and, unless it was the network or a disk, the node.
fn blame(row: &mut TaskRow, class: FailureClass) {
    *row.failures.entry(class).or_default() += 1;
    if class != FailureClass::Io
        && let TaskState::Leased(holder) = row.state
    {
        row.failed_on.insert(holder.agent);
    }
}

enum Verdict {
    Retry,
    End(Cause),
}

enum Cause {
    Class,
    /// It failed wherever it went.
    Poison,
}

fn verdict(row: &TaskRow, class: FailureClass) -> Verdict {
    let count = row.failures.get(&class).copied().unwrap_or(0);
    if count > budget(class) {
        Verdict::End(Cause::Class)
    } else if row.failed_on.len() >= POISON_NODES {
        Verdict::End(Cause::Poison)
    } else {
        Verdict::Retry
    }
}

/// 2^n seconds, spread by a hash of task and n so that equal failures do not return together.
/// A lost lease says nothing about the task, so it may go on at once.
fn backoff_ms(row: &TaskRow, class: FailureClass) -> i64 {
    if class == FailureClass::Lost {
        return 0;
    }
    let count = row.failures.get(&class).copied().unwrap_or(0).min(16);
    let middle = (1000i64 << count).min(BACKOFF_MAX_MS);
    let mut hasher = blake3::Hasher::new_derive_key("dailies retry jitter");
    hasher.update(row.id.0.as_bytes());
    hasher.update(&count.to_le_bytes());
    let spread = i64::from(hasher.finalize().as_bytes()[0]); // 0..=255
    let percent = 100 - JITTER_PERCENT + 2 * JITTER_PERCENT * spread / 255;
    (middle * percent / 100).min(BACKOFF_MAX_MS)
}

/// The failure in the words of the Videos API.
fn user_error(cause: Cause, class: FailureClass, message: String) -> JobError {
    let (code, message) = match (cause, class) {
        (_, FailureClass::Rejected) => ("generation_failed", message),
        (Cause::Poison, _) => (
            "generation_failed",
            format!("The video failed on {POISON_NODES} machines; the last one said: {message}"),
        ),
        (_, FailureClass::Lost | FailureClass::DeviceFault) => (
            "device_lost",
            format!("The machines that rendered the video were lost again and again: {message}"),
        ),
        _ => ("generation_failed", message),
    };
    JobError {
        code: code.into(),
        message,
    }
}
