//! Agents: hello, heartbeat, silence, drain. The drawing is at `AgentState`.

use schemas::{
    AgentId, BootId, TaskId,
    agent::{
        AgentOrder, DeviceSample, Directive, FailureClass, Heartbeat, HeartbeatAnswer, Hello,
        LeaseDirective, LeaseProgress, Phase, Welcome,
    },
};
use uuid::Uuid;

use super::{
    Farm,
    command::{Refusal, Reply},
    health::Health,
    limits::LEASE_UNNAMED_MAX,
    rows::{AgentRow, AgentState},
    task::{LiveLease, YieldWhy},
    timers::Timer,
    write::Write,
};

/// Name space of agent ids: the same node name always gives the same id.
const AGENT_IDS: Uuid = Uuid::from_u128(0x6461_696c_6965_7361_6765_6e74_6e61_6d65);

#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub row: AgentRow,
    /// Not stored: a new leader gives everyone time to be heard.
    pub seen_at_ms: i64,
    pub samples: Vec<DeviceSample>,
}

/// The id of the agent with this node name.
pub fn agent_id(name: &str) -> AgentId {
    AgentId(Uuid::new_v5(&AGENT_IDS, name.as_bytes()))
}

impl Farm {
    pub(super) fn hello(&mut self, hello: Hello) -> Result<Welcome, Refusal> {
        let id = agent_id(&hello.name);
        match self.agents.get(&id).map(|agent| agent.row.clone()) {
            None => self.join(id, hello),
            Some(old) if old.last_boot == Some(hello.boot) => return Err(Refusal::StaleBoot),
            Some(old) if old.boot != hello.boot => self.reboot(old, hello),
            Some(old) if old.state == AgentState::Gone && old.drained => {
                return Err(Refusal::StaleBoot);
            }
            Some(old) => self.greet_again(old, hello),
        }
        self.see(id);
        Ok(Welcome {
            agent: id,
            term: self.term,
            heartbeat_ms: self.limits.heartbeat_ms as u64,
            lease_ttl_ms: self.limits.lease_ttl_ms as u64,
        })
    }

    fn join(&mut self, id: AgentId, hello: Hello) {
        let row = AgentRow {
            id,
            name: hello.name,
            boot: hello.boot,
            last_boot: None,
            state: AgentState::Online,
            drained: false,
            version: hello.version,
            devices: hello.devices,
            weights: hello.weights,
            ffmpeg: hello.ffmpeg,
            group_max: hello.group_max,
            health: Health::default(),
        };
        self.writes.push(Write::InsertAgent(row.clone()));
        self.agents.insert(id, Agent::new(row, self.now));
        self.index_cpu(id);
        self.prices.forget();
        self.arm_silence(id);
        self.wake = true;
    }

    /// A new life: what the old one held is lost.
    fn reboot(&mut self, old: AgentRow, hello: Hello) {
        let id = old.id;
        for task in self.leases_of(id) {
            // A failure may have ended the job, and with it others of these leases.
            if self.task_at(task).live.is_some() {
                let why = "its agent started anew".to_string();
                self.fail_task(task, FailureClass::Lost, why, None);
            }
        }
        let (last_boot, health) = (Some(old.boot), old.health);
        self.change_agent(id, |row| {
            *row = AgentRow {
                id,
                name: row.name.clone(),
                boot: hello.boot,
                last_boot,
                state: AgentState::Online,
                drained: false,
                version: hello.version,
                devices: hello.devices,
                weights: hello.weights,
                ffmpeg: hello.ffmpeg,
                group_max: hello.group_max,
                health,
            };
        });
        self.arm_silence(id);
    }

    /// The same life again: it may have been away, or have learnt of other weights.
    fn greet_again(&mut self, old: AgentRow, hello: Hello) {
        let state = match old.state {
            AgentState::Draining => AgentState::Draining,
            _ if old.drained => AgentState::Draining,
            _ => AgentState::Online,
        };
        let new = AgentRow {
            state,
            version: hello.version,
            devices: hello.devices,
            weights: hello.weights,
            ffmpeg: hello.ffmpeg,
            group_max: hello.group_max,
            ..old.clone()
        };
        if new != old {
            self.change_agent(old.id, |row| *row = new);
        }
        self.arm_silence(old.id);
    }

