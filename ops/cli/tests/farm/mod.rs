//! A real farm or scheduler that a command is tried against.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

/// On a free port, with its data below the folder; ended when dropped.
pub struct Farm {
    process: Child,
    pub url: String,
}

impl Farm {
    /// `command` is `up` or `serve`; `settings` are variables.
    pub fn start(dir: &Path, command: &str, settings: &[(&str, &str)]) -> Self {
        let mut process = dailies(dir)
            .args([command, "--listen", "127.0.0.1:0", "--data", "data"])
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let base = lines
            .map(Result::unwrap)
            .find(|line| line.starts_with("base_url"));
        let url = base.unwrap().split_whitespace().nth(1).unwrap().to_string();
        Self { process, url }
    }

    pub fn run(&self, dir: &Path, args: &[&str]) -> Output {
        let url = ["--url", &self.url];
        dailies(dir).args(args).args(url).output().unwrap()
    }

    /// What a command says that succeeds.
    pub fn told(&self, dir: &Path, args: &[&str]) -> String {
        let output = self.run(dir, args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command says that fails.
    pub fn refused(&self, dir: &Path, args: &[&str]) -> String {
        let output = self.run(dir, args);
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

pub fn dailies(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dailies"));
    command.current_dir(dir).env_remove("DAILIES_API_KEY");
    command
}
