//! `dailies quota` against a real scheduler: what it shows, grants and refuses.

mod farm;

use std::path::Path;

use farm::{Farm, dailies};

/// A scheduler that is asked with `dailies quota`.
struct Serving(Farm);

impl Serving {
    fn start(dir: &Path) -> Self {
        Self(Farm::start(dir, "serve", &[]))
    }

    fn told(&self, dir: &Path, args: &[&str]) -> String {
        self.0.told(dir, &[&["quota"], args].concat())
    }

    fn refused(&self, dir: &Path, args: &[&str]) -> String {
        self.0.refused(dir, &[&["quota"], args].concat())
    }
}

/// The words of the line about an account.
fn words<'a>(table: &'a str, account: &str) -> Vec<&'a str> {
    let mut lines = table.lines().map(|line| line.split_whitespace().collect());
    lines
        .find(|words: &Vec<&str>| words.first() == Some(&account))
        .unwrap_or_else(|| panic!("no {account} in: {table}"))
}

#[test]
fn an_operator_sees_grants_and_limits() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, serving) = (dir.path(), Serving::start(dir.path()));
    let table = serving.told(dir, &[]);
    assert_eq!(words(&table, "default")[3..5], ["none", "none"], "{table}");
    let args = ["grant", "default", "2.5", "--name", "first"];
    assert!(serving.told(dir, &args).starts_with("granted first"));
    assert!(serving.told(dir, &args).contains("granted before"));
    let table = serving.told(dir, &["set", "default", "--jobs", "2", "--weight", "3"]);
    assert_eq!(
        words(&table, "default")[1..].join(" "),
        "project 3 2 h 30 min 2 h 30 min 0 s 0 s 0/2 0"
    );
    let shown = serving.told(dir, &["show", "default"]);
    assert!(
        shown.contains("mint -> available") && shown.contains("grant:first"),
        "{shown}"
    );
    let freed = serving.told(
        dir,
        &["set", "default", "--jobs", "none", "--metered", "false"],
    );
    assert_eq!(words(&freed, "default")[3], "none");
    assert_eq!(words(&freed, "default").last(), Some(&"0"));
}

#[test]
fn what_cannot_be_done_is_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, serving) = (dir.path(), Serving::start(dir.path()));
    let refused = |args: &[&str], why: &str| {
        let error = serving.refused(dir, args);
        assert!(error.contains(why), "{error}");
    };
    refused(&["show", "nobody"], "No account 'nobody'");
    refused(&["grant", "default", "0"], "Not done");
    refused(&["set", "default"], "nothing to change");
    refused(
        &["set", "default", "--weight", "0"],
        "a weight is 1 to 1000",
    );
    refused(&["set", "default", "--jobs", "many"], "a number or 'none'");
    refused(&["--key", "dk_wrong"], "Incorrect API key");
}

#[test]
fn a_key_without_the_right_is_told_how_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    drop(Serving::start(dir));
    let make = |args: &[&str]| {
        let made = dailies(dir).args(["keys", "create"]).args(args).output();
        String::from_utf8(made.unwrap().stdout).unwrap()
    };
    let (plain, admin) = (make(&["plain"]), make(&["boss", "--admin"]));
    assert_eq!(make(&["lost", "--project", "nobody"]), "");
    let serving = Serving::start(dir);
    let other = ["show", "default-org", "--key", plain.trim()];
    let error = serving.refused(dir, &other);
    assert!(error.contains("keys create NAME --admin"), "{error}");
    serving.told(dir, &["--key", admin.trim()]);
}

#[test]
fn a_second_project_has_keys_and_quota_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let serving = Serving::start(dir);
    let table = serving.told(dir, &["add", "shorts", "--under", "default-org"]);
    assert_eq!(words(&table, "shorts")[1], "project");
    assert!(
        serving
            .refused(dir, &["add", "shorts"])
            .contains("exists already")
    );
    let org = serving.told(dir, &["add", "studio"]);
    assert!(org.contains("quota add PROJECT --under studio"), "{org}");
    serving.told(dir, &["grant", "shorts", "1"]);
    let key = ["keys", "create", "k", "--project", "studio"];
    let refused = dailies(dir).args(key).output().unwrap();
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("--under studio"), "{told}");
    drop(serving);
    let refused = dailies(dir).args(key).output().unwrap();
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("--under studio"), "{told}");
    let made = dailies(dir)
        .args(["keys", "create", "k", "--project", "shorts"])
        .output();
    let key = String::from_utf8(made.unwrap().stdout).unwrap();
    assert!(key.starts_with("dk_"), "{key}");
    let serving = Serving::start(dir);
    assert_eq!(
        words(&serving.told(dir, &[]), "shorts")[3..5],
        ["60", "min"]
    );
}

#[test]
fn the_doctor_looks_at_the_ledger_of_a_running_farm() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, serving) = (dir.path(), Serving::start(dir.path()));
    serving.told(dir, &["grant", "default", "1"]);
    let looked = dailies(dir).arg("doctor").output().unwrap();
    let told = String::from_utf8(looked.stdout).unwrap();
    assert!(told.contains("ledger       whole"), "{told}");
}

#[test]
fn keys_are_made_and_ended_beside_a_running_farm() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, serving) = (dir.path(), Serving::start(dir.path()));
    let keys = |args: &[&str]| {
        let output = dailies(dir).arg("keys").args(args).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{error}");
        String::from_utf8(output.stdout).unwrap()
    };
    let key = keys(&["create", "night shift", "--admin"]);
    let asked = |key: &str| {
        let output = dailies(dir)
            .args(["quota", "--url", &serving.0.url, "--key", key.trim()])
            .output();
        output.unwrap().status.success()
    };
    assert!(asked(&key), "the new key is an operator's");
    let list = keys(&["list"]);
    let line = list.lines().find(|line| line.contains("night shift"));
    let id = line.unwrap().split(' ').next().unwrap();
    let ended = keys(&["revoke", id]);
    assert!(ended.contains("night shift) is revoked"), "{ended}");
    assert!(!asked(&key));
    let list = keys(&["list"]);
    let line = list.lines().find(|line| line.contains("night shift"));
    assert!(line.unwrap().contains("revoked"), "{list}");
}
