//! Each module on the golden files, from file to file.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::golden::Golden;
use crate::weights::TensorFile;

/// An input file in the making.
struct Case {
    golden: Golden,
    folder: TempDir,
    tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
}

impl Case {
    fn new(golden: &str) -> Self {
        Self {
            golden: Golden::open(golden),
            folder: tempfile::tempdir().unwrap(),
            tensors: Vec::new(),
        }
    }

    /// A tensor of the golden file under the name that the module reads.
    fn floats(mut self, name: &str, golden: &str) -> Self {
        let tensor = self.golden.tensor(golden);
        let bytes = tensor.f32s().iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors
            .push((name.to_owned(), Dtype::F32, tensor.dims().to_vec(), bytes));
        self
    }

    fn values(mut self, name: &str, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors
            .push((name.to_owned(), Dtype::F32, vec![values.len()], bytes));
        self
    }

    fn integers(mut self, name: &str, values: &[i32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors
            .push((name.to_owned(), Dtype::I32, vec![values.len()], bytes));
        self
    }

    /// The results as a file, read back.
    fn run(&self, module: &str, component: &Component) -> Result<TensorFile, TensorsError> {
        let (input, output) = (
            self.folder.path().join("in"),
            self.folder.path().join("out"),
        );
        let views = self.tensors.iter().map(|(name, dtype, dims, bytes)| {
            (name, TensorView::new(*dtype, dims.clone(), bytes).unwrap())
        });
        fs::write(&input, safetensors::serialize(views, None).unwrap()).unwrap();
        let module = Module::named(module)?;
        let found = run(module, component, self.golden.device(), &input)?;
        let names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
        let told: Vec<&str> = module.outputs.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, told, "as the help says");
        write(&output, &found)?;
        Ok(TensorFile::open(&output)?)
    }

    /// Runs and compares `out` with the golden tensor, shape and values.
    fn check(&self, module: &str, component: &Component, pairs: &[(&str, &str)]) {
        let found = self.run(module, component).unwrap();
        for (name, golden) in pairs {
            let expected = self.golden.tensor(golden);
            assert_eq!(found.dims(name).unwrap(), expected.dims(), "{name}");
            let tensor = found
                .tensor(self.golden.device(), name, expected.dims())
                .unwrap();
            self.golden.check(golden, tensor.f32s(), 1e-4);
        }
    }

    fn refusal(&self, module: &str, component: &Component) -> String {
        self.run(module, component).unwrap_err().to_string()
    }
}

fn dit() -> (Case, Component) {
    let case = Case::new("dit_23")
        .floats("video", "in.plain.video")
        .floats("audio", "in.plain.audio")
        .floats("video_text", "in.plain.video_text")
        .floats("audio_text", "in.plain.audio_text")
        .floats("video_times", "in.plain.video_times")
        .floats("audio_times", "in.plain.audio_times")
        .values("sigmas", &[900.0, 700.0])
        .values("fps", &[24.0]);
    let component = case.golden.component_as("config.plain", "w.");
    (case, component)
}

#[test]
fn the_transformer_equals_the_reference_from_file_to_file() {
    let (case, component) = dit();
    let case = case.integers("grid", &[2, 2, 3]);
    let pairs = [("video", "out.plain.video"), ("audio", "out.plain.audio")];
    case.check("transformer", &component, &pairs);
}

#[test]
fn the_connectors_equal_the_reference_from_file_to_file() {
    let case = Case::new("conn_23")
        .floats("states", "in.partial.states")
        .integers("mask", &[0, 0, 0, 1, 1, 1, 1, 1]);
    let pairs = [
        ("video_text", "out.partial.video"),
        ("audio_text", "out.partial.audio"),
    ];
    case.check("connectors", &case.golden.component(), &pairs);
}

