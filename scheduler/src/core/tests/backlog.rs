//! Jobs that wait behind others of their line are packed, and nobody can tell.

use schemas::{GpuMicros, JobId};
use uuid::Uuid;

use super::World;
use crate::core::{
    command::Command,
    limits::PREEMPT_LOOKED_AT,
    model::PROJECT,
    packed::{Whole, pack, unpack},
    rows::{JobState, TaskState},
    write::Write,
};

fn id(number: u128) -> JobId {
    JobId(Uuid::from_u128(number))
}

fn waiting(jobs: u128) -> World {
    waiting_for(jobs, "job")
}

/// A node and so many jobs alike, the first of them number 1.
fn waiting_for(jobs: u128, submit: &str) -> World {
    let mut world = World::new();
    world.run("hello a");
    for _ in 0..jobs {
        world.run(submit);
    }
    world
}

/// Everything that memory holds is what a restart would find.
fn check(world: &World) {
    world.model.check(&world.farm, &world.limits, world.now);
}

/// Lets time pass; how many rows of films that changed.
fn wait(world: &mut World, ms: i64) -> usize {
    world.now += ms;
    let outcome = world.farm.apply(Command::Tick, world.now);
    world.model.commit(world.farm.seq(), &outcome.writes);
    let of_films = |write: &&Write| {
        matches!(
            write,
            Write::UpdateJob { .. } | Write::UpdateTask { .. } | Write::RemoveWaiting(_)
        )
    };
    outcome.writes.iter().filter(of_films).count()
}

#[test]
fn only_the_first_of_a_line_has_its_rows_in_memory() {
    let mut world = waiting(300);
    assert_eq!(world.farm.jobs.len(), PREEMPT_LOOKED_AT);
    assert_eq!(world.farm.queue.len(), 300);
    assert_eq!(world.farm.counts().tasks["ready"], 300);
    assert_eq!(world.farm.counts().tasks["blocked"], 300);
    assert_eq!(world.farm.live(id(250)).unwrap().queue_position, Some(250));
    assert_eq!(world.farm.live(id(250)).unwrap().own_ahead, 249);
    for shot in 1..=3 {
        let offer = world.run("grant a");
        assert!(offer.contains("Leased"), "{offer}");
        world.run(&format!("succeed {shot}/s0#1"));
        world.run("grant a");
        world.run(&format!("succeed {shot}/film#1"));
    }
    assert_eq!(world.farm.counts().tasks["ready"], 297);
    let first_packed = 4 + PREEMPT_LOOKED_AT as u128;
    assert!(!world.farm.is_packed(id(first_packed - 1)) && world.farm.is_packed(id(first_packed)));
}

#[test]
fn a_packed_job_can_be_cancelled_and_its_place_closes() {
    let mut world = waiting(200);
    for number in [2, 130, 200] {
        let cancel = Command::Cancel {
            project: PROJECT,
            job: id(number),
        };
        let outcome = world.farm.apply(cancel, world.now);
        world.model.commit(world.farm.seq(), &outcome.writes);
        assert_eq!(world.model.jobs[&id(number)].state, JobState::Cancelled);
    }
    assert_eq!(world.farm.live(id(131)).unwrap().queue_position, Some(129));
    check(&world);
}

/// The night is open from 22:00 to 06:00; the script begins at 00:16:40.
#[test]
fn a_batch_for_the_night_stays_packed_when_its_window_closes_and_opens() {
    let mut world = waiting_for(300, "job start=overnight deadline=200000000 after=10000");
    assert_eq!(world.farm.jobs.len(), PREEMPT_LOOKED_AT);
    assert_eq!(world.farm.queue.len(), 300);

    assert_eq!(
        wait(&mut world, 20_600_000),
        0,
        "six o'clock writes nothing"
    );
    assert_eq!(world.farm.queue.len(), 0);
    assert_eq!(world.farm.counts().tasks["ready"], 300);
    assert_eq!(world.farm.counts().waiting["window_closed"], 300);
    assert!(world.run("why 300/s0").starts_with("WindowClosed"));
    assert_eq!(world.farm.live(id(300)).unwrap().own_ahead, 0);
    world.run("reboot a");
    assert_eq!(world.run("grant a"), "idle: nothing_waits");
    check(&world);

    world.run("job start=overnight deadline=200000000 after=10000");
    assert_eq!(wait(&mut world, 57_600_000), 0, "nor does ten at night");
    assert_eq!(world.farm.jobs.len(), PREEMPT_LOOKED_AT);
    assert_eq!(world.farm.queue.len(), 301);
    world.run("reboot a");
    assert_eq!(world.run("grant a"), "s0#1 Leased, from step 0, 0 inputs");
    check(&world);
}

