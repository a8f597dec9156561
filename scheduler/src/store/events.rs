//! The log, read for a replay and cut when it is old.

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use sea_orm_migration::MigratorTrait;

use super::{
    DatabaseUrl, Store, StoreError, connect, entity::event, failed, load::all, migration::Migrator,
    refuse_newer,
};

/// Rows that are read at a time.
const READ_AT_ONCE: u64 = 10_000;

/// A row as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    pub seq: i64,
    pub at_ms: i64,
    pub payload: String,
}

/// The log of a database until `to_ms`, in order; also beside a running scheduler. `None` without a
/// database, or for one of a version that had no log.
pub async fn read(
    at: impl Into<DatabaseUrl>,
    to_ms: i64,
) -> Result<Option<Vec<StoredEvent>>, StoreError> {
    let at = at.into();
    if !at.is_there().await? {
        return Ok(None);
    }
    let db = connect(&at, 1).await?;
    refuse_newer(&db).await?;
    let pending = Migrator::get_pending_migrations(&db)
        .await
        .map_err(failed("read its version"))?;
    if !pending.is_empty() {
        return Ok(None);
    }
    let (mut found, mut after) = (Vec::new(), i64::MIN);
    loop {
        let page = event::Entity::find()
            .filter(event::Column::Seq.gt(after))
            .filter(event::Column::AtMs.lt(to_ms))
            .order_by_asc(event::Column::Seq)
            .limit(READ_AT_ONCE);
        let rows = all(&db, page, "read its log").await?;
        let Some(last) = rows.last() else {
            break;
        };
        after = last.seq;
        found.extend(rows.into_iter().map(|row| StoredEvent {
            seq: row.seq,
            at_ms: row.at_ms,
            payload: row.payload,
        }));
    }
    Ok(Some(found))
}

impl Store {
    /// Removes events from before; answers how many.
    pub async fn cut_log(&self, before_ms: i64) -> Result<u64, StoreError> {
        let step = "cut its log";
        let tx = self.write_tx().await?;
        let cut = event::Entity::delete_many()
            .filter(event::Column::AtMs.lt(before_ms))
            .exec(&tx)
            .await
            .map_err(failed(step))?;
        tx.commit().await.map_err(failed(step))?;
        Ok(cut.rows_affected)
    }
}
