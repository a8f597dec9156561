//! Connections to a scheduler: over `http://`, or over `https://` to whom this machine trusts.

use std::time::Duration;

use rustls::{ClientConfig, RootCertStore, crypto::ring};

/// An address that does not take a connection is given up after this.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there are no connections.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "this machine has no certificates, so nobody can be trusted over https://: install the \
         package ca-certificates, or name a file of them in SSL_CERT_FILE"
    )]
    NoCertificates,
    #[error("no connections can be made")]
    Client(#[from] reqwest::Error),
}

/// Whether an address is reached over TLS; `None` when it is no address of a scheduler.
pub fn is_secure(address: &str) -> Option<bool> {
    let url = reqwest::Url::parse(address).ok()?;
    url.host_str()?;
    match url.scheme() {
        "https" => Some(true),
        "http" => Some(false),
        _ => None,
    }
}

/// `secure` when one of the addresses is `https://`. Otherwise no certificates are looked for: a
/// container that has none speaks `http://` all the same.
///
/// # Errors
/// [`ConnectError::NoCertificates`] when they are needed and absent.
pub fn connections(secure: bool) -> Result<reqwest::Client, ConnectError> {
    let mut trusted = RootCertStore::empty();
    if secure {
        // Single certificates that cannot be read are common, and no reason to trust nobody.
        trusted.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if trusted.is_empty() {
            return Err(ConnectError::NoCertificates);
        }
    }
    let tls = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("ring knows TLS 1.2 and 1.3")
        .with_root_certificates(trusted)
        .with_no_client_auth();
    Ok(reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .no_proxy()
        .tls_backend_preconfigured(tls)
        .build()?)
}
