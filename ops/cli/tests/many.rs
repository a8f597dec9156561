//! Many films at once: all of them or none, and their ends.

mod farm;

use farm::Farm;

#[test]
fn a_list_that_the_quota_cannot_pay_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let farm = Farm::start(dir, "serve", &[]);
    std::fs::write(dir.join("night.txt"), "a ball\n".repeat(50)).unwrap();
    farm.told(dir, &["quota", "add", "acme"]);
    farm.told(dir, &["quota", "add", "films", "--under", "acme"]);
    farm.told(dir, &["quota", "grant", "films", "0.02"]);
    let key = farm.told(dir, &["keys", "create", "night", "--project", "films"]);
    let key = key.trim();
    let own = farm.told(dir, &["quota", "--key", key]);
    assert!(
        own.contains("films") && own.contains("72 s") && !own.contains("acme"),
        "{own}"
    );
    let refused = farm.refused(dir, &["submit", "--prompts", "night.txt", "--key", key]);
    assert!(
        refused.contains("seconds of a device more are needed"),
        "{refused}"
    );
    assert!(refused.contains("nothing was made"), "{refused}");
    assert_eq!(farm.told(dir, &["list", "--key", key]), "");
    farm.told(dir, &["quota", "grant", "films", "2"]);
    let made = farm.run(dir, &["submit", "--prompts", "night.txt", "--key", key]);
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(said.contains("50 films are on their way"), "{said}");
    assert_eq!(String::from_utf8_lossy(&made.stdout).lines().count(), 50);
}

#[test]
fn films_are_cancelled_one_after_the_other_and_deleted_only_when_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let farm = Farm::start(dir, "serve", &[]);
    let made = farm.told(dir, &["submit", "--count", "2", "a ball"]);
    let ids: Vec<&str> = made.lines().collect();
    let refused = farm.run(dir, &["cancel", ids[0], "video_none", ids[1]]);
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stdout);
    assert_eq!(said.matches(": cancelled").count(), 2, "{said}");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("failed to cancel 1 of 3 films"), "{said}");
    let listed = farm.told(dir, &["list"]);
    assert_eq!(listed.matches("cancelled").count(), 2, "{listed}");
    assert!(farm.told(dir, &["delete", ids[0]]).contains("deleted"));
    assert_eq!(farm.told(dir, &["list"]).lines().count(), 1);
}
