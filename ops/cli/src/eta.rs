//! When a film begins and ends, in words.

use std::time::{SystemTime, UNIX_EPOCH};

use schemas::video::{Eta, Status, Video};

use crate::progress::seconds;

/// "starts in 40 s, done in 2 min 5 s to 3 min 10 s", or that nobody can say.
pub fn words(video: &Video) -> String {
    let waits = video.status == Status::Queued;
    say(&video.eta, waits, now_s())
}

/// The same for a film that was not made yet.
pub fn of(eta: &Eta) -> String {
    say(eta, true, now_s())
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

fn say(eta: &Eta, waits: bool, now_s: f64) -> String {
    let in_s = |at: Option<i64>| at.map(|at| at as f64 - now_s);
    let (Some(middle), start) = (in_s(eta.completes_at_p50), in_s(eta.starts_at)) else {
        return "its end cannot be foretold".into();
    };
    let early = in_s(eta.completes_at_p10).unwrap_or(middle);
    let late = in_s(eta.completes_at_p90).unwrap_or(middle);
    let done = match (seconds(early), seconds(late)) {
        (early, late) if early == late => format!("done in {late}"),
        (early, late) => format!("done in {early} to {late}"),
    };
    match start.filter(|start| waits && *start > 0.0) {
        Some(start) => format!("starts in {}, {done}", seconds(start)),
        None => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        (eta.completes_at_p10, eta.completes_at_p90) = (None, None);
        assert_eq!(say(&eta, true, 1_050.0), "done in 40 s");
        assert_eq!(
            say(&Eta::default(), true, 0.0),
            "its end cannot be foretold"
        );
    }
}
