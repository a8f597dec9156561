//! The dispatcher over a real database: nothing counts before it is committed.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use tokio::task::{JoinHandle, JoinSet};

use super::{
    Plan, Row,
    population::{accounts, hello, job, poll, success},
    sample::Sample,
};
use crate::{
    core::{
        command::{LeaseReply, Submitted},
        limits::Limits,
        rows::Band,
    },
    dispatcher::{DispatchError, Dispatcher, Stops},
    metrics::Metrics,
    store::{DatabaseUrl, Store},
};

type Failed = Box<dyn Error + Send + Sync>;

/// Jobs that one caller sends before it waits for their answers.
const BATCH: u64 = 512;
/// Times that the scheduler starts again.
const RESTARTS: u64 = 3;
/// Longest wait of a device for work.
const POLL: Duration = Duration::from_secs(60);

/// Everything about one database, which must be new. `name` is how the rows call it.
///
/// # Errors
/// When the database cannot be used.
pub async fn measure(plan: &Plan, url: DatabaseUrl, name: &str) -> Result<Vec<Row>, Failed> {
    let mut rows = Vec::new();
    let bench = Bench::start(plan, url.clone(), name).await?;
    for row in accounts(plan) {
        bench.dispatcher.add_account(row).await?;
    }
    bench.hello().await?;
    rows.extend(bench.latency().await?);
    rows.push(bench.single().await?);
    rows.push(bench.batched().await?);
    bench.hello().await?; // nodes that were silent so long count as gone
    rows.push(bench.leases().await?);
    if plan.restart > 0 {
        bench.fill().await?;
    }
    bench.stop().await?;
    if plan.restart > 0 {
        rows.push(restarts(plan, &url, name).await?);
    }
    Ok(rows)
}

/// Starts some times over what waits there, each until a device has work.
async fn restarts(plan: &Plan, url: &DatabaseUrl, name: &str) -> Result<Row, Failed> {
    let mut took = Vec::new();
    for device in 0..RESTARTS {
        let began = Instant::now();
        let again = Bench::start(plan, url.clone(), name).await?;
        for node in 0..plan.nodes {
            let welcome = again.dispatcher.hello(hello(plan, node)).await?;
            welcome.map_err(|refusal| refusal.to_string())?;
            if again.polled(device).await? {
                break;
            }
        }
        took.push(began.elapsed().as_secs_f64());
        again.stop().await?;
    }
    took.sort_by(f64::total_cmp);
    let all: Vec<String> = took.iter().map(|s| format!("{s:.2}")).collect();
    let told = format!("{} films wait; {} s", plan.restart, all.join(", "));
    let what = format!("restart to the first lease ({name})");
    Ok(Row::new(what, took[took.len() / 2], "s", told))
}

struct Bench {
    plan: Plan,
    name: String,
    dispatcher: Dispatcher,
    store: Store,
    stops: Stops,
    writer: JoinHandle<()>,
    /// Numbers of jobs and polls.
    jobs: Arc<AtomicU64>,
    polls: AtomicU64,
}

impl Bench {
    async fn start(plan: &Plan, url: DatabaseUrl, name: &str) -> Result<Self, Failed> {
        let store = Store::open(url).await?;
        let stops = Stops::default();
        let metrics = Metrics::new()?;
        let (dispatcher, writer) =
            Dispatcher::start(store.clone(), Limits::default(), metrics, stops.clone()).await?;
        Ok(Self {
            plan: plan.clone(),
            name: name.into(),
            dispatcher,
            store,
            stops,
            writer: tokio::spawn(writer),
            jobs: Arc::default(),
            polls: AtomicU64::new(0),
        })
    }

    async fn stop(self) -> Result<(), Failed> {
        self.stops.serving.cancel();
        self.stops.writing.cancel();
        self.writer.await?;
        self.store.close().await;
        Ok(())
    }

    fn row(&self, what: &str, value: f64, unit: &'static str, told: String) -> Row {
        Row::new(format!("{what} ({})", self.name), value, unit, told)
    }

    /// So many jobs a second.
    fn rate(&self, what: &str, count: u64, took: Duration, told: &str) -> Row {
        let value = count as f64 / took.as_secs_f64();
        self.row(what, value, "1/s", format!("{count} in all; {told}"))
    }

    /// Every node says hello, all at once: the first must not be silent for long before the last has come.
    async fn hello(&self) -> Result<(), Failed> {
        let one = async |node| {
            let welcome = self.dispatcher.hello(hello(&self.plan, node)).await?;
            welcome.map_err(|refusal| refusal.to_string())?;
            Ok::<_, Failed>(())
        };
        try_join_all((0..self.plan.nodes).map(one)).await.map(drop)
    }

