//! `/v1/organization/costs` and `/v1/organization/usage/videos`: what was charged and what was made, by UTC day.
//! Only a key with the operator's right may ask.

use std::collections::{BTreeMap, BTreeSet};

use axum::{Extension, Json, extract::State};
use http::Uri;
use schemas::{AccountId, GpuMicros};
use serde::Serialize;
use serde_json::{Value, json};

use super::{ApiState, auth::Caller, error::ApiError, page::query, quota::only_operators};
use crate::{
    admission::{Code, JobRecord, Refusal},
    core::rows::{AccountRow, Level},
};

const DAY_S: i64 = 86_400;
const BUCKETS_DEFAULT: i64 = 7;
const BUCKETS_MAX: i64 = 180;
const PARAMETERS: &[&str] = &[
    "start_time",
    "end_time",
    "bucket_width",
    "group_by",
    "group_by[]",
    "project_ids",
    "project_ids[]",
    "limit",
    "page",
];

/// A page of days.
#[derive(Debug, Serialize)]
pub struct Page {
    object: &'static str,
    data: Vec<Bucket>,
    has_more: bool,
    next_page: Option<String>,
}

#[derive(Debug, Serialize)]
struct Bucket {
    object: &'static str,
    start_time: i64,
    end_time: i64,
    results: Vec<Value>,
}

/// What the query asks for. Times are Unix seconds.
#[derive(Debug, PartialEq)]
struct Asked {
    start: i64,
    end: i64,
    /// First day that is answered, and behind the last.
    days: std::ops::Range<i64>,
    has_more: bool,
    groups: BTreeSet<String>,
    projects: BTreeSet<String>,
}

/// By day, project, and user or model; the last two only where they are asked for.
type Key = (i64, Option<String>, Option<String>);

