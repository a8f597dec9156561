//! The farm's clock: Unix milliseconds that neither jump nor go back within a process.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Wall time at the start plus the time since boot that has passed, suspend included.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Wall time minus boot time, at the start.
    offset_ms: i64,
}

impl Clock {
    pub fn start() -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as i64);
        Self {
            offset_ms: wall - boot_ms(),
        }
    }

    /// One that goes this far ahead of the machine's, as that of the next leader may.
    #[cfg(test)]
    pub fn ahead_by(ms: i64) -> Self {
        let offset_ms = Self::start().offset_ms + ms;
        Self { offset_ms }
    }

    pub fn now_ms(&self) -> i64 {
        self.offset_ms + boot_ms()
    }
}

fn boot_ms() -> i64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec * 1_000 + time.tv_nsec / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_at_wall_time_and_never_goes_back() {
        let clock = Clock::start();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let first = clock.now_ms();
        assert!((first - wall.as_millis() as i64).abs() < 60_000);
        assert!(clock.now_ms() >= first);
    }
}
