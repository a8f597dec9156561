//! Intervals that were too narrow, too wide or off to one side come right.

use super::*;

const FORETOLD: [i64; 3] = [90_000, 100_000, 120_000];

fn promise() -> Promise {
    Promise {
        foretold_ms: FORETOLD,
        correction: Correction::default(),
        pool: "cpu".into(),
    }
}

fn taught(ends: impl IntoIterator<Item = i64>) -> Costs {
    let mut costs = Costs::default();
    for end in ends {
        costs.add(&scores(Band::Standard, "cpu"), &promise().scores(end));
    }
    costs
}

fn corrected(costs: &Costs) -> [i64; 3] {
    costs.correction(Band::Standard, "cpu").of(FORETOLD)
}

#[test]
fn a_score_counts_half_widths_on_its_side() {
    let at = |ended_ms| promise().scores(ended_ms).map(|(_, score)| score);
    assert_eq!(
        [at(100_000), at(95_000), at(90_000)],
        [[0, 0], [500, 0], [1_000, 0]]
    );
    assert_eq!(
        [at(110_000), at(120_000), at(160_000)],
        [[0, 500], [0, 1_000], [0, 3_000]]
    );
}

#[test]
fn before_anything_has_ended_an_interval_is_as_it_was_foretold_and_never_empty() {
    assert_eq!(corrected(&Costs::default()), FORETOLD);
    assert_eq!(
        Correction::default().of([100_000; 3]),
        [99_500, 100_000, 100_500]
    );
}

#[test]
fn four_in_five_end_inside_however_the_forecast_was_wrong() {
    let spread = |from: i64, width: i64| move |n: i64| from + (n * 7_919) % width;
    for (case, end) in [
        ("all late", spread(100_000, 120_000)),
        ("all early", spread(40_000, 60_000)),
        ("too wide", spread(95_000, 15_000)),
        ("both sides", spread(60_000, 100_000)),
        ("far off", spread(150_000, 40_000)),
    ] {
        let costs = taught((0..600).map(end));
        let [early, middle, late] = corrected(&costs);
        assert!(
            early <= middle && middle <= late,
            "{case}: {early} {middle} {late}"
        );
        let inside = (600..1_600)
            .filter(|n| (early..=late).contains(&end(*n)))
            .count();
        assert!(
            (750..=860).contains(&inside),
            "{case}: {inside} of 1000 in {early} to {late}"
        );
        let before = (600..1_600).filter(|n| end(*n) <= middle).count();
        assert!(
            (400..=600).contains(&before),
            "{case}: {before} of 1000 before {middle}"
        );
    }
}

#[test]
fn other_bands_and_classes_are_not_corrected() {
    let costs = taught([300_000; 50]);
    assert_ne!(corrected(&costs), FORETOLD);
    for (band, pool) in [(Band::Urgent, "cpu"), (Band::Standard, "H200")] {
        assert_eq!(costs.correction(band, pool), Correction::default());
    }
}

#[test]
fn one_job_moves_an_interval_little() {
    // Twenty parts of what was believed, one of five half-widths behind the middle.
    let [early, middle, late] = corrected(&taught([200_000]));
    assert_eq!(middle, 100_000 + 5_000 / 21 * 20);
    assert_eq!(late, 100_000 + (20 * 1_000 + 5_000) / 21 * 20);
    assert!((90_000..100_000).contains(&early), "{early}");
}
