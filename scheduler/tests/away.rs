//! A whole scheduler whose PostgreSQL goes away and comes back: 503 meanwhile, then it goes on.

use reqwest::StatusCode;
use scheduler::{Running, Scheduler, Settings};
use sea_orm::{ConnectionTrait, Database};

/// An address without a database, from `cargo xtask test`.
const VARIABLE: &str = "DAILIES_TEST_POSTGRES";

fn url(server: &str, name: &str) -> String {
    server.replacen("/?", &format!("/{name}?"), 1)
}

/// Plain HTTP is all that these tests speak; who does TLS has to be named all the same.
fn http() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().tls_certs_only([]);
    client.build().unwrap()
}

async fn status(farm: &Running) -> StatusCode {
    let answer = http().get(format!("{}/healthz", farm.url())).send().await;
    answer.unwrap().status()
}

#[tokio::test]
async fn a_scheduler_says_that_its_database_is_away_and_goes_on_when_it_is_back() {
    let Ok(server) = std::env::var(VARIABLE) else {
        println!("skipped: no PostgreSQL ({VARIABLE} names none)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        listen: ([127, 0, 0, 1], 0).into(),
        data: folder.path().to_path_buf(),
        database: Some(url(&server, "away").parse().unwrap()),
        ..Settings::default()
    };
    let farm = Scheduler::start(settings).await.unwrap();
    assert_eq!(status(&farm).await, StatusCode::OK);
    let hash = farm.store().keys().await.unwrap()[0].hash.clone();
    let revoke = || farm.dispatcher().revoke_key(hash.clone());

    let operator = Database::connect(url(&server, "postgres")).await.unwrap();
    let order = async |sql: &str| operator.execute_unprepared(sql).await.map(drop).unwrap();
    order("ALTER DATABASE away ALLOW_CONNECTIONS false").await;
    order("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'away'").await;
    assert!(
        revoke().await.is_err(),
        "a change was acknowledged while the database is away"
    );
    assert_eq!(status(&farm).await, StatusCode::SERVICE_UNAVAILABLE);

    order("ALTER DATABASE away ALLOW_CONNECTIONS true").await;
    while status(&farm).await != StatusCode::OK {
        tokio::task::yield_now().await;
    }
    revoke().await.unwrap();
    assert!(
        farm.store().keys().await.unwrap()[0]
            .revoked_at_ms
            .is_some()
    );
    farm.shutdown().await;
    order("DROP DATABASE away").await;
}
