//! Why a task that has not ended does not run: the first reason that holds, without SQL.

use std::collections::{BTreeMap, BTreeSet};

use schemas::{AccountId, JobId, TaskId, task::TaskSpec};

use super::{
    Farm, class_name,
    explain::Waiting,
    packed::Whole,
    placement::{Misfit, can},
    queue::{Place, Verdict},
    rows::{AgentRow, AgentState, Band, Paused, TaskRow, TaskState},
};

impl Farm {
    /// `None` for a task that runs or has ended.
    pub fn waiting(&self, id: TaskId) -> Option<Waiting> {
        let row = &self.tasks.get(&id)?.row;
        let waits = matches!(
            row.state,
            TaskState::Blocked { .. } | TaskState::Ready { .. }
        );
        if let Some(Paused { by, since_ms }) = &self.job_at(row.job).row.paused
            && waits
        {
            return Some(Waiting::JobPaused {
                by: by.clone(),
                since_ms: *since_ms,
            });
        }
        match &row.state {
            TaskState::Blocked { inputs_left } => Some(Waiting::InputsPending {
                tasks_left: *inputs_left,
            }),
            TaskState::Ready {
                eligible_at_ms,
                backoff,
            } if !self.could_start(id) => {
                let starts_ms = self.starts_ms(id, *eligible_at_ms);
                Some(match backoff {
                    Some(class) if starts_ms == *eligible_at_ms => Waiting::RetryBackoff {
                        cause: class_name(*class).into(),
                        until_ms: starts_ms,
                    },
                    _ => self.starts_later(row.job, starts_ms),
                })
            }
            TaskState::Ready { .. } => Some(self.waiting_for_device(row)),
            _ => None,
        }
    }

    /// Why a job that has not begun waits; `None` when it does not.
    pub fn job_reason(&self, id: JobId) -> Option<Waiting> {
        match self.jobs.get(&id) {
            Some(job) => self.waiting(*job.tasks.first()?),
            None => self.packed_waiting(&self.packed(id)?),
        }
    }

    /// Why a packed job waits.
    pub(super) fn packed_waiting(&self, whole: &Whole) -> Option<Waiting> {
        let ahead = self.own_ahead_of_packed(whole);
        Some(self.waiting_behind(self.head_of(whole.job.id)?, ahead))
    }

    pub(super) fn own_ahead_of_packed(&self, whole: &Whole) -> u64 {
        let (job, Some(first)) = (&whole.job, whole.tasks.first()) else {
            return 0;
        };
        let place = Place::new(
            first.kind(),
            job.state,
            job.rank,
            job.seq,
            first.index,
            first.id,
        );
        self.own_ahead(job.account(), job.band, &place)
    }

    /// Why a job waits behind the first of its line: for the same reason, but at least behind that.
    pub(super) fn waiting_behind(&self, head: &TaskRow, tasks_ahead: u64) -> Waiting {
        match self.waiting(head.id) {
            Some(why) if !matches!(why.code(), "devices_busy" | "own_queue" | "handover") => why,
            _ => Waiting::OwnQueue { tasks_ahead },
        }
    }

