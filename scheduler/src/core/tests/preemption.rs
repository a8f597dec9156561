//! Who must give way, to whom, and who is protected.

use expect_test::expect;

use super::check;

#[test]
fn an_urgent_task_takes_the_device_one_step_later_and_the_victim_goes_on() {
    check(
        "hello a no-ffmpeg
         job
         grant a
         beat a s0#1:1
         wait 14000
         beat a s0#1:2
         wait 14000
         beat a s0#1:3
         wait 14000
         beat a s0#1:4
         wait 14000
         beat a s0#1:4
         wait 14000
         job band=urgent
         why 2/s0
         beat a s0#1:4
         release s0#1 5
         grant a
         beat a 2/s0#1:1
         succeed 2/s0#1
         grant a",
        expect![[r#"
            hello a no-ffmpeg         Online
            job                       created 1
            grant a                   s0#1 Leased, from step 0, 0 inputs
            beat a s0#1:1             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:2             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:3             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:4             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:4             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            job band=urgent           created 2
            why 2/s0                  Handover { node: "a", device: 0 }
            beat a s0#1:4             Run Yield { reason: "an urgent task needs the device" }
            release s0#1 5            Ready
            grant a                   2/s0#1 Leased, from step 0, 0 inputs
            beat a 2/s0#1:1           Run Continue { ttl_ms: 30000 }
            succeed 2/s0#1            Succeeded
            grant a                   s0#2 Leased, from step 5, 0 inputs
        "#]],
    );
}

#[test]
fn a_task_that_has_just_begun_is_left_alone() {
    check(
        "hello a no-ffmpeg
         job
         grant a
         beat a s0#1:4
         job band=urgent
         why 2/s0
         beat a s0#1:4",
        expect![[r#"
            hello a no-ffmpeg         Online
            job                       created 1
            grant a                   s0#1 Leased, from step 0, 0 inputs
            beat a s0#1:4             Run Continue { ttl_ms: 30000 }
            job band=urgent           created 2
            why 2/s0                  DevicesBusy { devices: 1, earliest_ms: Some(1028000) }
            beat a s0#1:4             Run Continue { ttl_ms: 30000 }
        "#]],
    );
}

#[test]
fn a_task_that_is_nearly_done_is_left_alone() {
    check(
        "hello a no-ffmpeg
         job
         grant a
         beat a s0#1:1
         wait 14000
         beat a s0#1:3
         wait 14000
         beat a s0#1:5
         wait 14000
         beat a s0#1:7
         wait 14000
         beat a s0#1:8
         wait 14000
         job band=urgent
         beat a s0#1:8
         beat a s0#1:9",
        expect![[r#"
            hello a no-ffmpeg         Online
            job                       created 1
            grant a                   s0#1 Leased, from step 0, 0 inputs
            beat a s0#1:1             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:3             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:5             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:7             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:8             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            job band=urgent           created 2
            beat a s0#1:8             Run Continue { ttl_ms: 30000 }
            beat a s0#1:9             Run Continue { ttl_ms: 30000 }
        "#]],
    );
}

#[test]
fn urgent_work_never_takes_from_urgent_work_and_a_free_device_is_used_first() {
    check(
        "hello a no-ffmpeg
         job band=urgent
         grant a
         beat a s0#1:1
         wait 14000
         beat a s0#1:2
         wait 14000
         beat a s0#1:3
         wait 14000
         beat a s0#1:4
         wait 14000
         beat a s0#1:4
         wait 14000
         job band=urgent
         beat a s0#1:4
         hello b no-ffmpeg
         grant b",
        expect![[r#"
            hello a no-ffmpeg         Online
            job band=urgent           created 1
            grant a                   s0#1 Leased, from step 0, 0 inputs
            beat a s0#1:1             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:2             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:3             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:4             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:4             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            job band=urgent           created 2
            beat a s0#1:4             Run Continue { ttl_ms: 30000 }
            hello b no-ffmpeg         Online
            grant b                   2/s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn a_freed_device_is_not_given_to_a_task_that_must_wait_for_its_retry() {
    // The urgent task starts on b in the meantime and fails there: it waits its backoff, and a takes up the victim again.
    check(
        "hello a no-ffmpeg
         job
         grant a
         beat a s0#1:1
         wait 14000
         beat a s0#1:2
         wait 14000
         beat a s0#1:3
         wait 14000
         beat a s0#1:4
         wait 14000
         beat a s0#1:4
         wait 14000
         job band=urgent
         beat a s0#1:4
         hello b no-ffmpeg
         grant b
         fail 2/s0#1 io
         release s0#1 5
         grant a",
        expect![[r#"
            hello a no-ffmpeg         Online
            job                       created 1
            grant a                   s0#1 Leased, from step 0, 0 inputs
            beat a s0#1:1             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:2             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:3             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:4             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:4             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            job band=urgent           created 2
            beat a s0#1:4             Run Yield { reason: "an urgent task needs the device" }
            hello b no-ffmpeg         Online
            grant b                   2/s0#1 Leased, from step 0, 0 inputs
            fail 2/s0#1 io            Ready
            release s0#1 5            Ready
            grant a                   s0#2 Leased, from step 5, 0 inputs
        "#]],
    );
}

#[test]
fn an_idle_node_that_the_urgent_task_avoids_does_not_stop_it_from_taking_another() {
    check(
        "hello a no-ffmpeg
         job
         grant a
         beat a s0#1:1
         wait 14000
         beat a s0#1:2
         wait 14000
         beat a s0#1:3
         wait 14000
         beat a s0#1:4
         wait 14000
         beat a s0#1:4
         wait 14000
         beat a s0#1:4
         hello b no-ffmpeg
         job band=urgent
         grant b
         fail 2/s0#1 internal
         wait 3000
         grant b
         beat a s0#1:4",
        expect![[r#"
            hello a no-ffmpeg         Online
            job                       created 1
            grant a                   s0#1 Leased, from step 0, 0 inputs
            beat a s0#1:1             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:2             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:3             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:4             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:4             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:4             Run Continue { ttl_ms: 30000 }
            hello b no-ffmpeg         Online
            job band=urgent           created 2
            grant b                   2/s0#1 Leased, from step 0, 0 inputs
            fail 2/s0#1 internal      Ready
            wait 3000                 s0 Leased, film Blocked, 2/s0 Ready, 2/film Blocked
            grant b                   idle: nothing_waits
            beat a s0#1:4             Run Yield { reason: "an urgent task needs the device" }
        "#]],
    );
}
