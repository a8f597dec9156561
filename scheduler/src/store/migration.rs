//! The schema, as migrations that are only ever added: one file each, one line in [`STEPS`].

mod m0001_first;
mod m0002_order;
mod m0003_windows;
mod m0004_quota;
mod m0005_costs;
mod m0006_failures;
mod m0007_budgets;
mod m0008_deadlines;
mod m0009_waiting;
mod m0010_events;
mod m0011_storage;
mod m0012_groups;
mod m0013_memory;
mod m0014_pause;

use sea_orm::{ConnectionTrait, DbErr};
use sea_orm_migration::{MigrationName, MigrationTrait, MigratorTrait, SchemaManager, async_trait};

const STEPS: &[Step] = &[
    Step("m0001_first", m0001_first::STATEMENTS),
    Step("m0002_order", m0002_order::STATEMENTS),
    Step("m0003_windows", m0003_windows::STATEMENTS),
    Step("m0004_quota", m0004_quota::STATEMENTS),
    Step("m0005_costs", m0005_costs::STATEMENTS),
    Step("m0006_failures", m0006_failures::STATEMENTS),
    Step("m0007_budgets", m0007_budgets::STATEMENTS),
    Step("m0008_deadlines", m0008_deadlines::STATEMENTS),
    Step("m0009_waiting", m0009_waiting::STATEMENTS),
    Step("m0010_events", m0010_events::STATEMENTS),
    Step("m0011_storage", m0011_storage::STATEMENTS),
    Step("m0012_groups", m0012_groups::STATEMENTS),
    Step("m0013_memory", m0013_memory::STATEMENTS),
    Step("m0014_pause", m0014_pause::STATEMENTS),
];

/// Name and statements, each of which both databases understand.
#[derive(Clone, Copy)]
struct Step(&'static str, &'static [&'static str]);

impl MigrationName for Step {
    fn name(&self) -> &str {
        self.0
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Step {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for statement in self.1 {
            manager
                .get_connection()
                .execute_unprepared(statement)
                .await?;
        }
        Ok(())
    }
}

pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let boxed = |step: &Step| Box::new(*step) as Box<dyn MigrationTrait>;
        STEPS.iter().map(boxed).collect()
    }
}

/// Names of all migrations that this binary knows.
pub fn known() -> Vec<String> {
    STEPS.iter().map(|step| step.0.to_string()).collect()
}