/// `GET /v1/organization/costs`: posts less refunds. `project_id` and `user_id` are names of accounts.
pub async fn costs(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Json<Page>, ApiError> {
    only_operators(&caller)?;
    let now_s = state.dispatcher.now_ms().div_euclid(1_000);
    let asked = asked(&uri, &["project_id", "user_id", "line_item"], now_s)?;
    let accounts = accounts(&state).await?;
    let [from, to] = asked.range_ms();
    let mut sums: BTreeMap<Key, i64> = BTreeMap::new();
    for entry in state.store.charges(from, to).await? {
        let Some(row) = accounts.get(&entry.account) else {
            continue;
        };
        let day = entry.at_ms.div_euclid(DAY_S * 1_000);
        let by_user = asked.groups.contains("user_id");
        let (project, user) = match row.level {
            Level::Project => (row, None),
            // The project has the same charge; here it is told apart from what no user made.
            Level::User if by_user => match row.parent.and_then(|id| accounts.get(&id)) {
                Some(project) => (project, Some(user_name(row, project))),
                None => continue,
            },
            _ => continue,
        };
        if !asked.projects.is_empty() && !asked.projects.contains(&project.name) {
            continue;
        }
        let shown = asked
            .groups
            .contains("project_id")
            .then(|| project.name.clone());
        if user.is_some() {
            *sums.entry((day, shown.clone(), None)).or_default() -= entry.amount.0;
        }
        *sums.entry((day, shown, user)).or_default() += entry.amount.0;
    }
    let price = state.price();
    let by_item = asked.groups.contains("line_item");
    let result = |project: &Option<String>, user: &Option<String>, time: &i64| {
        let time = GpuMicros(*time);
        let value = price.money(time).map_or(0.0, |money| money.value);
        json!({
            "object": "organization.costs.result",
            "amount": {"value": value, "currency": price.currency},
            "line_item": by_item.then_some("gpu_seconds"),
            "project_id": project, "user_id": user, "api_key_id": null, "api_source": null,
            "quantity": time.as_secs_f64(), "quantity_unit": "gpu_seconds",
        })
    };
    let results = sums
        .iter()
        .filter(|(_, time)| **time != 0)
        .map(|((day, project, user), time)| (*day, result(project, user, time)));
    Ok(Json(asked.page(results.collect())))
}

/// `GET /v1/organization/usage/videos`: films that were published and not deleted since.
pub async fn usage(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Json<Page>, ApiError> {
    only_operators(&caller)?;
    let now_s = state.dispatcher.now_ms().div_euclid(1_000);
    let asked = asked(&uri, &["project_id", "model"], now_s)?;
    let accounts = accounts(&state).await?;
    let [from, to] = asked.range_ms();
    let mut sums: BTreeMap<Key, (u64, u64, i64)> = BTreeMap::new();
    for film in state.store.published(from, to).await? {
        let project = accounts.get(&film.project).map(|row| row.name.clone());
        if !asked.projects.is_empty()
            && !project
                .as_ref()
                .is_some_and(|name| asked.projects.contains(name))
        {
            continue;
        }
        let record: JobRecord = serde_json::from_value(film.request).unwrap_or_default();
        let key = (
            film.ended_at_ms.div_euclid(DAY_S * 1_000),
            project.filter(|_| asked.groups.contains("project_id")),
            asked.groups.contains("model").then_some(record.model),
        );
        let sum = sums.entry(key).or_default();
        sum.0 += 1;
        sum.1 += u64::from(record.seconds);
        sum.2 += film.charged.0;
    }
    let results = sums.into_iter().map(|((day, project, model), sum)| {
        let (films, seconds, time) = sum;
        let result = json!({
            "object": "organization.usage.videos.result",
            "num_model_requests": films, "video_seconds": seconds,
            "gpu_seconds": GpuMicros(time).as_secs_f64(), "energy_wh": null,
            "model": model, "project_id": project, "api_key_id": null,
        });
        (day, result)
    });
    Ok(Json(asked.page(results.collect())))
}

async fn accounts(state: &ApiState) -> Result<BTreeMap<AccountId, AccountRow>, ApiError> {
    let rows = state.store.accounts().await?;
    Ok(rows.into_iter().map(|row| (row.id, row)).collect())
}

/// The name without that of its project.
fn user_name(user: &AccountRow, project: &AccountRow) -> String {
    let prefix = format!("{}:", project.name);
    user.name.strip_prefix(&prefix).unwrap_or(&user.name).into()
}

fn asked(uri: &Uri, groups: &[&str], now_s: i64) -> Result<Asked, Refusal> {
    // Until now, this second included.
    let (mut start, mut end, mut limit, mut page) = (None, now_s + 1, BUCKETS_DEFAULT, None);
    let (mut asked_groups, mut projects) = (BTreeSet::new(), BTreeSet::new());
    for (name, value) in query(uri, PARAMETERS)? {
        match name.trim_end_matches("[]") {
            "start_time" => start = Some(unix("start_time", &value)?),
            "end_time" => end = unix("end_time", &value)?,
            "bucket_width" if value != "1d" => {
                return Err(Refusal::wrong_value(
                    "bucket_width",
                    "the only value is '1d'",
                ));
            }
            "bucket_width" => {}
            "group_by" if !groups.contains(&value.as_str()) => {
                let known = groups.join("', '");
                let why = format!("this farm can group by '{known}'");
                return Err(Refusal::wrong_value("group_by", why));
            }
            "group_by" => drop(asked_groups.insert(value)),
            "project_ids" => drop(projects.insert(value)),
            "limit" => {
                let fits = |limit: &i64| (1..=BUCKETS_MAX).contains(limit);
                limit = value.parse().ok().filter(fits).ok_or_else(|| {
                    Refusal::wrong_value("limit", format!("it is 1 to {BUCKETS_MAX}"))
                })?;
            }
            _ => page = Some(page_day(&value)?),
        }
    }
    let start = start.ok_or_else(|| Refusal::missing("start_time"))?;
    if end <= start {
        return Err(Refusal::wrong_value("end_time", "it is after 'start_time'"));
    }
    let behind = (end - 1).div_euclid(DAY_S) + 1;
    let first = page.unwrap_or_else(|| start.div_euclid(DAY_S));
    let last = behind.min(first.saturating_add(limit));
    Ok(Asked {
        start,
        end,
        days: first..last,
        has_more: last < behind,
        groups: asked_groups,
        projects,
    })
}

fn unix(param: &str, text: &str) -> Result<i64, Refusal> {
    let seconds = text.parse().ok().filter(|s| (0..=1 << 40).contains(s));
    seconds.ok_or_else(|| Refusal::wrong_value(param, "it is in Unix seconds"))
}

/// A page is named by its first day.
fn page_day(text: &str) -> Result<i64, Refusal> {
    let day = text.strip_prefix("day_").and_then(|day| day.parse().ok());
    day.filter(|day| (0..=1 << 24).contains(day))
        .ok_or_else(|| {
            Refusal::new(
                Code::InvalidValue,
                "Invalid 'page': use the 'next_page' of an answer.",
            )
            .about("page")
        })
}

impl Asked {
    /// What counts for the days of this page.
    fn range_ms(&self) -> [i64; 2] {
        let from = self.start.max(self.days.start * DAY_S);
        let to = self.end.min(self.days.end * DAY_S);
        [from * 1_000, to.max(from) * 1_000]
    }

    /// Results sorted by day.
    fn page(&self, results: Vec<(i64, Value)>) -> Page {
        let mut by_day: BTreeMap<i64, Vec<Value>> = BTreeMap::new();
        for (day, result) in results {
            by_day.entry(day).or_default().push(result);
        }
        let bucket = |day: i64| Bucket {
            object: "bucket",
            start_time: day * DAY_S,
            end_time: (day + 1) * DAY_S,
            results: by_day.get(&day).cloned().unwrap_or_default(),
        };
        Page {
            object: "page",
            data: self.days.clone().map(bucket).collect(),
            has_more: self.has_more,
            next_page: self.has_more.then(|| format!("day_{}", self.days.end)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Asked, Refusal> {
        let uri = format!("/v1/organization/costs?{query}");
        asked(&uri.parse().unwrap(), &["project_id"], 10 * DAY_S - 1)
    }

    #[test]
    fn days_are_those_of_utc_and_pages_follow_each_other() {
        let start = 2 * DAY_S + 5;
        let first = read(&format!(
            "start_time={start}&limit=5&group_by%5B%5D=project_id"
        ))
        .unwrap();
        assert_eq!((first.days.clone(), first.has_more), (2..7, true));
        assert_eq!(first.range_ms(), [start * 1_000, 7 * DAY_S * 1_000]);
        assert!(first.groups.contains("project_id"));
        let page = first.page(Vec::new());
        assert_eq!(
            (page.data.len(), page.next_page.as_deref()),
            (5, Some("day_7"))
        );
        let second = read(&format!("start_time={start}&limit=5&page=day_7")).unwrap();
        assert_eq!((second.days.clone(), second.has_more), (7..10, false));
        assert_eq!(second.page(Vec::new()).next_page, None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (query, param) in [
            ("", "start_time"),
            ("start_time=yesterday", "start_time"),
            ("start_time=9&end_time=9", "end_time"),
            ("start_time=9&bucket_width=1h", "bucket_width"),
            ("start_time=9&group_by=api_key_id", "group_by"),
            ("start_time=9&limit=181", "limit"),
            ("start_time=9&page=2", "page"),
            ("start_time=9&what=2", "what"),
        ] {
            let refusal = read(query).unwrap_err();
            assert_eq!(refusal.param.as_deref(), Some(param), "{query}");
        }
    }
}
