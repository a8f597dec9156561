//! Where one attempt is worked at: its lease, its scratch folder and its writes to the scheduler.
//!
//! Every write goes through here, so that none is made behind the fence.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use diffusion::{Checkpoint, DiffusionError};
use kernels::{KernelError, Team};
use schemas::{
    Digest,
    agent::{CheckpointRef, CheckpointReport, FailureClass, Outcome, Report, WriteAnswer},
    task::{Artefact, Variant},
};

use crate::{
    assemble::AssembleError,
    catalogue::CatalogueError,
    client::{Client, ClientError, Try, chain},
    clock::BootMs,
    given::GivenError,
    held::{Held, Verdict},
    material::MaterialError,
    mux::MuxError,
};

/// Why an attempt ended without an outcome of its own.
#[derive(Debug)]
pub enum Broken {
    /// The task is not ours any more; nothing is reported.
    Abandoned,
    /// `message` is for people: without paths and addresses of this node, which the log has.
    Failed {
        class: FailureClass,
        message: String,
        /// Memory that the attempt would have taken, when it ran out of it.
        peak_bytes: Option<u64>,
    },
}

pub struct Desk {
    pub client: Client,
    pub held: Arc<Held>,
    /// Emptied and removed when the attempt ends.
    pub dir: PathBuf,
    /// Threads of the devices that the attempt was granted; those of the engine when absent.
    pub team: Option<Team>,
}

impl Desk {
    /// Whether to write now.
    fn ask(&self) -> Try {
        match self.held.verdict(BootMs::now()) {
            Verdict::Abandon => Try::GiveUp,
            Verdict::Fenced => Try::Wait,
            Verdict::Go | Verdict::Drain | Verdict::Yield => Try::Now,
        }
    }

    pub fn is_abandoned(&self) -> bool {
        self.ask() == Try::GiveUp
    }

    /// Downloads an input into the scratch folder.
    pub async fn fetch(&self, digest: Digest, name: &str) -> Result<PathBuf, Broken> {
        let path = self.dir.join(name);
        let call = || self.client.download(digest, &path);
        Client::persist("download", || self.ask(), call).await?;
        Ok(path)
    }

    /// Hashes and uploads a file.
    pub async fn upload(&self, variant: Variant, path: &Path) -> Result<Artefact, Broken> {
        let (digest, bytes) = hashed(path.to_path_buf()).await?;
        let call = || self.client.upload_file(&self.held.lease, digest, path);
        self.taken(Client::persist("upload", || self.ask(), call).await?)?;
        Ok(Artefact {
            variant,
            digest,
            bytes,
        })
    }

    /// Stores a checkpoint: first its bytes, then the word that it is there.
    pub async fn save(&self, checkpoint: &Checkpoint) -> Result<CheckpointRef, Broken> {
        let step = checkpoint.step();
        let bytes = bytes::Bytes::from(checkpoint.to_bytes());
        let saved = CheckpointRef {
            step,
            digest: Digest::of(&bytes),
        };
        let lease = self.held.lease;
        let call = || {
            self.client
                .upload_bytes(&lease, saved.digest, bytes.clone())
        };
        self.taken(Client::persist("upload a checkpoint", || self.ask(), call).await?)?;
        let report = CheckpointReport {
            lease,
            checkpoint: saved,
        };
        let call = || self.client.checkpoint(&report);
        self.taken(Client::persist("checkpoint", || self.ask(), call).await?)?;
        Ok(saved)
    }

    /// Reports the end of the attempt.
    pub async fn report(&self, outcome: Outcome) -> Result<(), Broken> {
        let report = Report {
            lease: self.held.lease,
            outcome,
        };
        self.held.reports();
        let call = || self.client.report(&report);
        self.taken(Client::persist("report", || self.ask(), call).await?)
    }

    fn taken(&self, answer: WriteAnswer) -> Result<(), Broken> {
        match answer {
            WriteAnswer::Accepted | WriteAnswer::Duplicate => Ok(()),
            WriteAnswer::Refused { why } => {
                self.held.abandon(&why);
                Err(Broken::Abandoned)
            }
        }
    }

    /// Runs `work` of the engine on the threads that the attempt was granted.
    pub fn on_team<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.team {
            Some(team) => team.run(work),
            None => work(),
        }
    }

    /// Runs `work` where it may block. A panic ends the attempt, not the process.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<(T, u64), Broken> {
        let started = Instant::now();
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => Ok((
                done,
                u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
            )),
            Err(error) => Err(Broken::failed(
                FailureClass::Internal,
                &format!(
                    "the engine stopped at a broken invariant ({})",
                    panic_text(error)
                ),
            )),
        }
    }
}

async fn hashed(path: PathBuf) -> Result<(Digest, u64), Broken> {
    let hash = move || -> std::io::Result<(Digest, u64)> {
        let mut hasher = blake3::Hasher::new();
        let bytes = std::io::copy(&mut std::fs::File::open(path)?, &mut hasher)?;
        Ok((Digest::from(hasher.finalize()), bytes))
    };
    let hashed = tokio::task::spawn_blocking(hash)
        .await
        .expect("hashing does not panic");
    hashed.map_err(|error| {
        tracing::error!(%error, "cannot read a finished file");
        Broken::failed(
            FailureClass::Io,
            "the node could not read a file that it had written",
        )
    })
}

