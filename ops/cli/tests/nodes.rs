//! `dailies nodes` and the priorities of keys against a real farm.

mod farm;

use farm::{Farm, dailies};

/// The words of the first line about a node.
fn words(table: &str) -> Vec<&str> {
    table.lines().nth(1).unwrap().split_whitespace().collect()
}

#[test]
fn an_operator_sees_a_node_and_takes_it_out_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, farm) = (dir.path(), Farm::start(dir.path(), "up", &[]));
    // The agent joins a moment after the address is told; each look is a process of its own.
    let name = (0..1_000)
        .map(|_| farm.told(dir, &["nodes"]))
        .find(|table| table.starts_with("NODE"))
        .map(|table| words(&table)[0].to_string())
        .expect("the agent joins");
    let is = |args: &[&str], state: &str| {
        let table = farm.told(dir, args);
        assert_eq!(words(&table)[1], state, "{table}");
        table
    };
    is(&["nodes"], "online");
    let cordon = ["nodes", "cordon", &name, "--reason", "new cables"];
    assert!(is(&cordon, "cordoned").contains("new cables"));
    let again = farm.told(dir, &["nodes", "cordon", &name]);
    assert!(again.starts_with("it was so before"), "{again}");
    is(&["nodes", "uncordon", &name], "online");
    let out = ["nodes", "quarantine", &name, "--device", "0"];
    assert!(is(&out, "quarantined").contains("until it is released"));
    is(&["nodes", "release", &name], "online");
    let log = farm.told(dir, &["nodes", "log"]);
    let kinds: Vec<&str> = log
        .lines()
        .map(|line| line.split_whitespace().nth(1).unwrap())
        .collect();
    assert_eq!(
        kinds,
        ["cordon", "uncordon", "quarantine", "release"],
        "{log}"
    );
    assert!(log.contains("by first  new cables"), "{log}");
}

#[test]
fn an_order_that_cannot_be_obeyed_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, farm) = (dir.path(), Farm::start(dir.path(), "serve", &[]));
    let empty = farm.told(dir, &["nodes"]);
    assert!(empty.contains("dailies agent"), "{empty}");
    let error = farm.refused(dir, &["nodes", "drain", "attic"]);
    assert!(error.contains("No node 'attic'"), "{error}");
    let error = farm.refused(dir, &["nodes", "--key", "dk_wrong"]);
    assert!(error.contains("Incorrect API key"), "{error}");
}

#[test]
fn a_key_has_a_highest_priority_and_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    drop(Farm::start(dir, "serve", &[]));
    let make = |args: &[&str]| {
        let made = dailies(dir).args(["keys"]).args(args).output().unwrap();
        String::from_utf8(made.stdout).unwrap()
    };
    let modest = make(&["add", "modest", "--priority-max", "normal"]);
    let usual = make(&["create", "usual"]);
    assert_eq!(make(&["add", "odd", "--priority-max", "now"]), "");
    let list = make(&["list"]);
    let of = |name: &str| {
        let line = list.lines().find(|line| line.ends_with(name)).unwrap();
        line.split_whitespace().nth(2).unwrap().to_string()
    };
    assert_eq!(
        [of("first"), of("modest"), of("usual")],
        ["urgent", "normal", "high"]
    );

    let farm = Farm::start(dir, "serve", &[]);
    let submit = |key: &str, priority: &str| {
        let args = ["submit", "a ball", "--priority", priority, "--key", key];
        farm.run(dir, &args)
    };
    for (key, priority, fine) in [
        (&modest, "normal", true),
        (&modest, "high", false),
        (&usual, "high", true),
        (&usual, "urgent", false),
    ] {
        let output = submit(key.trim(), priority);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), fine, "{priority}: {error}");
        assert!(fine || error.contains("--priority-max"), "{error}");
    }
}
