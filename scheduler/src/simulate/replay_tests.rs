//! Recorded nights decided again, as they were and otherwise.

use super::*;
use crate::{core::limits::Limits, store::events::StoredEvent};

/// The night of `dailies simulate`: a node dies, urgent films take devices.
fn night() -> (Vec<StoredEvent>, Scope) {
    let scenario = Scenario::night();
    let log = world::World::new(&scenario).log();
    let scope = Scope {
        from_ms: (scenario.from_h * 3.6e6) as i64,
        to_ms: log.last().unwrap().at_ms + 1, // when the last film is done
        price_per_device_hour: 2.0,
    };
    (log, scope)
}

#[test]
fn a_recorded_night_is_decided_again_as_it_was() {
    let (log, scope) = night();
    let replayed = replay(&log, &scope, &Limits::default(), None).unwrap();
    assert_eq!(replayed.check.difference, None);
    assert!(replayed.check.grants > 1_000, "{:?}", replayed.check);
    assert!(!replayed.is_cut && replayed.changed.is_none());
    let played = run(&Scenario::night()).unwrap();
    for (told, truth) in replayed.recorded.rows.iter().zip(&played.rows) {
        assert_eq!((told.films, told.finished), (truth.films, truth.finished));
        assert!(
            (told.wait_s[1] - truth.wait_s[1]).abs() < 1.0,
            "{told:?} {truth:?}"
        );
    }
    assert!((replayed.recorded.utilisation - played.utilisation).abs() < 0.05);
    assert!(svg(&replayed.recorded).unwrap().contains("newsroom"));
}

#[test]
fn claims_are_placed_again_as_they_were() {
    let log = world::World::new(&tests::crowded()).log();
    let scope = Scope {
        from_ms: 0,
        to_ms: log.last().unwrap().at_ms + 1,
        price_per_device_hour: 2.0,
    };
    let replayed = replay(&log, &scope, &Limits::default(), None).unwrap();
    assert_eq!(replayed.check.difference, None);
    assert!(replayed.check.grants > 1_000, "{:?}", replayed.check);
}

#[test]
fn the_first_grant_that_differs_is_told() {
    let (mut log, scope) = night();
    let grants: Vec<usize> = (0..log.len())
        .filter(|at| log[*at].payload.contains("\"kind\":\"grant\""))
        .collect();
    let (fifth, sixth) = (grants[5], grants[6]);
    log[fifth].payload = log[sixth].payload.clone();
    let check = replay(&log, &scope, &Limits::default(), None)
        .unwrap()
        .check;
    let difference = check.difference.expect("the fifth grant was changed");
    assert_eq!((difference.seq, check.grants), (log[fifth].seq, 5));
    assert!(difference.to_string().contains("now it would get task"));
}

#[test]
fn more_devices_would_have_shortened_the_night() {
    let (log, scope) = night();
    let rules = Limits::default();
    let change = |devices| Change {
        devices,
        ..Change::default()
    };
    let with = |change: Change| {
        let replayed = replay(&log, &scope, &rules, Some((&change, &rules))).unwrap();
        let report = replayed.changed.unwrap();
        let row = report.rows.iter().find(|row| row.tenant == "producer");
        let row = row.unwrap().clone();
        (row.finished, row.wait_s[1], report.devices)
    };
    let (finished, wait_s, devices) = with(change(Vec::new()));
    assert_eq!((finished, devices), (500, 12));
    let class = Scenario::night().nodes[0].class.clone();
    let (more, sooner_s, more_devices) = with(change(vec![(8, class)]));
    assert_eq!((more, more_devices), (500, 20));
    assert!(sooner_s < 0.8 * wait_s, "{sooner_s} s, not {wait_s} s");
    let none = change(vec![(1, "abacus".into())]);
    let error = replay(&log, &scope, &rules, Some((&none, &rules))).unwrap_err();
    assert!(
        error.to_string().contains("no device of class 'abacus'"),
        "{error}"
    );
}

#[test]
fn limits_of_accounts_are_named_as_people_name_them() {
    let (log, _) = night();
    let wish = |name: &str| {
        let wish = Wish {
            devices_max: Some(2),
            ..Wish::default()
        };
        orders(&log, &[(name.to_string(), wish)].into())
    };
    assert_eq!(wish("studio").unwrap().len(), 1);
    let error = wish("nobody").unwrap_err().to_string();
    assert!(
        error.contains("no account 'nobody'") && error.contains("studio"),
        "{error}"
    );
    assert!(instant_ms("2026-11-26").is_ok() && instant_ms("2026-11-26T19:00").is_ok());
    assert!(instant_ms("yesterday").is_err());
}
