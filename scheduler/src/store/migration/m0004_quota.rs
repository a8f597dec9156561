//! Limits of accounts, the chained ledger, what operators did.
//!
//! Entries from before have no hash: the chain begins behind them.
//! The key of the first start is the operator's.

pub const STATEMENTS: &[&str] = &[
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
