//! Opening folders: the built-in one, the same in other forms, and broken ones.

use std::collections::BTreeMap;
use std::fs;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use super::*;

/// A copy of the built-in folder that a test may break.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights/builtin");
        let copy = Self(tempfile::tempdir().unwrap());
        copy_files(&source, copy.0.path());
        copy
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn open(&self) -> Result<Weights, DiffusionError> {
        Weights::open(self.0.path(), &Device::cpu(2).unwrap())
    }

    fn refusal(&self) -> String {
        let error = self.open().map(|_| ()).unwrap_err();
        assert!(matches!(error, DiffusionError::Weights(_)), "{error}");
        error.to_string()
    }

    fn edit(&self, name: &str, change: impl Fn(&mut serde_json::Map<String, Value>)) {
        let mut fields = serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap();
        change(&mut fields);
        fs::write(self.path(name), serde_json::to_vec(&fields).unwrap()).unwrap();
    }
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_files(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

const VOCODER: &str = "vocoder/diffusion_pytorch_model.safetensors";
const TRANSFORMER: &str = "transformer/diffusion_pytorch_model.safetensors";

/// Rewrites a weight file with each tensor's bytes changed by `change`.
fn rewrite(path: &Path, change: impl Fn(&str, Dtype, &[u8]) -> (Dtype, Vec<u8>)) {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let changed: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = file
        .iter()
        .map(|(name, view)| {
            let (dtype, data) = change(name, view.dtype(), view.data());
            (name.to_owned(), (dtype, view.shape().to_vec(), data))
        })
        .collect();
    let views = changed.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn the_built_in_folder_opens_and_tells_what_it_can_do() {
    let weights = Folder::new().open().unwrap();
    let info = weights.info();
    assert!(!info.name.is_empty() && !info.licence.is_empty() && info.digest.len() == 64);
    assert!(info.steps > 0 && info.first_frame && !info.vocabulary.is_empty());
    assert!(
        info.sizes
            .iter()
            .all(|s| s.width % info.size_step == 0 && s.height % info.size_step == 0)
    );
    assert_eq!((info.frames_default - 1) % info.frames_step, 0);
    assert!(weights.unknown_words("a red ball").is_empty());
    assert_eq!(weights.unknown_words("a red Zebra"), ["zebra"]);
}

#[test]
fn the_same_values_in_full_precision_are_the_same_weights() {
    let folder = Folder::new();
    let half = folder.open().unwrap();
    rewrite(&folder.path(TRANSFORMER), |_, dtype, data| {
        assert_eq!(dtype, Dtype::F16);
        let (pairs, _) = data.as_chunks::<2>();
        let full = pairs
            .iter()
            .flat_map(|raw| half::f16::from_le_bytes(*raw).to_f32().to_le_bytes());
        (Dtype::F32, full.collect())
    });
    let full = folder.open().unwrap();
    assert_ne!(half.info.digest, full.info.digest);
    let context = |weights: &Weights| weights.context("a red ball").unwrap().video.f32s().to_vec();
    assert_eq!(context(&half), context(&full));
}

#[test]
fn shards_with_an_index_are_read_like_one_file() {
    let folder = Folder::new();
    let bytes = fs::read(folder.path(VOCODER)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut map = serde_json::Map::new();
    for (number, half) in ["a", "b"].iter().enumerate() {
        let shard = format!(
            "diffusion_pytorch_model-0000{}-of-00002.safetensors",
            number + 1
        );
        let mine: Vec<_> = file
            .iter()
            .filter(|(name, _)| (name.len() % 2 == 0) == (*half == "a"))
            .collect();
        map.extend(
            mine.iter()
                .map(|(name, _)| ((*name).to_owned(), json!(shard))),
        );
        fs::write(
            folder.path(&format!("vocoder/{shard}")),
            safetensors::serialize(mine, None).unwrap(),
        )
        .unwrap();
    }
    let index = json!({ "weight_map": map }).to_string();
    fs::write(folder.path(&format!("{VOCODER}.index.json")), index).unwrap();
    fs::remove_file(folder.path(VOCODER)).unwrap();
    assert!(folder.open().is_ok());
    let index = format!("{VOCODER}.index.json");
    let name = |number| format!("diffusion_pytorch_model-0000{number}-of-00002.safetensors");
    let claim = |tensor: &str, shard: &str| {
        folder.edit(&index, |fields| {
            fields["weight_map"][tensor] = json!(shard);
        });
        folder.refusal()
    };
    let lacks = claim("conv_in.bias2", &name(1));
    assert!(
        lacks.contains("index.json") && lacks.contains("`conv_in.bias2` should be in"),
        "{lacks}"
    );
    let outside = claim("conv_in.bias2", "../vae/config.json");
    assert!(
        outside.contains("`../vae/config.json` is no name"),
        "{outside}"
    );
    fs::remove_file(folder.path(&format!("vocoder/{}", name(1)))).unwrap();
    let missing = claim("conv_in.bias2", &name(1));
    assert!(
        missing.contains("00001-of-00002.safetensors is missing")
            && missing.contains("tensors are in it"),
        "{missing}"
    );
}

#[test]
fn a_tokeniser_of_another_model_is_refused() {
    let folder = Folder::new();
    folder.edit("tokenizer/tokenizer.json", |fields| {
        fields["model"]["vocab"]["supercalifragilistic"] = json!(100_000);
    });
    let refusal = folder.refusal();
    assert!(
        refusal.contains("tokenizer/tokenizer.json")
            && refusal.contains("100000")
            && refusal.contains("rows"),
        "{refusal}"
    );
}

#[test]
fn a_truncated_file_is_refused_wherever_it_was_cut() {
    let folder = Folder::new();
    let whole = fs::read(folder.path(VOCODER)).unwrap();
    for length in [0, 4, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(folder.path(VOCODER), &whole[..length]).unwrap();
        let refusal = folder.refusal();
        assert!(
            refusal.contains("vocoder/diffusion_pytorch_model.safetensors"),
            "{length}: {refusal}"
        );
    }
}

#[test]
fn a_missing_file_is_named() {
    for name in [
        "model_index.json",
        "vae/config.json",
        VOCODER,
        "tokenizer/tokenizer.json",
    ] {
        let folder = Folder::new();
        fs::remove_file(folder.path(name)).unwrap();
        let refusal = folder.refusal();
        assert!(refusal.contains(name), "{name}: {refusal}");
    }
}

#[test]
fn values_that_are_not_numbers_are_refused() {
    let folder = Folder::new();
    rewrite(&folder.path(TRANSFORMER), |name, dtype, data| {
        let mut data = data.to_vec();
        if name == "proj_in.weight" {
            data[..2].copy_from_slice(&half::f16::NAN.to_le_bytes());
        }
        (dtype, data)
    });
    let refusal = folder.refusal();
    assert!(
        refusal.contains("`proj_in.weight`") && refusal.contains("1 values"),
        "{refusal}"
    );
}

#[test]
fn an_integer_tensor_is_refused() {
    let folder = Folder::new();
    rewrite(&folder.path(TRANSFORMER), |name, dtype, data| match name {
        "proj_in.weight" => (Dtype::I16, data.to_vec()),
        _ => (dtype, data.to_vec()),
    });
    let refusal = folder.refusal();
    assert!(
        refusal.contains("`proj_in.weight`") && refusal.contains("expected F32, F16 or BF16"),
        "{refusal}"
    );
}

#[test]
fn unsupported_pipelines_and_parts_are_named() {
    let cases = [
        (
            "model_index.json",
            "_class_name",
            json!("WanPipeline"),
            "`WanPipeline` of component `pipeline`",
        ),
        ("model_index.json", "vocoder", Value::Null, "`vocoder`"),
        (
            "transformer/config.json",
            "_class_name",
            json!("Other"),
            "`Other` of component `transformer`",
        ),
        (
            "text_encoder/config.json",
            "architectures",
            json!(["Gemma4"]),
            "`Gemma4` of component `text_encoder`",
        ),
        (
            "transformer/config.json",
            "in_channels",
            json!(48),
            "proj_in.weight",
        ),
        (
            "transformer/config.json",
            "vae_scale_factors",
            json!([8, 32, 32]),
            "`vae_scale_factors`",
        ),
        (
            "connectors/config.json",
            "caption_channels",
            json!(7),
            "text_proj_in",
        ),
        (
            "connectors/config.json",
            "rope_type",
            json!("round"),
            "`rope_type`",
        ),
        (
            "tokenizer/tokenizer_config.json",
            "model_max_length",
            json!(65),
            "`video_connector_num_learnable_registers`",
        ),
        (
            "tokenizer/tokenizer_config.json",
            "pad_token",
            json!("<none>"),
            "`pad_token`",
        ),
        ("dailies.json", "sigmas", json!([0.5, 0.0]), "`sigmas`"),
    ];
    for (file, field, value, expected) in cases {
        let folder = Folder::new();
        folder.edit(file, |fields| {
            fields.insert(field.to_owned(), value.clone());
        });
        let refusal = folder.refusal();
        assert!(refusal.contains(expected), "{file} {field}: {refusal}");
    }
}

#[test]
fn an_unknown_field_and_an_extra_part_do_no_harm() {
    let folder = Folder::new();
    folder.edit("transformer/config.json", |fields| {
        fields.insert("use_telepathy".to_owned(), json!(true));
    });
    folder.edit("model_index.json", |fields| {
        fields.insert(
            "latent_upsampler".to_owned(),
            json!(["ltx2", "LTX2LatentUpsamplerModel"]),
        );
    });
    assert!(folder.open().is_ok());
}
