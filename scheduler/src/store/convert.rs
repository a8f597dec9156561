//! Rows of the core as models of the database and back.

use std::{str::FromStr, sync::Arc};

use schemas::{
    AccountId, AgentId, BootId, Digest, GpuMicros, JobId, TaskId, agent::CheckpointRef,
    task::TaskSpec,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    StoreError,
    entity::{
        account, agent, api_key, artefact_ref, attempt, balance, checkpoint, dedupe, event,
        idempotency, job, ledger_entry, outbox, reservation, task, usage,
    },
};
use crate::core::{
    decay::Decayed,
    event::EventRow,
    group::Group,
    rows::{
        AccountRow, AgentRow, AttemptRow, Balance, CheckpointRow, DedupeRow, Holder,
        IdempotencyRow, JobError, JobRow, KeyRow, LedgerRow, OutboxRow, Paused, ReservationRow,
        TaskRow, TaskState,
    },
    shapes::shape_of,
    write::Write,
};

/// An enum's serde name.
pub fn name<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        other => unreachable!("only enums without data are named, not {other:?}"),
    }
}

pub fn from_name<T: DeserializeOwned>(column: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_value(serde_json::Value::String(text.into())).map_err(|_| broken(column, text))
}

pub fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("rows have string keys and finite numbers only")
}

pub fn from_json<T: DeserializeOwned>(column: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|_| broken(column, text))
}

pub fn digest(text: &str) -> Result<Digest, StoreError> {
    Digest::from_str(text).map_err(|_| broken("digest", text))
}

fn broken(column: &'static str, value: &str) -> StoreError {
    StoreError::Broken {
        column,
        value: value.chars().take(200).collect(),
    }
}

fn due<T>(column: &'static str, value: Option<T>) -> Result<T, StoreError> {
    value.ok_or_else(|| broken(column, "NULL"))
}

pub fn job_model(row: &JobRow, request: &serde_json::Value) -> job::Model {
    let error = row.error.as_ref();
    job::Model {
        id: row.id.0,
        seq: row.seq,
        project: row.project.0,
        request: request.to_string(),
        seed: row.seed.cast_signed(),
        band: name(&row.band),
        state: name(&row.state),
        progress: row.progress.into(),
        created_at_ms: row.created_at_ms,
        ended_at_ms: row.ended_at_ms,
        error_code: error.map(|e| e.code.clone()),
        error_message: error.map(|e| text(&e.message)),
        rank: row.rank,
        start_window: row.window.clone(),
        user_account: row.user.map(|id| id.0),
        not_before_ms: row.not_before_ms,
        deadline_ms: row.deadline_ms,
        could_start_ms: row.could_start_ms,
        saved: row.saved,
        paused_by: row.paused.as_ref().map(|paused| text(&paused.by)),
        paused_at_ms: row.paused.as_ref().map(|paused| paused.since_ms),
    }
}

pub fn job_row(model: &job::Model) -> Result<JobRow, StoreError> {
    Ok(JobRow {
        id: JobId(model.id),
        seq: model.seq,
        project: AccountId(model.project),
        user: model.user_account.map(AccountId),
        seed: model.seed.cast_unsigned(),
        band: from_name("job.band", &model.band)?,
        state: from_name("job.state", &model.state)?,
        progress: model.progress.clamp(0, 100) as u8,
        created_at_ms: model.created_at_ms,
        ended_at_ms: model.ended_at_ms,
        error: job_error(model),
        rank: model.rank,
        window: model.start_window.clone(),
        not_before_ms: model.not_before_ms,
        deadline_ms: model.deadline_ms,
        could_start_ms: model.could_start_ms,
        saved: model.saved,
        paused: model.paused_at_ms.map(|since_ms| Paused {
            by: model.paused_by.clone().unwrap_or_default(),
            since_ms,
        }),
    })
}

pub fn job_error(model: &job::Model) -> Option<JobError> {
    Some(JobError {
        code: model.error_code.clone()?,
        message: model.error_message.clone().unwrap_or_default(),
    })
}

