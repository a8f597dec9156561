//! What keeps work from a device: a cordon of its node, or a quarantine of its own.
//!
//! ```text
//! open --Xid, ECC, failures, operator--> quarantined --probe passed, operator--> open
//!                                          ^  | probe failed: the next one later, then only an operator
//!                                          '--'
//! ```
//! A hardware signal ends what runs on the device and what it saved shortly before. Failures of tasks only count
//! while other devices of the class do better: where many fail at once, the fault is in the work or in the farm.

use std::collections::{BTreeMap, BTreeSet};

use schemas::{
    AccountId, AgentId, TaskId,
    agent::{Device, DeviceSample, FailureClass},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Farm,
    limits::{
        PROBE_DELAYS_MS, QUARANTINE_PERCENT, QUARANTINE_SPAN_MS, SUSPECT_IN_A_ROW, SUSPECT_MS,
        SUSPECT_PROJECTS, SUSPECT_SPAN_MS,
    },
    rows::{AgentRow, AgentState, CheckpointRow, TaskState},
    task::YieldWhy,
    write::Write,
};

/// Xid events after which a device cannot be trusted. 13, 31, 43 and 45 are usually the application's:
/// they only show as failures of its tasks.
pub const XIDS_OF_HARDWARE: [u64; 9] = [48, 63, 64, 74, 79, 94, 95, 119, 120];
/// Failures that a device remembers for one span.
const SUSPECT_REMEMBERED: usize = 32;

/// What an operator or a fault keeps from a node. Outlives boots and leaders.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// The node gets no new work; what runs goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cordon: Option<Cordon>,
    /// By device index.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub quarantined: BTreeMap<u32, Quarantine>,
    /// Uncorrected memory errors of each device that were seen already.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ecc_seen: BTreeMap<u32, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cordon {
    pub since_ms: i64,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    pub since_ms: i64,
    pub cause: Cause,
    /// For people.
    pub why: String,
    pub probes_failed: u32,
    /// When its next probe may run; absent: only an operator releases it.
    pub probe_at_ms: Option<i64>,
}

/// Who or what put a device into quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Operator,
    /// An Xid of the hardware.
    Xid,
    /// An uncorrected memory error.
    Ecc,
    /// Tasks failed on it.
    Failures,
    /// A probe that should have passed did not.
    Probe,
}

impl Cause {
    pub fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Xid => "xid",
            Self::Ecc => "ecc",
            Self::Failures => "failures",
            Self::Probe => "probe",
        }
    }

    /// Whether the device itself said that it is broken.
    fn is_hardware(self) -> bool {
        matches!(self, Self::Xid | Self::Ecc)
    }
}

/// Failures of tasks on one device; only this leader knows them.
#[derive(Clone, Debug, Default)]
pub(super) struct Suspicion {
    /// Of the last span, the newest last.
    failed: Vec<(i64, AccountId)>,
    /// Different tasks that failed without a success between them.
    in_a_row: BTreeSet<TaskId>,
}

impl AgentRow {
    /// Whether the node takes new work on any of its devices.
    pub(super) fn is_open(&self) -> bool {
        self.state == AgentState::Online && !self.drained && self.health.cordon.is_none()
    }

    /// Devices that take new work.
    pub(super) fn open_devices(&self) -> impl Iterator<Item = &Device> {
        let open = self.is_open();
        let devices = self.devices.iter().filter(move |_| open);
        devices.filter(|device| !self.health.quarantined.contains_key(&device.index))
    }

    pub(super) fn is_open_on(&self, device: u32) -> bool {
        self.open_devices().any(|open| open.index == device)
    }

    /// The one word for what it is: the strongest of its state and flags.
    pub fn condition(&self) -> &'static str {
        let quarantined = |device: &Device| self.health.quarantined.contains_key(&device.index);
        match self.state {
            AgentState::Online if self.drained => AgentState::Draining.name(),
            AgentState::Online
                if !self.devices.is_empty() && self.devices.iter().all(quarantined) =>
            {
                "quarantined"
            }
            AgentState::Online if self.health.cordon.is_some() => "cordoned",
            state => state.name(),
        }
    }

    pub(super) fn device(&self, index: u32) -> Option<&Device> {
        self.devices.iter().find(|device| device.index == index)
    }
}

