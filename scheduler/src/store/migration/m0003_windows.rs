//! Jobs that wait for a window.

pub const STATEMENTS: &[&str] = &["ALTER TABLE job ADD COLUMN start_window text"];
