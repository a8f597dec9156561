//! Civil-time windows in which work may start, right across changes of the clocks.
//!
//! A window is half open, `[start, end)` on the clocks of its zone; an end that is not after the start is on the
//! next civil day, so equal times are a whole civil day. The weekday is that of the start. A start in a gap moves
//! forward by the gap, a start in a fold is the first of the two; an end in a fold is the second, so that the repeated
//! hour never cuts a window. A night whose window is empty is skipped.

use std::sync::Arc;

use jiff::{
    ToSpan,
    civil::{Date, DateTime, Time, Weekday},
    tz::{AmbiguousOffset, TimeZone},
};

use super::tariff::Series;

/// Nights that are looked at for the next opening: one more than a week, because one may be empty.
const DAYS_MAX: i32 = 15;

/// A window as the operator names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pub zone: TimeZone,
    /// Weekdays on which it opens.
    pub weekdays: Vec<Weekday>,
    pub start: Time,
    pub end: Time,
    pub at_end: AtEnd,
    /// Only work that will probably be done before it closes may start.
    pub fit: bool,
    /// What its hours cost; the cheap ones are used first.
    pub prices: Option<Arc<Series>>,
}

/// What becomes of running work when the window closes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtEnd {
    /// It goes on.
    #[default]
    Finish,
    /// It stops at its next step and goes on from there the next night.
    Yield,
}

/// One night of a window, Unix milliseconds, half open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    pub opens_ms: i64,
    pub closes_ms: i64,
}

impl Opening {
    pub fn is_open(&self, now: i64) -> bool {
        (self.opens_ms..self.closes_ms).contains(&now)
    }
}

impl Window {
    /// The present opening, or the next one; `None` for a window that does not open within two weeks.
    pub fn next(&self, now: i64) -> Option<Opening> {
        self.openings(now).next()
    }

    /// The present opening and those that follow, for two weeks.
    pub fn openings(&self, now: i64) -> impl Iterator<Item = Opening> + '_ {
        let today = jiff::Timestamp::from_millisecond(now)
            .ok()
            .map(|at| at.to_zoned(self.zone.clone()).date());
        (-1..DAYS_MAX)
            .filter_map(move |days| self.night(today?.checked_add(days.days()).ok()?))
            .filter(move |opening| opening.closes_ms > now)
    }

    /// What the window is on the night of this date; `None` on another weekday and when it is empty.
    pub fn night(&self, date: Date) -> Option<Opening> {
        if !self.weekdays.contains(&date.weekday()) {
            return None;
        }
        let last = match self.end > self.start {
            true => date,
            false => date.tomorrow().ok()?,
        };
        let opens_ms = self.instant(date.to_datetime(self.start), false)?;
        let closes_ms = self.instant(last.to_datetime(self.end), true)?;
        (closes_ms > opens_ms).then_some(Opening {
            opens_ms,
            closes_ms,
        })
    }

    fn instant(&self, civil: DateTime, is_end: bool) -> Option<i64> {
        let ambiguous = self.zone.to_ambiguous_timestamp(civil);
        let in_fold = matches!(ambiguous.offset(), AmbiguousOffset::Fold { .. });
        let instant = match is_end && in_fold {
            true => ambiguous.later(),
            false => ambiguous.compatible(),
        };
        instant.ok().map(|at| at.as_millisecond())
    }
}

