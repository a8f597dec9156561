//! `dailies submit --dry-run`, `list`, `pause` and `resume` against a real scheduler without agents.

mod farm;

use farm::Farm;

const PRICE: [(&str, &str); 1] = [("DAILIES__SCHEDULER__API__PRICE__PER_GPU_HOUR", "3600")];

#[test]
fn a_dry_run_tells_price_place_and_end_and_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let farm = Farm::start(dir, "serve", &PRICE);
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

    let first = made.split_whitespace().next().unwrap();
    let said = farm.told(dir, &["pause", first]);
    assert!(said.contains(&format!("dailies resume {first}")), "{said}");
    let listed = farm.told(dir, &["list"]);
    assert_eq!(listed.matches("it was paused with the key").count(), 1);
    let missing = farm.refused(dir, &["pause", "video_1", first]);
    assert!(missing.contains("video_1: "), "{missing}");
    assert!(missing.contains("failed to pause 1 of 2 films"));
    farm.told(dir, &["resume", first]);
    assert!(!farm.told(dir, &["list"]).contains("paused"));
}
