//! Small stories with known ends.

use std::collections::BTreeMap;

use super::*;
use crate::core::{limits::Limits, rows::Band};

fn story(nodes: u32, devices: u32, arrivals: Vec<Arrivals>) -> Scenario {
    Scenario {
        name: "story".into(),
        seed: 7,
        from_h: 0.0,
        to_h: 48.0,
        spread: 0.0,
        price_per_device_hour: Some(2.0),
        windows: BTreeMap::new(),
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
            weight: 1,
            capacity: BTreeMap::new(),
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
        start: None,
        deadline_h: None,
        shots: 1,
        shot_s: 3600.0,
        steps: 40,
        devices: 1,
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

fn night(prices: Vec<f64>) -> BTreeMap<String, StoryWindow> {
    let window = StoryWindow {
        start: "22:00".into(),
        end: "06:00".into(),
        yields: false,
        fit: false,
        prices,
    };
    BTreeMap::from([("night".into(), window)])
}

/// From three to five it costs a tenth of what it costs at all other hours.
fn cheap_at_three() -> Vec<f64> {
    let price = |hour| if [3, 4].contains(&hour) { 0.1 } else { 1.0 };
    (0..24).map(price).collect()
}

#[test]
fn a_night_of_priced_hours_uses_the_cheap_ones_first_and_says_what_it_saved() {
    // Two devices, six films of an hour: four fit into the cheap hours, two do not.
    let mut arrivals = films(6, 20.0);
    arrivals.start = Some("night".into());
    arrivals.shot_s = 3500.0;
    let mut scenario = story(1, 2, vec![arrivals]);
    scenario.windows = night(cheap_at_three());
    let report = run(&scenario).unwrap();
    let row = &report.rows[0];
    assert_eq!(row.finished, 6);
    let saved = row.saved.unwrap();
    assert!(
        (3.3..3.8).contains(&saved),
        "four of six films saved 0.9 each: {saved}"
    );
    assert!(format!("{report}").contains("saved 3."), "{report}");
    scenario.windows = night(Vec::new());
    let plain = run(&scenario).unwrap();
    assert_eq!(plain.rows[0].saved, None);
    assert!(
        plain.rows[0].last_h < row.last_h,
        "it waited for the cheap hours"
    );
}

#[test]
fn a_deadline_wins_over_a_cheap_hour_and_what_cannot_begin_by_it_is_given_up() {
    // One device from ten on: of twelve films of an hour, due to begin by two, four can.
    let mut arrivals = films(12, 20.0);
    arrivals.start = Some("night".into());
    arrivals.deadline_h = Some(26.0);
    let mut scenario = story(1, 1, vec![arrivals]);
    scenario.windows = night(cheap_at_three());
    let report = run(&scenario).unwrap();
    let row = &report.rows[0];
    assert_eq!((row.finished, row.given_up), (4, 8));
    assert!(
        format!("{report}").contains("8 ended without a film"),
        "{report}"
    );
    // Whoever replays that night sees them wait until then, and nobody behind them.
    let log = world::World::new(&scenario).log();
    let scope = Scope {
        from_ms: 0,
        to_ms: log.last().unwrap().at_ms + 1,
        price_per_device_hour: 1.0,
    };
    let windows = scenario.windows.iter();
    let windows = windows.map(|(name, it)| (name.clone(), it.window(name, scenario.to_h).unwrap()));
    let limits = Limits {
        windows: windows.collect(),
        ..Limits::default()
    };
    let again = replay(&log, &scope, &limits, None).unwrap().recorded;
    assert_eq!((again.rows[0].finished, again.rows[0].given_up), (4, 8));
    assert!(again.rows[0].last_h.is_some() && again.rows[0].wait_s[2] < 7.0 * 3_600.0);
    assert_eq!(again.samples.last().unwrap().waiting, 0);
}

#[test]
fn a_window_that_yields_leaves_the_day_free_and_loses_no_film() {
    // Eight hours of window a night; ten films of two hours on two devices need ten hours each.
    let mut arrivals = films(10, 20.0);
    arrivals.start = Some("night".into());
    arrivals.shot_s = 7200.0;
    let mut scenario = story(1, 2, vec![arrivals]);
    scenario.to_h = 72.0;
    scenario.windows = night(Vec::new());
    scenario.windows.get_mut("night").unwrap().yields = true;
    let report = run(&scenario).unwrap();
    assert_eq!(report.rows[0].finished, 10);
    // Films are joined at any hour; render tasks stop within a step and a heartbeat.
    let day = report
        .samples
        .iter()
        .filter(|s| (30.3..45.8).contains(&s.at_h));
    assert!(day.clone().count() > 20);
    for sample in day {
        assert_eq!(sample.busy, [0], "work at {}", sample.at_h);
    }
    let twice = StoryWindow {
        start: "late".into(),
        ..scenario.windows["night"].clone()
    };
    scenario.windows.insert("odd".into(), twice);
    let error = run(&scenario).unwrap_err().to_string();
    assert_eq!(error, "window odd: 'late' is no time such as 22:00");
}

/// The bound: an eligible task starts within its age limit and the aged work before it,
/// `age limit + (aged tasks ahead × service) ÷ (0.25 × devices)`.
#[test]
fn a_flood_of_urgent_work_starves_no_other() {
    let arrivals = |band, count, until_h| Arrivals {
        band,
        until_h,
        shot_s: 600.0,
        ..films(count, 0.0)
    };
    let flood = arrivals(Band::Urgent, 360, Some(12.0));
    let standard = arrivals(Band::Standard, 24, None);
    let overnight = arrivals(Band::Overnight, 6, None);
    let report = run(&story(2, 2, vec![flood, standard, overnight])).unwrap();
    let wait = |band| {
        report
            .rows
            .iter()
            .find(|row| row.band == band)
            .unwrap()
            .wait_s[2]
    };
    let (devices, service_s) = (4.0, 620.0);
    let bound = |age_h: f64, ahead: f64| age_h * 3600.0 + (ahead * service_s) / (0.25 * devices);
    assert!(wait(Band::Standard) <= bound(4.0, 24.0), "{report}");
    assert!(wait(Band::Overnight) <= bound(24.0, 30.0), "{report}");
    assert!(wait(Band::Urgent) > 3600.0, "the flood is one: {report}");
}

#[test]
fn an_account_that_had_much_waits_at_most_until_its_work_is_aged() {
    // Its urgent films have made it the last in the fair order for eight hours.
    let film = |band, count, at_h, until_h| Arrivals {
        band,
        until_h,
        shot_s: 600.0,
        ..films(count, at_h)
    };
    let mut scenario = story(
        2,
        2,
        vec![
            film(Band::Urgent, 96, 0.0, None),
            film(Band::Standard, 1, 5.0, None),
        ],
    );
    scenario.tenants.push(Tenant {
        name: "flood".into(),
        weight: 1,
        capacity: BTreeMap::new(),
        arrivals: vec![film(Band::Standard, 300, 4.0, Some(14.0))],
    });
    let report = run(&scenario).unwrap();
    let late = &report
        .rows
        .iter()
        .find(|row| (row.tenant.as_str(), row.band) == ("studio", Band::Standard));
    let [wait_s, ..] = late.unwrap().wait_s;
    assert!(wait_s > 3.9 * 3600.0, "fair share holds it back: {report}");
    // Few films of the flood are older than it is.
    let bound_s = 4.0 * 3600.0 + 10.0 * 620.0;
    assert!(wait_s <= bound_s, "{wait_s} s: {report}");
}

/// Four nodes of two devices, half of them of each of two accounts; the second begins later.
pub(super) fn lent() -> Scenario {
    let four = StoryCapacity {
        nominal: 4,
        borrow: 4,
        lend: 4,
    };
    let tenant = |name: &str, at_h, count| Tenant {
        name: name.into(),
        weight: 1,
        capacity: BTreeMap::from([("gpu".to_owned(), four)]),
        arrivals: vec![films(count, at_h)],
    };
    let mut scenario = story(4, 2, Vec::new());
    scenario.tenants = vec![tenant("batch", 0.0, 40), tenant("owner", 2.5, 8)];
    scenario
}

#[test]
fn devices_of_an_account_are_lent_while_it_sleeps_and_are_back_within_minutes() {
    let mut scenario = lent();
    let report = run(&scenario).unwrap();
    let before = report
        .samples
        .iter()
        .filter(|s| (0.5..2.4).contains(&s.at_h));
    assert!(before.clone().all(|s| s.busy == [8, 0]), "all was lent");
    let after = report
        .samples
        .iter()
        .filter(|s| (2.8..4.0).contains(&s.at_h));
    assert!(after.clone().count() > 3 && after.clone().all(|s| s.busy == [4, 4]));
    assert_eq!(
        report.rows[0].yields, 4,
        "no more than is owed gives way: {report}"
    );
    for tenant in &mut scenario.tenants {
        tenant.capacity.clear();
    }
    let free = run(&scenario).unwrap();
    assert_eq!(free.rows[0].yields, 0, "without the rule nobody gives way");
}

/// Two nodes of four devices under a stream of short and long films, and one film that needs a whole node.
pub(super) fn crowded() -> Scenario {
    let short = |count, shot_s| Arrivals {
        until_h: Some(6.0),
        shot_s,
        ..films(count, 0.0)
    };
    let mut scenario = story(2, 4, vec![short(480, 120.0), short(90, 1500.0)]);
    let group = Arrivals {
        devices: 4,
        shot_s: 4.0 * 1200.0,
        ..films(1, 1.0)
    };
    scenario.tenants.push(Tenant {
        name: "wide".into(),
        weight: 1,
        capacity: BTreeMap::new(),
        arrivals: vec![group],
    });
    scenario.to_h = 24.0;
    scenario
}

#[test]
fn a_stream_of_narrow_films_never_starves_a_group_and_fills_the_time_that_it_waits() {
    let report = run(&crowded()).unwrap();
    let row = report.rows.iter().find(|row| row.tenant == "wide").unwrap();
    // It is overtaken for five minutes; the last long film that began before is done within 25 more.
    let bound_s = 300.0 + 1500.0 * 1.5 + 60.0;
    assert_eq!(row.finished, 1);
    assert!(
        row.wait_s[0] > 300.0 && row.wait_s[0] <= bound_s,
        "{report}"
    );
    // While it waits for the last device of its node, short films run on the others.
    let waits = |s: &&Sample| s.at_h > 1.1 && s.at_h < 1.0 + row.wait_s[0] / 3600.0;
    let waiting: Vec<&Sample> = report.samples.iter().filter(waits).collect();
    let at_work: u32 = waiting.iter().flat_map(|s| &s.busy).sum();
    let share = f64::from(at_work) / (8.0 * waiting.len() as f64);
    assert!(
        waiting.len() > 3 && share > 0.85,
        "{share} of {} samples",
        waiting.len()
    );
}
