//! Runs in two stages: the built-in model with an upsampler of random weights.

use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;
use crate::given::Still;
use crate::golden::write_drawn;
use crate::recipe::Refine;

/// The built-in model's folder with a latent upsampler beside it.
fn with_upsampler() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = std::path::absolute(entry.unwrap().path()).unwrap();
        symlink(&path, root.path().join(path.file_name().unwrap())).unwrap();
    }
    let part = root.path().join("latent_upsampler");
    std::fs::create_dir(&part).unwrap();
    let config = r#"{"_class_name": "LTX2LatentUpsamplerModel", "in_channels": 32,
        "mid_channels": 32, "num_blocks_per_stage": 0, "use_rational_resampler": false}"#;
    std::fs::write(part.join("config.json"), config).unwrap();
    let shapes = r#"[["initial_conv.weight", [32, 32, 3, 3, 3], 0.05],
        ["initial_conv.bias", [32], 0.1], ["initial_norm.weight", [32], 1.0],
        ["initial_norm.bias", [32], 0.1], ["upsampler.0.weight", [128, 32, 3, 3], 0.1],
        ["upsampler.0.bias", [128], 0.1], ["final_conv.weight", [32, 32, 3, 3, 3], 0.05],
        ["final_conv.bias", [32], 0.1]]"#;
    write_drawn(shapes, &part.join("diffusion_pytorch_model.safetensors"));
    root
}

fn refined(seed: u64) -> Recipe {
    Recipe {
        refine: Some(Refine::default()),
        ..short(seed)
    }
}

fn pause_at(weights: &Weights, recipe: &Recipe, step: u32) -> Checkpoint {
    let mut on_step = |progress: &Progress<'_>| match progress.step == step {
        true => Control::Pause,
        false => Control::Continue,
    };
    let mut sink = Clip::default();
    match run(weights, recipe, Start::Fresh, &mut on_step, &mut sink).unwrap() {
        Generated::Paused(checkpoint) => *checkpoint,
        Generated::Finished => panic!("it should have paused"),
    }
}

#[test]
fn a_clip_of_two_stages_is_the_same_bits_when_cut_anywhere() {
    let root = with_upsampler();
    let weights = Weights::open(root.path(), &Device::cpu(2).unwrap()).unwrap();
    assert!(weights.info().two_stages && !WEIGHTS.info().two_stages);
    let mut recipe = refined(30);
    recipe.given.stills = vec![Still {
        frame: 3,
        strength: 0.75,
        picture: Picture {
            width: recipe.width,
            height: recipe.height,
            rgb: vec![90; (recipe.width * recipe.height * 3) as usize],
        },
    }];
    let mut steps = Vec::new();
    let mut on_step = |progress: &Progress<'_>| {
        let values = progress.checkpoint().latents.video.len();
        steps.push((progress.step, progress.steps, values));
        Control::Continue
    };
    let whole = finish_telling(&weights, &recipe, Start::Fresh, &mut on_step);
    let (small, large) = (3 * 2 * 2 * 32, 3 * 4 * 4 * 32);
    let sizes: Vec<usize> = steps.iter().map(|(_, _, values)| *values).collect();
    assert_eq!(
        sizes[..5],
        [small; 5],
        "the seam belongs to the first stage"
    );
    assert_eq!(sizes[5..], [large; 4]);
    assert!(steps.iter().all(|(_, all, _)| *all == 7));
    for step in [0, 3, 4, 5, 7] {
        let checkpoint = pause_at(&weights, &recipe, step);
        assert_eq!(checkpoint.step(), step);
        let stored = Checkpoint::from_bytes(&checkpoint.to_bytes()).unwrap();
        let resumed = finish(&weights, &recipe, Start::Resume(Box::new(stored)));
        assert_same(&whole, &resumed, &format!("resumed at {step}"));
    }
}

#[test]
fn the_second_stage_may_have_weights_of_its_own() {
    let root = with_upsampler();
    let device = Device::cpu(2).unwrap();
    let open = || Weights::open(root.path(), &device).unwrap();
    let alone = open();
    let paired = open().with_refiner(&folder()).unwrap();
    let recipe = refined(31);
    let clip = finish(&alone, &recipe, Start::Fresh);
    let pair = finish(&paired, &recipe, Start::Fresh);
    assert_same(&clip, &pair, "with the same weights for both");
    let checkpoint = pause_at(&alone, &recipe, 5);
    let start = Start::Resume(Box::new(checkpoint));
    let error = error_of(&paired, &recipe, start).to_string();
    assert!(error.contains("set of weights"), "{error}");
    let missing = open().with_refiner(root.path().join("vae").as_path());
    assert!(missing.unwrap_err().to_string().contains("transformer"));
}

#[test]
fn what_is_done_between_the_stages_changes_the_clip() {
    let root = with_upsampler();
    let weights = Weights::open(root.path(), &Device::cpu(2).unwrap()).unwrap();
    let mut digests = Vec::new();
    for (adain, tone_map) in [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)] {
        let recipe = Recipe {
            refine: Some(Refine { adain, tone_map }),
            ..short(32)
        };
        digests.push(finish(&weights, &recipe, Start::Fresh).latents_digest);
    }
    assert!(digests[0] != digests[1] && digests[0] != digests[2] && digests[1] != digests[2]);
    let error = error_of(&WEIGHTS, &refined(32), Start::Fresh);
    assert!(error.to_string().contains("latent_upsampler"), "{error}");
}
