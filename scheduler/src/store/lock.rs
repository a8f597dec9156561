//! The lock of the leader on PostgreSQL: an advisory lock on a connection of its own.
//!
//! The server frees it when the connection ends, however the process ends. It says who may take the
//! next term; what keeps a deposed leader from writing is the term in `leader`, see `commit.rs`.

use sea_orm::sqlx::{self, Connection as _, postgres::PgConnection};

use super::{
    StoreError, failed,
    url::{DatabaseUrl, answer, conn_err, connect},
};

/// Number of the lock within its database.
pub(crate) const KEY: i64 = 0x0064_6169_6c69_6573;

/// A holder looks after its lock every second.
const SILENCE_MAX_S: u32 = 6;

/// Held until it is dropped or the server has lost the connection.
#[derive(Debug)]
pub struct Lock {
    connection: PgConnection,
}

impl Lock {
    /// `None` while another scheduler holds it. SQLite has no such lock: there a file does it.
    ///
    /// # Errors
    /// [`StoreError`] when the server cannot be asked.
    pub async fn try_take(url: &DatabaseUrl) -> Result<Option<Self>, StoreError> {
        let DatabaseUrl::Postgres(options) = url else {
            return Ok(None);
        };
        let mut connection = connect(options).await?;
        // A holder that is stopped or starved keeps its connection, and its kernel answers for it:
        // the server ends what says nothing. One before 14 does not know the word.
        let silence = format!("SET idle_session_timeout = '{SILENCE_MAX_S}s'");
        let limited = sqlx::raw_sql(sqlx::AssertSqlSafe(silence));
        if let Err(error) = answer(limited.execute(&mut connection)).await {
            tracing::debug!(%error, "a leader that hangs keeps its lock on this server");
        }
        let asked = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(KEY);
        let taken: bool = answer(asked.fetch_one(&mut connection))
            .await
            .map_err(|error| failed("ask for its lock")(conn_err(error)))?;
        Ok(taken.then_some(Self { connection }))
    }

    /// Whether the server still knows this connection, and so the lock.
    pub async fn is_held(&mut self) -> bool {
        answer(self.connection.ping()).await.is_ok()
    }

    /// Gives it back, so that another can take it at once.
    pub async fn release(self) {
        if let Err(error) = self.connection.close().await {
            tracing::debug!(%error, "the connection of the lock did not close cleanly");
        }
    }
}
