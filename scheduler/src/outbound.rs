//! HTTP that the scheduler begins itself: to a server of artefacts, and to the scheduler that leads.

use std::{io, time::Duration};

use bytes::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore};

/// An address that does not take a connection is given up after this.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// A connection that nobody used this long is closed: the other side may have forgotten it.
const IDLE_MAX: Duration = Duration::from_secs(20);

/// A client that keeps its connections; cheap to clone.
pub type Outbound<B> = Client<HttpsConnector<HttpConnector>, B>;

/// A client for `https://` with the certificates that this machine trusts.
///
/// # Errors
/// When the machine has no certificates.
pub fn trusting<B: hyper::body::Body<Data = Bytes> + Send>() -> io::Result<Outbound<B>>
where
    B::Data: Send,
{
    let tls = HttpsConnectorBuilder::new().with_native_roots()?;
    let https = tls.https_or_http().enable_http1();
    Ok(client(https.wrap_connector(tcp())))
}

/// A client for `http://` alone.
pub fn plain<B: hyper::body::Body<Data = Bytes> + Send>() -> Outbound<B>
where
    B::Data: Send,
{
    let nobody = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let tls = HttpsConnectorBuilder::new().with_tls_config(nobody);
    let https = tls.https_or_http().enable_http1();
    client(https.wrap_connector(tcp()))
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_MAX));
    tcp.set_nodelay(true);
    tcp
}

fn client<B: hyper::body::Body<Data = Bytes> + Send>(
    connector: HttpsConnector<HttpConnector>,
) -> Outbound<B>
where
    B::Data: Send,
{
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_MAX)
        .build(connector)
}

/// The innermost cause: the layers around it only say again that a request failed.
pub fn first_cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> String {
    let mut cause: &'a dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
