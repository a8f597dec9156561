//! The recorded log of a farm through the core again: does it decide what it decided then?
//!
//! Inputs are applied at their recorded instants; what each device gets is decided anew. Between two
//! events every node beats that did so then; how far its work was matters only where it was logged.

use std::{collections::BTreeMap, fmt};

use schemas::{
    AgentId, BootId, TaskId,
    agent::{Heartbeat, LeaseRequest, Phase},
};
use serde::Serialize;

use super::watch::Watch;
use crate::core::{
    Farm,
    command::{Command, LeaseReply, Reply},
    costs::Costs,
    event::Event,
    limits::Limits,
};

/// One event of the log, in the order of `seq`.
#[derive(Clone, Debug)]
pub struct Logged {
    pub seq: i64,
    pub at_ms: i64,
    pub event: Event,
}

/// The first grant that is not as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub seq: i64,
    pub at_ms: i64,
    pub agent: AgentId,
    pub device: u32,
    pub recorded: (TaskId, u32),
    /// Absent when the device would have got nothing.
    pub replayed: Option<(TaskId, u32)>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seq,
            at_ms,
            device,
            agent,
            recorded: (task, attempt),
            replayed,
        } = self;
        write!(
            f,
            "event {seq} at {at_ms} ms: device {device} of agent {agent} got task {task}, attempt {attempt}; now "
        )?;
        match replayed {
            Some((task, attempt)) => write!(f, "it would get task {task}, attempt {attempt}"),
            None => write!(f, "it would get nothing"),
        }
    }
}

/// How a replay went.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Check {
    pub events: u64,
    /// Grants that came out as they were recorded.
    pub grants: u64,
    pub difference: Option<Difference>,
}

/// Applies the log to an empty farm and tells `watch` all that comes of it, until the first difference.
/// Answers too what the farm has learnt of its work by then.
pub fn check(log: &[Logged], limits: &Limits, watch: &mut Watch) -> (Check, Costs) {
    let mut replay = Replay::new(limits, dark(log, limits));
    let mut check = Check::default();
    for logged in log {
        replay.beat_until(logged.at_ms, watch);
        check.events += 1;
        match replay.apply(logged, watch) {
            Applied::Other => {}
            Applied::AsRecorded => check.grants += 1,
            Applied::Differs(difference) => {
                check.difference = Some(*difference);
                break;
            }
        }
    }
    (check, replay.farm.prices().costs)
}

/// Beats that are made up come more seldom than real ones, so that none comes in their way.
const BEATS_APART: i64 = 2;

/// What an event did.
enum Applied {
    Other,
    AsRecorded,
    Differs(Box<Difference>),
}

/// When nodes fell silent: their last beat, and until which event they are not heard of.
type Dark = BTreeMap<AgentId, Vec<(i64, i64)>>;

struct Replay {
    farm: Farm,
    limits: Limits,
    now: i64,
    /// Nodes with their boots, and when they were last heard of.
    nodes: BTreeMap<AgentId, (BootId, i64)>,
    dark: Dark,
}

impl Replay {
    fn new(limits: &Limits, dark: Dark) -> Self {
        let mut farm = Farm::empty(limits.clone(), 1);
        farm.take_none();
        Self {
            farm,
            limits: limits.clone(),
            now: 0,
            nodes: BTreeMap::new(),
            dark,
        }
    }

    fn apply(&mut self, logged: &Logged, watch: &mut Watch) -> Applied {
        self.now = self.now.max(logged.at_ms);
        match &logged.event {
            Event::Start => {
                self.restart();
                return Applied::Other;
            }
            Event::Progress { leases, short } => {
                self.farm.note_progress(leases, short, self.now);
                return Applied::Other;
            }
            Event::Silent { .. } => return Applied::Other,
            Event::Hello { hello } => {
                let id = crate::core::agent::agent_id(&hello.name);
                self.nodes.insert(id, (hello.boot, self.now));
            }
            Event::Heartbeat { beat } => {
                self.nodes.insert(beat.agent, (beat.boot, self.now));
            }
            _ => {}
        }
        let recorded = match &logged.event {
            Event::Grant {
                request,
                task,
                attempt,
            } => Some((request.clone(), (*task, *attempt))),
            _ => None,
        };
        let command = of_this_term(logged.event.clone(), self.farm.term());
        let reply = self.run(command, watch);
        self.farm.take_none();
        match recorded {
            Some((request, recorded)) => compare(logged, &request, recorded, reply.as_ref()),
            None => Applied::Other,
        }
    }

