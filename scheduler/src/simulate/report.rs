//! What came of a scenario: waits, finishes, device hours, utilisation.

use std::{collections::BTreeMap, fmt};

use schemas::JobId;
use serde::Serialize;

use super::scenario::Scenario;
use crate::core::rows::Band;

/// Points of the picture over the scenario's time.
const SAMPLES: i64 = 240;

/// The outcome of one run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub name: String,
    /// One per tenant and band, in the scenario's order.
    pub rows: Vec<Row>,
    /// Device hours worked over device hours that were there.
    pub utilisation: f64,
    pub devices: u64,
    pub node_failures: u32,
    /// When the last film ended or the story was over, in hours of the scenario.
    pub ended_h: f64,
    pub samples: Vec<Sample>,
    /// The same with every change, where these are few.
    #[serde(skip)]
    pub exact: Vec<Sample>,
    /// Tenants in the scenario's order.
    pub tenants: Vec<String>,
}

/// Films of one tenant in one band. Times in seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub tenant: String,
    pub band: Band,
    pub films: u64,
    pub finished: u64,
    /// From submit to the first grant: median, 95th and 99th percentile; those that never began count as waiting until they were given up, or to the end.
    pub wait_s: [f64; 3],
    /// From submit to the finished film.
    pub done_s: [f64; 3],
    /// When its last film was done, in hours of the scenario; absent while films are missing.
    pub last_h: Option<f64>,
    /// Times that work gave way and went on later.
    pub yields: u64,
    pub device_hours: f64,
    pub cost: Option<f64>,
    /// Films that ended without being made: failed, cancelled, or too late to begin.
    #[serde(default)]
    pub given_up: u64,
    /// What waiting for cheaper hours saved, in the unit of the window's prices; absent where none has prices.
    #[serde(default)]
    pub saved: Option<f64>,
}

/// The farm at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    pub at_h: f64,
    /// Devices at work, by tenant in the scenario's order.
    pub busy: Vec<u32>,
    /// Devices whose node is up.
    pub up: i64,
    /// Films that have not begun.
    pub waiting: u32,
}

/// One film's way.
pub struct FilmRecord {
    id: JobId,
    tenant: usize,
    band: Band,
    submitted_ms: i64,
    started_ms: Option<i64>,
    finished_ms: Option<i64>,
    yields: u64,
    given_up_ms: Option<i64>,
    saved: Option<i64>,
    /// Since when, on how many devices, for each task that runs.
    busy_since: Vec<(i64, u32)>,
    device_ms: i64,
}

impl FilmRecord {
    pub fn new(id: JobId, tenant: usize, band: Band, now: i64) -> Self {
        Self {
            id,
            tenant,
            band,
            submitted_ms: now,
            started_ms: None,
            finished_ms: None,
            yields: 0,
            given_up_ms: None,
            saved: None,
            busy_since: Vec::new(),
            device_ms: 0,
        }
    }
}

/// Changes of a run that are kept; beyond them the samples say enough.
const CHANGES_MAX: usize = 4_000;

/// Notes what happens while the story plays.
pub struct Recorder {
    films: BTreeMap<JobId, FilmRecord>,
    expected: u64,
    /// Finished or given up.
    ended: u64,
    busy: Vec<u32>,
    waiting: u32,
    up: i64,
    up_since_ms: i64,
    up_device_ms: i64,
    devices: usize,
    node_failures: u32,
    samples: Vec<Sample>,
    /// Before and behind each change, while there are few: what is shorter than between two samples is seen all the same.
    changes: Vec<Sample>,
    every_ms: i64,
    begin_ms: i64,
}

impl Recorder {
    pub fn new(scenario: &Scenario, devices: usize) -> Self {
        let (from, to) = (hours_ms(scenario.from_h), hours_ms(scenario.to_h));
        let films = scenario.tenants.iter().flat_map(|t| &t.arrivals);
        Self {
            films: BTreeMap::new(),
            expected: films.map(|row| u64::from(row.films)).sum(),
            ended: 0,
            busy: vec![0; scenario.tenants.len()],
            waiting: 0,
            up: 0,
            up_since_ms: from,
            up_device_ms: 0,
            devices,
            node_failures: 0,
            samples: Vec::new(),
            changes: Vec::new(),
            every_ms: ((to - from) / SAMPLES).max(1),
            begin_ms: from,
        }
    }

    pub fn every_ms(&self) -> i64 {
        self.every_ms
    }

    /// A tenant that the scenario gets while it plays.
    pub fn add_tenant(&mut self) {
        self.busy.push(0);
    }

