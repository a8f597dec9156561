//! The whole engine on a card against the processor, with the model that ships. The card is the emulator,
//! which runs the same CUDA sources thread by thread.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use diffusion::{
    Checkpoint, Clip, Control, DiffusionError, Generated, Progress, Recipe, Start, Weights,
};
use kernels::cuda::{Emulator, EmulatorError, Fault, Faulty, Gpu, MODULES, emulation};
use kernels::{Device, KernelError};

/// Where the emulator's program is kept between runs.
fn cache() -> PathBuf {
    let folder = std::env::var_os("DAILIES_CUDA_TOOLS").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    folder.join("made")
}

/// A card that is no Hopper: its kernels serve every card.
fn card() -> Option<Arc<Faulty>> {
    match Emulator::start(&cache(), &emulation(MODULES), (8, 0)) {
        Ok(emulator) => Some(Arc::new(Faulty::new(Arc::new(emulator)))),
        Err(EmulatorError::NoCompiler) => {
            println!("skipped: no C++ compiler");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn open(device: &Device) -> Weights {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights/builtin");
    Weights::open(&folder, device).unwrap()
}

/// The smallest clip of two latent frames. The second step is recorded, and the third runs that record with
/// other noise levels: were any of them baked in, it would go astray.
fn recipe(weights: &Weights) -> Recipe {
    Recipe {
        width: 64,
        height: 64,
        frames: 1 + weights.info().frames_step,
        steps: Some(4),
        ..Recipe::with_defaults("a red ball falls", 7, weights.info())
    }
}

/// The clip and the latents after every step.
fn film(weights: &Weights, recipe: &Recipe) -> (Clip, Vec<Vec<f32>>) {
    let (mut clip, mut latents) = (Clip::default(), Vec::new());
    let mut on_step = |progress: &Progress<'_>| {
        latents.push(progress.checkpoint().latents().video.clone());
        Control::Continue
    };
    let made = diffusion::generate(weights, recipe, Start::Fresh, &mut on_step, &mut clip);
    assert!(matches!(made.unwrap(), Generated::Finished));
    (clip, latents)
}

fn distance(found: &[f32], expected: &[f32]) -> f64 {
    kernels::check::relative_distance(found, expected)
}

/// As [`film`], on a card that has no memory left after three steps: the run ends, gives back what it took, and
/// another one goes on from the last step.
fn film_in_two(machine: &Faulty, weights: &Weights, recipe: &Recipe) -> (Clip, Vec<Vec<f32>>) {
    let before = machine.allocated_bytes();
    let (mut latents, mut saved) = (Vec::new(), None::<Checkpoint>);
    let mut on_step = |progress: &Progress<'_>| {
        let checkpoint = progress.checkpoint();
        latents.push(checkpoint.latents().video.clone());
        saved = Some(checkpoint);
        if progress.step == 3 {
            machine.arm(0, Fault::OutOfMemory);
        }
        Control::Continue
    };
    let broken = diffusion::generate(
        weights,
        recipe,
        Start::Fresh,
        &mut on_step,
        &mut Clip::default(),
    );
    let error = broken.unwrap_err();
    let memory = |error: &KernelError| matches!(error, KernelError::OutOfMemory { .. });
    assert!(
        matches!(&error, DiffusionError::Kernel(error) if memory(error)),
        "{error}"
    );
    assert_eq!(
        machine.allocated_bytes(),
        before,
        "bytes of the broken run are kept"
    );
    let start = Start::Resume(Box::new(saved.unwrap()));
    let mut clip = Clip::default();
    let mut on_step = |progress: &Progress<'_>| {
        if progress.step == 4 {
            latents.push(progress.checkpoint().latents().video.clone());
        }
        Control::Continue
    };
    let made = diffusion::generate(weights, recipe, start, &mut on_step, &mut clip);
    assert!(matches!(made.unwrap(), Generated::Finished));
    (clip, latents)
}

#[test]
fn a_film_on_a_card_is_that_of_the_processor_also_when_memory_ran_out_in_its_midst() {
    let Some(machine) = card() else { return };
    let card = Device::cuda(Gpu::new(machine.clone()), 1).unwrap();
    let cpu = open(&Device::cpu(2).unwrap());
    let on_card = open(&card);
    let recipe = recipe(&cpu);
    let (expected, expected_latents) = film(&cpu, &recipe);
    let (found, latents) = film_in_two(&machine, &on_card, &recipe);
    assert_eq!(latents.len(), expected_latents.len());
    assert_eq!(card.replays(), 2, "the second and the third step");
    for (step, (found, expected)) in latents.iter().zip(&expected_latents).enumerate() {
        let off = distance(found, expected);
        println!("latents after {step}: {off:.2e}");
        assert!(off <= 3e-2, "latents of step {step} are off by {off:e}");
    }
    let levels = |frames: &[u8]| frames.iter().map(|v| f32::from(*v)).collect::<Vec<f32>>();
    let pictures = distance(&levels(&found.frames), &levels(&expected.frames));
    let sound = distance(&found.samples, &expected.samples);
    println!("pictures {pictures:.2e}, sound {sound:.2e}");
    assert!(
        pictures <= 3e-2 && pictures > 0.0,
        "pictures are off by {pictures:e}"
    );
    assert!(sound <= 0.2 && sound > 0.0, "sound is off by {sound:e}");
    assert_ne!(found.latents_digest, expected.latents_digest);
}
