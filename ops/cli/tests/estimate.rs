//! `dailies submit --dry-run` and `dailies list` against a real scheduler without agents.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

/// A real scheduler on a free port; ended when dropped.
struct Serving {
    process: Child,
    url: String,
}

impl Serving {
    fn start(dir: &Path) -> Self {
        let mut process = dailies(dir)
            .args(["serve", "--listen", "127.0.0.1:0", "--data", "data"])
            .env("DAILIES__SCHEDULER__API__PRICE__PER_GPU_HOUR", "3600")
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

    fn run(&self, dir: &Path, args: &[&str]) -> Output {
        let command = &mut dailies(dir);
        command.args(args).args(["--url", &self.url]);
        command.output().unwrap()
    }

    fn told(&self, dir: &Path, args: &[&str]) -> String {
        let output = self.run(dir, args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{error}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn refused(&self, dir: &Path, args: &[&str]) -> String {
        let output = self.run(dir, args);
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn dailies(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dailies"));
    command.current_dir(dir).env_remove("DAILIES_API_KEY");
    command
}

#[test]
fn a_dry_run_tells_price_place_and_end_and_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let farm = Serving::start(dir);
    let one = farm.told(dir, &["submit", "--dry-run", "a ball"]);
    for said in [
        "one film by builtin; nothing was made",
        "usd expected, at most",
        "of a device expected,",
        "place   1; waits: no machine of the farm has the weights 'builtin'",
        "end     its end cannot be foretold",
    ] {
        assert!(one.contains(said), "'{said}' is missing in {one}");
    }
    std::fs::write(dir.join("night.txt"), "a ball\n\na box\na cone\n").unwrap();
    let night = [
        "submit",
        "--dry-run",
        "--start",
        "overnight",
        "--prompts",
        "night.txt",
    ];
    assert!(farm.told(dir, &night).contains("3 films by builtin"));
    let ten = ["submit", "--dry-run", "--count", "10", "a ball"];
    assert!(farm.told(dir, &ten).contains("10 films by builtin"));
    let refused = farm.refused(dir, &["submit", "--dry-run", "--seconds", "99", "a ball"]);
    assert!(refused.contains("seconds: "), "{refused}");
    let refused = farm.refused(dir, &["submit", "--wait", "--count", "2", "a ball"]);
    assert!(
        refused.contains("--wait and --output are for one film"),
        "{refused}"
    );
    assert_eq!(farm.told(dir, &["list"]), "");

    let made = farm.told(dir, &["submit", "--prompts", "night.txt"]);
    assert_eq!(made.lines().count(), 3);
    let listed = farm.told(dir, &["list"]);
    let why =
        "(waits: no machine of the farm has the weights 'builtin'; its end cannot be foretold)";
    assert_eq!(listed.matches(why).count(), 3, "{listed}");
}
