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
        // The process tests start this binary.
        run(cargo().args(["build", "--workspace", "--bins", "--locked"]))?;
        let run_on = |what: &[&str], server: Option<&str>| {
            let mut tests = tests(what);
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
        run_on(&["--workspace"], None)?;
        match server {
            Ok(server) => {
                eprintln!(
                    "the tests that need a database once more, on {}",
                    server.name()
                );
                run_on(ON_BOTH, Some(&server.url))
            }
            Err(error) => {
                println!("skipped: no PostgreSQL ({error:#}); 1 of 2 databases was tested");
                Ok(())
            }
        }
    }
}

/// Crates whose tests open a database.
const ON_BOTH: &[&str] = &["-p", "scheduler", "-p", "tests"];
/// Of these, what does open one.
const OPEN_ONE: &str = "test(/store|dispatcher|chores|http_tests|leader/) | binary(farm) | binary(away) | binary(crash)";

fn tests(what: &[&str]) -> Command {
    let mut tests = cargo();
    if has_nextest() {
        tests.args(["nextest", "run", "--locked", "--no-fail-fast"]);
        if what == ON_BOTH {
            tests.args(["--no-tests", "pass", "-E", OPEN_ONE]);
        }
    } else {
        tests.args(["test", "--locked", "--no-fail-fast"]);
    }
    tests.args(what);
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
