//! `cargo xtask test`: set-up, fmt, clippy, every test. CI runs exactly this.

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::{cargo, ffmpeg, run, sdk};

#[derive(clap::Args)]
pub struct Test {
    /// Only tests whose name contains this; skips fmt and clippy.
    filter: Option<String>,
}

impl Test {
    pub fn run(&self) -> Result<()> {
        let ffmpeg = ffmpeg::find_or_install()?;
        let python = sdk::python()?;
        if self.filter.is_none() {
            run(cargo().args(["fmt", "--all", "--check"]))?;
            let clippy = [
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--quiet",
            ];
            run(cargo().args(clippy).args(["--", "-D", "warnings"]))?;
        }
        // The process tests start this binary.
        run(cargo().args(["build", "--workspace", "--bins", "--locked"]))?;
        let mut tests = cargo();
        if has_nextest() {
            tests.args([
                "nextest",
                "run",
                "--workspace",
                "--locked",
                "--no-fail-fast",
            ]);
        } else {
            tests.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
        }
        tests
            .args(&self.filter)
            .env("FFMPEG", ffmpeg)
            .env("DAILIES_SDK_PYTHON", python);
        run(&mut tests)
    }
}

fn has_nextest() -> bool {
    let mut probe: Command = cargo();
    let version = probe
        .args(["nextest", "--version"])
        .stdin(Stdio::null())
        .output();
    version.is_ok_and(|output| output.status.success())
}
