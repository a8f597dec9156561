//! `cargo xtask test`: set-up, fmt, clippy, every test. CI runs exactly this.

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::{cargo, cuda, ffmpeg, postgres, run, sdk};

#[derive(clap::Args)]
pub struct Test {
    /// Only tests whose name contains this; skips fmt and clippy.
    filter: Option<String>,
}

impl Test {
    pub fn run(&self) -> Result<()> {
        let ffmpeg = ffmpeg::find_or_install()?;
        let python = sdk::python()?;
        let nvrtc = cuda::find_or_fetch()
            .inspect_err(|error| {
                println!("skipped: no libnvrtc ({error:#}); kernels are not compiled for GPUs")
            })
            .ok();
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
        // The process tests start the binary. With the tests, so that both have the same features: nothing is built twice.
        run(cargo().args(["build", "--workspace", "--all-targets", "--locked"]))?;
        let run_on = |only: Option<&str>, server: Option<&str>| {
            let mut tests = tests(only);
            tests
                .args(&self.filter)
                .env("FFMPEG", &ffmpeg)
                .env("DAILIES_SDK_PYTHON", &python)
                .env_remove(postgres::VARIABLE);
            tests.envs(nvrtc.as_ref().map(|folder| ("DAILIES_CUDA_TOOLS", folder)));
            tests.envs(server.map(|url| (postgres::VARIABLE, url)));
            run(&mut tests)
        };
        // First the server: without it the last line says what was left out.
        let server = postgres::start();
        run_on(None, None)?;
        match server {
            Ok(server) => {
                eprintln!(
                    "the tests that need a database once more, on {}",
                    server.name()
                );
                run_on(Some(OPEN_ONE), Some(&server.url))
            }
            Err(error) => {
                println!("skipped: no PostgreSQL ({error:#}); 1 of 2 databases was tested");
                Ok(())
            }
        }
    }
}

/// The tests that open a database.
const OPEN_ONE: &str = "(package(scheduler) & test(/store|dispatcher|chores|http_tests|leader|standby|doctor/)) \
    | binary(farm) | binary(away) | binary(crash) | binary(faults) | binary(cards) | binary(s3)";

/// Always of the whole workspace: for a part of it, cargo would choose other features and build twice.
fn tests(only: Option<&str>) -> Command {
    let mut tests = cargo();
    if has_nextest() {
        tests.args(["nextest", "run", "--workspace"]);
        tests.args(["--locked", "--no-fail-fast"]);
        if let Some(only) = only {
            tests.args(["--no-tests", "pass", "-E", only]);
        }
    } else {
        tests.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
    }
    tests
}

fn has_nextest() -> bool {
    let mut probe: Command = cargo();
    let version = probe
        .args(["nextest", "--version"])
        .stdin(Stdio::null())
        .output();
    version.is_ok_and(|output| output.status.success())
}
