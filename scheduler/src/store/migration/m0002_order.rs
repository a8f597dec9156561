//! Fair shares, ranks and preemption.

pub const STATEMENTS: &[&str] = &[
    "ALTER TABLE account ADD COLUMN weight integer NOT NULL DEFAULT 1",
    "ALTER TABLE job ADD COLUMN rank integer NOT NULL DEFAULT 0",
    "ALTER TABLE task ADD COLUMN preemptions bigint NOT NULL DEFAULT 0",
    "CREATE TABLE usage (account uuid PRIMARY KEY, exponent bigint NOT NULL,
        mantissa_bits bigint NOT NULL)",
];
