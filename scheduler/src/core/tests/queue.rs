//! Who comes first, who gets it, and why others wait.

use expect_test::expect;
use schemas::JobId;
use uuid::Uuid;

use super::{World, check};

#[test]
fn assemble_comes_first_then_jobs_that_have_begun_then_the_oldest() {
    check(
        "hello a
         job
         job shots=2
         job
         grant a
         succeed s0#1
         grant a
         succeed film#1
         grant a
         release 2/s0#1
         why 3/s0
         grant a",
        expect![[r#"
            hello a                   Online
            job                       created 1
            job shots=2               created 2
            job                       created 3
            grant a                   s0#1 Leased, from step 0, 0 inputs
            succeed s0#1              Succeeded
            grant a                   film#1 Leased, from step 0, 1 inputs
            succeed film#1            Succeeded
            grant a                   2/s0#1 Leased, from step 0, 0 inputs
            release 2/s0#1            Ready
            why 3/s0                  OwnQueue { tasks_ahead: 2 }
            grant a                   2/s0#2 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn a_gpu_leaves_assembling_to_a_cpu_while_it_has_better_to_do() {
    check(
        "hello g gpu
         hello c
         job shots=2
         job
         grant g
         succeed s0#1
         grant g
         succeed s1#1
         grant g
         release 2/s0#1
         grant c
         grant g",
        expect![[r#"
            hello g gpu               Online
            hello c                   Online
            job shots=2               created 1
            job                       created 2
            grant g                   s0#1 Leased, from step 0, 0 inputs
            succeed s0#1              Succeeded
            grant g                   s1#1 Leased, from step 0, 0 inputs
            succeed s1#1              Succeeded
            grant g                   2/s0#1 Leased, from step 0, 0 inputs
            release 2/s0#1            Ready
            grant c                   film#1 Leased, from step 0, 2 inputs
            grant g                   2/s0#2 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn a_gpu_alone_assembles() {
    check(
        "hello g gpu
         job
         job
         grant g
         succeed s0#1
         grant g",
        expect![[r#"
            hello g gpu               Online
            job                       created 1
            job                       created 2
            grant g                   s0#1 Leased, from step 0, 0 inputs
            succeed s0#1              Succeeded
            grant g                   film#1 Leased, from step 0, 1 inputs
        "#]],
    );
}

#[test]
fn what_waits_says_why() {
    check(
        "job
         why s0
         why film
         hello n no-weights
         grant n
         why s0
         hello a no-ffmpeg
         why s0
         job
         why 2/s0
         grant a
         why s0
         why 2/s0
         succeed s0#1
         drain n
         why film",
        expect![[r#"
            job                       created 1
            why s0                    ModelMissing { weights: "builtin" }
            why film                  InputsPending { tasks_left: 1 }
            hello n no-weights        Online
            grant n                   idle: nothing_waits
            why s0                    ModelMissing { weights: "builtin" }
            hello a no-ffmpeg         Online
            why s0                    DevicesBusy { devices: 1, earliest_ms: Some(1000000) }
            job                       created 2
            why 2/s0                  OwnQueue { tasks_ahead: 1 }
            grant a                   s0#1 Leased, from step 0, 0 inputs
            why s0                    it does not wait
            why 2/s0                  DevicesBusy { devices: 1, earliest_ms: Some(1006000) }
            succeed s0#1              Succeeded
            drain n                   Gone
            why film                  NoCapableDevice { needs: "a node with FFmpeg" }
        "#]],
    );
}

#[test]
fn what_no_device_could_do_is_in_nobodys_way() {
    // The urgent film and the other project's wait for a node with FFmpeg, not before the shot.
    check(
        "hello a no-ffmpeg
         job band=urgent
         grant a
         succeed s0#1
         job of=second
         grant a
         succeed 2/s0#1
         why film
         job
         job
         why 3/s0
         why 4/s0
         hello b
         why 3/s0",
        expect![[r#"
            hello a no-ffmpeg         Online
            job band=urgent           created 1
            grant a                   s0#1 Leased, from step 0, 0 inputs
            succeed s0#1              Succeeded
            job of=second             created 2
            grant a                   2/s0#1 Leased, from step 0, 0 inputs
            succeed 2/s0#1            Succeeded
            why film                  NoCapableDevice { needs: "a node with FFmpeg" }
            job                       created 3
            job                       created 4
            why 3/s0                  DevicesBusy { devices: 1, earliest_ms: Some(1000000) }
            why 4/s0                  OwnQueue { tasks_ahead: 1 }
            hello b                   Online
            why 3/s0                  BandBehind { urgent: 1, standard: 0 }
        "#]],
    );
}

#[test]
fn a_project_at_its_cap_is_in_nobodys_way() {
    check(
        "hello a no-ffmpeg
         hello b no-ffmpeg
         limit second devices=1
         job of=second
         job of=second
         grant a
         job
         job
         why 2/s0
         why 3/s0
         why 4/s0",
        expect![[r#"
            hello a no-ffmpeg         Online
            hello b no-ffmpeg         Online
            limit second devices=1    Now
            job of=second             created 1
            job of=second             created 2
            grant a                   s0#1 Leased, from step 0, 0 inputs
            job                       created 3
            job                       created 4
            why 2/s0                  ConcurrencyCap { account: "second", used: 1, of: 1 }
            why 3/s0                  DevicesBusy { devices: 2, earliest_ms: Some(1000000) }
            why 4/s0                  OwnQueue { tasks_ahead: 1 }
        "#]],
    );
}

#[test]
fn a_queue_position_counts_the_jobs_that_wait() {
    let mut world = World::new();
    for line in ["job", "job", "job", "hello a", "grant a"] {
        world.run(line);
    }
    let position = |job: u128| {
        let live = world.farm.live(JobId(Uuid::from_u128(job))).unwrap();
        live.queue_position
    };
    assert_eq!(
        [position(1), position(2), position(3)],
        [None, Some(1), Some(2)]
    );
}
