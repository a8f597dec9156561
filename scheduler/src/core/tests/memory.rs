//! Memory that work needs: what was foretold, what was seen, and which devices are too small for it.

use expect_test::expect;

use super::{World, check};
use crate::core::limits::PREEMPT_LOOKED_AT;

#[test]
fn what_was_foretold_keeps_later_work_of_its_size_from_smaller_cards() {
    check(
        "hello big gpu gib=80 no-ffmpeg
         hello small class=L40 gib=24 no-ffmpeg
         hello cpu gib=24 no-ffmpeg
         job
         grant big
         succeed s0#1 told=40
         job
         job frames=65
         grant small
         why 2/s0
         crash
         succeed 3/s0#1 told=20
         job
         grant small
         grant cpu
         job
         grant big",
        expect![[r#"
            hello big gpu gib=80 no-ffmpegOnline
            hello small class=L40 gib=24 no-ffmpegOnline
            hello cpu gib=24 no-ffmpegOnline
            job                       created 1
            grant big                 s0#1 Leased, from step 0, 0 inputs
            succeed s0#1 told=40      Succeeded
            job                       created 2
            job frames=65             created 3
            grant small               3/s0#1 Leased, from step 0, 0 inputs
            why 2/s0                  DevicesBusy { devices: 2, earliest_ms: Some(1000000) }
            crash                     s0 Succeeded, film Ready, 2/s0 Ready, 2/film Blocked, 3/s0 Leased, 3/film Blocked
            succeed 3/s0#1 told=20    Succeeded
            job                       created 4
            grant small               idle: nothing_waits
            grant cpu                 2/s0#1 Leased, from step 0, 0 inputs
            job                       created 5
            grant big                 4/s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn peaks_count_from_the_eighth_on_and_one_in_twenty_may_be_odd() {
    let mut world = World::new();
    world.run("hello big gpu gib=80 no-ffmpeg");
    let mut said = Vec::new();
    for number in 1..=33 {
        world.run("job");
        world.run("grant big");
        let peak = match number {
            ..8 => 30,
            8 => 70,
            _ => 20,
        };
        world.run(&format!("succeed {number}/s0#1 told=10 peak={peak}"));
        said.push(world.needed_gib("H200"));
    }
    let foretold = 10.0 * 0.9 / 0.95;
    assert_eq!(said[6], foretold as u64);
    assert_eq!(said[7], 70 * 100 / 95);
    assert_eq!(said[18], 70 * 100 / 95, "one of 19 is more than 5 %");
    assert_eq!(said[19], 30 * 100 / 95);
    // The 30s leave the last 32 one by one.
    assert_eq!(said[32], 30 * 100 / 95);
}

#[test]
fn a_wild_number_never_bars_a_device_that_did_such_work() {
    check(
        "hello small gpu gib=24 no-ffmpeg
         job
         grant small
         succeed s0#1 told=500 peak=600
         job
         grant small
         succeed 2/s0#1 told=500
         node small cordon
         hello tiny gpu gib=23 no-ffmpeg
         hello twin gpu gib=24 no-ffmpeg
         job
         grant tiny
         grant twin",
        expect![[r#"
            hello small gpu gib=24 no-ffmpegOnline
            job                       created 1
            grant small               s0#1 Leased, from step 0, 0 inputs
            succeed s0#1 told=500 peak=600Succeeded
            job                       created 2
            grant small               2/s0#1 Leased, from step 0, 0 inputs
            succeed 2/s0#1 told=500   Succeeded
            node small cordon         Now: cordoned
            hello tiny gpu gib=23 no-ffmpegOnline
            hello twin gpu gib=24 no-ffmpegOnline
            job                       created 3
            grant tiny                idle: nothing_waits
            grant twin                3/s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn a_class_of_devices_that_was_too_small_for_a_size_is_not_offered_it_again() {
    check(
        "hello small gpu gib=16 no-ffmpeg
         hello large gpu gib=24 no-ffmpeg
         hello other class=L40 gib=16 no-ffmpeg
         node large cordon
         job
         grant small
         fail s0#1 out_of_memory peak=9
         job
         job frames=65
         grant small
         succeed 3/s0#1 told=8
         crash
         wait 3000
         grant small
         grant other
         node large uncordon
         grant large
         succeed s0#2 told=8
         job
         grant small
         grant large",
        expect![[r#"
            hello small gpu gib=16 no-ffmpegOnline
            hello large gpu gib=24 no-ffmpegOnline
            hello other class=L40 gib=16 no-ffmpegOnline
            node large cordon         Now: cordoned
            job                       created 1
            grant small               s0#1 Leased, from step 0, 0 inputs
            fail s0#1 out_of_memory peak=9Ready
            job                       created 2
            job frames=65             created 3
            grant small               3/s0#1 Leased, from step 0, 0 inputs
            succeed 3/s0#1 told=8     Succeeded
            crash                     s0 Ready, film Blocked, 2/s0 Ready, 2/film Blocked, 3/s0 Succeeded, 3/film Ready
            wait 3000                 s0 Ready, film Blocked, 2/s0 Ready, 2/film Blocked, 3/s0 Succeeded, 3/film Ready
            grant small               idle: nothing_waits
            grant other               2/s0#1 Leased, from step 0, 0 inputs
            node large uncordon       Now: online
            grant large               s0#2 Leased, from step 0, 0 inputs
            succeed s0#2 told=8       Succeeded
            job                       created 4
            grant small               idle: nothing_waits
            grant large               4/s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn memory_that_ran_out_once_bars_no_device_that_has_done_the_work() {
    check(
        "hello small gpu gib=16 no-ffmpeg
         hello large gpu gib=24 no-ffmpeg
         job
         grant small
         succeed s0#1 told=8
         job
         grant small
         fail 2/s0#1 out_of_memory peak=9
         job
         grant small",
        expect![[r#"
            hello small gpu gib=16 no-ffmpegOnline
            hello large gpu gib=24 no-ffmpegOnline
            job                       created 1
            grant small               s0#1 Leased, from step 0, 0 inputs
            succeed s0#1 told=8       Succeeded
            job                       created 2
            grant small               2/s0#1 Leased, from step 0, 0 inputs
            fail 2/s0#1 out_of_memory peak=9Ready
            job                       created 3
            grant small               3/s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn where_no_device_is_large_enough_it_says_how_much_is_lacking() {
    check(
        "hello big gpu gib=80 no-ffmpeg
         hello small gpu gib=24 no-ffmpeg
         job
         grant big
         succeed s0#1 told=40
         drain big
         job
         grant small
         why 2/s0",
        expect![[r#"
            hello big gpu gib=80 no-ffmpegOnline
            hello small gpu gib=24 no-ffmpegOnline
            job                       created 1
            grant big                 s0#1 Leased, from step 0, 0 inputs
            succeed s0#1 told=40      Succeeded
            drain big                 Gone
            job                       created 2
            grant small               idle: nothing_waits
            why 2/s0                  NoCapableDevice { needs: "a device with 38805 MiB of memory" }
        "#]],
    );
}

#[test]
fn a_group_needs_the_part_of_each_of_its_devices() {
    check(
        "hello big gpu gib=80 devices=2 groups=2 no-ffmpeg
         hello pair gpu gib=24 devices=2 groups=2 no-ffmpeg
         hello weak gpu gib=16 devices=2 groups=2 no-ffmpeg
         job devices=2
         grant big
         succeed s0#1 told=40
         job devices=2
         grant weak
         grant pair
         job
         grant weak",
        expect![[r#"
            hello big gpu gib=80 devices=2 groups=2 no-ffmpegOnline
            hello pair gpu gib=24 devices=2 groups=2 no-ffmpegOnline
            hello weak gpu gib=16 devices=2 groups=2 no-ffmpegOnline
            job devices=2             created 1
            grant big                 s0#1 Leased, from step 0, 0 inputs, on [0, 1]
            succeed s0#1 told=40      Succeeded
            job devices=2             created 2
            grant weak                idle: nothing_waits
            grant pair                2/s0#1 Leased, from step 0, 0 inputs, on [0, 1]
            job                       created 3
            grant weak                3/s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn work_that_has_no_room_does_not_hold_up_what_comes_behind_it_packed_or_not() {
    let mut world = World::new();
    for line in [
        "hello big gpu gib=80 no-ffmpeg",
        "hello small gpu gib=24 no-ffmpeg",
        "job",
        "grant big",
        "succeed s0#1 told=40",
    ] {
        world.run(line);
    }
    let large = 2 * PREEMPT_LOOKED_AT;
    (0..large).for_each(|_| drop(world.run("job")));
    world.run("job frames=9");
    let small = format!("{}/s0#1 Leased, from step 0, 0 inputs", large + 2);
    assert_eq!(world.run("grant small"), small);
    world.model.check(&world.farm, &world.limits, world.now);
}

#[test]
fn no_running_work_gives_way_on_a_device_that_would_not_do() {
    check(
        "hello big gpu gib=80 no-ffmpeg
         hello small gpu gib=24 no-ffmpeg
         job
         grant big
         succeed s0#1 told=40
         drain big
         job frames=9
         grant small
         beat small 2/s0#1:1
         wait 14000
         beat small 2/s0#1:2
         wait 14000
         beat small 2/s0#1:3
         wait 14000
         beat small 2/s0#1:4
         wait 14000
         beat small 2/s0#1:4
         wait 14000
         job band=urgent
         beat small 2/s0#1:4
         job band=urgent frames=9
         beat small 2/s0#1:4",
        expect![[r#"
            hello big gpu gib=80 no-ffmpegOnline
            hello small gpu gib=24 no-ffmpegOnline
            job                       created 1
            grant big                 s0#1 Leased, from step 0, 0 inputs
            succeed s0#1 told=40      Succeeded
            drain big                 Gone
            job frames=9              created 2
            grant small               2/s0#1 Leased, from step 0, 0 inputs
            beat small 2/s0#1:1       Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Succeeded, film Ready, 2/s0 Leased, 2/film Blocked
            beat small 2/s0#1:2       Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Succeeded, film Ready, 2/s0 Leased, 2/film Blocked
            beat small 2/s0#1:3       Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Succeeded, film Ready, 2/s0 Leased, 2/film Blocked
            beat small 2/s0#1:4       Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Succeeded, film Ready, 2/s0 Leased, 2/film Blocked
            beat small 2/s0#1:4       Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Succeeded, film Ready, 2/s0 Leased, 2/film Blocked
            job band=urgent           created 3
            beat small 2/s0#1:4       Run Continue { ttl_ms: 30000 }
            job band=urgent frames=9  created 4
            beat small 2/s0#1:4       Run Yield { reason: "a more urgent task needs the device" }
        "#]],
    );
}
