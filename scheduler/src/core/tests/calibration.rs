//! Intervals that were too narrow or too wide come right.

use super::*;

fn promise(widened: u64) -> Promise {
    Promise {
        early_ms: 90_000,
        middle_ms: 100_000,
        late_ms: 120_000,
        widened,
        pool: "cpu".into(),
    }
}

#[test]
fn a_score_counts_half_widths_on_its_side() {
    let at = |ended_ms| promise(PERMILLE).score(ended_ms);
    assert_eq!([at(100_000), at(95_000), at(90_000)], [0, 500, 1_000]);
    assert_eq!([at(110_000), at(120_000), at(160_000)], [500, 1_000, 3_000]);
}

#[test]
fn an_interval_is_widened_on_both_sides_and_never_to_nothing() {
    assert_eq!(widen(90_000, 100_000, 120_000, 1_500), (85_000, 130_000));
    assert_eq!(widen(100_000, 100_000, 100_000, 1_000), (99_500, 100_500));
}

#[test]
fn four_in_five_end_inside_once_the_farm_has_seen_how_wrong_it_is() {
    // True ends are spread over six half-widths; the raw interval would hold one in three.
    let end = |n: i64| 100_000 + (n * 7_919) % 120_000;
    let mut costs = Costs::default();
    assert_eq!(costs.widening(Band::Standard, "cpu"), PERMILLE);
    for n in 0..500 {
        let score = promise(PERMILLE).score(end(n));
        costs.add(&late(Band::Standard, "cpu"), &[(Part::Late, score)]);
    }
    let widened = costs.widening(Band::Standard, "cpu");
    let (early, late_ms) = widen(90_000, 100_000, 120_000, widened);
    let inside = (500..1_500)
        .filter(|n| (early..=late_ms).contains(&end(*n)))
        .count();
    assert!(
        (750..=850).contains(&inside),
        "{inside} of 1000 inside, widened {widened}"
    );
    assert_eq!(costs.widening(Band::Urgent, "cpu"), PERMILLE);
    assert_eq!(costs.widening(Band::Standard, "H200"), PERMILLE);
}

#[test]
fn few_scores_move_an_interval_little() {
    let mut costs = Costs::default();
    costs.add(&late(Band::Standard, "cpu"), &[(Part::Late, 9_000)]);
    // 20 parts of what was believed, one of what was seen.
    assert_eq!(
        costs.widening(Band::Standard, "cpu"),
        (20 * 1_000 + 9_000) / 21
    );
}
