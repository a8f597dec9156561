//! Jobs that are held back: by whom, and since when.

pub const STATEMENTS: &[&str] = &[
    "ALTER TABLE job ADD COLUMN paused_by text",
    "ALTER TABLE job ADD COLUMN paused_at_ms bigint",
];
