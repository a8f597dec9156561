//! Failures: budgets, backoff, poison.

use expect_test::expect;
use schemas::agent::FailureClass;

use super::{super::limits::budget, World, check};

#[test]
fn each_class_of_failure_has_its_own_budget() {
    check(
        "job
         hello a
         grant a
         fail s0#1 out_of_memory
         fail s0#1 out_of_memory
         why s0
         grant a
         wait 2400
         beat a
         grant a
         fail s0#2 stalled
         wait 2400
         grant a
         fail s0#3 out_of_memory
         wait 4800
         grant a
         fail s0#4 out_of_memory
         job-state
         fail s0#4 out_of_memory",
        expect![[r#"
            job                       created 1
            hello a                   Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            fail s0#1 out_of_memory   Ready
            fail s0#1 out_of_memory   dup
            why s0                    RetryBackoff { cause: "out_of_memory", until_ms: 1001800 }
            grant a                   idle: nothing_waits
            wait 2400                 s0 Ready, film Blocked
            beat a                    Run
            grant a                   s0#2 Leased, from step 0, 0 inputs
            fail s0#2 stalled         Ready
            wait 2400                 s0 Ready, film Blocked
            grant a                   s0#3 Leased, from step 0, 0 inputs
            fail s0#3 out_of_memory   Ready
            wait 4800                 s0 Ready, film Blocked
            grant a                   s0#4 Leased, from step 0, 0 inputs
            fail s0#4 out_of_memory   Failed
            job-state                 Failed 0% Voided spent 0 generation_failed
            fail s0#4 out_of_memory   dup
        "#]],
    );
}

#[test]
fn a_lost_lease_may_go_on_at_once_five_times() {
    check(
        "job
         hello a
         grant a
         reboot a
         grant a
         reboot a
         grant a
         reboot a
         grant a
         reboot a
         grant a
         reboot a
         grant a
         reboot a
         job-state",
        expect![[r#"
            job                       created 1
            hello a                   Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            reboot a                  Online
            grant a                   s0#2 Leased, from step 0, 0 inputs
            reboot a                  Online
            grant a                   s0#3 Leased, from step 0, 0 inputs
            reboot a                  Online
            grant a                   s0#4 Leased, from step 0, 0 inputs
            reboot a                  Online
            grant a                   s0#5 Leased, from step 0, 0 inputs
            reboot a                  Online
            grant a                   s0#6 Leased, from step 0, 0 inputs
            reboot a                  Online
            job-state                 Failed 0% Voided spent 0 device_lost
        "#]],
    );
}

#[test]
fn a_task_that_fails_on_three_nodes_is_to_blame_itself() {
    check(
        "job
         hello a
         hello b
         hello c
         grant a
         fail s0#1 internal
         wait 2400
         grant a
         grant b
         fail s0#2 stalled
         wait 2400
         grant b
         why s0
         grant c
         fail s0#3 device_fault
         job-state",
        expect![[r#"
            job                       created 1
            hello a                   Online
            hello b                   Online
            hello c                   Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            fail s0#1 internal        Ready
            wait 2400                 s0 Ready, film Blocked
            grant a                   idle: nothing_waits
            grant b                   s0#2 Leased, from step 0, 0 inputs
            fail s0#2 stalled         Ready
            wait 2400                 s0 Ready, film Blocked
            grant b                   idle: nothing_waits
            why s0                    DevicesBusy { devices: 3, earliest_ms: Some(1004800) }
            grant c                   s0#3 Leased, from step 0, 0 inputs
            fail s0#3 device_fault    Failed
            job-state                 Failed 0% Voided spent 0 generation_failed
        "#]],
    );
}

#[test]
fn every_class_survives_its_budget_and_not_one_more() {
    use FailureClass::*;
    for (class, name) in [
        (Rejected, "rejected"),
        (OutOfMemory, "out_of_memory"),
        (Numeric, "numeric"),
        (DeviceFault, "device_fault"),
        (Lost, "lost"),
        (Stalled, "stalled"),
        (Io, "io"),
        (Internal, "internal"),
    ] {
        let mut world = World::new();
        world.run("hello a");
        world.run("job");
        for n in 1..=budget(class) {
            world.run("grant a");
            let state = world.run(&format!("fail s0#{n} {name}"));
            assert_eq!(state, "Ready", "{name} {n}");
            world.run("wait 400000");
            world.run("hello a");
        }
        world.run("grant a");
        let last = budget(class) + 1;
        let state = world.run(&format!("fail s0#{last} {name}"));
        assert_eq!(state, "Failed", "{name} {last}");
    }
}

#[test]
fn waits_before_a_retry_double_with_a_spread_up_to_five_minutes() {
    let mut world = World::new();
    world.run("hello a");
    world.run("job");
    for n in 1..=8 {
        world.run("grant a");
        world.run(&format!("fail s0#{n} io"));
        let why = world.run("why s0");
        let until = why.split("until_ms: ").nth(1).unwrap();
        let until: i64 = until.trim_end_matches(" }").parse().unwrap();
        let (waits, middle) = (until - world.now, 1_000 << n);
        let spread = (middle * 80 / 100)..=(middle * 120 / 100).min(300_000);
        assert!(spread.contains(&waits), "retry {n} waits {waits} ms");
        world.run("wait 400000");
        world.run("hello a");
    }
}

#[test]
fn the_same_error_on_two_nodes_is_the_tasks_own_and_the_operator_gets_the_recipe() {
    let mut world = World::new();
    for line in [
        "hello a",
        "hello b",
        "hello c",
        "job",
        "grant a",
        "fail s0#1 internal index 7 out of 5 in patchify",
        "wait 3000",
        "grant b",
    ] {
        world.run(line);
    }
    let state = world.run("fail s0#2 internal index 9 out of 5 in patchify");
    assert_eq!(state, "Failed");
    let notice = &world.model.notices[0];
    assert_eq!((notice.kind.as_str(), &notice.actor), ("poison", &None));
    let detail = &notice.detail;
    assert_eq!(detail["recipe"]["kind"], "render");
    assert_eq!(detail["recipe"]["weights"], "builtin"); // the store adds the words
    assert_eq!(detail["nodes"].as_array().unwrap().len(), 2);
    assert_eq!(detail["attempts"], 2);
    assert_eq!(detail["failures"]["internal"], 2);
}

#[test]
fn different_errors_on_two_nodes_are_not_poison() {
    check(
        "hello a
         hello b
         job
         grant a
         fail s0#1 internal index out of range
         wait 3000
         grant b
         fail s0#2 internal a broken lock
         notices",
        expect![[r#"
            hello a                   Online
            hello b                   Online
            job                       created 1
            grant a                   s0#1 Leased, from step 0, 0 inputs
            fail s0#1 internal index out of rangeReady
            wait 3000                 s0 Ready, film Blocked
            grant b                   s0#2 Leased, from step 0, 0 inputs
            fail s0#2 internal a broken lockReady
            notices                   
        "#]],
    );
}

#[test]
fn a_node_where_it_failed_is_used_again_only_when_no_other_takes_work() {
    check(
        "hello a
         hello b
         job
         grant a
         fail s0#1 internal one
         wait 3000
         grant a
         node b cordon
         grant a
         fail s0#2 internal two
         node b uncordon
         wait 5000
         grant a
         beat b xid=79
         grant a",
        expect![[r#"
            hello a                   Online
            hello b                   Online
            job                       created 1
            grant a                   s0#1 Leased, from step 0, 0 inputs
            fail s0#1 internal one    Ready
            wait 3000                 s0 Ready, film Blocked
            grant a                   idle: nothing_waits
            node b cordon             Now: cordoned
            grant a                   s0#2 Leased, from step 0, 0 inputs
            fail s0#2 internal two    Ready
            node b uncordon           Now: online
            wait 5000                 s0 Ready, film Blocked
            grant a                   idle: nothing_waits
            beat b xid=79             Run
            grant a                   s0#3 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn numbers_that_went_wrong_go_back_to_a_checkpoint_from_before() {
    check(
        "hello a
         hello b
         job
         grant a
         checkpoint s0#1 2
         beat a s0#1:3:denoise:60000
         wait 29000
         beat a s0#1:3:denoise:60000
         wait 29000
         beat a s0#1:3:denoise:60000
         wait 29000
         beat a s0#1:3:denoise:60000
         wait 29000
         beat a s0#1:3:denoise:60000
         wait 29000
         beat a s0#1:3:denoise:60000
         wait 29000
         beat a s0#1:3:denoise:60000
         wait 29000
         beat a s0#1:3:denoise:60000
         wait 29000
         beat a s0#1:3:denoise:60000
         wait 29000
         beat a s0#1:3:denoise:60000
         wait 29000
         beat a s0#1:3:denoise:60000
         wait 29000
         checkpoint s0#1 9
         fail s0#1 numeric
         wait 3000
         hello b
         grant b",
        expect![[r#"
            hello a                   Online
            hello b                   Online
            job                       created 1
            grant a                   s0#1 Leased, from step 0, 0 inputs
            checkpoint s0#1 2         Leased
            beat a s0#1:3:denoise:60000Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            beat a s0#1:3:denoise:60000Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            beat a s0#1:3:denoise:60000Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            beat a s0#1:3:denoise:60000Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            beat a s0#1:3:denoise:60000Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            beat a s0#1:3:denoise:60000Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            beat a s0#1:3:denoise:60000Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            beat a s0#1:3:denoise:60000Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            beat a s0#1:3:denoise:60000Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            beat a s0#1:3:denoise:60000Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            beat a s0#1:3:denoise:60000Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            checkpoint s0#1 9         Leased
            fail s0#1 numeric         Ready
            wait 3000                 s0 Ready, film Blocked
            hello b                   Online
            grant b                   s0#2 Leased, from step 2, 0 inputs
        "#]],
    );
}

#[test]
fn what_ran_out_of_memory_goes_to_a_larger_device() {
    check(
        "hello small gib=24
         hello middle gib=48
         hello large gib=80
         job
         job frames=65
         grant small
         fail s0#1 out_of_memory
         needs s0
         wait 3000
         grant small
         fail 2/s0#1 out_of_memory peak=45
         needs 2/s0
         wait 3000
         grant small
         grant middle
         fail s0#2 out_of_memory
         needs s0
         wait 5000
         grant middle
         grant large
         node large cordon
         why 2/s0",
        expect![[r#"
            hello small gib=24        Online
            hello middle gib=48       Online
            hello large gib=80        Online
            job                       created 1
            job frames=65             created 2
            grant small               s0#1 Leased, from step 0, 0 inputs
            fail s0#1 out_of_memory   Ready
            needs s0                  Some(48)
            wait 3000                 s0 Ready, film Blocked, 2/s0 Ready, 2/film Blocked
            grant small               2/s0#1 Leased, from step 0, 0 inputs
            fail 2/s0#1 out_of_memory peak=45Ready
            needs 2/s0                Some(80)
            wait 3000                 s0 Ready, film Blocked, 2/s0 Ready, 2/film Blocked
            grant small               idle: nothing_waits
            grant middle              s0#2 Leased, from step 0, 0 inputs
            fail s0#2 out_of_memory   Ready
            needs s0                  Some(80)
            wait 5000                 s0 Ready, film Blocked, 2/s0 Ready, 2/film Blocked
            grant middle              idle: nothing_waits
            grant large               s0#3 Leased, from step 0, 0 inputs
            node large cordon         Now: cordoned
            why 2/s0                  DevicesDraining { devices: 3 }
        "#]],
    );
}

#[test]
fn on_the_largest_device_it_may_try_again_as_it_is_from_its_last_step() {
    check(
        "hello a gib=24
         job
         grant a
         checkpoint s0#1 2
         fail s0#1 out_of_memory peak=30
         needs s0
         wait 3000
         grant a",
        expect![[r#"
            hello a gib=24            Online
            job                       created 1
            grant a                   s0#1 Leased, from step 0, 0 inputs
            checkpoint s0#1 2         Leased
            fail s0#1 out_of_memory peak=30Ready
            needs s0                  None
            wait 3000                 s0 Ready, film Blocked
            grant a                   s0#2 Leased, from step 2, 0 inputs
        "#]],
    );
}

#[test]
fn an_attempt_without_a_step_for_long_has_stalled() {
    check(
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
         beat a s0#1:2
         wait 3000
         beat b
         grant b",
        expect![[r#"
            hello a                   Online
            hello b                   Online
            job                       created 1
            grant a                   s0#1 Leased, from step 0, 0 inputs
            beat a s0#1:1             Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            beat a s0#1:2             Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            beat a s0#1:2             Run Continue { ttl_ms: 30000 }
            wait 29000                s0 Leased, film Blocked
            beat a s0#1:2             Run Continue { ttl_ms: 30000 }
            wait 3000                 s0 Leased, film Blocked
            beat a s0#1:2             Run Abandon { reason: "no step for 61 s" }
            beat a s0#1:2             Run Abandon { reason: "attempt 1 is not the current one" }
            wait 3000                 s0 Ready, film Blocked
            beat b                    Run
            grant b                   s0#2 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn only_a_node_where_it_failed_is_free_and_that_is_said() {
    check(
        "hello a
         hello b
         job
         job
         grant a
         grant b
         fail s0#1 internal
         wait 3000
         beat a
         grant a
         why s0
         succeed 2/s0#1
         why s0
         grant b",
        expect![[r#"
            hello a                   Online
            hello b                   Online
            job                       created 1
            job                       created 2
            grant a                   s0#1 Leased, from step 0, 0 inputs
            grant b                   2/s0#1 Leased, from step 0, 0 inputs
            fail s0#1 internal        Ready
            wait 3000                 s0 Ready, film Blocked, 2/s0 Leased, 2/film Blocked
            beat a                    Run
            grant a                   idle: nothing_waits
            why s0                    NodesAvoided { nodes: ["a"] }
            succeed 2/s0#1            Succeeded
            why s0                    OwnQueue { tasks_ahead: 1 }
            grant b                   2/film#1 Leased, from step 0, 1 inputs
        "#]],
    );
}
