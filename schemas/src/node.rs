//! Nodes and what operators should know, as `/v1/organization/nodes` shows them.

use serde::{Deserialize, Serialize};

use crate::agent::DeviceSample;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeList {
    pub object: String,
    pub data: Vec<Node>,
}

/// One machine of the farm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Node {
    pub object: String,
    pub name: String,
    /// `online`, `cordoned`, `quarantined`, `draining`, `unresponsive` or `gone`.
    pub state: String,
    /// Unix seconds of its last word.
    pub seen_at: i64,
    pub version: String,
    /// Why it gets no new work, when an operator said so.
    pub cordon: Option<String>,
    pub weights: Vec<String>,
    pub ffmpeg: Option<String>,
    pub devices: Vec<NodeDevice>,
    /// The last reading of every device that it watches.
    pub samples: Vec<DeviceSample>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeDevice {
    pub index: u32,
    pub class: String,
    pub memory_bytes: u64,
    /// `free`, `busy`, `claimed`, `quarantined` or `absent`.
    pub state: String,
    /// The task that it works on.
    pub task: Option<String>,
    pub quarantine: Option<NodeQuarantine>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeQuarantine {
    /// `operator`, `xid`, `ecc`, `failures` or `probe`.
    pub cause: String,
    pub why: String,
    /// Unix seconds.
    pub since: i64,
    pub probes_failed: u32,
    /// Unix seconds; absent when only an operator releases it.
    pub probe_at: Option<i64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemoryList {
    pub object: String,
    pub data: Vec<MemoryNeed>,
}

/// What is known of the memory that shots of one size take of a device of one class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryNeed {
    pub object: String,
    pub weights: String,
    pub width: u32,
    pub height: u32,
    /// Most frames of such a shot.
    pub frames_max: u32,
    pub class: String,
    /// Devices that work on it together; bytes are those of each.
    pub devices: u32,
    /// What the engine foretold last.
    pub foretold_bytes: Option<u64>,
    /// Peaks that were seen, of the last 32.
    pub peaks: u32,
    /// Their 95th percentile, once there are 8.
    pub peak_p95_bytes: Option<u64>,
    /// Memory of the smallest device that has done such work.
    pub proven_bytes: Option<u64>,
    /// Memory that a device must have at least.
    pub device_bytes: u64,
}

/// The answer to an order about a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeOrdered {
    pub object: String,
    /// False when it was so before.
    pub changed: bool,
    pub node: Node,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NoticeList {
    pub object: String,
    /// Newest first.
    pub data: Vec<Notice>,
}

/// Something that an operator did or should know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Notice {
    pub object: String,
    pub seq: i64,
    /// Unix seconds.
    pub created_at: i64,
    /// `poison`, `quarantined`, `probe_failed`, `drain` …
    pub kind: String,
    /// Name of the key that ordered it; absent when the farm did it itself.
    pub actor: Option<String>,
    /// A node's name, or a task.
    pub subject: String,
    pub detail: serde_json::Value,
}