    pub(super) fn own_ahead(&self, account: AccountId, band: Band, place: &Place) -> u64 {
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
            return match nodes.iter().any(|node| can(node, row).is_ok()) {
                true => Waiting::NoCapableDevice {
                    needs: "a device on the node that has all else for it".into(),
                },
                false => no_group(row, &nodes).unwrap_or_else(|| missing(row)),
            };
        }
        let room = self.room_for(row);
        let roomy = |node: &&AgentRow| node.devices.iter().any(|d| room.holds(d));
        if !capable.iter().any(roomy) {
            let devices = capable.iter().flat_map(|node| &node.devices);
            let enough = devices.map(|device| room.device_bytes(&device.class));
            let bytes = enough.min().unwrap_or(0);
            let needs = format!("a device with {} MiB of memory", bytes.div_ceil(1 << 20));
            return Waiting::NoCapableDevice { needs };
        }
        let online: Vec<&AgentRow> = capable
            .iter()
            .copied()
            .filter(|node| self.takes(node, row))
            .collect();
        if online.is_empty() {
            return closed(&capable);
        }
        if let Some(nodes) = self.only_avoided_are_free(row, &online) {
            return Waiting::NodesAvoided { nodes };
        }
        self.waiting_in_line(row, &online)
            .unwrap_or_else(|| Waiting::DevicesBusy {
                devices: count_devices(&online),
                earliest_ms: self.earliest_free_ms(row, &online),
            })
    }

    /// Who is served before it, from the most general reason on.
    fn waiting_in_line(&self, row: &TaskRow, online: &[&AgentRow]) -> Option<Waiting> {
        if let Some(capped) = self.capped(row.id) {
            return Some(capped);
        }
        if let Some(limit) = self.over_capacity_everywhere(row) {
            return Some(limit);
        }
        if let Some(held) = self.held_by_groups(row, online) {
            return Some(held);
        }
        if let Some((agent, device)) = self.freed_for(row.id) {
            return Some(Waiting::Handover {
                node: self.agent_name(agent),
                device,
            });
        }
        let entry = self.entry(row.id, self.now);
        if let Some(behind) = self.band_behind(entry.band, online) {
            return Some(behind);
        }
        let first = self.first_served(entry.band, online, Some(row.id))?;
        if let Some((own, leading)) = self.rivals(entry.account, self.account_of(first)) {
            return Some(Waiting::FairShare {
                own_s: self.used_by_weight_s(own),
                leading_s: self.used_by_weight_s(leading),
            });
        }
        match self.own_ahead(entry.account, entry.band, &entry.place) {
            0 => None,
            tasks_ahead => Some(Waiting::OwnQueue { tasks_ahead }),
        }
    }

    /// What claims and the size of its own group have to do with it.
    fn held_by_groups(&self, row: &TaskRow, online: &[&AgentRow]) -> Option<Waiting> {
        if let Some(claim) = self.claims.placed.get(&row.id) {
            return Some(Waiting::ClaimPending {
                node: self.agent_name(claim.agent),
                starts_ms: claim.starts_ms,
            });
        }
        if row.devices() == 1 && self.claims.placed.is_empty() {
            return None;
        }
        let room = self.room_for(row);
        let (mut free, mut claimed, mut largest) = (0, 0, 0);
        for node in online {
            let mut here: BTreeMap<&str, u32> = BTreeMap::new();
            for device in node.open_devices().filter(|device| room.holds(device)) {
                let at = (node.id, device.index);
                match self.busy.contains_key(&at) || self.is_kept(at) {
                    true => {}
                    false if self.is_claimed_against(at, row.id) => claimed += 1,
                    false => *here.entry(&device.class).or_default() += 1,
                }
            }
            free += here.values().sum::<u32>();
            largest = here.into_values().max().unwrap_or(0).max(largest);
        }
        let short = largest < row.devices();
        match (claimed, free >= row.devices()) {
            (1.., _) if short => Some(Waiting::ClaimedByOther { devices: claimed }),
            (0, true) if short => Some(Waiting::GroupFragmented { largest }),
            _ => None,
        }
    }

    /// No pool that could do the task has a device that its accounts may use.
    fn over_capacity_everywhere(&self, row: &TaskRow) -> Option<Waiting> {
        let room = self.room_for(row);
        let capable = self.agents.values().map(|agent| &agent.row);
        let capable =
            capable.filter(|node| node.state == AgentState::Online && can(node, row).is_ok());
        let pools: BTreeSet<&str> = capable
            .flat_map(|node| &node.devices)
            .filter(|device| room.holds(device))
            .map(|device| device.class.as_str())
            .collect();
        let mut limits = pools
            .into_iter()
            .map(|pool| self.over_capacity(row.id, pool));
        let first = limits.next()??;
        limits.all(|limit| limit.is_some()).then_some(first)
    }

    /// Work of earlier bands waits that one of these nodes could do; what they cannot do is in nobody's way.
    fn band_behind(&self, band: Band, online: &[&AgentRow]) -> Option<Waiting> {
        let ahead = |above: Band| match above < band {
            true if self.first_served(above, online, None).is_some() => {
                self.queue.len_of(above) as u64
            }
            _ => 0,
        };
        let (urgent, standard) = (ahead(Band::Urgent), ahead(Band::Standard));
        (urgent + standard > 0).then_some(Waiting::BandBehind { urgent, standard })
    }

    /// The first task of a band that one of these nodes may do; none if that is `asked` itself.
    fn first_served(
        &self,
        band: Band,
        online: &[&AgentRow],
        asked: Option<TaskId>,
    ) -> Option<TaskId> {
        let found = self.queue.find(None, [band; 3], |place| {
            let row = &self.task_at(place.task).row;
            let room = self.room_for(row);
            let holds = |node: &AgentRow| node.devices.iter().any(|d| room.holds(d));
            match online
                .iter()
                .any(|node| can(node, row).is_ok() && holds(node))
            {
                false if row.memory_bytes.is_some() => Verdict::Next,
                false => Verdict::SkipClass,
                true if self.capped(place.task).is_some() => Verdict::SkipAccount,
                true => Verdict::Take,
            }
        });
        found
            .map(|found| found.task)
            .filter(|task| Some(*task) != asked)
    }

    /// The first two accounts, from the top, in which the ways to these two differ.
    fn rivals(&self, own: AccountId, leading: AccountId) -> Option<(AccountId, AccountId)> {
        let (own, leading) = (self.path(own), self.path(leading));
        let mut pairs = own.into_iter().rev().zip(leading.into_iter().rev());
        pairs.find(|(own, leading)| own != leading)
    }

    /// When the first devices of these nodes that can take the task are expected to be free; they may be so already.
    fn earliest_free_ms(&self, row: &TaskRow, online: &[&AgentRow]) -> Option<i64> {
        let left = online
            .iter()
            .filter_map(|node| self.group_free_in_ms(node, row));
        left.min().map(|left_ms| self.now + left_ms)
    }

    /// Device seconds that still count for the account, over its weight.
    fn used_by_weight_s(&self, account: AccountId) -> u64 {
        let weight = self.accounts.get(&account).map_or(1, |row| row.weight);
        self.used_s(account) / u64::from(weight.max(1))
    }

    /// Names of free nodes where it failed, if no other capable node is free.
    fn only_avoided_are_free(&self, row: &TaskRow, online: &[&AgentRow]) -> Option<Vec<String>> {
        let free = |node: &&&AgentRow| self.busy_devices(node.id) < node.devices.len();
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

/// Nodes have the weights, and none can run one shot on so many devices.
fn no_group(row: &TaskRow, nodes: &[&AgentRow]) -> Option<Waiting> {
    let short = nodes
        .iter()
        .filter(|node| can(node, row) == Err(Misfit::GroupSize));
    let largest = short.map(|node| node.largest_group()).max()?;
    let needs = format!(
        "a node that runs one shot on {} devices at once; the largest group size is {largest}",
        row.devices()
    );
    Some(Waiting::NoCapableDevice { needs })
}

/// Nodes that could, and none takes it: in quarantine if any of them is open but for that.
fn closed(capable: &[&AgentRow]) -> Waiting {
    let open = capable.iter().filter(|node| node.is_open());
    let out: Vec<_> = open
        .flat_map(|node| node.health.quarantined.values())
        .collect();
    match out.is_empty() {
        true => Waiting::DevicesDraining {
            devices: count_devices(capable),
        },
        false => Waiting::DevicesQuarantined {
            devices: out.len() as u32,
            first_return_ms: out.iter().filter_map(|q| q.probe_at_ms).min(),
        },
    }
}

fn count_devices(nodes: &[&AgentRow]) -> u32 {
    nodes.iter().map(|node| node.devices.len() as u32).sum()
}
