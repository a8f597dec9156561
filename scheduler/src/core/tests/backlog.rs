//! Jobs that wait behind others of their line are packed, and nobody can tell.

use schemas::{GpuMicros, JobId};
use uuid::Uuid;

use super::World;
use crate::core::{
    command::Command,
    limits::PREEMPT_LOOKED_AT,
    model::PROJECT,
    packed::{Whole, pack, unpack},
    rows::JobState,
};

fn id(number: u128) -> JobId {
    JobId(Uuid::from_u128(number))
}

fn waiting(jobs: u128) -> World {
    let mut world = World::new();
    world.run("hello a");
    for _ in 0..jobs {
        world.run("job");
    }
    world
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
    world.model.check(&world.farm, &world.limits, world.now);
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
    expect_test::expect!["0100000000000000000000000000000001000000000000000000000000000000020001000e070000000000000080897a80dac40902000000000000000000000000000000640080b6dc0500000000000000000000000000000000650180b6dc050100"].assert_eq(&hex::encode(&bytes));
    assert_eq!(unpack(&bytes, &world.farm.shapes).unwrap(), whole);

    let wishes = |edit: fn(&mut Whole)| {
        let mut other = whole.clone();
        edit(&mut other);
        pack(&other, &world.farm.shapes)
    };
    assert_eq!(
        wishes(|job| job.job.window = Some("overnight".into())),
        None
    );
    assert_eq!(wishes(|job| job.job.state = JobState::Rendering), None);
    assert_eq!(wishes(|job| job.tasks[0].attempt = 1), None);
    assert_eq!(wishes(|job| job.reservation.posted = GpuMicros(1)), None);
}
