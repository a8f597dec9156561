//! Numbers for Prometheus. Names end in their unit; labels never hold ids.

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::core::{calibration::Finished, live::Counts};

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
    pub leads: IntGauge,
    pub forecast_seconds: Histogram,
    eta_jobs: IntCounterVec,
    eta_error: HistogramVec,
    price_error: HistogramVec,
    tasks: IntGaugeVec,
    waiting: IntGaugeVec,
    agents: IntGaugeVec,
    leases: IntGauge,
    eligible: IntGauge,
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
            eligible: gauge(r, "eligible_tasks", "Tasks that could start.")?,
            registry,
        })
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
        self.eligible.set(counts.eligible as i64);
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .map_err(MetricsError::Encode)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn set(gauges: &IntGaugeVec, counts: &std::collections::BTreeMap<&'static str, u64>) {
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
}
