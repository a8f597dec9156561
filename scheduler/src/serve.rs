//! The process: lock, database, dispatcher, HTTP, and their end in the right order.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api::{AgentApi, ApiState, Standby, agent_api, standby_api, unknown_url, videos_api},
    artifacts::{ArtifactError, Artifacts},
    bootstrap::{self, BootstrapError},
    chores::{self, ChoreError},
    core::limits::Limits,
    dispatcher::{Dispatcher, FoldError, Stops},
    forecast::Forecaster,
    leader::{self, Kept, LeaderError, Leadership},
    metrics::{Metrics, MetricsError},
    settings::Settings,
    store::{Store, StoreError},
};

/// How long open connections may take to end after a shutdown was asked for.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Why a scheduler cannot start; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("a setting cannot be used: {0}")]
    Settings(String),
    #[error(
        "the address {address} is in use; stop what listens there, or choose another with --listen"
    )]
    PortInUse { address: SocketAddr },
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("cannot answer while another scheduler leads")]
    Standby(#[source] io::Error),
    #[error(transparent)]
    Leader(#[from] LeaderError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
    #[error(transparent)]
    Fold(#[from] FoldError),
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    #[error(transparent)]
    Chores(#[from] ChoreError),
}

/// The scheduler, not yet running.
#[derive(Debug)]
pub struct Scheduler;

/// A scheduler that serves. Dropping it without [`Running::shutdown`] ends it as a crash would,
/// which loses nothing that was acknowledged.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    data: PathBuf,
    agent_token: String,
    first_key: Option<String>,
    dispatcher: Dispatcher,
    store: Store,
    stops: Stops,
    /// Cancelled when the writer has ended, asked or not.
    ended: CancellationToken,
    serving: TaskTracker,
    writing: TaskTracker,
    /// Freed last.
    leadership: Option<Kept>,
}

#[derive(Clone)]
struct Health {
    dispatcher: Dispatcher,
    metrics: Metrics,
}

impl Scheduler {
    /// Starts on the address and folder of the settings; answers when requests are served.
    ///
    /// # Errors
    /// [`StartError`] when the address or the folder is taken, not writable, or too new. Nothing
    /// has changed then.
    pub async fn start(settings: Settings) -> Result<Running, StartError> {
        let limits = settings.limits().map_err(StartError::Settings)?;
        make_folder(&settings.data)?;
        let leadership = leader::lead_on(&settings.database()).await?;
        let listener = bind(settings.listen).await?;
        Self::lead(settings, limits, leadership, listener).await
    }

    /// Like [`Scheduler::start`], but on PostgreSQL waits while another scheduler leads: until then
    /// this one answers reads and hands everything else to the leader.
    ///
    /// # Errors
    /// [`StartError`], not for a leadership that is taken on PostgreSQL.
    pub async fn stand_by(settings: Settings) -> Result<Running, StartError> {
        let url = settings.database();
        if !url.is_postgres() {
            return Self::start(settings).await;
        }
        let limits = settings.limits().map_err(StartError::Settings)?;
        make_folder(&settings.data)?;
        let listener = bind(settings.listen).await?;
        let leadership = match leader::lead_on(&url).await {
            Err(LeaderError::TakenOnServer { .. }) => wait_to_lead(&settings, &listener).await?,
            led => led?,
        };
        Self::lead(settings, limits, leadership, listener).await
    }

    async fn lead(
        settings: Settings,
        limits: Limits,
        leadership: Leadership,
        listener: TcpListener,
    ) -> Result<Running, StartError> {
        let address = listener.local_addr().map_err(|source| StartError::Listen {
            address: settings.listen,
            source,
        })?;
        let store = Store::open(settings.database()).await?;
        let artifacts = Artifacts::open_to_write(settings.artifacts(), &settings.s3).await?;
        let metrics = Metrics::new()?;
        let (stops, ended) = (Stops::default(), CancellationToken::new());
        let (serving, writing) = (TaskTracker::new(), TaskTracker::new());
        let (dispatcher, writer) =
            Dispatcher::start(store.clone(), limits, metrics.clone(), stops.clone()).await?;
        let guard = ended.clone().drop_guard(); // also when the writer panics
        writing.spawn(async move {
            let _guard = guard;
            writer.await;
        });
        let leadership = leadership.keep(stops.writing.clone());
        if let Some(term) = dispatcher.term() {
            store.advertise(term, &settings.advertised(address)).await?;
        }
        metrics.leads.set(1);
        let first_key = bootstrap::first_key(&settings.data, &store, &dispatcher).await?;
        let agent_token = bootstrap::agent_token(&settings.data)?;
        chores::start(
            settings.chores.clone(),
            store.clone(),
            artifacts.clone(),
            &serving,
            stops.serving.clone(),
        )
        .await?;
        let forecaster = Forecaster::new(dispatcher.clone(), metrics.clone());
        serving.spawn(forecaster.clone().run(stops.serving.clone()));
        let router = router(
            &settings,
            &agent_token,
            (&dispatcher, forecaster),
            &store,
            artifacts,
            metrics,
            &stops,
        );
        let stop = stops.serving.clone().cancelled_owned();
        let server = axum::serve(listener, router).with_graceful_shutdown(stop);
        serving.spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the server ended");
            }
        });
        tracing::info!(%address, data = %settings.data.display(), "serving");
        Ok(Running {
            address,
            data: settings.data,
            agent_token,
            first_key,
            dispatcher,
            store,
            stops,
            ended,
            serving,
            writing,
            leadership: Some(leadership),
        })
    }
}

