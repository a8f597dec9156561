//! Estimates from what was measured, and from what is believed before.

use schemas::{
    agent::Times,
    task::{AssembleSpec, RenderSpec, TaskSpec},
};

use super::*;

const CLASS: CostClass = CostClass {
    frames_step: 4,
    steps: 12,
    rate_ppm: 1_000_000,
};

fn render(frames: u32, steps: Option<u32>) -> TaskSpec {
    TaskSpec::Render(RenderSpec {
        shot: 0,
        weights: "builtin".into(),
        prompt: String::new(),
        negative_prompt: String::new(),
        width: 64,
        height: 64,
        frames,
        fps: 16,
        seed: 0,
        steps,
        guidance_scale: None,
        first_frame: None,
        given: None,
        devices: 1,
    })
}

fn film(frames: u32) -> TaskSpec {
    TaskSpec::Assemble(AssembleSpec {
        shots: 1,
        width: 720,
        height: 1280,
        fps: 16,
        shot_frames: vec![frames],
        before: None,
    })
}

/// Everything takes `factor` times what is believed, `count` times.
fn taught(spec: &TaskSpec, device: &str, factor: u64, count: u32) -> Costs {
    let (mut costs, service) = (
        Costs::default(),
        Costs::default().service(spec, device, CLASS),
    );
    let us = |spread: Spread| Some(spread.p50() * factor);
    let times = match spec {
        TaskSpec::Render(_) => Times {
            encode_us: us(service.encode),
            steps_us: us(service.step).map(|us| us * 12),
            decode_us: us(service.decode),
            mux_us: us(service.finish),
            upload_us: Some(0),
            load_us: None,
        },
        TaskSpec::Assemble(_) => Times {
            mux_us: us(service.decode),
            upload_us: us(service.finish),
            ..Times::default()
        },
    };
    for _ in 0..count {
        costs.add(&key(spec, device), &measured(&times, spec, 12, CLASS));
    }
    costs
}

fn p50(costs: &Costs, spec: &TaskSpec, device: &str) -> u64 {
    costs.service(spec, device, CLASS).device().p50()
}

/// `found` is `expected` but for rounding and the width of a bin.
fn about(found: u64, expected: u64) {
    assert!(
        found.abs_diff(expected) <= expected / 50,
        "{found} is not about {expected}"
    );
}

#[test]
fn before_anything_was_measured_the_formula_holds() {
    let [p10, p50, p90, p99] = Costs::default()
        .service(&render(65, None), "cpu", CLASS)
        .device()
        .0;
    // 300 ms + 12 steps * 272 tokens * 0.4 ms + 266,240 pixels * 3 us
    assert_eq!(p50, 300_000 + 12 * 108_800 + 798_720);
    assert_eq!((p10, p90, p99), (p50 * 8 / 10, p50 * 15 / 10, p50 * 2));
}

#[test]
fn more_steps_frames_or_a_bigger_model_cost_more() {
    let costs = Costs::default();
    let base = p50(&costs, &render(65, None), "cpu");
    assert!(p50(&costs, &render(65, Some(24)), "cpu") > base);
    assert!(p50(&costs, &render(33, None), "cpu") < base);
    let bigger = CostClass {
        rate_ppm: 2_000_000,
        ..CLASS
    };
    assert!(
        costs
            .service(&render(65, None), "cpu", bigger)
            .device()
            .p50()
            > base
    );
}

#[test]
fn what_was_believed_fades_as_twenty_over_twenty_plus_n() {
    let spec = render(65, None);
    let believed = p50(&Costs::default(), &spec, "cpu") as f64;
    for (count, faded) in [(1, 20.0 / 21.0), (20, 0.5), (180, 0.1)] {
        let found = p50(&taught(&spec, "cpu", 16, count), &spec, "cpu");
        about(found, (believed * 16f64.powf(1.0 - faded)) as u64);
    }
}

#[test]
fn a_film_is_measured_as_a_whole() {
    let costs = taught(&film(64), "cpu", 3, 1_000);
    let believed = p50(&Costs::default(), &film(64), "cpu");
    about(p50(&costs, &film(64), "cpu"), believed * 3 * 98 / 100);
}

#[test]
fn a_shape_that_was_never_seen_learns_from_others_and_another_class_of_device_does_not() {
    let costs = taught(&render(65, None), "H200", 10, 980);
    let long = render(257, None);
    let believed = p50(&Costs::default(), &long, "H200");
    let found = p50(&costs, &long, "H200");
    about(found, (believed as f64 * 10f64.powf(0.98)) as u64);
    assert_eq!(
        p50(&costs, &long, "cpu"),
        p50(&Costs::default(), &long, "cpu")
    );
}

#[test]
fn steps_that_are_done_are_not_counted_again() {
    let service = Costs::default().service(&render(65, None), "cpu", CLASS);
    let step = service.step.p50();
    assert_eq!(service.whole(0).p50() - service.whole(5).p50(), 5 * step);
    assert_eq!(service.whole(99).p50(), service.whole(12).p50());
}

#[test]
fn times_that_cannot_be_are_not_learnt() {
    let times = Times {
        load_us: Some(0),
        encode_us: Some(u64::MAX),
        steps_us: Some(5),
        ..Times::default()
    };
    assert_eq!(measured(&times, &render(65, None), 0, CLASS), []);
}

#[test]
fn between_percentiles_a_spread_is_straight() {
    let spread = Spread([10, 20, 40, 50]);
    let at = [0, 100, 300, 500, 700, 900, 990, 1_000].map(|permille| spread.at(permille));
    assert_eq!(at, [10, 10, 15, 20, 30, 40, 50, 50]);
}
