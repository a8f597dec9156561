//! The CLI as a client of the Videos API.

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent::connect::{CONNECT_TIMEOUT, connections, is_secure};
use anyhow::{Context, Result, bail};
use clap::Args;
pub use reqwest::multipart::Form;
use reqwest::{Method, RequestBuilder, Response, StatusCode, multipart};
use schemas::{
    keys::{ApiKey, ApiKeyList},
    node::{MemoryList, NodeList, NodeOrdered, NoticeList},
    quota::{QuotaAccount, QuotaDetail, QuotaGrant, QuotaList},
    video::{DeletedVideo, ErrorBody, Estimate, Video, VideoList},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    ask::AskArgs,
    film::{FilmArgs, MODEL_DEFAULT},
    given::{self, GivenArgs, Retake},
};

/// The data folder of a scheduler that was not told otherwise.
pub const DATA_DEFAULT: &str = "data";
/// Where such a one listens.
pub const URL_DEFAULT: &str = "http://127.0.0.1:8080";
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Of calls that send or fetch a film.
const FILES_TIMEOUT: Duration = Duration::from_secs(3_600);
const QUOTA: &str = "organization/quota";
const NODES: &str = "organization/nodes";
const KEYS: &str = "organization/keys";
/// File in the scheduler's data folder with the key that it made at its first start.
pub const KEY_FILE: &str = "api-key";

/// Where the farm is and who asks.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "The farm")]
pub struct ServerArgs {
    /// Address of the scheduler; with standbys all of them, as A,B.
    #[arg(
        long,
        global = true,
        env = "DAILIES_URL",
        default_value = URL_DEFAULT
    )]
    pub url: String,
    /// API key [default: the file api-key in the data folder]
    #[arg(long, global = true, env = "DAILIES_API_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// Data folder of a scheduler on this machine.
    #[arg(long, global = true, env = "DAILIES_DATA", default_value = DATA_DEFAULT)]
    pub data: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error(
        "cannot reach the scheduler at {url} ({reason}). Start one with 'dailies up', \
         or name another with --url"
    )]
    Unreachable { url: String, reason: String },
    #[error("{message}")]
    Refused {
        status: StatusCode,
        /// Such as `rate_limit_exceeded`; empty where the answer names none.
        code: String,
        message: String,
    },
}

/// A film as it is asked for.
pub struct Wish<'a> {
    pub prompt: &'a str,
    pub film: &'a FilmArgs,
    pub given: &'a GivenArgs,
    pub model: &'a str,
    pub ask: &'a AskArgs,
}

impl Wish<'_> {
    fn form(&self) -> Result<Form> {
        let film = self.film;
        let form = self.ask.form(self.prompt, &film.make);
        let mut form = form.text("model", self.model.to_string());
        let fields = [("size", &film.size), ("seconds", &film.seconds)];
        for (name, value) in fields {
            if let Some(value) = value {
                form = form.text(name, value.clone());
            }
        }
        with_given(form, film, self.given)
    }
}

/// Files and what is said about them.
fn with_given(mut form: Form, film: &FilmArgs, given: &GivenArgs) -> Result<Form> {
    let files = [
        ("input_reference", &film.image),
        ("last_reference", &given.last_image),
        ("audio_reference", &given.audio),
        ("video_reference", &given.video),
    ];
    for (name, path) in files {
        if let Some(path) = path {
            form = form.part(name, file(path)?);
        }
    }
    for (place, keyframe) in given.keyframes.iter().enumerate() {
        let name = |field: &str| format!("keyframes[{place}][{field}]");
        form = form.text(name("seconds"), keyframe.second.to_string());
        form = form.part(name("input_reference"), file(&keyframe.path)?);
    }
    if let Some(strength) = given.strength {
        form = form.text("reference_strength", strength.to_string());
    }
    if let Some(retake) = &given.retake {
        form = with_retake(form, retake);
    }
    Ok(form.text("reference_fit", given.fit.clone()))
}

/// A stretch to make anew.
pub fn with_retake(form: Form, retake: &Retake) -> Form {
    let form = form.text("retake[from]", retake.from_s.to_string());
    let form = form.text("retake[to]", retake.to_s.to_string());
    form.text("retake[what]", retake.what.clone())
}

