//! The process on a node: leases tasks from the scheduler, renders, assembles, reports.
//!
//! Start at [`work`]: one worker for each device runs the loop. [`heartbeat`] renews the leases
//! beside it on a thread of its own. [`held`] is what both look at. The agent opens no database
//! and holds no secret but its token.

pub mod assemble;
pub mod catalogue;
pub mod client;
pub mod clock;
pub mod connect;
mod desk;
pub mod device;
pub mod doctor;
pub mod first_frame;
pub mod given;
pub mod heartbeat;
pub mod held;
pub mod host;
pub mod material;
pub mod membership;
pub mod metrics;
pub mod mux;
pub mod nvml;
mod page;
mod probe;
pub mod render;
mod scratch;
#[cfg(test)]
mod scripted;
pub mod settings;
pub mod shot;
mod soundtrack;
pub mod splice;
mod stills;
mod studio;
pub mod trial;
pub mod wav;
pub mod work;
pub mod xids;

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
};

use kernels::{Device, KernelError};
use schemas::{
    BootId,
    agent::{DrainNotice, Hello},
};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use settings::Settings;

use crate::{
    catalogue::{Catalogue, CatalogueError},
    client::{Client, ClientError, Try},
    device::{Engine, Opened},
    heartbeat::Beater,
    held::Leases,
    membership::Membership,
    metrics::Metrics,
    mux::{Ffmpeg, MuxError},
    nvml::Gpus,
    scratch::{Scratch, ScratchError},
    studio::{Studio, Tails},
    work::Worker,
    xids::XidLog,
};

