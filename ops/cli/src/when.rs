//! Instants as people write them on a command line.

use jiff::{Timestamp, ToSpan, Zoned, civil};

/// What an option of this kind takes; stands in its help and in its error.
pub const FORMS: &str =
    "08:00 (the next one here), 2027-01-31T20:00 (here), 2027-01-31T20:00:00+01:00 or Unix seconds";

/// Unix seconds of what is written.
pub fn instant(text: &str) -> Result<i64, String> {
    read(text.trim(), &Zoned::now()).ok_or_else(|| format!("write {FORMS}"))
}

/// `now` tells the day and the zone that are meant.
fn read(text: &str, now: &Zoned) -> Option<i64> {
    if let Ok(seconds) = text.parse::<i64>() {
        return Some(seconds);
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at.as_second());
    }
    let here = |at: civil::DateTime| at.to_zoned(now.time_zone().clone()).ok();
    if let Ok(time) = text.parse::<civil::Time>() {
        let today = now.date();
        let next = [Some(today), today.checked_add(1.day()).ok()];
        let at = next
            .into_iter()
            .flatten()
            .filter_map(|day| here(day.to_datetime(time)));
        return at
            .map(|at| at.timestamp().as_second())
            .find(|at| *at > now.timestamp().as_second());
    }
    let at = text
        .contains(':')
        .then(|| text.parse::<civil::DateTime>().ok())??;
    Some(here(at)?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read_as_people_write_them() {
        let now: Zoned = "2027-01-31T19:00:00+01:00[Europe/Berlin]".parse().unwrap();
        let base = now.timestamp().as_second();
        let hours = |text| read(text, &now).map(|at| (at - base) as f64 / 3_600.0);
        assert_eq!(hours("20:30"), Some(1.5));
        assert_eq!(hours("08:00"), Some(13.0), "of tomorrow");
        assert_eq!(hours("19:00"), Some(24.0));
        assert_eq!(hours("2027-01-31T20:00"), Some(1.0));
        assert_eq!(hours("2027-01-31 20:00"), Some(1.0));
        assert_eq!(hours("2027-01-31T20:00:00Z"), Some(2.0));
        assert_eq!(read("1795360000", &now), Some(1_795_360_000));
        for wrong in ["yesterday", "", "25:00", "2027-01-31"] {
            assert_eq!(hours(wrong), None, "{wrong}");
        }
        assert!(instant("yesterday").unwrap_err().contains("08:00"));
    }
}
