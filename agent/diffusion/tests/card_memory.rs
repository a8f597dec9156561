//! What is predicted for a card before a run and what tensors then take of its memory. The card is one that
//! computes nothing: shapes alone decide.

use std::path::Path;
use std::sync::Arc;

use diffusion::{Clip, Control, Generated, Phase, Progress, Recipe, Start, Weights};
use kernels::Device;
use kernels::cuda::{Gpu, Nowhere};

/// How far a prediction may be off, either way.
const TOLERANCE: f64 = 1.15;

fn check(failures: &mut Vec<String>, what: &str, predicted: u64, measured: u64) {
    let ratio = predicted as f64 / measured as f64;
    println!("{what}: predicted {predicted}, measured {measured}: {ratio:.3}");
    if !(1.0 / TOLERANCE..=TOLERANCE).contains(&ratio) {
        failures.push(format!("{what}: {ratio:.3} of {measured}"));
    }
}

/// Most bytes of the card that the parts of a run of one step take beyond the weights: up to the first step, the
/// step, sound, pictures.
fn measured(weights: &Weights, recipe: &Recipe) -> [u64; 4] {
    let watch = || weights.device().watch_memory().unwrap();
    // The first watch counts from here on; each later one lets the peaks begin anew.
    let whole = watch();
    let (mut peaks, mut part) = ([0; 4], 0);
    let mut on_step = |progress: &Progress<'_>| {
        peaks[part] = peaks[part].max(whole.grown_bytes());
        watch();
        part = match progress.phase {
            Phase::Encode | Phase::Denoise => 1,
            Phase::Decode => (part + 1).min(3),
        };
        Control::Continue
    };
    let mut clip = Clip::default();
    let made = diffusion::generate(weights, recipe, Start::Fresh, &mut on_step, &mut clip);
    assert!(matches!(made.unwrap(), Generated::Finished));
    peaks[3] = peaks[3].max(whole.grown_bytes());
    peaks
}

#[test]
fn predictions_for_a_card_are_within_fifteen_percent_of_what_a_run_takes_there() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights/builtin");
    let cpu = Weights::open(&folder, &Device::cpu(1).unwrap()).unwrap();
    let mut failures = Vec::new();
    for capability in [(8, 0), (9, 0)] {
        let device = Device::cuda(Gpu::new(Arc::new(Nowhere::new(capability))), 1).unwrap();
        let loading = device.watch_memory().unwrap();
        let weights = Weights::open(&folder, &device).unwrap();
        // What loading took for a moment is forgotten by a later watch.
        device.watch_memory().unwrap();
        let held = loading.grown_bytes();
        for (width, height, frames) in [(64, 64, 65), (112, 64, 9), (224, 112, 65), (224, 224, 9)] {
            let what = format!("{capability:?} {width}x{height}x{frames}");
            let recipe = Recipe {
                width,
                height,
                frames,
                steps: Some(1),
                // A prompt of its own: the text of another run is not at hand.
                ..Recipe::with_defaults(format!("a red ball {what}"), 1, weights.info())
            };
            let plan = weights.plan(&recipe).unwrap().memory;
            let [_, denoise, sound, pictures] = measured(&weights, &recipe);
            let mut check = |part: &str, predicted, measured| {
                check(
                    &mut failures,
                    &format!("{what} {part}"),
                    predicted,
                    measured,
                );
            };
            check("weights", plan.weights, held);
            check("step", plan.denoise, denoise);
            check("sound", plan.sound, sound);
            check("pictures", plan.pictures, pictures);
            let on_cpu = cpu.plan(&recipe).unwrap().memory;
            assert!(plan.peak_bytes() < on_cpu.peak_bytes(), "halves take less");
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
