//! Cordons, quarantines, probes: what keeps work from a device, and how it comes back.

use expect_test::expect;

use super::check;

#[test]
fn a_cordoned_node_ends_its_work_and_gets_no_more() {
    check(
        "job
         job
         hello a
         grant a
         node a cordon
         node a cordon
         beat a s0#1:2
         succeed s0#1
         grant a
         why 2/s0
         crash
         condition a
         reboot a
         condition a
         node a uncordon
         node a uncordon
         grant a
         notices",
        expect![[r#"
            job                       created 1
            job                       created 2
            hello a                   Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            node a cordon             Now: cordoned
            node a cordon             Before: cordoned
            beat a s0#1:2             Run Continue { ttl_ms: 30000 }
            succeed s0#1              Succeeded
            grant a                   idle: nothing_waits
            why 2/s0                  DevicesDraining { devices: 1 }
            crash                     s0 Succeeded, film Ready, 2/s0 Ready, 2/film Blocked
            condition a               cordoned
            reboot a                  Online
            condition a               cordoned
            node a uncordon           Now: online
            node a uncordon           Before: online
            grant a                   film#1 Leased, from step 0, 1 inputs
            notices                   cordon a by operator (told to), uncordon a by operator
        "#]],
    );
}

#[test]
fn an_xid_of_the_hardware_ends_the_work_and_what_was_saved_lately_is_not_trusted() {
    check(
        "job
         hello a gpu
         hello b gpu
         grant a
         checkpoint s0#1 2
         beat a s0#1:3
         beat a s0#1:3 xid=13
         condition a
         beat a s0#1:4 xid=79
         condition a
         beat a s0#1:5
         grant a
         wait 3000
         grant b
         notices",
        expect![[r#"
            job                       created 1
            hello a gpu               Online
            hello b gpu               Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            checkpoint s0#1 2         Leased
            beat a s0#1:3             Run Continue { ttl_ms: 30000 }
            beat a s0#1:3 xid=13      Run Continue { ttl_ms: 30000 }
            condition a               online
            beat a s0#1:4 xid=79      Run Abandon { reason: "attempt 1 is not the current one" }
            condition a               quarantined
            beat a s0#1:5             Run Abandon { reason: "attempt 1 is not the current one" }
            grant a                   idle: devices_quarantined
            wait 3000                 s0 Ready, film Blocked
            grant b                   s0#2 Leased, from step 0, 0 inputs
            notices                   quarantined a (Xid 79)
        "#]],
    );
}

#[test]
fn uncorrected_memory_errors_count_once_also_for_a_new_leader() {
    check(
        "hello a
         beat a ecc=0
         condition a
         beat a ecc=2
         condition a
         node a release
         beat a ecc=2
         crash
         beat a ecc=2
         condition a
         beat a ecc=0
         condition a
         beat a ecc=1
         condition a
         notices",
        expect![[r#"
            hello a                   Online
            beat a ecc=0              Run
            condition a               online
            beat a ecc=2              Run
            condition a               quarantined
            node a release            Now: online
            beat a ecc=2              Run
            crash                     
            beat a ecc=2              Run
            condition a               online
            beat a ecc=0              Run
            condition a               online
            beat a ecc=1              Run
            condition a               quarantined
            notices                   quarantined a (2 uncorrected memory errors), release a by operator, quarantined a (1 uncorrected memory errors)
        "#]],
    );
}

#[test]
fn failures_of_two_projects_take_a_device_out_and_those_of_one_do_not() {
    check(
        "hello a gpu no-ffmpeg
         hello b gpu
         job
         job
         job of=second
         grant a
         fail s0#1 internal one
         grant a
         fail 2/s0#1 stalled two
         condition a
         grant a
         succeed 3/s0#1
         job of=second
         grant a
         fail 4/s0#1 internal three
         condition a
         grant a
         notices",
        expect![[r#"
            hello a gpu no-ffmpeg     Online
            hello b gpu               Online
            job                       created 1
            job                       created 2
            job of=second             created 3
            grant a                   s0#1 Leased, from step 0, 0 inputs
            fail s0#1 internal one    Ready
            grant a                   2/s0#1 Leased, from step 0, 0 inputs
            fail 2/s0#1 stalled two   Ready
            condition a               online
            grant a                   3/s0#1 Leased, from step 0, 0 inputs
            succeed 3/s0#1            Succeeded
            job of=second             created 4
            grant a                   4/s0#1 Leased, from step 0, 0 inputs
            fail 4/s0#1 internal threeReady
            condition a               quarantined
            grant a                   idle: devices_quarantined
            notices                   quarantined a (tasks of 2 projects failed within 30 minutes)
        "#]],
    );
}

#[test]
fn what_is_not_the_devices_fault_does_not_tell_against_it() {
    check(
        "hello a
         hello b
         job
         job of=second
         job of=foreign
         grant a
         fail s0#1 io
         grant a
         fail 2/s0#1 rejected
         grant a
         fail 3/s0#1 lost
         condition a",
        expect![[r#"
            hello a                   Online
            hello b                   Online
            job                       created 1
            job of=second             created 2
            job of=foreign            created 3
            grant a                   s0#1 Leased, from step 0, 0 inputs
            fail s0#1 io              Ready
            grant a                   2/s0#1 Leased, from step 0, 0 inputs
            fail 2/s0#1 rejected      Failed
            grant a                   3/s0#1 Leased, from step 0, 0 inputs
            fail 3/s0#1 lost          Ready
            condition a               online
        "#]],
    );
}

#[test]
fn three_tasks_in_a_row_take_a_device_out_and_a_success_between_saves_it() {
    check(
        "hello a gpu
         hello b gpu no-weights
         job shots=4
         grant a
         fail s0#1 internal one
         grant a
         fail s1#1 stalled two
         grant a
         succeed s2#1
         grant a
         fail s3#1 internal three
         condition a
         wait 3000
         grant a
         fail s0#2 stalled four
         grant a
         fail s1#2 internal five
         condition a
         node a release
         notices",
        expect![[r#"
            hello a gpu               Online
            hello b gpu no-weights    Online
            job shots=4               created 1
            grant a                   s0#1 Leased, from step 0, 0 inputs
            fail s0#1 internal one    Ready
            grant a                   s1#1 Leased, from step 0, 0 inputs
            fail s1#1 stalled two     Ready
            grant a                   s2#1 Leased, from step 0, 0 inputs
            succeed s2#1              Succeeded
            grant a                   s3#1 Leased, from step 0, 0 inputs
            fail s3#1 internal three  Ready
            condition a               online
            wait 3000                 s0 Ready, s1 Ready, s2 Succeeded, s3 Ready, film Blocked
            grant a                   s0#2 Leased, from step 0, 0 inputs
            fail s0#2 stalled four    Ready
            grant a                   s1#2 Leased, from step 0, 0 inputs
            fail s1#2 internal five   Ready
            condition a               quarantined
            node a release            Now: online
            notices                   quarantined a (3 tasks in a row failed), release a by operator
        "#]],
    );
}

#[test]
fn the_last_device_of_a_class_stays_when_only_failures_speak_against_it() {
    check(
        "hello a gpu
         job
         job of=second
         grant a
         fail s0#1 internal one
         grant a
         fail 2/s0#1 internal two
         condition a
         wait 3000
         grant a
         fail s0#2 stalled three
         notices",
        expect![[r#"
            hello a gpu               Online
            job                       created 1
            job of=second             created 2
            grant a                   s0#1 Leased, from step 0, 0 inputs
            fail s0#1 internal one    Ready
            grant a                   2/s0#1 Leased, from step 0, 0 inputs
            fail 2/s0#1 internal two  Ready
            condition a               online
            wait 3000                 s0 Ready, film Blocked, 2/s0 Ready, 2/film Blocked
            grant a                   s0#2 Leased, from step 0, 0 inputs
            fail s0#2 stalled three   Ready
            notices                   quarantine_stopped a (tasks of 2 projects failed within 30 minutes)
        "#]],
    );
}

#[test]
fn where_many_of_a_class_would_go_at_once_the_fault_is_ours() {
    check(
        "hello a gpu devices=8
         beat a xid/0=79
         beat a xid/1=79
         beat a xid/2=79
         beat a xid/3=79
         condition a
         wait 600000
         hello a gpu devices=8
         beat a xid/4=79
         notices",
        expect![[r#"
            hello a gpu devices=8     Online
            beat a xid/0=79           Run
            beat a xid/1=79           Run
            beat a xid/2=79           Run
            beat a xid/3=79           Run
            condition a               online
            wait 600000               
            hello a gpu devices=8     Online
            beat a xid/4=79           Run
            notices                   quarantined a (Xid 79), quarantine_stopped a (Xid 79), quarantined a (Xid 79)
        "#]],
    );
}

#[test]
fn a_probe_brings_a_device_back_and_failed_ones_come_ever_later() {
    check(
        "hello a
         beat a xid=94
         grant a
         probe a fine
         wait 599000
         hello a
         grant a
         wait 1000
         grant a
         probe a fails
         grant a
         wait 3599000
         hello a
         grant a
         wait 1000
         grant a
         probe a fails
         wait 21600000
         probe a fails
         hello a
         grant a
         probe a fails
         wait 86400000
         hello a
         grant a
         probe a fine
         node a release
         beat a xid=94
         wait 600000
         hello a
         grant a
         probe a fine
         notices",
        expect![[r#"
            hello a                   Online
            beat a xid=94             Run
            grant a                   idle: devices_quarantined
            probe a fine              refused: no probe of the device is due
            wait 599000               
            hello a                   Online
            grant a                   idle: devices_quarantined
            wait 1000                 
            grant a                   probe
            probe a fails             quarantined
            grant a                   idle: devices_quarantined
            wait 3599000              
            hello a                   Online
            grant a                   idle: devices_quarantined
            wait 1000                 
            grant a                   probe
            probe a fails             quarantined
            wait 21600000             
            probe a fails             refused: the write comes from another agent or an earlier start of it
            hello a                   Online
            grant a                   probe
            probe a fails             quarantined
            wait 86400000             
            hello a                   Online
            grant a                   idle: devices_quarantined
            probe a fine              refused: no probe of the device is due
            node a release            Now: online
            beat a xid=94             Run
            wait 600000               
            hello a                   Online
            grant a                   probe
            probe a fine              online
            notices                   quarantined a (Xid 94), probe_failed a (the probe failed: two runs differ), probe_failed a (the probe failed: two runs differ), probe_failed a (the probe failed: two runs differ), release a by operator, quarantined a (Xid 94), probe_passed a
        "#]],
    );
}

#[test]
fn a_healthy_idle_device_says_what_its_class_gives() {
    check(
        "hello a gpu
         hello b gpu
         hello c
         probe b right
         beat a xid=79
         wait 600000
         hello a gpu
         hello b gpu
         hello c
         grant a
         grant c
         grant b
         grant b
         probe b right
         grant a
         probe a wrong
         condition a
         node a release
         beat a xid=79
         crash
         wait 600000
         hello a gpu
         grant a
         probe a right
         notices",
        expect![[r#"
            hello a gpu               Online
            hello b gpu               Online
            hello c                   Online
            probe b right             refused: no probe of the device is due
            beat a xid=79             Run
            wait 600000               
            hello a gpu               Online
            hello b gpu               Online
            hello c                   Online
            grant a                   idle: devices_quarantined
            grant c                   idle: nothing_waits
            grant b                   probe
            grant b                   idle: nothing_waits
            probe b right             online
            grant a                   probe
            probe a wrong             quarantined
            condition a               quarantined
            node a release            Now: online
            beat a xid=79             Run
            crash                     
            wait 600000               
            hello a gpu               Online
            grant a                   probe
            probe a right             online
            notices                   quarantined a (Xid 79), probe_failed a (the probe gave other latents than the class gives), release a by operator, quarantined a (Xid 79), probe_passed a
        "#]],
    );
}

#[test]
fn a_peer_that_is_never_idle_does_not_keep_a_device_out() {
    check(
        "hello a gpu
         hello b gpu
         beat a xid=79
         wait 600000
         hello a gpu
         hello b gpu
         grant a
         wait 300000
         hello a gpu
         hello b gpu
         grant a
         probe a itself",
        expect![[r#"
            hello a gpu               Online
            hello b gpu               Online
            beat a xid=79             Run
            wait 600000               
            hello a gpu               Online
            hello b gpu               Online
            grant a                   idle: devices_quarantined
            wait 300000               
            hello a gpu               Online
            hello b gpu               Online
            grant a                   probe
            probe a itself            online
        "#]],
    );
}

#[test]
fn quarantine_outlives_boots_silence_and_leaders_and_drain_goes_before_it() {
    check(
        "hello a
         node a quarantine
         node a quarantine
         grant a
         reboot a
         condition a
         crash
         condition a
         wait 15000
         condition a
         hello a
         condition a
         node a drain
         condition a
         node a quarantine
         node a drain
         reboot a
         condition a
         node a release
         notices",
        expect![[r#"
            hello a                   Online
            node a quarantine         Now: quarantined
            node a quarantine         Before: quarantined
            grant a                   idle: devices_quarantined
            reboot a                  Online
            condition a               quarantined
            crash                     
            condition a               quarantined
            wait 15000                
            condition a               unresponsive
            hello a                   Online
            condition a               quarantined
            node a drain              Now: gone
            condition a               gone
            node a quarantine         refused: the node is gone
            node a drain              refused: the node is gone
            reboot a                  Online
            condition a               quarantined
            node a release            Now: online
            notices                   quarantine a by operator (told to), drain a by operator, release a by operator
        "#]],
    );
}

#[test]
fn an_operators_quarantine_lets_running_work_go_on_elsewhere_from_its_step() {
    check(
        "job
         hello a devices=2
         hello b
         grant a/1
         beat a s0#1:4
         node a quarantine 1
         node a quarantine 2
         node b quarantine 0
         condition a
         condition b
         beat a s0#1:5
         release s0#1 5
         grant a/1
         why s0
         grant a
         node b release",
        expect![[r#"
            job                       created 1
            hello a devices=2         Online
            hello b                   Online
            grant a/1                 s0#1 Leased, from step 0, 0 inputs
            beat a s0#1:4             Run Continue { ttl_ms: 30000 }
            node a quarantine 1       Now: online
            node a quarantine 2       refused: the job is not valid: node a has no device 2
            node b quarantine 0       Now: quarantined
            condition a               online
            condition b               quarantined
            beat a s0#1:5             Run Yield { reason: "the device is in quarantine" }
            release s0#1 5            Ready
            grant a/1                 idle: devices_quarantined
            why s0                    DevicesBusy { devices: 2, earliest_ms: Some(1000000) }
            grant a                   s0#2 Leased, from step 5, 0 inputs
            node b release            Now: online
        "#]],
    );
}

#[test]
fn a_task_says_that_it_waits_for_devices_in_quarantine() {
    check(
        "job
         hello a
         hello b
         beat a xid=79
         why s0
         node b quarantine
         why s0
         node a drain
         why s0
         node nobody drain",
        expect![[r#"
            job                       created 1
            hello a                   Online
            hello b                   Online
            beat a xid=79             Run
            why s0                    DevicesBusy { devices: 1, earliest_ms: Some(1000000) }
            node b quarantine         Now: quarantined
            why s0                    DevicesQuarantined { devices: 2, first_return_ms: Some(1600000) }
            node a drain              Now: gone
            why s0                    DevicesQuarantined { devices: 1, first_return_ms: None }
            node nobody drain         refused: there is no node nobody
        "#]],
    );
}

#[test]
fn an_agent_that_comes_back_after_a_partition_discards_its_work() {
    check(
        "job
         hello a
         hello b
         grant a
         beat a s0#1:3
         wait 31000
         agent a
         beat b
         grant b
         beat b s0#2:1
         beat a s0#1:6
         agent a
         checkpoint s0#1 6
         succeed s0#1
         succeed s0#2",
        expect![[r#"
            job                       created 1
            hello a                   Online
            hello b                   Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            beat a s0#1:3             Run Continue { ttl_ms: 30000 }
            wait 31000                s0 Ready, film Blocked
            agent a                   Unresponsive
            beat b                    Run
            grant b                   s0#2 Leased, from step 0, 0 inputs
            beat b s0#2:1             Run Continue { ttl_ms: 30000 }
            beat a s0#1:6             Run Abandon { reason: "attempt 1 is not the current one" }
            agent a                   Online
            checkpoint s0#1 6         refused: attempt 1 is fenced off: the current attempt is 2
            succeed s0#1              refused: attempt 1 is fenced off: the current attempt is 2
            succeed s0#2              Succeeded
        "#]],
    );
}

#[test]
fn readings_are_summed_up_by_the_minute_and_written_when_a_node_falls_silent() {
    check(
        "hello a
         beat a celsius=50
         wait 1000
         beat a celsius=60
         minutes
         wait 60000
         beat a celsius=40
         minutes
         wait 15000
         minutes",
        expect![[r#"
            hello a                   Online
            beat a celsius=50         Run
            wait 1000                 
            beat a celsius=60         Run
            minutes                   
            wait 60000                
            beat a celsius=40         Run
            minutes                   minute 16: 2 readings, Some(60) C
            wait 15000                
            minutes                   minute 16: 2 readings, Some(60) C, minute 17: 1 readings, Some(40) C
        "#]],
    );
}
