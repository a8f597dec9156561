//! Readings of devices, summed up by the minute: what is kept of them for two weeks.

use schemas::{AgentId, agent::DeviceSample};

use super::{Farm, write::Write};

const MINUTE_MS: i64 = 60_000;

/// One device over one minute. Averages are over the readings that gave the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleRow {
    pub agent: AgentId,
    pub device: u32,
    /// Unix milliseconds of the start of the minute.
    pub minute_ms: i64,
    pub readings: u32,
    pub utilisation: Averaged,
    pub memory_used_max_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    pub power_mw: Averaged,
    pub temperature_max_c: Option<u32>,
    pub sm_clock_mhz: Averaged,
    /// Readings in which something held its clocks down.
    pub throttled: u32,
    /// As the device last counted them.
    pub ecc_uncorrected: Option<u64>,
    pub xids: Vec<u64>,
}

/// A sum and of how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Averaged {
    sum: u64,
    count: u64,
}

impl Averaged {
    fn add(&mut self, value: Option<u32>) {
        if let Some(value) = value {
            self.sum += u64::from(value);
            self.count += 1;
        }
    }

    /// Absent when no reading gave the value.
    pub fn mean(self) -> Option<u64> {
        self.sum.checked_div(self.count)
    }
}

impl SampleRow {
    fn begun(agent: AgentId, device: u32, minute_ms: i64) -> Self {
        Self {
            agent,
            device,
            minute_ms,
            readings: 0,
            utilisation: Averaged::default(),
            memory_used_max_bytes: None,
            memory_total_bytes: None,
            power_mw: Averaged::default(),
            temperature_max_c: None,
            sm_clock_mhz: Averaged::default(),
            throttled: 0,
            ecc_uncorrected: None,
            xids: Vec::new(),
        }
    }

    fn add(&mut self, sample: &DeviceSample) {
        self.readings += 1;
        self.utilisation.add(sample.utilisation_percent);
        self.power_mw.add(sample.power_mw);
        self.sm_clock_mhz.add(sample.sm_clock_mhz);
        self.memory_used_max_bytes = self.memory_used_max_bytes.max(sample.memory_used_bytes);
        self.memory_total_bytes = sample.memory_total_bytes.or(self.memory_total_bytes);
        self.temperature_max_c = self.temperature_max_c.max(sample.temperature_c);
        self.throttled += u32::from(sample.is_throttled());
        self.ecc_uncorrected = sample.ecc_uncorrected.or(self.ecc_uncorrected);
        self.xids.extend(sample.xids.iter().take(XIDS_MAX));
        self.xids.truncate(XIDS_MAX);
    }
}

/// Xid events of one minute that are kept.
const XIDS_MAX: usize = 16;
/// Devices of one agent whose readings are kept; an agent that names more is not believed.
const DEVICES_MAX: usize = 64;

impl Farm {
    /// Takes readings; a minute is written when a reading of a later one comes.
    pub(super) fn take_samples(&mut self, agent: AgentId, samples: Vec<DeviceSample>) {
        let minute_ms = self.now - self.now.rem_euclid(MINUTE_MS);
        for sample in samples.iter().take(DEVICES_MAX) {
            let begun = || SampleRow::begun(agent, sample.index, minute_ms);
            let minute = self.minutes.entry((agent, sample.index));
            let minute = minute.or_insert_with(begun);
            if minute.minute_ms != minute_ms {
                let past = std::mem::replace(minute, begun());
                self.writes.push(Write::PutSample(Box::new(past)));
            }
            minute.add(sample);
        }
        if let Some(agent) = self.agents.get_mut(&agent) {
            agent.samples = samples;
            agent.samples.truncate(DEVICES_MAX);
        }
    }

    /// The agent has fallen silent: what is there of its minutes is written.
    pub(super) fn flush_samples(&mut self, agent: AgentId) {
        let devices: Vec<u32> = self
            .minutes
            .range((agent, 0)..=(agent, u32::MAX))
            .map(|((_, device), _)| *device)
            .collect();
        for device in devices {
            if let Some(past) = self.minutes.remove(&(agent, device)) {
                self.writes.push(Write::PutSample(Box::new(past)));
            }
        }
        if let Some(agent) = self.agents.get_mut(&agent) {
            agent.samples.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> SampleRow {
        SampleRow::begun(crate::core::agent::agent_id("a"), 0, 0)
    }

    #[test]
    fn a_minute_keeps_means_peaks_and_what_was_never_told_stays_absent() {
        let mut row = row();
        for (utilisation, memory) in [(Some(10), Some(5)), (None, Some(9)), (Some(31), None)] {
            row.add(&DeviceSample {
                utilisation_percent: utilisation,
                memory_used_bytes: memory,
                throttled_by: vec!["thermal".into()],
                ..DeviceSample::default()
            });
        }
        assert_eq!((row.readings, row.throttled), (3, 3));
        assert_eq!(row.utilisation.mean(), Some(20));
        assert_eq!(row.memory_used_max_bytes, Some(9));
        assert_eq!(row.power_mw.mean(), None);
        assert_eq!(row.temperature_max_c, None);
    }

    #[test]
    fn a_flood_of_xids_is_cut() {
        let mut row = row();
        row.add(&DeviceSample {
            xids: vec![13; 1_000],
            ..DeviceSample::default()
        });
        assert_eq!(row.xids.len(), XIDS_MAX);
    }
}
