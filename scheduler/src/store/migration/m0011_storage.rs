//! Where the leader answers, so that others find it.

pub const STATEMENTS: &[&str] = &["ALTER TABLE leader ADD COLUMN address text"];
