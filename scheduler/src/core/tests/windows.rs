//! Work that waits for the night. The script begins at 00:16:40 UTC, so the window is open until 06:00.

use std::{collections::BTreeMap, sync::Arc};

use expect_test::expect;
use jiff::{civil, tz::TimeZone};

use super::check;
use crate::core::{
    tariff::Series,
    windows::{AtEnd, EVERY_DAY, Window},
};

/// Windows of the scripts. A shot and its film take 12 s, with nine chances in ten 18 s, rounded up to 18.432.
pub fn all() -> [(&'static str, Window); 5] {
    let night = Window {
        zone: TimeZone::UTC,
        weekdays: EVERY_DAY.to_vec(),
        start: civil::time(22, 0, 0, 0),
        end: civil::time(6, 0, 0, 0),
        at_end: AtEnd::Finish,
        fit: false,
        prices: None,
    };
    // From one to two it is dear, from two on cheap, from three on less so; all other hours are dearest.
    let hours = BTreeMap::from([(0, 300_000), (1, 250_000), (2, 100_000), (3, 200_000)]);
    let minute = Window {
        start: civil::time(1, 0, 0, 0),
        end: civil::time(1, 1, 0, 0),
        fit: true,
        ..night.clone()
    };
    [
        ("overnight", night.clone()),
        (
            "shift",
            Window {
                at_end: AtEnd::Yield,
                ..night.clone()
            },
        ),
        (
            "cheap",
            Window {
                prices: Some(Arc::new(Series::of(hours).unwrap())),
                ..night
            },
        ),
        ("minute", minute.clone()),
        (
            "blink",
            Window {
                end: civil::time(1, 0, 9, 0),
                ..minute
            },
        ),
    ]
}

/// From 00:16:40 to 06:00:00, and from there to 22:00:00.
#[test]
fn a_job_starts_only_while_its_window_is_open() {
    check(
        "hello a no-ffmpeg
         wait 20600000
         reboot a no-ffmpeg
         job start=overnight
         why s0
         grant a
         wait 57599999
         reboot a no-ffmpeg
         grant a
         wait 1
         grant a",
        expect![[r#"
            hello a no-ffmpeg         Online
            wait 20600000             
            reboot a no-ffmpeg        Online
            job start=overnight       created 1
            why s0                    WindowClosed { window: "overnight", opens_ms: 79200000 }
            grant a                   idle: nothing_waits
            wait 57599999             s0 Ready, film Blocked
            reboot a no-ffmpeg        Online
            grant a                   idle: nothing_waits
            wait 1                    s0 Ready, film Blocked
            grant a                   s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn what_could_not_start_before_the_window_closed_waits_for_the_next_night_also_after_a_crash() {
    check(
        "job start=overnight
         why s0
         wait 20600000
         hello a no-ffmpeg
         grant a
         crash
         grant a
         why s0",
        expect![[r#"
            job start=overnight       created 1
            why s0                    ModelMissing { weights: "builtin" }
            wait 20600000             s0 Ready, film Blocked
            hello a no-ffmpeg         Online
            grant a                   idle: nothing_waits
            crash                     s0 Ready, film Blocked
            grant a                   idle: nothing_waits
            why s0                    WindowClosed { window: "overnight", opens_ms: 79200000 }
        "#]],
    );
}

#[test]
fn what_has_begun_goes_on_after_the_window_has_closed() {
    check(
        "hello a
         job start=overnight
         grant a
         wait 20600000
         reboot a
         grant a
         succeed s0#2
         grant a",
        expect![[r#"
            hello a                   Online
            job start=overnight       created 1
            grant a                   s0#1 Leased, from step 0, 0 inputs
            wait 20600000             s0 Ready, film Blocked
            reboot a                  Online
            grant a                   s0#2 Leased, from step 0, 0 inputs
            succeed s0#2              Succeeded
            grant a                   film#1 Leased, from step 0, 1 inputs
        "#]],
    );
}

#[test]
fn nothing_starts_before_the_instant_that_its_owner_named() {
    check(
        "hello a no-ffmpeg
         job after=1020000
         why s0
         grant a
         wait 19999
         reboot a no-ffmpeg
         grant a
         wait 1
         grant a",
        expect![[r#"
            hello a no-ffmpeg         Online
            job after=1020000         created 1
            why s0                    StartLater { at_ms: 1020000 }
            grant a                   idle: nothing_waits
            wait 19999                s0 Ready, film Blocked
            reboot a no-ffmpeg        Online
            grant a                   idle: nothing_waits
            wait 1                    s0 Ready, film Blocked
            grant a                   s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn a_job_that_has_not_begun_by_its_deadline_fails_and_costs_nothing_also_after_a_crash() {
    check(
        "job deadline=1060000
         job deadline=1060000
         hello a
         grant a
         money project
         crash
         wait 60000
         job-state 1
         job-state 2
         money project",
        expect![[r#"
            job deadline=1060000      created 1
            job deadline=1060000      created 2
            hello a                   Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            money project             available -20, held 20, spent 0, mint 0
            crash                     s0 Leased, film Blocked, 2/s0 Ready, 2/film Blocked
            wait 60000                s0 Ready, film Blocked, 2/s0 Cancelled, 2/film Cancelled
            job-state 1               Rendering 0% Pending spent 0 
            job-state 2               Failed 0% Voided spent 0 deadline_passed
            money project             available -10, held 10, spent 0, mint 0
        "#]],
    );
}

#[test]
fn work_ages_so_that_it_begins_in_time_for_its_deadline() {
    // 12 s of work, 18 s with nine chances in ten: from 42 s on it goes before urgent work.
    check(
        "hello a no-ffmpeg
         job band=overnight deadline=1060000
         job band=urgent
         grant a
         wait 14000
         beat a 2/s0#1:2
         wait 14000
         beat a 2/s0#1:4
         wait 14000
         succeed 2/s0#1
         job band=urgent
         grant a",
        expect![[r#"
            hello a no-ffmpeg         Online
            job band=overnight deadline=1060000created 1
            job band=urgent           created 2
            grant a                   2/s0#1 Leased, from step 0, 0 inputs
            wait 14000                s0 Ready, film Blocked, 2/s0 Leased, 2/film Blocked
            beat a 2/s0#1:2           Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Ready, film Blocked, 2/s0 Leased, 2/film Blocked
            beat a 2/s0#1:4           Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Ready, film Blocked, 2/s0 Leased, 2/film Blocked
            succeed 2/s0#1            Succeeded
            job band=urgent           created 3
            grant a                   s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn a_job_that_could_never_start_is_refused_with_the_reason() {
    check(
        "job deadline=1000000
         job after=1050000 deadline=1050000
         job start=minute deadline=3600000
         job start=minute deadline=3600001
         job start=blink",
        expect![[r#"
            job deadline=1000000      refused: the job could never start: its deadline has passed
            job after=1050000 deadline=1050000refused: the job could never start: it may not begin before 1970-01-01 00:17 UTC, which is after its deadline
            job start=minute deadline=3600000refused: the job could never start: it may not begin before 1970-01-01 01:00 UTC, which is after its deadline
            job start=minute deadline=3600001created 4
            job start=blink           refused: the job could never start: it may take a minute, and no opening of its window is that long
        "#]],
    );
}

#[test]
fn a_window_that_work_must_fit_lets_nothing_start_that_may_not_be_done() {
    // The window is from 01:00:00 to 01:01:00; 18.432 s before its end is the last start.
    check(
        "job start=minute
         wait 2600000
         hello a no-ffmpeg
         wait 14000
         beat a
         wait 14000
         beat a
         wait 13567
         grant a
         job start=minute
         wait 1
         why 2/s0",
        expect![[r#"
            job start=minute          created 1
            wait 2600000              s0 Ready, film Blocked
            hello a no-ffmpeg         Online
            wait 14000                s0 Ready, film Blocked
            beat a                    Run
            wait 14000                s0 Ready, film Blocked
            beat a                    Run
            wait 13567                s0 Ready, film Blocked
            grant a                   s0#1 Leased, from step 0, 0 inputs
            job start=minute          created 2
            wait 1                    s0 Leased, film Blocked, 2/s0 Ready, 2/film Blocked
            why 2/s0                  WindowClosed { window: "minute", opens_ms: 90000000 }
        "#]],
    );
}

#[test]
fn what_runs_when_such_a_window_closes_stops_and_goes_on_the_next_night() {
    check(
        "hello a
         job shots=2 start=shift
         wait 20580000
         reboot a
         grant a
         beat a s0#1:1
         wait 14000
         beat a s0#1:2
         wait 6000
         why s1
         beat a s0#1:3
         release s0#1 4
         why s0
         grant a
         crash
         grant a
         wait 57600000
         reboot a
         grant a
         succeed s0#2",
        expect![[r#"
            hello a                   Online
            job shots=2 start=shift   created 1
            wait 20580000             s0 Ready, s1 Ready, film Blocked
            reboot a                  Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            beat a s0#1:1             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, s1 Ready, film Blocked
            beat a s0#1:2             Run Continue { ttl_ms: 30000 }
            wait 6000                 s0 Leased, s1 Ready, film Blocked
            why s1                    WindowClosed { window: "shift", opens_ms: 79200000 }
            beat a s0#1:3             Run Yield { reason: "its window has closed" }
            release s0#1 4            Ready
            why s0                    WindowClosed { window: "shift", opens_ms: 79200000 }
            grant a                   idle: nothing_waits
            crash                     s0 Ready, s1 Ready, film Blocked
            grant a                   idle: nothing_waits
            wait 57600000             s0 Ready, s1 Ready, film Blocked
            reboot a                  Online
            grant a                   s0#2 Leased, from step 4, 0 inputs
            succeed s0#2              Succeeded
        "#]],
    );
}

#[test]
fn a_scheduler_that_was_away_at_the_close_stops_the_work_when_it_is_back() {
    check(
        "hello a
         job start=shift
         wait 20580000
         reboot a
         grant a
         beat a s0#1:1
         away 21000
         crash
         beat a s0#1:2",
        expect![[r#"
            hello a                   Online
            job start=shift           created 1
            wait 20580000             s0 Ready, film Blocked
            reboot a                  Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            beat a s0#1:1             Run Continue { ttl_ms: 30000 }
            away 21000                
            crash                     s0 Leased, film Blocked
            beat a s0#1:2             Run Yield { reason: "its window has closed" }
        "#]],
    );
}

#[test]
fn priced_hours_fill_up_from_the_cheapest_and_the_job_says_what_it_saved() {
    check(
        "job start=cheap
         why s0
         crash
         job start=cheap deadline=9000000
         why 2/s0
         job start=cheap deadline=2000000
         hello a no-ffmpeg
         grant a
         succeed 3/s0#1
         wait 6200000
         reboot a no-ffmpeg
         grant a
         saved 1
         saved 3",
        expect![[r#"
            job start=cheap           created 1
            why s0                    StartLater { at_ms: 7200000 }
            crash                     s0 Ready, film Blocked
            job start=cheap deadline=9000000created 2
            why 2/s0                  StartLater { at_ms: 7200000 }
            job start=cheap deadline=2000000created 3
            hello a no-ffmpeg         Online
            grant a                   3/s0#1 Leased, from step 0, 0 inputs
            succeed 3/s0#1            Succeeded
            wait 6200000              s0 Ready, film Blocked, 2/s0 Ready, 2/film Blocked, 3/s0 Succeeded, 3/film Ready
            reboot a no-ffmpeg        Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            saved 1                   Some(666)
            saved 3                   Some(0)
        "#]],
    );
}