/// `spec` is only for a new row: an update leaves it as it is.
pub fn task_model(row: &TaskRow, spec: &TaskSpec) -> task::Model {
    let mut model = task::Model {
        id: row.id.0,
        job: row.job.0,
        place: row.index as i32,
        kind: name(&row.kind()),
        spec: json(spec),
        inputs: json(&row.inputs),
        estimate_us: row.estimate.0,
        state: row.state.name().into(),
        attempt: row.attempt.into(),
        inputs_left: None,
        eligible_at_ms: None,
        backoff: None,
        agent: None,
        boot: None,
        device: None,
        devices: None,
        poll_id: None,
        granted_at_ms: None,
        output: None,
        failed_class: None,
        failed_message: None,
        failures: json(&row.failures),
        failed_on: json(&row.failed_on),
        used_us: row.used.0,
        step: row.step.into(),
        steps: row.steps.into(),
        preemptions: row.preemptions.into(),
        signatures: json(&row.signatures),
        memory_bytes: row.memory_bytes.map(u64::cast_signed),
        preempted_at_ms: row.preempted_at_ms,
    };
    put_task_state(&mut model, &row.state);
    model
}

fn put_task_state(model: &mut task::Model, state: &TaskState) {
    match state {
        TaskState::Blocked { inputs_left } => model.inputs_left = Some(*inputs_left as i32),
        TaskState::Ready {
            eligible_at_ms,
            backoff,
        } => {
            model.eligible_at_ms = Some(*eligible_at_ms);
            model.backoff = backoff.as_ref().map(name);
        }
        TaskState::Leased(holder) => {
            model.agent = Some(holder.agent.0);
            model.boot = Some(holder.boot.0);
            model.device = Some(holder.device.into());
            model.devices = devices(holder);
            model.poll_id = Some(holder.poll_id.cast_signed());
            model.granted_at_ms = Some(holder.granted_at_ms);
        }
        TaskState::Succeeded { output } => model.output = Some(json(output)),
        TaskState::Failed { class, message } => {
            model.failed_class = Some(name(class));
            model.failed_message = Some(text(message));
        }
        TaskState::Cancelled => {}
    }
}

/// A group of one is told by `device` alone.
fn devices(holder: &Holder) -> Option<String> {
    (holder.group.count() > 1).then(|| json(&holder.group))
}

pub fn task_row(model: &task::Model) -> Result<TaskRow, StoreError> {
    Ok(TaskRow {
        id: TaskId(model.id),
        job: JobId(model.job),
        index: model.place as u32,
        spec: Arc::new(shape_of(&from_json("task.spec", &model.spec)?)),
        inputs: from_json("task.inputs", &model.inputs)?,
        estimate: GpuMicros(model.estimate_us),
        state: task_state(model)?,
        attempt: model.attempt as u32,
        failures: from_json("task.failures", &model.failures)?,
        failed_on: from_json("task.failed_on", &model.failed_on)?,
        used: GpuMicros(model.used_us),
        step: model.step as u32,
        steps: model.steps as u32,
        preemptions: model.preemptions as u32,
        signatures: from_json("task.signatures", &model.signatures)?,
        memory_bytes: model.memory_bytes.map(i64::cast_unsigned),
        preempted_at_ms: model.preempted_at_ms,
    })
}

fn task_state(model: &task::Model) -> Result<TaskState, StoreError> {
    let class = |column, text: &Option<String>| match text {
        Some(text) => from_name(column, text).map(Some),
        None => Ok(None),
    };
    Ok(match model.state.as_str() {
        "blocked" => TaskState::Blocked {
            inputs_left: due("task.inputs_left", model.inputs_left)? as u32,
        },
        "ready" => TaskState::Ready {
            eligible_at_ms: due("task.eligible_at_ms", model.eligible_at_ms)?,
            backoff: class("task.backoff", &model.backoff)?,
        },
        "leased" => TaskState::Leased(Holder {
            agent: AgentId(due("task.agent", model.agent)?),
            boot: BootId(due("task.boot", model.boot)?),
            device: due("task.device", model.device)? as u32,
            group: match &model.devices {
                Some(devices) => from_json("task.devices", devices)?,
                None => Group::one(due("task.device", model.device)? as u32),
            },
            poll_id: due("task.poll_id", model.poll_id)?.cast_unsigned(),
            granted_at_ms: due("task.granted_at_ms", model.granted_at_ms)?,
        }),
        "succeeded" => TaskState::Succeeded {
            output: from_json("task.output", &due("task.output", model.output.clone())?)?,
        },
        "failed" => TaskState::Failed {
            class: due(
                "task.failed_class",
                class("task.failed_class", &model.failed_class)?,
            )?,
            message: model.failed_message.clone().unwrap_or_default(),
        },
        "cancelled" => TaskState::Cancelled,
        other => return Err(broken("task.state", other)),
    })
}

