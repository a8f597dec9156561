//! Keys: what an operator may do with them beside a running farm, and nobody else.

use serde_json::json;

use super::*;

const KEYS: &str = "/v1/organization/keys";

impl Farm {
    async fn as_operator(&self, method: Method, path: &str, body: Value) -> Answer {
        let admin = [("authorization", "Bearer sk-admin")];
        let request = request(method, path, &admin).header("content-type", "application/json");
        self.send(request.body(Body::from(body.to_string())).unwrap())
            .await
    }

    async fn videos_with(&self, key: &str) -> StatusCode {
        let bearer = format!("Bearer {key}");
        let request = request(Method::GET, "/v1/videos", &[("authorization", &bearer)]);
        self.send(request.body(Body::empty()).unwrap()).await.status
    }
}

#[tokio::test]
async fn an_operator_makes_shows_and_ends_keys_of_a_running_farm() {
    let farm = Farm::start().await;
    let made = farm
        .as_operator(Method::POST, KEYS, json!({"name": "laptop"}))
        .await;
    assert_eq!(made.status, 200, "{}", made.json());
    let (key, id) = (made.json()["key"].clone(), made.json()["id"].clone());
    let (key, id) = (key.as_str().unwrap(), id.as_str().unwrap());
    assert_eq!(farm.videos_with(key).await, 200);

    let list = farm.as_operator(Method::GET, KEYS, json!({})).await.json();
    let rows = list["data"].as_array().unwrap();
    let row = rows.iter().find(|row| row["id"] == id).unwrap();
    assert_eq!(
        (&row["name"], &row["admin"]),
        (&json!("laptop"), &json!(false))
    );
    assert!(row.get("key").is_none(), "a key is shown once: {row}");

    let path = format!("{KEYS}/{id}");
    let ended = farm.as_operator(Method::DELETE, &path, json!({})).await;
    assert!(ended.json()["revoked_at"].is_i64(), "{}", ended.json());
    assert_eq!(farm.videos_with(key).await, 401);
}

#[tokio::test]
async fn keys_are_refused_to_users_and_the_asking_key_does_not_end_itself() {
    let farm = Farm::start().await;
    assert_eq!(farm.get(KEYS).await.error().0, 403);
    for (body, code) in [
        (json!({}), "missing_required_parameter"),
        (json!({"name": "a", "project": "none"}), "invalid_value"),
        (json!({"name": "a", "colour": "red"}), "unknown_parameter"),
    ] {
        let answer = farm.as_operator(Method::POST, KEYS, body).await;
        assert_eq!(answer.error(), (400, code.into()));
    }
    let own = Digest::of(b"sk-admin").to_string();
    for (id, status) in [(own.as_str(), 400), ("", 404), ("zz", 404)] {
        let path = format!("{KEYS}/{id}");
        let answer = farm.as_operator(Method::DELETE, &path, json!({})).await;
        assert_eq!(answer.status.as_u16(), status, "{id}");
    }
}
