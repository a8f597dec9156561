//! What the agent counts, as Prometheus text.

use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use schemas::agent::DeviceSample;

/// Bounds of a step in seconds: from a small model on the CPU to 19 B on an old GPU.
const STEP_BOUNDS: [f64; 10] = [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

/// All series of one agent; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// `outcome` is `succeeded`, `released`, `failed` or `abandoned`.
    pub attempts: IntCounterVec,
    pub steps: IntCounter,
    pub step_seconds: Histogram,
    pub checkpoints_saved: IntCounter,
    /// `why` is `damaged`, `foreign`, `lost` or `version`.
    pub checkpoints_refused: IntCounterVec,
    pub heartbeats_failed: IntCounter,
    pub leases: IntGauge,
    gpu_memory_used: IntGaugeVec,
    gpu_memory_total: IntGaugeVec,
    gpu_utilisation: IntGaugeVec,
    gpu_power: IntGaugeVec,
    gpu_temperature: IntGaugeVec,
    sm_clock: IntGaugeVec,
    ecc_uncorrected: IntGaugeVec,
    throttled: IntGaugeVec,
}

impl Metrics {
    pub fn new() -> Self {
        let registry = Registry::new();
        let metrics = Self {
            attempts: counters("attempts_total", "Attempts that ended", "outcome"),
            steps: counter("steps_total", "Denoising steps run"),
            step_seconds: histogram("step_seconds", "Time of one denoising step"),
            checkpoints_saved: counter("checkpoints_saved_total", "Checkpoints that were stored"),
            checkpoints_refused: counters(
                "checkpoints_refused_total",
                "Checkpoints that could not be resumed",
                "why",
            ),
            heartbeats_failed: counter("heartbeats_failed_total", "Heartbeats without an answer"),
            leases: gauge("leases_held", "Leases that this agent holds"),
            gpu_memory_used: gauges("device_memory_used_bytes", "Memory in use"),
            gpu_memory_total: gauges("device_memory_total_bytes", "Memory in all"),
            gpu_utilisation: gauges("device_utilisation_percent", "Share of time with work"),
            gpu_power: gauges("device_power_milliwatts", "Power drawn"),
            gpu_temperature: gauges("device_temperature_celsius", "Temperature"),
            sm_clock: gauges("device_sm_clock_megahertz", "Clock of the multiprocessors"),
            ecc_uncorrected: gauges(
                "device_ecc_uncorrected_errors",
                "Uncorrected memory errors since the driver was loaded",
            ),
            throttled: gauges(
                "device_throttled",
                "1 while something holds its clocks down",
            ),
            registry,
        };
        metrics.register();
        metrics
    }

    fn register(&self) {
        let counters = [
            &self.steps,
            &self.checkpoints_saved,
            &self.heartbeats_failed,
        ];
        let vectors = [&self.attempts, &self.checkpoints_refused];
        let gauges = [
            &self.gpu_memory_used,
            &self.gpu_memory_total,
            &self.gpu_utilisation,
            &self.gpu_power,
            &self.gpu_temperature,
            &self.sm_clock,
            &self.ecc_uncorrected,
            &self.throttled,
        ];
        let all = (counters
            .map(|c| self.registry.register(Box::new(c.clone())))
            .into_iter())
        .chain(vectors.map(|c| self.registry.register(Box::new(c.clone()))))
        .chain(gauges.map(|g| self.registry.register(Box::new(g.clone()))))
        .chain([
            self.registry.register(Box::new(self.leases.clone())),
            self.registry.register(Box::new(self.step_seconds.clone())),
        ]);
        all.collect::<Result<(), _>>()
            .expect("the names above are valid and differ");
    }

    /// Takes over one reading of a device.
    pub fn observe(&self, sample: &DeviceSample) {
        let device = sample.index.to_string();
        let set = |gauge: &IntGaugeVec, value: Option<u64>| {
            if let Some(value) = value.and_then(|value| i64::try_from(value).ok()) {
                gauge.with_label_values(&[&device]).set(value);
            }
        };
        set(&self.gpu_memory_used, sample.memory_used_bytes);
        set(&self.gpu_memory_total, sample.memory_total_bytes);
        set(
            &self.gpu_utilisation,
            sample.utilisation_percent.map(u64::from),
        );
        set(&self.gpu_power, sample.power_mw.map(u64::from));
        set(&self.gpu_temperature, sample.temperature_c.map(u64::from));
        set(&self.sm_clock, sample.sm_clock_mhz.map(u64::from));
        set(&self.ecc_uncorrected, sample.ecc_uncorrected);
        set(&self.throttled, Some(sample.is_throttled().into()));
    }

    /// Names of all metrics that there are, for the check of dashboards and alerts.
    pub fn names() -> Vec<String> {
        let all = Self::new();
        for counters in [&all.attempts, &all.checkpoints_refused] {
            counters.with_label_values(&["-"]);
        }
        all.observe(&DeviceSample {
            utilisation_percent: Some(0),
            memory_used_bytes: Some(0),
            memory_total_bytes: Some(0),
            power_mw: Some(0),
            temperature_c: Some(0),
            sm_clock_mhz: Some(0),
            ecc_uncorrected: Some(0),
            ..DeviceSample::default()
        });
        let families = all.registry.gather();
        families.iter().map(|f| f.name().to_string()).collect()
    }

    /// The page that Prometheus reads.
    pub fn text(&self) -> String {
        let mut page = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut page)
            .expect("writing to memory does not fail");
        String::from_utf8_lossy(&page).into_owned()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

const VALID: &str = "the name and help are valid";

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("dailies_agent")
}

fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::with_opts(opts(name, help)).expect(VALID)
}

fn counters(name: &str, help: &str, label: &str) -> IntCounterVec {
    IntCounterVec::new(opts(name, help), &[label]).expect(VALID)
}

fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::with_opts(opts(name, help)).expect(VALID)
}

fn gauges(name: &str, help: &str) -> IntGaugeVec {
    IntGaugeVec::new(opts(name, help), &["device"]).expect(VALID)
}

fn histogram(name: &str, help: &str) -> Histogram {
    let opts = HistogramOpts::from(opts(name, help)).buckets(STEP_BOUNDS.to_vec());
    Histogram::with_opts(opts).expect(VALID)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_what_was_counted_and_hides_what_a_driver_does_not_give() {
        let metrics = Metrics::new();
        metrics.attempts.with_label_values(&["succeeded"]).inc();
        let sample = DeviceSample {
            index: 3,
            power_mw: Some(7),
            ..DeviceSample::default()
        };
        metrics.observe(&sample);
        let page = metrics.text();
        assert!(
            page.contains("dailies_agent_attempts_total{outcome=\"succeeded\"} 1"),
            "{page}"
        );
        assert!(
            page.contains("dailies_agent_device_power_milliwatts{device=\"3\"} 7"),
            "{page}"
        );
        assert!(!page.contains("device_memory_used_bytes{"), "{page}");
    }
}
