//! What work took, by weights, device class and shape.

pub const STATEMENTS: &[&str] = &[
    "CREATE TABLE cost_sample (weights text NOT NULL, class text NOT NULL, shape text NOT NULL,
        parts text NOT NULL, PRIMARY KEY (weights, class, shape))",
];
