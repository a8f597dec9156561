//! The log of what the farm was told and granted.

pub const STATEMENTS: &[&str] = &[
    "CREATE TABLE event (seq bigint PRIMARY KEY, at_ms bigint NOT NULL, term bigint NOT NULL,
        kind text NOT NULL, payload text NOT NULL)",
    "CREATE INDEX event_at ON event (at_ms)",
];