/// The film that another is made of.
#[derive(Args, Debug)]
pub struct ParentArgs {
    /// The film: its id on the farm (video_…), or a file.
    #[arg(value_name = "ID|FILE")]
    pub film: String,
    /// Model for a film that is a file; those of the farm keep theirs [default: builtin]
    #[arg(long)]
    model: Option<String>,
}

impl ParentArgs {
    pub fn is_file(&self) -> bool {
        !self.film.starts_with("video_") && Path::new(&self.film).exists()
    }

    /// Names the film in a form that is about no other.
    pub fn named(&self, form: Form) -> Result<Form> {
        let (form, model) = match self.is_file() {
            true => {
                let film = file(Path::new(&self.film))?;
                (form.part("video", film), Some(MODEL_DEFAULT))
            }
            false => (form.text("video[id]", self.film.clone()), None),
        };
        Ok(match self.model.as_deref().or(model) {
            Some(model) => form.text("model", model.to_owned()),
            None => form,
        })
    }
}

/// A file as a part of a form.
pub fn file(path: &Path) -> Result<multipart::Part> {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    Ok(multipart::Part::bytes(given::read(path)?).file_name(name.unwrap_or_default()))
}

pub struct Api {
    http: reqwest::Client,
    /// Schedulers of which each leads or hands on to who leads.
    bases: Vec<String>,
    /// The one that answered last; others are looked for after a failure.
    current: Mutex<Option<usize>>,
    key: String,
}

impl Api {
    pub fn new(args: &ServerArgs) -> Result<Self> {
        let bases: Vec<String> = args.url.split(',').map(base).collect::<Result<_>>()?;
        let http = connections(bases.iter().any(|base| is_secure(base) == Some(true)))?;
        let key = match &args.key {
            Some(key) => key.clone(),
            None => read_key(&args.data.join(KEY_FILE))?,
        };
        Ok(Self {
            http,
            bases,
            current: Mutex::default(),
            key: key.trim().to_string(),
        })
    }

    /// The first address that answers; the first of all when none does, so that a call says so.
    async fn base(&self) -> &str {
        if let [only] = &self.bases[..] {
            return only;
        }
        if let Some(current) = *self.current() {
            return &self.bases[current];
        }
        for (at, base) in self.bases.iter().enumerate() {
            let health = self.http.get(format!("{base}/healthz"));
            let health = health.timeout(CONNECT_TIMEOUT).send().await;
            if health.is_ok_and(|answer| answer.status().is_success()) {
                *self.current() = Some(at);
                return base;
            }
        }
        &self.bases[0]
    }

