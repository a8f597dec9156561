//! Many rows of a table in one statement: inserts, upserts, and updates that each name what they expect.

use sea_orm::{
    ActiveModelTrait, ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, EntityTrait,
    IdenStatic, IntoActiveModel, ModelTrait, Statement, Value, sea_query::OnConflict,
};

/// Rows in one statement. Fewer rows are split by halves, so that only a few texts of a statement
/// exist and each is prepared once.
const ROWS_MAX: usize = 128;

/// Inserts rows that are not there yet.
pub async fn insert<M, A>(tx: &DatabaseTransaction, models: Vec<M>) -> Result<(), DbErr>
where
    M: IntoActiveModel<A>,
    A: ActiveModelTrait,
{
    put(tx, models, None).await
}

/// Inserts rows, or what `replace` says where they are there.
pub async fn put<M, A>(
    tx: &DatabaseTransaction,
    models: Vec<M>,
    replace: Option<OnConflict>,
) -> Result<(), DbErr>
where
    M: IntoActiveModel<A>,
    A: ActiveModelTrait,
{
    let mut models: Vec<A> = models.into_iter().map(M::into_active_model).collect();
    while !models.is_empty() {
        let rest = models.split_off(rows_of(models.len()));
        let insert = <A::Entity as EntityTrait>::insert_many(models);
        let insert = match &replace {
            Some(replace) => insert.on_conflict(replace.clone()),
            None => insert,
        };
        insert.exec_without_returning(tx).await?;
        models = rest;
    }
    Ok(())
}

/// Which columns of a table an update finds its rows by, changes, and expects as they were.
pub struct Update<'a, E: EntityTrait> {
    pub key: &'a [E::Column],
    pub set: &'a [E::Column],
    /// Columns whose values before the update are given with each row.
    pub guards: &'a [E::Column],
}

impl<E: EntityTrait> Update<'_, E>
where
    E::Model: ModelTrait<Entity = E>,
{
    /// Updates each row that is as expected; answers how many were.
    pub async fn run(
        &self,
        tx: &DatabaseTransaction,
        rows: &[(E::Model, Vec<Value>)],
    ) -> Result<u64, DbErr> {
        let (mut rest, mut met) = (rows, 0);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rows_of(rest.len()));
            let values = now
                .iter()
                .flat_map(|row| self.values(row))
                .collect::<Vec<_>>();
            let backend = tx.get_database_backend();
            let sql = self.sql(backend, now.len());
            let done = tx
                .execute_raw(Statement::from_sql_and_values(backend, sql, values))
                .await?;
            met += done.rows_affected();
            rest = later;
        }
        Ok(met)
    }

    fn values<'a>(
        &'a self,
        (model, were): &'a (E::Model, Vec<Value>),
    ) -> impl Iterator<Item = Value> + 'a {
        assert_eq!(were.len(), self.guards.len(), "each guard has its value");
        let columns = self.key.iter().chain(self.set);
        columns
            .map(|column| model.get(*column))
            .chain(were.iter().cloned())
    }

    /// `UPDATE t SET c = v.column2 FROM (VALUES (…), …) AS v WHERE t.id = v.column1 AND …`; both
    /// databases name the columns of `VALUES` so.
    fn sql(&self, backend: DbBackend, rows: usize) -> String {
        let table = E::default().table_name().to_owned();
        let width = self.key.len() + self.set.len() + self.guards.len();
        let name = |column: &E::Column| format!("\"{}\"", column.as_str());
        let pair = |(at, column): (usize, &E::Column)| (name(column), at + 1);
        let columns = || self.key.iter().chain(self.set).chain(self.guards);
        let numbered: Vec<_> = columns().enumerate().map(pair).collect();
        let (key, rest) = numbered.split_at(self.key.len());
        let (set, guards) = rest.split_at(self.set.len());
        let sets: Vec<_> = set
            .iter()
            .map(|(name, at)| format!("{name} = v.column{at}"))
            .collect();
        let found = key
            .iter()
            .map(|(name, at)| format!("\"{table}\".{name} = v.column{at}"));
        let as_were = guards
            .iter()
            .map(|(name, at)| format!("\"{table}\".{name} IS NOT DISTINCT FROM v.column{at}"));
        let wheres: Vec<_> = found.chain(as_were).collect();
        let tuples: Vec<_> = (0..rows)
            .map(|row| {
                let marks: Vec<_> = (1..=width)
                    .map(|at| mark(backend, row * width + at))
                    .collect();
                format!("({})", marks.join(","))
            })
            .collect();
        format!(
            "UPDATE \"{table}\" SET {} FROM (VALUES {}) AS v WHERE {}",
            sets.join(", "),
            tuples.join(","),
            wheres.join(" AND ")
        )
    }
}

fn mark(backend: DbBackend, number: usize) -> String {
    match backend {
        DbBackend::Postgres => format!("${number}"),
        _ => "?".into(),
    }
}

/// The largest power of two that is not more than what is left.
fn rows_of(left: usize) -> usize {
    match left {
        0 => 0,
        left => ROWS_MAX.min(1 << left.ilog2()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::entity::usage;

    #[test]
    fn an_update_of_two_rows_finds_each_by_its_key_and_guards() {
        let update = Update::<usage::Entity> {
            key: &[usage::Column::Account],
            set: &[usage::Column::Exponent],
            guards: &[usage::Column::MantissaBits],
        };
        let sql = r#"UPDATE "usage" SET "exponent" = v.column2 FROM (VALUES ($1,$2,$3),($4,$5,$6)) AS v WHERE "usage"."account" = v.column1 AND "usage"."mantissa_bits" IS NOT DISTINCT FROM v.column3"#;
        assert_eq!(update.sql(DbBackend::Postgres, 2), sql);
        let sql = update.sql(DbBackend::Sqlite, 1);
        assert!(sql.contains("(VALUES (?,?,?)) AS v"), "{sql}");
    }

    #[test]
    fn rows_are_split_by_powers_of_two() {
        assert_eq!([0, 1, 3, 128, 400].map(rows_of), [0, 1, 2, 128, 128]);
    }
}
