//! Readers of foreign files under thousands of mutations with fixed seeds: an error or a value, never a
//! panic, and no memory beyond the file's own size.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use kernels::Device;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::{Component, Config, TensorFile};
use crate::audio_vae::{AudioDecoder, AudioEncoder};
use crate::checkpoint::{Checkpoint, Identity};
use crate::golden::Golden;
use crate::info::Product;
use crate::latent::Latents;
use crate::sigmas::Schedule;
use crate::text::{Connectors, Gemma};
use crate::transformer::Transformer;
use crate::video_vae::{VideoDecoder, VideoEncoder};
use crate::vocoder::Vocoder;

/// A repeatable choice of mutations (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides.max(1) as u64) as usize
    }
}

/// Runs `work` and tells which case panicked.
fn survives<T>(what: impl Fn() -> String, work: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done,
        Err(_) => panic!("{}", what()),
    }
}

/// Some bytes changed, cut off, or repeated.
fn mutated(bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    for _ in 0..=dice.roll(4) {
        let at = dice.roll(changed.len().max(1));
        match dice.roll(6) {
            _ if changed.is_empty() => {}
            0 => changed[at] ^= 1 << dice.roll(8),
            1 => changed[at] = dice.roll(256) as u8,
            2 => changed.truncate(at),
            3 => changed.extend(vec![dice.roll(256) as u8; dice.roll(64)]),
            // Numbers of the header: shapes, offsets and lengths.
            4 => {
                let digits = changed
                    .iter()
                    .enumerate()
                    .filter(|(_, b)| b.is_ascii_digit());
                let digits: Vec<usize> = digits.map(|(index, _)| index).collect();
                if let Some(&index) = digits.get(dice.roll(digits.len())) {
                    changed[index] = b'0' + dice.roll(10) as u8;
                }
            }
            _ => {
                let extreme = [0, 1, u64::MAX, 1 << 40, 100][dice.roll(5)];
                let end = changed.len().min(8);
                changed[..end].copy_from_slice(&u64::to_le_bytes(extreme)[..end]);
            }
        }
    }
    changed
}

#[test]
fn a_mutated_safetensors_file_is_an_error_or_its_own_tensors() {
    let bytes: Vec<u8> = (0..24).collect();
    let view = |dtype, dims: &[usize], bytes| TensorView::new(dtype, dims.to_vec(), bytes).unwrap();
    let tensors = [
        ("a.weight", view(Dtype::F32, &[2, 3], &bytes)),
        ("b", view(Dtype::F16, &[4], &bytes[..8])),
        ("c", view(Dtype::BF16, &[2, 2], &bytes[..8])),
        ("d", view(Dtype::I64, &[1], &bytes[..8])),
    ];
    let whole = safetensors::serialize(tensors, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let device = Device::cpu(1).unwrap();
    let (mut dice, mut opened) = (Dice(7), 0);
    for case in 0..6_000 {
        let changed = mutated(&whole, &mut dice);
        std::fs::write(&path, &changed).unwrap();
        survives(
            || format!("case {case}: {changed:?}"),
            || {
                let Ok(file) = TensorFile::open(&path) else {
                    return;
                };
                opened += 1;
                for name in file.names() {
                    let dims = file.dims(&name).unwrap().to_vec();
                    assert!(dims.iter().product::<usize>() <= changed.len());
                    let _ = (file.tensor(&device, &name, &dims), file.integers(&name));
                }
            },
        );
    }
    assert!(
        opened > 100,
        "too few mutations reach the tensors: {opened}"
    );
}

/// One value of a JSON tree replaced by another that somebody might write there.
fn mutated_json(value: &mut Value, dice: &mut Dice) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let name = fields.keys().nth(dice.roll(fields.len())).unwrap().clone();
            if dice.roll(12) == 0 {
                fields.remove(&name);
            } else {
                mutated_json(&mut fields[&name], dice);
            }
        }
        Value::Array(items) if !items.is_empty() && dice.roll(3) > 0 => {
            let index = dice.roll(items.len());
            match dice.roll(5) {
                0 => drop(items.remove(index)),
                1 => items.extend(vec![items[index].clone(); 100]),
                _ => mutated_json(&mut items[index], dice),
            }
        }
        leaf => {
            let others = [
                json!(0),
                json!(1),
                json!(2),
                json!(3),
                json!(7),
                json!(1_000_000),
                json!(1_u64 << 32),
                json!(u64::MAX),
                json!(-1),
                json!(0.5),
                json!(-1e300),
                json!(null),
                json!(true),
                json!(false),
                json!(""),
                json!("spatial"),
                json!([]),
                json!({}),
                json!([0, 0, 0]),
                json!([[0, 1], [1_000_000, 2]]),
                json!(vec![1; 100]),
            ];
            *leaf = others[dice.roll(others.len())].clone();
        }
    }
}

/// Opens a part with a config; the error is all that may come of a bad one.
type Open = fn(&Component, &Device) -> bool;