pub fn attempt_model(row: &AttemptRow) -> attempt::Model {
    attempt::Model {
        task: row.task.0,
        number: row.number.into(),
        term: row.term.cast_signed(),
        agent: row.holder.agent.0,
        boot: row.holder.boot.0,
        device: row.holder.device.into(),
        devices: devices(&row.holder),
        granted_at_ms: row.holder.granted_at_ms,
        ended_at_ms: row.ended_at_ms,
        outcome: row.outcome.clone(),
        message: row.message.as_deref().map(text),
        device_us: row.device_us,
    }
}

pub fn checkpoint_model(row: &CheckpointRow) -> checkpoint::Model {
    checkpoint::Model {
        task: row.task.0,
        step: row.at.step.into(),
        digest: row.at.digest.to_string(),
        agent: row.agent.0,
        made_at_ms: row.made_at_ms,
    }
}

pub fn checkpoint_row(model: &checkpoint::Model) -> Result<CheckpointRow, StoreError> {
    Ok(CheckpointRow {
        task: TaskId(model.task),
        at: CheckpointRef {
            step: model.step as u32,
            digest: digest(&model.digest)?,
        },
        agent: AgentId(model.agent),
        made_at_ms: model.made_at_ms,
    })
}

pub fn reservation_model(row: &ReservationRow) -> reservation::Model {
    reservation::Model {
        job: row.job.0,
        project: row.account.0,
        state: name(&row.state),
        reserved_us: row.reserved.0,
        held_us: row.held.0,
        posted_us: row.posted.0,
        refunded_us: row.refunded.0,
    }
}

pub fn reservation_row(model: &reservation::Model) -> Result<ReservationRow, StoreError> {
    Ok(ReservationRow {
        job: JobId(model.job),
        account: AccountId(model.project),
        state: from_name("reservation.state", &model.state)?,
        reserved: GpuMicros(model.reserved_us),
        held: GpuMicros(model.held_us),
        posted: GpuMicros(model.posted_us),
        refunded: GpuMicros(model.refunded_us),
    })
}

pub fn ledger_model(row: &LedgerRow) -> ledger_entry::Model {
    ledger_entry::Model {
        seq: row.seq,
        entry_key: row.key.clone(),
        account: row.account.0,
        from_bucket: name(&row.from),
        to_bucket: name(&row.to),
        amount_us: row.amount.0,
        at_ms: row.at_ms,
        why: row.why.as_ref().map(json),
        hash: Some(row.hash.to_string()),
    }
}

pub fn balance_model(account: AccountId, balance: &Balance) -> balance::Model {
    balance::Model {
        account: account.0,
        available_us: balance.available.0,
        held_us: balance.held.0,
        spent_us: balance.spent.0,
        mint_us: balance.mint.0,
        loan_us: balance.loan.0,
    }
}

pub fn balance_row(model: &balance::Model) -> (AccountId, Balance) {
    let balance = Balance {
        available: GpuMicros(model.available_us),
        held: GpuMicros(model.held_us),
        spent: GpuMicros(model.spent_us),
        mint: GpuMicros(model.mint_us),
        loan: GpuMicros(model.loan_us),
    };
    (AccountId(model.account), balance)
}

/// Words of a stranger. PostgreSQL keeps no NUL, and one refused row would undo its whole group.
pub(super) fn text(words: &str) -> String {
    words.replace('\0', "\u{fffd}")
}

pub fn agent_model(row: &AgentRow) -> agent::Model {
    agent::Model {
        id: row.id.0,
        name: text(&row.name),
        boot: row.boot.0,
        last_boot: row.last_boot.map(|boot| boot.0),
        state: name(&row.state),
        drained: row.drained,
        version: text(&row.version),
        devices: json(&row.devices),
        weights: json(&row.weights),
        ffmpeg: row.ffmpeg.as_deref().map(text),
        health: json(&row.health),
        group_max: row.group_max.into(),
    }
}

pub fn agent_row(model: agent::Model) -> Result<AgentRow, StoreError> {
    Ok(AgentRow {
        id: AgentId(model.id),
        boot: BootId(model.boot),
        last_boot: model.last_boot.map(BootId),
        state: from_name("agent.state", &model.state)?,
        drained: model.drained,
        devices: from_json("agent.devices", &model.devices)?,
        weights: from_json("agent.weights", &model.weights)?,
        health: from_json("agent.health", &model.health)?,
        name: model.name,
        version: model.version,
        ffmpeg: model.ffmpeg,
        group_max: model.group_max as u32,
    })
}

pub fn account_model(row: &AccountRow) -> account::Model {
    account::Model {
        id: row.id.0,
        parent: row.parent.map(|id| id.0),
        level: name(&row.level),
        name: row.name.clone(),
        created_at_ms: row.created_at_ms,
        weight: row.weight as i32,
    }
}

