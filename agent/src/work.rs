//! One worker for each device: lease, render or assemble, report.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use kernels::{KernelError, Team};
use schemas::{
    agent::{
        LeaseAnswer, LeaseOffer, LeaseRequest, MemoryTold, Outcome, Phase, ProbeReport, Times,
        WriteAnswer,
    },
    task::{Artefact, AssembleSpec, BeforeSpec, TaskSpec, Variant},
};

use crate::{
    assemble::{self, AssembleError, FilmFiles},
    client::{Client, ClientError, Try, chain},
    clock::BootMs,
    desk::{Broken, Desk},
    held::{Held, Leases},
    membership::Membership,
    probe,
    render::{self, micros},
    studio::Studio,
};

/// Between polls that are answered at once, so that an idle farm is not asked in a loop.
const POLL_PAUSE: Duration = Duration::from_millis(500);
const POLL_QUICK: Duration = Duration::from_millis(250);
const REFUSED_PAUSE: Duration = Duration::from_secs(3);

pub struct Worker {
    pub device: u32,
    pub client: Client,
    pub membership: Arc<Membership>,
    pub leases: Arc<Leases>,
    pub studio: Arc<Studio>,
    /// Next poll id of this boot, shared by all workers.
    pub polls: Arc<AtomicU64>,
    pub scratch: PathBuf,
}

impl Worker {
    /// Works until the agent drains.
    ///
    /// # Errors
    /// What the device says once it works no more; the whole agent drains then.
    pub async fn run(self) -> Result<(), KernelError> {
        let draining = self.leases.draining.clone();
        while !draining.is_cancelled() {
            let offer = tokio::select! {
                biased;
                () = draining.cancelled() => return Ok(()),
                offer = self.lease() => offer,
            };
            if let Some((offer, sent_at)) = offer {
                self.work(*offer, sent_at).await;
            }
            // Behind a fault everything would fail here that works elsewhere.
            if let Err(lost) = self.check().await {
                tracing::error!(device = self.device, error = %lost, "the device is lost");
                self.leases.drain();
                return Err(lost);
            }
        }
        Ok(())
    }

    async fn check(&self) -> Result<(), KernelError> {
        let studio = Arc::clone(&self.studio);
        let looked = tokio::task::spawn_blocking(move || studio.check()).await;
        looked.unwrap_or(Ok(()))
    }

    /// One long poll, repeated with the same id until it is answered.
    async fn lease(&self) -> Option<(Box<LeaseOffer>, BootMs)> {
        let poll_id = self.polls.fetch_add(1, Relaxed);
        let began = Instant::now();
        let (agent, boot) = (self.membership.agent(), self.membership.boot());
        let request = LeaseRequest {
            agent,
            boot,
            device: self.device,
            poll_id,
        };
        // The lease counts from the try that was answered, not from the first.
        let sent_at_ms = AtomicU64::new(0);
        let call = || {
            sent_at_ms.store(BootMs::now().0, Relaxed);
            self.client.lease(&request)
        };
        match Client::persist("lease", || Try::Now, call).await {
            Ok(LeaseAnswer::Offer(offer)) => {
                return Some((offer, BootMs(sent_at_ms.load(Relaxed))));
            }
            Ok(LeaseAnswer::Idle { why }) => {
                tracing::debug!(why, "idle");
                if began.elapsed() < POLL_QUICK {
                    tokio::time::sleep(POLL_PAUSE).await;
                }
            }
            Ok(LeaseAnswer::Probe) => self.probe().await,
            Ok(LeaseAnswer::UnknownAgent) => {
                if let Err(error) = self.membership.rejoin(&self.client).await {
                    self.refused(&error).await;
                }
            }
            Err(error) => self.refused(&error).await,
        }
        None
    }

    /// Renders the probe on this device and tells what came out. A report that is lost is asked for again.
    async fn probe(&self) {
        tracing::info!(device = self.device, "probe");
        let draining = self.leases.draining.clone();
        let Some(outcome) = probe::run(&self.studio, move || draining.is_cancelled()).await else {
            return;
        };
        tracing::info!(device = self.device, ?outcome, "probe ended");
        let report = ProbeReport {
            agent: self.membership.agent(),
            boot: self.membership.boot(),
            device: self.device,
            outcome,
        };
        match self.client.probe(&report).await {
            Ok(WriteAnswer::Refused { why }) => tracing::warn!(why, "the probe does not count"),
            Ok(WriteAnswer::Accepted | WriteAnswer::Duplicate) => {}
            Err(error) => self.refused(&error).await,
        }
    }

    async fn refused(&self, error: &ClientError) {
        tracing::error!(error = %chain(error), "no lease");
        tokio::time::sleep(REFUSED_PAUSE).await;
    }

