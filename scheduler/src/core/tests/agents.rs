//! Agents: boots, silence, drain.

use expect_test::expect;

use super::check;

#[test]
fn a_new_boot_ends_the_leases_of_the_old_one() {
    check(
        "job
         hello a
         grant a
         checkpoint s0#1 5
         reboot a
         show
         grant a
         old-hello a
         succeed s0#1",
        expect![[r#"
            job                       created 1
            hello a                   Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            checkpoint s0#1 5         Leased
            reboot a                  Online
            show                      s0 Ready, film Blocked
            grant a                   s0#2 Leased, from step 5, 0 inputs
            old-hello a               refused: the write comes from another agent or an earlier start of it
            succeed s0#1              refused: attempt 1 is fenced off: the current attempt is 2
        "#]],
    );
}

#[test]
fn a_silent_agent_gets_nothing_until_it_is_heard_and_is_gone_after_a_while() {
    check(
        "hello a
         wait 14999
         agent a
         wait 1
         agent a
         job
         grant a
         why s0
         beat a
         agent a
         grant a
         release s0#1
         wait 600000
         agent a
         beat a
         grant a
         why s0
         hello a
         grant a",
        expect![[r#"
            hello a                   Online
            wait 14999                
            agent a                   Online
            wait 1                    
            agent a                   Unresponsive
            job                       created 1
            grant a                   idle: nothing_waits
            why s0                    DevicesDraining { devices: 1 }
            beat a                    Run
            agent a                   Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            release s0#1              Ready
            wait 600000               s0 Ready, film Blocked
            agent a                   Gone
            beat a                    unknown agent
            grant a                   unknown agent
            why s0                    ModelMissing { weights: "builtin" }
            hello a                   Online
            grant a                   s0#2 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn a_draining_agent_yields_and_leaves() {
    check(
        "job
         hello a
         grant a
         beat a s0#1:2
         drain a
         grant a
         beat a s0#1:3
         release s0#1 3
         agent a
         beat a
         hello a
         grant a
         why s0
         reboot a
         grant a",
        expect![[r#"
            job                       created 1
            hello a                   Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            beat a s0#1:2             Run Continue { ttl_ms: 30000 }
            drain a                   Draining
            grant a                   idle: agent_drains
            beat a s0#1:3             Drain Yield { reason: "the node drains" }
            release s0#1 3            Ready
            agent a                   Gone
            beat a                    Drain
            hello a                   refused: the write comes from another agent or an earlier start of it
            grant a                   idle: agent_drains
            why s0                    ModelMissing { weights: "builtin" }
            reboot a                  Online
            grant a                   s0#2 Leased, from step 3, 0 inputs
        "#]],
    );
}

#[test]
fn a_drain_lets_a_short_rest_end_and_abandons_what_does_not_yield() {
    check(
        "job shots=2
         hello a
         hello b
         grant a
         grant b
         drain a
         drain b
         beat a s0#1:7
         beat b s1#1:2
         succeed s0#1
         agent a
         wait 25000
         beat b s1#1:2
         wait 25000
         beat b s1#1:2
         wait 25000
         beat b s1#1:2
         wait 5001
         agent b",
        expect![[r#"
            job shots=2               created 1
            hello a                   Online
            hello b                   Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            grant b                   s1#1 Leased, from step 0, 0 inputs
            drain a                   Draining
            drain b                   Draining
            beat a s0#1:7             Drain Continue { ttl_ms: 30000 }
            beat b s1#1:2             Drain Yield { reason: "the node drains" }
            succeed s0#1              Succeeded
            agent a                   Gone
            wait 25000                s0 Succeeded, s1 Leased, film Blocked
            beat b s1#1:2             Drain Yield { reason: "the node drains" }
            wait 25000                s0 Succeeded, s1 Leased, film Blocked
            beat b s1#1:2             Drain Yield { reason: "the node drains" }
            wait 25000                s0 Succeeded, s1 Leased, film Blocked
            beat b s1#1:2             Drain Abandon { reason: "it did not yield in time" }
            wait 5001                 s0 Succeeded, s1 Ready, film Blocked
            agent b                   Draining
        "#]],
    );
}
