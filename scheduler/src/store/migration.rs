//! The schema, as migrations that are only ever added.

use sea_orm::{ConnectionTrait, DbErr};
use sea_orm_migration::{MigrationName, MigrationTrait, MigratorTrait, SchemaManager, async_trait};

pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(First),
            Box::new(Order),
            Box::new(Windows),
            Box::new(Quota),
        ]
    }
}

/// Names of all migrations that this binary knows.
pub fn known() -> Vec<String> {
    Migrator::migrations()
        .iter()
        .map(|migration| migration.name().to_string())
        .collect()
}

struct First;

impl MigrationName for First {
    fn name(&self) -> &str {
        "m0001_first"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for First {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, FIRST).await
    }
}

/// Fair shares, ranks and preemption.
struct Order;

impl MigrationName for Order {
    fn name(&self) -> &str {
        "m0002_order"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Order {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, ORDER).await
    }
}

/// Jobs that wait for a window.
struct Windows;

impl MigrationName for Windows {
    fn name(&self) -> &str {
        "m0003_windows"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Windows {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, WINDOWS).await
    }
}

const WINDOWS: &[&str] = &["ALTER TABLE job ADD COLUMN start_window text"];

/// Limits of accounts, the chained ledger, what operators did.
struct Quota;

impl MigrationName for Quota {
    fn name(&self) -> &str {
        "m0004_quota"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Quota {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, QUOTA).await
    }
}

async fn run(manager: &SchemaManager<'_>, statements: &[&str]) -> Result<(), DbErr> {
    for statement in statements {
        manager
            .get_connection()
            .execute_unprepared(statement)
            .await?;
    }
    Ok(())
}

const ORDER: &[&str] = &[
    "ALTER TABLE account ADD COLUMN weight integer NOT NULL DEFAULT 1",
    "ALTER TABLE job ADD COLUMN rank integer NOT NULL DEFAULT 0",
    "ALTER TABLE task ADD COLUMN preemptions bigint NOT NULL DEFAULT 0",
    "CREATE TABLE usage (account uuid PRIMARY KEY, exponent bigint NOT NULL,
        mantissa_bits bigint NOT NULL)",
];

/// Entries from before have no hash: the chain begins behind them.
/// The key of the first start is the operator's.
const QUOTA: &[&str] = &[
    "ALTER TABLE balance ADD COLUMN mint_us bigint NOT NULL DEFAULT 0",
    "ALTER TABLE ledger_entry ADD COLUMN why text",
    "ALTER TABLE ledger_entry ADD COLUMN hash text",
    "CREATE INDEX ledger_entry_account ON ledger_entry (account, seq)",
    "ALTER TABLE api_key ADD COLUMN admin boolean NOT NULL DEFAULT FALSE",
    "UPDATE api_key SET admin = TRUE WHERE name = 'first'
        AND created_at_ms = (SELECT MIN(created_at_ms) FROM api_key)",
    "CREATE TABLE quota (account uuid PRIMARY KEY, metered boolean NOT NULL,
        overdraft_us bigint NOT NULL, jobs_max bigint, devices_max bigint)",
    "CREATE TABLE audit (seq bigint PRIMARY KEY, at_ms bigint NOT NULL, actor text NOT NULL,
        command text NOT NULL, account uuid NOT NULL, was text NOT NULL, became text NOT NULL)",
];

