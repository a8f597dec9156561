//! What a start with many waiting jobs reads: the jobs packed, shapes apart, grants by an index.

pub const STATEMENTS: &[&str] = &[
    "CREATE TABLE shape (number bigint PRIMARY KEY, spec text NOT NULL)",
    // SQLite does not know the type, and keeps bytes as they are in a column of any.
    "CREATE TABLE waiting (job uuid PRIMARY KEY, seq bigint NOT NULL, format integer NOT NULL,
        packed bytea)",
    "CREATE INDEX waiting_rows ON waiting (job) WHERE packed IS NULL",
    "INSERT INTO waiting (job, seq, format) SELECT id, seq, 0 FROM job WHERE state = 'waiting'",
    "CREATE INDEX ledger_entry_grant ON ledger_entry (account, entry_key)
        WHERE entry_key LIKE 'grant:%'",
];
