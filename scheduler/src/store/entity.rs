//! One entity a table. Times are Unix milliseconds, enums and nested values text.

/// An entity without relations: joins are written where they are used.
macro_rules! table {
    ($(#[$doc:meta])* $module:ident $name:tt { $($fields:tt)* }) => {
        $(#[$doc])*
        pub mod $module {
            use sea_orm::entity::prelude::*;

            #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
            #[sea_orm(table_name = $name)]
            pub struct Model { $($fields)* }

            #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
            pub enum Relation {}

            impl ActiveModelBehavior for ActiveModel {}
        }
    };
}

table! {
    /// One row, id 1.
    leader "leader" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: i32,
        pub term: i64,
        pub seq: i64,
        /// Where the leader of this term answers; absent until it does.
        pub address: Option<String>,
    }
}

table! {
    account "account" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub parent: Option<Uuid>,
        pub level: String,
        pub name: String,
        pub created_at_ms: i64,
        pub weight: i32,
    }
}

table! {
    /// What an account has had of the farm, decayed: `mantissa * 2^exponent`.
    usage "usage" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub account: Uuid,
        pub exponent: i64,
        /// The bits of an `f64`, so that it comes back exactly.
        pub mantissa_bits: i64,
    }
}

table! {
    /// Sketches of the times of each part of the work.
    cost_sample "cost_sample" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub weights: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub class: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub shape: String,
        pub parts: String,
        /// Absent in rows of times alone.
        pub memory: Option<String>,
    }
}

table! {
    api_key "api_key" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub hash: String,
        pub project: Uuid,
        pub name: String,
        pub created_at_ms: i64,
        pub revoked_at_ms: Option<i64>,
        pub admin: bool,
        pub priority_max: String,
    }
}

table! {
    job "job" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub seq: i64,
        pub project: Uuid,
        pub request: String,
        /// The bits of a `u64`.
        pub seed: i64,
        pub band: String,
        pub state: String,
        pub progress: i32,
        pub created_at_ms: i64,
        pub ended_at_ms: Option<i64>,
        pub error_code: Option<String>,
        pub error_message: Option<String>,
        pub rank: i32,
        pub start_window: Option<String>,
        pub user_account: Option<Uuid>,
        pub not_before_ms: Option<i64>,
        pub deadline_ms: Option<i64>,
        pub could_start_ms: Option<i64>,
        pub saved: Option<i64>,
        pub paused_by: Option<String>,
        pub paused_at_ms: Option<i64>,
    }
}

table! {
    task "task" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub job: Uuid,
        pub place: i32,
        pub kind: String,
        pub spec: String,
        pub inputs: String,
        pub estimate_us: i64,
        pub state: String,
        pub attempt: i64,
        pub inputs_left: Option<i32>,
        pub eligible_at_ms: Option<i64>,
        pub backoff: Option<String>,
        pub agent: Option<Uuid>,
        pub boot: Option<Uuid>,
        pub device: Option<i64>,
        /// All of a group, where it is more than one.
        pub devices: Option<String>,
        /// The bits of a `u64`.
        pub poll_id: Option<i64>,
        pub granted_at_ms: Option<i64>,
        pub output: Option<String>,
        pub failed_class: Option<String>,
        pub failed_message: Option<String>,
        pub failures: String,
        pub failed_on: String,
        pub used_us: i64,
        pub step: i64,
        pub steps: i64,
        pub preemptions: i64,
        pub signatures: String,
        pub memory_bytes: Option<i64>,
        pub preempted_at_ms: Option<i64>,
    }
}

table! {
    /// What decisions need of tasks' specs; see `core/shapes.rs`.
    shape "shape" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub number: i64,
        pub spec: String,
    }
}

table! {
    /// Jobs that have not begun, packed for a fast start; their rows are in their own tables too.
    waiting "waiting" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub job: Uuid,
        pub seq: i64,
        /// Of the bytes; 0 where there are none.
        pub format: i32,
        pub packed: Option<Vec<u8>>,
    }
}

table! {
    attempt "attempt" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub task: Uuid,
        #[sea_orm(primary_key, auto_increment = false)]
        pub number: i64,
        pub term: i64,
        pub agent: Uuid,
        pub boot: Uuid,
        pub device: i64,
        pub devices: Option<String>,
        pub granted_at_ms: i64,
        pub ended_at_ms: Option<i64>,
        pub outcome: Option<String>,
        pub message: Option<String>,
        pub device_us: Option<i64>,
    }
}

table! {
    checkpoint "checkpoint" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub task: Uuid,
        #[sea_orm(primary_key, auto_increment = false)]
        pub step: i64,
        pub digest: String,
        pub agent: Uuid,
        pub made_at_ms: i64,
    }
}

table! {
    artefact_ref "artefact_ref" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub job: Uuid,
        #[sea_orm(primary_key, auto_increment = false)]
        pub task: Uuid,
        /// A variant, or `input`.
        #[sea_orm(primary_key, auto_increment = false)]
        pub variant: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub digest: String,
        pub bytes: i64,
    }
}

