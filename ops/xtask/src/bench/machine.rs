//! Where a benchmark ran: without it a number says nothing.

use std::{fmt, fs, process::Command};

use serde::Serialize;

use crate::root;

#[derive(Debug, Serialize)]
pub struct Machine {
    cpu: String,
    cores: usize,
    memory_gib: u64,
    kernel: String,
    rust: String,
    commit: String,
    /// Of the minute before the benchmark: on an idle machine it is near 0.
    load: String,
}

impl Machine {
    pub fn look() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let (info, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let kib: u64 = field(&memory, "MemTotal")
            .trim_end_matches(" kB")
            .parse()
            .unwrap_or(0);
        let load = read("/proc/loadavg");
        Self {
            cpu: field(&info, "model name").to_string(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: kib.div_ceil(1 << 20),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_string(),
            rust: said("rustc", &["--version"]),
            commit: said("git", &["describe", "--always", "--dirty"]),
            load: load.split(' ').next().unwrap_or_default().to_string(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "{} cores of {}, {} GiB, Linux {}, {}, commit {}, load before {}",
            self.cores, self.cpu, self.memory_gib, self.kernel, self.rust, self.commit, self.load
        )
    }
}

/// The value behind `name : ` in a file of `/proc`.
fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .find(|(key, _)| key.trim() == name)
        .map_or("", |(_, value)| value.trim())
}

fn said(program: &str, arguments: &[&str]) -> String {
    let answer = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .output();
    let text = answer.map(|answer| String::from_utf8_lossy(&answer.stdout).trim().to_string());
    text.unwrap_or_default()
}
