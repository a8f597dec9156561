//! Nodes: what an operator sees and orders; and how high a priority a key may send.

use schemas::agent::{DeviceSample, Heartbeat};
use serde_json::json;

use super::*;
use crate::core::agent::agent_id;

const NODES: &str = "/v1/organization/nodes";
const NOTICES: &str = "/v1/organization/notices";
const ADMIN: &[(&str, &str)] = &[("authorization", "Bearer sk-admin")];

impl Farm {
    async fn look(&self, path: &str) -> Answer {
        let request = request(Method::GET, path, ADMIN);
        self.send(request.body(Body::empty()).unwrap()).await
    }

    async fn order_node(&self, path: &str, body: Value) -> Answer {
        let json = ("content-type", "application/json");
        let request = request(Method::POST, path, &[ADMIN[0], json]);
        self.send(request.body(Body::from(body.to_string())).unwrap())
            .await
    }

    /// The agent says what its devices are like.
    async fn beat(&self, devices: Vec<DeviceSample>) {
        let beat = Heartbeat {
            agent: agent_id("node"),
            boot: self.boot,
            term: 1,
            leases: Vec::new(),
            devices,
        };
        self.dispatcher.heartbeat(beat).await.unwrap();
    }
}

#[tokio::test]
async fn only_an_operator_sees_nodes_and_orders_about_them() {
    let farm = Farm::start().await;
    for path in [NODES, NOTICES] {
        let answer = farm.get(path).await;
        assert_eq!(answer.error(), (403, "insufficient_permissions".into()));
    }
    let answer = farm.post(&format!("{NODES}/node/drain"), json!({})).await;
    assert_eq!(answer.error(), (403, "insufficient_permissions".into()));
}

#[tokio::test]
async fn a_node_is_cordoned_and_the_order_is_kept_with_who_gave_it() {
    let farm = Farm::start().await;
    farm.agent(&[]).await;
    let path = format!("{NODES}/node/cordon");
    let answer = farm
        .order_node(&path, json!({"reason": "new cables"}))
        .await;
    assert_eq!(answer.json()["changed"], true);
    assert_eq!(answer.json()["node"]["state"], "cordoned");
    assert_eq!(answer.json()["node"]["cordon"], "new cables");
    let again = farm.order_node(&path, json!({})).await;
    assert_eq!(again.json()["changed"], false);
    farm.post("/v1/videos", json!({"prompt": "a ball"})).await;
    assert!(
        farm.lease(agent_id("node")).await.is_none(),
        "a cordoned node gets nothing"
    );

    let notices = farm.look(NOTICES).await.json();
    assert_eq!(notices["data"][0]["kind"], "cordon");
    assert_eq!(notices["data"][0]["actor"], "sk-admin");
    assert_eq!(notices["data"][0]["subject"], "node");
    assert_eq!(notices["data"][0]["detail"]["why"], "new cables");
    assert_eq!(notices["data"].as_array().unwrap().len(), 1);

    farm.order_node(&format!("{NODES}/node/uncordon"), json!({}))
        .await;
    assert!(farm.lease(agent_id("node")).await.is_some());
}

#[tokio::test]
async fn what_a_device_says_of_itself_is_shown_and_a_hardware_fault_takes_it_out() {
    let farm = Farm::start().await;
    farm.agent(&[]).await;
    let sample = DeviceSample {
        temperature_c: Some(81),
        xids: vec![79],
        ..DeviceSample::default()
    };
    farm.beat(vec![sample]).await;
    let node = farm.look(&format!("{NODES}/node")).await.json();
    assert_eq!(node["state"], "quarantined", "{node}");
    assert_eq!(node["samples"][0]["temperature_c"], 81);
    let device = &node["devices"][0];
    assert_eq!(device["state"], "quarantined");
    assert_eq!(device["quarantine"]["cause"], "xid");
    assert_eq!(device["quarantine"]["why"], "Xid 79");
    assert!(device["quarantine"]["probe_at"].is_i64());
    let notices = farm.look(NOTICES).await.json();
    assert_eq!(notices["data"][0]["kind"], "quarantined");
    assert_eq!(notices["data"][0]["actor"], Value::Null);

    let path = format!("{NODES}/node/release");
    let answer = farm.order_node(&path, json!({"device": 0})).await;
    assert_eq!(answer.json()["node"]["state"], "online");
}

#[tokio::test]
async fn an_order_that_makes_no_sense_is_refused_with_a_reason() {
    let farm = Farm::start().await;
    farm.agent(&[]).await;
    for (path, body, expected) in [
        ("nobody/drain", json!({}), (404, "not_found")),
        ("node/explode", json!({}), (404, "not_found")),
        (
            "node/quarantine",
            json!({"device": 7}),
            (400, "invalid_value"),
        ),
        (
            "node/quarantine",
            json!({"device": "x"}),
            (400, "invalid_type"),
        ),
        (
            "node/drain",
            json!({"when": "now"}),
            (400, "unknown_parameter"),
        ),
    ] {
        let answer = farm.order_node(&format!("{NODES}/{path}"), body).await;
        assert_eq!(answer.error(), (expected.0, expected.1.into()), "{path}");
    }
    farm.order_node(&format!("{NODES}/node/drain"), json!({}))
        .await;
    let gone = farm
        .order_node(&format!("{NODES}/node/drain"), json!({}))
        .await;
    assert_eq!(gone.error(), (400, "invalid_value".into()));
    assert!(gone.json()["error"]["message"].to_string().contains("gone"));
    let missing = farm.look(&format!("{NODES}/nobody")).await;
    assert_eq!(missing.error(), (404, "not_found".into()));
}

#[tokio::test]
async fn a_key_sends_no_higher_priority_than_it_may() {
    let farm = Farm::start().await;
    farm.agent(&[]).await;
    let modest = [
        ("authorization", "Bearer sk-modest"),
        ("content-type", "application/json"),
    ];
    let ask = async |path: &str, priority: &str| {
        let body = json!({"prompt": "a ball", "priority": priority});
        let request = request(Method::POST, path, &modest);
        farm.send(request.body(Body::from(body.to_string())).unwrap())
            .await
    };
    for fine in ["low", "normal"] {
        assert_eq!(ask("/v1/videos", fine).await.status, 200, "{fine}");
    }
    for too_high in ["high", "urgent"] {
        let answer = ask("/v1/videos", too_high).await;
        assert_eq!(answer.error(), (403, "insufficient_permissions".into()));
        assert_eq!(answer.json()["error"]["param"], "priority");
        let verdict = ask("/v1/videos/estimate", too_high).await.json();
        assert_eq!(verdict["accepted"], false, "{verdict}");
    }
    assert_eq!(farm.count().await, 2);
}
