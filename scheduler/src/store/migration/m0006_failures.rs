//! Health of nodes, what failures leave behind, readings of devices, notices to operators, priorities of keys.
//!
//! Keys from before may send any priority, as they could.

pub const STATEMENTS: &[&str] = &[
    "ALTER TABLE api_key ADD COLUMN priority_max text NOT NULL DEFAULT 'urgent'",
    "ALTER TABLE agent ADD COLUMN health text NOT NULL DEFAULT '{}'",
    "ALTER TABLE task ADD COLUMN signatures text NOT NULL DEFAULT '{}'",
    "ALTER TABLE task ADD COLUMN memory_bytes bigint",
    "ALTER TABLE task ADD COLUMN preempted_at_ms bigint",
    "CREATE TABLE golden (class text NOT NULL, weights text NOT NULL, version text NOT NULL,
        digest text NOT NULL, PRIMARY KEY (class, weights, version))",
    "CREATE TABLE notice (seq bigint PRIMARY KEY, at_ms bigint NOT NULL, kind text NOT NULL,
        actor text, subject text NOT NULL, detail text NOT NULL)",
    "CREATE INDEX notice_at ON notice (at_ms)",
    "CREATE TABLE device_sample (agent uuid NOT NULL, device bigint NOT NULL,
        minute_ms bigint NOT NULL, readings bigint NOT NULL, utilisation_percent bigint,
        memory_used_max_bytes bigint, memory_total_bytes bigint, power_mw bigint,
        temperature_max_c bigint, sm_clock_mhz bigint, throttled bigint NOT NULL,
        ecc_uncorrected bigint, xids text NOT NULL, PRIMARY KEY (agent, device, minute_ms))",
    "CREATE INDEX device_sample_minute ON device_sample (minute_ms)",
];
