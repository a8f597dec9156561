//! Failed attempts: separate budgets, other nodes, backoff, poison, suspect checkpoints.

use std::collections::{BTreeMap, BTreeSet};

use schemas::{AgentId, TaskId, agent::FailureClass};
use serde_json::json;

use super::{
    Farm, Observed, class_name,
    limits::{BACKOFF_MAX_MS, POISON_NODES, POISON_NODES_ALIKE, SIGNATURES_MAX, budget},
    placement::can,
    rows::{AgentRow, Holder, JobError, TaskRow, TaskState},
};

/// Spread of a backoff around its middle, in percent.
const JITTER_PERCENT: i64 = 20;
/// A task that ran out of memory needs this much of what it was seen to take, in percent.
const PEAK_PERCENT: u64 = 115;

impl Farm {
    /// Ends the attempt of a leased task; the task tries again, or its job fails. `peak_bytes` is the memory that it
    /// was seen to take.
    pub(super) fn fail_task(
        &mut self,
        id: TaskId,
        class: FailureClass,
        message: String,
        peak_bytes: Option<u64>,
    ) {
        let holder = self.holder(id);
        self.attempts_seen[1] += u64::from(class != FailureClass::Rejected);
        self.end_attempt(id, class_name(class), Some(message.clone()), None);
        let saved_step = self.task_at(id).resume_step();
        self.observed.push(Observed::Failed(class));
        if matches!(class, FailureClass::Numeric | FailureClass::DeviceFault) {
            self.drop_suspect(id, holder.agent);
        }
        let memory_bytes = match class {
            FailureClass::OutOfMemory => self.memory_needed(id, &holder, peak_bytes),
            _ => None,
        };
        if memory_bytes.is_some() {
            self.learn_short(id, &holder);
        }
        let step = self.task_at(id).resume_step();
        let now = self.now;
        let mut ended = None;
        self.change_task(id, |row| {
            blame(row, &holder, class, &message);
            row.step = step;
            row.memory_bytes = row.memory_bytes.max(memory_bytes);
            // Steps that are run again are charged when they are run again.
            if step < saved_step {
                row.used.0 = row.used.0 / i64::from(saved_step) * i64::from(step);
            }
            row.state = match verdict(row, class) {
                Verdict::Retry => TaskState::Ready {
                    eligible_at_ms: now + backoff_ms(row, class),
                    backoff: Some(class),
                },
                Verdict::End(error) => {
                    ended = Some(error);
                    TaskState::Failed {
                        class,
                        message: message.clone(),
                    }
                }
            };
        });
        // Nobody can tell which device of a group it was.
        for device in holder.group.devices() {
            self.suspect(holder.agent, *device, id, class);
        }
        if let Some(code) = ended {
            let job = self.task_at(id).row.job;
            self.drop_checkpoints(id);
            if code == Cause::Poison {
                self.note_poison(id, &message);
            }
            self.fail_job(job, user_error(code, class, message));
        }
    }

    fn holder(&self, id: TaskId) -> Holder {
        match self.task_at(id).row.state {
            TaskState::Leased(holder) => holder,
            _ => unreachable!("only a leased task fails"),
        }
    }

    /// Memory for the next try: that of the smallest device above the one that was too small which has what the task
    /// was seen to take, or of the largest there is. Absent where none is larger: it may try again as it is.
    fn memory_needed(&self, id: TaskId, holder: &Holder, peak_bytes: Option<u64>) -> Option<u64> {
        let task = &self.task_at(id).row;
        let row = &self.agents.get(&holder.agent)?.row;
        let peak_bytes = peak_bytes.map(|peak| peak / u64::from(holder.group.count()));
        let had = row.device(holder.device)?.memory_bytes;
        let wanted = peak_bytes.map_or(0, |peak| peak.saturating_mul(PEAK_PERCENT) / 100);
        let nodes = self.agents.values().map(|agent| &agent.row);
        let larger: BTreeSet<u64> = nodes
            .filter(|node| can(node, task).is_ok())
            .flat_map(|node| group_sizes(node, task.devices()))
            .filter(|bytes| *bytes > had)
            .collect();
        let enough = larger.range(wanted..).next();
        enough.or(larger.last()).copied()
    }

