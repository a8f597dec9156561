//! Small stories with known ends.

use super::*;
use crate::core::rows::Band;

fn story(nodes: u32, devices: u32, arrivals: Vec<Arrivals>) -> Scenario {
    Scenario {
        name: "story".into(),
        seed: 7,
        from_h: 0.0,
        to_h: 48.0,
        spread: 0.0,
        price_per_device_hour: Some(2.0),
        nodes: vec![NodeGroup {
            class: "gpu".into(),
            count: nodes,
            devices,
            speed: 1.0,
            mtbf_h: None,
            repair_h: 1.0,
            dies_at_h: None,
        }],
        tenants: vec![Tenant {
            name: "studio".into(),
            arrivals,
        }],
    }
}

fn films(films: u32, at_h: f64) -> Arrivals {
    Arrivals {
        band: Band::Standard,
        films,
        at_h,
        until_h: None,
        shots: 1,
        shot_s: 3600.0,
        steps: 40,
    }
}

#[test]
fn ten_hours_of_work_on_two_devices_take_five_hours() {
    let report = run(&story(1, 2, vec![films(10, 1.0)])).unwrap();
    let row = &report.rows[0];
    assert_eq!((row.films, row.finished), (10, 10));
    let last = row.last_h.unwrap();
    assert!((6.0..6.05).contains(&last), "the last film ended at {last}");
    assert!(
        (row.device_hours - 10.0).abs() < 0.05,
        "{} device hours",
        row.device_hours
    );
    assert_eq!(row.cost, Some(2.0 * row.device_hours));
    assert!(report.utilisation > 0.8 && report.utilisation <= 1.0);
}

#[test]
fn the_first_film_starts_at_once_and_the_last_waits_its_turn() {
    let report = run(&story(1, 1, vec![films(3, 0.0)])).unwrap();
    let [p50, _, p99] = report.rows[0].wait_s;
    assert!((p50 - 3600.0).abs() < 60.0, "median {p50}");
    assert!((p99 - 7200.0).abs() < 60.0, "p99 {p99}");
}

#[test]
fn more_devices_never_make_the_last_film_later() {
    let ends = [1, 2, 4, 8].map(|nodes| {
        run(&story(nodes, 1, vec![films(8, 0.0)])).unwrap().rows[0]
            .last_h
            .unwrap()
    });
    assert!(ends.is_sorted_by(|a, b| a > b), "{ends:?}");
}

#[test]
fn a_node_that_dies_costs_time_but_no_film() {
    let calm = run(&story(2, 1, vec![films(8, 0.0)])).unwrap();
    let mut scenario = story(2, 1, vec![films(8, 0.0)]);
    scenario.nodes[0].dies_at_h = Some(1.5);
    let report = run(&scenario).unwrap();
    assert_eq!((report.node_failures, report.rows[0].finished), (1, 8));
    assert!(report.rows[0].last_h > calm.rows[0].last_h);
}

#[test]
fn nodes_that_fail_by_chance_lose_no_film() {
    let mut scenario = story(4, 2, vec![films(60, 0.0)]);
    scenario.nodes[0].mtbf_h = Some(3.0);
    scenario.nodes[0].repair_h = 0.2;
    scenario.spread = 0.3;
    let report = run(&scenario).unwrap();
    assert!(
        report.node_failures > 5,
        "{} failures",
        report.node_failures
    );
    assert_eq!(report.rows[0].finished, 60);
}

#[test]
fn the_same_seed_gives_the_same_report() {
    let mut scenario = Scenario::night();
    scenario.tenants[0].arrivals[0].films = 40;
    assert_eq!(run(&scenario).unwrap(), run(&scenario).unwrap());
    let other = Scenario {
        seed: 2,
        ..scenario.clone()
    };
    assert_ne!(run(&scenario).unwrap(), run(&other).unwrap());
}

#[test]
fn shots_of_a_film_run_side_by_side() {
    let mut arrivals = films(1, 0.0);
    arrivals.shots = 4;
    let report = run(&story(4, 1, vec![arrivals])).unwrap();
    let last = report.rows[0].last_h.unwrap();
    assert!((1.0..1.05).contains(&last), "the film ended at {last}");
}

#[test]
fn the_picture_names_every_tenant() {
    let report = run(&Scenario::night()).unwrap();
    let picture = svg(&report).unwrap();
    assert!(picture.starts_with("<svg"));
    for tenant in ["producer", "studio", "newsroom", "films that wait"] {
        assert!(picture.contains(tenant), "{tenant} is missing");
    }
}

#[test]
fn a_scenario_that_makes_no_sense_is_refused() {
    let refused = |scenario: &Scenario| run(scenario).unwrap_err().to_string();
    let base = story(1, 1, vec![films(1, 0.0)]);
    let mut none = base.clone();
    none.nodes.clear();
    assert_eq!(
        refused(&none),
        "the scenario has no devices; add at least one"
    );
    let mut slow = base.clone();
    slow.nodes[0].speed = 0.0;
    assert_eq!(refused(&slow), "speed of gpu is 0; it must be above 0");
    let mut twice = base.clone();
    twice.tenants.push(base.tenants[0].clone());
    assert_eq!(
        refused(&twice),
        "two tenants are called studio; give each a name of its own"
    );
    let mut early = base.clone();
    early.tenants[0].arrivals[0].at_h = -1.0;
    assert!(run(&early).is_err());
}
