//! Dashboards, alerts and the runbook name only what there is.

use std::{collections::BTreeSet, fs, path::Path};

fn read(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::read_to_string(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Words that look like a metric of ours or of the process.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("dailies_") || word.starts_with("process_"))
        .map(str::to_string)
        .collect()
}

fn known() -> BTreeSet<String> {
    let scheduler = scheduler::metrics::Metrics::names().unwrap();
    let agent = agent::metrics::Metrics::names();
    let mut names: BTreeSet<String> = scheduler.into_iter().chain(agent).collect();
    for name in names.clone() {
        if name.ends_with("_seconds") || name.ends_with("_commands") {
            names.extend(["bucket", "sum", "count"].map(|part| format!("{name}_{part}")));
        }
    }
    names
}

#[test]
fn every_metric_of_a_dashboard_an_alert_or_the_runbook_exists() {
    let known = known();
    for (file, least) in [
        ("ops/grafana/dailies.json", 30),
        ("ops/alerts.yml", 10),
        ("ops/RUNBOOK.md", 3),
    ] {
        let named = metrics_in(&read(file));
        assert!(named.len() >= least, "{file} names only {named:?}");
        let unknown: Vec<&String> = named.difference(&known).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}");
    }
}

#[test]
fn the_dashboard_is_json_with_a_query_in_each_panel() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("ops/grafana/dailies.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(
            ids.insert(panel["id"].as_u64()),
            "two panels have one id: {panel}"
        );
        let is_row = panel["type"] == "row";
        let queries = panel["targets"].as_array().map_or(0, Vec::len);
        assert!(is_row || queries > 0, "no query: {panel}");
    }
}

#[test]
fn every_alert_has_a_section_in_the_runbook() {
    let (alerts, runbook) = (read("ops/alerts.yml"), read("ops/RUNBOOK.md"));
    let named = alerts.lines().filter_map(|line| {
        let section = line.trim().strip_prefix("runbook: \"RUNBOOK.md: ")?;
        section.strip_suffix('"')
    });
    let named: Vec<&str> = named.collect();
    let count = alerts.matches("- alert:").count();
    assert_eq!(named.len(), count, "an alert without a section");
    for section in named {
        let heading = format!("## {section}");
        assert!(
            runbook.lines().any(|line| line == heading),
            "no '{heading}'"
        );
    }
}
