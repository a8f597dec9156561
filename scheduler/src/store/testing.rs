//! The database of a test: SQLite, or the PostgreSQL server that `DAILIES_TEST_POSTGRES` names.
//!
//! One suite for both: `cargo xtask test` runs it a second time with a server of its own.

use std::path::Path;

use sea_orm::{ConnectionTrait, DatabaseConnection};

use super::{DatabaseUrl, connect};

/// `postgres://USER:PASSWORD@HOST/?OPTIONS`: the name of each test's own database comes behind the
/// host.
const VARIABLE: &str = "DAILIES_TEST_POSTGRES";

/// The database of the test that owns this folder; the same for the same folder.
pub fn database(folder: &Path) -> DatabaseUrl {
    let name = letters(folder);
    on_server(&name).unwrap_or_else(|| folder.into())
}

/// For a test of what only a server can do. `None`, and said so, when this run has none.
pub fn postgres(folder: &Path) -> Option<DatabaseUrl> {
    let url = on_server(&letters(folder));
    if url.is_none() {
        println!("skipped: no PostgreSQL ({VARIABLE} names none)");
    }
    url
}

fn letters(folder: &Path) -> String {
    let path = folder.display().to_string();
    path.chars().filter(char::is_ascii_alphanumeric).collect()
}

fn on_server(name: &str) -> Option<DatabaseUrl> {
    let server = std::env::var(VARIABLE).ok()?;
    let url = server.replacen("/?", &format!("/{name}?"), 1);
    Some(url.parse().unwrap())
}

/// A database that is away: every connection to it has ended, nobody gets a new one.
pub struct Outage {
    server: DatabaseConnection,
    name: String,
}

impl Outage {
    pub async fn begin(folder: &Path) -> Self {
        let server = on_server("postgres").unwrap();
        let outage = Self {
            server: connect(&server, 1).await.unwrap(),
            name: letters(folder),
        };
        outage.let_in(false).await;
        let all = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'",
            outage.name
        );
        outage.server.execute_unprepared(&all).await.unwrap();
        outage
    }

    pub async fn end(self) {
        self.let_in(true).await;
    }

    async fn let_in(&self, open: bool) {
        let name = &self.name;
        let sql = format!("ALTER DATABASE \"{name}\" ALLOW_CONNECTIONS {open}");
        self.server.execute_unprepared(&sql).await.unwrap();
    }
}
