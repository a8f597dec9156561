//! What an operator sees of the nodes and orders about them, and what an operator should know.

use schemas::{AgentId, TaskId, agent::DeviceSample};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Farm,
    command::{Refusal, Reply},
    health::{Cause, Cordon, Quarantine},
    quota::Ordered,
    rows::{AgentRow, AgentState, NoticeRow},
    write::Write,
};

/// An operator's order about one node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeOrder {
    /// Name of the key that asks.
    pub actor: String,
    /// Name of the node.
    pub node: String,
    pub change: NodeChange,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum NodeChange {
    /// Take no new work, give back or end what runs, then leave.
    Drain,
    /// Take no new work; what runs goes on.
    Cordon {
        why: String,
    },
    Uncordon,
    /// Take one device out of work, or all; only an operator brings it back.
    Quarantine {
        device: Option<u32>,
        why: String,
    },
    /// Bring one device back, or all.
    Release {
        device: Option<u32>,
    },
}

impl NodeChange {
    /// As paths, commands and notices name it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Cordon { .. } => "cordon",
            Self::Uncordon => "uncordon",
            Self::Quarantine { .. } => "quarantine",
            Self::Release { .. } => "release",
        }
    }

    fn detail(&self) -> Value {
        match self {
            Self::Drain | Self::Uncordon => json!({}),
            Self::Cordon { why } => json!({"why": why}),
            Self::Quarantine { device, why } => json!({"device": device, "why": why}),
            Self::Release { device } => json!({"device": device}),
        }
    }
}

/// A node as an operator sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    pub row: AgentRow,
    /// Unix milliseconds of its last word; that of the start of this leader, if it has said nothing since.
    pub seen_at_ms: i64,
    pub devices: Vec<DeviceView>,
    /// Last reading of every device that it watches, also of those that it does not work on.
    pub samples: Vec<DeviceSample>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceView {
    pub index: u32,
    /// `free`, `busy`, `claimed`, `quarantined` or `absent`.
    pub state: &'static str,
    pub task: Option<TaskId>,
    pub quarantine: Option<Quarantine>,
}

impl Farm {
    /// All nodes, by name.
    pub fn nodes(&self) -> Vec<NodeView> {
        let mut nodes: Vec<NodeView> = self
            .agents
            .values()
            .map(|agent| NodeView {
                row: agent.row.clone(),
                seen_at_ms: agent.seen_at_ms,
                devices: self.device_views(&agent.row),
                samples: agent.samples.clone(),
            })
            .collect();
        nodes.sort_by(|a, b| a.row.name.cmp(&b.row.name));
        nodes
    }

    fn device_views(&self, row: &AgentRow) -> Vec<DeviceView> {
        let view = |index: u32| {
            let at = (row.id, index);
            let task = self.busy.get(&at).copied();
            let quarantine = row.health.quarantined.get(&index).cloned();
            let state = match (&quarantine, task) {
                (Some(_), _) => "quarantined",
                (None, Some(_)) => "busy",
                (None, None) if row.state != AgentState::Online => "absent",
                (None, None) if self.is_kept(at) || self.claim_on(at).is_some() => "claimed",
                (None, None) => "free",
            };
            DeviceView {
                index,
                state,
                task,
                quarantine,
            }
        };
        row.devices
            .iter()
            .map(|device| view(device.index))
            .collect()
    }

    pub(super) fn order_node(&mut self, order: NodeOrder) -> Reply {
        Reply::Ordered(self.obey_operator(order))
    }

    fn obey_operator(&mut self, order: NodeOrder) -> Result<Ordered, Refusal> {
        let id = super::agent::agent_id(&order.node);
        let Some(row) = self.agents.get(&id).map(|agent| &agent.row) else {
            return Err(Refusal::UnknownNode(order.node));
        };
        let leaves = matches!(
            order.change,
            NodeChange::Drain | NodeChange::Quarantine { .. }
        );
        if row.state == AgentState::Gone && leaves {
            return Err(Refusal::NodeGone);
        }
        let devices = named_devices(row, &order.change)?;
        let done = match &order.change {
            NodeChange::Drain => self.drain_now(id),
            NodeChange::Cordon { why } => self.cordon(id, Some(why.clone())),
            NodeChange::Uncordon => self.cordon(id, None),
            NodeChange::Quarantine { why, .. } => {
                let mut done = false;
                for device in devices {
                    done |= !self.is_quarantined(id, device);
                    self.quarantine(id, device, Cause::Operator, why.clone());
                }
                done
            }
            NodeChange::Release { .. } => {
                let mut done = false;
                for device in devices {
                    if self.is_quarantined(id, device) {
                        self.release_device(id, device);
                        done = true;
                    }
                }
                done
            }
        };
        match done {
            true => {
                self.note(
                    order.change.name(),
                    Some(order.actor),
                    id,
                    order.change.detail(),
                );
                Ok(Ordered::Now)
            }
            false => Ok(Ordered::Before),
        }
    }

    fn is_quarantined(&self, agent: AgentId, device: u32) -> bool {
        self.quarantined.contains(&(agent, device))
    }

    fn drain_now(&mut self, id: AgentId) -> bool {
        let was = self.agents[&id].row.drained;
        self.drain(id, None);
        !was
    }

    fn cordon(&mut self, id: AgentId, why: Option<String>) -> bool {
        let cordon = why.map(|why| Cordon {
            since_ms: self.now,
            why,
        });
        let was = &self.agents[&id].row.health.cordon;
        if was.is_some() == cordon.is_some() {
            return false;
        }
        self.change_agent(id, |row| row.health.cordon = cordon);
        true
    }

    /// Keeps a fact for the operator; `actor` is absent when the farm did it itself.
    pub(super) fn note(
        &mut self,
        kind: &'static str,
        actor: Option<String>,
        agent: AgentId,
        detail: Value,
    ) {
        let subject = self.agent_name(agent);
        self.note_about(kind, actor, subject, detail);
    }

    pub(super) fn note_about(
        &mut self,
        kind: &'static str,
        actor: Option<String>,
        subject: String,
        detail: Value,
    ) {
        let row = NoticeRow {
            seq: self.next_seq(),
            at_ms: self.now,
            kind: kind.into(),
            actor,
            subject,
            detail,
        };
        self.writes.push(Write::InsertNotice(row));
    }
}

/// The devices that an order means, all of them unless it names one.
fn named_devices(row: &AgentRow, change: &NodeChange) -> Result<Vec<u32>, Refusal> {
    let (NodeChange::Quarantine { device, .. } | NodeChange::Release { device }) = change else {
        return Ok(Vec::new());
    };
    let known = row.devices.iter().map(|device| device.index);
    match device {
        None => Ok(known
            .chain(row.health.quarantined.keys().copied())
            .collect()),
        Some(index) if row.health.quarantined.contains_key(index) => Ok(vec![*index]),
        Some(index) if row.device(*index).is_some() => Ok(vec![*index]),
        Some(index) => Err(Refusal::Invalid(format!(
            "node {} has no device {index}",
            row.name
        ))),
    }
}