#[test]
fn a_mutated_config_is_an_error_or_a_part() {
    let parts: [(&str, &str, &str, Open); 9] = [
        ("vae_dec_23", "config", "w.", |c, d| {
            VideoDecoder::load(c, d).is_ok()
        }),
        ("vae_dec_20", "config", "w.", |c, d| {
            VideoDecoder::load(c, d).is_ok()
        }),
        ("vae_enc", "config", "w.", |c, d| {
            VideoEncoder::load(c, d).is_ok()
        }),
        ("audio_vae_dec", "config", "w.", |c, d| {
            AudioDecoder::load(c, d).is_ok()
        }),
        ("audio_vae_enc", "config", "w.", |c, d| {
            AudioEncoder::load(c, d).is_ok()
        }),
        ("vocoder_20", "config", "w.", |c, d| {
            Vocoder::load(c, d).is_ok()
        }),
        ("vocoder_bwe", "config", "w.", |c, d| {
            Vocoder::load(c, d).is_ok()
        }),
        ("dit_23", "config.plain", "w.", |c, d| {
            Transformer::load(c, d).is_ok()
        }),
        ("gemma", "config.new", "w.", |c, d| {
            Gemma::load(c, d).is_ok()
        }),
    ];
    let mut dice = Dice(11);
    for (case, note, prefix, open) in parts {
        let golden = Golden::open(case);
        let whole: Value = serde_json::from_str(golden.note(note)).unwrap();
        for number in 0..120 {
            let mut fields = whole.clone();
            for _ in 0..=dice.roll(2) {
                mutated_json(&mut fields, &mut dice);
            }
            let text = fields.to_string();
            survives(
                || format!("{case} {number}: {text}"),
                || {
                    let Ok(config) = Config::parse(Path::new("config.json"), &text) else {
                        return;
                    };
                    let file = golden.reopened();
                    open(
                        &Component::from_file(case, config, file, prefix),
                        golden.device(),
                    );
                },
            );
        }
    }
}

#[test]
fn mutated_side_files_are_errors_or_settings() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights/builtin");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let copy = tempfile::tempdir().unwrap();
    let mut dice = Dice(13);
    let sampler = read("scheduler/scheduler_config.json");
    for (name, text) in [
        ("dailies.json", read("dailies.json")),
        ("scheduler", sampler),
    ] {
        let whole: Value = serde_json::from_str(&text).unwrap();
        for number in 0..1_000 {
            let mut fields = whole.clone();
            mutated_json(&mut fields, &mut dice);
            let text = match dice.roll(3) {
                0 => String::from_utf8_lossy(&mutated(fields.to_string().as_bytes(), &mut dice))
                    .into(),
                _ => fields.to_string(),
            };
            survives(
                || format!("{name} {number}: {text}"),
                || {
                    if name == "dailies.json" {
                        std::fs::write(copy.path().join(name), &text).unwrap();
                        let _ = Product::open(copy.path());
                    } else if let Ok(config) = Config::parse(Path::new(name), &text)
                        && let Ok(schedule) = Schedule::read(&config)
                    {
                        assert_eq!(schedule.sigmas(8, 100).len(), 9);
                    }
                },
            );
        }
    }
}

#[test]
fn a_mutated_connector_config_is_an_error_or_a_part() {
    let golden = Golden::open("conn_23");
    let whole: Value = serde_json::from_str(golden.note("config")).unwrap();
    let mut dice = Dice(17);
    for number in 0..120 {
        let mut fields = whole.clone();
        mutated_json(&mut fields, &mut dice);
        let text = fields.to_string();
        survives(
            || format!("{number}: {text}"),
            || {
                let config = Config::parse(Path::new("config.json"), &text)?;
                let part = Component::from_file("conn_23", config, golden.reopened(), "w.");
                Connectors::load(&part, golden.device()).map(drop)
            },
        )
        .unwrap_or_default();
    }
}

#[test]
fn a_mutated_checkpoint_is_refused_even_when_its_digest_is_right() {
    let whole = Checkpoint {
        identity: Identity {
            weights: [1; 32],
            recipe: [2; 32],
            sigmas: [3; 32],
            device_class: "cpu-x86_64".into(),
        },
        seed: 7,
        step: 3,
        steps: 8,
        latents: Latents {
            video: vec![0.5; 40],
            audio: vec![-1.0; 12],
        },
    }
    .to_bytes();
    let body = &whole[..whole.len() - 32];
    let mut dice = Dice(19);
    for case in 0..6_000 {
        let mut changed = mutated(body, &mut dice);
        if dice.roll(4) > 0 {
            let digest = blake3::hash(&changed);
            changed.extend(digest.as_bytes());
        }
        survives(
            || format!("case {case}: {changed:?}"),
            || {
                if let Ok(found) = Checkpoint::from_bytes(&changed) {
                    let values = found.latents.video.len() + found.latents.audio.len();
                    assert!(values * 4 <= changed.len());
                }
            },
        );
    }
}
