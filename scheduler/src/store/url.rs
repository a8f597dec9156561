//! Where the database is: a SQLite file, or a PostgreSQL server.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use sea_orm::{
    ConnectionTrait, DbErr, RuntimeErr, SqlxPostgresConnector,
    sqlx::{
        self, ConnectOptions as _, Connection as _,
        postgres::{PgConnectOptions, PgConnection, PgPoolOptions},
    },
};
use serde::Deserialize;

use super::{FILE, StoreError, failed};

/// A server that accepts but does not answer is given up after this; its pools wait as long.
pub(super) const ANSWER_MAX: std::time::Duration = std::time::Duration::from_secs(3);
/// The database that every server has: there a missing one is made from.
const MAINTENANCE: &str = "postgres";
/// SQLSTATE of a database that is not there, and of one that somebody else made first.
const NO_DATABASE: &str = "3D000";
const MADE_BY_ANOTHER: [&str; 2] = ["42P04", "23505"];
/// What every connection asks of the server: durable commits, and that neither a lock nor a
/// transaction outlives a scheduler that vanished without closing its connection. One that froze
/// within a transaction holds the leader's row: it is let go before the lock is (`lock.rs`).
const SESSION: [(&str, &str); 6] = [
    ("synchronous_commit", "on"),
    ("lock_timeout", "10s"),
    ("idle_in_transaction_session_timeout", "5s"),
    ("tcp_keepalives_idle", "3"),
    ("tcp_keepalives_interval", "1"),
    ("tcp_keepalives_count", "3"),
];

/// `sqlite:FILE` or `postgres://USER:PASSWORD@HOST/NAME`. Shown without its password.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub enum DatabaseUrl {
    Sqlite(PathBuf),
    Postgres(Box<PgConnectOptions>),
}

/// Never holds the text itself, in which there may be a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseUrlError {
    #[error("the database must be sqlite:FILE or postgres://USER:PASSWORD@HOST/NAME")]
    Scheme,
    #[error("the address of the PostgreSQL database cannot be read: check host, port and options")]
    Postgres,
    #[error("the address names no PostgreSQL database: end it with /NAME")]
    NoName,
    #[error("sqlite: must name a file")]
    NoFile,
}

impl DatabaseUrl {
    /// Whether a server keeps it, which several schedulers can reach.
    pub fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// Whether the database has been made.
    pub(super) async fn is_there(&self) -> Result<bool, StoreError> {
        let options = match self {
            Self::Sqlite(file) => return Ok(file.is_file()),
            Self::Postgres(options) => options,
        };
        match answer(PgConnection::connect_with(options)).await {
            Ok(_) => Ok(true),
            Err(error) if code(&error).as_deref() == Some(NO_DATABASE) => Ok(false),
            Err(error) => Err(failed("open")(conn_err(error))),
        }
    }
}

impl From<&Path> for DatabaseUrl {
    /// The file of this data folder.
    fn from(folder: &Path) -> Self {
        Self::Sqlite(folder.join(FILE))
    }
}

impl FromStr for DatabaseUrl {
    type Err = DatabaseUrlError;

    fn from_str(text: &str) -> Result<Self, DatabaseUrlError> {
        if let Some(rest) = text.strip_prefix("sqlite:") {
            let file = rest.strip_prefix("//").unwrap_or(rest);
            let named = !file.is_empty() && !file.contains('?') && !file.starts_with(':');
            return named
                .then(|| Self::Sqlite(file.into()))
                .ok_or(DatabaseUrlError::NoFile);
        }
        if !["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| text.starts_with(scheme))
        {
            return Err(DatabaseUrlError::Scheme);
        }
        let options = PgConnectOptions::from_str(text).map_err(|_| DatabaseUrlError::Postgres)?;
        if options.get_database().is_none_or(str::is_empty) {
            return Err(DatabaseUrlError::NoName);
        }
        let options = options
            .application_name("dailies")
            .options(SESSION)
            .disable_statement_logging();
        Ok(Self::Postgres(Box::new(options)))
    }
}

impl TryFrom<String> for DatabaseUrl {
    type Error = DatabaseUrlError;

    fn try_from(text: String) -> Result<Self, DatabaseUrlError> {
        text.parse()
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(file) => write!(out, "sqlite:{}", file.display()),
            Self::Postgres(options) => write!(
                out,
                "postgres://{}:{}/{}",
                options.get_host(),
                options.get_port(),
                options.get_database().unwrap_or_default()
            ),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// One connection that belongs to no pool. Makes the database when the server does not have it,
/// as a SQLite file is made.
pub(super) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, StoreError> {
    let error = match answer(PgConnection::connect_with(options)).await {
        Err(error) if code(&error).as_deref() == Some(NO_DATABASE) => match make(options).await {
            Ok(()) => answer(PgConnection::connect_with(options)).await,
            Err(error) => return Err(failed("make its database")(error)),
        },
        connected => connected,
    };
    error.map_err(|error| failed("open")(conn_err(error)))
}

/// Runs `asked`, at most as long as an answer may take.
pub(super) async fn answer<T>(
    asked: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let given_up = |_| Err(sqlx::Error::PoolTimedOut);
    tokio::time::timeout(ANSWER_MAX, asked)
        .await
        .unwrap_or_else(given_up)
}

pub(super) fn conn_err(error: sqlx::Error) -> DbErr {
    DbErr::Conn(RuntimeErr::SqlxError(error.into()))
}

fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

async fn make(options: &PgConnectOptions) -> Result<(), DbErr> {
    let name = options
        .get_database()
        .unwrap_or_default()
        .replace('"', "\"\"");
    let server = options.clone().database(MAINTENANCE);
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(ANSWER_MAX);
    let pool = pool.connect_with(server).await.map_err(conn_err)?;
    let db = SqlxPostgresConnector::from_sqlx_postgres_pool(pool);
    // Text sorts by its bytes, as it does in SQLite.
    let sql = format!(
        "CREATE DATABASE \"{name}\" ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    );
    let made = db.execute_unprepared(&sql).await;
    db.close().await?;
    match made {
        Err(DbErr::Exec(RuntimeErr::SqlxError(error)))
            if code(&error).is_some_and(|code| MADE_BY_ANOTHER.contains(&code.as_str())) =>
        {
            Ok(())
        }
        made => made.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_user_and_password() {
        let url: DatabaseUrl = "postgres://ann:s3cret@db.example:6543/farm"
            .parse()
            .unwrap();
        assert_eq!(url.to_string(), "postgres://db.example:6543/farm");
        assert_eq!(format!("{url:?}"), "postgres://db.example:6543/farm");
        let file: DatabaseUrl = "sqlite:///var/lib/dailies/d.db".parse().unwrap();
        assert_eq!(file.to_string(), "sqlite:/var/lib/dailies/d.db");
    }

    #[test]
    fn an_address_that_cannot_be_used_is_refused_without_repeating_it() {
        for (text, error) in [
            ("mysql://ann:s3cret@db/farm", DatabaseUrlError::Scheme),
            (
                "postgres://ann:s3cret@db:port/farm",
                DatabaseUrlError::Postgres,
            ),
            ("postgres://ann:s3cret@db", DatabaseUrlError::NoName),
            ("postgres://ann:s3cret@db/", DatabaseUrlError::NoName),
            ("sqlite::memory:", DatabaseUrlError::NoFile),
            ("sqlite:", DatabaseUrlError::NoFile),
        ] {
            let refused = text.parse::<DatabaseUrl>().unwrap_err();
            assert_eq!(refused, error, "{text}");
            assert!(!refused.to_string().contains("s3cret"), "{refused}");
        }
    }
}
