//! Numbers for Prometheus. Names end in their unit; labels never hold ids.

use std::collections::BTreeMap;

use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use schemas::agent::DeviceSample;

use crate::core::{Observed, calibration::Finished, class_name, live::Counts, memory::NeedView};

/// Bounds of a wait in seconds: from an idle farm to a night.
const WAIT_BOUNDS: [f64; 12] = [
    0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 7_200.0, 14_400.0, 28_800.0, 86_400.0,
];

/// All metrics of the scheduler; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    pub commands: IntCounterVec,
    pub commits: IntCounter,
    pub commit_seconds: Histogram,
    pub group_commands: Histogram,
    pub rebuilds: IntCounter,
    pub grants: IntCounter,
    pub attempts: IntCounterVec,
    pub idle_polls: IntCounterVec,
    pub uploaded_bytes: IntCounter,
    failures: IntCounterVec,
    poisoned: IntCounter,
    preemptions: IntCounterVec,
    queue_wait: HistogramVec,
    pub leads: IntGauge,
    pub forecast_seconds: Histogram,
    eta_jobs: IntCounterVec,
    eta_error: HistogramVec,
    price_error: HistogramVec,
    tasks: IntGaugeVec,
    waiting: IntGaugeVec,
    agents: IntGaugeVec,
    leases: IntGauge,
    eligible: IntGaugeVec,
    quarantined: IntGaugeVec,
    ledger: GaugeVec,
    memory_needed: GaugeVec,
    gpu: GpuGauges,
}

/// Readings of GPUs; labels are the node's name and the device's index there.
#[derive(Clone, Debug)]
struct GpuGauges {
    utilisation: GaugeVec,
    memory_used: GaugeVec,
    memory_total: GaugeVec,
    power: GaugeVec,
    power_limit: GaugeVec,
    temperature: GaugeVec,
    sm_clock: GaugeVec,
    memory_clock: GaugeVec,
    processes: GaugeVec,
    /// `kind` is `corrected` or `uncorrected`.
    ecc_errors: GaugeVec,
    /// 1 for each `reason` that holds the clocks down now.
    throttled: GaugeVec,
}

