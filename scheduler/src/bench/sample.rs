//! Quantiles of what was timed, and the memory of this process.

use std::{fs, time::Duration};

/// Times, sorted once when they are asked for.
#[derive(Clone, Debug, Default)]
pub struct Sample(Vec<u64>);

impl Sample {
    pub fn add(&mut self, took: Duration) {
        self.0.push(took.as_nanos() as u64);
    }

    /// Nanoseconds that this share of the times does not exceed.
    pub fn quantile_ns(&mut self, share: f64) -> f64 {
        self.0.sort_unstable();
        let last = self.0.len().saturating_sub(1);
        let at = (share * self.0.len() as f64).ceil() as usize;
        self.0
            .get(at.saturating_sub(1).min(last))
            .map_or(f64::NAN, |ns| *ns as f64)
    }

    pub fn mean_ns(&self) -> f64 {
        self.0.iter().sum::<u64>() as f64 / self.0.len() as f64
    }
}

/// Bytes of this process that are in memory; `None` where the system does not say.
pub fn resident_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_time_that_so_many_do_not_exceed() {
        let mut sample = Sample::default();
        for ms in [4, 1, 3, 2] {
            sample.add(Duration::from_nanos(ms));
        }
        assert_eq!(sample.quantile_ns(0.5), 2.0);
        assert_eq!(sample.quantile_ns(0.99), 4.0);
        assert_eq!(sample.mean_ns(), 2.5);
        assert!(Sample::default().quantile_ns(0.5).is_nan());
    }
}
