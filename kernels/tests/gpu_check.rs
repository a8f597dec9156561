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
    run_with(name, arguments, &[])
}

fn run_with(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> (Output, Value) {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("gpu-check-{name}"));
    let _ = fs::remove_dir_all(&folder);
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpu-check"));
    // No device, wherever this runs.
    command
        .env("CUDA_VISIBLE_DEVICES", "")
        .arg("--out")
        .arg(&folder)
        .args(arguments)
        .envs(variables.iter().copied());
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

/// A `compute-sanitizer` of this test's own in a folder: notes how it was called, and runs the program or finds a fault.
fn sanitizer(name: &str, script: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("sanitizer-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join("compute-sanitizer");
    let text = format!("#!/bin/sh\n[ \"$1\" = --version ] && exit 0\n{script}\n");
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

#[test]
fn under_a_sanitizer_one_shape_of_each_kernel_runs_and_what_it_finds_is_a_failure() {
    if !tools::has_compiler() {
        return tools::skipped("no C++ compiler");
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let only = [
        "--cpu",
        "--sanitize",
        "--only",
        "sanitize",
        "--op",
        "norm_modulate",
    ];
    let checked = |folder: &std::path::Path| {
        let path = format!("{}:{path}", folder.display());
        let name = folder.file_name().unwrap().to_str().unwrap();
        run_with(name, &only, &[("PATH", &path)])
    };
    let quiet = sanitizer(
        "quiet",
        r#"echo "$@" >> "${0%/*}/calls"; shift 4; exec "$@""#,
    );
    let (output, report) = checked(&quiet);
    assert!(output.status.success(), "{report}");
    let calls = fs::read_to_string(quiet.join("calls")).unwrap();
    for (call, tool) in calls.lines().zip(["memcheck", "racecheck", "synccheck"]) {
        assert!(
            call.starts_with(&format!("--tool {tool} --error-exitcode 99 ")),
            "{calls}"
        );
    }
    let rows = report["ops"].as_array().unwrap();
    assert_eq!(
        (calls.lines().count(), rows.len()),
        (3, 6),
        "both types of activations: {report}"
    );
    assert!(rows.iter().all(|row| row["right"] == true), "{report}");

    let alarmed = sanitizer(
        "alarmed",
        r#"echo "========= Invalid __global__ write of size 4 bytes"; exit 99"#,
    );
    let (output, report) = checked(&alarmed);
    assert_eq!(output.status.code(), Some(1), "{report}");
    let failures = report["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 3, "{report}");
    let first = failures[0].as_str().unwrap();
    assert!(
        first.starts_with("sanitize/memcheck:norm_modulate")
            && first.contains("Invalid __global__ write"),
        "{first}"
    );

    let none = sanitizer("none", "exit 1");
    fs::remove_file(none.join("compute-sanitizer")).unwrap();
    let (output, report) = run_with("none-sanitizer", &only, &[("PATH", none.to_str().unwrap())]);
    assert!(output.status.success(), "{report}");
    assert!(
        report["skipped"]
            .to_string()
            .contains("no compute-sanitizer on PATH"),
        "{report}"
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