table! {
    reservation "reservation" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub job: Uuid,
        pub project: Uuid,
        pub state: String,
        pub reserved_us: i64,
        pub held_us: i64,
        pub posted_us: i64,
        pub refunded_us: i64,
    }
}

table! {
    ledger_entry "ledger_entry" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub seq: i64,
        pub entry_key: String,
        pub account: Uuid,
        pub from_bucket: String,
        pub to_bucket: String,
        pub amount_us: i64,
        pub at_ms: i64,
        pub why: Option<String>,
        pub hash: Option<String>,
    }
}

table! {
    balance "balance" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub account: Uuid,
        pub available_us: i64,
        pub held_us: i64,
        pub spent_us: i64,
        pub mint_us: i64,
        pub loan_us: i64,
    }
}

table! {
    quota "quota" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub account: Uuid,
        pub metered: bool,
        pub overdraft_us: i64,
        pub jobs_max: Option<i64>,
        pub devices_max: Option<i64>,
        pub lend_us: i64,
        pub borrow_us: i64,
    }
}

table! {
    budget "budget" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub account: Uuid,
        pub limit_us: i64,
        /// Of a rolling period; absent for a civil month.
        pub days: Option<i64>,
        pub zone: String,
        pub at_limit: String,
        /// Microseconds by civil day.
        pub spent: String,
        pub told_percent: i64,
    }
}

table! {
    capacity "capacity" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub account: Uuid,
        #[sea_orm(primary_key, auto_increment = false)]
        pub pool: String,
        pub nominal: i64,
        pub borrow_max: i64,
        pub lend_max: i64,
    }
}

table! {
    grant_expiry "grant_expiry" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub account: Uuid,
        #[sea_orm(primary_key, auto_increment = false)]
        pub entry_key: String,
        pub expires_at_ms: i64,
        pub done: bool,
    }
}

table! {
    loan "loan" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub entry_key: String,
        pub borrower: Uuid,
        pub lender: Uuid,
        pub left_us: i64,
    }
}

table! {
    audit "audit" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub seq: i64,
        pub at_ms: i64,
        pub actor: String,
        pub command: String,
        pub account: Uuid,
        pub was: String,
        pub became: String,
    }
}

table! {
    agent "agent" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub name: String,
        pub boot: Uuid,
        pub last_boot: Option<Uuid>,
        pub state: String,
        pub drained: bool,
        pub version: String,
        pub devices: String,
        pub weights: String,
        pub ffmpeg: Option<String>,
        pub health: String,
        pub group_max: i64,
    }
}

table! {
    /// What a class of device gives for the probe.
    golden "golden" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub class: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub weights: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub version: String,
        pub digest: String,
    }
}

table! {
    notice "notice" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub seq: i64,
        pub at_ms: i64,
        pub kind: String,
        pub actor: Option<String>,
        pub subject: String,
        pub detail: String,
    }
}

table! {
    /// One device over one minute.
    device_sample "device_sample" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub agent: Uuid,
        #[sea_orm(primary_key, auto_increment = false)]
        pub device: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub minute_ms: i64,
        pub readings: i64,
        pub utilisation_percent: Option<i64>,
        pub memory_used_max_bytes: Option<i64>,
        pub memory_total_bytes: Option<i64>,
        pub power_mw: Option<i64>,
        pub temperature_max_c: Option<i64>,
        pub sm_clock_mhz: Option<i64>,
        pub throttled: i64,
        pub ecc_uncorrected: Option<i64>,
        pub xids: String,
    }
}

table! {
    dedupe "dedupe" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub fingerprint: String,
        pub jobs: String,
        pub errors: i64,
        pub expires_at_ms: i64,
    }
}

table! {
    idempotency "idempotency" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub scope: String,
        pub fingerprint: String,
        pub outcome: String,
        pub expires_at_ms: i64,
    }
}

table! {
    /// What the farm was told and granted; see `core/event.rs`.
    event "event" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub seq: i64,
        pub at_ms: i64,
        pub term: i64,
        pub kind: String,
        pub payload: String,
    }
}

table! {
    outbox "outbox" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub seq: i64,
        pub kind: String,
        pub job: Uuid,
        pub project: Uuid,
        pub at_ms: i64,
        pub next_at_ms: Option<i64>,
    }
}

table! {
    tombstone "tombstone" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub job: Uuid,
        pub project: Uuid,
        pub created_at_ms: i64,
        pub deleted_at_ms: i64,
    }
}

table! {
    chore "chore" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        pub payload: String,
        /// Fencing token of chores: grows with each start of a run.
        pub run: i64,
        pub next_at_ms: i64,
        /// Until when a run holds the chore; absent while none does.
        pub leased_until_ms: Option<i64>,
        pub last_done_at_ms: Option<i64>,
        pub last_error: Option<String>,
        /// Runs in a row that failed.
        pub failures: i64,
    }
}