    pub(super) fn change_agent(&mut self, id: AgentId, edit: impl FnOnce(&mut AgentRow)) {
        let row = &mut self
            .agents
            .get_mut(&id)
            .expect("only agents that were found are changed")
            .row;
        let was = row.state;
        edit(row);
        let row = row.clone();
        self.prices.forget();
        self.writes.push(Write::UpdateAgent { was, row });
        self.index_health(id);
        self.drop_claims();
        self.index_cpu(id);
        self.wake = true; // what fits where may have changed
    }

    fn set_agent_state(&mut self, id: AgentId, state: AgentState) {
        self.change_agent(id, |row| row.state = state);
    }

    fn see(&mut self, id: AgentId) {
        let now = self.now;
        if let Some(agent) = self.agents.get_mut(&id) {
            agent.seen_at_ms = now;
        }
    }

    fn silence_ms(&self) -> i64 {
        self.limits.silence_ms()
    }

    pub(super) fn arm_silence(&mut self, id: AgentId) {
        self.timers
            .arm(self.now + self.silence_ms(), Timer::Agent(id));
    }

    pub(super) fn leases_of(&self, id: AgentId) -> Vec<TaskId> {
        let mut leases = Vec::new();
        for (_, task) in self.busy.range((id, 0)..=(id, u32::MAX)) {
            if !leases.contains(task) {
                leases.push(*task); // a group has one lease for all of its devices
            }
        }
        leases
    }

    /// Devices of the agent on which something runs.
    pub(super) fn busy_devices(&self, id: AgentId) -> usize {
        self.busy.range((id, 0)..=(id, u32::MAX)).count()
    }

    pub(super) fn heartbeat(&mut self, beat: Heartbeat) -> HeartbeatAnswer {
        let id = beat.agent;
        let Some(agent) = self.agents.get(&id) else {
            return HeartbeatAnswer::UnknownAgent;
        };
        let AgentRow {
            boot,
            state,
            drained,
            ..
        } = agent.row;
        if boot != beat.boot || beat.term > self.term || (state == AgentState::Gone && !drained) {
            return HeartbeatAnswer::UnknownAgent;
        }
        self.see(id);
        if state == AgentState::Unresponsive {
            let back = match drained {
                true => AgentState::Draining,
                false => AgentState::Online,
            };
            self.set_agent_state(id, back);
            self.arm_silence(id);
        }
        self.judge_samples(id, &beat.devices);
        self.take_samples(id, beat.devices);
        let directives = self.direct(id, &beat.leases, drained);
        self.lose_unnamed(id, &beat.leases);
        self.leave_if_drained(id);
        HeartbeatAnswer::Beat {
            term: self.term,
            directives,
            order: match drained {
                true => AgentOrder::Drain,
                false => AgentOrder::Run,
            },
        }
    }

    /// Renews the leases that are still current and tells what to do with each.
    fn direct(
        &mut self,
        agent: AgentId,
        leases: &[LeaseProgress],
        drains: bool,
    ) -> Vec<LeaseDirective> {
        let mut directives = Vec::with_capacity(leases.len());
        for progress in leases {
            let lease = &progress.lease;
            let directive = match self.holds(agent, lease) {
                true => self.direct_current(progress, drains),
                false => Directive::Abandon {
                    reason: format!("attempt {} is not the current one", lease.attempt),
                },
            };
            directives.push(LeaseDirective {
                task: lease.task,
                attempt: lease.attempt,
                directive,
            });
        }
        directives
    }

