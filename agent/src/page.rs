//! The agent's own page for Prometheus: `GET /metrics`, and nothing else.

use std::net::SocketAddr;

use axum::{Router, http::header, routing::get};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{AgentError, metrics::Metrics};

/// Serves until `stop`. Answers the address, with the port that was taken for 0.
///
/// # Errors
/// [`AgentError::MetricsPort`] when the address cannot be listened on.
pub async fn serve(
    address: SocketAddr,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<SocketAddr, AgentError> {
    let failed = |source| AgentError::MetricsPort { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let taken = listener.local_addr().map_err(failed)?;
    let page = move || async move {
        let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
        (kind, metrics.text())
    };
    let router = Router::new().route("/metrics", get(page));
    let server = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the metrics page ended");
        }
    });
    tracing::info!(address = %taken, "metrics are served");
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_page_is_there_and_a_taken_address_is_an_error_that_names_it() {
        let (stop, metrics) = (CancellationToken::new(), Metrics::new());
        metrics.steps.inc_by(3);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let address = serve(any, metrics.clone(), stop.clone()).await.unwrap();
        let text = tokio::task::spawn_blocking(move || {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            let ask = "GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            stream.write_all(ask.as_bytes()).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        let text = text.await.unwrap();
        assert!(text.contains("dailies_agent_steps_total 3"), "{text}");
        let error = serve(address, metrics, stop.clone()).await.unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        stop.cancel();
    }
}