    fn current(&self) -> MutexGuard<'_, Option<usize>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub async fn create(&self, wish: &Wish<'_>) -> Result<Video> {
        self.post("videos", wish.form()?).await
    }

    /// Hands a form to one of the calls that make a video, or, as a dry run, say what it would cost.
    pub async fn post<A: DeserializeOwned>(&self, path: &str, form: Form) -> Result<A> {
        let request = self.call(Method::POST, path).await.timeout(FILES_TIMEOUT);
        self.json(request.multipart(form)).await
    }

    /// What `count` films of this wish would cost, or one for each of `prompts`; makes nothing.
    pub async fn estimate(
        &self,
        wish: &Wish<'_>,
        count: u32,
        prompts: &[String],
    ) -> Result<Estimate> {
        let form = wish.form()?.text("count", count.to_string());
        let form = match prompts.is_empty() {
            true => form,
            false => form.text("prompts", serde_json::to_string(prompts)?),
        };
        let request = self.call(Method::POST, "videos/estimate").await;
        self.json(request.timeout(FILES_TIMEOUT).multipart(form))
            .await
    }

    pub async fn get(&self, id: &str) -> Result<Video> {
        self.json(
            self.call(Method::GET, &format!("videos/{id}"))
                .await
                .timeout(CALL_TIMEOUT),
        )
        .await
    }

    pub async fn list(&self, limit: u32, after: Option<&str>) -> Result<VideoList> {
        let after = after.map(|id| format!("&after={id}")).unwrap_or_default();
        let path = format!("videos?limit={limit}{after}");
        self.json(self.call(Method::GET, &path).await.timeout(CALL_TIMEOUT))
            .await
    }

    /// Tells a film something that needs no words: `videos/ID/pause`.
    pub async fn tell(&self, path: &str) -> Result<Video> {
        let request = self.call(Method::POST, path).await.timeout(CALL_TIMEOUT);
        self.json(request).await
    }

    pub async fn delete(&self, id: &str) -> Result<DeletedVideo> {
        self.json(
            self.call(Method::DELETE, &format!("videos/{id}"))
                .await
                .timeout(CALL_TIMEOUT),
        )
        .await
    }

    pub async fn quota(&self) -> Result<QuotaList> {
        let request = self.call(Method::GET, QUOTA).await.timeout(CALL_TIMEOUT);
        self.json(request).await
    }

    pub async fn quota_of(&self, account: &str) -> Result<QuotaDetail> {
        let path = format!("{QUOTA}/{account}");
        self.json(self.call(Method::GET, &path).await.timeout(CALL_TIMEOUT))
            .await
    }

    pub async fn add_account(&self, account: &Value) -> Result<QuotaAccount> {
        let request = self.call(Method::POST, QUOTA).await.timeout(CALL_TIMEOUT);
        self.json(request.json(account)).await
    }

    pub async fn set_quota(&self, account: &str, change: &Value) -> Result<QuotaAccount> {
        let path = format!("{QUOTA}/{account}");
        let request = self.call(Method::POST, &path).await.timeout(CALL_TIMEOUT);
        self.json(request.json(change)).await
    }

    pub async fn grant_quota(&self, account: &str, grant: &Value) -> Result<QuotaGrant> {
        let path = format!("{QUOTA}/{account}/grants");
        let request = self.call(Method::POST, &path).await.timeout(CALL_TIMEOUT);
        self.json(request.json(grant)).await
    }

    pub async fn memory(&self) -> Result<MemoryList> {
        let request = self.call(Method::GET, "organization/memory");
        self.json(request.await.timeout(CALL_TIMEOUT)).await
    }

    pub async fn nodes(&self) -> Result<NodeList> {
        let request = self.call(Method::GET, NODES).await.timeout(CALL_TIMEOUT);
        self.json(request).await
    }

    pub async fn notices(&self) -> Result<NoticeList> {
        let request = self.call(Method::GET, "organization/notices");
        self.json(request.await.timeout(CALL_TIMEOUT)).await
    }

    pub async fn order_node(&self, node: &str, order: &str, body: &Value) -> Result<NodeOrdered> {
        let path = format!("{NODES}/{node}/{order}");
        let request = self.call(Method::POST, &path).await.timeout(CALL_TIMEOUT);
        self.json(request.json(body)).await
    }

    pub async fn keys(&self) -> Result<ApiKeyList> {
        let request = self.call(Method::GET, KEYS).await.timeout(CALL_TIMEOUT);
        self.json(request).await
    }

    pub async fn create_key(&self, key: &Value) -> Result<ApiKey> {
        let request = self.call(Method::POST, KEYS).await.timeout(CALL_TIMEOUT);
        self.json(request.json(key)).await
    }

    pub async fn revoke_key(&self, id: &str) -> Result<ApiKey> {
        let path = format!("{KEYS}/{id}");
        let request = self.call(Method::DELETE, &path).await.timeout(CALL_TIMEOUT);
        self.json(request).await
    }

    /// Downloads the film of `id` into a new file at `path`.
    pub async fn download(&self, id: &str, path: &Path) -> Result<()> {
        let request = self
            .call(Method::GET, &format!("videos/{id}/content"))
            .await;
        let mut answer = self.send(request.timeout(FILES_TIMEOUT)).await?;
        let announced = answer.content_length();
        let mut file = std::fs::File::create(path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let mut bytes = 0;
        while let Some(chunk) = answer.chunk().await.context("the download broke off")? {
            file.write_all(&chunk)
                .context("cannot write the film: is the disk full?")?;
            bytes += chunk.len() as u64;
        }
        match announced {
            Some(announced) if announced != bytes => {
                bail!("the download broke off after {bytes} of {announced} bytes")
            }
            _ => Ok(()),
        }
    }

    async fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}/v1/{path}", self.base().await))
            .bearer_auth(&self.key)
    }

    async fn json<A: DeserializeOwned>(&self, request: RequestBuilder) -> Result<A> {
        let answer = self.send(request).await?;
        answer
            .json()
            .await
            .context("the scheduler gave an answer that this version does not know")
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ApiError> {
        let answer = request.send().await.map_err(|error| {
            *self.current() = None;
            ApiError::Unreachable {
                url: self.bases.join(" or "),
                reason: first_cause(&error),
            }
        })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            *self.current() = None;
        }
        let text = answer.text().await.unwrap_or_default();
        let (code, message) = match serde_json::from_str::<ErrorBody>(&text) {
            Ok(body) => (body.error.code.unwrap_or_default(), body.error.message),
            Err(_) => (String::new(), format!("the scheduler answered {status}")),
        };
        let message = match status {
            StatusCode::UNAUTHORIZED => {
                format!("{message} Give it with --key, or in DAILIES_API_KEY")
            }
            _ => message,
        };
        Err(ApiError::Refused {
            status,
            code,
            message,
        })
    }
}

