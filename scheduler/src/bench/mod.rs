//! The scheduler measured: how fast it decides, commits and restarts, and what a waiting job weighs.
//!
//! [`decide`] is the core alone, [`durable`] the dispatcher over a database. Both read the clock of
//! this machine: run them on an idle one. `cargo xtask bench farm` puts other queues beside them.

pub mod decide;
pub mod durable;
mod population;
mod sample;

use serde::Serialize;

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Depths of the queue at which decisions are timed, rising.
    pub waiting: Vec<u64>,
    pub orgs: u64,
    pub accounts: u64,
    pub nodes: u64,
    pub devices_a_node: u32,
    pub decisions: usize,
    /// Jobs submitted by callers that wait for each answer, and by one that sends many at once.
    pub single: u64,
    pub batched: u64,
    pub callers: u64,
    pub latencies: usize,
    /// Jobs that wait when the scheduler starts again; with 0 that is not measured.
    pub restart: u64,
}

impl Plan {
    /// What is published.
    pub fn full() -> Self {
        Self {
            waiting: vec![1_000, 10_000, 100_000, 1_000_000],
            orgs: 100,
            accounts: 2_000,
            nodes: 1_250,
            devices_a_node: 8,
            decisions: 20_000,
            single: 10_000,
            batched: 30_000,
            callers: 64,
            latencies: 300,
            restart: 1_000_000,
        }
    }

    /// Every measurement once, for the test that the harness runs.
    pub fn tiny() -> Self {
        Self {
            waiting: vec![20, 40],
            orgs: 2,
            accounts: 5,
            nodes: 2,
            devices_a_node: 2,
            decisions: 10,
            single: 8,
            batched: 20,
            callers: 4,
            latencies: 3,
            restart: 50,
        }
    }
}

/// A number, and under which conditions it was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    pub conditions: String,
}

impl Row {
    fn new(
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        conditions: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            value,
            unit,
            conditions: conditions.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::database;

    fn check(rows: &[Row], names: &[&str]) {
        for name in names {
            let row = rows.iter().find(|row| row.name.starts_with(name));
            let row = row.unwrap_or_else(|| panic!("no row '{name}' among {rows:?}"));
            assert!(row.value.is_finite() && row.value > 0.0, "{row:?}");
        }
    }

    #[test]
    fn the_core_is_measured_at_every_depth() {
        let rows = decide::measure(&Plan::tiny());
        let names = [
            "decision p50, 20 waiting",
            "decision p99.9, 40 waiting",
            "submit in the core, 40 waiting",
            "preempt to the first step of the urgent film",
            "submit in the core, for the night, 40 waiting",
            "opening of the night, 40 waiting",
            "decision p99, at night, 40 waiting",
        ];
        check(&rows, &names);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_database_is_measured_and_holds_what_was_submitted() {
        let folder = tempfile::tempdir().unwrap();
        let rows = durable::measure(&Plan::tiny(), database(folder.path()), "here").await;
        let names = [
            "durable submits, single calls",
            "durable submits, batched",
            "durable leases",
            "submit to lease p99",
            "restart to the first lease",
        ];
        check(&rows.unwrap(), &names);
    }
}