impl Farm {
    /// Judges what a node's devices said of themselves. What it says of devices that it does not have is not believed.
    pub(super) fn judge_samples(&mut self, agent: AgentId, samples: &[DeviceSample]) {
        for sample in samples {
            let row = &self.agents[&agent].row;
            if row.device(sample.index).is_none() {
                continue;
            }
            let xid = sample
                .xids
                .iter()
                .find(|xid| XIDS_OF_HARDWARE.contains(xid));
            if let Some(xid) = xid {
                let why = format!("Xid {xid}");
                self.quarantine(agent, sample.index, Cause::Xid, why);
            }
            if let Some(errors) = sample.ecc_uncorrected {
                self.judge_ecc(agent, sample.index, errors);
            }
        }
    }

    /// The counter begins anew when the driver is loaded, so only a rise tells.
    fn judge_ecc(&mut self, agent: AgentId, device: u32, errors: u64) {
        let seen = self.agents[&agent].row.health.ecc_seen.get(&device);
        let seen = seen.copied().unwrap_or(0);
        if errors == seen {
            return;
        }
        self.change_agent(agent, |row| {
            row.health.ecc_seen.insert(device, errors);
        });
        if errors > seen {
            let why = format!("{} uncorrected memory errors", errors - seen);
            self.quarantine(agent, device, Cause::Ecc, why);
        }
    }

    /// A task failed on the device; several that have nothing in common but the device tell against it.
    pub(super) fn suspect(
        &mut self,
        agent: AgentId,
        device: u32,
        task: TaskId,
        class: FailureClass,
    ) {
        let innocent = matches!(
            class,
            FailureClass::Rejected | FailureClass::Io | FailureClass::Lost
        );
        if innocent || self.agents[&agent].row.device(device).is_none() {
            return;
        }
        let project = self.job_at(self.task_at(task).row.job).row.project;
        let now = self.now;
        let suspicion = self.suspicions.entry((agent, device)).or_default();
        suspicion
            .failed
            .retain(|(at, _)| at + SUSPECT_SPAN_MS > now);
        if suspicion.failed.len() == SUSPECT_REMEMBERED {
            suspicion.failed.remove(0);
        }
        suspicion.failed.push((now, project));
        suspicion.in_a_row.insert(task);
        let projects: BTreeSet<_> = suspicion
            .failed
            .iter()
            .map(|(_, project)| project)
            .collect();
        let (projects, in_a_row) = (projects.len(), suspicion.in_a_row.len());
        if projects >= SUSPECT_PROJECTS || in_a_row >= SUSPECT_IN_A_ROW {
            let why = match in_a_row >= SUSPECT_IN_A_ROW {
                true => format!("{in_a_row} tasks in a row failed"),
                false => format!("tasks of {projects} projects failed within 30 minutes"),
            };
            self.quarantine(agent, device, Cause::Failures, why);
        }
    }

    /// A task succeeded on the device.
    pub(super) fn trust(&mut self, agent: AgentId, device: u32) {
        if let Some(suspicion) = self.suspicions.get_mut(&(agent, device)) {
            suspicion.in_a_row.clear();
        }
    }

    /// Takes a device out of work, unless it is already or too many of its class would be. Answers whether it is out.
    pub(super) fn quarantine(
        &mut self,
        agent: AgentId,
        device: u32,
        cause: Cause,
        why: String,
    ) -> bool {
        let row = &self.agents[&agent].row;
        if row.health.quarantined.contains_key(&device) {
            return true;
        }
        if cause != Cause::Operator && !self.pool_allows(agent, device, cause) {
            self.note_stopped(agent, device, cause, &why);
            return false;
        }
        let now = self.now;
        let quarantine = Quarantine {
            since_ms: now,
            cause,
            why: why.clone(),
            probes_failed: 0,
            probe_at_ms: (cause != Cause::Operator).then(|| now + PROBE_DELAYS_MS[0]),
        };
        self.change_agent(agent, |row| {
            row.health.quarantined.insert(device, quarantine);
        });
        self.suspicions.remove(&(agent, device));
        self.handovers.remove(&(agent, device));
        if cause != Cause::Operator {
            let detail = json!({"device": device, "cause": cause.name(), "why": why});
            self.note("quarantined", None, agent, detail);
        }
        self.stop_work_on(agent, device, cause, &why);
        true
    }