    /// The operator gets all that is needed to make the failure happen again.
    fn note_poison(&mut self, id: TaskId, message: &str) {
        let row = &self.task_at(id).row;
        let names = |nodes: &BTreeSet<AgentId>| {
            let names = nodes.iter().map(|node| self.agent_name(*node));
            names.collect::<Vec<_>>()
        };
        let signatures: BTreeMap<&String, Vec<String>> = row
            .signatures
            .iter()
            .map(|(signature, nodes)| (signature, names(nodes)))
            .collect();
        let detail = json!({
            "job": row.job,
            "attempts": row.attempt,
            "nodes": names(&row.failed_on),
            "failures": row.failures,
            "signatures": signatures,
            "message": message,
            "recipe": *row.spec,
        });
        self.observed.push(Observed::Poisoned);
        self.note_about("poison", None, id.to_string(), detail);
    }
}

/// Memory that so many devices of one class of the node have each.
fn group_sizes(node: &AgentRow, devices: u32) -> Vec<u64> {
    let mut by_class: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for device in &node.devices {
        let sizes = by_class.entry(&device.class).or_default();
        sizes.push(device.memory_bytes);
    }
    let size = |mut sizes: Vec<u64>| {
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        sizes
            .into_iter()
            .skip(devices as usize - 1)
            .collect::<Vec<_>>()
    };
    by_class.into_values().flat_map(size).collect()
}

/// Counts the failure against its class and, unless it was the network or a disk, the node and the error.
fn blame(row: &mut TaskRow, holder: &Holder, class: FailureClass, message: &str) {
    *row.failures.entry(class).or_default() += 1;
    if class == FailureClass::Io {
        return;
    }
    row.failed_on.insert(holder.agent);
    // A lost lease says nothing about the error, and too little memory is met with a larger device.
    let alike = !matches!(
        class,
        FailureClass::Lost | FailureClass::Rejected | FailureClass::OutOfMemory
    );
    if alike && row.signatures.len() < SIGNATURES_MAX {
        let signature = signature(class, message);
        row.signatures
            .entry(signature)
            .or_default()
            .insert(holder.agent);
    }
}

/// Class and hash of the message without its numbers: steps, sizes and addresses differ between equal errors.
fn signature(class: FailureClass, message: &str) -> String {
    let mut shape = String::new();
    for c in message.chars() {
        match c.is_ascii_digit() {
            true if shape.ends_with('#') => {}
            true => shape.push('#'),
            false => shape.push(c),
        }
    }
    let hash = blake3::hash(shape.as_bytes()).to_hex();
    format!("{}:{}", class_name(class), &hash[..12])
}

enum Verdict {
    Retry,
    End(Cause),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Class,
    /// It failed wherever it went.
    Poison,
}

fn verdict(row: &TaskRow, class: FailureClass) -> Verdict {
    let count = row.failures.get(&class).copied().unwrap_or(0);
    let alike = row
        .signatures
        .values()
        .map(BTreeSet::len)
        .max()
        .unwrap_or(0);
    if class == FailureClass::Rejected {
        Verdict::End(Cause::Class)
    } else if row.failed_on.len() >= POISON_NODES || alike >= POISON_NODES_ALIKE {
        Verdict::End(Cause::Poison)
    } else if count > budget(class) {
        Verdict::End(Cause::Class)
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
            format!("The video failed on several machines; the last one said: {message}"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_errors_have_one_signature_whatever_their_numbers() {
        let at = |class, text| signature(class, text);
        let numeric = FailureClass::Numeric;
        assert_eq!(
            at(numeric, "NaN at step 7 of 12"),
            at(numeric, "NaN at step 11 of 12")
        );
        assert_ne!(at(numeric, "NaN at step 7"), at(numeric, "Inf at step 7"));
        assert_ne!(at(numeric, "NaN"), at(FailureClass::Internal, "NaN"));
    }
}