#[test]
fn the_text_path_of_the_built_in_model_equals_the_reference_from_file_to_file() {
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights/builtin");
    let golden = Golden::open("end_to_end");
    let part = |module| Module::named(module).unwrap().open(&weights).unwrap();
    let ids = TensorFile::open(&golden_path()).unwrap();
    let numbers = |name: &str| -> Vec<i32> {
        let values = ids.integers(name).unwrap();
        values.into_iter().map(|value| value as i32).collect()
    };
    let case = Case::new("end_to_end")
        .integers("ids", &numbers("ids"))
        .integers("mask", &numbers("mask"));
    let states = case.run("text-encoder", &part("text-encoder")).unwrap();
    let dims = states.dims("states").unwrap().to_vec();
    let tensor = states.tensor(golden.device(), "states", &dims).unwrap();
    let mut next = Case::new("end_to_end").integers("mask", &numbers("mask"));
    let bytes = tensor.f32s().iter().flat_map(|v| v.to_le_bytes()).collect();
    next.tensors
        .push(("states".to_owned(), Dtype::F32, dims, bytes));
    let pairs = [
        ("video_text", "context_video"),
        ("audio_text", "context_audio"),
    ];
    next.check("connectors", &part("connectors"), &pairs);
}

fn golden_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/end_to_end.safetensors")
}

#[test]
fn the_autoencoders_and_the_vocoder_equal_the_reference_from_file_to_file() {
    let cases = [
        (
            "vae_dec_23",
            "vae-decode",
            ["latents", "video"],
            ["in.latents", "out.sample"],
        ),
        (
            "vae_enc",
            "vae-encode",
            ["video", "latents"],
            ["in.video9", "out.mean9"],
        ),
        (
            "audio_vae_dec",
            "audio-vae-decode",
            ["latents", "mel"],
            ["in.latents", "out.mel"],
        ),
        (
            "audio_vae_enc",
            "audio-vae-encode",
            ["mel", "latents"],
            ["in.mel", "out.mean"],
        ),
        (
            "vocoder_20",
            "vocoder",
            ["mel", "wave"],
            ["in.mel", "out.wave"],
        ),
    ];
    for (golden, module, [input, output], [given, expected]) in cases {
        let case = Case::new(golden).floats(input, given);
        case.check(module, &case.golden.component(), &[(output, expected)]);
    }
}

#[test]
fn stills_marks_tiles_and_the_upsampler_equal_the_reference_from_file_to_file() {
    let given = |case: &str| {
        let input = |name: &str| format!("in.{case}.{name}");
        Case::new("dit_given")
            .floats("video", &input("video"))
            .floats("audio", &input("audio"))
            .floats("video_text", &input("video_text"))
            .floats("audio_text", &input("audio_text"))
            .floats("video_times", &input("video_times"))
            .floats("audio_times", &input("audio_times"))
            .integers("grid", &[2, 2, 3])
            .values("sigmas", &[900.0, 900.0])
            .values("fps", &[24.0])
    };
    let case = given("keyframe_tokens").integers("stills", &[3, 4]);
    let pairs = [
        ("video", "out.keyframe_tokens.video"),
        ("audio", "out.keyframe_tokens.audio"),
    ];
    case.check("transformer", &case.golden.component(), &pairs);
    let case = given("keyframes_marked").floats("keyframes", "in.keyframes_marked.keyframes");
    let pairs = [("video", "out.keyframes_marked.video")];
    case.check("transformer", &case.golden.component(), &pairs);
    let case = Case::new("vae_tiled").integers("tiling", &[8, 4, 4, 2]);
    let decode = case.floats("latents", "in.latents");
    let pairs = [("video", "out.both.sample")];
    decode.check("vae-decode", &decode.golden.component(), &pairs);
    let case = Case::new("vae_tiled").integers("tiling", &[0, 0, 4, 2]);
    let encode = case.floats("video", "in.video");
    let pairs = [("latents", "out.time.mean")];
    encode.check("vae-encode", &encode.golden.component(), &pairs);
    let case = Case::new("upsampler_23").floats("latents", "in.latents");
    let pairs = [("latents", "out.latents")];
    case.check("latent-upsampler", &case.golden.component(), &pairs);
}

