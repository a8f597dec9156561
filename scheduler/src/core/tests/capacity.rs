//! Devices that are an account's own, borrowed ones, and how their owner takes them back.

use expect_test::{Expect, expect};

use super::check;

/// Four devices, two of each project, all lent and borrowed freely; then `script`.
fn farm(script: &str, expected: Expect) {
    let begin = "hello a no-ffmpeg
         hello b no-ffmpeg
         hello c no-ffmpeg
         hello d no-ffmpeg
         pool project cpu 2 2 2
         pool second cpu 2 2 2\n";
    check(&format!("{begin}{script}"), expected);
}

/// All four nodes beat for a minute and are then at step 5 of their tasks.
fn a_minute(tasks: [&str; 4]) -> String {
    let mut script = String::new();
    for step in 1..=5 {
        script += "wait 14000\n";
        for (node, task) in ["a", "b", "c", "d"].into_iter().zip(tasks) {
            script += &match task {
                "" => format!("beat {node}\n"),
                task => format!("beat {node} {task}:{step}\n"),
            };
        }
    }
    script
}

#[test]
fn idle_devices_are_lent_as_far_as_their_owner_needs_none() {
    farm(
        "job of=second
         job of=second
         job of=second
         job of=second
         grant a
         grant b
         grant c
         job
         grant d
         why 4/s0
         crash
         grant d
         why 4/s0
         pool second cpu
         why 4/s0",
        expect![[r#"
            hello a no-ffmpeg         Online
            hello b no-ffmpeg         Online
            hello c no-ffmpeg         Online
            hello d no-ffmpeg         Online
            pool project cpu 2 2 2    Now
            pool second cpu 2 2 2     Now
            job of=second             created 1
            job of=second             created 2
            job of=second             created 3
            job of=second             created 4
            grant a                   s0#1 Leased, from step 0, 0 inputs
            grant b                   2/s0#1 Leased, from step 0, 0 inputs
            grant c                   3/s0#1 Leased, from step 0, 0 inputs
            job                       created 5
            grant d                   5/s0#1 Leased, from step 0, 0 inputs
            why 4/s0                  BorrowLimit { account: "second", used: 3, of: 3 }
            crash                     s0 Leased, film Blocked, 2/s0 Leased, 2/film Blocked, 3/s0 Leased, 3/film Blocked, 4/s0 Ready, 4/film Blocked, 5/s0 Leased, 5/film Blocked
            grant d                   idle: devices_busy
            why 4/s0                  BorrowLimit { account: "second", used: 3, of: 3 }
            pool second cpu           Now
            why 4/s0                  DevicesBusy { devices: 4, earliest_ms: Some(1006000) }
        "#]],
    );
}

#[test]
fn a_lender_takes_its_devices_back_and_no_more_than_that() {
    let script = format!(
        "job of=second
         job of=second
         job of=second
         job of=second
         grant a
         grant b
         grant c
         grant d
         {}
         job
         job
         job
         why 5/s0
         beat a s0#1:5
         wait 9999
         beat a s0#1:5
         beat b 2/s0#1:5
         beat c 3/s0#1:5
         beat d 4/s0#1:5
         wait 1
         beat a s0#1:5
         beat b 2/s0#1:5
         beat c 3/s0#1:5
         beat d 4/s0#1:5
         release s0#1 5
         grant a
         release 2/s0#1 5
         grant b
         why 7/s0
         why s0
         beat c 3/s0#1:5
         beat d 4/s0#1:5",
        a_minute(["s0#1", "2/s0#1", "3/s0#1", "4/s0#1"])
    );
    farm(
        &script,
        expect![[r#"
            hello a no-ffmpeg         Online
            hello b no-ffmpeg         Online
            hello c no-ffmpeg         Online
            hello d no-ffmpeg         Online
            pool project cpu 2 2 2    Now
            pool second cpu 2 2 2     Now
            job of=second             created 1
            job of=second             created 2
            job of=second             created 3
            job of=second             created 4
            grant a                   s0#1 Leased, from step 0, 0 inputs
            grant b                   2/s0#1 Leased, from step 0, 0 inputs
            grant c                   3/s0#1 Leased, from step 0, 0 inputs
            grant d                   4/s0#1 Leased, from step 0, 0 inputs
            wait 14000                s0 Leased, film Blocked, 2/s0 Leased, 2/film Blocked, 3/s0 Leased, 3/film Blocked, 4/s0 Leased, 4/film Blocked
            beat a s0#1:1             Run Continue { ttl_ms: 30000 }
            beat b 2/s0#1:1           Run Continue { ttl_ms: 30000 }
            beat c 3/s0#1:1           Run Continue { ttl_ms: 30000 }
            beat d 4/s0#1:1           Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked, 2/s0 Leased, 2/film Blocked, 3/s0 Leased, 3/film Blocked, 4/s0 Leased, 4/film Blocked
            beat a s0#1:2             Run Continue { ttl_ms: 30000 }
            beat b 2/s0#1:2           Run Continue { ttl_ms: 30000 }
            beat c 3/s0#1:2           Run Continue { ttl_ms: 30000 }
            beat d 4/s0#1:2           Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked, 2/s0 Leased, 2/film Blocked, 3/s0 Leased, 3/film Blocked, 4/s0 Leased, 4/film Blocked
            beat a s0#1:3             Run Continue { ttl_ms: 30000 }
            beat b 2/s0#1:3           Run Continue { ttl_ms: 30000 }
            beat c 3/s0#1:3           Run Continue { ttl_ms: 30000 }
            beat d 4/s0#1:3           Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked, 2/s0 Leased, 2/film Blocked, 3/s0 Leased, 3/film Blocked, 4/s0 Leased, 4/film Blocked
            beat a s0#1:4             Run Continue { ttl_ms: 30000 }
            beat b 2/s0#1:4           Run Continue { ttl_ms: 30000 }
            beat c 3/s0#1:4           Run Continue { ttl_ms: 30000 }
            beat d 4/s0#1:4           Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked, 2/s0 Leased, 2/film Blocked, 3/s0 Leased, 3/film Blocked, 4/s0 Leased, 4/film Blocked
            beat a s0#1:5             Run Continue { ttl_ms: 30000 }
            beat b 2/s0#1:5           Run Continue { ttl_ms: 30000 }
            beat c 3/s0#1:5           Run Continue { ttl_ms: 30000 }
            beat d 4/s0#1:5           Run Continue { ttl_ms: 30000 }
            job                       created 5
            job                       created 6
            job                       created 7
            why 5/s0                  DevicesBusy { devices: 4, earliest_ms: Some(1095000) }
            beat a s0#1:5             Run Continue { ttl_ms: 30000 }
            wait 9999                 s0 Leased, film Blocked, 2/s0 Leased, 2/film Blocked, 3/s0 Leased, 3/film Blocked, 4/s0 Leased, 4/film Blocked, 5/s0 Ready, 5/film Blocked, 6/s0 Ready, 6/film Blocked, 7/s0 Ready, 7/film Blocked
            beat a s0#1:5             Run Continue { ttl_ms: 30000 }
            beat b 2/s0#1:5           Run Continue { ttl_ms: 30000 }
            beat c 3/s0#1:5           Run Continue { ttl_ms: 30000 }
            beat d 4/s0#1:5           Run Continue { ttl_ms: 30000 }
            wait 1                    s0 Leased, film Blocked, 2/s0 Leased, 2/film Blocked, 3/s0 Leased, 3/film Blocked, 4/s0 Leased, 4/film Blocked, 5/s0 Ready, 5/film Blocked, 6/s0 Ready, 6/film Blocked, 7/s0 Ready, 7/film Blocked
            beat a s0#1:5             Run Yield { reason: "the owner of the device needs it" }
            beat b 2/s0#1:5           Run Yield { reason: "the owner of the device needs it" }
            beat c 3/s0#1:5           Run Continue { ttl_ms: 30000 }
            beat d 4/s0#1:5           Run Continue { ttl_ms: 30000 }
            release s0#1 5            Ready
            grant a                   5/s0#1 Leased, from step 0, 0 inputs
            release 2/s0#1 5          Ready
            grant b                   6/s0#1 Leased, from step 0, 0 inputs
            why 7/s0                  BorrowLimit { account: "project", used: 2, of: 2 }
            why s0                    BorrowLimit { account: "second", used: 2, of: 2 }
            beat c 3/s0#1:5           Run Continue { ttl_ms: 30000 }
            beat d 4/s0#1:5           Run Continue { ttl_ms: 30000 }
        "#]],
    );
}

#[test]
fn a_limit_of_the_org_holds_for_its_projects() {
    farm(
        "pool org gpu 1 0 0
         pool org cpu 1 0 0
         job
         job
         grant a
         grant b
         why 2/s0",
        expect![[r#"
            hello a no-ffmpeg         Online
            hello b no-ffmpeg         Online
            hello c no-ffmpeg         Online
            hello d no-ffmpeg         Online
            pool project cpu 2 2 2    Now
            pool second cpu 2 2 2     Now
            pool org gpu 1 0 0        refused: the job is not valid: no node has devices of the class 'gpu'; the farm has 'cpu'
            pool org cpu 1 0 0        Now
            job                       created 1
            job                       created 2
            grant a                   s0#1 Leased, from step 0, 0 inputs
            grant b                   idle: nothing_waits
            why 2/s0                  BorrowLimit { account: "org", used: 1, of: 1 }
        "#]],
    );
}
