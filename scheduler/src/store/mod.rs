//! The database, SQLite or PostgreSQL: the only place that speaks SQL.
//!
//! One connection writes, several read. [`commit`] turns the core's writes into one transaction,
//! [`load`] reads what the core is folded from, [`read`] is what the API shows,
//! [`health`] is what was observed of nodes, [`upkeep`] is what chores remove.

mod batch;
pub mod charges;
pub mod chores;
mod commit;
mod convert;
mod costs;
pub mod entity;
pub mod events;
mod group;
pub mod health;
mod load;
pub mod lock;
mod many;
pub mod migration;
pub mod quota;
pub mod read;
mod rules;
pub mod upkeep;
mod url;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{path::Path, time::Duration};

use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    EntityTrait, IsolationLevel, QueryFilter, SqliteTransactionMode, SqlxPostgresConnector,
    SqlxSqliteConnector, Statement, TransactionOptions, TransactionTrait,
    sea_query::{Expr, ExprTrait},
    sqlx::{
        self, ConnectOptions as _, Connection as _,
        postgres::{PgConnectOptions, PgPoolOptions},
        sqlite::{
            SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions,
            SqliteSynchronous,
        },
    },
};
use sea_orm_migration::{MigratorTrait, SchemaManager};

use self::entity::{leader, task};
pub use self::url::{DatabaseUrl, DatabaseUrlError};
use crate::core::limits::BACKOFF_MAX_MS;

/// Name of the database file in the data folder.
pub const FILE: &str = "dailies.db";
/// Connections that only read.
const READERS: u32 = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
const MMAP_BYTES: &str = "268435456";
const JOURNAL_BYTES_MAX: &str = "67108864";

/// Handle to the database; cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    writer: DatabaseConnection,
    readers: DatabaseConnection,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database failed to {step}")]
    Failed {
        step: &'static str,
        #[source]
        source: DbErr,
    },
    /// Another scheduler has taken over, or the file was put back from a copy.
    #[error("the database has another leader than term {term}")]
    Deposed { term: u64 },
    /// Memory and database differ; the caller folds anew.
    #[error("the database held another state than expected: {write}")]
    Unexpected { write: String },
    #[error("the database holds a {column} that cannot be read: {value}")]
    Broken { column: &'static str, value: String },
    #[error(
        "the database was made by a newer version (it has {version}); start that version, or restore a backup made before the upgrade"
    )]
    Newer { version: String },
}

/// Names the step that an error of the database stopped.
fn failed(step: &'static str) -> impl FnOnce(DbErr) -> StoreError {
    move |source| StoreError::Failed { step, source }
}

impl Store {
    /// Opens or makes the database (a folder means the file in it) and brings its schema up to
    /// date. On PostgreSQL the caller holds the leader's lock.
    pub async fn open(at: impl Into<DatabaseUrl>) -> Result<Self, StoreError> {
        let at = at.into();
        let writer = connect(&at, 1).await?;
        refuse_newer(&writer).await?;
        migration::Migrator::up(&writer, None)
            .await
            .map_err(failed("bring its schema up to date"))?;
        let readers = connect(&at, READERS).await?;
        Ok(Self { writer, readers })
    }

    /// Opens a database beside whoever leads, to read from it. `None` while it is not there, or while
    /// its schema is older than this version's: only a leader brings it up to date.
    pub async fn open_to_read(at: &DatabaseUrl) -> Result<Option<Self>, StoreError> {
        if !at.is_there().await? {
            return Ok(None);
        }
        let readers = connect(at, READERS).await?;
        refuse_newer(&readers).await?;
        let pending = migration::Migrator::get_pending_migrations(&readers).await;
        let pending = pending.map_err(failed("read its version"))?;
        let writer = readers.clone();
        Ok(pending.is_empty().then_some(Self { writer, readers }))
    }

    /// Becomes the leader of the next term. The caller holds the lock that keeps others out.
    pub async fn take_term(&self) -> Result<u64, StoreError> {
        let step = "take the next term";
        let tx = self.write_tx().await?;
        leader::Entity::update_many()
            .col_expr(leader::Column::Term, Expr::col(leader::Column::Term).add(1))
            .col_expr(leader::Column::Address, Expr::value(None::<String>))
            .exec(&tx)
            .await
            .map_err(failed(step))?;
        let row = leader::Entity::find_by_id(1)
            .one(&tx)
            .await
            .map_err(failed(step))?;
        tx.commit().await.map_err(failed(step))?;
        row.map(|row| row.term as u64).ok_or(StoreError::Broken {
            column: "leader",
            value: "no row".into(),
        })
    }

    /// Ends backoffs that are longer than any: the clock of the leader who set them was ahead.
    pub async fn end_impossible_waits(&self, now_ms: i64) -> Result<(), StoreError> {
        let ended = task::Entity::update_many()
            .col_expr(task::Column::EligibleAtMs, Expr::value(now_ms))
            .filter(task::Column::Backoff.is_not_null())
            .filter(task::Column::EligibleAtMs.gt(now_ms + BACKOFF_MAX_MS))
            .exec(&self.writer)
            .await
            .map_err(failed("end waits of another clock"))?;
        if ended.rows_affected > 0 {
            tracing::warn!(
                tasks = ended.rows_affected,
                "the clock has gone back: ended backoffs"
            );
        }
        Ok(())
    }