fn panic_text(error: tokio::task::JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else {
        return "cancelled".into();
    };
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic".into())
}

impl Broken {
    pub fn failed(class: FailureClass, message: &str) -> Self {
        Self::Failed {
            class,
            message: message.into(),
            peak_bytes: None,
        }
    }
}

impl Broken {
    /// The same where what ran out of memory needs so much besides what it said.
    pub fn beside(mut self, bytes: u64) -> Self {
        if let Self::Failed { peak_bytes, .. } = &mut self {
            *peak_bytes = peak_bytes.map(|peak| peak.saturating_add(bytes));
        }
        self
    }

    /// The same with what it was seen to take, where it ran out of memory and did not say itself.
    pub fn having_taken(mut self, bytes: Option<u64>) -> Self {
        if let Self::Failed {
            class: FailureClass::OutOfMemory,
            peak_bytes: peak_bytes @ None,
            ..
        } = &mut self
        {
            *peak_bytes = bytes;
        }
        self
    }
}

impl From<ClientError> for Broken {
    fn from(error: ClientError) -> Self {
        if let ClientError::Stopped = error {
            return Self::Abandoned;
        }
        tracing::error!(error = %chain(&error), "an exchange with the scheduler failed");
        Self::failed(
            FailureClass::Io,
            "the node could not exchange files with the scheduler",
        )
    }
}

impl From<DiffusionError> for Broken {
    fn from(error: DiffusionError) -> Self {
        tracing::error!(error = %chain(&error), "the engine failed");
        let class = match &error {
            DiffusionError::Recipe { .. } | DiffusionError::Tokenizer(_) => FailureClass::Rejected,
            error if error.is_out_of_memory() => FailureClass::OutOfMemory,
            DiffusionError::Kernel(KernelError::Driver { .. }) => FailureClass::DeviceFault,
            DiffusionError::Numeric { .. } => FailureClass::Numeric,
            _ => FailureClass::Internal,
        };
        match error {
            // Its text names files of this node.
            DiffusionError::Weights(_) => Self::failed(class, "the node's weights are damaged"),
            error => Self::Failed {
                class,
                peak_bytes: match &error {
                    DiffusionError::OutOfMemory { need_bytes, .. } => Some(*need_bytes),
                    _ => None,
                },
                message: error.to_string(),
            },
        }
    }
}

impl From<CatalogueError> for Broken {
    fn from(error: CatalogueError) -> Self {
        match error {
            CatalogueError::Open { source, .. } => (*source).into(),
            CatalogueError::Unknown { name } => {
                let message = format!("the node has no weights called '{name}'");
                Self::failed(FailureClass::Internal, &message)
            }
            error => {
                tracing::error!(error = %chain(&error), "the weights are gone");
                Self::failed(FailureClass::Internal, "the node's weights are gone")
            }
        }
    }
}

impl From<MuxError> for Broken {
    fn from(error: MuxError) -> Self {
        if let MuxError::Stopped { .. } = error {
            return Self::Abandoned;
        }
        tracing::error!(error = %chain(&error), "FFmpeg failed");
        match error {
            MuxError::DiskFull { .. } => Self::failed(FailureClass::Io, "the node's disk is full"),
            MuxError::BadClip(why) => Self::failed(FailureClass::Internal, &why),
            MuxError::Missing { .. } | MuxError::Start { .. } | MuxError::LacksEncoder { .. } => {
                Self::failed(FailureClass::Io, "FFmpeg is missing on the node")
            }
            _ => Self::failed(FailureClass::Io, "FFmpeg failed on the node"),
        }
    }
}

impl From<GivenError> for Broken {
    /// What is wrong with a file that the user gave is the user's to mend; it is told by its name alone.
    fn from(error: GivenError) -> Self {
        let error = match error {
            GivenError::Mux(error) => return error.into(),
            error => error.named_alone(),
        };
        tracing::error!(error = %chain(&error), "a given file cannot be used");
        match error {
            GivenError::Read { .. } => Self::failed(
                FailureClass::Io,
                "the node could not read a file that it was given",
            ),
            error => Self::failed(FailureClass::Rejected, &error.to_string()),
        }
    }
}

impl From<MaterialError> for Broken {
    fn from(error: MaterialError) -> Self {
        match error {
            MaterialError::Given(error) => error.into(),
            MaterialError::Mux(error) => error.into(),
            MaterialError::Lost => {
                Self::failed(FailureClass::Internal, "a file of the order is missing")
            }
            error @ (MaterialError::Image(_) | MaterialError::Deaf(_)) => {
                Self::failed(FailureClass::Rejected, &error.to_string())
            }
        }
    }
}

impl From<AssembleError> for Broken {
    fn from(error: AssembleError) -> Self {
        match error {
            AssembleError::Mux(error) => error.into(),
            AssembleError::Given(error) => error.into(),
            AssembleError::Stills(crate::stills::StillsError::Mux(error)) => error.into(),
            AssembleError::BadOrder(_) | AssembleError::WrongFilm(_) => {
                tracing::error!(error = %chain(&error), "the film cannot be assembled");
                Self::failed(FailureClass::Internal, &error.to_string())
            }
            AssembleError::Mp4(_) | AssembleError::Stills(_) => {
                tracing::error!(error = %chain(&error), "the film's files cannot be made");
                Self::failed(
                    FailureClass::Io,
                    "the node could not finish the film's files",
                )
            }
        }
    }
}
