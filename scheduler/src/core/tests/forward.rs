//! Small farms whose ends are known exactly.

use expect_test::{Expect, expect};
use schemas::{JobId, task::TaskSpec};
use uuid::Uuid;

use super::{World, job};
use crate::core::{
    forward::{Ahead, Foretold, forward},
    outlook::{Outlook, Plan},
};

const PPM: u64 = 1_000_000;

/// Each shot takes 60 s in ten steps, a film 5 s.
fn serve(spec: &TaskSpec, _: &str, step: u32) -> Plan {
    match spec {
        TaskSpec::Render(_) => Plan {
            before_ms: 5_000,
            step,
            steps: 10,
            step_ms: 5_000,
            after_ms: 5_000,
        },
        TaskSpec::Assemble(_) => Plan {
            after_ms: 5_000,
            ..Plan::default()
        },
    }
}

fn outlook(world: &World, share_ppm: u64) -> Outlook {
    let (jobs, _) = world.farm.outlook_page(None, usize::MAX);
    let mut frame = world.farm.outlook_frame();
    frame.add(world.farm.outlook_accounts(None, usize::MAX));
    Outlook {
        frame,
        jobs,
        share_ppm,
    }
}

fn ahead(world: &World) -> Ahead {
    let left = |_| Plan {
        after_ms: 20_000,
        ..Plan::default()
    };
    forward(&outlook(world, PPM), &[], &serve, &left, &|| false).unwrap()
}

/// Start and end of each job, in seconds from now.
fn check(script: &[&str], expected: Expect) {
    let mut world = World::new();
    for line in script {
        world.run(line);
    }
    let found = ahead(&world);
    let in_s = |at: Option<i64>| at.map_or("?".into(), |at| ((at - world.now) / 1_000).to_string());
    let line = |(id, job): (&JobId, &Foretold)| {
        format!(
            "{}: {} to {}\n",
            id.0.as_u128(),
            in_s(job.starts_ms),
            in_s(job.ends_ms)
        )
    };
    expected.assert_eq(&found.jobs.iter().map(line).collect::<String>());
}