#[test]
fn passes_without_some_connections_equal_the_reference_from_file_to_file() {
    let given = |case: &str| {
        let input = |name: &str| format!("in.{case}.{name}");
        Case::new("dit_23")
            .floats("video", &input("video"))
            .floats("audio", &input("audio"))
            .floats("video_text", &input("video_text"))
            .floats("audio_text", &input("audio_text"))
            .floats("video_times", &input("video_times"))
            .floats("audio_times", &input("audio_times"))
            .integers("grid", &[2, 2, 3])
            .values("sigmas", &[900.0, 700.0])
            .values("fps", &[24.0])
    };
    let case = given("stg").integers("perturbed", &[1]);
    let component = case.golden.component_as("config.stg", "w.");
    case.check("transformer", &component, &[("video", "out.stg.video")]);
    let case = given("isolated").integers("isolated", &[1]);
    let pairs = [("audio", "out.isolated.audio")];
    case.check("transformer", &component, &pairs);
    let case = given("stg").integers("perturbed", &[2]);
    let error = case.refusal("transformer", &component);
    assert!(error.contains("tensor `perturbed`: holds 2"), "{error}");
}

#[test]
fn a_refusal_names_the_tensor_and_both_shapes() {
    let case = Case::new("vae_dec_23").floats("latents", "out.sample");
    let error = case.refusal("vae-decode", &case.golden.component());
    let words = "tensor `latents` has shape [1, 3, 9, 16, 32], expected [1, 6, f, h, w]";
    assert!(error.contains(words), "{error}");
    let case = Case::new("vocoder_20").floats("wave", "in.mel");
    let error = case.refusal("vocoder", &case.golden.component());
    let words = "has no tensor `mel` (expected shape [1, 2, rows, 16])";
    assert!(error.contains(words), "{error}");
}

#[test]
fn values_that_a_module_cannot_read_are_refused_by_tensor() {
    let (case, component) = dit();
    let error = case
        .integers("grid", &[2, 0, 3])
        .refusal("transformer", &component);
    assert!(error.contains("tensor `grid`: holds [2, 0, 3]"), "{error}");
    let mask = |bits: &[i32]| {
        let case = Case::new("conn_23")
            .floats("states", "in.partial.states")
            .integers("mask", bits);
        case.refusal("connectors", &case.golden.component())
    };
    assert!(mask(&[1, 1, 1, 0, 1, 1, 1, 1]).contains("tensor `mask`: expected zeros"));
    assert!(mask(&[0; 8]).contains("tensor `mask`: expected zeros"));
    assert!(mask(&[0, 0, 0, 1, 1, 1, 1, 2]).contains("holds 2, expected 0 to 1"));
    assert!(mask(&[1; 7]).contains("has shape [7], expected [8]"));
    let case = Case::new("conn_23")
        .floats("states", "in.partial.states")
        .values("mask", &[1.0; 8]);
    let error = case.refusal("connectors", &case.golden.component());
    assert!(error.contains("expected integers"), "{error}");
    let case = Case::new("vae_enc").floats("video", "in.video9");
    let (name, dtype, mut dims, bytes) = case.tensors[0].clone();
    dims.swap(2, 4);
    let case = Case {
        tensors: vec![(name, dtype, dims, bytes)],
        ..case
    };
    let error = case.refusal("vae-encode", &case.golden.component());
    assert!(
        error.contains("tensor `video`: 32 frames of 16 by 9"),
        "{error}"
    );
}

#[test]
fn an_unknown_module_is_answered_with_those_that_there_are() {
    let error = Module::named("vae").unwrap_err().to_string();
    assert!(
        error.contains("`vae`") && error.contains("vae-decode"),
        "{error}"
    );
}
