//! Users below projects, budgets, capacity by pool, grants that expire, loans between siblings.

pub const STATEMENTS: &[&str] = &[
    "ALTER TABLE job ADD COLUMN user_account uuid",
    "ALTER TABLE balance ADD COLUMN loan_us bigint NOT NULL DEFAULT 0",
    "ALTER TABLE quota ADD COLUMN lend_us bigint NOT NULL DEFAULT 0",
    "ALTER TABLE quota ADD COLUMN borrow_us bigint NOT NULL DEFAULT 0",
    "CREATE TABLE budget (account uuid PRIMARY KEY, limit_us bigint NOT NULL, days bigint,
        zone text NOT NULL, at_limit text NOT NULL, spent text NOT NULL, told_percent bigint NOT NULL)",
    "CREATE TABLE capacity (account uuid NOT NULL, pool text NOT NULL, nominal bigint NOT NULL,
        borrow_max bigint NOT NULL, lend_max bigint NOT NULL, PRIMARY KEY (account, pool))",
    "CREATE TABLE grant_expiry (account uuid NOT NULL, entry_key text NOT NULL,
        expires_at_ms bigint NOT NULL, done boolean NOT NULL, PRIMARY KEY (account, entry_key))",
    "CREATE TABLE loan (entry_key text PRIMARY KEY, borrower uuid NOT NULL, lender uuid NOT NULL,
        left_us bigint NOT NULL)",
];