#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error("cannot register the metrics")]
    Register(#[source] prometheus::Error),
    #[error("cannot write the metrics as text")]
    Encode(#[source] prometheus::Error),
}

impl Metrics {
    pub fn new() -> Result<Self, MetricsError> {
        Self::registered().map_err(MetricsError::Register)
    }

    fn registered() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process))?;
        let r = &registry;
        Ok(Self {
            commands: counters(r, "commands_total", "Commands applied.", "command")?,
            commits: counter(r, "commits_total", "Groups committed.")?,
            commit_seconds: histogram(
                r,
                "commit_seconds",
                "Time to commit a group.",
                prometheus::exponential_buckets(0.0005, 2.0, 14)?,
            )?,
            group_commands: histogram(
                r,
                "group_commands",
                "Commands in a group.",
                prometheus::exponential_buckets(1.0, 2.0, 10)?,
            )?,
            rebuilds: counter(r, "core_rebuilds_total", "Times memory was folded anew.")?,
            grants: counter(r, "grants_total", "Leases granted.")?,
            attempts: counters(r, "attempts_total", "Attempts that ended.", "outcome")?,
            idle_polls: counters(r, "idle_polls_total", "Polls without work.", "why")?,
            uploaded_bytes: counter(r, "uploaded_bytes_total", "Bytes of artefacts stored.")?,
            leads: gauge(
                r,
                "leads",
                "1 while this scheduler leads, 0 while it stands by.",
            )?,
            forecast_seconds: histogram(
                r,
                "forecast_seconds",
                "Time to look ahead once.",
                prometheus::exponential_buckets(0.001, 2.0, 13)?,
            )?,
            eta_jobs: counters_of(
                r,
                "eta_jobs_total",
                "Finished jobs by whether they ended inside the interval that was foretold.",
                &["band", "inside"],
            )?,
            eta_error: histograms(
                r,
                "eta_error_seconds",
                "How much earlier or later than the middle of its interval a job ended.",
                &["band", "side"],
                prometheus::exponential_buckets(0.5, 2.0, 16)?,
            )?,
            price_error: histograms(
                r,
                "price_error_ratio",
                "What a finished job took over what was expected of it.",
                &["band"],
                vec![
                    0.25, 0.5, 0.67, 0.8, 0.9, 0.95, 1.05, 1.1, 1.25, 1.5, 2.0, 4.0,
                ],
            )?,
            tasks: gauges(r, "tasks", "Tasks in memory.", "state")?,
            waiting: gauges(r, "waiting_tasks", "Tasks that wait.", "reason")?,
            agents: gauges(r, "agents", "Agents known.", "state")?,
            leases: gauge(r, "leases", "Leases that run.")?,
            failures: counters(r, "failures_total", "Attempts that failed.", "class")?,
            poisoned: counter(
                r,
                "poisoned_tasks_total",
                "Tasks that failed wherever they went.",
            )?,
            preemptions: counters(
                r,
                "preemptions_total",
                "Tasks that had to give their device up.",
                "band",
            )?,
            queue_wait: waits(r)?,
            eligible: gauges(r, "eligible_tasks", "Tasks that could start.", "band")?,
            quarantined: gauges(r, "quarantined_devices", "Devices out of work.", "cause")?,
            ledger: floats(
                r,
                "ledger_device_seconds",
                "Quota in seconds of the reference device: held and spent of all orgs, granted and available where there is a limit.",
                &["part"],
            )?,
            memory_needed: floats(
                r,
                "memory_needed_bytes",
                "Memory that a device must have for work of this size.",
                &["weights", "size", "frames_max", "class", "devices"],
            )?,
            gpu: GpuGauges::registered(r)?,
            registry,
        })
    }

    /// Counts what happened in the core.
    pub fn observe(&self, observed: Observed) {
        match observed {
            Observed::Failed(class) => {
                let class = class_name(class);
                self.failures.with_label_values(&[class]).inc();
            }
            Observed::Poisoned => self.poisoned.inc(),
            Observed::Waited(band, ms) => {
                let seconds = ms as f64 / 1e3;
                self.queue_wait
                    .with_label_values(&[band.name()])
                    .observe(seconds);
            }
            Observed::Preempted(band) => {
                self.preemptions.with_label_values(&[band.name()]).inc();
            }
        }
    }

    /// Names of all metrics that there are, for the check of dashboards and alerts.
    ///
    /// # Errors
    /// [`MetricsError`], as [`Metrics::new`].
    pub fn names() -> Result<Vec<String>, MetricsError> {
        let all = Self::new()?;
        for counters in [
            &all.commands,
            &all.attempts,
            &all.idle_polls,
            &all.failures,
            &all.preemptions,
        ] {
            counters.with_label_values(&["-"]);
        }
        for gauges in [
            &all.tasks,
            &all.waiting,
            &all.agents,
            &all.eligible,
            &all.quarantined,
        ] {
            gauges.with_label_values(&["-"]);
        }
        all.queue_wait.with_label_values(&["-"]);
        all.ledger.with_label_values(&["-"]);
        all.memory_needed.with_label_values(&["-"; 5]);
        all.gpu.touch();
        all.eta_jobs.with_label_values(&["-", "-"]);
        all.eta_error.with_label_values(&["-", "-"]);
        all.price_error.with_label_values(&["-"]);
        let families = all.registry.gather();
        Ok(families.iter().map(|f| f.name().to_string()).collect())
    }

    /// A job was published: how right was what was foretold of it?
    pub fn finished(&self, finished: &Finished) {
        let band = finished.band.name();
        let price = self.price_error.with_label_values(&[band]);
        price.observe(finished.price_ratio);
        let Some(eta) = finished.eta else {
            return;
        };
        let inside = if eta.is_inside { "true" } else { "false" };
        self.eta_jobs.with_label_values(&[band, inside]).inc();
        let side = if eta.error_ms > 0 { "late" } else { "early" };
        let error = self.eta_error.with_label_values(&[band, side]);
        error.observe(eta.error_ms.unsigned_abs() as f64 / 1_000.0);
    }

    /// Everything in Prometheus' text format, with these counts of now.
    pub fn render(&self, counts: &Counts) -> Result<String, MetricsError> {
        set(&self.tasks, &counts.tasks);
        set(&self.waiting, &counts.waiting);
        set(&self.agents, &counts.agents);
        self.leases.set(counts.leases as i64);
        set(&self.eligible, &counts.eligible);
        set(&self.quarantined, &counts.quarantined);
        for (part, micros) in &counts.ledger_us {
            let seconds = *micros as f64 / 1e6;
            self.ledger.with_label_values(&[part]).set(seconds);
        }
        self.set_memory(&counts.memory);
        self.gpu.set(&counts.gpus);
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .map_err(MetricsError::Encode)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

impl Metrics {
    fn set_memory(&self, needs: &[NeedView]) {
        self.memory_needed.reset();
        for need in needs {
            let [width, height, _] = need.size;
            let (size, frames) = (format!("{width}x{height}"), need.frames_max().to_string());
            let devices = need.devices.to_string();
            let labels = [&*need.weights, &*size, &*frames, &*need.class, &*devices];
            let gauge = self.memory_needed.with_label_values(&labels);
            gauge.set(need.device_bytes as f64);
        }
    }
}

impl GpuGauges {
    fn registered(r: &Registry) -> Result<Self, prometheus::Error> {
        let of_device = |name, help| floats(r, name, help, &["node", "device"]);
        Ok(Self {
            utilisation: of_device("gpu_utilisation_ratio", "Share of time with work.")?,
            memory_used: of_device("gpu_memory_used_bytes", "Memory in use.")?,
            memory_total: of_device("gpu_memory_total_bytes", "Memory in all.")?,
            power: of_device("gpu_power_watts", "Power drawn.")?,
            power_limit: of_device("gpu_power_limit_watts", "Power that it may draw.")?,
            temperature: of_device("gpu_temperature_celsius", "Temperature of the chip.")?,
            sm_clock: of_device("gpu_sm_clock_hertz", "Clock of the multiprocessors.")?,
            memory_clock: of_device("gpu_memory_clock_hertz", "Clock of the memory.")?,
            processes: of_device("gpu_processes", "Processes that compute on it.")?,
            ecc_errors: floats(
                r,
                "gpu_ecc_errors",
                "Memory errors since the driver was loaded.",
                &["node", "device", "kind"],
            )?,
            throttled: floats(
                r,
                "gpu_throttled",
                "1 for each reason that holds its clocks down.",
                &["node", "device", "reason"],
            )?,
        })
    }

    fn of_device(&self) -> [&GaugeVec; 9] {
        [
            &self.utilisation,
            &self.memory_used,
            &self.memory_total,
            &self.power,
            &self.power_limit,
            &self.temperature,
            &self.sm_clock,
            &self.memory_clock,
            &self.processes,
        ]
    }

    fn touch(&self) {
        for gauge in self.of_device() {
            gauge.with_label_values(&["-", "-"]);
        }
        for gauge in [&self.ecc_errors, &self.throttled] {
            gauge.with_label_values(&["-", "-", "-"]);
        }
    }

    /// What a driver does not give, and what is no longer heard of, is absent.
    fn set(&self, gpus: &[(String, DeviceSample)]) {
        for gauge in self.of_device() {
            gauge.reset();
        }
        self.ecc_errors.reset();
        self.throttled.reset();
        for (node, sample) in gpus {
            self.set_one(node, sample);
        }
    }

    fn set_one(&self, node: &str, sample: &DeviceSample) {
        let device = sample.index.to_string();
        let small = |value: Option<u32>, scale: f64| value.map(|value| f64::from(value) * scale);
        let large = |value: Option<u64>| value.map(|value| value as f64);
        let values = [
            small(sample.utilisation_percent, 0.01),
            large(sample.memory_used_bytes),
            large(sample.memory_total_bytes),
            small(sample.power_mw, 1e-3),
            small(sample.power_limit_mw, 1e-3),
            small(sample.temperature_c, 1.0),
            small(sample.sm_clock_mhz, 1e6),
            small(sample.memory_clock_mhz, 1e6),
            small(sample.processes, 1.0),
        ];
        for (gauge, value) in self.of_device().into_iter().zip(values) {
            if let Some(value) = value {
                gauge.with_label_values(&[node, &device]).set(value);
            }
        }
        for (kind, errors) in [
            ("corrected", sample.ecc_corrected),
            ("uncorrected", sample.ecc_uncorrected),
        ] {
            if let Some(errors) = large(errors) {
                self.ecc_errors
                    .with_label_values(&[node, &device, kind])
                    .set(errors);
            }
        }
        for reason in &sample.throttled_by {
            self.throttled
                .with_label_values(&[node, &device, reason])
                .set(1.0);
        }
    }
}

fn set(gauges: &IntGaugeVec, counts: &BTreeMap<&'static str, u64>) {
    gauges.reset(); // a state that nothing is in any more
    for (label, count) in counts {
        gauges.with_label_values(&[label]).set(*count as i64);
    }
}

fn full_name(name: &str) -> String {
    format!("dailies_{name}")
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let made = IntCounter::new(full_name(name), help)?;
    registry.register(Box::new(made.clone()))?;
    Ok(made)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let made = IntGauge::new(full_name(name), help)?;
    registry.register(Box::new(made.clone()))?;
    Ok(made)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
) -> Result<IntCounterVec, prometheus::Error> {
    counters_of(registry, name, help, &[label])
}

fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: Vec<f64>,
) -> Result<HistogramVec, prometheus::Error> {
    let opts = HistogramOpts::new(full_name(name), help).buckets(buckets);
    let made = HistogramVec::new(opts, labels)?;
    registry.register(Box::new(made.clone()))?;
    Ok(made)
}

