//! What a device hour costs at which hour: a series that comes from a file of the operator.
//!
//! Money or grams of carbon, the farm only compares. Hours that the file does not have count as its dearest.

use std::collections::BTreeMap;

pub const HOUR_MS: i64 = 3_600_000;
/// Prices are kept in millionths of the file's unit.
const MILLION: f64 = 1e6;
/// Hours that a series may have: five years.
const HOURS_MAX: usize = 5 * 366 * 24;

/// Prices by hour since 1970. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    hours: BTreeMap<i64, i64>,
    dearest: i64,
}

impl Series {
    /// Lines `START,PRICE`: an instant such as `2027-01-01T22:00:00+01:00` and a number; a first line of names is skipped.
    ///
    /// # Errors
    /// Names the line that cannot be read.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut hours = BTreeMap::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || (at == 0 && row(line).is_none()) {
                continue;
            }
            let (hour, price) = row(line).ok_or_else(|| {
                format!(
                    "line {} is not INSTANT,NUMBER such as 2027-01-01T22:00:00+01:00,0.21",
                    at + 1
                )
            })?;
            hours.insert(hour, price);
        }
        Self::of(hours)
    }

    /// Prices by hour since 1970, in millionths.
    ///
    /// # Errors
    /// When there are none, or more than five years of them.
    pub fn of(hours: BTreeMap<i64, i64>) -> Result<Self, String> {
        match hours.values().max() {
            None => Err("it has no prices".into()),
            Some(_) if hours.len() > HOURS_MAX => {
                Err(format!("it has more than {HOURS_MAX} hours"))
            }
            Some(dearest) => Ok(Self {
                dearest: *dearest,
                hours,
            }),
        }
    }

    /// Price of a device hour at this instant, in millionths.
    pub fn at(&self, ms: i64) -> i64 {
        let hour = ms.div_euclid(HOUR_MS);
        self.hours.get(&hour).copied().unwrap_or(self.dearest)
    }

    /// What `device_us` cost less at `now` than at `then`, in millionths; below zero: more.
    pub fn saved(&self, device_us: i64, then: i64, now: i64) -> i64 {
        let cheaper = i128::from(self.at(then)) - i128::from(self.at(now));
        let saved = cheaper * i128::from(device_us) / i128::from(HOUR_MS * 1_000);
        i64::try_from(saved).unwrap_or(i64::MAX)
    }
}

fn row(line: &str) -> Option<(i64, i64)> {
    let (start, price) = line.split_once(',')?;
    let start: jiff::Timestamp = start.trim().parse().ok()?;
    let price: f64 = price.trim().parse().ok()?;
    let price = (price * MILLION).round();
    let fits = price.is_finite() && price.abs() < 1e15;
    fits.then(|| (start.as_millisecond().div_euclid(HOUR_MS), price as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> i64 {
        text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn a_file_is_read_and_hours_that_it_lacks_are_the_dearest() {
        let text = "start,eur\n2027-01-01T22:00:00+01:00, 0.2\n\n2027-01-01T22:00:00Z,-0.05\n";
        let series = Series::read(text).unwrap();
        assert_eq!(series.at(ms("2027-01-01T21:59:59Z")), 200_000);
        assert_eq!(series.at(ms("2027-01-01T22:00:00Z")), -50_000);
        assert_eq!(series.at(ms("2030-01-01T00:00:00Z")), 200_000);
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        for (text, why) in [
            ("", "no prices"),
            ("start,price\n", "no prices"),
            ("start,price\n2027-01-01T22:00:00Z,dear\n", "line 2"),
            ("2027-01-01T22:00:00Z,1\n22:00,1\n", "line 2"),
            (
                "2027-01-01T22:00:00Z,1\n2027-01-01T23:00:00Z,inf\n",
                "line 2",
            ),
        ] {
            let error = Series::read(text).unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }

    #[test]
    fn what_is_saved_counts_device_time() {
        let series = Series::of(BTreeMap::from([(0, 300_000), (1, 100_000)])).unwrap();
        let half_an_hour_us = 1_800_000_000;
        assert_eq!(series.saved(half_an_hour_us, 0, HOUR_MS), 100_000);
        assert_eq!(series.saved(half_an_hour_us, HOUR_MS, 0), -100_000);
    }
}
