//! What a farm learns of its own work, and what it charges at most.

use expect_test::expect;
use schemas::{
    agent::Times,
    task::{RenderSpec, TaskSpec},
};

use super::*;
use crate::core::costs::{CostClass, Costs, Part, key, measured};

fn shot() -> TaskSpec {
    TaskSpec::Render(RenderSpec {
        shot: 0,
        weights: "builtin".into(),
        prompt: String::new(),
        negative_prompt: String::new(),
        width: 96,
        height: 64,
        frames: 17,
        fps: 8,
        seed: 7,
        steps: Some(8),
        guidance_scale: None,
        first_frame: None,
        given: None,
        devices: 1,
    })
}

/// Times of a shot at a tenth of what is believed of this class.
fn tenth(class: CostClass) -> Times {
    let service = Costs::default().service(&shot(), "H200", class);
    Times {
        encode_us: Some(service.encode.p50() / 10),
        steps_us: Some(service.step.p50() * 8 / 10),
        decode_us: Some(service.decode.p50() / 10),
        ..Times::default()
    }
}

#[test]
fn what_an_agent_measured_is_learnt_for_its_class_and_outlives_a_crash() {
    let mut world = World::new();
    for line in ["job", "hello a gpu no-ffmpeg", "grant a"] {
        world.run(line);
    }
    let class = CostClass {
        frames_step: 4,
        ..CostClass::default()
    };
    let lease = world.lease("s0#1");
    let outcome = Ending::Succeeded {
        artefacts: vec![Artefact {
            variant: Variant::Shot,
            digest: Digest::of(b"shot"),
            bytes: 9,
        }],
        device_us: 4_000_000,
        steps_run: 8,
        times: tenth(class),
        memory: Default::default(),
    };
    world.report(lease, outcome);
    let before = Costs::default().service(&shot(), "H200", class).device();
    for line in ["show", "crash"] {
        world.run(line);
        world.model.check(&world.farm, &world.limits, world.now);
        let prices = world.farm.prices();
        let sketch = |device| {
            prices
                .costs
                .sketch(&key(&shot(), device), Part::Step)
                .cloned()
        };
        assert_eq!(sketch("H200").map(|s| s.count()), Some(1), "after {line}");
        assert_eq!(sketch("cpu"), None);
        assert!(prices.service(&shot(), "H200").device().p50() < before.p50());
    }
}

#[test]
fn the_slowest_class_sets_the_ceiling_and_the_mean_of_all_devices_what_is_expected() {
    let mut world = World::new();
    for line in ["hello a", "hello b gpu", "hello c gpu", "hello d gpu"] {
        world.run(line);
    }
    let class = CostClass::default();
    let before = world.farm.prices().device_time(&shot(), class);
    let known = CostClass {
        frames_step: 4,
        ..class
    };
    let numbers = measured(&tenth(known), &shot(), 8, known);
    for _ in 0..100 {
        world.farm.add_numbers(&key(&shot(), "H200"), &numbers);
    }
    let after = world.farm.prices().device_time(&shot(), class);
    assert_eq!(after.p90(), before.p90());
    assert!(
        after.p50() < before.p50() * 45 / 100,
        "{after:?} {before:?}"
    );
}

#[test]
fn a_job_is_charged_no_more_than_was_held_when_it_takes_longer() {
    // Four tasks of 4 s each, and 10 s are held.
    check(
        "job shots=3
         hello a
         grant a
         succeed s0#1
         grant a
         succeed s1#1
         grant a
         succeed s2#1
         grant a
         succeed film#1
         job-state 1
         money project",
        expect![[r#"
            job shots=3               created 1
            hello a                   Online
            grant a                   s0#1 Leased, from step 0, 0 inputs
            succeed s0#1              Succeeded
            grant a                   s1#1 Leased, from step 0, 0 inputs
            succeed s1#1              Succeeded
            grant a                   s2#1 Leased, from step 0, 0 inputs
            succeed s2#1              Succeeded
            grant a                   film#1 Leased, from step 0, 3 inputs
            succeed film#1            Succeeded
            job-state 1               Succeeded 100% Posted spent 10 
            money project             available -10, held 0, spent 10, mint 0
        "#]],
    );
}