    fn stop_work_on(&mut self, agent: AgentId, device: u32, cause: Cause, why: &str) {
        let running = self.busy.get(&(agent, device)).copied();
        if cause.is_hardware() {
            if let Some(task) = running {
                self.fail_task(task, FailureClass::DeviceFault, why.to_string(), None);
            }
            self.distrust_device(agent);
        } else if let Some(task) = running {
            self.order_yield(task, YieldWhy::Quarantine);
        }
    }

    /// Whether one more device of the class may be taken out. One may always, but where only failures of tasks speak
    /// against it, not the last that works.
    fn pool_allows(&self, agent: AgentId, device: u32, cause: Cause) -> bool {
        let row = &self.agents[&agent].row;
        let Some(class) = row.device(device).map(|device| &device.class) else {
            return false;
        };
        let (mut all, mut out, mut lately) = (0, 0, 0);
        for other in self.agents.values().map(|agent| &agent.row) {
            if other.state == AgentState::Gone {
                continue;
            }
            for device in other.devices.iter().filter(|device| device.class == *class) {
                all += 1;
                if let Some(quarantine) = other.health.quarantined.get(&device.index) {
                    out += 1;
                    let automatic = quarantine.cause != Cause::Operator;
                    let young = quarantine.since_ms + QUARANTINE_SPAN_MS > self.now;
                    lately += usize::from(automatic && young);
                }
            }
        }
        let most = (all * QUARANTINE_PERCENT / 100).max(1);
        lately < most && (cause.is_hardware() || out + 1 < all)
    }

    /// Tells the operator once a span for each class of device.
    fn note_stopped(&mut self, agent: AgentId, device: u32, cause: Cause, why: &str) {
        let class = match self.agents[&agent].row.device(device) {
            Some(device) => device.class.clone(),
            None => return,
        };
        let told = self.stopped_told.get(&class).copied();
        if told.is_some_and(|at| at + QUARANTINE_SPAN_MS > self.now) {
            return;
        }
        self.stopped_told.insert(class.clone(), self.now);
        let detail = json!({"device": device, "class": class, "cause": cause.name(), "why": why});
        self.note("quarantine_stopped", None, agent, detail);
    }

    /// What the node saved shortly before its hardware failed may be wrong as well.
    fn distrust_device(&mut self, agent: AgentId) {
        let suspect = self.suspects(agent);
        let tasks: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.checkpoints.iter().any(&suspect))
            .map(|(id, _)| *id)
            .collect();
        for task in tasks {
            self.drop_suspect(task, agent);
        }
    }

    fn suspects(&self, agent: AgentId) -> impl Fn(&CheckpointRow) -> bool + use<> {
        let trusted_until = self.now - SUSPECT_MS;
        move |row| row.agent == agent && row.made_at_ms > trusted_until
    }

    /// Forgets checkpoints of the task that the node made lately; a task that waits then goes on from the one before.
    pub(super) fn drop_suspect(&mut self, id: TaskId, agent: AgentId) {
        let (suspect, saved_step) = (self.suspects(agent), self.task_at(id).resume_step());
        let kept = &mut self.task_at_mut(id).checkpoints;
        let dropped: Vec<u32> = kept
            .iter()
            .filter(|row| suspect(row))
            .map(|row| row.at.step)
            .collect();
        kept.retain(|row| !suspect(row));
        for step in &dropped {
            let step = *step;
            self.writes.push(Write::RemoveCheckpoint { task: id, step });
        }
        let step = self.task_at(id).resume_step();
        let waits = matches!(self.task_at(id).row.state, TaskState::Ready { .. });
        if !dropped.is_empty() && waits {
            self.change_task(id, |row| {
                row.step = step;
                // Steps that are run again are charged when they are run again.
                if step < saved_step {
                    row.used.0 = row.used.0 / i64::from(saved_step) * i64::from(step);
                }
            });
        }
    }
}