const FIRST: &[&str] = &[
    "CREATE TABLE leader (id integer PRIMARY KEY, term bigint NOT NULL, seq bigint NOT NULL)",
    "INSERT INTO leader (id, term, seq) VALUES (1, 0, 0)",
    "CREATE TABLE account (id uuid PRIMARY KEY, parent uuid, level text NOT NULL,
        name text NOT NULL UNIQUE, created_at_ms bigint NOT NULL)",
    "CREATE INDEX account_parent ON account (parent)",
    "CREATE TABLE api_key (hash text PRIMARY KEY, project uuid NOT NULL, name text NOT NULL,
        created_at_ms bigint NOT NULL, revoked_at_ms bigint)",
    "CREATE TABLE job (id uuid PRIMARY KEY, seq bigint NOT NULL UNIQUE, project uuid NOT NULL,
        request text NOT NULL, seed bigint NOT NULL, band text NOT NULL, state text NOT NULL,
        progress integer NOT NULL, created_at_ms bigint NOT NULL, ended_at_ms bigint,
        error_code text, error_message text)",
    "CREATE INDEX job_page ON job (project, created_at_ms DESC, id DESC)",
    "CREATE INDEX job_live ON job (state) WHERE ended_at_ms IS NULL",
    "CREATE INDEX job_ended ON job (ended_at_ms) WHERE ended_at_ms IS NOT NULL",
    "CREATE TABLE task (id uuid PRIMARY KEY, job uuid NOT NULL, place integer NOT NULL,
        kind text NOT NULL, spec text NOT NULL, inputs text NOT NULL, estimate_us bigint NOT NULL,
        state text NOT NULL, attempt bigint NOT NULL, inputs_left integer, eligible_at_ms bigint,
        backoff text, agent uuid, boot uuid, device bigint, poll_id bigint, granted_at_ms bigint,
        output text, failed_class text, failed_message text, failures text NOT NULL,
        failed_on text NOT NULL, used_us bigint NOT NULL, step bigint NOT NULL,
        steps bigint NOT NULL, UNIQUE (job, place))",
    "CREATE INDEX task_live ON task (state) WHERE state IN ('blocked', 'ready', 'leased')",
    "CREATE TABLE attempt (task uuid NOT NULL, number bigint NOT NULL, term bigint NOT NULL,
        agent uuid NOT NULL, boot uuid NOT NULL, device bigint NOT NULL,
        granted_at_ms bigint NOT NULL, ended_at_ms bigint, outcome text, message text,
        device_us bigint, PRIMARY KEY (task, number))",
    "CREATE INDEX attempt_granted ON attempt (granted_at_ms)",
    "CREATE TABLE checkpoint (task uuid NOT NULL, step bigint NOT NULL, digest text NOT NULL,
        agent uuid NOT NULL, made_at_ms bigint NOT NULL, PRIMARY KEY (task, step))",
    "CREATE INDEX checkpoint_digest ON checkpoint (digest)",
    "CREATE TABLE artefact_ref (job uuid NOT NULL, task uuid NOT NULL, variant text NOT NULL,
        digest text NOT NULL, bytes bigint NOT NULL, PRIMARY KEY (job, task, variant, digest))",
    "CREATE INDEX artefact_ref_digest ON artefact_ref (digest)",
    "CREATE TABLE reservation (job uuid PRIMARY KEY, project uuid NOT NULL, state text NOT NULL,
        reserved_us bigint NOT NULL, held_us bigint NOT NULL, posted_us bigint NOT NULL,
        refunded_us bigint NOT NULL)",
    "CREATE TABLE ledger_entry (seq bigint PRIMARY KEY, entry_key text NOT NULL,
        account uuid NOT NULL, from_bucket text NOT NULL, to_bucket text NOT NULL,
        amount_us bigint NOT NULL CHECK (amount_us > 0), at_ms bigint NOT NULL,
        UNIQUE (account, entry_key))",
    "CREATE TABLE balance (account uuid PRIMARY KEY, available_us bigint NOT NULL,
        held_us bigint NOT NULL, spent_us bigint NOT NULL)",
    "CREATE TABLE agent (id uuid PRIMARY KEY, name text NOT NULL UNIQUE, boot uuid NOT NULL,
        last_boot uuid, state text NOT NULL, drained boolean NOT NULL, version text NOT NULL,
        devices text NOT NULL, weights text NOT NULL, ffmpeg text)",
    "CREATE TABLE dedupe (fingerprint text PRIMARY KEY, jobs text NOT NULL,
        errors bigint NOT NULL, expires_at_ms bigint NOT NULL)",
    "CREATE INDEX dedupe_expires ON dedupe (expires_at_ms)",
    "CREATE TABLE idempotency (scope text PRIMARY KEY, fingerprint text NOT NULL,
        outcome text NOT NULL, expires_at_ms bigint NOT NULL)",
    "CREATE INDEX idempotency_expires ON idempotency (expires_at_ms)",
    "CREATE TABLE outbox (seq bigint PRIMARY KEY, kind text NOT NULL, job uuid NOT NULL,
        project uuid NOT NULL, at_ms bigint NOT NULL, next_at_ms bigint)",
    "CREATE INDEX outbox_next ON outbox (next_at_ms) WHERE next_at_ms IS NOT NULL",
    "CREATE TABLE tombstone (job uuid PRIMARY KEY, project uuid NOT NULL,
        created_at_ms bigint NOT NULL, deleted_at_ms bigint NOT NULL)",
    "CREATE INDEX tombstone_deleted ON tombstone (deleted_at_ms)",
    "CREATE TABLE chore (name text PRIMARY KEY, payload text NOT NULL, run bigint NOT NULL,
        next_at_ms bigint NOT NULL, leased_until_ms bigint, last_done_at_ms bigint,
        last_error text, failures bigint NOT NULL)",
];
