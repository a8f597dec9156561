//! The agent's side of the protocol over HTTP, and the only user of reqwest in this crate.
//!
//! Every call may be repeated: polls carry their id, writes their attempt, uploads their digest.
//! So a lost answer is repaired by asking again, which [`Client::persist`] does.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use schemas::{
    Digest,
    agent::{
        CheckpointReport, DrainNotice, Heartbeat, HeartbeatAnswer, Hello, LeaseAnswer, LeaseRef,
        LeaseRequest, ProbeReport, Report, Welcome, WriteAnswer,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use crate::connect::{ConnectError, connections, is_secure};

const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Leaving does not wait long for a scheduler that is away.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Above the scheduler's long poll of 25 s.
const LEASE_TIMEOUT: Duration = Duration::from_secs(40);
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(600);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// A shot of a minute at 1280x720 in FFV1 is below 4 GiB.
const ARTEFACT_BYTES_MAX: u64 = 8 << 30;
/// What is shown of an answer that is not understood.
const SHOWN_CHARS_MAX: usize = 200;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "the scheduler's address '{url}' is not one that can be called: http://HOST:PORT and \
         https://HOST are"
    )]
    BadUrl { url: String },
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(
        "cannot read the agent token from {path}. 'dailies serve' writes it in its data folder"
    )]
    NoToken {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot reach the scheduler at {url}. Check that it runs and listens there")]
    Unreachable {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error(
        "the scheduler at {url} does not know this agent token. \
         Take the token file from the scheduler's data folder"
    )]
    WrongToken { url: String },
    #[error("the scheduler answered {status}: {message}")]
    Refused { status: StatusCode, message: String },
    #[error("the artefact {digest} came as {found}: it was damaged on the way")]
    Damaged { digest: Digest, found: Digest },
    #[error("the artefact {digest} is larger than {ARTEFACT_BYTES_MAX} bytes")]
    TooLarge { digest: Digest },
    #[error("cannot read or write {path}. Check the space on that disk")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("stopped before the scheduler answered")]
    Stopped,
}

impl ClientError {
    /// The same call may succeed later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Damaged { .. } => true,
            Self::Refused { status, .. } => {
                status.is_server_error()
                    || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(status)
            }
            _ => false,
        }
    }
}

/// Before each try: whether to make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Try {
    Now,
    /// Look again a little later.
    Wait,
    GiveUp,
}

/// A connection to the scheduler that leads, at any of several addresses: each of them leads, hands
/// on to who leads, or does not answer. Clones share it; use one for each runtime.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    bases: Arc<[String]>,
    /// Which address is called; the next one after each failure that another may not have.
    current: Arc<AtomicUsize>,
    token: String,
}

impl Client {
    /// `bases` is one address, or several with commas between them.
    pub fn new(bases: &str, token: &str) -> Result<Self, ClientError> {
        let bad = || ClientError::BadUrl {
            url: bases.to_string(),
        };
        let base = |base: &str| {
            let base = base.trim();
            is_secure(base).map(|_| base.trim_end_matches('/').to_string())
        };
        let bases: Option<Arc<[String]>> = bases.split(',').map(base).collect();
        let bases = bases.ok_or_else(bad)?;
        Ok(Self {
            http: connections(any_secure(&bases))?,
            bases,
            current: Arc::default(),
            token: token.trim().to_string(),
        })
    }

    /// The same client with connections of its own, for another runtime. Which address answers, one
    /// learns from the other.
    pub fn beside(&self) -> Result<Self, ClientError> {
        Ok(Self {
            http: connections(any_secure(&self.bases))?,
            ..self.clone()
        })
    }

    fn base(&self) -> &str {
        &self.bases[self.current.load(Ordering::Relaxed) % self.bases.len()]
    }

