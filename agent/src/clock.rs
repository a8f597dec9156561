//! The agent's clock: milliseconds since boot, which go on while the machine is suspended.
//!
//! `std::time::Instant` on Linux stands still in suspend, so a lease counted with it would
//! outlive the scheduler's. Wall clocks jump and are never compared between machines.

use rustix::time::{ClockId, clock_gettime};

/// A moment on `CLOCK_BOOTTIME`, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootMs(pub u64);

impl BootMs {
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).expect("boot time is never negative");
        let nanos = u64::try_from(time.tv_nsec).expect("nanoseconds are never negative");
        Self(seconds * 1_000 + nanos / 1_000_000)
    }

    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to here; 0 when `earlier` is later.
    pub fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_only_goes_forward() {
        let first = BootMs::now();
        assert!(BootMs::now() >= first);
        assert_eq!(first.plus_ms(5).since_ms(first), 5);
        assert_eq!(first.since_ms(first.plus_ms(5)), 0);
    }
}
