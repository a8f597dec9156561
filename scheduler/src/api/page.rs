//! Query parameters: the page of a list, and single choices. Unknown names are refused.

use axum::extract::Query;
use http::Uri;

use crate::{
    admission::{Code, Refusal},
    store::read::Order,
};

const LIMIT_DEFAULT: u64 = 20;
const LIMIT_MAX: u64 = 100;

/// What a list call asks for; `after` is not looked up yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    pub after: Option<String>,
    /// 0 to 100.
    pub limit: u64,
    pub order: Order,
}

/// Reads `after`, `limit` and `order`.
pub fn page_request(uri: &Uri) -> Result<PageRequest, Refusal> {
    let mut page = PageRequest {
        after: None,
        limit: LIMIT_DEFAULT,
        order: Order::Desc,
    };
    for (name, value) in query(uri, &["after", "limit", "order"])? {
        match name.as_str() {
            "after" => page.after = (!value.is_empty()).then_some(value),
            "limit" => page.limit = limit(&value)?,
            _ => page.order = order(&value)?,
        }
    }
    Ok(page)
}

/// The value of the one parameter that a call knows.
pub fn only_parameter(uri: &Uri, name: &str) -> Result<Option<String>, Refusal> {
    Ok(query(uri, &[name])?
        .into_iter()
        .last()
        .map(|(_, value)| value))
}

pub(super) fn query(uri: &Uri, known: &[&str]) -> Result<Vec<(String, String)>, Refusal> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|_| Refusal::new(Code::InvalidValue, "The query of the URL cannot be read."))?;
    match pairs
        .iter()
        .find(|(name, _)| !known.contains(&name.as_str()))
    {
        None => Ok(pairs),
        Some((name, _)) => {
            let shown: String = name.chars().take(80).collect();
            Err(Refusal::new(
                Code::UnknownParameter,
                format!(
                    "Unknown parameter: '{shown}'. This call knows: {}.",
                    known.join(", ")
                ),
            )
            .about(shown))
        }
    }
}

fn limit(text: &str) -> Result<u64, Refusal> {
    let number = text.parse().ok().filter(|limit| *limit <= LIMIT_MAX);
    number.ok_or_else(|| {
        Refusal::wrong_value("limit", format!("it is an integer from 0 to {LIMIT_MAX}"))
    })
}

fn order(text: &str) -> Result<Order, Refusal> {
    match text {
        "desc" => Ok(Order::Desc),
        "asc" => Ok(Order::Asc),
        _ => Err(Refusal::wrong_value(
            "order",
            "supported values are 'asc' and 'desc'",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<PageRequest, Refusal> {
        page_request(&format!("/v1/videos{query}").parse().unwrap())
    }

    #[test]
    fn defaults_and_values() {
        let page = read("").unwrap();
        assert_eq!(
            (page.after, page.limit, page.order),
            (None, 20, Order::Desc)
        );
        let page = read("?after=video_1&limit=0&order=asc").unwrap();
        assert_eq!(
            (page.after.as_deref(), page.limit, page.order),
            (Some("video_1"), 0, Order::Asc)
        );
        assert_eq!(read("?limit=100&after=").unwrap().limit, 100);
    }

    #[test]
    fn values_out_of_range_and_unknown_names_are_refused() {
        for query in [
            "?limit=101",
            "?limit=-1",
            "?limit=x",
            "?limit=",
            "?order=up",
        ] {
            assert_eq!(read(query).unwrap_err().code, Code::InvalidValue, "{query}");
        }
        assert_eq!(read("?before=x").unwrap_err().code, Code::UnknownParameter);
    }
}