    /// Whatever is called next goes to another address than that of `url`. Calls that fail beside
    /// each other turn away from it once.
    fn turn_from(&self, url: Option<&reqwest::Url>) {
        let at = self.current.load(Ordering::Relaxed);
        let base = &self.bases[at % self.bases.len()];
        if url.is_some_and(|url| url.as_str().starts_with(base)) {
            let next = at.wrapping_add(1);
            let _ = self
                .current
                .compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    pub async fn hello(&self, hello: &Hello) -> Result<Welcome, ClientError> {
        self.post("hello", hello, CALL_TIMEOUT).await
    }

    pub async fn lease(&self, request: &LeaseRequest) -> Result<LeaseAnswer, ClientError> {
        self.post("lease", request, LEASE_TIMEOUT).await
    }

    /// `timeout` below the lease, so that a lost packet costs one renewal and not the lease.
    pub async fn heartbeat(
        &self,
        beat: &Heartbeat,
        timeout: Duration,
    ) -> Result<HeartbeatAnswer, ClientError> {
        self.post("heartbeat", beat, timeout).await
    }

    pub async fn checkpoint(&self, report: &CheckpointReport) -> Result<WriteAnswer, ClientError> {
        self.post("checkpoint", report, CALL_TIMEOUT).await
    }

    pub async fn report(&self, report: &Report) -> Result<WriteAnswer, ClientError> {
        self.post("report", report, CALL_TIMEOUT).await
    }

    pub async fn drain(&self, notice: &DrainNotice) -> Result<WriteAnswer, ClientError> {
        self.post("drain", notice, DRAIN_TIMEOUT).await
    }

    pub async fn probe(&self, report: &ProbeReport) -> Result<WriteAnswer, ClientError> {
        self.post("probe", report, CALL_TIMEOUT).await
    }

    /// Uploads the file at `path`, whose digest is `digest`, streaming it.
    pub async fn upload_file(
        &self,
        lease: &LeaseRef,
        digest: Digest,
        path: &Path,
    ) -> Result<WriteAnswer, ClientError> {
        let file_error = |source| ClientError::File {
            path: path.to_path_buf(),
            source,
        };
        let file = tokio::fs::File::open(path).await.map_err(file_error)?;
        let bytes = file.metadata().await.map_err(file_error)?.len();
        let body = reqwest::Body::wrap_stream(ReaderStream::with_capacity(file, 1 << 18));
        let request = self
            .call(Method::PUT, &upload_path(lease, digest), TRANSFER_TIMEOUT)
            .header(reqwest::header::CONTENT_LENGTH, bytes)
            .body(body);
        self.read_json(self.send(request).await?).await
    }

    pub async fn upload_bytes(
        &self,
        lease: &LeaseRef,
        digest: Digest,
        bytes: bytes::Bytes,
    ) -> Result<WriteAnswer, ClientError> {
        let request = self
            .call(Method::PUT, &upload_path(lease, digest), TRANSFER_TIMEOUT)
            .body(bytes);
        self.read_json(self.send(request).await?).await
    }

    /// Downloads an artefact to `path` and checks its digest. Nothing stays at `path` on an error.
    pub async fn download(&self, digest: Digest, path: &Path) -> Result<(), ClientError> {
        let downloaded = self.download_unchecked(digest, path).await;
        if downloaded.is_err() {
            let _ = tokio::fs::remove_file(path).await;
        }
        downloaded
    }

    async fn download_unchecked(&self, digest: Digest, path: &Path) -> Result<(), ClientError> {
        let file_error = |source| ClientError::File {
            path: path.to_path_buf(),
            source,
        };
        let request = self.call(
            Method::GET,
            &format!("artefacts/{digest}"),
            TRANSFER_TIMEOUT,
        );
        let mut answer = self.send(request).await?;
        let mut file = tokio::fs::File::create(path).await.map_err(file_error)?;
        let (mut hasher, mut bytes) = (blake3::Hasher::new(), 0);
        while let Some(chunk) = answer.chunk().await.map_err(|e| self.unreachable(e))? {
            bytes += chunk.len() as u64;
            if bytes > ARTEFACT_BYTES_MAX {
                return Err(ClientError::TooLarge { digest });
            }
            hasher.update(&chunk);
            file.write_all(&chunk).await.map_err(file_error)?;
        }
        file.flush().await.map_err(file_error)?;
        match Digest::from(hasher.finalize()) {
            found if found == digest => Ok(()),
            found => Err(ClientError::Damaged { digest, found }),
        }
    }

    /// Repeats `call` with growing pauses until it succeeds, fails for good, or `ask` gives up.
    pub async fn persist<T, F: Future<Output = Result<T, ClientError>>>(
        what: &'static str,
        ask: impl Fn() -> Try,
        mut call: impl FnMut() -> F,
    ) -> Result<T, ClientError> {
        let mut pause = BACKOFF_FIRST;
        loop {
            match ask() {
                Try::GiveUp => return Err(ClientError::Stopped),
                Try::Wait => {
                    tokio::time::sleep(BACKOFF_FIRST).await;
                    continue;
                }
                Try::Now => {}
            }
            match call().await {
                Err(error) if error.is_passing() => {
                    tracing::warn!(what, error = %chain(&error), pause_ms = pause.as_millis(), "retry");
                }
                ended => return ended,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }

    async fn post<Q: Serialize, A: DeserializeOwned>(
        &self,
        call: &str,
        body: &Q,
        timeout: Duration,
    ) -> Result<A, ClientError> {
        let request = self.call(Method::POST, call, timeout).json(body);
        self.read_json(self.send(request).await?).await
    }

    fn call(&self, method: Method, path: &str, timeout: Duration) -> RequestBuilder {
        self.http
            .request(method, format!("{}/agent/v1/{path}", self.base()))
            .bearer_auth(&self.token)
            .timeout(timeout)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let answer = request
            .send()
            .await
            .map_err(|source| self.unreachable(source))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        if status == StatusCode::UNAUTHORIZED {
            return Err(ClientError::WrongToken {
                url: self.base().to_string(),
            });
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            self.turn_from(Some(answer.url()));
        }
        let text = answer.text().await.unwrap_or_default();
        let message = serde_json::from_str::<schemas::video::ErrorBody>(&text).map_or_else(
            |_| text.chars().take(SHOWN_CHARS_MAX).collect(),
            |b| b.error.message,
        );
        Err(ClientError::Refused { status, message })
    }

    async fn read_json<A: DeserializeOwned>(&self, answer: Response) -> Result<A, ClientError> {
        let status = answer.status();
        let text = answer
            .text()
            .await
            .map_err(|source| self.unreachable(source))?;
        serde_json::from_str(&text).map_err(|error| ClientError::Refused {
            status,
            message: format!("an answer that this version does not understand ({error})"),
        })
    }

    fn unreachable(&self, source: reqwest::Error) -> ClientError {
        let url = self.base().to_string();
        self.turn_from(source.url());
        ClientError::Unreachable { url, source }
    }
}

fn any_secure(bases: &[String]) -> bool {
    bases.iter().any(|base| is_secure(base) == Some(true))
}

/// The path of an upload with its lease as query; ids and numbers need no escapes.
fn upload_path(lease: &LeaseRef, digest: Digest) -> String {
    let LeaseRef {
        task,
        attempt,
        term,
        agent,
        boot,
    } = lease;
    format!(
        "artefacts/{digest}?task={task}&attempt={attempt}&term={term}&agent={agent}&boot={boot}"
    )
}

/// An error with its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::scripted::{self, serve};

    #[test]
    fn only_addresses_of_http_are_taken() {
        assert!(Client::new("http://127.0.0.1:8080/", "t").is_ok());
        assert!(Client::new("http://a:1, http://b:2", "t").is_ok());
        for url in [
            "",
            "127.0.0.1:8080",
            "ftp://host",
            "https://",
            "http://a:1,",
        ] {
            assert!(Client::new(url, "t").is_err(), "{url}");
        }
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_is_followed_by_the_next() {
        let server = serve(|_, _| {
            Some(serde_json::json!({
                "agent": "01890000-0000-7000-8000-000000000001",
                "term": 1, "heartbeat_ms": 1, "lease_ttl_ms": 1,
            }))
        });
        // Port 1 is nobody's.
        let client = Client::new(&format!("http://127.0.0.1:1,{}", server.url), "t").unwrap();
        let hello = scripted::hello();
        let gone = client.hello(&hello).await.unwrap_err();
        assert!(gone.to_string().contains("127.0.0.1:1."), "{gone}");
        for _ in 0..2 {
            assert_eq!(client.hello(&hello).await.unwrap().term, 1);
        }
    }

    fn refused(status: u16) -> ClientError {
        let status = StatusCode::from_u16(status).unwrap();
        ClientError::Refused {
            status,
            message: String::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_passing_error_is_tried_again_and_a_final_one_is_not() {
        let tries = AtomicU32::new(0);
        let answer = Client::persist(
            "test",
            || Try::Now,
            async || match tries.fetch_add(1, Ordering::Relaxed) {
                0 | 1 => Err(refused(503)),
                _ => Ok(7),
            },
        );
        assert_eq!(answer.await.unwrap(), 7);
        let answer = Client::persist(
            "test",
            || Try::Now,
            async || {
                tries.fetch_add(1, Ordering::Relaxed);
                Err::<(), _>(refused(400))
            },
        );
        assert!(answer.await.is_err());
        assert_eq!(tries.load(Ordering::Relaxed), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_sent_while_told_to_wait_and_nothing_after_giving_up() {
        let asked = AtomicU32::new(0);
        let ask = || match asked.fetch_add(1, Ordering::Relaxed) {
            0..5 => Try::Wait,
            _ => Try::GiveUp,
        };
        let answer = Client::persist("test", ask, async || -> Result<(), ClientError> {
            panic!("a fenced lease must not be written with")
        });
        assert!(matches!(answer.await, Err(ClientError::Stopped)));
    }
}
