//! SIGTERM: a farm gives back what runs, ends with 0, and goes on from there at its next start.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
};

fn dailies(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dailies"));
    command
        .current_dir(dir)
        .env_remove("DAILIES_WEIGHTS")
        .env_remove("DAILIES_API_KEY");
    command
}

/// `dailies up` on a free port; killed when a test fails.
struct Farm {
    process: Child,
    url: String,
}

impl Farm {
    /// With `drain_finish_ms` 0 nothing counts as nearly done, so a drain always gives back.
    fn up(dir: &Path) -> Self {
        let mut process = dailies(dir)
            .args(["up", "--listen", "127.0.0.1:0", "--data", "data"])
            .env("DAILIES__AGENT__DRAIN_FINISH_MS", "0")
            .env("DAILIES__AGENT__CHECKPOINT_STEPS", "2")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap);
        let base = lines.find(|line| line.starts_with("base_url")).unwrap();
        assert!(lines.any(|line| line.starts_with("ready")));
        Self {
            process,
            url: base.split_whitespace().nth(1).unwrap().to_string(),
        }
    }

    /// Reads the log until a line has all `words`.
    fn logs(&mut self, words: &[&str]) -> String {
        let stderr = self.process.stderr.as_mut().unwrap();
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            assert_eq!(
                stderr.read(&mut byte).unwrap(),
                1,
                "the farm ended before {words:?}"
            );
            line.push(byte[0]);
            if byte[0] == b'\n' {
                let text = String::from_utf8_lossy(&line).into_owned();
                if words.iter().all(|word| text.contains(word)) {
                    return text;
                }
                line.clear();
            }
        }
    }

    fn terminate(mut self) -> String {
        let id = self.process.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &id])
                .status()
                .unwrap()
                .success()
        );
        let mut log = String::new();
        self.process
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut log)
            .unwrap();
        assert_eq!(self.process.wait().unwrap().code(), Some(0), "{log}");
        log
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn submit(dir: &Path, farm: &Farm, args: &[&str]) -> String {
    let output = dailies(dir)
        .args([
            "submit",
            "a red ball falls",
            "--size",
            "64x64",
            "--seconds",
            "1",
            "--seed",
            "7",
        ])
        .args(["--url", &farm.url])
        .args(args)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_string()
}

#[test]
fn a_drained_farm_gives_back_its_work_and_ends_it_after_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut farm = Farm::up(dir.path());
    let id = submit(dir.path(), &farm, &["--steps", "100"]);
    farm.logs(&["agent::work: leased", "kind=Render"]);
    let log = farm.terminate();
    assert!(log.contains("ended=\"released\""), "{log}");
    assert!(log.contains("the agent has left"), "{log}");

    let mut farm = Farm::up(dir.path());
    farm.logs(&["attempt=2", "leased"]);
    let watched = dailies(dir.path())
        .args(["watch", &id, "-o", "film.mp4", "--url", &farm.url])
        .output()
        .unwrap();
    assert!(
        watched.status.success(),
        "{}",
        String::from_utf8_lossy(&watched.stderr)
    );
    let resumed = std::fs::read(dir.path().join("film.mp4")).unwrap();
    let log = farm.terminate();
    assert!(!log.contains("ended=\"failed\""), "{log}");

    let whole = dailies(dir.path())
        .args([
            "render",
            "a red ball falls",
            "--size",
            "64x64",
            "--seconds",
            "1",
            "--seed",
            "7",
        ])
        .args(["--steps", "100", "-o", "whole.mp4"])
        .output()
        .unwrap();
    assert!(
        whole.status.success(),
        "{}",
        String::from_utf8_lossy(&whole.stderr)
    );
    let whole = std::fs::read(dir.path().join("whole.mp4")).unwrap();
    assert_eq!(
        resumed, whole,
        "interrupted or not, farm or not: the same film"
    );
}

#[test]
fn an_idle_farm_ends_at_once_and_leaves_no_scratch() {
    let dir = tempfile::tempdir().unwrap();
    let farm = Farm::up(dir.path());
    submit(dir.path(), &farm, &["--steps", "1", "-o", "film.mp4"]);
    farm.terminate();
    let scratch: Vec<_> = std::fs::read_dir(dir.path().join("data/scratch"))
        .unwrap()
        .collect();
    assert_eq!(scratch.len(), 1, "only the lock: {scratch:?}");
    assert!(
        schemas::mp4::read(&dir.path().join("film.mp4"))
            .unwrap()
            .fast_start
    );
}
