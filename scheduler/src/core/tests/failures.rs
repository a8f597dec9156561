//! Failures: budgets, backoff, poison.

use expect_test::expect;

use super::check;

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
