//! Conditional and partial downloads: which bytes of a file an HTTP request asks for. Pure.

use std::ops::Range;

use http::{HeaderMap, header};

/// What to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// 200 with everything.
    Whole,
    /// 206 with these bytes; never empty.
    Part(Range<u64>),
    /// 304: the client has it.
    NotModified,
    /// 416.
    Unsatisfiable,
}

/// Reads `If-None-Match`, `If-Range` and `Range` against a strong `etag` (with its quotes).
///
/// Several ranges, and ranges that cannot be read, ask for everything.
pub fn wanted(headers: &HeaderMap, etag: &str, size: u64) -> Wanted {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_NONE_MATCH).is_some_and(|list| matches(list, etag)) {
        return Wanted::NotModified;
    }
    if text(header::IF_RANGE).is_some_and(|tag| tag.trim() != etag) {
        return Wanted::Whole;
    }
    text(header::RANGE).map_or(Wanted::Whole, |range| parse(range, size))
}

/// Weak comparison: `W/"x"` matches `"x"`, as RFC 9110 asks for `If-None-Match`.
fn matches(list: &str, etag: &str) -> bool {
    list.split(',')
        .map(str::trim)
        .any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

fn parse(range: &str, size: u64) -> Wanted {
    let Some((unit, spec)) = range.split_once('=') else {
        return Wanted::Whole;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") || spec.contains(',') {
        return Wanted::Whole;
    }
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Wanted::Whole;
    };
    match (number(first), number(last)) {
        (None, None) | (Some(None), _) | (_, Some(None)) => Wanted::Whole,
        (None, Some(Some(suffix))) => part(size.saturating_sub(suffix), size, size),
        (Some(Some(first)), None) => part(first, size, size),
        (Some(Some(first)), Some(Some(last))) if last < first => Wanted::Whole,
        (Some(Some(first)), Some(Some(last))) => part(first, last.saturating_add(1), size),
    }
}

/// `None` for no text, `Some(None)` for text that is no number.
fn number(text: &str) -> Option<Option<u64>> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    Some(
        text.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| text.parse().unwrap_or(u64::MAX)),
    )
}

fn part(start: u64, end: u64, size: u64) -> Wanted {
    let end = end.min(size);
    if start < end {
        Wanted::Part(start..end)
    } else {
        Wanted::Unsatisfiable
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const ETAG: &str = "\"abc\"";

    fn ask(headers: &[(header::HeaderName, &str)], size: u64) -> Wanted {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()))
            .collect();
        wanted(&headers, ETAG, size)
    }

    #[test]
    fn one_range_is_a_part() {
        for (range, expected) in [
            ("bytes=0-3", Wanted::Part(0..4)),
            ("bytes=4-", Wanted::Part(4..10)),
            ("bytes=-3", Wanted::Part(7..10)),
            ("bytes=-30", Wanted::Part(0..10)),
            ("bytes=9-99", Wanted::Part(9..10)),
            ("Bytes = 2-2", Wanted::Part(2..3)),
            ("bytes=10-", Wanted::Unsatisfiable),
            ("bytes=99999999999999999999-", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("bytes=3-2", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes", Wanted::Whole),
            ("items=0-3", Wanted::Whole),
        ] {
            assert_eq!(ask(&[(header::RANGE, range)], 10), expected, "{range}");
        }
        assert_eq!(
            ask(&[(header::RANGE, "bytes=0-0")], 0),
            Wanted::Unsatisfiable
        );
    }

    #[test]
    fn conditions_come_first() {
        let range = (header::RANGE, "bytes=0-3");
        let when = |name, value| ask(&[(name, value), range.clone()], 10);
        assert_eq!(
            when(header::IF_NONE_MATCH, "\"x\", W/\"abc\""),
            Wanted::NotModified
        );
        assert_eq!(when(header::IF_NONE_MATCH, "*"), Wanted::NotModified);
        assert_eq!(when(header::IF_NONE_MATCH, "\"x\""), Wanted::Part(0..4));
        assert_eq!(when(header::IF_RANGE, "\"abc\""), Wanted::Part(0..4));
        assert_eq!(when(header::IF_RANGE, "W/\"abc\""), Wanted::Whole);
        assert_eq!(when(header::IF_RANGE, "\"old\""), Wanted::Whole);
    }

    proptest! {
        #[test]
        fn a_part_lies_inside_the_file(range in "bytes=[0-9]{0,21}-[0-9]{0,21}", size in 0_u64..100) {
            if let Wanted::Part(part) = ask(&[(header::RANGE, &range)], size) {
                prop_assert!(part.start < part.end && part.end <= size);
            }
        }
    }
}
