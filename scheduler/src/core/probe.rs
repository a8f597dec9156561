//! The way out of quarantine: a device renders a known recipe and must give the latents that its class gives.
//!
//! What a class gives is learnt from a healthy device that is idle, or where there is none from the device itself:
//! it renders the recipe twice and must agree with itself. A probe is no lease: it carries no work of anyone.

use std::collections::BTreeMap;

use schemas::{
    AgentId, Digest,
    agent::{PROBE_WEIGHTS, ProbeOutcome, ProbeReport, WriteAnswer},
};
use serde_json::json;

use super::{
    Farm,
    command::LeaseReply,
    explain::Waiting,
    health::{Cause, Quarantine},
    limits::{PROBE_DELAYS_MS, REFERENCE_PATIENCE_MS},
    rows::{AgentRow, AgentState, GoldenKey},
    write::Write,
};

impl AgentRow {
    /// What the latents of a probe depend on; absent without the weights for it.
    pub(super) fn golden_key(&self, device: u32) -> Option<GoldenKey> {
        let weights = self.weights.iter().find(|w| w.name == PROBE_WEIGHTS)?;
        Some(GoldenKey {
            class: self.device(device)?.class.clone(),
            weights: weights.digest,
            version: self.version.clone(),
        })
    }
}

impl Farm {
    /// What a device in quarantine gets when it asks for work: its probe when that is due.
    pub(super) fn lease_in_quarantine(&mut self, agent: AgentId, device: u32) -> LeaseReply {
        let row = &self.agents[&agent].row;
        let quarantine = &row.health.quarantined[&device];
        let overdue_ms = quarantine.probe_at_ms.map_or(-1, |at| self.now - at);
        // A peer that is never idle must not keep it here for good.
        let may = |key| {
            self.golden.contains_key(key)
                || !self.has_peer(key)
                || overdue_ms >= REFERENCE_PATIENCE_MS
        };
        match row.golden_key(device) {
            Some(key) if overdue_ms >= 0 && may(&key) => LeaseReply::Probe,
            _ => LeaseReply::Idle(Waiting::DevicesQuarantined {
                devices: 1,
                first_return_ms: quarantine.probe_at_ms,
            }),
        }
    }

    /// Another device that could say what the class gives.
    fn has_peer(&self, key: &GoldenKey) -> bool {
        let rows = self.agents.values().map(|agent| &agent.row);
        rows.into_iter().any(|row| {
            row.open_devices()
                .any(|device| row.golden_key(device.index).as_ref() == Some(key))
        })
    }

    /// Whether an idle device should say what its class gives, because one of the class waits for that.
    pub(super) fn wants_reference(&mut self, agent: AgentId, device: u32) -> bool {
        if self.quarantined.is_empty() {
            return false;
        }
        let Some(key) = self.agents[&agent].row.golden_key(device) else {
            return false;
        };
        let waits = |(agent, device): &(AgentId, u32)| {
            let row = &self.agents[agent].row;
            let quarantine = &row.health.quarantined[device];
            quarantine.probe_at_ms.is_some() && row.golden_key(*device).as_ref() == Some(&key)
        };
        let asked = self.references_asked.get(&key).copied();
        let is_asked = asked.is_some_and(|at| at + REFERENCE_PATIENCE_MS > self.now);
        if is_asked || self.golden.contains_key(&key) || !self.quarantined.iter().any(waits) {
            return false;
        }
        self.references_asked.insert(key, self.now);
        true
    }

    /// A device tells how its probe went.
    pub(super) fn probed(&mut self, report: ProbeReport) -> WriteAnswer {
        let refused = |why: &str| WriteAnswer::Refused { why: why.into() };
        let (id, device) = (report.agent, report.device);
        let Some(row) = self.agents.get(&id).map(|agent| &agent.row) else {
            return refused("the agent is not known");
        };
        if row.boot != report.boot || row.state == AgentState::Gone {
            return refused("the write comes from another agent or an earlier start of it");
        }
        let Some(key) = row.golden_key(device) else {
            return refused("the agent has no such device, or no weights for a probe");
        };
        let quarantine = row.health.quarantined.get(&device).cloned();
        let early = |q: &Quarantine| q.probe_at_ms.is_none_or(|at| at > self.now);
        let asked = self.references_asked.contains_key(&key);
        if quarantine.as_ref().map_or(!asked, early) {
            return refused("no probe of the device is due");
        }
        match (quarantine, self.verdict_of_probe(key, report.outcome)) {
            (Some(_), Ok(())) => {
                self.release_device(id, device);
                self.note("probe_passed", None, id, json!({"device": device}));
            }
            (Some(was), Err(why)) => self.probe_failed(id, device, was, &why),
            (None, Ok(())) => {}
            (None, Err(why)) => drop(self.quarantine(id, device, Cause::Probe, why)),
        }
        WriteAnswer::Accepted
    }

    /// Compares with what the class gives; the first that is told becomes what it gives.
    fn verdict_of_probe(&mut self, key: GoldenKey, outcome: ProbeOutcome) -> Result<(), String> {
        match outcome {
            ProbeOutcome::Failed { message } => Err(format!("the probe failed: {message}")),
            ProbeOutcome::Rendered { digest } => match self.golden.get(&key) {
                Some(known) if *known == digest => Ok(()),
                Some(_) => Err("the probe gave other latents than the class gives".into()),
                None => {
                    self.learn_golden(key, digest);
                    Ok(())
                }
            },
        }
    }

    fn learn_golden(&mut self, key: GoldenKey, digest: Digest) {
        self.references_asked.remove(&key);
        self.writes.push(Write::InsertGolden {
            key: key.clone(),
            digest,
        });
        self.golden.insert(key, digest);
        self.wake = true; // a device may wait for this to be probed
    }

    fn probe_failed(&mut self, agent: AgentId, device: u32, was: Quarantine, why: &str) {
        let probes_failed = was.probes_failed + 1;
        let delay = PROBE_DELAYS_MS.get(probes_failed as usize);
        let probe_at_ms = delay.map(|delay| self.now + delay);
        let again = Quarantine {
            probes_failed,
            probe_at_ms,
            ..was
        };
        self.change_agent(agent, |row| {
            row.health.quarantined.insert(device, again);
        });
        let detail = json!({"device": device, "why": why, "next_probe_ms": probe_at_ms});
        self.note("probe_failed", None, agent, detail);
    }

    pub(super) fn release_device(&mut self, agent: AgentId, device: u32) {
        self.change_agent(agent, |row| {
            row.health.quarantined.remove(&device);
        });
        self.suspicions.remove(&(agent, device));
    }

    /// Keeps the set of devices in quarantine as the rows have it.
    pub(super) fn index_health(&mut self, agent: AgentId) {
        let quarantined = &mut self.quarantined;
        quarantined.retain(|(of, _)| *of != agent);
        let now = self.agents[&agent].row.health.quarantined.keys();
        quarantined.extend(now.map(|device| (agent, *device)));
    }
}

/// Known latents by what they depend on.
pub(super) type Golden = BTreeMap<GoldenKey, Digest>;
