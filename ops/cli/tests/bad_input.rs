//! What a user gets wrong: one clear error, exit code 1, and nothing half-written.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

fn dailies(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dailies"));
    command
        .current_dir(dir)
        .env_remove("DAILIES_WEIGHTS")
        .env_remove("DAILIES_API_KEY");
    command
}

/// The one line of an error; the command must fail and leave no file behind.
fn refused(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr),
    );
    assert_eq!(status.code(), Some(1), "{stdout}{stderr}");
    let errors: Vec<&str> = stderr
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "one error: {stderr}");
    errors[0].to_string()
}

fn check(command: &mut Command, words: &[&str]) {
    let error = refused(command);
    for word in words {
        assert!(error.contains(word), "'{word}' is not in: {error}");
    }
}

/// A real scheduler on a free port; ended when dropped.
struct Serving {
    process: Child,
    url: String,
}

impl Serving {
    fn start(data: &Path) -> Self {
        let mut process = dailies(data.parent().unwrap())
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let base = stdout
            .lines()
            .map(Result::unwrap)
            .find(|line| line.starts_with("base_url"));
        let url = base.unwrap().split_whitespace().nth(1).unwrap().to_string();
        Self { process, url }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn a_missing_or_broken_ffmpeg_is_named_before_any_work() {
    let dir = tempfile::tempdir().unwrap();
    let render = |ffmpeg: &str| {
        let mut command = dailies(dir.path());
        command
            .args(["render", "a red ball", "-o", "film.mp4"])
            .env("FFMPEG", ffmpeg);
        command
    };
    check(
        &mut render("/nowhere/ffmpeg"),
        &["cannot start FFmpeg at /nowhere/ffmpeg", "FFMPEG"],
    );
    check(&mut render("/bin/false"), &["FFmpeg stopped with"]);
    check(&mut render("/bin/true"), &["has no encoder"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn weights_that_are_missing_or_damaged_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let weights = dir.path().join("weights");
    let render = || {
        let mut command = dailies(dir.path());
        command
            .args(["render", "a red ball", "-o", "film.mp4", "--weights"])
            .arg(&weights);
        command
    };
    check(&mut render(), &["is no folder of weights", "weights"]);
    std::fs::create_dir(&weights).unwrap();
    std::fs::write(weights.join("model_index.json"), "{}").unwrap();
    check(
        &mut render(),
        &["cannot load the weights in", "get it again"],
    );
    let mut named = dailies(dir.path());
    named
        .args(["render", "a red ball"])
        .env("DAILIES_WEIGHTS", dir.path());
    check(&mut named, &["is no folder of weights"]);
    assert!(!dir.path().join("film.mp4").exists());
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "only the weights"
    );
}

#[test]
fn a_place_that_cannot_take_the_film_is_refused_before_any_work() {
    let dir = tempfile::tempdir().unwrap();
    let render = |output: &str| {
        let mut command = dailies(dir.path());
        command.args(["render", "a red ball", "-o", output]);
        command
    };
    check(
        &mut render("none/film.mp4"),
        &["the folder none does not exist"],
    );
    check(&mut render("."), &["is a folder", "name a file"]);
}

#[test]
fn no_scheduler_and_no_key_say_how_to_get_them() {
    let dir = tempfile::tempdir().unwrap();
    let list = |key: Option<&str>| {
        let mut command = dailies(dir.path());
        command
            .args(["list", "--url", "http://127.0.0.1:9"])
            .envs(key.map(|k| ("DAILIES_API_KEY", k)));
        command
    };
    check(&mut list(None), &["no API key", "--key", "--data"]);
    check(
        &mut list(Some("dk_1")),
        &[
            "cannot reach the scheduler at http://127.0.0.1:9",
            "dailies up",
        ],
    );
}

#[test]
fn a_taken_port_and_a_taken_folder_name_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let serving = Serving::start(&dir.path().join("data"));
    let address = serving
        .url
        .trim_start_matches("http://")
        .trim_end_matches("/v1");
    for command in ["serve", "up"] {
        let mut second = dailies(dir.path());
        second.args([command, "--data", "other", "--listen", address]);
        check(&mut second, &["is in use", "--listen"]);
        let mut third = dailies(dir.path());
        third.args([command, "--data", "data", "--listen", "127.0.0.1:0"]);
        check(
            &mut third,
            &["another scheduler already runs on", "another data folder"],
        );
    }
}

#[test]
fn the_scheduler_refuses_what_cannot_be_filmed_and_says_what_can() {
    let dir = tempfile::tempdir().unwrap();
    let serving = Serving::start(&dir.path().join("data"));
    let submit = |args: &[&str]| {
        let mut command = dailies(dir.path());
        command
            .args(["submit", "--url", &serving.url, "-o", "film.mp4"])
            .args(args);
        command
    };
    check(&mut submit(&[""]), &["prompt", "must not be empty"]);
    check(&mut submit(&[&"ball ".repeat(8_000)]), &["prompt", "32000"]);
    check(
        &mut submit(&["a ball", "--size", "17x17"]),
        &["size", "720x1280"],
    );
    check(
        &mut submit(&["a ball", "--seconds", "999"]),
        &["seconds", "supported values"],
    );
    check(
        &mut submit(&["a ball", "--model", "veo"]),
        &["veo", "does not exist", "builtin"],
    );
    check(&mut submit(&["a ball", "--steps", "0"]), &["steps"]);
    check(
        &mut submit(&["a ball", "--image", "none.png"]),
        &["cannot read none.png"],
    );
    std::fs::write(dir.path().join("bad.png"), b"\x89PNG\r\n\x1a\n but no more").unwrap();
    check(&mut submit(&["a ball", "--image", "bad.png"]), &["image"]);
    check(
        &mut submit(&["a ball", "--key", "dk_wrong"]),
        &["Incorrect API key", "--key"],
    );
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        2,
        "only data and bad.png"
    );
}

#[test]
fn keys_are_made_shown_and_ended() {
    let dir = tempfile::tempdir().unwrap();
    drop(Serving::start(&dir.path().join("data")));
    let keys = |args: &[&str]| {
        let output = dailies(dir.path()).arg("keys").args(args).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let key = keys(&["create", "laptop"]);
    assert!(key.starts_with("dk_") && key.trim().len() == 67, "{key}");
    let list = keys(&["list"]);
    let line = list.lines().find(|line| line.ends_with("laptop")).unwrap();
    assert!(
        line.contains("valid") && !list.contains(key.trim()),
        "{list}"
    );
    keys(&["revoke", line.split(' ').next().unwrap()]);
    assert!(
        keys(&["list"])
            .lines()
            .any(|l| l.ends_with("laptop") && l.contains("revoked"))
    );
    check(
        dailies(dir.path()).args(["keys", "revoke", "zz"]),
        &["exactly one key"],
    );
    check(
        dailies(dir.path()).args(["keys", "list", "--data", "none"]),
        &["no data folder none"],
    );
}

#[test]
fn a_wrong_setting_is_named_with_its_file_and_with_those_that_there_are() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("farm.toml"), "[farm]\nlease_ttl = 3\n").unwrap();
    let args = ["serve", "--config", "farm.toml", "--listen", "127.0.0.1:0"];
    let refused = dailies(dir.path()).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success());
    for word in ["farm.toml", "`lease_ttl`", "`lease_ttl_ms`"] {
        assert!(said.contains(word), "{said}");
    }
}
