//! Why a task that has not ended does not run: the first reason that holds, without SQL.

use schemas::{AccountId, TaskId, task::TaskSpec};

use super::{
    Farm, class_name,
    explain::Waiting,
    packed::Whole,
    placement::can,
    queue::Place,
    rows::{AgentRow, AgentState, Band, TaskRow, TaskState},
};

impl Farm {
    /// `None` for a task that runs or has ended.
    pub fn waiting(&self, id: TaskId) -> Option<Waiting> {
        let row = &self.tasks.get(&id)?.row;
        match &row.state {
            TaskState::Blocked { inputs_left } => Some(Waiting::InputsPending {
                tasks_left: *inputs_left,
            }),
            TaskState::Ready {
                eligible_at_ms,
                backoff: None,
            } if *eligible_at_ms > self.now => Some(Waiting::WindowClosed {
                window: self.job_at(row.job).row.window.clone().unwrap_or_default(),
                opens_ms: *eligible_at_ms,
            }),
            TaskState::Ready {
                eligible_at_ms,
                backoff,
            } if *eligible_at_ms > self.now => Some(Waiting::RetryBackoff {
                cause: backoff.map_or("none", class_name).into(),
                until_ms: *eligible_at_ms,
            }),
            TaskState::Ready { .. } => Some(self.waiting_for_device(row)),
            _ => None,
        }
    }

    /// Why a packed job waits.
    pub(super) fn packed_waiting(&self, whole: &Whole) -> Option<Waiting> {
        let (job, first) = (&whole.job, whole.tasks.first()?);
        let place = Place::new(
            first.kind(),
            job.state,
            job.rank,
            job.seq,
            first.index,
            first.id,
        );
        let ahead = self.own_ahead(job.project, job.band, &place);
        Some(self.waiting_behind(self.head_of(job.id)?, ahead))
    }

    /// Why a job waits behind the first of its line: for the same reason, but at least behind that.
    pub(super) fn waiting_behind(&self, head: &TaskRow, tasks_ahead: u64) -> Waiting {
        let why = self.waiting_for_device(head);
        match why.code() {
            "devices_busy" | "own_queue" | "handover" => Waiting::OwnQueue { tasks_ahead },
            _ => why,
        }
    }

    fn own_ahead(&self, account: AccountId, band: Band, place: &Place) -> u64 {
        self.queue.own_ahead(account, band, place) + self.packed_ahead(account, band, place)
    }

    fn waiting_for_device(&self, row: &TaskRow) -> Waiting {
        let known = |node: &&AgentRow| node.state != AgentState::Gone;
        let nodes: Vec<&AgentRow> = self.agents.values().map(|a| &a.row).filter(known).collect();
        let capable: Vec<&AgentRow> = nodes
            .iter()
            .copied()
            .filter(|node| can(node, row).is_ok() && !node.devices.is_empty())
            .collect();
        if capable.is_empty() {
            return missing(row);
        }
        let online: Vec<&AgentRow> = capable
            .iter()
            .copied()
            .filter(|node| node.state == AgentState::Online)
            .collect();
        if online.is_empty() {
            return Waiting::DevicesDraining {
                devices: count_devices(&capable),
            };
        }
        if let Some(nodes) = self.only_avoided_are_free(row, &online) {
            return Waiting::NodesAvoided { nodes };
        }
        self.waiting_in_line(row).unwrap_or(Waiting::DevicesBusy {
            devices: count_devices(&online),
        })
    }

    /// Who is served before it, from the most general reason on.
    fn waiting_in_line(&self, row: &TaskRow) -> Option<Waiting> {
        if let Some(capped) = self.capped(row.id) {
            return Some(capped);
        }
        if self.is_served(row.id) {
            return Some(Waiting::Handover);
        }
        let entry = self.entry(row.id, self.now);
        let above = Band::ALL.into_iter().filter(|band| *band < entry.band);
        let tasks_ahead: usize = above.map(|band| self.queue.len_of(band)).sum();
        if tasks_ahead > 0 {
            return Some(Waiting::BandBehind {
                tasks_ahead: tasks_ahead as u64,
            });
        }
        if let Some(leading) = self.queue.leads(entry.account, entry.band) {
            return Some(Waiting::FairShare {
                own_s: self.used_s(entry.account),
                leading_s: self.used_s(leading),
            });
        }
        match self.own_ahead(entry.account, entry.band, &entry.place) {
            0 => None,
            tasks_ahead => Some(Waiting::OwnQueue { tasks_ahead }),
        }
    }

    /// Names of free nodes where it failed, if no other capable node is free.
    fn only_avoided_are_free(&self, row: &TaskRow, online: &[&AgentRow]) -> Option<Vec<String>> {
        let free = |node: &&&AgentRow| {
            let busy = self.leases_of(node.id).len();
            busy < node.devices.len()
        };
        let (avoided, others): (Vec<&AgentRow>, Vec<&AgentRow>) = online
            .iter()
            .filter(free)
            .copied()
            .partition(|node| row.failed_on.contains(&node.id));
        let names = avoided
            .iter()
            .map(|node| self.agent_name(node.id))
            .collect();
        (!avoided.is_empty() && others.is_empty()).then_some(names)
    }
}

fn missing(row: &TaskRow) -> Waiting {
    match &*row.spec {
        TaskSpec::Render(spec) => Waiting::ModelMissing {
            weights: spec.weights.clone(),
        },
        TaskSpec::Assemble(_) => Waiting::NoCapableDevice {
            needs: "a node with FFmpeg".into(),
        },
    }
}

fn count_devices(nodes: &[&AgentRow]) -> u32 {
    nodes.iter().map(|node| node.devices.len() as u32).sum()
}