    async fn single(&self) -> Result<Row, Failed> {
        let each = self.plan.single / self.plan.callers;
        let mut callers = JoinSet::new();
        let began = Instant::now();
        for _ in 0..self.plan.callers {
            let (dispatcher, plan, jobs) = (
                self.dispatcher.clone(),
                self.plan.clone(),
                self.jobs.clone(),
            );
            callers.spawn(async move {
                for _ in 0..each {
                    submit(&dispatcher, &plan, &jobs).await?;
                }
                Ok::<_, Failed>(())
            });
        }
        while let Some(done) = callers.join_next().await {
            done??;
        }
        Ok(self.rate(
            "durable submits, single calls",
            each * self.plan.callers,
            began.elapsed(),
            &format!("{} callers, each waits for its answer", self.plan.callers),
        ))
    }

    async fn batched(&self) -> Result<Row, Failed> {
        let began = Instant::now();
        self.submit_many(self.plan.batched).await?;
        let told = format!("1 caller, {BATCH} at a time");
        let what = "durable submits, batched";
        Ok(self.rate(what, self.plan.batched, began.elapsed(), &told))
    }

    async fn submit_many(&self, count: u64) -> Result<(), Failed> {
        let mut left = count;
        while left > 0 {
            let now = left.min(BATCH);
            let all = (0..now).map(|_| submit(&self.dispatcher, &self.plan, &self.jobs));
            try_join_all(all).await?;
            left -= now;
        }
        Ok(())
    }

    /// Each device of the farm takes one of the jobs that wait.
    async fn leases(&self) -> Result<Row, Failed> {
        let devices = self.plan.nodes * u64::from(self.plan.devices_a_node);
        let count = devices.min(self.plan.batched);
        let began = Instant::now();
        let mut at = 0;
        while at < count {
            let some = at..count.min(at + BATCH);
            at = some.end;
            let given = try_join_all(some.map(|device| self.polled(device))).await?;
            if !given.into_iter().all(|given| given) {
                return Err("a job waits and a device is free, but it got nothing".into());
            }
        }
        let told = format!("{BATCH} devices ask at a time");
        Ok(self.rate("durable leases", count, began.elapsed(), &told))
    }

    /// Whether the device gets work at once.
    async fn polled(&self, device: u64) -> Result<bool, DispatchError> {
        let mut request = poll(&self.plan, device);
        request.poll_id = self.polls.fetch_add(1, Ordering::Relaxed) + 1;
        let reply = self.dispatcher.lease(request, Duration::ZERO).await?;
        Ok(matches!(reply, LeaseReply::Offer { .. }))
    }

    /// Devices wait, one job comes: until one of them has it.
    async fn latency(&self) -> Result<Vec<Row>, Failed> {
        let mut sample = Sample::default();
        for n in 0..self.plan.latencies as u64 {
            let mut request = poll(&self.plan, n);
            request.poll_id = self.polls.fetch_add(1, Ordering::Relaxed) + 1;
            let dispatcher = self.dispatcher.clone();
            let device = tokio::spawn(async move {
                let reply = dispatcher.lease(request, POLL).await;
                (reply, Instant::now())
            });
            tokio::task::yield_now().await;
            let began = Instant::now();
            submit(&self.dispatcher, &self.plan, &self.jobs).await?;
            let (reply, ended) = device.await?;
            let LeaseReply::Offer { offer, .. } = reply? else {
                return Err("a waiting device got no work".into());
            };
            sample.add(ended.duration_since(began));
            self.finish(&offer, n).await?;
        }
        let told = format!(
            "idle farm, {} films one after the other",
            self.plan.latencies
        );
        let row = |(name, share)| {
            let ms = sample.clone().quantile_ns(share) / 1e6;
            self.row(&format!("submit to lease {name}"), ms, "ms", told.clone())
        };
        Ok([("p50", 0.5), ("p99", 0.99)].map(row).into())
    }

    /// The shot is done, and so is the film.
    async fn finish(&self, offer: &schemas::agent::LeaseOffer, device: u64) -> Result<(), Failed> {
        self.dispatcher.report(success(offer)).await?;
        let mut request = poll(&self.plan, device);
        request.poll_id = self.polls.fetch_add(1, Ordering::Relaxed) + 1;
        if let LeaseReply::Offer { offer, .. } = self.dispatcher.lease(request, POLL).await? {
            self.dispatcher.report(success(&offer)).await?;
        }
        Ok(())
    }

    /// Until as many jobs wait as the restart is measured with.
    async fn fill(&self) -> Result<(), Failed> {
        let devices = self.plan.nodes * u64::from(self.plan.devices_a_node);
        let made = self.jobs.load(Ordering::Relaxed);
        let served = devices.min(self.plan.batched) + self.plan.latencies as u64;
        let waiting = made - served.min(made);
        self.submit_many(self.plan.restart.saturating_sub(waiting))
            .await
    }
}

async fn submit(dispatcher: &Dispatcher, plan: &Plan, jobs: &AtomicU64) -> Result<(), Failed> {
    let n = jobs.fetch_add(1, Ordering::Relaxed) + 1;
    match dispatcher.submit(job(plan, n, Band::Standard)).await? {
        Submitted::Created(_) => Ok(()),
        other => Err(format!("job {n} was not made: {other:?}").into()),
    }
}