    /// Tells everyone who reads the database where the leader of this term answers.
    pub async fn advertise(&self, term: u64, address: &str) -> Result<(), StoreError> {
        let told = leader::Entity::update_many()
            .col_expr(leader::Column::Address, Expr::value(address))
            .filter(leader::Column::Term.eq(term.cast_signed()))
            .exec(&self.writer)
            .await
            .map_err(failed("note where it answers"))?;
        match told.rows_affected {
            1 => Ok(()),
            _ => Err(StoreError::Deposed { term }),
        }
    }

    /// Where the last leader answers, which may have gone since.
    pub async fn leader_address(&self) -> Result<Option<String>, StoreError> {
        let row = leader::Entity::find_by_id(1).one(&self.readers).await;
        let row = row.map_err(failed("read who leads"))?;
        Ok(row.and_then(|row| row.address))
    }

    /// A transaction that takes the write lock at once; one that reads first could not get it later.
    async fn write_tx(&self) -> Result<DatabaseTransaction, StoreError> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        self.writer
            .begin_with_options(options)
            .await
            .map_err(failed("begin a write"))
    }

    /// A transaction that sees the database as it is now, whatever is committed meanwhile.
    async fn read_tx(&self) -> Result<DatabaseTransaction, StoreError> {
        let server = self.readers.get_database_backend() == DbBackend::Postgres;
        let options = TransactionOptions {
            // SQLite reads so in any case, and would complain about being asked.
            isolation_level: server.then_some(IsolationLevel::RepeatableRead),
            ..TransactionOptions::default()
        };
        self.readers
            .begin_with_options(options)
            .await
            .map_err(failed("begin a read"))
    }

    /// Runs any statement, so that a test can make the database fail.
    #[cfg(test)]
    pub(crate) async fn execute(&self, sql: &str) {
        let done = self.writer.execute_unprepared(sql).await;
        done.expect("tests run statements that the database takes");
    }

    /// Ends all connections; clones of this handle fail from then on.
    pub async fn close(&self) {
        // An error here has nothing left to spoil: everything acknowledged is on disk.
        if let Err(error) = self.readers.clone().close().await {
            tracing::debug!(%error, "the readers did not close cleanly");
        }
        if let Err(error) = self.writer.clone().close().await {
            tracing::debug!(%error, "the writer did not close cleanly");
        }
    }
}

async fn connect(at: &DatabaseUrl, connections: u32) -> Result<DatabaseConnection, StoreError> {
    match at {
        DatabaseUrl::Sqlite(file) => connect_sqlite(file, connections).await,
        DatabaseUrl::Postgres(options) => connect_postgres(options, connections).await,
    }
}

async fn connect_sqlite(file: &Path, connections: u32) -> Result<DatabaseConnection, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        .pragma("temp_store", "memory")
        .pragma("mmap_size", MMAP_BYTES)
        .pragma("journal_size_limit", JOURNAL_BYTES_MAX)
        .disable_statement_logging();
    let pool = SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .before_acquire(|connection, _| Box::pin(is_in_no_transaction(connection)))
        .connect_with(options)
        .await
        .map_err(|error| failed("open")(url::conn_err(error)))?;
    Ok(SqlxSqliteConnector::from_sqlx_sqlite_pool(pool))
}

/// A connection of which this is not true is closed. SQLite ends a transaction by itself when it meets
/// a full disk; sqlx does not notice, takes the next one for a part of it, and then a commit would only
/// release a savepoint of what nobody ever commits.
async fn is_in_no_transaction(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    connection.ping().await?; // behind a rollback that waits to be run
    Ok(!connection.is_in_transaction())
}

/// Not by sea-orm's `ConnectOptions`, whose text shows the password to a log of everything.
async fn connect_postgres(
    options: &PgConnectOptions,
    connections: u32,
) -> Result<DatabaseConnection, StoreError> {
    drop(url::connect(options).await?); // says why it cannot, where a pool would only time out
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(url::ANSWER_MAX)
        .connect_lazy_with(options.clone());
    Ok(SqlxPostgresConnector::from_sqlx_postgres_pool(pool))
}

async fn refuse_newer(db: &DatabaseConnection) -> Result<(), StoreError> {
    let step = "read its version";
    let backend = db.get_database_backend();
    let manager = SchemaManager::new(db);
    let table = manager.has_table("seaql_migrations").await;
    if !table.map_err(failed(step))? {
        return Ok(());
    }
    let sql = "SELECT version FROM seaql_migrations";
    let rows = db
        .query_all_raw(Statement::from_string(backend, sql))
        .await
        .map_err(failed(step))?;
    let known = migration::known();
    for row in rows {
        let version: String = row.try_get("", "version").map_err(failed(step))?;
        if !known.contains(&version) {
            return Err(StoreError::Newer { version });
        }
    }
    Ok(())
}
