//! What a farm's writes tell about its films: waits, device time, charges, for a [`Report`].

use std::collections::BTreeMap;

use schemas::{AccountId, AgentId, JobId, TaskId};

use super::{
    report::{FilmRecord, Recorder, Report},
    scenario::{Scenario, Tenant},
};
use crate::core::{
    rows::{AgentRow, AgentState, Bucket, JobState, Level, TaskState},
    write::Write,
};

/// Follows one farm from its first write on; reports the time between `from_ms` and `to_ms`.
pub struct Watch {
    scenario: Scenario,
    recorder: Recorder,
    from_ms: i64,
    to_ms: i64,
    tenants: BTreeMap<AccountId, usize>,
    jobs: BTreeMap<JobId, AccountId>,
    /// Job of each task, and the devices that it runs on.
    tasks: BTreeMap<TaskId, (JobId, u32)>,
    devices: BTreeMap<AgentId, i64>,
    /// The most of them at once within the time.
    devices_most: i64,
    /// Microseconds charged within the time, by tenant.
    charged_us: Vec<i64>,
    /// Films that are counted, and those of them at work.
    counted: BTreeMap<JobId, u32>,
    sampled_ms: i64,
    now: i64,
}

impl Watch {
    /// `price` is what a charged device hour costs; `names` are those of all accounts.
    pub fn new(name: &str, (from_ms, to_ms): (i64, i64), price: f64) -> Self {
        let scenario = Scenario {
            name: name.into(),
            seed: 0,
            from_h: 0.0,
            to_h: (to_ms - from_ms) as f64 / 3.6e6,
            spread: 0.0,
            price_per_device_hour: Some(price),
            windows: BTreeMap::new(),
            nodes: Vec::new(),
            tenants: Vec::new(),
        };
        Self {
            recorder: Recorder::new(&scenario, 0),
            scenario,
            from_ms,
            to_ms,
            tenants: BTreeMap::new(),
            jobs: BTreeMap::new(),
            tasks: BTreeMap::new(),
            devices: BTreeMap::new(),
            devices_most: 0,
            charged_us: Vec::new(),
            counted: BTreeMap::new(),
            sampled_ms: 0,
            now: from_ms,
        }
    }

    /// The farm has written this at `now`.
    pub fn saw(&mut self, now: i64, writes: &[Write]) {
        self.sample_until(now.min(self.to_ms));
        self.now = now.clamp(self.from_ms, self.to_ms);
        for write in writes {
            self.one(now, write);
        }
    }

    fn sample_until(&mut self, now: i64) {
        while self.from_ms + self.sampled_ms <= now {
            self.recorder.sample(self.sampled_ms);
            self.sampled_ms += self.recorder.every_ms();
        }
    }

    /// Milliseconds since the beginning of the time that is reported.
    fn at(&self) -> i64 {
        self.now - self.from_ms
    }

    fn one(&mut self, now: i64, write: &Write) {
        match write {
            Write::InsertAccount(row) if row.level == Level::Project => {
                self.tenants.insert(row.id, self.scenario.tenants.len());
                self.recorder.add_tenant();
                self.charged_us.push(0);
                self.scenario.tenants.push(Tenant {
                    name: row.name.clone(),
                    weight: 1,
                    capacity: BTreeMap::new(),
                    arrivals: Vec::new(),
                });
            }
            Write::InsertJob { row, .. } => {
                self.jobs.insert(row.id, row.project);
                if (self.from_ms..self.to_ms).contains(&now)
                    && let Some(tenant) = self.tenants.get(&row.project)
                {
                    let film = FilmRecord::new(row.id, *tenant, row.band, self.at());
                    self.recorder.submitted(film);
                    self.counted.insert(row.id, 0);
                }
            }
            Write::InsertTask { row, .. } => {
                self.tasks.insert(row.id, (row.job, row.devices()));
            }
            Write::UpdateTask { was, row } => {
                let leased = matches!(row.state, TaskState::Leased(_));
                if leased && was.attempt != row.attempt {
                    self.begins(row.job, row.devices());
                }
            }
            Write::EndAttempt(row) => {
                if let Some(on) = self.tasks.get(&row.task).copied() {
                    self.ends(on, row.outcome.as_deref() == Some("released"));
                }
            }
            Write::UpdateJob { was, row } if *was != row.state => {
                let counted = self.counted.contains_key(&row.id);
                match row.state {
                    _ if !counted || now >= self.to_ms => {}
                    JobState::Succeeded => self.recorder.finished(row.id, self.at()),
                    JobState::Failed | JobState::Cancelled => {
                        self.recorder.given_up(row.id, self.at());
                    }
                    JobState::Waiting | JobState::Rendering => {}
                }
            }
            Write::InsertLedger(row) if row.to == Bucket::Spent => {
                if let Some(tenant) = self.tenants.get(&row.account)
                    && (self.from_ms..self.to_ms).contains(&now)
                {
                    self.charged_us[*tenant] += row.amount.0;
                }
            }
            Write::InsertAgent(row) => self.node(None, row),
            Write::UpdateAgent { was, row } => self.node(Some(*was), row),
            _ => {}
        }
    }

    fn begins(&mut self, job: JobId, devices: u32) {
        let at = self.at();
        if let Some(running) = self.counted.get_mut(&job) {
            *running += 1;
            self.recorder.started(job, devices, at);
        }
    }

    fn ends(&mut self, (job, devices): (JobId, u32), gave_way: bool) {
        let at = self.at();
        if let Some(running) = self.counted.get_mut(&job).filter(|running| **running > 0) {
            *running -= 1;
            self.recorder.stopped(job, devices, at);
            if gave_way {
                self.recorder.yielded(job);
            }
        }
    }

    fn node(&mut self, was: Option<AgentState>, row: &AgentRow) {
        let up = matches!(row.state, AgentState::Online | AgentState::Draining);
        let devices = if up { row.devices.len() as i64 } else { 0 };
        let before = self.devices.insert(row.id, devices).unwrap_or(0);
        self.recorder.devices_up(devices - before, self.at());
        if self.now < self.to_ms {
            self.devices_most = self.devices_most.max(self.devices.values().sum());
        }
        let fell = row.state == AgentState::Unresponsive && was != Some(row.state);
        if fell && self.now > self.from_ms && self.now < self.to_ms {
            self.recorder.node_died();
        }
    }

    /// What came of it. Films that were submitted before the time are in no row.
    pub fn report(mut self) -> Report {
        self.sample_until(self.to_ms);
        let price = self.scenario.price_per_device_hour.unwrap_or(1.0);
        let end = self.to_ms - self.from_ms;
        let mut report = self.recorder.report(&self.scenario, end);
        report.devices = self.devices_most.cast_unsigned();
        // What was charged, not what devices took: repeats and losses are the farm's.
        for (tenant, charged) in self.scenario.tenants.iter().zip(self.charged_us) {
            let mut rows = report
                .rows
                .iter_mut()
                .filter(|row| row.tenant == tenant.name);
            let all: f64 = rows.by_ref().map(|row| row.device_hours).sum();
            for row in report
                .rows
                .iter_mut()
                .filter(|row| row.tenant == tenant.name)
            {
                let part = if all > 0.0 {
                    row.device_hours / all
                } else {
                    0.0
                };
                row.cost = Some(price * part * charged as f64 / 3.6e9);
            }
        }
        report
    }
}
