//! Films that their owner holds back.

use expect_test::expect;

use super::{World, check};
use crate::core::limits::PREEMPT_LOOKED_AT;

#[test]
fn a_paused_film_starts_when_it_is_resumed_and_those_behind_it_do_not_wait() {
    check(
        "hello a no-ffmpeg
         job
         job
         pause 1
         why s0
         why film
         grant a
         resume 1
         reboot a no-ffmpeg
         grant a",
        expect![[r#"
            hello a no-ffmpeg         Online
            job                       created 1
            job                       created 2
            pause 1                   s0 Ready, film Blocked, 2/s0 Ready, 2/film Blocked
            why s0                    JobPaused { by: "ann", since_ms: 1000000 }
            why film                  JobPaused { by: "ann", since_ms: 1000000 }
            grant a                   2/s0#1 Leased, from step 0, 0 inputs
            resume 1                  s0 Ready, film Blocked, 2/s0 Leased, 2/film Blocked
            reboot a no-ffmpeg        Online
            grant a                   2/s0#2 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn a_running_film_that_is_paused_stops_at_its_next_step_and_goes_on_from_there() {
    check(
        "hello a no-ffmpeg
         job
         grant a
         beat a s0#1:3
         pause 1
         beat a s0#1:4
         release s0#1 4
         why s0
         crash
         grant a
         resume 1
         poll-again a
         grant a",
        expect![[r#"
            hello a no-ffmpeg         Online
            job                       created 1
            grant a                   s0#1 Leased, from step 0, 0 inputs
            beat a s0#1:3             Run Continue { ttl_ms: 30000 }
            pause 1                   s0 Leased, film Blocked
            beat a s0#1:4             Run Yield { reason: "its film is paused" }
            release s0#1 4            Ready
            why s0                    JobPaused { by: "ann", since_ms: 1000000 }
            crash                     s0 Ready, film Blocked
            grant a                   idle: nothing_waits
            resume 1                  s0 Ready, film Blocked
            poll-again a              s0#2 Leased, from step 4, 0 inputs
            grant a                   idle: devices_busy
        "#]],
    );
}

#[test]
fn a_pause_outlives_a_crash_while_the_film_still_runs() {
    check(
        "hello a no-ffmpeg
         job
         grant a
         pause 1
         crash
         beat a s0#1:1
         resume 1
         beat a s0#1:2",
        expect![[r#"
            hello a no-ffmpeg         Online
            job                       created 1
            grant a                   s0#1 Leased, from step 0, 0 inputs
            pause 1                   s0 Leased, film Blocked
            crash                     s0 Leased, film Blocked
            beat a s0#1:1             Run Yield { reason: "its film is paused" }
            resume 1                  s0 Leased, film Blocked
            beat a s0#1:2             Run Yield { reason: "its film is paused" }
        "#]],
    );
}

#[test]
fn what_has_ended_and_what_others_own_cannot_be_paused() {
    check(
        "hello a
         job
         job of=second
         cancel 1
         pause 1
         pause 2
         resume 2
         grant a",
        expect![[r#"
            hello a                   Online
            job                       created 1
            job of=second             created 2
            cancel 1                  Cancelled(Now)
            pause 1                   s0 Cancelled, film Cancelled, 2/s0 Ready, 2/film Blocked
            pause 2                   s0 Cancelled, film Cancelled, 2/s0 Ready, 2/film Blocked
            resume 2                  s0 Cancelled, film Cancelled, 2/s0 Ready, 2/film Blocked
            grant a                   2/s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn a_deadline_does_not_wait_for_a_paused_film() {
    check(
        "job deadline=1100000
         pause 1
         wait 100000
         job-state 1",
        expect![[r#"
            job deadline=1100000      created 1
            pause 1                   s0 Ready, film Blocked
            wait 100000               s0 Cancelled, film Cancelled
            job-state 1               Failed 0% Voided spent 0 deadline_passed
        "#]],
    );
}

/// Films of a line keep their order whichever of them is held back for a while.
#[test]
fn a_packed_line_closes_over_a_paused_film_and_opens_for_it_again() {
    let mut world = World::new();
    world.run("hello a");
    for _ in 0..40 {
        world.run("job");
    }
    let check = |world: &World| {
        world.model.check(&world.farm, &world.limits, world.now);
        let standing = world.farm.jobs.values().filter(|job| job.line.is_some());
        assert_eq!(standing.count(), PREEMPT_LOOKED_AT);
    };
    for paused in [3, 30, 16, 17, 40] {
        world.run(&format!("pause {paused}"));
        assert_eq!(world.farm.queue.len(), 39);
        check(&world);
        world.run("crash");
        check(&world);
        world.run(&format!("resume {paused}"));
        assert_eq!(world.farm.queue.len(), 40);
        check(&world);
    }
    world.run("pause 1");
    assert_eq!(world.run("grant a"), "2/s0#1 Leased, from step 0, 0 inputs");
    check(&world);
}