/// How the class of a device begins that is no GPU.
const CPU_CLASS: &str = "cpu";

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Weights(#[from] CatalogueError),
    #[error(transparent)]
    Ffmpeg(#[from] MuxError),
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot set up the device for rendering")]
    Device(#[from] KernelError),
    #[error("cannot start the heartbeat thread")]
    Thread(#[source] std::io::Error),
    #[error("cannot serve metrics on {address}; choose another with metrics_listen")]
    MetricsPort {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("a worker of the agent stopped at a broken invariant")]
    Worker,
    #[error(
        "the GPU is lost to this process: start the agent again. If that fails too, see 'nvidia-smi' and the \
         kernel's log, and restart the machine"
    )]
    DeviceLost(#[source] KernelError),
}

/// An agent at work.
pub struct Running {
    leases: Arc<Leases>,
    metrics: Metrics,
    metrics_address: Option<SocketAddr>,
    /// Ends the metrics page with the agent.
    _page: DropGuard,
    task: JoinHandle<Result<(), AgentError>>,
}

impl Running {
    pub fn drain_handle(&self) -> DrainHandle {
        DrainHandle(Arc::clone(&self.leases))
    }

    /// Waits until the agent has ended.
    ///
    /// # Errors
    /// Why it ended before it was drained.
    pub async fn join(mut self) -> Result<(), AgentError> {
        (&mut self.task).await.map_err(|_| AgentError::Worker)?
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Where its metrics are served, when the settings ask for that.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }
}

/// Drains an agent from elsewhere than where it is waited for.
#[derive(Clone)]
pub struct DrainHandle(Arc<Leases>);

impl DrainHandle {
    /// Takes no new work and ends what runs: finishes what has little left, gives back the rest.
    pub fn drain(&self) {
        self.0.drain();
    }
}

/// Starts an agent in this process, with `token` for the scheduler.
///
/// Loads the weights and looks for FFmpeg first; an agent that cannot work does not join.
///
/// # Errors
/// What is missing on this node. A scheduler that does not answer is no error: the agent waits.
pub async fn start(settings: Settings, token: &str) -> Result<Running, AgentError> {
    let open = |settings: &Settings| {
        let Opened { device, chosen } = settings.open_device()?;
        if let Some(chosen) = chosen {
            tracing::info!(chosen, "the device was chosen");
        }
        Ok(device)
    };
    begin(settings, token, open).await
}

/// As [`start`], on a device that is open already.
///
/// # Errors
/// As [`start`].
pub async fn start_on(
    settings: Settings,
    token: &str,
    device: Device,
) -> Result<Running, AgentError> {
    begin(settings, token, |_| Ok(device)).await
}

async fn begin(
    settings: Settings,
    token: &str,
    open: impl FnOnce(&Settings) -> Result<Device, KernelError> + Send + 'static,
) -> Result<Running, AgentError> {
    let listen = settings.metrics_listen;
    let client = Client::new(&settings.scheduler_url, token)?;
    let beat_client = client.beside()?;
    let prepare = tokio::task::spawn_blocking(move || Node::prepare(settings, open));
    let node = prepare.await.map_err(|_| AgentError::Worker)??;
    let leases = Arc::new(Leases::default());
    let metrics = node.studio.metrics.clone();
    let page = CancellationToken::new();
    let metrics_address = match listen {
        Some(address) => Some(page::serve(address, metrics.clone(), page.clone()).await?),
        None => None,
    };
    let task = tokio::spawn(node.live(client, beat_client, Arc::clone(&leases)));
    Ok(Running {
        leases,
        metrics,
        metrics_address,
        _page: page.drop_guard(),
        task,
    })
}

/// The token that `settings` point to.
pub fn read_token(settings: &Settings) -> Result<String, ClientError> {
    let path = settings
        .token_file
        .clone()
        .unwrap_or_else(|| "data/agent-token".into());
    let token =
        std::fs::read_to_string(&path).map_err(|source| ClientError::NoToken { path, source })?;
    Ok(token.trim().to_string())
}

/// This node, ready to work.
struct Node {
    studio: Arc<Studio>,
    scratch: Scratch,
    gpus: Gpus,
    device: Device,
}

impl Node {
    fn prepare(
        mut settings: Settings,
        open: impl FnOnce(&Settings) -> Result<Device, KernelError>,
    ) -> Result<Self, AgentError> {
        let scratch = Scratch::open(&settings.scratch)?;
        let ffmpeg = Ffmpeg::find(settings.ffmpeg.as_deref())?;
        let device = open(&settings)?;
        settings.device = match &device {
            Device::Cpu(_) => Engine::Cpu,
            _ => Engine::Cuda,
        };
        let catalogue = Catalogue::open(&settings.weights, &device)?;
        let gpus = Gpus::probe();
        if let Gpus::None { why } = &gpus {
            tracing::info!(why, "no GPU is watched");
        }
        tracing::info!(gpus = ?gpus.list(), class = device.class(), "rendering");
        let studio = Studio {
            catalogue,
            ffmpeg,
            settings,
            metrics: Metrics::new(),
            tails: Tails::default(),
        };
        Ok(Self {
            studio: Arc::new(studio),
            scratch,
            gpus,
            device,
        })
    }

    async fn live(
        self,
        client: Client,
        beat_client: Client,
        leases: Arc<Leases>,
    ) -> Result<(), AgentError> {
        let hello = self.hello();
        let devices: Vec<u32> = hello.devices.iter().map(|device| device.index).collect();
        let ask = || {
            if leases.draining.is_cancelled() {
                Try::GiveUp
            } else {
                Try::Now
            }
        };
        let membership = match Membership::join(&client, hello, ask).await {
            Err(ClientError::Stopped) => return Ok(()),
            joined => Arc::new(joined?),
        };
        let (stop, xids) = (CancellationToken::new(), XidLog::default());
        // First come the devices that the engine computes on: a GPU that is only watched is behind the CPU.
        let first_gpu = match self.device.class().starts_with(CPU_CLASS) {
            true => self.studio.settings.device_count(),
            false => 0,
        };
        self.gpus.watch_xids(first_gpu, xids.clone(), stop.clone());
        let beater = Beater {
            client: beat_client,
            membership: Arc::clone(&membership),
            leases: Arc::clone(&leases),
            gpus: self.gpus,
            first_gpu,
            xids,
            metrics: self.studio.metrics.clone(),
            margin_ms: self.studio.settings.fence_margin_ms,
            stop: stop.clone(),
        };
        let heart = beater.start().map_err(AgentError::Thread)?;
        let polls = Arc::new(AtomicU64::new(1));
        let mut workers = JoinSet::new();
        for device in devices {
            let worker = Worker {
                device,
                client: client.clone(),
                membership: Arc::clone(&membership),
                leases: Arc::clone(&leases),
                studio: Arc::clone(&self.studio),
                polls: Arc::clone(&polls),
                scratch: self.scratch.path().to_path_buf(),
            };
            workers.spawn(worker.run());
        }
        let noticed = tokio::spawn(notice_of_drain(client, membership, leases));
        let ended = workers.join_all().await;
        noticed.abort();
        stop.cancel();
        let _ = tokio::task::spawn_blocking(move || heart.join()).await;
        tracing::info!(workers = ended.len(), "the agent has left");
        let lost = ended.into_iter().find_map(Result::err);
        lost.map_or(Ok(()), |lost| Err(AgentError::DeviceLost(lost)))
    }

    fn hello(&self) -> Hello {
        Hello {
            name: self.studio.settings.name.clone(),
            boot: BootId(uuid::Uuid::now_v7()),
            version: env!("CARGO_PKG_VERSION").into(),
            devices: self.devices(),
            weights: self.studio.catalogue.advertise(),
            ffmpeg: Some(self.studio.ffmpeg.version.clone()),
            group_max: self.studio.settings.group_max(),
        }
    }

    /// One, or as many as the processor is divided into.
    fn devices(&self) -> Vec<schemas::agent::Device> {
        let count = self.studio.settings.device_count();
        let bytes = self.device.card_bytes().or(host::memory_total_bytes());
        let bytes = bytes.unwrap_or(0);
        let device = |index| schemas::agent::Device {
            index,
            class: self.device.class(),
            memory_bytes: bytes / u64::from(count),
        };
        (0..count).map(device).collect()
    }
}

/// Tells the scheduler that this agent takes no more work, so that it plans without it at once.
async fn notice_of_drain(client: Client, membership: Arc<Membership>, leases: Arc<Leases>) {
    leases.draining.cancelled().await;
    let (agent, boot) = (membership.agent(), membership.boot());
    if let Err(error) = client.drain(&DrainNotice { agent, boot }).await {
        tracing::warn!(error = %client::chain(&error), "the scheduler does not know of the drain");
    }
}
