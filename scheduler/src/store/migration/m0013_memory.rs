//! What work takes of memory: the last peaks and what was foretold, beside the times.

pub const STATEMENTS: &[&str] = &["ALTER TABLE cost_sample ADD COLUMN memory text"];