    fn run(&mut self, command: Option<Command>, watch: &mut Watch) -> Option<Reply> {
        let outcome = self.farm.apply(command?, self.now);
        watch.saw(self.now, &outcome.writes);
        Some(outcome.reply)
    }

    /// A new leader knows what the database knows.
    fn restart(&mut self) {
        let mut rows = self.farm.durable();
        rows.term += 1;
        let now = self.now;
        self.farm = Farm::fold(self.limits.clone(), rows, now).expect("rows of a farm fold");
        self.farm.take_none();
        self.nodes.values_mut().for_each(|(_, heard)| *heard = now);
    }

    /// Every node that is up beats so often that nothing of it is lost before `until`.
    fn beat_until(&mut self, until: i64, watch: &mut Watch) {
        loop {
            let every = BEATS_APART * self.limits.heartbeat_ms;
            let due = self
                .nodes
                .iter()
                .filter_map(|(id, (_, heard))| Some((self.next_beat(*id, *heard + every)?, *id)));
            let Some((at, id)) = due.min().filter(|(at, _)| *at < until) else {
                return;
            };
            self.now = self.now.max(at);
            let boot = self.nodes[&id].0;
            self.nodes.insert(id, (boot, at));
            // Work whose steps are not known must not look as if it stood still.
            let mut leases = self.farm.leases_named(id);
            leases
                .iter_mut()
                .for_each(|told| told.phase = Phase::Encode);
            let beat = Heartbeat {
                agent: id,
                boot,
                term: self.farm.term(),
                leases,
                devices: Vec::new(),
            };
            self.run(Some(Command::Heartbeat(Box::new(beat))), watch);
        }
    }

    /// The instant of a node's next beat; its very last one before silence comes exactly then.
    fn next_beat(&self, id: AgentId, at: i64) -> Option<i64> {
        let heard = self.nodes[&id].1;
        let silences = self.dark.get(&id);
        let silence = silences.and_then(|all| all.iter().find(|(_, until)| at < *until));
        match silence {
            Some((last, _)) if heard >= *last => None,
            Some((last, _)) => Some(at.min(*last)),
            None => Some(at),
        }
    }
}

/// Terms of a replay count from 1, whatever they were.
fn of_this_term(mut event: Event, term: u64) -> Option<Command> {
    match &mut event {
        Event::Heartbeat { beat } => {
            beat.term = term;
            beat.leases
                .iter_mut()
                .for_each(|told| told.lease.term = term);
        }
        Event::Checkpoint { report } => report.lease.term = term,
        Event::Report { report } => report.lease.term = term,
        _ => {}
    }
    event.command()
}

fn compare(
    logged: &Logged,
    request: &LeaseRequest,
    recorded: (TaskId, u32),
    reply: Option<&Reply>,
) -> Applied {
    let replayed = match reply {
        Some(Reply::Leased(LeaseReply::Offer { offer, .. })) => {
            Some((offer.lease.task, offer.lease.attempt))
        }
        _ => None,
    };
    match replayed == Some(recorded) {
        true => Applied::AsRecorded,
        false => Applied::Differs(Box::new(Difference {
            seq: logged.seq,
            at_ms: logged.at_ms,
            agent: request.agent,
            device: request.device,
            recorded,
            replayed,
        })),
    }
}

/// Nodes are dark from their last beat before the farm noticed until they are heard of again.
fn dark(log: &[Logged], limits: &Limits) -> Dark {
    let mut dark = Dark::new();
    for (at, logged) in log.iter().enumerate() {
        let Event::Silent { agents } = &logged.event else {
            continue;
        };
        let last = logged.at_ms - limits.silence_ms();
        for agent in agents {
            let heard = log[at..].iter().find(|later| hears(&later.event, *agent));
            let until = heard.map_or(i64::MAX, |later| later.at_ms);
            dark.entry(*agent).or_default().push((last, until));
        }
    }
    dark
}

fn hears(event: &Event, agent: AgentId) -> bool {
    match event {
        Event::Hello { hello } => crate::core::agent::agent_id(&hello.name) == agent,
        Event::Heartbeat { beat } => beat.agent == agent,
        _ => false,
    }
}