#[test]
fn a_packed_batch_starts_at_the_instant_that_its_owner_named() {
    let mut world = waiting_for(40, "job after=1500000");
    assert_eq!(world.farm.jobs.len(), PREEMPT_LOOKED_AT);
    assert_eq!((wait(&mut world, 499_999), world.farm.queue.len()), (0, 0));
    assert_eq!(world.run("why 40/s0"), "StartLater { at_ms: 1500000 }");
    check(&world);
    assert_eq!((wait(&mut world, 1), world.farm.queue.len()), (0, 40));
    check(&world);
}

#[test]
fn a_packed_batch_that_misses_its_deadline_fails_to_the_last_film() {
    let mut world = waiting_for(100, "job deadline=1500000");
    assert_eq!(world.farm.jobs.len(), PREEMPT_LOOKED_AT);
    wait(&mut world, 499_999);
    assert_eq!(world.farm.queue.len(), 100);
    wait(&mut world, 1);
    assert_eq!(world.farm.queue.len(), 0);
    let mut states = world.model.jobs.values().map(|job| job.state);
    assert!(states.all(|state| state == JobState::Failed));
    check(&world);
}

#[test]
fn films_behind_another_with_its_own_deadline_keep_their_order() {
    let mut world = waiting_for(20, "job");
    world.run("job deadline=1100000");
    world.run("job");
    // The deadline is near: its film goes before those that came before it.
    wait(&mut world, 90_000);
    world.run("reboot a");
    assert_eq!(
        world.run("grant a"),
        "21/s0#1 Leased, from step 0, 0 inputs"
    );
    check(&world);
}

#[test]
fn hours_that_were_planned_for_packed_films_stay_planned_after_a_crash() {
    // One device: an hour holds 300 films of 12 s.
    let mut world = waiting_for(300, "job start=cheap");
    assert!(world.farm.jobs.len() <= 2 * PREEMPT_LOOKED_AT);
    let planned = world.farm.planned.clone();
    world.run("crash");
    let hours = |farm: &crate::core::Farm| farm.planned.keys().cloned().collect::<Vec<_>>();
    assert_eq!(hours(&world.farm).len(), planned.len());
    check(&world);
}

#[test]
fn rules_of_capacity_count_what_is_packed() {
    let mut world = waiting_for(100, "job devices=2");
    world.run("pool project cpu 2 2 2");
    world.run("pool second cpu 2 2 2");
    assert_eq!(world.farm.jobs.len(), PREEMPT_LOOKED_AT);
    let demand = |world: &World| world.farm.capacity_views(PROJECT)[0].waiting;
    assert_eq!(demand(&world), 200);
    for _ in 0..20 {
        world.run("job start=overnight");
    }
    assert_eq!(demand(&world), 220);
    wait(&mut world, 20_600_000);
    assert_eq!(demand(&world), 200);
    check(&world);
}

/// When this fails, the bytes mean something else than before: raise `FORMAT`.
#[test]
fn the_bytes_of_a_packed_job_are_these() {
    let world = waiting(1);
    let held = &world.farm.jobs[&id(1)];
    let whole = Whole {
        job: held.row.clone(),
        tasks: held
            .tasks
            .iter()
            .map(|task| world.farm.task_at(*task).row.clone())
            .collect(),
        reservation: world.farm.reservations[&id(1)].clone(),
    };
    let bytes = pack(&whole, &world.farm.shapes).unwrap();
    expect_test::expect!["0200000000000000000000000000000001000000000000000000000000000000020001000e070000000000000080897a80dac40902000000000000000000000000000000640080b6dc0500000000000000000000000000000000650180b6dc050100"].assert_eq(&hex::encode(&bytes));
    assert_eq!(unpack(&bytes, &world.farm.shapes).unwrap(), whole);

    let wishes = |edit: fn(&mut Whole)| {
        let mut other = whole.clone();
        edit(&mut other);
        pack(&other, &world.farm.shapes)
    };
    let night = wishes(|job| {
        job.job.window = Some("overnight".into());
        job.job.not_before_ms = Some(1);
        job.job.deadline_ms = Some(9_000_000);
        job.job.could_start_ms = Some(2);
        job.tasks[0].state = TaskState::new(0, 1_500_000);
    });
    expect_test::expect!["0200000000000000000000000000000001000000000000000000000000000000023e01000e070000000000000080897a80dac409096f7665726e696768740280d1ca08c08db7010402000000000000000000000000000000640080b6dc0500000000000000000000000000000000650180b6dc050100"].assert_eq(&hex::encode(night.unwrap()));
    assert_eq!(wishes(|job| job.job.state = JobState::Rendering), None);
    assert_eq!(wishes(|job| job.tasks[0].attempt = 1), None);
    assert_eq!(wishes(|job| job.reservation.posted = GpuMicros(1)), None);
}
