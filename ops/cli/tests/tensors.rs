//! `dailies tensors` as a user runs it.

use std::path::Path;
use std::process::{Command, Output};

fn tensors(arguments: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    Command::new(env!("CARGO_BIN_EXE_dailies"))
        .arg("tensors")
        .args(arguments)
        .arg("--weights")
        .arg(root.join("agent/weights/builtin"))
        .output()
        .unwrap()
}

fn refusal(arguments: &[&str]) -> String {
    let Output { status, stderr, .. } = tensors(arguments);
    assert_eq!(status.code(), Some(1));
    String::from_utf8(stderr).unwrap()
}

/// A safetensors file with one tensor of zeros.
fn zeros(path: &Path, name: &str, dims: &[usize]) {
    let bytes = dims.iter().product::<usize>() * 4;
    let header =
        format!(r#"{{"{name}":{{"dtype":"F32","shape":{dims:?},"data_offsets":[0,{bytes}]}}}}"#);
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + bytes, 0);
    std::fs::write(path, file).unwrap();
}

#[test]
fn a_module_runs_from_file_to_file() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.st"), dir.path().join("out.st"));
    zeros(&input, "latents", &[1, 32, 2, 1, 1]);
    let (input, output) = (input.to_str().unwrap(), output.to_str().unwrap());
    let found = tensors(&["vae-decode", "--in", input, "--out", output]);
    assert!(
        found.status.success(),
        "{}",
        String::from_utf8_lossy(&found.stderr)
    );
    let written = std::fs::read(output).unwrap();
    let header = String::from_utf8_lossy(&written);
    assert!(header.contains(r#""video""#) && header.contains("[1,3,5,16,16]"));
}

#[test]
fn the_list_names_every_module_and_its_class() {
    let found = String::from_utf8(tensors(&["list"]).stdout).unwrap();
    for words in [
        "text-encoder (text_encoder: Gemma3ForConditionalGeneration",
        "transformer (transformer: LTX2VideoTransformer3DModel",
        "vae-encode",
        "vae-decode",
        "audio-vae-encode",
        "audio-vae-decode",
        "vocoder",
        "reads states",
    ] {
        assert!(found.contains(words), "'{words}' is not in: {found}");
    }
}

#[test]
fn wrong_tensors_are_refused_with_both_shapes_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.st"), dir.path().join("out.st"));
    zeros(&input, "latents", &[1, 31, 2, 1, 1]);
    let (file, out) = (input.to_str().unwrap(), output.to_str().unwrap());
    let error = refusal(&["vae-decode", "--in", file, "--out", out]);
    let words = "tensor `latents` has shape [1, 31, 2, 1, 1], expected [1, 32, f, h, w]";
    assert!(error.contains(words), "{error}");
    assert!(!output.exists());
    let error = refusal(&["vae", "--in", file, "--out", out]);
    assert!(error.contains("no module is called `vae`"), "{error}");
    let error = refusal(&["vae-decode"]);
    assert!(error.contains("--in FILE"), "{error}");
}
