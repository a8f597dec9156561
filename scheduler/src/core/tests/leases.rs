//! Leases, fencing and checkpoints.

use expect_test::expect;
use schemas::{AgentId, BootId, TaskId, agent::LeaseRef};
use uuid::Uuid;

use super::{World, check};
use crate::core::command::Refusal;

#[test]
fn a_late_agent_cannot_finish_a_task_it_lost() {
    check(
        "job
         hello a
         hello b
         grant a
         fail s0#1 internal
         wait 2400
         grant b
         succeed s0#1
         checkpoint s0#1 3
         release s0#1 3
         fail s0#1 io
         succeed s0#2
         succeed s0#1
         fail s0#2 io
         checkpoint s0#2 3",
        expect![[r#"
            job                       created 1
            hello a                   Online
            hello b                   Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            fail s0#1 internal        Ready
            wait 2400                 s0 Ready, film Blocked
            grant b                   s0#2 Leased, from step 0, 0 inputs
            succeed s0#1              refused: attempt 1 is fenced off: the current attempt is 2
            checkpoint s0#1 3         refused: attempt 1 is fenced off: the current attempt is 2
            release s0#1 3            refused: attempt 1 is fenced off: the current attempt is 2
            fail s0#1 io              refused: attempt 1 is fenced off: the current attempt is 2
            succeed s0#2              Succeeded
            succeed s0#1              refused: attempt 1 is fenced off: the current attempt is 2
            fail s0#2 io              refused: attempt 2 is fenced off: it has ended
            checkpoint s0#2 3         refused: attempt 2 is fenced off: it has ended
        "#]],
    );
}

#[test]
fn a_lease_that_is_not_renewed_is_lost_and_resumed_from_the_checkpoint() {
    check(
        "job
         hello a
         hello b
         grant a
         beat a s0#1:4
         checkpoint s0#1 4
         wait 29999
         wait 1
         why s0
         beat b
         grant b
         beat a s0#1:5
         wait 14999
         wait 1",
        expect![[r#"
            job                       created 1
            hello a                   Online
            hello b                   Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            beat a s0#1:4             Run Continue { ttl_ms: 30000 }
            checkpoint s0#1 4         Leased
            wait 29999                s0 Leased, film Blocked
            wait 1                    s0 Ready, film Blocked
            why s0                    DevicesDraining { devices: 2 }
            beat b                    Run
            grant b                   s0#2 Leased, from step 4, 0 inputs
            beat a s0#1:5             Run Abandon { reason: "attempt 1 is not the current one" }
            wait 14999                s0 Leased, film Blocked
            wait 1                    s0 Ready, film Blocked
        "#]],
    );
}

#[test]
fn checkpoints_only_grow_and_the_last_two_are_kept() {
    check(
        "job
         hello a
         checkpoint s0#1 2
         checkpoint film#1 2
         grant a
         checkpoint s0#1 4
         checkpoint s0#1 4
         checkpoint s0#1 4=other
         checkpoint s0#1 3
         checkpoint s0#1 6
         checkpoint s0#1 8
         fail s0#1 numeric
         wait 2500
         grant a",
        expect![[r#"
            job                       created 1
            hello a                   Online
            checkpoint s0#1 2         refused: attempt 1 is fenced off: the current attempt is 0
            checkpoint film#1 2       refused: the task is blocked
            grant a                   s0#1 Leased, from step 0, 0 inputs
            checkpoint s0#1 4         Leased
            checkpoint s0#1 4         dup
            checkpoint s0#1 4=other   refused: step 4 is not beyond the recorded step 4
            checkpoint s0#1 3         refused: step 3 is not beyond the recorded step 4
            checkpoint s0#1 6         Leased
            checkpoint s0#1 8         Leased
            fail s0#1 numeric         Ready
            wait 2500                 s0 Ready, film Blocked
            grant a                   s0#2 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn a_checkpoint_from_before_the_suspect_time_is_trusted() {
    check(
        "job
         hello a
         grant a
         checkpoint s0#1 4
         beat a s0#1:5:denoise:60000
         wait 29000
         beat a s0#1:5:denoise:60000
         wait 29000
         beat a s0#1:5:denoise:60000
         wait 29000
         beat a s0#1:5:denoise:60000
         wait 29000
         beat a s0#1:5:denoise:60000
         wait 29000
         beat a s0#1:5:denoise:60000
         wait 29000
         beat a s0#1:5:denoise:60000
         wait 29000
         beat a s0#1:5:denoise:60000
         wait 29000
         beat a s0#1:5:denoise:60000
         wait 29000
         beat a s0#1:5:denoise:60000
         wait 29000
         beat a s0#1:5:denoise:60000
         wait 29000
         checkpoint s0#1 8
         fail s0#1 device_fault
         wait 2500
         beat a
         grant a",
        expect![[r#"
            job                       created 1
            hello a                   Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            checkpoint s0#1 4         Leased
            beat a s0#1:5:denoise:60000Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            beat a s0#1:5:denoise:60000Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            beat a s0#1:5:denoise:60000Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            beat a s0#1:5:denoise:60000Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            beat a s0#1:5:denoise:60000Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            beat a s0#1:5:denoise:60000Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            beat a s0#1:5:denoise:60000Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            beat a s0#1:5:denoise:60000Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            beat a s0#1:5:denoise:60000Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            beat a s0#1:5:denoise:60000Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            beat a s0#1:5:denoise:60000Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            checkpoint s0#1 8         Leased
            fail s0#1 device_fault    Ready
            wait 2500                 s0 Ready, film Blocked
            beat a                    Run
            grant a                   s0#2 Leased, from step 4, 0 inputs
        "#]],
    );
}

#[test]
fn a_poll_whose_reply_was_lost_gets_its_grant_again() {
    check(
        "job shots=2
         hello a
         grant a
         poll-again a
         crash
         poll-again a
         grant a",
        expect![[r#"
            job shots=2               created 1
            hello a                   Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            poll-again a              s0#1 Leased, from step 0, 0 inputs
            crash                     s0 Leased, s1 Ready, film Blocked
            poll-again a              s0#1 Leased, from step 0, 0 inputs
            grant a                   idle: devices_busy
        "#]],
    );
}

#[test]
fn two_heartbeats_that_do_not_name_a_lease_lose_it() {
    check(
        "job
         hello a
         grant a
         beat a
         show
         beat a s0#1:1
         beat a
         show
         beat a
         show
         beat a s0#1:2",
        expect![[r#"
            job                       created 1
            hello a                   Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            beat a                    Run
            show                      s0 Leased, film Blocked
            beat a s0#1:1             Run Continue { ttl_ms: 30000 }
            beat a                    Run
            show                      s0 Leased, film Blocked
            beat a                    Run
            show                      s0 Ready, film Blocked
            beat a s0#1:2             Run Abandon { reason: "attempt 1 is not the current one" }
        "#]],
    );
}

#[test]
fn a_success_without_the_files_that_are_due_is_a_failure_of_the_agent() {
    check(
        "job
         hello a
         grant a
         succeed s0#1 nothing
         show",
        expect![[r#"
            job                       created 1
            hello a                   Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            succeed s0#1 nothing      refused: it made [] where [Shot] were due
            show                      s0 Ready, film Blocked
        "#]],
    );
}

#[test]
fn writes_of_another_term_boot_or_agent_change_nothing() {
    let mut world = World::new();
    for line in ["job", "hello a", "grant a"] {
        world.run(line);
    }
    let lease = world.lease("s0#1");
    let later = LeaseRef { term: 9, ..lease };
    let other_boot = LeaseRef {
        boot: BootId(Uuid::from_u128(99)),
        ..lease
    };
    let other_agent = LeaseRef {
        agent: AgentId(Uuid::nil()),
        ..lease
    };
    let unknown = LeaseRef {
        task: TaskId(Uuid::nil()),
        ..lease
    };
    let earlier = LeaseRef { term: 0, ..lease };
    let refused = |lease: &LeaseRef| world.farm.check_leased(lease).unwrap_err();
    assert_eq!(refused(&later), Refusal::StaleTerm { sent: 9, term: 1 });
    assert_eq!(refused(&other_boot), Refusal::StaleBoot);
    assert_eq!(refused(&other_agent), Refusal::StaleBoot);
    assert_eq!(refused(&unknown), Refusal::UnknownTask(unknown.task));
    assert!(
        world.farm.check_leased(&earlier).is_ok(),
        "leases outlive a term"
    );
}
