//! `gpu-check` as its users start it: without a GPU, and on the emulator.

mod tools;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use kernels::check::golden::{Golden, files};
use serde_json::Value;

fn run(name: &str, arguments: &[&str]) -> (Output, Value) {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("gpu-check-{name}"));
    let _ = fs::remove_dir_all(&folder);
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpu-check"));
    // No device, wherever this runs.
    command
        .env("CUDA_VISIBLE_DEVICES", "")
        .arg("--out")
        .arg(&folder)
        .args(arguments);
    let output = command.output().expect("gpu-check starts");
    let report = fs::read(folder.join("gpu-check.json")).expect("there is always a report");
    (
        output,
        serde_json::from_slice(&report).expect("the report is JSON"),
    )
}

#[test]
fn without_a_gpu_it_says_so_and_lists_everything_as_skipped() {
    let (output, report) = run("none", &[]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.starts_with("no GPU: "), "{said}");
    for phase in [
        "smoke", "ceilings", "correct", "bench", "sparse", "torch", "pass", "nvrtc", "golden",
    ] {
        assert!(said.contains(&format!("skipped: {phase}")), "{said}");
    }
    assert_eq!(report["skipped"].as_array().map(Vec::len), Some(9));
    assert_eq!(report["failures"].as_array().map(Vec::len), Some(0));
}

#[test]
fn on_the_emulator_the_same_checks_run() {
    let (output, report) = run(
        "cpu",
        &[
            "--cpu",
            "--only",
            "correct",
            "--op",
            "norm_modulate",
            "--seed",
            "5",
        ],
    );
    let said = String::from_utf8_lossy(&output.stdout);
    if report["failures"].to_string().contains("ended with") && !tools::has_compiler() {
        return tools::skipped("no C++ compiler");
    }
    assert!(output.status.success(), "{said}\n{report}");
    let rows = report["ops"].as_array().expect("rows");
    assert!(
        rows.len() > 50 && rows.iter().all(|row| row["right"] == true),
        "{report}"
    );
    assert_eq!(report["seed"], 5);
    assert!(said.contains("checks right, 0 failures"), "{said}");
}

#[test]
fn results_are_kept_beside_the_report_and_agree_with_the_cpu() {
    let only = [
        "--cpu",
        "--only",
        "golden",
        "--op",
        "attention,norm_modulate",
        "--seed",
        "9",
    ];
    let (output, report) = run("golden", &only);
    if report["failures"].to_string().contains("ended with") && !tools::has_compiler() {
        return tools::skipped("no C++ compiler");
    }
    assert!(output.status.success(), "{report}");
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("gpu-check-golden");
    let paths = files(&folder).unwrap();
    assert_eq!(
        paths.len(),
        3,
        "attention, elementwise and resident: {paths:?}"
    );
    let cpu = kernels::Device::cpu(1).unwrap();
    for path in paths {
        let golden = Golden::read(&path).unwrap();
        assert_eq!(golden.replay(&cpu).unwrap(), Vec::<String>::new());
    }
    let ran: Vec<&Value> = report["ops"].as_array().unwrap().iter().collect();
    assert!(
        ran.iter()
            .all(|row| row["name"].as_str().unwrap().starts_with("golden "))
    );
}

#[test]
fn what_is_not_understood_is_told_with_the_help() {
    for arguments in [&["--nonsense", "1"][..], &["--seed", "x"], &["--out"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_gpu-check"))
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(!output.stderr.is_empty());
    }
}