#[test]
fn one_device_does_one_film_after_the_other() {
    // Films are put together as soon as their shots are there, before the next shot begins.
    check(
        &["hello a", "job", "job", "job"],
        expect![[r#"
            1: 0 to 65
            2: 65 to 130
            3: 130 to 195
        "#]],
    );
}

#[test]
fn two_devices_share_shots_and_the_film_waits_for_the_last() {
    check(
        &["hello a", "hello b", "job shots=3", "job"],
        expect![[r#"
            1: 0 to 125
            2: 60 to 125
        "#]],
    );
}

#[test]
fn what_runs_goes_on_from_where_it_is() {
    check(
        &["hello a", "job", "grant a", "job"],
        expect![[r#"
            1: 0 to 25
            2: 25 to 90
        "#]],
    );
}

#[test]
fn a_device_that_is_too_small_is_not_counted_on() {
    check(
        &[
            "hello big gpu gib=80",
            "hello small gpu gib=24",
            "job",
            "grant big",
            "succeed s0#1 told=40",
            "grant big",
            "succeed film#1",
            "job",
            "job",
            "job frames=9",
        ],
        expect![[r#"
            2: 0 to 65
            3: 65 to 130
            4: 0 to 65
        "#]],
    );
}

#[test]
fn another_account_comes_in_between_by_its_share() {
    check(
        &["hello a", "job", "job", "job", "job of=second"],
        expect![[r#"
            1: 0 to 125
            2: 130 to 195
            3: 195 to 260
            4: 60 to 130
        "#]],
    );
}

#[test]
fn a_window_holds_back_until_it_opens() {
    // The script begins at 00:16:40 UTC, inside the night; by 12:00 the next one is ten hours away.
    check(
        &[
            "wait 42200000",
            "hello a",
            "job start=overnight band=overnight",
        ],
        expect![[r#"
            1: 36000 to 36065
        "#]],
    );
}

#[test]
fn an_urgent_job_takes_a_device_and_its_victim_ends_later() {
    check(
        &["hello a", "job", "wait 1", "job"],
        expect![[r#"
            1: 0 to 65
            2: 65 to 130
        "#]],
    );
    let mut world = World::new();
    for line in ["hello a", "job", "grant a", "job band=urgent"] {
        world.run(line);
    }
    // A minute and three steps after its grant the running shot may be interrupted; it has 200 s left.
    let left = |_| Plan {
        step: 0,
        steps: 40,
        step_ms: 5_000,
        ..Plan::default()
    };
    let found = forward(&outlook(&world, PPM), &[], &serve, &left, &|| false).unwrap();
    let job = |id: u128| found.jobs[&JobId(Uuid::from_u128(id))];
    let starts = (job(2).starts_ms.unwrap() - world.now) / 1_000;
    assert!(
        (60..=70).contains(&starts),
        "the urgent job starts after {starts} s"
    );
    assert!(job(1).ends_ms > job(2).ends_ms);
}

#[test]
fn what_no_device_can_do_has_no_end_and_holds_up_nobody() {
    let mut world = World::new();
    for line in ["hello n no-weights", "job"] {
        world.run(line);
    }
    let found = ahead(&world);
    assert_eq!(found.jobs.values().next(), Some(&Foretold::default()));
    assert_eq!(found.stopped_ms, None);
}

#[test]
fn a_job_that_was_not_made_yet_is_played_behind_the_others() {
    let mut world = World::new();
    for line in ["hello a", "job"] {
        world.run(line);
    }
    let probe = job(9, 1);
    let left = |_| Plan::default();
    let found = forward(&outlook(&world, PPM), &[probe], &serve, &left, &|| false).unwrap();
    let probe = found.jobs[&JobId(Uuid::from_u128(9))];
    assert_eq!(probe.ends_ms, Some(world.now + 130_000));
    assert_eq!(
        found.reasons[0].as_ref().map(|why| why.code()),
        Some("devices_busy")
    );
}

#[test]
fn a_tenth_of_the_jobs_is_played_by_a_tenth_of_the_farm() {
    let mut world = World::new();
    world.run("hello a");
    (0..10).for_each(|_| drop(world.run("job")));
    let left = |_| Plan::default();
    let whole = forward(&outlook(&world, PPM), &[], &serve, &left, &|| false).unwrap();
    let mut part = outlook(&world, PPM / 10);
    part.jobs.truncate(1);
    let part = forward(&part, &[], &serve, &left, &|| false).unwrap();
    let ends = |ahead: &Ahead| {
        ahead
            .jobs
            .values()
            .filter_map(|job| job.ends_ms)
            .max()
            .unwrap()
    };
    // One job on a tenth of a device: its wait is the same as if ten shared it, its own time is its own.
    assert_eq!((ends(&whole) - world.now) / 1_000, 650);
    assert_eq!((ends(&part) - world.now) / 1_000, 65);
}

#[test]
fn a_run_that_is_told_to_stop_says_so() {
    let mut world = World::new();
    for line in ["hello a", "job"] {
        world.run(line);
    }
    let left = |_| Plan::default();
    let found = forward(&outlook(&world, PPM), &[], &serve, &left, &|| true).unwrap();
    assert_eq!(found.stopped_ms, Some(world.now));
    assert!(found.jobs.values().all(|job| job.ends_ms.is_none()));
}

#[test]
fn a_forecast_knows_how_many_attempts_fail() {
    let mut world = World::new();
    for line in ["hello a", "job", "grant a", "fail s0#1 io"] {
        assert_eq!(outlook(&world, PPM).frame.fail_permille, 0);
        world.run(line);
    }
    // One of the 21 that are believed or seen.
    assert_eq!(outlook(&world, PPM).frame.fail_permille, 47);
}
