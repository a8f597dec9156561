//! What is predicted before a run and what an allocator that counts finds in it.
#![expect(
    unsafe_code,
    reason = "an allocator that counts is unsafe by its trait"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use diffusion::{
    Control, Generated, Given, GivenFilm, GivenSound, ModelInfo, Phase, Picture, Progress, Recipe,
    Refine, Sink, Slate, SoundFormat, Start, Still, Wave, Weights,
};
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

/// Pictures, films and sounds of a clip of the default size and length.
fn given(info: &ModelInfo) -> [(&'static str, Given); 3] {
    let (size, frames) = (info.sizes[0], info.frames_default);
    let rgb = |pictures: u32| vec![90; (size.width * size.height * 3 * pictures) as usize];
    let still = |frame| Still {
        frame,
        strength: 1.0,
        picture: Picture {
            width: size.width,
            height: size.height,
            rgb: rgb(1),
        },
    };
    let wave = |format: SoundFormat| Wave {
        format,
        samples: vec![0.1; format.rate as usize * usize::from(format.channels) * 4],
    };
    let film = GivenFilm {
        rgb: rgb(frames),
        remake: None,
    };
    let sound = GivenSound {
        heard: wave(info.hears.unwrap()),
        kept: wave(info.gives()),
        remake: None,
    };
    [
        (
            "with stills",
            Given {
                stills: (0..8).map(|at| still(at * 8)).collect(),
                ..Given::default()
            },
        ),
        (
            "with a film",
            Given {
                film: Some(film),
                ..Given::default()
            },
        ),
        (
            "with a sound",
            Given {
                sound: Some(sound),
                ..Given::default()
            },
        ),
    ]
}

/// In two stages the greediest moment is that of the second.
fn two_stages(failures: &mut Vec<String>, device: &Device, folder: &Path) {
    let root = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = std::path::absolute(entry.unwrap().path()).unwrap();
        std::os::unix::fs::symlink(&path, root.path().join(path.file_name().unwrap())).unwrap();
    }
    upsampler(&root.path().join("latent_upsampler"));
    let weights = Weights::open(root.path(), device).unwrap();
    let recipe = Recipe {
        width: 128,
        height: 128,
        steps: Some(1),
        refine: Some(Refine::default()),
        ..Recipe::with_defaults("a red ball in two stages", 1, weights.info())
    };
    let plan = weights.plan(&recipe).unwrap().memory;
    let found = measured(&weights, &recipe);
    println!("two stages: predicted {plan:?}, measured {found:?}");
    let peak = found.into_iter().max().unwrap() as f64;
    let ratio = plan.run_bytes() as f64 / peak;
    if !(1.0 / 1.15..=1.15).contains(&ratio) {
        failures.push(format!("two stages: {ratio:.3} of {peak}"));
    }
    // Between the stages: what the first step of the second found is the upsampler's.
    let ratio = plan.upsample.max(plan.denoise) as f64 / found[1] as f64;
    if !(1.0 / 1.15..=1.15).contains(&ratio) {
        failures.push(format!("upsampling: {ratio:.3} of {}", found[1]));
    }
}

/// A latent upsampler of one value everywhere, wide enough that it is the greediest of the steps.
fn upsampler(part: &Path) {
    const WIDTH: usize = 256;
    std::fs::create_dir(part).unwrap();
    let config = format!(
        r#"{{"_class_name": "LTX2LatentUpsamplerModel", "in_channels": 32,
        "mid_channels": {WIDTH}, "num_blocks_per_stage": 0, "use_rational_resampler": false}}"#
    );
    std::fs::write(part.join("config.json"), config).unwrap();
    let tensors: [(&str, Vec<usize>); 8] = [
        ("initial_conv.weight", vec![WIDTH, 32, 3, 3, 3]),
        ("initial_conv.bias", vec![WIDTH]),
        ("initial_norm.weight", vec![WIDTH]),
        ("initial_norm.bias", vec![WIDTH]),
        ("upsampler.0.weight", vec![4 * WIDTH, WIDTH, 3, 3]),
        ("upsampler.0.bias", vec![4 * WIDTH]),
        ("final_conv.weight", vec![32, WIDTH, 3, 3, 3]),
        ("final_conv.bias", vec![32]),
    ];
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let end = at + shape.iter().product::<usize>() * 4;
        let tensor = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [at, end]});
        header.insert(name.into(), tensor);
        at = end;
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    // A value that half precision does not hold: such weights stay as they are.
    file.extend(0.01_f32.to_le_bytes().repeat(at / 4));
    std::fs::write(part.join("diffusion_pytorch_model.safetensors"), file).unwrap();
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
    let mut recipes = Vec::new();
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
        recipes.push((format!("{width}x{height}x{frames}"), recipe));
    }
    for (name, given) in given(info) {
        let recipe = Recipe {
            steps: Some(1),
            given,
            ..Recipe::with_defaults(format!("a red ball {name}"), 1, info)
        };
        recipes.push((name.to_owned(), recipe));
    }
    for (name, recipe) in recipes {
        let plan = weights.plan(&recipe).unwrap().memory;
        let found = measured(&weights, &recipe);
        let before = plan.encode.max(plan.given);
        let parts = [before, plan.denoise, plan.sound, plan.pictures];
        println!("{name}: predicted {parts:?}, measured {found:?}");
        let peak = found.into_iter().max().unwrap() as f64;
        let ratio = plan.run_bytes() as f64 / peak;
        if !(1.0 / 1.15..=1.15).contains(&ratio) {
            failures.push(format!("{name}: {ratio:.3} of {peak}"));
        }
        let whole = plan.peak_bytes() as f64 / (held as f64 + peak);
        if !(1.0 / 1.15..=1.15).contains(&whole) {
            failures.push(format!("{name} with weights: {whole:.3}"));
        }
    }
    two_stages(&mut failures, &device, &folder);
    assert!(failures.is_empty(), "{failures:#?}");
}
