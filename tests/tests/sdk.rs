//! The unmodified official Python SDK against a whole farm with the built-in model.

use std::{fs, process::Command};

use tests::{Process, root};

#[test]
fn yesterdays_program_runs_after_changing_base_url_and_key() {
    let Some(python) = std::env::var_os("DAILIES_SDK_PYTHON") else {
        println!(
            "skipped: DAILIES_SDK_PYTHON names no Python with the SDK; 'cargo xtask test' does"
        );
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let arguments = [
        "up",
        "--listen",
        "127.0.0.1:0",
        "--data",
        data.to_str().expect("UTF-8"),
    ];
    let mut farm = Process::start(&arguments, &[]);
    let base_url = farm.wait_for("base_url");
    let key = fs::read_to_string(data.join("api-key")).expect("the first key");
    let output = Command::new(python)
        .arg(root().join("tests/sdk/test_videos.py"))
        .env("DAILIES_BASE_URL", base_url)
        .env("DAILIES_API_KEY", key.trim())
        .current_dir(folder.path())
        .output()
        .expect("Python starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the SDK's program failed:\n{said}");
    let (status, log) = farm.terminate();
    assert!(status.success(), "'dailies up' ended with {status}:\n{log}");
}
