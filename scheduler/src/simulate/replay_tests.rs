//! Recorded nights decided again, as they were and otherwise.

use super::*;
use crate::{
    core::{event::EventRow, limits::Limits},
    store::events::StoredEvent,
};

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

#[test]
fn a_reclaim_is_decided_again_as_it_was() {
    let log = world::World::new(&tests::lent()).log();
    // Since when the lender lacked devices of its own is told with each that is taken back.
    let lacks = |row: &StoredEvent| row.payload.contains("\"short\":[[");
    assert!(log.iter().any(lacks), "nothing was taken back");
    let scope = Scope {
        from_ms: 0,
        to_ms: log.last().unwrap().at_ms + 1,
        price_per_device_hour: 2.0,
    };
    let replayed = replay(&log, &scope, &Limits::default(), None).unwrap();
    assert_eq!(replayed.check.difference, None);
    assert!(replayed.check.grants > 48, "{:?}", replayed.check);
    let gave_way = |row: &&StoredEvent| row.payload.contains("\"outcome\":\"released\"");
    let gave_way = log.iter().filter(gave_way).count();
    let told: u64 = replayed.recorded.rows.iter().map(|row| row.yields).sum();
    assert_eq!((gave_way, told), (4, 4), "{}", replayed.recorded);
}

/// The log of a script of the core's tests.
fn scripted(script: &str) -> (Vec<StoredEvent>, Limits) {
    let (rows, limits) = crate::core::tests::log(script);
    let stored = |row: EventRow| StoredEvent {
        seq: row.seq,
        at_ms: row.at_ms,
        payload: row.payload,
    };
    (rows.into_iter().map(stored).collect(), limits)
}

#[test]
fn work_that_stood_still_fails_again() {
    let (mut log, limits) = scripted(
        "hello a
         hello b
         job
         grant a
         beat a s0#1:1
         wait 29000
         beat a s0#1:2
         wait 29000
         beat a s0#1:2
         wait 29000
         beat a s0#1:2
         wait 3000
         beat a s0#1:2
         wait 3000
         beat b
         grant b",
    );
    let scope = Scope {
        from_ms: 0,
        to_ms: log.last().unwrap().at_ms + 1,
        price_per_device_hour: 2.0,
    };
    let check = |log: &[StoredEvent]| replay(log, &scope, &limits, None).unwrap().check;
    let found = check(&log);
    assert_eq!((found.difference, found.grants), (None, 2));
    log.retain(|row| !row.payload.contains("\"kind\":\"stalled\""));
    assert!(
        check(&log).difference.is_some(),
        "nothing said that it stood still"
    );
}

#[test]
fn probes_and_what_was_told_of_memory_are_decided_again_as_they_were() {
    let (log, limits) = scripted(
        "hello a gpu gib=80 no-ffmpeg
         hello b gpu gib=24 no-ffmpeg
         job
         grant a
         succeed s0#1 told=40
         beat a xid=94
         job
         grant a
         grant b
         wait 599000
         hello a gpu gib=80 no-ffmpeg
         hello b gpu gib=24 no-ffmpeg
         grant a
         wait 1000
         grant a
         probe a fine
         grant b
         grant a
         job
         job frames=9
         grant b
         succeed 2/s0#1 told=40",
    );
    let has = |kind: &str| log.iter().any(|row| row.payload.contains(kind));
    assert!(
        has("\"kind\":\"probed\"") && has("foretold_bytes"),
        "{log:?}"
    );
    let scope = Scope {
        from_ms: 0,
        to_ms: log.last().unwrap().at_ms + 1,
        price_per_device_hour: 2.0,
    };
    let replayed = replay(&log, &scope, &limits, None).unwrap();
    assert_eq!(replayed.check.difference, None);
    assert_eq!(replayed.check.grants, 3);
    // A farm that does not know what was told would give b the second film.
    let mut forgot = log.clone();
    for row in &mut forgot {
        row.payload = row.payload.replace("foretold_bytes", "unknown");
    }
    let check = replay(&forgot, &scope, &limits, None).unwrap().check;
    assert!(check.difference.is_some(), "{check:?}");
}

#[test]
fn a_film_of_a_sparse_day_can_be_seen() {
    let sample = |at_h, busy| Sample {
        at_h,
        busy: vec![busy],
        up: 1,
        waiting: 0,
    };
    let mut report = run(&Scenario::night()).unwrap();
    report.tenants = vec!["studio".into()];
    report.devices = 2;
    report.samples = vec![sample(0.0, 0), sample(24.0, 0)];
    report.exact = [(0.0, 0), (9.5, 0), (9.5, 1), (9.6, 1), (9.6, 0), (24.0, 0)]
        .map(|(at_h, busy)| sample(at_h, busy))
        .to_vec();
    let picture = svg(&report).unwrap();
    // The marks of the time are those around half past nine.
    assert!(
        picture.contains("09:30") && !picture.contains("12:00"),
        "{picture}"
    );
    // Two devices need marks up to two, and minutes are whole.
    let marks: Vec<&str> = picture.lines().map(str::trim).collect();
    assert!(marks.contains(&"2") && !marks.contains(&"3"), "{picture}");
    assert!(
        marks.contains(&"09:32") && !marks.contains(&"09:33"),
        "{picture}"
    );
}
