//! When a film begins and ends, in words.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::{Timestamp, tz::TimeZone};
use schemas::video::{Eta, Status, Video};

use crate::progress::seconds;

/// From this far ahead the hour is said too.
const CLOCK_FROM_S: f64 = 3_600.0;

/// "starts in 40 s, done in 2 min 5 s to 3 min 10 s", or that nobody can say.
pub fn words(video: &Video) -> String {
    let waits = video.status == Status::Queued;
    say(&video.eta, waits, now_s(), &TimeZone::system())
}

/// The same for a film that was not made yet.
pub fn of(eta: &Eta) -> String {
    say(eta, true, now_s(), &TimeZone::system())
}

/// ", must begin within 2 h 5 min" for a film that waits and has a deadline, or nothing.
pub fn deadline(video: &Video) -> String {
    match video.deadline.filter(|_| video.status == Status::Queued) {
        Some(at) => must_begin(at as f64 - now_s()),
        None => String::new(),
    }
}

fn must_begin(left_s: f64) -> String {
    match left_s > 0.0 {
        true => format!(", must begin within {}", seconds(left_s)),
        false => ", its deadline has passed".into(),
    }
}

/// Seconds since 1970.
fn now_s() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0.0, |now| now.as_secs_f64())
}

fn say(eta: &Eta, waits: bool, now_s: f64, zone: &TimeZone) -> String {
    let in_s = |at: Option<i64>| at.map(|at| at as f64 - now_s);
    let Some(middle) = in_s(eta.completes_at_p50) else {
        return "its end cannot be foretold".into();
    };
    let early = in_s(eta.completes_at_p10).unwrap_or(middle);
    let late = in_s(eta.completes_at_p90).unwrap_or(middle);
    let at = |left: f64| format!("{}{}", seconds(left), clock(left, now_s, zone));
    let done = match (seconds(early), seconds(late)) {
        _ if early <= 0.0 => format!("done within {}", at(late.max(1.0))),
        (early, late_text) if early == late_text => format!("done in {}", at(late)),
        (early, _) => format!("done in {early} to {}", at(late)),
    };
    // Each is right four times in five by itself; together they must not contradict each other.
    let start = in_s(eta.starts_at).map(|start| start.min(early));
    match start.filter(|start| waits && *start > 0.0) {
        Some(start) => format!("starts in {}, {done}", at(start)),
        None => done,
    }
}

/// " (22:00)" where `zone` is, with the day when that is another one; nothing for what is near.
fn clock(left_s: f64, now_s: f64, zone: &TimeZone) -> String {
    let zoned = |at: f64| Timestamp::from_second(at as i64).map(|at| at.to_zoned(zone.clone()));
    match (zoned(now_s), zoned(now_s + left_s)) {
        (Ok(now), Ok(at)) if left_s >= CLOCK_FROM_S => {
            let form = if now.date() == at.date() {
                "%H:%M"
            } else {
                "%a %H:%M"
            };
            format!(" ({})", at.strftime(form))
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(eta: &Eta, waits: bool, now_s: f64) -> String {
        super::say(eta, waits, now_s, &TimeZone::UTC)
    }

    #[test]
    fn a_deadline_is_said_from_now() {
        assert_eq!(must_begin(125.0), ", must begin within 2 min 5 s");
        assert_eq!(must_begin(-1.0), ", its deadline has passed");
    }

    #[test]
    fn an_interval_is_said_as_times_from_now() {
        let mut eta = Eta {
            starts_at: Some(1_040),
            completes_at_p10: Some(1_080),
            completes_at_p50: Some(1_090),
            completes_at_p90: Some(1_125),
            ..Eta::default()
        };
        assert_eq!(
            say(&eta, true, 1_000.0),
            "starts in 40 s, done in 80 s to 2 min 5 s"
        );
        assert_eq!(say(&eta, false, 1_000.0), "done in 80 s to 2 min 5 s");
        assert_eq!(say(&eta, false, 1_090.0), "done within 35 s");
        eta.starts_at = Some(1_085);
        assert_eq!(
            say(&eta, true, 1_000.0),
            "starts in 80 s, done in 80 s to 2 min 5 s",
            "never after the first end"
        );
        eta.starts_at = Some(1_040);
        (eta.completes_at_p10, eta.completes_at_p90) = (None, None);
        assert_eq!(say(&eta, true, 1_050.0), "done in 40 s");
        assert_eq!(
            say(&Eta::default(), true, 0.0),
            "its end cannot be foretold"
        );
    }

    #[test]
    fn the_hour_of_what_is_far_is_said_where_the_reader_is() {
        let eta = Eta {
            starts_at: Some(1_795_730_400),        // 2026-11-26 22:00 UTC
            completes_at_p10: Some(1_795_737_000), // 23:50
            completes_at_p50: Some(1_795_737_000),
            completes_at_p90: Some(1_795_740_600), // 00:50 of Friday
            ..Eta::default()
        };
        assert_eq!(
            super::say(&eta, true, 1_795_715_000.0, &TimeZone::UTC),
            "starts in 4 h 16 min (22:00), done in 6 h 6 min to 7 h 6 min (Fri 00:50)"
        );
    }
}
