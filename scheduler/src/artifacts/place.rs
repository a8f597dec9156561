//! Where artefacts are kept: a local folder, or a bucket of any server that speaks S3.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use object_store::{
    BackoffConfig, ObjectStore, RetryConfig, aws::AmazonS3Builder, local::LocalFileSystem,
    path::Path as Key,
};
use serde::Deserialize;

use super::{ArtifactError, http::Connector};
use crate::outbound;

/// How long one request is tried again before its caller is told.
const RETRY_MAX: Duration = Duration::from_secs(10);
const RETRIES_MAX: usize = 4;
/// What a server that knows no regions takes.
const REGION: &str = "us-east-1";

/// `file:FOLDER` or `s3://BUCKET/PREFIX`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum ArtifactsUrl {
    Folder(PathBuf),
    S3 { bucket: String, prefix: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactsUrlError {
    #[error("artefacts must be kept in file:FOLDER or s3://BUCKET/PREFIX")]
    Scheme,
    #[error("file: must name a folder")]
    NoFolder,
    #[error(
        "s3:// must name a bucket in small letters, digits, dots and hyphens, and no server: that is s3.endpoint"
    )]
    NoBucket,
}

/// How to reach the server of an `s3://` address. What is absent comes from the `AWS_…` variables
/// that other programs read, or from the instance that this runs on.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Settings {
    /// `https://HOST` of a server other than Amazon's; `http://HOST:PORT` within a private network.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<String>,
    /// The bucket is part of the host's name and not of the path.
    pub virtual_hosted: bool,
}

impl fmt::Debug for S3Settings {
    /// Without the secret.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("S3Settings")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

impl FromStr for ArtifactsUrl {
    type Err = ArtifactsUrlError;

    fn from_str(text: &str) -> Result<Self, ArtifactsUrlError> {
        if let Some(rest) = text.strip_prefix("file:") {
            let folder = rest.strip_prefix("//").unwrap_or(rest);
            return match folder.is_empty() {
                true => Err(ArtifactsUrlError::NoFolder),
                false => Ok(Self::Folder(folder.into())),
            };
        }
        let rest = text
            .strip_prefix("s3://")
            .ok_or(ArtifactsUrlError::Scheme)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let allowed =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
        match !bucket.is_empty() && bucket.chars().all(allowed) {
            true => Ok(Self::S3 {
                bucket: bucket.into(),
                prefix: prefix.trim_matches('/').into(),
            }),
            false => Err(ArtifactsUrlError::NoBucket),
        }
    }
}

impl TryFrom<String> for ArtifactsUrl {
    type Error = ArtifactsUrlError;

    fn try_from(text: String) -> Result<Self, ArtifactsUrlError> {
        text.parse()
    }
}

impl fmt::Display for ArtifactsUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(out, "{}", folder.display()),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(out, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(out, "s3://{bucket}/{prefix}"),
        }
    }
}

/// A store, and what comes before the key of each artefact in it.
pub(super) type Opened = (Arc<dyn ObjectStore>, Key);

impl ArtifactsUrl {
    /// Opens the place; a folder is made.
    pub(super) fn open(&self, s3: &S3Settings) -> Result<Opened, ArtifactError> {
        match self {
            Self::Folder(folder) => Ok((Arc::new(open_folder(folder)?), Key::ROOT)),
            Self::S3 { bucket, prefix } => {
                let store = s3.open(bucket)?;
                Ok((store, Key::from(prefix.as_str())))
            }
        }
    }
}

fn open_folder(folder: &Path) -> Result<LocalFileSystem, ArtifactError> {
    let io = |step| move |source| ArtifactError::Io { step, source };
    std::fs::create_dir_all(folder).map_err(io("make its folder"))?;
    let store = LocalFileSystem::new_with_prefix(folder);
    Ok(store.map_err(unopened)?.with_fsync(true))
}

fn unopened(source: object_store::Error) -> ArtifactError {
    ArtifactError::Store {
        step: "open",
        source,
    }
}

/// Removes what a crash left in a folder that nobody else writes to: uploads are staged as
/// `<64 hex>#<number>` beside their place.
pub(super) fn remove_half_written(folder: &Path) -> io::Result<()> {
    for shelf in std::fs::read_dir(folder)? {
        let shelf = shelf?.path();
        if !shelf.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(shelf)? {
            let file = file?;
            if file.file_name().to_string_lossy().contains('#') {
                std::fs::remove_file(file.path())?;
            }
        }
    }
    Ok(())
}

impl S3Settings {
    /// The address of the server, as a user set it here or for all programs.
    fn endpoint(&self) -> Option<String> {
        let variable = |name| std::env::var(name).ok().filter(|url| !url.is_empty());
        let named = self.endpoint.clone();
        named
            .or_else(|| variable("AWS_ENDPOINT_URL_S3"))
            .or_else(|| variable("AWS_ENDPOINT_URL"))
    }

    fn open(&self, bucket: &str) -> Result<Arc<dyn ObjectStore>, ArtifactError> {
        let endpoint = self.endpoint();
        let plain = endpoint
            .as_deref()
            .is_some_and(|url| url.starts_with("http://"));
        let http = match plain {
            true => outbound::plain(),
            false => outbound::trusting().map_err(|source| ArtifactError::Io {
                step: "find the certificates that this machine trusts",
                source,
            })?,
        };
        let variable = |name| std::env::var(name).ok();
        let region = self.region.clone();
        let region = region
            .or_else(|| variable("AWS_REGION"))
            .or_else(|| variable("AWS_DEFAULT_REGION"));
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_region(region.unwrap_or_else(|| REGION.into()))
            .with_virtual_hosted_style_request(self.virtual_hosted)
            .with_allow_http(plain)
            .with_http_connector(Connector(http))
            .with_retry(retry());
        if let Some(endpoint) = endpoint {
            if plain {
                tracing::warn!(
                    endpoint,
                    "artefacts travel unencrypted: keep this address within a private network"
                );
            }
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(id) = &self.access_key_id {
            builder = builder.with_access_key_id(id);
        }
        if let Some(secret) = &self.secret_access_key {
            builder = builder.with_secret_access_key(secret);
        }
        Ok(Arc::new(builder.build().map_err(unopened)?))
    }
}

fn retry() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: RETRIES_MAX,
        retry_timeout: RETRY_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_folder_or_a_bucket() {
        let read = |text: &str| text.parse::<ArtifactsUrl>().map(|url| url.to_string());
        assert_eq!(read("file:///srv/cas").as_deref(), Ok("/srv/cas"));
        assert_eq!(read("file:cas").as_deref(), Ok("cas"));
        assert_eq!(read("s3://films").as_deref(), Ok("s3://films"));
        assert_eq!(read("s3://films/a/b/").as_deref(), Ok("s3://films/a/b"));
        for (text, error) in [
            ("films", ArtifactsUrlError::Scheme),
            ("http://host/films", ArtifactsUrlError::Scheme),
            ("file:", ArtifactsUrlError::NoFolder),
            ("s3://", ArtifactsUrlError::NoBucket),
            ("s3:///films", ArtifactsUrlError::NoBucket),
            ("s3://host:9000/films", ArtifactsUrlError::NoBucket),
            ("s3://key@films", ArtifactsUrlError::NoBucket),
        ] {
            assert_eq!(read(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        let s3 = S3Settings {
            secret_access_key: Some("s3cret".into()),
            ..S3Settings::default()
        };
        assert!(!format!("{s3:?}").contains("s3cret"));
    }
}
