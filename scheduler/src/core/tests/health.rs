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
        expect![[r#""#]],
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
         wait 29000
         beat a s0#1:3
         wait 29000
         beat a s0#1:4
         checkpoint s0#1 4
         beat a s0#1:4 xid=13
         condition a
         beat a s0#1:4 xid=79
         condition a
         beat a s0#1:5
         grant a
         wait 3000
         grant b
         notices",
        expect![[r#""#]],
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
        expect![[r#""#]],
    );
}

#[test]
fn failures_of_two_projects_take_a_device_out_and_those_of_one_do_not() {
    check(
        "hello a gpu
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
         fail 3/s0#1 internal three
         condition a
         grant a
         notices",
        expect![[r#""#]],
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
        expect![[r#""#]],
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
        expect![[r#""#]],
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
        expect![[r#""#]],
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
        expect![[r#""#]],
    );
}

#[test]
fn a_probe_brings_a_device_back_and_failed_ones_come_ever_later() {
    check(
        "hello a
         beat a xid=94
         grant a
         probe a fine
         wait 599999
         grant a
         wait 1
         grant a
         probe a fails
         grant a
         wait 3600000
         hello a
         grant a
         probe a fails
         wait 21600000
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
        expect![[r#""#]],
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
        expect![[r#""#]],
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
        expect![[r#""#]],
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
        expect![[r#""#]],
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
        expect![[r#""#]],
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
        expect![[r#""#]],
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
         grant b
         beat b s0#2:1
         beat a s0#1:6
         agent a
         checkpoint s0#1 6
         succeed s0#1
         succeed s0#2",
        expect![[r#""#]],
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
        expect![[r#""#]],
    );
}
