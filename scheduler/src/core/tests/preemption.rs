//! Who must give way, to whom, and who is protected.

use expect_test::expect;

use super::{World, check};

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
            beat a s0#1:4             Run Yield { reason: "a more urgent task needs the device" }
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
            beat a s0#1:4             Run Yield { reason: "a more urgent task needs the device" }
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
            beat a s0#1:4             Run Yield { reason: "a more urgent task needs the device" }
        "#]],
    );
}

#[test]
fn standard_work_takes_from_overnight_work_and_never_from_its_own_band() {
    check(
        "hello a no-ffmpeg
         job band=overnight
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
         job
         job
         why 2/s0
         why 3/s0
         beat a s0#1:4
         release s0#1 5
         preempted s0
         grant a
         beat a 2/s0#1:1
         why 3/s0",
        expect![[r#"
            hello a no-ffmpeg         Online
            job band=overnight        created 1
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
            job                       created 2
            job                       created 3
            why 2/s0                  Handover { node: "a", device: 0 }
            why 3/s0                  OwnQueue { tasks_ahead: 1 }
            beat a s0#1:4             Run Yield { reason: "a more urgent task needs the device" }
            release s0#1 5            Ready
            preempted s0              1
            grant a                   2/s0#1 Leased, from step 0, 0 inputs
            beat a 2/s0#1:1           Run Continue { ttl_ms: 30000 }
            why 3/s0                  DevicesBusy { devices: 1, earliest_ms: Some(1107000) }
        "#]],
    );
}

#[test]
fn what_gave_way_does_not_take_a_device_at_once() {
    let mut world = World::new();
    for line in [
        "hello c no-ffmpeg",
        "hello a no-ffmpeg",
        "job band=overnight",
        "grant c",
        "wait 1000",
        "job",
        "grant a",
    ] {
        world.run(line);
    }
    let beat = |world: &mut World, step: u32| {
        world.run(&format!("beat c s0#1:{step}:denoise:30000"));
        world.run(&format!("beat a 2/s0#1:{step}:denoise:30000"))
    };
    for step in [1, 2, 3, 3, 3] {
        beat(&mut world, step);
        world.run("wait 14000");
    }
    beat(&mut world, 3);
    world.run("job band=urgent");
    assert!(
        beat(&mut world, 3).contains("Yield"),
        "the newest gives way"
    );
    world.run("release 2/s0#1 3");
    assert!(world.run("grant a").starts_with("3/s0#1"));
    // It waits, and could take the device of the overnight work but for the time that must pass.
    for _ in 0..20 {
        world.run("wait 14000");
        world.run("beat c s0#1:4:denoise:30000");
        world.run("beat a 3/s0#1:4:denoise:30000");
        assert!(world.run("why 2/s0").starts_with("DevicesBusy"));
    }
    world.run("wait 14000");
    world.run("beat c s0#1:4:denoise:30000");
    world.run("wait 6000");
    assert!(world.run("why 2/s0").starts_with("Handover"));
    assert_eq!(world.run("preempted s0"), "1");
}

#[test]
fn a_new_leader_forgets_for_whom_and_errs_safely() {
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
         preempted s0
         crash
         preempted s0
         why 2/s0
         beat a s0#1:4
         release s0#1 5
         preempted s0
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
            preempted s0              1
            crash                     s0 Leased, film Blocked, 2/s0 Ready, 2/film Blocked
            preempted s0              1
            why 2/s0                  DevicesBusy { devices: 1, earliest_ms: Some(1070000) }
            beat a s0#1:4             Run Continue { ttl_ms: 30000 }
            release s0#1 5            Ready
            preempted s0              1
            grant a                   2/s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn a_new_leader_takes_no_device_before_the_last_ones_victims_had_their_time() {
    check(
        "hello a no-ffmpeg
         job
         grant a
         beat a s0#1:1:denoise:20000
         wait 14000
         beat a s0#1:2:denoise:20000
         wait 14000
         beat a s0#1:3:denoise:20000
         wait 14000
         beat a s0#1:4:denoise:20000
         wait 14000
         beat a s0#1:4:denoise:20000
         wait 14000
         crash
         job band=urgent
         beat a s0#1:5:denoise:20000
         wait 14000
         beat a s0#1:6:denoise:20000
         wait 14000
         beat a s0#1:7:denoise:20000
         wait 14000
         beat a s0#1:7:denoise:20000
         wait 14000
         beat a s0#1:7:denoise:20000
         wait 3999
         preempted s0
         why 2/s0
         wait 1
         preempted s0
         why 2/s0",
        expect![[r#"
            hello a no-ffmpeg         Online
            job                       created 1
            grant a                   s0#1 Leased, from step 0, 0 inputs
            beat a s0#1:1:denoise:20000Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:2:denoise:20000Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:3:denoise:20000Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:4:denoise:20000Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:4:denoise:20000Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            crash                     s0 Leased, film Blocked
            job band=urgent           created 2
            beat a s0#1:5:denoise:20000Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked, 2/s0 Ready, 2/film Blocked
            beat a s0#1:6:denoise:20000Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked, 2/s0 Ready, 2/film Blocked
            beat a s0#1:7:denoise:20000Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked, 2/s0 Ready, 2/film Blocked
            beat a s0#1:7:denoise:20000Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked, 2/s0 Ready, 2/film Blocked
            beat a s0#1:7:denoise:20000Run Continue { ttl_ms: 30000 }
            wait 3999                 s0 Leased, film Blocked, 2/s0 Ready, 2/film Blocked
            preempted s0              0
            why 2/s0                  DevicesBusy { devices: 1, earliest_ms: Some(1199999) }
            wait 1                    s0 Leased, film Blocked, 2/s0 Ready, 2/film Blocked
            preempted s0              1
            why 2/s0                  Handover { node: "a", device: 0 }
        "#]],
    );
}

#[test]
fn a_victim_that_does_not_yield_in_time_is_abandoned_and_its_device_is_still_handed_over() {
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
         wait 25000
         beat a s0#1:5
         wait 25000
         beat a s0#1:5
         wait 11000
         beat a s0#1:5
         wait 20000
         beat a
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
            beat a s0#1:4             Run Yield { reason: "a more urgent task needs the device" }
            wait 25000                s0 Leased, film Blocked, 2/s0 Ready, 2/film Blocked
            beat a s0#1:5             Run Yield { reason: "a more urgent task needs the device" }
            wait 25000                s0 Leased, film Blocked, 2/s0 Ready, 2/film Blocked
            beat a s0#1:5             Run Yield { reason: "a more urgent task needs the device" }
            wait 11000                s0 Leased, film Blocked, 2/s0 Ready, 2/film Blocked
            beat a s0#1:5             Run Abandon { reason: "it did not yield in time" }
            wait 20000                s0 Ready, film Blocked, 2/s0 Ready, 2/film Blocked
            beat a                    Run
            grant a                   2/s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn a_device_that_was_freed_for_a_task_that_ended_goes_to_the_next() {
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
         cancel 2
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
            beat a s0#1:4             Run Yield { reason: "a more urgent task needs the device" }
            cancel 2                  Cancelled(Now)
            release s0#1 5            Ready
            grant a                   s0#2 Leased, from step 5, 0 inputs
        "#]],
    );
}

#[test]
fn a_short_wait_is_better_than_a_preemption_and_decoding_work_is_left_alone() {
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
         beat a s0#1:8
         job band=urgent
         beat a s0#1:8:decode
         beat a s0#1:8:mux",
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
            beat a s0#1:8             Run Continue { ttl_ms: 30000 }
            job band=urgent           created 2
            beat a s0#1:8:decode      Run Continue { ttl_ms: 30000 }
            beat a s0#1:8:mux         Run Continue { ttl_ms: 30000 }
        "#]],
    );
}

#[test]
fn after_three_preemptions_a_task_is_left_alone_for_good() {
    let mut world = World::new();
    world.run("hello a no-ffmpeg");
    world.run("job");
    for n in 1..=4 {
        world.run("grant a");
        for step in [0, 0, 1, 1, 2, 3] {
            world.run(&format!("beat a s0#{n}:{step}"));
            world.run("wait 14000");
        }
        world.run("job band=urgent");
        let told = world.run(&format!("beat a s0#{n}:3"));
        assert_eq!(told.contains("Yield"), n <= 3, "attempt {n}: {told}");
        assert_eq!(world.run("preempted s0"), n.min(3).to_string());
        if n <= 3 {
            world.run(&format!("release s0#{n}"));
            world.run("grant a");
            world.run(&format!("succeed {}/s0#1", n + 1));
        }
    }
}
