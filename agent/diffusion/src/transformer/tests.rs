//! The transformer against the reference library.

use serde_json::Value;

use super::*;
use crate::golden::Golden;

const TOLERANCE: f32 = 1e-4;

fn times(device: &Device, values: &Tensor) -> Times {
    match values.count() {
        1 => Times::shared(device, values.f32s()[0]).unwrap(),
        _ => Times::per_token(device, values.f32s()).unwrap(),
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .map(|list| list.iter().map(|v| v.as_f64().unwrap()).collect())
        .unwrap_or_default()
}

fn run(golden: &Golden, device: &Device, case: &str) -> Velocity {
    let own = format!("config.{case}");
    let note = if golden.has_note(&own) {
        &own
    } else {
        "config"
    };
    let component = golden.component_as(note, "w.");
    let transformer = Transformer::load(&component, device).unwrap();
    let arguments: Value = serde_json::from_str(golden.note(&format!("args.{case}"))).unwrap();
    let options = &arguments["options"];
    let input = |name: &str| golden.tensor(&format!("in.{case}.{name}"));
    let (video, audio) = (input("video"), input("audio"));
    let grid: Vec<usize> = numbers(&arguments["grid"])
        .iter()
        .map(|v| *v as usize)
        .collect();
    let fps = arguments["fps"].as_f64().unwrap() as f32;
    let grid = Grid {
        video: [grid[0], grid[1], grid[2]],
        audio: audio.row_count(),
        fps,
    };
    let mask = golden.contains(&format!("in.{case}.mask")).then(|| {
        let values = input("mask")
            .f32s()
            .iter()
            .map(|m| (1.0 - m) * -10_000.0)
            .collect::<Vec<_>>();
        Tensor::from_f32(device, &[values.len()], values).unwrap()
    });
    let text = Context {
        video: input("video_text"),
        audio: input("audio_text"),
        mask,
    };
    let context = transformer.context(device, &text).unwrap();
    let stills: Vec<u32> = numbers(&arguments["stills"])
        .iter()
        .map(|v| *v as u32)
        .collect();
    let positions = transformer.positions(&grid, &stills).unwrap();
    let sigmas = numbers(&arguments["sigmas"]);
    let sigma = |index: usize| Tensor::from_f32(device, &[1], vec![sigmas[index] as f32]).unwrap();
    let noise = Noise {
        video: times(device, &input("video_times")),
        audio: times(device, &input("audio_times")),
        video_sigma: sigma(0),
        audio_sigma: sigma(1),
    };
    let cross = options["use_cross_timestep"].as_bool().unwrap_or(false);
    let step = transformer.step(device, &noise, cross).unwrap();
    let blocks: Vec<usize> = numbers(&options["spatio_temporal_guidance_blocks"])
        .iter()
        .map(|v| *v as usize)
        .collect();
    let isolated = options["isolate_modalities"].as_bool().unwrap_or(false);
    let keyframes = golden
        .contains(&format!("in.{case}.keyframes"))
        .then(|| input("keyframes"));
    let pass = Pass {
        perturbed_blocks: &blocks,
        isolated,
        keyframes: keyframes.as_ref(),
    };
    transformer
        .velocity(device, (&video, &audio), &context, &positions, &step, pass)
        .unwrap()
}

fn check(file: &str, cases: &[&str]) {
    let golden = Golden::open(file);
    for case in cases {
        let found = run(&golden, golden.device(), case);
        golden.check(&format!("out.{case}.video"), found.video.f32s(), TOLERANCE);
        golden.check(&format!("out.{case}.audio"), found.audio.f32s(), TOLERANCE);
    }
}

#[test]
fn version_2_3_equals_the_reference() {
    check(
        "dit_23",
        &[
            "plain",
            "per_token",
            "audio_per_token",
            "legacy_timestep",
            "text_mask",
        ],
    );
}

#[test]
fn guidance_passes_equal_the_reference() {
    check("dit_23", &["stg", "isolated"]);
}

#[test]
fn odd_shapes_equal_the_reference() {
    check("dit_23", &["one_audio_token", "odd_shape"]);
}

#[test]
fn config_switches_equal_the_reference() {
    check(
        "dit_23",
        &["gate_ratio", "static_prompt", "no_ff_bias", "interleaved"],
    );
}

#[test]
fn version_2_0_equals_the_reference() {
    check("dit_20", &["plain", "per_token"]);
}

#[test]
fn appended_stills_equal_the_reference() {
    check("dit_given", &["keyframe_tokens"]);
}

#[test]
fn a_stream_that_is_given_whole_equals_the_reference() {
    check("dit_given", &["frozen_audio", "frozen_video"]);
}

#[test]
fn the_mark_on_keyframes_of_2_5_equals_the_reference() {
    check("dit_given", &["keyframes_marked"]);
}

#[test]
fn threads_do_not_change_a_bit() {
    let golden = Golden::open("dit_23");
    let one = run(&golden, &Device::cpu(1).unwrap(), "odd_shape");
    for threads in [2, 3] {
        let many = run(&golden, &Device::cpu(threads).unwrap(), "odd_shape");
        assert!(one.video.f32s() == many.video.f32s() && one.audio.f32s() == many.audio.f32s());
    }
}

#[test]
fn impossible_configs_are_refused_by_field() {
    let golden = Golden::open("dit_23");
    let text = golden.note("config.plain").to_owned();
    let cases = [
        ("audio_num_attention_heads", "3"),
        ("audio_cross_attention_dim", "9"),
        ("cross_attention_dim", "17"),
        ("rope_type", "\"spiral\""),
        ("patch_size", "2"),
        ("qk_norm", "\"layer_norm\""),
        ("num_layers", "0"),
        ("norm_eps", "\"tiny\""),
    ];
    for (field, value) in cases {
        let mut fields: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
        fields.insert(field.to_owned(), serde_json::from_str(value).unwrap());
        let text = serde_json::to_string(&fields).unwrap();
        let config = crate::weights::Config::parse("config.json".as_ref(), &text).unwrap();
        let error = TransformerConfig::read(&config).unwrap_err().to_string();
        assert!(error.contains(&format!("`{field}`")), "{field}: {error}");
    }
}

#[test]
fn a_missing_tensor_and_a_wrong_shape_are_named() {
    let golden = Golden::open("dit_23");
    let load = |field: &str, value: Value| {
        let mut fields: serde_json::Map<String, Value> =
            serde_json::from_str(golden.note("config.plain")).unwrap();
        fields.insert(field.to_owned(), value);
        let text = serde_json::to_string(&fields).unwrap();
        let config = crate::weights::Config::parse("config.json".as_ref(), &text).unwrap();
        let file = golden.reopened();
        let component = Component::from_file("transformer", config, file, "w.");
        Transformer::load(&component, golden.device())
            .unwrap_err()
            .to_string()
    };
    let error = load("num_layers", 3.into());
    assert!(
        error.contains("transformer_blocks.2.") && error.contains("has no tensor"),
        "{error}"
    );
    let error = load("in_channels", 7.into());
    assert!(
        error.contains("`w.proj_in.weight`") && error.contains("[16, 7]"),
        "{error}"
    );
    let error = load("_class_name", "WanTransformer3DModel".into());
    assert!(
        error.contains("WanTransformer3DModel") && error.contains("LTX2"),
        "{error}"
    );
}