    /// Works one attempt to its end and reports it.
    async fn work(&self, offer: LeaseOffer, sent_at: BootMs) {
        let margin_ms = self.studio.settings.fence_margin_ms;
        let held = Held::new(
            offer.lease,
            offer.spec.kind(),
            sent_at,
            offer.ttl_ms,
            margin_ms,
        );
        let held = Arc::new(held);
        self.leases.add(Arc::clone(&held));
        let (task, attempt) = (offer.lease.task, offer.lease.attempt);
        let devices = &offer.devices;
        tracing::info!(%task, attempt, job = %offer.job, kind = ?held.kind, ?devices, "leased");
        let dir = self.scratch.join(format!("{task}-{attempt}"));
        let desk = Desk {
            client: self.client.clone(),
            held: Arc::clone(&held),
            dir,
            team: self.team(&offer.devices),
        };
        let ended = self.end(Arc::new(desk), offer).await;
        self.leases.remove(&held);
        self.studio
            .metrics
            .attempts
            .with_label_values(&[ended])
            .inc();
        tracing::info!(%task, attempt, ended, reason = held.reason(), "attempt ended");
    }

    /// The threads of a group. Without them the shot is only slower.
    fn team(&self, devices: &[u32]) -> Option<Team> {
        self.studio.team(devices.len()).unwrap_or_else(|error| {
            tracing::error!(error = %chain(&error), "no threads for the devices of a lease");
            None
        })
    }

    /// The word for how the attempt ended. The scratch folder is gone afterwards.
    async fn end(&self, desk: Arc<Desk>, offer: LeaseOffer) -> &'static str {
        let outcome = match self.outcome(&desk, offer).await {
            Ok(outcome) => Some(outcome),
            Err(Broken::Failed {
                class,
                message,
                peak_bytes,
            }) => Some(Outcome::Failed {
                cause: class,
                message,
                peak_bytes,
            }),
            Err(Broken::Abandoned) => None,
        };
        let word = match &outcome {
            Some(Outcome::Succeeded { .. }) => "succeeded",
            Some(Outcome::Released { .. }) => "released",
            Some(Outcome::Failed { .. }) => "failed",
            None => "abandoned",
        };
        let reported = match outcome {
            Some(outcome) => desk.report(outcome).await,
            None => Ok(()),
        };
        if let Err(error) = tokio::fs::remove_dir_all(&desk.dir).await {
            tracing::warn!(%error, "cannot delete the scratch of an attempt");
        }
        match reported {
            Ok(()) => word,
            Err(_) => "abandoned",
        }
    }

    async fn outcome(&self, desk: &Arc<Desk>, offer: LeaseOffer) -> Result<Outcome, Broken> {
        tokio::fs::create_dir_all(&desk.dir)
            .await
            .map_err(|error| {
                tracing::error!(%error, "cannot make scratch for an attempt");
                let class = schemas::agent::FailureClass::Io;
                Broken::failed(class, "the node cannot write its scratch folder")
            })?;
        match &offer.spec {
            TaskSpec::Render(spec) => render::run(&self.studio, desk, spec, &offer).await,
            TaskSpec::Assemble(spec) => self.assemble(desk, spec, &offer.inputs).await,
        }
    }

    async fn assemble(
        &self,
        desk: &Arc<Desk>,
        spec: &AssembleSpec,
        inputs: &[Artefact],
    ) -> Result<Outcome, Broken> {
        let mut shots = Vec::new();
        for (index, shot) in inputs.iter().enumerate() {
            shots.push(
                desk.fetch(shot.digest, &format!("shot-{index}.mkv"))
                    .await?,
            );
        }
        let before = match spec.before {
            Some(BeforeSpec { film, fit }) => Some((desk.fetch(film, "film-before").await?, fit)),
            None => None,
        };
        desk.held.enter(Phase::Mux);
        let (studio, watched, spec) = (Arc::clone(&self.studio), Arc::clone(desk), spec.clone());
        let film = move || -> Result<FilmFiles, AssembleError> {
            let stop = || watched.is_abandoned();
            let (ffmpeg, dir) = (&studio.ffmpeg, &watched.dir);
            let (spec, shots) = match &before {
                Some((film, fit)) => {
                    assemble::after(ffmpeg, &spec, (film, *fit), &shots, dir, &stop)?
                }
                None => (spec, shots),
            };
            assemble::film(ffmpeg, &spec, &shots, dir, &stop)
        };
        let (files, device_us) = desk.blocking(film).await?;
        desk.held.enter(Phase::Upload);
        let began = Instant::now();
        let artefacts = upload_all(desk, &files?).await?;
        let times = Times {
            mux_us: Some(device_us),
            upload_us: Some(micros(began.elapsed())),
            ..Times::default()
        };
        Ok(Outcome::Succeeded {
            artefacts,
            device_us,
            steps_run: 0,
            times,
            memory: MemoryTold::default(),
        })
    }
}

async fn upload_all(desk: &Desk, files: &FilmFiles) -> Result<Vec<Artefact>, Broken> {
    let files = [
        (Variant::Film, &files.film),
        (Variant::Thumbnail, &files.thumbnail),
        (Variant::Spritesheet, &files.spritesheet),
    ];
    let mut artefacts = Vec::new();
    for (variant, path) in files {
        artefacts.push(desk.upload(variant, path).await?);
    }
    Ok(artefacts)
}