/// All seven.
pub const EVERY_DAY: [Weekday; 7] = [
    Weekday::Monday,
    Weekday::Tuesday,
    Weekday::Wednesday,
    Weekday::Thursday,
    Weekday::Friday,
    Weekday::Saturday,
    Weekday::Sunday,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn window(zone: &str, start: &str, end: &str) -> Window {
        Window {
            zone: TimeZone::get(zone).unwrap(),
            weekdays: EVERY_DAY.to_vec(),
            start: start.parse().unwrap(),
            end: end.parse().unwrap(),
            at_end: AtEnd::Finish,
            fit: false,
            prices: None,
        }
    }

    fn shown(opening: Option<Opening>) -> String {
        let Some(Opening {
            opens_ms,
            closes_ms,
        }) = opening
        else {
            return "skipped".into();
        };
        let at = |ms| {
            jiff::Timestamp::from_millisecond(ms)
                .unwrap()
                .strftime("%m-%d %H:%M")
                .to_string()
        };
        format!(
            "{} - {} ({} min)",
            at(opens_ms),
            at(closes_ms),
            (closes_ms - opens_ms) / 60_000
        )
    }

    #[test]
    fn nights_across_changes_of_the_clocks() {
        for (zone, date, start, end, expected) in [
            (
                "Europe/Berlin",
                "2027-03-26",
                "22:00",
                "06:00",
                "03-26 21:00 - 03-27 05:00 (480 min)",
            ),
            (
                "Europe/Berlin",
                "2027-03-27",
                "22:00",
                "06:00",
                "03-27 21:00 - 03-28 04:00 (420 min)",
            ),
            (
                "Europe/Berlin",
                "2027-10-30",
                "22:00",
                "06:00",
                "10-30 20:00 - 10-31 05:00 (540 min)",
            ),
            ("Europe/Berlin", "2027-03-28", "02:00", "03:00", "skipped"),
            (
                "Europe/Berlin",
                "2027-03-28",
                "02:30",
                "05:00",
                "03-28 01:30 - 03-28 03:00 (90 min)",
            ),
            (
                "Europe/Berlin",
                "2027-10-31",
                "01:00",
                "02:30",
                "10-30 23:00 - 10-31 01:30 (150 min)",
            ),
            (
                "Europe/Berlin",
                "2027-10-31",
                "02:30",
                "05:00",
                "10-31 00:30 - 10-31 04:00 (210 min)",
            ),
            (
                "America/New_York",
                "2027-03-13",
                "20:00",
                "08:00",
                "03-14 01:00 - 03-14 12:00 (660 min)",
            ),
            (
                "America/New_York",
                "2027-11-06",
                "20:00",
                "08:00",
                "11-07 00:00 - 11-07 13:00 (780 min)",
            ),
            (
                "Australia/Lord_Howe",
                "2027-04-03",
                "22:00",
                "06:00",
                "04-03 11:00 - 04-03 19:30 (510 min)",
            ),
            (
                "Australia/Lord_Howe",
                "2027-10-02",
                "22:00",
                "06:00",
                "10-02 11:30 - 10-02 19:00 (450 min)",
            ),
            (
                "Africa/Cairo",
                "2027-04-30",
                "00:00",
                "06:00",
                "04-29 22:00 - 04-30 03:00 (300 min)",
            ),
        ] {
            let found = shown(window(zone, start, end).night(date.parse().unwrap()));
            assert_eq!(found, expected, "{zone} {date} {start}-{end}");
        }
    }

    fn ms(text: &str) -> i64 {
        text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn the_next_opening_is_the_present_one_while_it_is_open() {
        let night = window("UTC", "22:00", "06:00");
        for (now, expected) in [
            (
                "2027-01-01T12:00:00Z",
                "01-01 22:00 - 01-02 06:00 (480 min)",
            ),
            (
                "2027-01-01T22:00:00Z",
                "01-01 22:00 - 01-02 06:00 (480 min)",
            ),
            (
                "2027-01-02T05:59:59Z",
                "01-01 22:00 - 01-02 06:00 (480 min)",
            ),
            (
                "2027-01-02T06:00:00Z",
                "01-02 22:00 - 01-03 06:00 (480 min)",
            ),
        ] {
            assert_eq!(shown(night.next(ms(now))), expected, "at {now}");
        }
        assert!(
            night
                .next(ms("2027-01-02T05:59:59Z"))
                .unwrap()
                .is_open(ms("2027-01-02T05:59:59Z"))
        );
    }

    #[test]
    fn weekdays_are_those_of_the_start() {
        let mut night = window("UTC", "22:00", "06:00");
        night.weekdays = vec![Weekday::Friday];
        // 2027-01-01 is a Friday.
        assert_eq!(
            shown(night.next(ms("2027-01-02T03:00:00Z"))),
            "01-01 22:00 - 01-02 06:00 (480 min)"
        );
        assert_eq!(
            shown(night.next(ms("2027-01-02T07:00:00Z"))),
            "01-08 22:00 - 01-09 06:00 (480 min)"
        );
        night.weekdays.clear();
        assert_eq!(night.next(ms("2027-01-02T03:00:00Z")), None);
    }

    #[test]
    fn equal_times_are_a_whole_civil_day() {
        let day = window("Europe/Berlin", "00:00", "00:00");
        assert_eq!(
            shown(day.night("2027-03-28".parse().unwrap())),
            "03-27 23:00 - 03-28 22:00 (1380 min)"
        );
    }
}