pub fn account_row(model: account::Model) -> Result<AccountRow, StoreError> {
    Ok(AccountRow {
        id: AccountId(model.id),
        parent: model.parent.map(AccountId),
        level: from_name("account.level", &model.level)?,
        name: model.name,
        created_at_ms: model.created_at_ms,
        weight: model.weight.max(1) as u32,
    })
}

pub fn usage_model(account: AccountId, usage: Decayed) -> usage::Model {
    usage::Model {
        account: account.0,
        exponent: usage.exponent,
        mantissa_bits: usage.mantissa.to_bits().cast_signed(),
    }
}

pub fn usage_row(model: &usage::Model) -> (AccountId, Decayed) {
    let usage = Decayed {
        exponent: model.exponent,
        mantissa: f64::from_bits(model.mantissa_bits.cast_unsigned()),
    };
    (AccountId(model.account), usage)
}

pub fn key_model(row: &KeyRow) -> api_key::Model {
    api_key::Model {
        hash: row.hash.clone(),
        project: row.project.0,
        name: row.name.clone(),
        created_at_ms: row.created_at_ms,
        revoked_at_ms: row.revoked_at_ms,
        admin: row.admin,
        priority_max: name(&row.priority_max),
    }
}

pub fn key_row(model: api_key::Model) -> Result<KeyRow, StoreError> {
    Ok(KeyRow {
        priority_max: from_name("api_key.priority_max", &model.priority_max)?,
        hash: model.hash,
        project: AccountId(model.project),
        name: model.name,
        created_at_ms: model.created_at_ms,
        revoked_at_ms: model.revoked_at_ms,
        admin: model.admin,
    })
}

pub fn dedupe_model(row: &DedupeRow) -> dedupe::Model {
    dedupe::Model {
        fingerprint: row.fingerprint.clone(),
        jobs: json(&row.jobs),
        errors: row.errors.into(),
        expires_at_ms: row.expires_at_ms,
    }
}

pub fn dedupe_row(model: dedupe::Model) -> Result<DedupeRow, StoreError> {
    Ok(DedupeRow {
        jobs: from_json("dedupe.jobs", &model.jobs)?,
        fingerprint: model.fingerprint,
        errors: model.errors as u32,
        expires_at_ms: model.expires_at_ms,
    })
}

pub fn idempotency_model(row: &IdempotencyRow) -> idempotency::Model {
    idempotency::Model {
        scope: row.scope.clone(),
        fingerprint: row.fingerprint.clone(),
        outcome: json(&row.outcome),
        expires_at_ms: row.expires_at_ms,
    }
}

pub fn idempotency_row(model: idempotency::Model) -> Result<IdempotencyRow, StoreError> {
    Ok(IdempotencyRow {
        outcome: from_json("idempotency.outcome", &model.outcome)?,
        scope: model.scope,
        fingerprint: model.fingerprint,
        expires_at_ms: model.expires_at_ms,
    })
}

pub fn event_model(row: &EventRow) -> event::Model {
    event::Model {
        seq: row.seq,
        at_ms: row.at_ms,
        term: row.term.cast_signed(),
        kind: row.kind.into(),
        payload: text(&row.payload),
    }
}

/// An event is undelivered from the start; webhooks will clear `next_at_ms`.
pub fn outbox_model(row: &OutboxRow) -> outbox::Model {
    outbox::Model {
        seq: row.seq,
        kind: row.kind.clone(),
        job: row.job.0,
        project: row.project.0,
        at_ms: row.at_ms,
        next_at_ms: Some(row.at_ms),
    }
}

/// How an artefact that a task reads is named among the references.
const INPUT: &str = "input";

/// Rows that keep the files of a write as long as the job.
pub fn artefact_models(write: &Write) -> Vec<artefact_ref::Model> {
    match write {
        Write::KeepArtefacts {
            job,
            task,
            artefacts,
        } => artefacts
            .iter()
            .map(|artefact| artefact_ref::Model {
                job: job.0,
                task: task.0,
                variant: artefact.variant.name().into(),
                digest: artefact.digest.to_string(),
                bytes: artefact.bytes.cast_signed(),
            })
            .collect(),
        Write::KeepInputs { job, task, digests } => digests
            .iter()
            .map(|digest| artefact_ref::Model {
                job: job.0,
                task: task.0,
                variant: INPUT.into(),
                digest: digest.to_string(),
                bytes: 0,
            })
            .collect(),
        other => unreachable!("{other:?} keeps nothing"),
    }
}
