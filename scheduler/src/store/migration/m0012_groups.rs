//! Groups of devices: those of a lease, beside the one that asked; and how large they can be on a node.

pub const STATEMENTS: &[&str] = &[
    "ALTER TABLE task ADD COLUMN devices text",
    "ALTER TABLE attempt ADD COLUMN devices text",
    "ALTER TABLE agent ADD COLUMN group_max bigint NOT NULL DEFAULT 1",
];
