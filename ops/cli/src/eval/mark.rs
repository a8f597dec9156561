//! Pass marks, and how the values of many clips become one number.

use super::stats::{mean, median, quantile};

/// How the values of all clips become one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fold {
    Mean,
    Median,
    P90,
}

impl Fold {
    pub fn of(self, values: &[f64]) -> Option<f64> {
        match self {
            Fold::Mean => mean(values),
            Fold::Median => median(values),
            Fold::P90 => quantile(values, 0.9),
        }
    }
}
/// What a number must reach. An empty mark is for the report only.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mark {
    pub least: Option<f64>,
    pub most: Option<f64>,
    /// The least difference to the baseline.
    pub gain: Option<f64>,
    /// The least multiple of the baseline.
    pub times: Option<f64>,
}

impl Mark {
    pub const NONE: Mark = Mark {
        least: None,
        most: None,
        gain: None,
        times: None,
    };

    pub const fn least(value: f64) -> Mark {
        Mark {
            least: Some(value),
            ..Mark::NONE
        }
    }

    pub const fn most(value: f64) -> Mark {
        Mark {
            most: Some(value),
            ..Mark::NONE
        }
    }

    /// A share that captions of other clips must not reach.
    pub const fn attribute(value: f64) -> Mark {
        Mark {
            gain: Some(0.25),
            ..Mark::least(value)
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Mark::NONE
    }

    /// A value that is missing passes no mark; a missing baseline counts as 0.
    pub fn passes(&self, value: Option<f64>, baseline: Option<f64>) -> bool {
        let Some(value) = value else {
            return self.is_empty();
        };
        let baseline = baseline.unwrap_or(0.0);
        self.least.is_none_or(|least| value >= least)
            && self.most.is_none_or(|most| value <= most)
            && self.gain.is_none_or(|gain| value - baseline >= gain)
            && self.times.is_none_or(|times| value >= times * baseline)
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            self.least.map(|v| format!("≥ {v}")),
            self.most.map(|v| format!("≤ {v}")),
            self.gain.map(|v| format!("baseline + {v}")),
            self.times.map(|v| format!("{v} × baseline")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(
            if parts.is_empty() {
                "-".to_owned()
            } else {
                parts.join(", ")
            }
            .as_str(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_passes_exactly_what_it_says() {
        let attribute = Mark::attribute(0.6);
        assert!(attribute.passes(Some(0.6), Some(0.35)));
        assert!(!attribute.passes(Some(0.59), Some(0.0)));
        assert!(!attribute.passes(Some(0.7), Some(0.5)));
        let joint = Mark {
            times: Some(3.0),
            ..Mark::least(0.35)
        };
        assert!(joint.passes(Some(0.36), Some(0.12)));
        assert!(!joint.passes(Some(0.36), Some(0.13)));
        assert!(
            Mark::most(90.0).passes(Some(90.0), None) && !Mark::most(90.0).passes(Some(91.0), None)
        );
        assert!(
            !Mark::most(90.0).passes(None, None),
            "what could not be measured passes no mark"
        );
        assert!(Mark::NONE.passes(None, None));
        assert_eq!(joint.to_string(), "≥ 0.35, 3 × baseline");
    }
}