    /// Every film of the scenario is done, or given up.
    pub fn is_complete(&self) -> bool {
        self.ended == self.expected
    }

    pub fn submitted(&mut self, film: FilmRecord) {
        let now = film.submitted_ms;
        self.changes(now, |all| {
            all.waiting += 1;
            all.films.insert(film.id, film);
        });
    }

    fn changes(&mut self, now: i64, change: impl FnOnce(&mut Self)) {
        let before = self.now(now);
        change(self);
        let after = self.now(now);
        if self.changes.len() <= CHANGES_MAX {
            self.changes.extend([before, after]);
        }
    }

    fn now(&self, now: i64) -> Sample {
        Sample {
            at_h: ms_hours(now),
            busy: self.busy.clone(),
            up: self.up,
            waiting: self.waiting,
        }
    }

    pub fn started(&mut self, job: JobId, devices: u32, now: i64) {
        self.changes(now, |all| all.start(job, devices, now));
    }

    fn start(&mut self, job: JobId, devices: u32, now: i64) {
        let film = film_mut(&mut self.films, job);
        film.busy_since.push((now, devices));
        self.busy[film.tenant] += devices;
        if film.started_ms.is_none() {
            film.started_ms = Some(now);
            self.waiting -= 1;
        }
    }

    /// Devices no longer work for the film, for whatever reason.
    pub fn stopped(&mut self, job: JobId, devices: u32, now: i64) {
        self.changes(now, |all| all.stop(job, devices, now));
    }

    fn stop(&mut self, job: JobId, devices: u32, now: i64) {
        let film = film_mut(&mut self.films, job);
        let works = film.busy_since.iter().rposition(|(_, on)| *on == devices);
        let (since, _) = film
            .busy_since
            .remove(works.expect("only work that runs can stop"));
        film.device_ms += (now - since) * i64::from(devices);
        self.busy[film.tenant] -= devices;
    }

    pub fn finished(&mut self, job: JobId, now: i64) {
        film_mut(&mut self.films, job).finished_ms = Some(now);
        self.ended += 1;
    }

    /// It ended without a film: failed, cancelled, or too late to begin.
    pub fn given_up(&mut self, job: JobId, now: i64) {
        self.changes(now, |all| {
            let film = film_mut(&mut all.films, job);
            film.given_up_ms = Some(now);
            all.ended += 1;
            all.waiting -= u32::from(film.started_ms.is_none());
        });
    }

    /// What the core says that the film saved when it began, in millionths.
    pub fn saved(&mut self, job: JobId, saved: Option<i64>) {
        let film = film_mut(&mut self.films, job);
        film.saved = film.saved.or(saved);
    }

    pub fn yielded(&mut self, job: JobId) {
        film_mut(&mut self.films, job).yields += 1;
    }

    pub fn node_died(&mut self) {
        self.node_failures += 1;
    }

    pub fn devices_up(&mut self, change: i64, now: i64) {
        self.up_device_ms += self.up * (now - self.up_since_ms);
        (self.up, self.up_since_ms) = (self.up + change, now);
    }

    pub fn sample(&mut self, now: i64) {
        let sample = self.now(now);
        self.samples.push(sample);
    }

    pub fn report(mut self, scenario: &Scenario, end: i64) -> Report {
        self.sample(end);
        self.devices_up(0, end);
        let mut exact = match self.changes.len() <= CHANGES_MAX {
            true => [self.samples.clone(), std::mem::take(&mut self.changes)].concat(),
            false => Vec::new(),
        };
        exact.sort_by(|a, b| a.at_h.total_cmp(&b.at_h));
        for sample in self.samples.iter_mut().chain(&mut exact) {
            sample.busy.resize(scenario.tenants.len(), 0); // some came later
        }
        for film in self.films.values_mut() {
            film.device_ms += film
                .busy_since
                .drain(..)
                .map(|(since, devices)| (end - since) * i64::from(devices))
                .sum::<i64>();
        }
        let worked: i64 = self.films.values().map(|film| film.device_ms).sum();
        let keys: std::collections::BTreeSet<(usize, Band)> = self
            .films
            .values()
            .map(|film| (film.tenant, film.band))
            .collect();
        Report {
            name: scenario.name.clone(),
            rows: keys
                .into_iter()
                .map(|key| self.row(scenario, key, end))
                .collect(),
            utilisation: worked as f64 / self.up_device_ms.max(1) as f64,
            devices: self.devices as u64,
            node_failures: self.node_failures,
            ended_h: ms_hours(end.max(self.begin_ms)),
            samples: self.samples,
            exact,
            tenants: scenario
                .tenants
                .iter()
                .map(|tenant| tenant.name.clone())
                .collect(),
        }
    }