/// Everything that this process answers, on one address.
fn router(
    settings: &Settings,
    agent_token: &str,
    (dispatcher, forecaster): (&Dispatcher, Forecaster),
    store: &Store,
    artifacts: Artifacts,
    metrics: Metrics,
    stops: &Stops,
) -> Router {
    let agents = AgentApi::new(
        dispatcher.clone(),
        artifacts.clone(),
        metrics.clone(),
        agent_token,
        Duration::from_millis(settings.farm.long_poll_ms),
    );
    let videos = ApiState::new(
        dispatcher.clone(),
        store.clone(),
        artifacts,
        forecaster,
        settings.api.clone(),
        stops.serving.clone(),
    );
    let health = Health {
        dispatcher: dispatcher.clone(),
        metrics,
    };
    Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics_text))
        .with_state(health)
        .merge(agent_api(agents))
        .merge(videos_api(videos))
        .fallback(unknown_url)
}

/// Answers on the listener as a standby until this scheduler leads.
async fn wait_to_lead(
    settings: &Settings,
    listener: &TcpListener,
) -> Result<Leadership, StartError> {
    let (address, url) = (listener.local_addr(), settings.database());
    let address = address.map_err(StartError::Standby)?;
    tracing::info!(%address, database = %url, "standing by: another scheduler leads");
    let second = rustix::io::dup(listener).map_err(|error| StartError::Standby(error.into()))?;
    let second = TcpListener::from_std(second.into()).map_err(StartError::Standby)?;
    let leads = CancellationToken::new();
    let standby = Standby::new(
        url.clone(),
        Artifacts::open_at(settings.artifacts(), &settings.s3)?,
        settings.api.clone(),
        Metrics::new()?,
        leads.clone(),
    );
    let stop = leads.clone().cancelled_owned();
    let _guard = leads.drop_guard(); // also when nobody waits for this any more
    let server = axum::serve(second, standby_api(standby.clone())).with_graceful_shutdown(stop);
    tokio::spawn(async move {
        let ended = server.await;
        tracing::debug!(?ended, "no longer answers as a standby");
        standby.close().await;
    });
    Ok(leader::wait_to_lead(&url).await?)
}

fn make_folder(data: &Path) -> Result<(), LeaderError> {
    std::fs::create_dir_all(data).map_err(|source| LeaderError::NotWritable {
        folder: data.to_path_buf(),
        source,
    })
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(StartError::PortInUse { address })
        }
        Err(source) => Err(StartError::Listen { address, source }),
    }
}

impl Running {
    /// Where it listens; the port that was taken when the settings said 0.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Base for clients and agents, without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What agents show in `Authorization: Bearer`.
    pub fn agent_token(&self) -> &str {
        &self.agent_token
    }

    /// The API key, if this was the first start. It is also in [`Running::api_key_file`].
    pub fn first_key(&self) -> Option<&str> {
        self.first_key.as_deref()
    }

    pub fn api_key_file(&self) -> PathBuf {
        self.data.join(bootstrap::API_KEY_FILE)
    }

    pub fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Waits until this scheduler can write no more. Before a shutdown that is a fault: end the process.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Ends polls and event streams, lets open requests finish, commits what was accepted.
    pub async fn shutdown(mut self) {
        self.stops.serving.cancel();
        self.serving.close();
        if timeout(DRAIN_MAX, self.serving.wait()).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
        self.stops.writing.cancel();
        self.writing.close();
        self.writing.wait().await;
        self.store.close().await;
        if let Some(leadership) = self.leadership.take() {
            leadership.release().await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stops.serving.cancel();
        self.stops.writing.cancel();
    }
}

async fn healthz(State(health): State<Health>) -> Response {
    match health.dispatcher.counts().await {
        Ok(_) => Json(serde_json::json!({"status": "ok"})).into_response(),
        Err(error) => unavailable(&error.to_string()),
    }
}

async fn metrics_text(State(health): State<Health>) -> Response {
    let counts = match health.dispatcher.counts().await {
        Ok(counts) => counts,
        Err(error) => return unavailable(&error.to_string()),
    };
    match health.metrics.render(&counts) {
        Ok(text) => {
            let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
            (kind, text).into_response()
        }
        Err(error) => unavailable(&error.to_string()),
    }
}

fn unavailable(why: &str) -> Response {
    let body = Json(serde_json::json!({"status": "unavailable", "why": why}));
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}