    fn direct_current(&mut self, progress: &LeaseProgress, drains: bool) -> Directive {
        let (id, now) = (progress.lease.task, self.now);
        let (finish_ms, grace_ms) = (self.limits.drain_finish_ms, self.limits.yield_grace_ms);
        let live = self.live_mut(id);
        if live
            .yields
            .is_some_and(|yields| now - yields.since_ms > grace_ms)
        {
            live.unnamed = 0;
            return Directive::Abandon {
                reason: "it did not yield in time".into(),
            };
        }
        self.renew(id, progress);
        if let Some(why) = self.stalled(id) {
            self.fail_task(id, FailureClass::Stalled, why.clone(), None);
            return Directive::Abandon { reason: why };
        }
        let live = self.live_mut(id);
        if drains && live.yields.is_none() && !live.ends_within(finish_ms) {
            self.order_yield(id, YieldWhy::Drain);
        }
        match self.live_mut(id).yields {
            Some(yields) => Directive::Yield {
                reason: yields.why.text().into(),
            },
            None => Directive::Continue {
                ttl_ms: self.limits.lease_ttl_ms as u64,
            },
        }
    }

    /// A lease that the agent does not name twice in a row is lost; once can be a race with the grant.
    fn lose_unnamed(&mut self, agent: AgentId, leases: &[LeaseProgress]) {
        for task in self.leases_of(agent) {
            if leases.iter().any(|named| named.lease.task == task) {
                continue;
            }
            let Some(live) = self.task_at_mut(task).live.as_mut() else {
                continue; // the failure of another one has ended its job
            };
            live.unnamed += 1;
            if live.unnamed >= LEASE_UNNAMED_MAX {
                let why = "its agent no longer works on it".to_string();
                self.fail_task(task, FailureClass::Lost, why, None);
            }
        }
    }

    pub(super) fn agent_due(&mut self, id: AgentId) {
        let Some(agent) = self.agents.get(&id) else {
            return;
        };
        let (state, seen) = (agent.row.state, agent.seen_at_ms);
        let (silent_at, gone_at) = (
            seen + self.silence_ms(),
            seen + self.limits.gone_after_ms.max(self.silence_ms()),
        );
        match state {
            AgentState::Online | AgentState::Draining if silent_at <= self.now => {
                self.set_agent_state(id, AgentState::Unresponsive);
                self.flush_samples(id);
                self.timers.arm(gone_at.max(self.now), Timer::Agent(id));
            }
            AgentState::Online | AgentState::Draining => {
                self.timers.arm(silent_at, Timer::Agent(id));
            }
            AgentState::Unresponsive if gone_at > self.now => {
                self.timers.arm(gone_at, Timer::Agent(id));
            }
            AgentState::Unresponsive if self.leases_of(id).is_empty() => {
                self.set_agent_state(id, AgentState::Gone);
            }
            AgentState::Unresponsive => {
                // Its leases end by themselves; look again when they must have.
                let later = self.now + self.limits.lease_ttl_ms;
                self.timers.arm(later, Timer::Agent(id));
            }
            AgentState::Gone => {}
        }
    }

    pub(super) fn drain(&mut self, id: AgentId, boot: Option<BootId>) -> Reply {
        let Some(agent) = self.agents.get(&id) else {
            return Reply::Done;
        };
        let row = &agent.row;
        let meant = boot.is_none_or(|boot| boot == row.boot);
        if meant && !row.drained && row.state != AgentState::Gone {
            self.change_agent(id, |row| {
                row.drained = true;
                if row.state == AgentState::Online {
                    row.state = AgentState::Draining;
                }
            });
            self.leave_if_drained(id);
        }
        Reply::Done
    }

    /// The last lease of a draining agent has ended.
    pub(super) fn leave_if_drained(&mut self, id: AgentId) {
        let draining = self
            .agents
            .get(&id)
            .is_some_and(|agent| agent.row.state == AgentState::Draining);
        if draining && self.leases_of(id).is_empty() {
            self.set_agent_state(id, AgentState::Gone);
        }
    }
}

impl Agent {
    pub fn new(row: AgentRow, now: i64) -> Self {
        Self {
            row,
            seen_at_ms: now,
            samples: Vec::new(),
        }
    }
}

impl LiveLease {
    /// Whether the rest is so short that a yield would cost more.
    fn ends_within(&self, limit_ms: i64) -> bool {
        match (self.phase, self.step_ms) {
            (Phase::Mux | Phase::Upload | Phase::Decode, _) => true,
            (Phase::Denoise, Some(step_ms)) => {
                let left = i64::from(self.steps.saturating_sub(self.step));
                left * i64::from(step_ms) <= limit_ms
            }
            _ => false,
        }
    }
}
