//! Quota: what a user without it is told, what only an operator may.

use serde_json::json;

use super::*;
use crate::core::quota::{LimitsChange, QuotaChange, QuotaOrder};

/// The project of [`KEY`].
const STUDIO: AccountId = AccountId(Uuid::from_u128(1));

impl Farm {
    async fn meter_studio(&self) {
        let order = QuotaOrder {
            actor: "test".into(),
            account: STUDIO,
            change: QuotaChange::Limits(LimitsChange {
                metered: Some(true),
                ..LimitsChange::default()
            }),
        };
        self.dispatcher.order_quota(order).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn without_quota_a_video_is_refused_for_good_and_no_job_is_made() {
    let farm = Farm::start().await;
    farm.meter_studio().await;
    let answer = farm.post("/v1/videos", json!({"prompt": "a ball"})).await;
    assert_eq!(answer.error(), (429, "insufficient_quota".into()));
    assert_eq!(answer.json()["error"]["type"], "insufficient_quota");
    assert_eq!(answer.header("x-should-retry"), "false");
    let message = answer.json()["error"]["message"].to_string();
    assert!(message.contains("'studio'"), "{message}");
    assert_eq!(farm.count().await, 0);
}

#[tokio::test]
async fn an_estimate_says_that_the_quota_would_not_do() {
    let farm = Farm::start().await;
    let wish = json!({"prompt": "a ball"});
    let fine = farm.post("/v1/videos/estimate", wish.clone()).await;
    assert_eq!(fine.json()["accepted"], true);
    farm.meter_studio().await;
    let answer = farm.post("/v1/videos/estimate", wish).await;
    assert_eq!(answer.status, 200);
    let verdict = answer.json();
    assert_eq!(verdict["accepted"], false);
    assert_eq!(verdict["reasons"][0]["error"]["code"], "insufficient_quota");
}

const QUOTA: &str = "/v1/organization/quota";
const ADMIN: &[(&str, &str)] = &[("authorization", "Bearer sk-admin")];

impl Farm {
    async fn ask(&self, path: &str) -> Answer {
        let request = request(Method::GET, path, ADMIN);
        self.send(request.body(Body::empty()).unwrap()).await
    }

    async fn order(&self, path: &str, body: Value) -> Answer {
        self.post_with(path, body, ADMIN).await
    }
}

#[tokio::test]
async fn a_key_sees_its_own_account_and_neither_others_nor_changes() {
    let farm = Farm::start().await;
    let added = farm.order(QUOTA, json!({"name": "acme"})).await;
    assert_eq!(added.status, 200);
    let one = format!("{QUOTA}/studio");
    let own = farm.get(QUOTA).await.json();
    assert_eq!(own["data"][0]["name"], "studio", "{own}");
    assert_eq!(own["data"].as_array().unwrap().len(), 1, "{own}");
    assert_eq!(farm.get(&one).await.json()["account"]["name"], "studio");
    let acme = format!("{QUOTA}/acme");
    let grants = format!("{one}/grants");
    let refused = (403, "insufficient_permissions".to_owned());
    for answer in [
        farm.get(&acme).await,
        farm.get(&format!("{QUOTA}/nobody")).await,
        farm.post(&one, json!({"weight": 9})).await,
        farm.post(&grants, json!({"seconds": 9})).await,
    ] {
        assert_eq!(answer.error(), refused);
        assert_eq!(answer.json()["error"]["type"], "permission_error");
    }
    let seen = farm.ask(&one).await.json();
    assert_eq!(seen["account"]["weight"], 1);
    assert_eq!(seen["account"]["metered"], false);
}

#[tokio::test]
async fn a_grant_lets_a_video_in_and_counts_once() {
    let farm = Farm::start().await;
    farm.meter_studio().await;
    let grants = format!("{QUOTA}/studio/grants");
    let grant = json!({"seconds": 100_000, "name": "november"});
    let first = farm.order(&grants, grant.clone()).await.json();
    assert_eq!(
        (&first["granted"], &first["name"]),
        (&json!(true), &json!("november"))
    );
    let again = farm.order(&grants, grant).await.json();
    assert_eq!(again["granted"], false);
    assert_eq!(again["account"]["available_seconds"], 100_000.0);
    farm.create("a ball").await;
    let account = &farm.ask(QUOTA).await.json()["data"][0];
    assert_eq!(account["name"], "studio");
    let parts = ["available_seconds", "held_seconds", "spent_seconds"];
    let sum: f64 = parts
        .iter()
        .map(|part| account[*part].as_f64().unwrap())
        .sum();
    assert!(account["held_seconds"].as_f64().unwrap() > 0.0);
    assert!((sum - account["granted_seconds"].as_f64().unwrap()).abs() < 1e-3);
}

#[tokio::test]
async fn a_charge_can_be_read_with_its_arithmetic() {
    let farm = Farm::start().await;
    farm.create("a ball").await;
    farm.render_all().await;
    let seen = farm.ask(&format!("{QUOTA}/studio")).await.json();
    let entries = seen["entries"].as_array().unwrap();
    let posts: Vec<&Value> = entries.iter().filter(|e| e["to"] == "spent").collect();
    assert!(posts.len() >= 2, "{seen}");
    let most = posts
        .iter()
        .map(|post| post["arithmetic"]["steps"].as_u64())
        .max();
    assert_eq!(most, Some(Some(STEPS_RUN.into())), "{seen}");
    for post in posts {
        let why = &post["arithmetic"];
        let factors = ["steps", "seconds_per_step", "devices", "rate", "factor"];
        let product: f64 = factors.iter().map(|f| why[*f].as_f64().unwrap()).product();
        assert!(
            (product - post["seconds"].as_f64().unwrap()).abs() < 1e-6,
            "{post}"
        );
    }
}

#[tokio::test]
async fn limits_change_one_by_one_and_null_removes_a_cap() {
    let farm = Farm::start().await;
    let path = format!("{QUOTA}/studio");
    let changed = farm
        .order(&path, json!({"max_jobs": 2, "max_devices": 3, "weight": 5}))
        .await;
    assert_eq!(changed.json()["max_jobs"], 2);
    let changed = farm.order(&path, json!({"max_jobs": null})).await.json();
    assert_eq!(changed["max_jobs"], Value::Null);
    assert_eq!(
        (&changed["max_devices"], &changed["weight"]),
        (&json!(3), &json!(5))
    );
}

#[tokio::test]
async fn orders_that_cannot_be_read_or_done_are_refused() {
    let farm = Farm::start().await;
    let (one, grants) = (format!("{QUOTA}/studio"), format!("{QUOTA}/studio/grants"));
    let nobody = farm.ask(&format!("{QUOTA}/nobody")).await;
    assert_eq!(nobody.error(), (404, "not_found".into()));
    let cases = [
        (&one, json!({"weihgt": 1}), "unknown_parameter"),
        (&one, json!({"weight": "2"}), "invalid_type"),
        (&one, json!({"weight": 0}), "invalid_value"),
        (&one, json!({"max_jobs": -1}), "invalid_type"),
        (&one, json!({"metered": "yes"}), "invalid_type"),
        (&grants, json!({}), "missing_required_parameter"),
        (&grants, json!({"seconds": 0}), "invalid_value"),
        (&grants, json!({"seconds": 1.5}), "invalid_type"),
        (&grants, json!({"seconds": i64::MAX}), "invalid_type"),
        (
            &grants,
            json!({"seconds": 1, "name": "a b"}),
            "invalid_value",
        ),
    ];
    for (path, body, code) in cases {
        let answer = farm.order(path, body.clone()).await;
        assert_eq!(answer.error(), (400, code.into()), "{body}");
    }
}

#[tokio::test]
async fn an_operator_opens_accounts_and_nobody_else() {
    let farm = Farm::start().await;
    let refused = farm.post(QUOTA, json!({"name": "mine"})).await;
    assert_eq!(refused.error(), (403, "insufficient_permissions".into()));
    let org = farm.order(QUOTA, json!({"name": "house"})).await.json();
    assert_eq!(
        (&org["level"], &org["parent"]),
        (&json!("org"), &Value::Null)
    );
    let wish = json!({"name": "shorts", "parent": "house"});
    let project = farm.order(QUOTA, wish.clone()).await.json();
    assert_eq!(
        (&project["level"], &project["parent"]),
        (&json!("project"), &json!("house"))
    );
    assert_eq!(farm.order(QUOTA, wish).await.error().0, 400);
    assert_eq!(farm.order(QUOTA, json!({})).await.error().0, 400);
    let orphan = json!({"name": "lost", "parent": "nobody"});
    assert_eq!(farm.order(QUOTA, orphan).await.error().0, 404);
    assert_eq!(
        farm.ask(QUOTA).await.json()["data"]
            .as_array()
            .unwrap()
            .len(),
        4
    );
}

#[tokio::test]
async fn rules_of_an_account_are_set_shown_and_removed() {
    let farm = Farm::start().await;
    let studio = format!("{QUOTA}/studio");
    let rules = json!({
        "budget": {"limit_seconds": 3600, "period": "30d", "zone": "Europe/Berlin", "at_limit": "stop_and_cancel"},
        "capacity": {"H200": {"nominal": 4, "borrow": 2}},
        "lend_seconds": 60, "borrow_seconds": 30,
    });
    let set = farm.order(&studio, rules).await.json();
    assert_eq!(set["budget"]["limit_seconds"], 3600.0);
    assert_eq!(set["budget"]["zone"], "Europe/Berlin");
    assert_eq!(
        (&set["budget"]["period"], &set["budget"]["percent"]),
        (&json!("30d"), &json!(0))
    );
    assert_eq!(set["capacity"][0]["may_use"], 4);
    assert_eq!(set["lend_seconds"], 60.0);
    let shown = farm.ask(&studio).await.json();
    assert_eq!(shown["account"], set);
    let none = json!({"budget": null, "capacity": {"H200": null}});
    let set = farm.order(&studio, none).await.json();
    assert_eq!(
        (&set["budget"], &set["capacity"]),
        (&Value::Null, &json!([]))
    );
    for (wrong, word) in [
        (
            json!({"budget": {"limit_seconds": 5, "period": "week"}}),
            "'30d'",
        ),
        (
            json!({"budget": {"limit_seconds": 5, "zone": "Mars"}}),
            "IANA",
        ),
        (
            json!({"budget": {"limit_seconds": 5, "at_limit": "burn"}}),
            "stop_and_cancel",
        ),
        (json!({"budget": {"limit_seconds": 0}}), "more than nothing"),
        (
            json!({"budget": {"limit_seconds": 5, "perod": "month"}}),
            "perod",
        ),
        (json!({"budget": {}}), "limit_seconds"),
        (json!({"capacity": {"H200": {"nominal": -1}}}), "integer"),
        (json!({"capacity": 3}), "object"),
    ] {
        let answer = farm.order(&studio, wrong.clone()).await;
        assert_eq!(answer.status, 400, "{wrong}");
        let message = answer.json()["error"]["message"].to_string();
        assert!(message.contains(word), "{wrong}: {message}");
    }
}

#[tokio::test]
async fn a_grant_can_expire_and_a_user_gets_an_account_of_their_own() {
    let farm = Farm::start().await;
    let grants = format!("{QUOTA}/studio/grants");
    let grant = json!({"seconds": 900, "name": "may", "expires_at": "2100-06-01T00:00:00Z"});
    let given = farm.order(&grants, grant).await.json();
    assert_eq!(given["account"]["expiring"][0]["left_seconds"], 900.0);
    assert_eq!(
        given["account"]["expiring"][0]["expires_at"],
        4_115_491_200_i64
    );
    let past = json!({"seconds": 9, "expires_at": 1_000});
    assert_eq!(farm.order(&grants, past).await.status, 400);
    let wish = json!({"prompt": "a ball", "user": "ann@example.org"});
    let made = farm.post("/v1/videos", wish).await;
    let held = made.json()["usage"]["reserved_gpu_seconds"].clone();
    let user = farm
        .ask(&format!("{QUOTA}/studio:ann@example.org"))
        .await
        .json();
    assert_eq!(user["account"]["level"], "user");
    assert_eq!(user["account"]["parent"], "studio");
    assert_eq!(user["account"]["held_seconds"], held);
    let project = farm.ask(&format!("{QUOTA}/studio")).await.json();
    assert_eq!(project["account"]["held_seconds"], held);
}

#[tokio::test]
async fn costs_and_usage_are_what_was_posted() {
    let farm = Farm::start().await;
    let of = |user: &str| json!({"prompt": "a ball", "user": user});
    let first = farm.post("/v1/videos", of("ann")).await.json();
    farm.post("/v1/videos", of("bob")).await;
    farm.post("/v1/videos", of("")).await;
    let cancelled = farm.post("/v1/videos", of("ann")).await.id();
    let cancel = format!("/v1/videos/{cancelled}/cancel");
    farm.post(&cancel, json!({})).await;
    farm.render_all().await;
    let since = first["created_at"].as_i64().unwrap() - 1;
    let costs = |query: &str| format!("/v1/organization/costs?start_time={since}{query}");
    let quantity = |result: &Value| result["quantity"].as_f64().unwrap();
    let spent =
        farm.ask(&format!("{QUOTA}/studio")).await.json()["account"]["spent_seconds"].clone();
    let all = farm.ask(&costs("")).await.json();
    assert_eq!(
        (&all["object"], &all["has_more"]),
        (&json!("page"), &json!(false))
    );
    let results = all["data"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|day| day["results"].as_array().unwrap());
    let [only] = results.collect::<Vec<_>>()[..] else {
        panic!("{all}")
    };
    assert_eq!(only["quantity"], spent);
    assert_eq!(only["project_id"], Value::Null);
    let by_user = farm
        .ask(&costs("&group_by%5B%5D=user_id&group_by%5B%5D=project_id"))
        .await
        .json();
    let results = by_user["data"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|day| day["results"].as_array().unwrap());
    let told: Vec<(String, f64)> = results
        .map(|result| {
            assert_eq!(result["project_id"], "studio");
            (result["user_id"].to_string(), quantity(result))
        })
        .collect();
    let third = spent.as_f64().unwrap() / 3.0;
    let users: Vec<&str> = told.iter().map(|(user, _)| user.as_str()).collect();
    assert_eq!(users, ["null", "\"ann\"", "\"bob\""]);
    assert!(
        told.iter()
            .all(|(_, seconds)| (seconds - third).abs() < 1e-6),
        "{told:?}"
    );
    let none = farm.ask(&costs("&project_ids%5B%5D=other")).await.json();
    assert_eq!(none["data"][0]["results"], json!([]));
    let usage = format!("/v1/organization/usage/videos?start_time={since}&group_by=model");
    let usage = farm.ask(&usage).await.json();
    let results = usage["data"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|day| day["results"].as_array().unwrap());
    let films: Vec<_> = results
        .map(|r| {
            (
                r["num_model_requests"].clone(),
                r["video_seconds"].clone(),
                r["model"].clone(),
            )
        })
        .collect();
    assert_eq!(films, [(json!(3), json!(12), json!("sora-2"))]);
    for path in [
        costs(""),
        format!("/v1/organization/usage/videos?start_time={since}"),
    ] {
        assert_eq!(
            farm.get(&path).await.error(),
            (403, "insufficient_permissions".into())
        );
    }
    let odd = farm.ask(&costs("&group_by=api_key_id")).await;
    assert_eq!(odd.error(), (400, "invalid_value".into()));
}
