//! What is predicted before a run and what an allocator that counts finds in it.
#![expect(
    unsafe_code,
    reason = "an allocator that counts is unsafe by its trait"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use diffusion::{Control, Generated, Phase, Progress, Recipe, Sink, Slate, Start, Weights};
use kernels::Device;

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grown(bytes: usize) {
    let now = NOW.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(now, Relaxed);
}

// SAFETY: every call goes to the system's allocator with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Keeps nothing.
struct Nowhere;

impl Sink for Nowhere {
    fn open(&mut self, _: &Slate, _: Vec<f32>) -> Control {
        Control::Continue
    }

    fn pictures(&mut self, _: &[u8]) -> Control {
        Control::Continue
    }
}

/// Peaks of the parts of a run beyond what was there before it: up to the first step, the steps, sound,
/// pictures.
fn measured(weights: &Weights, recipe: &Recipe) -> [usize; 4] {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let mut peaks = [0; 4];
    let mut part = 0;
    let mut on_step = |progress: &Progress<'_>| {
        let found = PEAK.swap(NOW.load(Relaxed), Relaxed);
        peaks[part] = peaks[part].max(found.saturating_sub(before));
        part = match progress.phase {
            Phase::Encode | Phase::Denoise => 1,
            Phase::Decode => (part + 1).min(3),
        };
        Control::Continue
    };
    let made = diffusion::generate(weights, recipe, Start::Fresh, &mut on_step, &mut Nowhere);
    assert!(matches!(made.unwrap(), Generated::Finished));
    peaks[3] = peaks[3].max(PEAK.load(Relaxed) - before);
    peaks
}

// One test: the allocator counts the whole process.
#[test]
fn predictions_are_within_fifteen_percent_of_what_a_run_takes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights/builtin");
    let device = Device::cpu(2).unwrap();
    let before = NOW.load(Relaxed);
    let weights = Weights::open(&folder, &device).unwrap();
    let held = NOW.load(Relaxed) - before;
    let info = weights.info();
    let mut failures = Vec::new();
    for (width, height, frames) in [
        (64, 64, 65),
        (64, 112, 33),
        (112, 64, 65),
        (224, 224, 9),
        (224, 112, 65),
        (224, 224, 65),
    ] {
        let recipe = Recipe {
            width,
            height,
            frames,
            steps: Some(1),
            // A prompt of its own: the text of another run is not at hand.
            ..Recipe::with_defaults(format!("a red ball {width} {height} {frames}"), 1, info)
        };
        let plan = weights.plan(&recipe).unwrap().memory;
        let found = measured(&weights, &recipe);
        let parts = [plan.encode, plan.denoise, plan.sound, plan.pictures];
        println!("{width}x{height}x{frames}: predicted {parts:?}, measured {found:?}");
        let peak = found.into_iter().max().unwrap() as f64;
        let ratio = plan.run_bytes() as f64 / peak;
        if !(1.0 / 1.15..=1.15).contains(&ratio) {
            failures.push(format!("{width}x{height}x{frames}: {ratio:.3} of {peak}"));
        }
        let whole = plan.peak_bytes() as f64 / (held as f64 + peak);
        if !(1.0 / 1.15..=1.15).contains(&whole) {
            failures.push(format!(
                "{width}x{height}x{frames} with weights: {whole:.3}"
            ));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
