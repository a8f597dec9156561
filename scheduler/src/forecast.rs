//! Looks ahead in the background, so that an answer can say when a job begins and ends without waiting for it.
//!
//! ```text
//! dispatcher --pages--> copy --production core, 1 + 16 runs--> Forecast --> answers
//! ```
//! The copy is taken in small pages between other commands. Beyond [`JOBS_MAX`] jobs only some accounts are copied,
//! and played by a farm that is smaller by as much. A job that came after the copy is placed by those that were there.

mod interval;
mod predict;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use schemas::{AccountId, JobId};
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

pub use self::{
    interval::Interval,
    predict::{Forecast, Foreseen},
};
use crate::{
    core::{outlook::Outlook, rows::NewJob},
    dispatcher::{DispatchError, Dispatcher},
    metrics::Metrics,
};

/// How old a forecast grows.
const REFRESH_EVERY: Duration = Duration::from_secs(10);
/// After news it is made anew at most this often.
const REFRESH_PAUSE: Duration = Duration::from_millis(500);
/// Share of one processor that looking ahead may take, as one part in so many.
const SHARE: u32 = 5;
/// Time for all runs of a forecast, and for those of an estimate that somebody waits for.
const BUDGET: Duration = Duration::from_secs(2);
const ASK_BUDGET: Duration = Duration::from_secs(1);
/// Jobs or accounts in one page: what the dispatcher copies between two commands.
const PAGE: usize = 256;
/// Jobs in a copy.
const JOBS_MAX: usize = 4_096;

/// Makes forecasts and keeps the newest; cheap to clone.
#[derive(Clone, Debug)]
pub struct Forecaster {
    dispatcher: Dispatcher,
    metrics: Metrics,
    latest: Arc<RwLock<Arc<Forecast>>>,
    /// Held while one looks ahead, so that many estimates at once take turns on one processor.
    turn: Arc<Mutex<()>>,
    news: Arc<Notify>,
}

impl Forecaster {
    pub fn new(dispatcher: Dispatcher, metrics: Metrics) -> Self {
        Self {
            dispatcher,
            metrics,
            latest: Arc::default(),
            turn: Arc::default(),
            news: Arc::default(),
        }
    }

    /// The newest forecast; an empty one before the first.
    pub fn latest(&self) -> Arc<Forecast> {
        let latest = self.latest.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&latest)
    }

    /// A job came or went: the forecast is made anew soon.
    pub fn tell(&self) {
        self.news.notify_one();
    }

    /// Makes forecasts until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let began = Instant::now();
            if let Err(error) = self.refresh().await {
                tracing::debug!(%error, "no forecast could be made");
            }
            let pause = REFRESH_PAUSE.max(began.elapsed() * SHARE);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.news.notified() => {}
                () = tokio::time::sleep(REFRESH_EVERY.saturating_sub(pause)) => {}
            }
        }
    }

    /// Makes a forecast now.
    ///
    /// # Errors
    /// [`DispatchError`] when the dispatcher cannot be asked.
    pub async fn refresh(&self) -> Result<(), DispatchError> {
        let _turn = self.turn.lock().await;
        let began = Instant::now();
        let outlook = self.copy(None).await?;
        let forecast = ahead(outlook, Vec::new(), BUDGET).await;
        self.metrics
            .forecast_seconds
            .observe(began.elapsed().as_secs_f64());
        *self.latest.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(forecast);
        Ok(())
    }

    /// What would become of these jobs if they were submitted now; none of them is made.
    ///
    /// # Errors
    /// [`DispatchError`] when the dispatcher cannot be asked.
    pub async fn ask(&self, probes: Vec<NewJob>) -> Result<Forecast, DispatchError> {
        let _turn = self.turn.lock().await;
        let asker = probes.first().map(|probe| probe.project);
        let outlook = self.copy(asker).await?;
        Ok(ahead(outlook, probes, ASK_BUDGET).await)
    }

    /// Copies what runs and waits, page by page; the jobs of `always` in any case.
    async fn copy(&self, always: Option<AccountId>) -> Result<Outlook, DispatchError> {
        // Jobs first, so that their accounts and agents are known by the time those are copied.
        let mut sampled = Sampled::new(always);
        let mut after = None;
        loop {
            let (page, last) = self.dispatcher.outlook_page(after, PAGE).await?;
            sampled.add(page);
            if last.is_none() {
                break;
            }
            after = last;
        }
        let mut frame = self.dispatcher.outlook_frame().await?;
        let mut account = None;
        loop {
            let page = self.dispatcher.outlook_accounts(account, PAGE).await?;
            let Some((last, _)) = page.last() else {
                break;
            };
            account = Some(last.id);
            frame.add(page);
        }
        Ok(Outlook {
            frame,
            share_ppm: sampled.share_ppm(),
            jobs: sampled.jobs,
        })
    }
}

/// Runs where it may take its time.
async fn ahead(outlook: Outlook, probes: Vec<NewJob>, budget: Duration) -> Forecast {
    let until = Instant::now() + budget;
    let look = move || predict::predict(&outlook, &probes, &|| Instant::now() >= until);
    match tokio::task::spawn_blocking(look).await {
        Ok(forecast) => forecast,
        Err(error) => {
            // A broken invariant costs this forecast, not those to come.
            tracing::error!(%error, "a look ahead broke off");
            Forecast::default()
        }
    }
}

/// Jobs of all accounts, or of some when they are too many.
struct Sampled {
    always: Option<AccountId>,
    jobs: Vec<crate::core::outlook::LiveCopy>,
    /// Accounts whose mark is below it are copied.
    below: u64,
    seen: u64,
}

impl Sampled {
    fn new(always: Option<AccountId>) -> Self {
        Self {
            always,
            jobs: Vec::new(),
            below: u64::MAX,
            seen: 0,
        }
    }

    fn add(&mut self, page: Vec<crate::core::outlook::LiveCopy>) {
        self.seen += page.len() as u64;
        let is_in =
            |account: AccountId, below: u64| Some(account) == self.always || mark(account) <= below;
        let below = self.below;
        let (always, page) = (self.always, page.into_iter());
        self.jobs
            .extend(page.filter(|copy| is_in(copy.job.project, below)));
        while self.jobs.len() > JOBS_MAX && self.below > 0 {
            self.below /= 2;
            let below = self.below;
            self.jobs
                .retain(|copy| Some(copy.job.project) == always || mark(copy.job.project) <= below);
        }
        // One account alone may have more than all that fits: its first ones are played.
        self.jobs.truncate(JOBS_MAX);
    }

    fn share_ppm(&self) -> u64 {
        let kept = self.jobs.len() as u64 * 1_000_000;
        kept.checked_div(self.seen).unwrap_or(1_000_000).max(1)
    }
}

/// Spreads accounts evenly, the same in every forecast.
fn mark(account: AccountId) -> u64 {
    let hash = blake3::hash(account.0.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// Jobs and what is known of them.
pub type Intervals = BTreeMap<JobId, Interval>;
