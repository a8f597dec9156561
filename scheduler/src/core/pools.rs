//! Pools: devices of one class are alike, so shares, floors and capacity are counted by class.

use schemas::AgentId;

use super::{Farm, recent::Recent};

impl Farm {
    /// Class of a device that its agent has announced.
    pub(super) fn pool_of(&self, agent: AgentId, device: u32) -> &str {
        let devices = self.agents.get(&agent).map(|agent| &agent.row.devices);
        let found = devices.and_then(|all| all.iter().find(|d| d.index == device));
        found.map_or("", |device| &device.class)
    }

    /// What the pool of a device has given lately.
    pub(super) fn recent_of(&mut self, agent: AgentId, device: u32) -> &mut Recent {
        let pool = self.pool_of(agent, device).to_owned();
        self.recent.entry(pool).or_default()
    }
}
