//! What a job costs: the expected time of each task, the ceiling that is held, and both in money. Pure.
//!
//! Time comes from the farm's own measurements ([`crate::core::costs`]). What a job takes beyond the ceiling is the farm's loss.

use schemas::{GpuMicros, task::TaskSpec, video::Money};
use serde::{Deserialize, Serialize};

use crate::core::{costs::CostClass, prices::PriceBook, rows::Band};

/// Expected and largest device time of a job's tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// The 50th percentile of each task on its devices, before their number and the factor of the band.
    pub expected: Vec<GpuMicros>,
    /// The 90th percentile of all, by their devices and the factor of the band: held at submit, and the most that is charged.
    pub hold: GpuMicros,
}

impl Quote {
    pub fn new(tasks: &[TaskSpec], prices: &PriceBook, class: CostClass, band: Band) -> Self {
        let times = tasks
            .iter()
            .map(|spec| (spec, prices.device_time(spec, class)));
        let (expected, ceilings): (Vec<_>, Vec<_>) = times
            .map(|(spec, time)| (micros(time.p50()), of_group(micros(time.p90()), spec)))
            .unzip();
        Self {
            expected,
            hold: charged(ceilings, band),
        }
    }
}

/// Device time of all devices of a task that takes so long on them.
pub fn of_group(time: GpuMicros, spec: &TaskSpec) -> GpuMicros {
    GpuMicros(time.0.saturating_mul(spec.devices().into()))
}

/// What device time in total is charged in this band.
pub fn charged(times: impl IntoIterator<Item = GpuMicros>, band: Band) -> GpuMicros {
    let total: i128 = times.into_iter().map(|micros| i128::from(micros.0)).sum();
    let charged = total * i128::from(band.factor_percent()) / 100;
    GpuMicros(i64::try_from(charged).unwrap_or(i64::MAX / 4))
}

/// Never below a millisecond, and never where sums overflow.
fn micros(us: u64) -> GpuMicros {
    GpuMicros(
        i64::try_from(us.max(1_000))
            .unwrap_or(i64::MAX)
            .min(i64::MAX / 64),
    )
}

/// What an hour of a device costs. Without it only time is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PriceSettings {
    pub per_gpu_hour: Option<f64>,
    /// Lower-case code, such as `usd`.
    pub currency: String,
}

impl Default for PriceSettings {
    fn default() -> Self {
        Self {
            per_gpu_hour: None,
            currency: "usd".into(),
        }
    }
}

impl PriceSettings {
    /// The price of charged time, to a thousandth of a cent.
    pub fn money(&self, time: GpuMicros) -> Option<Money> {
        let value = self.per_gpu_hour? * time.as_secs_f64() / 3_600.0;
        Some(Money {
            value: (value * 1e5).round() / 1e5,
            currency: self.currency.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_band_sets_the_price_and_absurd_sums_do_not_wrap() {
        let two = [GpuMicros(100), GpuMicros(60)];
        let all = Band::ALL.map(|band| charged(two, band));
        assert_eq!(all, [GpuMicros(320), GpuMicros(160), GpuMicros(80)]);
        assert!(charged([GpuMicros(i64::MAX), GpuMicros(i64::MAX)], Band::Urgent).0 > 0);
    }

    #[test]
    fn money_is_told_once_an_operator_has_set_a_price() {
        let hour = GpuMicros(3_600_000_000);
        assert_eq!(PriceSettings::default().money(hour), None);
        let set = PriceSettings {
            per_gpu_hour: Some(2.5),
            currency: "eur".into(),
        };
        let money = set.money(GpuMicros(hour.0 / 2)).unwrap();
        assert_eq!((money.value, money.currency.as_str()), (1.25, "eur"));
    }
}
