//! Submits: retries, idempotency keys, shapes that are refused.

use expect_test::expect;
use uuid::Uuid;

use super::{World, check};
use crate::core::{
    command::{Command, Refusal, Reply, Submitted},
    limits::SHOTS_MAX,
    model::job,
    rows::{Idempotency, NewJob},
};

#[test]
fn a_retry_of_a_lost_answer_finds_its_job() {
    check(
        "job retry=0
         job retry=0
         job retry=1
         job retry=1
         job retry=1
         wait 900000
         job retry=1",
        expect![[r#"
            job retry=0               created 1
            job retry=0               created 2
            job retry=1               was 2
            job retry=1               was 1
            job retry=1               created 5
            wait 900000               s0 Ready, film Blocked, 2/s0 Ready, 2/film Blocked, 5/s0 Ready, 5/film Blocked
            job retry=1               created 6
        "#]],
    );
}

#[test]
fn an_idempotency_key_replays_and_refuses_another_body() {
    check(
        "job key=x
         job key=x
         job key=y
         crash
         job key=x
         wait 86400000
         job key=y",
        expect![[r#"
            job key=x                 created 1
            job key=x                 replays 1
            job key=y                 refused: the idempotency key was used with another request
            crash                     s0 Ready, film Blocked
            job key=x                 replays 1
            wait 86400000             s0 Ready, film Blocked
            job key=y                 created 5
        "#]],
    );
}

#[test]
fn an_error_that_was_answered_lets_the_retry_create() {
    let mut world = World::new();
    let note = Command::NoteError {
        fingerprint: "f".into(),
    };
    assert_eq!(world.run("job retry=0"), "created 1");
    world.apply(note);
    assert_eq!(world.run("job retry=1"), "created 2");
    assert_eq!(world.run("job retry=2"), "was 2");
    assert_eq!(world.run("job retry=2"), "was 1");
    assert_eq!(world.run("job retry=2"), "created 5");
}

#[test]
fn a_kept_answer_is_replayed() {
    let mut world = World::new();
    world.apply(Command::KeepAnswer {
        scope: "k".into(),
        fingerprint: "x".into(),
        answer: serde_json::json!({"status": 400}),
    });
    let mut new = job(1, 1);
    new.idempotency = Some(Idempotency {
        scope: "k".into(),
        fingerprint: "x".into(),
    });
    let reply = world.apply(Command::Submit(Box::new(new)));
    assert!(matches!(
        reply,
        Reply::Submitted(Submitted::ReplayedAnswer(answer)) if answer["status"] == 400
    ));
    assert!(world.model.jobs.is_empty());
}

#[test]
fn a_job_of_the_wrong_shape_is_refused() {
    let refuse = |edit: &dyn Fn(&mut NewJob), why: &str| {
        let mut world = World::new();
        let mut new = job(1, 2);
        edit(&mut new);
        match world.apply(Command::Submit(Box::new(new))) {
            Reply::Submitted(Submitted::Refused(Refusal::Invalid(said))) => {
                assert!(said.contains(why), "{said}");
            }
            other => panic!("{other:?} where '{why}' is due"),
        }
        assert!(world.model.jobs.is_empty());
    };
    refuse(&|job| job.tasks.clear(), "no tasks");
    refuse(&|job| drop(job.tasks.drain(..2)), "0 shots");
    refuse(&|job| drop(job.tasks.pop()), "does not assemble");
    refuse(&|job| job.tasks[2].inputs = vec![1, 0], "in order");
    refuse(&|job| job.tasks[0].inputs = vec![1], "waits for a later");
    refuse(&|job| job.tasks[1].id = job.tasks[0].id, "same id");
    refuse(&|job| job.hold.0 = -1, "negative");
    refuse(&|job| job.tasks[0].estimate.0 = -1, "negative");
    refuse(
        &|job| job.project = schemas::AccountId(Uuid::nil()),
        "no project",
    );
    refuse(
        &|new| *new = job(1, SHOTS_MAX as u32 + 1),
        "shots, not 1 to",
    );
}

#[test]
fn the_same_job_cannot_come_twice() {
    let mut world = World::new();
    world.apply(Command::Submit(Box::new(job(1, 1))));
    let reply = world.apply(Command::Submit(Box::new(job(1, 1))));
    assert!(matches!(
        reply,
        Reply::Submitted(Submitted::Refused(Refusal::Invalid(_)))
    ));
}
