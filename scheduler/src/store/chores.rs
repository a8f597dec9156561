//! The `chore` table: what must run, when, and who runs it. A run is fenced by its number.

use sea_orm::{
    ColumnTrait, Condition, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder,
    sea_query::{Expr, ExprTrait},
};

use super::{Store, StoreError, entity::chore, failed};

/// A run that this process holds until `leased_until_ms`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenChore {
    pub name: String,
    pub payload: String,
    pub run: i64,
}

impl Store {
    /// Enters a chore that is due at once, unless it is there already.
    pub async fn enter_chore(&self, name: &str, payload: &str, now: i64) -> Result<(), StoreError> {
        let row = chore::Model {
            name: name.into(),
            payload: payload.into(),
            run: 0,
            next_at_ms: now,
            leased_until_ms: None,
            last_done_at_ms: None,
            last_error: None,
            failures: 0,
        };
        chore::Entity::insert(row.into_active_model())
            .on_conflict_do_nothing_on([chore::Column::Name])
            .exec(&self.writer)
            .await
            .map(drop)
            .map_err(failed("enter a chore"))
    }

    /// Takes the chore that has been due the longest and that nobody runs.
    pub async fn take_chore(
        &self,
        now: i64,
        lease_ms: i64,
    ) -> Result<Option<TakenChore>, StoreError> {
        let free = Condition::any()
            .add(chore::Column::LeasedUntilMs.is_null())
            .add(chore::Column::LeasedUntilMs.lte(now));
        let due = chore::Entity::find()
            .filter(chore::Column::NextAtMs.lte(now))
            .filter(free.clone())
            .order_by_asc(chore::Column::NextAtMs)
            .one(&self.readers)
            .await
            .map_err(failed("look for a chore"))?;
        let Some(due) = due else {
            return Ok(None);
        };
        let taken = chore::Entity::update_many()
            .col_expr(chore::Column::Run, Expr::col(chore::Column::Run).add(1))
            .col_expr(chore::Column::LeasedUntilMs, Expr::value(now + lease_ms))
            .filter(chore::Column::Name.eq(due.name.as_str()))
            .filter(chore::Column::Run.eq(due.run))
            .filter(free)
            .exec(&self.writer)
            .await
            .map_err(failed("take a chore"))?;
        Ok((taken.rows_affected == 1).then_some(TakenChore {
            name: due.name,
            payload: due.payload,
            run: due.run + 1,
        }))
    }

    /// False when the run is not the current one any more: it must stop.
    pub async fn renew_chore(
        &self,
        name: &str,
        run: i64,
        until_ms: i64,
    ) -> Result<bool, StoreError> {
        let renewed = chore::Entity::update_many()
            .col_expr(chore::Column::LeasedUntilMs, Expr::value(until_ms))
            .filter(current(name, run))
            .exec(&self.writer)
            .await
            .map_err(failed("renew a chore"))?;
        Ok(renewed.rows_affected == 1)
    }

    /// Ends a run well. False when it was not the current one; then nothing changed.
    pub async fn finish_chore(
        &self,
        name: &str,
        run: i64,
        now: i64,
        next_at_ms: i64,
    ) -> Result<bool, StoreError> {
        let done = chore::Entity::update_many()
            .col_expr(chore::Column::NextAtMs, Expr::value(next_at_ms))
            .col_expr(chore::Column::LeasedUntilMs, Expr::value(None::<i64>))
            .col_expr(chore::Column::LastDoneAtMs, Expr::value(now))
            .col_expr(chore::Column::LastError, Expr::value(None::<String>))
            .col_expr(chore::Column::Failures, Expr::value(0))
            .filter(current(name, run))
            .exec(&self.writer)
            .await
            .map_err(failed("finish a chore"))?;
        Ok(done.rows_affected == 1)
    }

    /// Ends a run badly; answers how many in a row have, or `None` for a run that is not current.
    pub async fn fail_chore(
        &self,
        name: &str,
        run: i64,
        error: &str,
        next_at_ms: i64,
    ) -> Result<Option<i64>, StoreError> {
        let step = "note that a chore failed";
        let noted = chore::Entity::update_many()
            .col_expr(chore::Column::NextAtMs, Expr::value(next_at_ms))
            .col_expr(chore::Column::LeasedUntilMs, Expr::value(None::<i64>))
            .col_expr(chore::Column::LastError, Expr::value(error))
            .col_expr(
                chore::Column::Failures,
                Expr::col(chore::Column::Failures).add(1),
            )
            .filter(current(name, run))
            .exec(&self.writer)
            .await
            .map_err(failed(step))?;
        if noted.rows_affected != 1 {
            return Ok(None);
        }
        let row = chore::Entity::find_by_id(name)
            .one(&self.writer)
            .await
            .map_err(failed(step))?;
        Ok(row.map(|row| row.failures))
    }

    /// All chores by name, for an operator.
    pub async fn chores(&self) -> Result<Vec<chore::Model>, StoreError> {
        chore::Entity::find()
            .order_by_asc(chore::Column::Name)
            .all(&self.readers)
            .await
            .map_err(failed("read the chores"))
    }
}

/// The run that holds the chore now: a later take has a later number, an end holds nothing.
fn current(name: &str, run: i64) -> Condition {
    Condition::all()
        .add(chore::Column::Name.eq(name))
        .add(chore::Column::Run.eq(run))
        .add(chore::Column::LeasedUntilMs.is_not_null())
}
