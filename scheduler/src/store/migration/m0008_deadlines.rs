//! Instants of a job: not before, deadline, and what waiting for a cheaper hour saved.

pub const STATEMENTS: &[&str] = &[
    "ALTER TABLE job ADD COLUMN not_before_ms bigint",
    "ALTER TABLE job ADD COLUMN deadline_ms bigint",
    "ALTER TABLE job ADD COLUMN could_start_ms bigint",
    "ALTER TABLE job ADD COLUMN saved bigint",
];
