//! The unit of quota.

use serde::{Deserialize, Serialize};

/// Micro-seconds of the reference device class; what quota is counted in. Never a float.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct GpuMicros(pub i64);

impl GpuMicros {
    pub const ZERO: Self = Self(0);

    /// Seconds, for people and for the wire; rounding is only ever for display.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// `None` when the sum does not fit, which a ledger treats as a refusal.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }
}