    fn row(&self, scenario: &Scenario, (tenant, band): (usize, Band), end: i64) -> Row {
        let films: Vec<&FilmRecord> = self
            .films
            .values()
            .filter(|f| (f.tenant, f.band) == (tenant, band))
            .collect();
        let seconds = |until: fn(&FilmRecord) -> Option<i64>| {
            let mut times: Vec<f64> = films
                .iter()
                .map(|f| (until(f).or(f.given_up_ms).unwrap_or(end) - f.submitted_ms) as f64 / 1e3)
                .collect();
            times.sort_by(f64::total_cmp);
            [0.5, 0.95, 0.99].map(|share| percentile(&times, share))
        };
        let finished = films.iter().filter_map(|f| f.finished_ms);
        let given_up = films.iter().filter(|f| f.given_up_ms.is_some()).count();
        let device_hours = films.iter().map(|f| ms_hours(f.device_ms)).sum();
        Row {
            tenant: scenario.tenants[tenant].name.clone(),
            band,
            films: films.len() as u64,
            finished: finished.clone().count() as u64,
            wait_s: seconds(|f| f.started_ms),
            done_s: seconds(|f| f.finished_ms),
            last_h: finished
                .clone()
                .max()
                .filter(|_| finished.count() + given_up == films.len())
                .map(ms_hours),
            yields: films.iter().map(|f| f.yields).sum(),
            device_hours,
            cost: scenario
                .price_per_device_hour
                .map(|price| price * device_hours),
            given_up: given_up as u64,
            saved: films
                .iter()
                .filter_map(|f| f.saved)
                .map(|millionths| millionths as f64 / 1e6)
                .reduce(|all, one| all + one),
        }
    }
}

fn film_mut(films: &mut BTreeMap<JobId, FilmRecord>, job: JobId) -> &mut FilmRecord {
    films
        .get_mut(&job)
        .expect("work is of films that were submitted")
}

/// Nearest rank of a sorted list that is not empty.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

fn hours_ms(hours: f64) -> i64 {
    (hours * 3.6e6) as i64
}

fn ms_hours(ms: i64) -> f64 {
    ms as f64 / 3.6e6
}

/// `26.5` as `day 2 02:30`.
pub fn clock(hours: f64) -> String {
    let minutes = (hours * 60.0).round() as i64;
    let (day, minute) = (minutes.div_euclid(1440), minutes.rem_euclid(1440));
    let time = format!("{:02}:{:02}", minute / 60, minute % 60);
    match day {
        0 => time,
        day => format!("day {} {time}", day + 1),
    }
}

/// Seconds as people say them.
fn length(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} devices, {:.0} % at work, {} node{} failed, over at {}",
            self.name,
            self.devices,
            100.0 * self.utilisation,
            self.node_failures,
            if self.node_failures == 1 { "" } else { "s" },
            clock(self.ended_h)
        )?;
        writeln!(
            f,
            "{:<14} {:<9} {:>11}  {:>8} {:>8} {:>8}  {:>8} {:>8}  {:<12} {:>6} {:>9}",
            "tenant",
            "band",
            "films",
            "wait p50",
            "p95",
            "p99",
            "done p50",
            "p99",
            "last film",
            "yields",
            "device h"
        )?;
        for row in &self.rows {
            let band = match row.band {
                Band::Urgent => "urgent",
                Band::Standard => "standard",
                Band::Overnight => "overnight",
            };
            let films = format!("{} of {}", row.finished, row.films);
            let [p50, p95, p99] = row.wait_s.map(length);
            let [done, _, done_p99] = row.done_s.map(length);
            let last = row.last_h.map_or("unfinished".into(), clock);
            write!(
                f,
                "{:<14} {band:<9} {films:>11}  {p50:>8} {p95:>8} {p99:>8}  {done:>8} {done_p99:>8}  {last:<12} {:>6} {:>9.1}",
                row.tenant, row.yields, row.device_hours
            )?;
            if let Some(cost) = row.cost {
                write!(f, "  cost {cost:.2}")?;
            }
            if let Some(saved) = row.saved {
                write!(f, "  saved {saved:.2}")?;
            }
            match row.given_up {
                0 => writeln!(f)?,
                films => writeln!(f, "  {films} ended without a film")?,
            }
        }
        Ok(())
    }
}
