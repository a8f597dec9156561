//! `dailies simulate` as a person uses it.

use std::{fs, path::Path, process::Command};

fn dailies(dir: &Path, arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_dailies"))
        .current_dir(dir)
        .arg("simulate")
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.success(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn a_printed_scenario_plays_as_the_built_in_one_and_draws_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let (fine, built_in, _) = dailies(folder.path(), &[]);
    assert!(fine && built_in.contains("500 of 500"), "{built_in}");
    let (fine, scenario, _) = dailies(folder.path(), &["--print"]);
    assert!(fine);
    fs::write(folder.path().join("farm.toml"), scenario).unwrap();
    let (fine, played, error) = dailies(
        folder.path(),
        &["--scenario", "farm.toml", "--svg", "night.svg"],
    );
    assert!(fine, "{error}");
    assert_eq!(played, built_in);
    let picture = fs::read_to_string(folder.path().join("night.svg")).unwrap();
    assert!(picture.contains("newsroom"));
}

#[test]
fn more_devices_are_shown_beside_the_farm_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (fine, told, error) = dailies(folder.path(), &["--devices", "+8:gpu"]);
    assert!(fine, "{error}");
    assert!(
        told.contains("a night: 12 devices") && told.contains("a night and 8 more gpu: 20 devices"),
        "{told}"
    );
}

#[test]
fn what_cannot_be_played_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("bad.toml"), "name = 3").unwrap();
    for (arguments, words) in [
        (
            &["--scenario", "missing.toml"][..],
            &["cannot read missing.toml"][..],
        ),
        (
            &["--scenario", "bad.toml"],
            &["bad.toml is no scenario", "simulate --print"],
        ),
        (&["--devices", "+8:tpu"], &["no class 'tpu'", "it has gpu"]),
        (&["--devices", "8"], &["+N:CLASS"]),
    ] {
        let (fine, _, error) = dailies(folder.path(), arguments);
        assert!(!fine, "{arguments:?}");
        for word in words {
            assert!(error.contains(word), "'{word}' is not in: {error}");
        }
    }
}
