//! Jobs: publish, fail, cancel, delete, progress, money.

use expect_test::expect;
use schemas::JobId;
use uuid::Uuid;

use super::{World, check};
use crate::core::rows::{JobState, ReservationState};

#[test]
fn a_prompt_becomes_a_film() {
    check(
        "hello a
         job shots=2
         grant a
         beat a s0#1:5
         succeed s0#1
         job-state
         why film
         grant a
         succeed s1#1
         grant a
         succeed film#1
         job-state
         succeed film#1
         succeed film#1 other
         cancel",
        expect![[r#"
            hello a                   Online
            job shots=2               created 1
            grant a                   s0#1 Leased, from step 0, 0 inputs
            beat a s0#1:5             Run Continue { ttl_ms: 30000 }
            succeed s0#1              Succeeded
            job-state                 Rendering 33% Pending spent 4 
            why film                  InputsPending { tasks_left: 1 }
            grant a                   s1#1 Leased, from step 0, 0 inputs
            succeed s1#1              Succeeded
            grant a                   film#1 Leased, from step 0, 2 inputs
            succeed film#1            Succeeded
            job-state                 Succeeded 100% Posted spent 10 
            succeed film#1            dup
            succeed film#1 other      refused: the attempt has succeeded with other files
            cancel                    Cancelled(Before)
        "#]],
    );
}

#[test]
fn a_rejected_task_fails_the_job_and_gives_everything_back() {
    check(
        "job shots=2
         hello a
         grant a
         succeed s0#1
         job-state
         grant a
         fail s1#1 rejected
         job-state
         show",
        expect![[r#"
            job shots=2               created 1
            hello a                   Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            succeed s0#1              Succeeded
            job-state                 Rendering 33% Pending spent 4 
            grant a                   s1#1 Leased, from step 0, 0 inputs
            fail s1#1 rejected        Failed
            job-state                 Failed 33% Posted spent 0 generation_failed
            show                      s0 Succeeded, s1 Failed, film Cancelled
        "#]],
    );
}

#[test]
fn a_cancel_fences_the_running_attempt_and_charges_what_was_counted() {
    check(
        "job shots=2
         hello a
         grant a
         succeed s0#1
         grant a
         cancel
         job-state
         cancel
         beat a s1#1:3
         succeed s1#1
         fail s1#1 io
         release s1#1
         show",
        expect![[r#"
            job shots=2               created 1
            hello a                   Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            succeed s0#1              Succeeded
            grant a                   s1#1 Leased, from step 0, 0 inputs
            cancel                    Cancelled(Now)
            job-state                 Cancelled 33% Posted spent 4 
            cancel                    Cancelled(Before)
            beat a s1#1:3             Run Abandon { reason: "attempt 1 is not the current one" }
            succeed s1#1              refused: attempt 1 is fenced off: it has ended
            fail s1#1 io              dup
            release s1#1              refused: attempt 1 is fenced off: it has ended
            show                      s0 Succeeded, s1 Cancelled, film Cancelled
        "#]],
    );
}

#[test]
fn a_cancel_before_any_work_gives_the_whole_hold_back() {
    check(
        "job\n cancel\n job-state\n cancel 9",
        expect![[r#"
        job                       created 1
        cancel                    Cancelled(Now)
        job-state                 Cancelled 0% Voided spent 0 
        cancel 9                  Cancelled(NotLive)
    "#]],
    );
}

#[test]
fn a_delete_leaves_nothing_that_a_late_report_could_reach() {
    check(
        "job
         hello a
         grant a
         delete
         show
         succeed s0#1
         beat a s0#1:3
         delete
         delete 7",
        expect![[r#"
            job                       created 1
            hello a                   Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            delete                    Deleted
            show                      
            succeed s0#1              refused: task 00000000-0000-0000-0000-000000000064 is not known here
            beat a s0#1:3             Run Abandon { reason: "attempt 1 is not the current one" }
            delete                    Deleted
            delete 7                  Deleted
        "#]],
    );
}

#[test]
fn progress_never_falls_when_work_is_lost() {
    let mut world = World::new();
    for line in ["job", "hello a", "grant a", "wait 6000", "beat a s0#1:9"] {
        world.run(line);
    }
    let id = JobId(Uuid::from_u128(1));
    let reached = world.model.jobs[&id].progress;
    assert!(reached > 30, "{reached}");
    for line in ["reboot a", "grant a", "wait 6000", "beat a s0#2:1"] {
        world.run(line);
        assert_eq!(world.model.jobs[&id].progress, reached);
    }
    let live = world.farm.live(id).unwrap();
    assert_eq!((live.tasks[0].step, live.tasks[0].steps), (1, 10));
    assert_eq!((live.queue_position, live.waiting), (None, None));
}

#[test]
fn work_counts_up_to_the_hold() {
    let mut world = World::new();
    for line in ["job shots=3", "hello a"] {
        world.run(line);
    }
    for shot in ["s0#1", "s1#1", "s2#1", "film#1"] {
        world.run("grant a");
        world.run(&format!("succeed {shot}"));
    }
    let money = &world.model.reservations[&JobId(Uuid::from_u128(1))];
    assert_eq!(money.state, ReservationState::Posted);
    assert_eq!((money.posted.0, money.held.0), (10_000_000, 0));
    let kinds: Vec<&str> = world.model.outbox.iter().map(|e| e.kind.as_str()).collect();
    assert_eq!(kinds, ["video.queued", "video.started", "video.completed"]);
    assert_eq!(
        world.model.jobs[&JobId(Uuid::from_u128(1))].state,
        JobState::Succeeded
    );
}
