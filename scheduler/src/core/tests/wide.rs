//! Tasks that need several devices of a node at once: a group is granted whole or not at all.

use expect_test::expect;

use super::check;

#[test]
fn a_group_is_granted_whole_on_one_node_and_counts_all_its_devices() {
    check(
        "hello a devices=4 groups=4
         job devices=2
         job
         job devices=4
         grant a/1
         grant a/0
         poll-again a/1
         grant a/2
         grant a/3
         why 3/s0
         beat a s0#1:4 2/s0#1:4
         succeed s0#1
         job-state 1
         succeed 2/s0#1
         grant a/0
         grant a/1
         succeed film#1
         succeed 2/film#1
         grant a/3
         crash
         grant a/0
         succeed 3/s0#1
         money project",
        expect![[r#"
            hello a devices=4 groups=4Online
            job devices=2             created 1
            job                       created 2
            job devices=4             created 3
            grant a/1                 s0#1 Leased, from step 0, 0 inputs, on [0, 1]
            grant a/0                 idle: devices_busy
            poll-again a/1            s0#1 Leased, from step 0, 0 inputs, on [0, 1]
            grant a/2                 2/s0#1 Leased, from step 0, 0 inputs
            grant a/3                 idle: nothing_waits
            why 3/s0                  DevicesBusy { devices: 4, earliest_ms: Some(1006000) }
            beat a s0#1:4 2/s0#1:4    Run Continue { ttl_ms: 30000 } Continue { ttl_ms: 30000 }
            succeed s0#1              Succeeded
            job-state 1               Rendering 49% Pending spent 8 
            succeed 2/s0#1            Succeeded
            grant a/0                 film#1 Leased, from step 0, 1 inputs
            grant a/1                 2/film#1 Leased, from step 0, 1 inputs
            succeed film#1            Succeeded
            succeed 2/film#1          Succeeded
            grant a/3                 3/s0#1 Leased, from step 0, 0 inputs, on [0, 1, 2, 3]
            crash                     s0 Succeeded, film Succeeded, 2/s0 Succeeded, 2/film Succeeded, 3/s0 Leased, 3/film Blocked
            grant a/0                 idle: devices_busy
            succeed 3/s0#1            Succeeded
            money project             available -28, held 0, spent 28, mint 0
        "#]],
    );
}

#[test]
fn caps_and_pools_count_every_device_of_a_group() {
    check(
        "hello a devices=4 groups=4
         limit project devices=3
         job devices=2
         job devices=2
         grant a/0
         grant a/2
         why 2/s0
         limit project devices=4
         grant a/2
         pool project cpu 3 0 0
         job devices=2 of=second
         pool second cpu 1 0 0
         why 3/s0",
        expect![[r#"
            hello a devices=4 groups=4Online
            limit project devices=3   Now
            job devices=2             created 1
            job devices=2             created 2
            grant a/0                 s0#1 Leased, from step 0, 0 inputs, on [0, 1]
            grant a/2                 idle: nothing_waits
            why 2/s0                  ConcurrencyCap { account: "project", used: 2, of: 3 }
            limit project devices=4   Now
            grant a/2                 2/s0#1 Leased, from step 0, 0 inputs, on [2, 3]
            pool project cpu 3 0 0    Now
            job devices=2 of=second   created 3
            pool second cpu 1 0 0     Now
            why 3/s0                  BorrowLimit { account: "second", used: 0, of: 1 }
        "#]],
    );
}

#[test]
fn a_node_that_is_lost_or_drains_takes_the_whole_group_with_it() {
    check(
        "hello a devices=2 groups=2
         hello b devices=2 groups=2
         job devices=2
         grant a/0
         reboot a devices=2 groups=2
         show
         grant b/1
         beat b s0#2:4
         drain b
         beat b s0#2:5
         release s0#2 6
         agent b
         grant a/1
         node a quarantine 0
         beat a s0#3:7
         release s0#3 8
         grant a/1
         why s0",
        expect![[r#"
            hello a devices=2 groups=2Online
            hello b devices=2 groups=2Online
            job devices=2             created 1
            grant a/0                 s0#1 Leased, from step 0, 0 inputs, on [0, 1]
            reboot a devices=2 groups=2Online
            show                      s0 Ready, film Blocked
            grant b/1                 s0#2 Leased, from step 0, 0 inputs, on [0, 1]
            beat b s0#2:4             Run Continue { ttl_ms: 30000 }
            drain b                   Draining
            beat b s0#2:5             Drain Yield { reason: "the node drains" }
            release s0#2 6            Ready
            agent b                   Gone
            grant a/1                 s0#3 Leased, from step 6, 0 inputs, on [0, 1]
            node a quarantine 0       Now: online
            beat a s0#3:7             Run Yield { reason: "the device is in quarantine" }
            release s0#3 8            Ready
            grant a/1                 idle: nothing_waits
            why s0                    DevicesQuarantined { devices: 1, first_return_ms: None }
        "#]],
    );
}

#[test]
fn a_group_that_no_node_can_run_is_said_to_be_too_large() {
    check(
        "hello a devices=4
         hello b devices=2 groups=2
         job devices=4
         why s0
         grant a
         hello c devices=4 groups=8
         why s0
         grant c/3
         job devices=3",
        expect![[r#"
            hello a devices=4         Online
            hello b devices=2 groups=2Online
            job devices=4             created 1
            why s0                    NoCapableDevice { needs: "a node that runs one shot on 4 devices at once; the largest group size is 2" }
            grant a                   idle: nothing_waits
            hello c devices=4 groups=8Online
            why s0                    DevicesBusy { devices: 4, earliest_ms: Some(1000000) }
            grant c/3                 s0#1 Leased, from step 0, 0 inputs, on [0, 1, 2, 3]
            job devices=3             refused: the job is not valid: task 0 needs 3 devices, not 1, 2, 4 or 8
        "#]],
    );
}

#[test]
fn an_urgent_group_takes_from_all_in_its_way_and_keeps_what_comes_first() {
    check(
        "hello a devices=4 groups=4 no-ffmpeg
         job
         job devices=2
         grant a/0
         grant a/1
         beat a s0#1:1:denoise:9000 2/s0#1:1:denoise:9000
         wait 14000
         beat a s0#1:2:denoise:9000 2/s0#1:2:denoise:9000
         wait 14000
         beat a s0#1:3:denoise:9000 2/s0#1:3:denoise:9000
         wait 14000
         beat a s0#1:4:denoise:9000 2/s0#1:4:denoise:9000
         wait 14000
         beat a s0#1:4:denoise:9000 2/s0#1:4:denoise:9000
         wait 14000
         job band=urgent devices=4
         why 3/s0
         job
         grant a/3
         beat a s0#1:4:denoise:9000 2/s0#1:4:denoise:9000
         release 2/s0#1 5
         grant a/1
         why 3/s0
         release s0#1 5
         grant a/2
         succeed 3/s0#1
         grant a/0
         grant a/1
         grant a/3",
        expect![[r#"
            hello a devices=4 groups=4 no-ffmpegOnline
            job                       created 1
            job devices=2             created 2
            grant a/0                 s0#1 Leased, from step 0, 0 inputs
            grant a/1                 2/s0#1 Leased, from step 0, 0 inputs, on [1, 2]
            beat a s0#1:1:denoise:9000 2/s0#1:1:denoise:9000Run Continue { ttl_ms: 30000 } Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked, 2/s0 Leased, 2/film Blocked
            beat a s0#1:2:denoise:9000 2/s0#1:2:denoise:9000Run Continue { ttl_ms: 30000 } Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked, 2/s0 Leased, 2/film Blocked
            beat a s0#1:3:denoise:9000 2/s0#1:3:denoise:9000Run Continue { ttl_ms: 30000 } Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked, 2/s0 Leased, 2/film Blocked
            beat a s0#1:4:denoise:9000 2/s0#1:4:denoise:9000Run Continue { ttl_ms: 30000 } Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked, 2/s0 Leased, 2/film Blocked
            beat a s0#1:4:denoise:9000 2/s0#1:4:denoise:9000Run Continue { ttl_ms: 30000 } Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked, 2/s0 Leased, 2/film Blocked
            job band=urgent devices=4 created 3
            why 3/s0                  Handover { node: "a", device: 3 }
            job                       created 4
            grant a/3                 idle: nothing_waits
            beat a s0#1:4:denoise:9000 2/s0#1:4:denoise:9000Run Yield { reason: "a more urgent task needs the device" } Yield { reason: "a more urgent task needs the device" }
            release 2/s0#1 5          Ready
            grant a/1                 idle: nothing_waits
            why 3/s0                  Handover { node: "a", device: 1 }
            release s0#1 5            Ready
            grant a/2                 3/s0#1 Leased, from step 0, 0 inputs, on [0, 1, 2, 3]
            succeed 3/s0#1            Succeeded
            grant a/0                 s0#2 Leased, from step 5, 0 inputs
            grant a/1                 2/s0#2 Leased, from step 5, 0 inputs, on [1, 2]
            grant a/3                 4/s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn an_urgent_task_takes_one_device_of_a_group_and_leaves_the_rest_to_others() {
    check(
        "hello a devices=2 groups=2 no-ffmpeg
         job devices=2
         grant a/0
         beat a s0#1:1:denoise:9000
         wait 14000
         beat a s0#1:2:denoise:9000
         wait 14000
         beat a s0#1:3:denoise:9000
         wait 14000
         beat a s0#1:4:denoise:9000
         wait 14000
         beat a s0#1:4:denoise:9000
         wait 14000
         job band=urgent
         job
         beat a s0#1:4:denoise:9000
         release s0#1 5
         grant a/1
         grant a/0",
        expect![[r#"
            hello a devices=2 groups=2 no-ffmpegOnline
            job devices=2             created 1
            grant a/0                 s0#1 Leased, from step 0, 0 inputs, on [0, 1]
            beat a s0#1:1:denoise:9000Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:2:denoise:9000Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:3:denoise:9000Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:4:denoise:9000Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:4:denoise:9000Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            job band=urgent           created 2
            job                       created 3
            beat a s0#1:4:denoise:9000Run Yield { reason: "a more urgent task needs the device" }
            release s0#1 5            Ready
            grant a/1                 2/s0#1 Leased, from step 0, 0 inputs
            grant a/0                 3/s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn an_overtaken_group_claims_devices_where_others_start_only_what_ends_before() {
    check(
        "hello a devices=2 groups=2 no-ffmpeg
         claims 20000
         job of=second
         job of=second
         job of=second
         job of=second
         grant a/0
         grant a/1
         job devices=2
         succeed s0#1
         grant a/0
         why 5/s0
         wait 14000
         beat a 2/s0#1:5 3/s0#1:5
         wait 7000
         beat a 2/s0#1:6 3/s0#1:5
         succeed 2/s0#1
         grant a/1
         why 5/s0
         beat a 4/s0#1:5 3/s0#1:5
         succeed 4/s0#1
         wait 14000
         beat a 3/s0#1:6
         wait 14000
         beat a 3/s0#1:7
         wait 3000
         job of=second
         grant a/1
         why 6/s0
         beat a 3/s0#1:8
         succeed 3/s0#1
         grant a/0
         grant a/1
         why 6/s0",
        expect![[r#"
            hello a devices=2 groups=2 no-ffmpegOnline
            claims 20000              
            job of=second             created 1
            job of=second             created 2
            job of=second             created 3
            job of=second             created 4
            grant a/0                 s0#1 Leased, from step 0, 0 inputs
            grant a/1                 2/s0#1 Leased, from step 0, 0 inputs
            job devices=2             created 5
            succeed s0#1              Succeeded
            grant a/0                 3/s0#1 Leased, from step 0, 0 inputs
            why 5/s0                  DevicesBusy { devices: 2, earliest_ms: Some(1006000) }
            wait 14000                s0 Succeeded, film Ready, 2/s0 Leased, 2/film Blocked, 3/s0 Leased, 3/film Blocked, 4/s0 Ready, 4/film Blocked, 5/s0 Ready, 5/film Blocked
            beat a 2/s0#1:5 3/s0#1:5  Run Continue { ttl_ms: 30000 } Continue { ttl_ms: 30000 }
            wait 7000                 s0 Succeeded, film Ready, 2/s0 Leased, 2/film Blocked, 3/s0 Leased, 3/film Blocked, 4/s0 Ready, 4/film Blocked, 5/s0 Ready, 5/film Blocked
            beat a 2/s0#1:6 3/s0#1:5  Run Continue { ttl_ms: 30000 } Continue { ttl_ms: 30000 }
            succeed 2/s0#1            Succeeded
            grant a/1                 4/s0#1 Leased, from step 0, 0 inputs
            why 5/s0                  ClaimPending { node: "a", starts_ms: 1058500 }
            beat a 4/s0#1:5 3/s0#1:5  Run Continue { ttl_ms: 30000 } Continue { ttl_ms: 30000 }
            succeed 4/s0#1            Succeeded
            wait 14000                s0 Succeeded, film Ready, 2/s0 Succeeded, 2/film Ready, 3/s0 Leased, 3/film Blocked, 4/s0 Succeeded, 4/film Ready, 5/s0 Ready, 5/film Blocked
            beat a 3/s0#1:6           Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Succeeded, film Ready, 2/s0 Succeeded, 2/film Ready, 3/s0 Leased, 3/film Blocked, 4/s0 Succeeded, 4/film Ready, 5/s0 Ready, 5/film Blocked
            beat a 3/s0#1:7           Run Continue { ttl_ms: 30000 }
            wait 3000                 s0 Succeeded, film Ready, 2/s0 Succeeded, 2/film Ready, 3/s0 Leased, 3/film Blocked, 4/s0 Succeeded, 4/film Ready, 5/s0 Ready, 5/film Blocked
            job of=second             created 6
            grant a/1                 idle: nothing_waits
            why 6/s0                  ClaimedByOther { devices: 1 }
            beat a 3/s0#1:8           Run Continue { ttl_ms: 30000 }
            succeed 3/s0#1            Succeeded
            grant a/0                 5/s0#1 Leased, from step 0, 0 inputs, on [0, 1]
            grant a/1                 idle: devices_busy
            why 6/s0                  DevicesBusy { devices: 2, earliest_ms: Some(1058000) }
        "#]],
    );
}

#[test]
fn a_claim_goes_elsewhere_when_its_node_leaves_and_a_new_leader_places_it_anew() {
    check(
        "hello a devices=2 groups=2 no-ffmpeg
         hello b devices=2 groups=2 no-ffmpeg
         claims 5000
         job of=second
         job of=second
         job of=second
         job of=second
         job of=second
         job of=second
         job of=second
         grant a/0
         grant a/1
         grant b/0
         grant b/1
         job devices=2
         succeed s0#1
         grant a/0
         wait 6000
         beat a 2/s0#1:9 5/s0#1:9
         beat b 3/s0#1:5 4/s0#1:5
         succeed 2/s0#1
         grant a/1
         why 8/s0
         node a cordon
         why 8/s0
         succeed 3/s0#1
         grant b/0
         why 8/s0
         node a uncordon
         crash
         why 8/s0
         succeed 5/s0#1
         grant a/0
         wait 6000
         beat a 6/s0#1:5
         beat b 4/s0#1:6
         job of=second
         succeed 6/s0#1
         grant a/0
         why 8/s0",
        expect![[r#"
            hello a devices=2 groups=2 no-ffmpegOnline
            hello b devices=2 groups=2 no-ffmpegOnline
            claims 5000               
            job of=second             created 1
            job of=second             created 2
            job of=second             created 3
            job of=second             created 4
            job of=second             created 5
            job of=second             created 6
            job of=second             created 7
            grant a/0                 s0#1 Leased, from step 0, 0 inputs
            grant a/1                 2/s0#1 Leased, from step 0, 0 inputs
            grant b/0                 3/s0#1 Leased, from step 0, 0 inputs
            grant b/1                 4/s0#1 Leased, from step 0, 0 inputs
            job devices=2             created 8
            succeed s0#1              Succeeded
            grant a/0                 5/s0#1 Leased, from step 0, 0 inputs
            wait 6000                 s0 Succeeded, film Ready, 2/s0 Leased, 2/film Blocked, 3/s0 Leased, 3/film Blocked, 4/s0 Leased, 4/film Blocked, 5/s0 Leased, 5/film Blocked, 6/s0 Ready, 6/film Blocked, 7/s0 Ready, 7/film Blocked, 8/s0 Ready, 8/film Blocked
            beat a 2/s0#1:9 5/s0#1:9  Run Continue { ttl_ms: 30000 } Continue { ttl_ms: 30000 }
            beat b 3/s0#1:5 4/s0#1:5  Run Continue { ttl_ms: 30000 } Continue { ttl_ms: 30000 }
            succeed 2/s0#1            Succeeded
            grant a/1                 6/s0#1 Leased, from step 0, 0 inputs
            why 8/s0                  ClaimPending { node: "a", starts_ms: 1025500 }
            node a cordon             Now: cordoned
            why 8/s0                  DevicesBusy { devices: 2, earliest_ms: Some(1031000) }
            succeed 3/s0#1            Succeeded
            grant b/0                 7/s0#1 Leased, from step 0, 0 inputs
            why 8/s0                  ClaimPending { node: "b", starts_ms: 1043500 }
            node a uncordon           Now: online
            crash                     s0 Succeeded, film Ready, 2/s0 Succeeded, 2/film Ready, 3/s0 Succeeded, 3/film Ready, 4/s0 Leased, 4/film Blocked, 5/s0 Leased, 5/film Blocked, 6/s0 Leased, 6/film Blocked, 7/s0 Leased, 7/film Blocked, 8/s0 Ready, 8/film Blocked
            why 8/s0                  DevicesBusy { devices: 4, earliest_ms: Some(1012000) }
            succeed 5/s0#1            Succeeded
            grant a/0                 idle: nothing_waits
            wait 6000                 s0 Succeeded, film Ready, 2/s0 Succeeded, 2/film Ready, 3/s0 Succeeded, 3/film Ready, 4/s0 Leased, 4/film Blocked, 5/s0 Succeeded, 5/film Ready, 6/s0 Leased, 6/film Blocked, 7/s0 Leased, 7/film Blocked, 8/s0 Ready, 8/film Blocked
            beat a 6/s0#1:5           Run Continue { ttl_ms: 30000 }
            beat b 4/s0#1:6           Run Continue { ttl_ms: 30000 }
            job of=second             created 9
            succeed 6/s0#1            Succeeded
            grant a/0                 8/s0#1 Leased, from step 0, 0 inputs, on [0, 1]
            why 8/s0                  it does not wait
        "#]],
    );
}

#[test]
fn enough_devices_on_different_nodes_are_no_group() {
    check(
        "hello a devices=2 groups=2 no-ffmpeg
         hello b devices=2 groups=2 no-ffmpeg
         job
         job
         grant a/0
         grant b/0
         job devices=2
         grant a/1
         why 3/s0",
        expect![[r#"
            hello a devices=2 groups=2 no-ffmpegOnline
            hello b devices=2 groups=2 no-ffmpegOnline
            job                       created 1
            job                       created 2
            grant a/0                 s0#1 Leased, from step 0, 0 inputs
            grant b/0                 2/s0#1 Leased, from step 0, 0 inputs
            job devices=2             created 3
            grant a/1                 idle: nothing_waits
            why 3/s0                  GroupFragmented { largest: 1 }
        "#]],
    );
}