fn counters_of(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let made = IntCounterVec::new(Opts::new(full_name(name), help), labels)?;
    registry.register(Box::new(made.clone()))?;
    Ok(made)
}

fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
) -> Result<IntGaugeVec, prometheus::Error> {
    let made = IntGaugeVec::new(Opts::new(full_name(name), help), &[label])?;
    registry.register(Box::new(made.clone()))?;
    Ok(made)
}

fn floats(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<GaugeVec, prometheus::Error> {
    let made = GaugeVec::new(Opts::new(full_name(name), help), labels)?;
    registry.register(Box::new(made.clone()))?;
    Ok(made)
}

fn waits(registry: &Registry) -> Result<HistogramVec, prometheus::Error> {
    let help = "Time from when a task could run to its grant.";
    let opts = HistogramOpts::new(full_name("queue_wait_seconds"), help);
    let made = HistogramVec::new(opts.buckets(WAIT_BOUNDS.to_vec()), &["band"])?;
    registry.register(Box::new(made.clone()))?;
    Ok(made)
}

fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: Vec<f64>,
) -> Result<Histogram, prometheus::Error> {
    let opts = HistogramOpts::new(full_name(name), help).buckets(buckets);
    let made = Histogram::with_opts(opts)?;
    registry.register(Box::new(made.clone()))?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_states_and_forgets_those_that_are_empty() {
        let metrics = Metrics::new().unwrap();
        let mut counts = Counts::default();
        counts.tasks.insert("ready", 3);
        let text = metrics.render(&counts).unwrap();
        assert!(text.contains("dailies_tasks{state=\"ready\"} 3"), "{text}");
        let text = metrics.render(&Counts::default()).unwrap();
        assert!(!text.contains("dailies_tasks{"), "{text}");
    }

    #[test]
    fn a_gpu_shows_what_its_driver_gives_and_goes_with_its_node() {
        let metrics = Metrics::new().unwrap();
        let sample = DeviceSample {
            index: 1,
            utilisation_percent: Some(50),
            power_mw: Some(7_500),
            throttled_by: vec!["thermal".into()],
            ecc_uncorrected: Some(2),
            ..DeviceSample::default()
        };
        let counts = Counts {
            gpus: vec![("node-a".into(), sample)],
            ..Counts::default()
        };
        let text = metrics.render(&counts).unwrap();
        for line in [
            "dailies_gpu_utilisation_ratio{device=\"1\",node=\"node-a\"} 0.5",
            "dailies_gpu_power_watts{device=\"1\",node=\"node-a\"} 7.5",
            "dailies_gpu_throttled{device=\"1\",node=\"node-a\",reason=\"thermal\"} 1",
            "dailies_gpu_ecc_errors{device=\"1\",kind=\"uncorrected\",node=\"node-a\"} 2",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains("dailies_gpu_memory_used_bytes{"), "{text}");
        let text = metrics.render(&Counts::default()).unwrap();
        assert!(!text.contains("node-a"), "{text}");
    }

    #[test]
    fn what_happens_in_the_core_is_counted() {
        use schemas::agent::FailureClass;

        use crate::core::rows::Band;

        let metrics = Metrics::new().unwrap();
        metrics.observe(Observed::Failed(FailureClass::DeviceFault));
        metrics.observe(Observed::Waited(Band::Overnight, 90_000));
        metrics.observe(Observed::Preempted(Band::Standard));
        let text = metrics.render(&Counts::default()).unwrap();
        for line in [
            "dailies_failures_total{class=\"device_fault\"} 1",
            "dailies_queue_wait_seconds_bucket{band=\"overnight\",le=\"60\"} 0",
            "dailies_queue_wait_seconds_bucket{band=\"overnight\",le=\"300\"} 1",
            "dailies_preemptions_total{band=\"standard\"} 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