/// Without the path that SDKs want behind it.
fn base(url: &str) -> Result<String> {
    let base = url.trim().trim_end_matches('/').trim_end_matches("/v1");
    if is_secure(base).is_none() {
        bail!("'{base}' is no address of a scheduler: write http://HOST:PORT or https://HOST");
    }
    Ok(base.to_string())
}

fn read_key(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| {
        format!(
            "no API key: {} cannot be read. Give one with --key or in DAILIES_API_KEY, \
             or name the scheduler's data folder with --data",
            path.display()
        )
    })
}

/// The innermost cause: the layers around it only say again that a request failed.
fn first_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Whether the key has made too many calls lately; quota or a budget that is used up does not come back so soon.
pub fn is_over_rate(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<ApiError>(),
        Some(ApiError::Refused { code, .. }) if code == "rate_limit_exceeded"
    )
}

/// Whether the same call may succeed later: the scheduler is away or busy.
pub fn is_passing(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<ApiError>() {
        Some(ApiError::Unreachable { .. }) => true,
        Some(ApiError::Refused { status, .. }) => {
            status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(url: &str, key: Option<&str>) -> ServerArgs {
        ServerArgs {
            url: url.into(),
            key: key.map(str::to_string),
            data: "/nowhere".into(),
        }
    }

    #[test]
    fn the_address_may_end_like_the_base_url_of_an_sdk() {
        let api = Api::new(&args("http://127.0.0.1:9/v1/", Some("sk-1"))).unwrap();
        assert_eq!(api.bases, ["http://127.0.0.1:9"]);
        let api = Api::new(&args("http://a:1/v1,http://b:2", Some("sk-1"))).unwrap();
        assert_eq!(api.bases, ["http://a:1", "http://b:2"]);
        assert!(Api::new(&args("127.0.0.1:9", Some("sk-1"))).is_err());
        assert!(Api::new(&args("ftp://host", Some("sk-1"))).is_err());
    }

    #[test]
    fn only_a_rate_that_was_passed_is_worth_a_short_wait() {
        let over_rate = |code: &str| {
            is_over_rate(&anyhow::Error::new(ApiError::Refused {
                status: StatusCode::TOO_MANY_REQUESTS,
                code: code.into(),
                message: "The budget of 'films' for this period is used up.".into(),
            }))
        };
        assert!(over_rate("rate_limit_exceeded"));
        assert!(!over_rate("insufficient_quota"));
    }

    #[test]
    fn a_missing_key_says_where_it_can_come_from() {
        let error = Api::new(&args("http://127.0.0.1:9", None))
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("--key") && error.contains("/nowhere/api-key"),
            "{error}"
        );
    }
}
