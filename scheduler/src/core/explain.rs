//! Why a task waits, or a device gets nothing: one code, and what it is because of.

use serde::Serialize;

/// Exactly one reason, the first that holds in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Waiting {
    InputsPending {
        tasks_left: u32,
    },
    /// It may not start before this instant: its owner said so, or a cheaper hour of its window comes.
    StartLater {
        at_ms: i64,
    },
    /// It may start only in its window.
    WindowClosed {
        window: String,
        opens_ms: i64,
    },
    RetryBackoff {
        cause: String,
        until_ms: i64,
    },
    ModelMissing {
        weights: String,
    },
    NoCapableDevice {
        needs: String,
    },
    NodesAvoided {
        nodes: Vec<String>,
    },
    DevicesDraining {
        devices: u32,
    },
    /// The budget of an account for this period is used up.
    BudgetStopped {
        account: String,
        until_ms: i64,
    },
    /// An account uses all devices of a pool that it may, its own and borrowed ones.
    BorrowLimit {
        account: String,
        used: u32,
        of: u32,
    },
    /// An account has as many jobs or devices at once as it may.
    ConcurrencyCap {
        account: String,
        used: u32,
        of: u32,
    },
    /// A running task gives its device up for it.
    Handover,
    /// More urgent work waits.
    BandBehind {
        tasks_ahead: u64,
    },
    /// Another account has had less of the farm by its weight; seconds of a device.
    FairShare {
        own_s: u64,
        leading_s: u64,
    },
    OwnQueue {
        tasks_ahead: u64,
    },
    DevicesBusy {
        devices: u32,
    },
    /// Only told to a polling device: nothing waits that it could do.
    NothingWaits,
    /// Only told to a polling device: its agent drains.
    AgentDrains,
}

impl Waiting {
    /// The code as the wire and the metrics name it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InputsPending { .. } => "inputs_pending",
            Self::StartLater { .. } => "start_later",
            Self::WindowClosed { .. } => "window_closed",
            Self::RetryBackoff { .. } => "retry_backoff",
            Self::ModelMissing { .. } => "model_missing",
            Self::NoCapableDevice { .. } => "no_capable_device",
            Self::NodesAvoided { .. } => "nodes_avoided",
            Self::DevicesDraining { .. } => "devices_draining",
            Self::BudgetStopped { .. } => "budget_stopped",
            Self::BorrowLimit { .. } => "borrow_limit",
            Self::ConcurrencyCap { .. } => "concurrency_cap",
            Self::Handover => "handover",
            Self::BandBehind { .. } => "band_behind",
            Self::FairShare { .. } => "fair_share",
            Self::OwnQueue { .. } => "own_queue",
            Self::DevicesBusy { .. } => "devices_busy",
            Self::NothingWaits => "nothing_waits",
            Self::AgentDrains => "agent_drains",
        }
    }
}
