//! A server that speaks S3 for tests: on loopback, over HTTP, with signatures that are checked. The
//! tests of processes use this file too.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{Router, body::Body, extract::Request, http::StatusCode, response::IntoResponse};
use s3s::{
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tower::ServiceExt;

pub const BUCKET: &str = "films";
pub const ID: &str = "AKIATEST";
pub const SECRET: &str = "a secret of the test";

/// Ends with the runtime of its test; keeps its objects as files.
pub struct S3Server {
    pub folder: tempfile::TempDir,
    pub address: SocketAddr,
    away: Arc<AtomicBool>,
}

impl S3Server {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join(BUCKET)).expect("a bucket");
        let objects = FileSystem::new(folder.path()).expect("its folder is there");
        let mut service = S3ServiceBuilder::new(objects);
        service.set_auth(SimpleAuth::from_single(ID, SECRET));
        let (service, away) = (service.build(), Arc::new(AtomicBool::new(false)));
        let gone = Arc::clone(&away);
        let router = Router::new().fallback(move |request: Request| answer(service, gone, request));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(axum::serve(listener, router).into_future());
        Self {
            folder,
            address,
            away,
        }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on it answers nothing but 503, or everything again.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
    }
}

async fn answer(
    service: S3Service,
    away: Arc<AtomicBool>,
    request: Request,
) -> axum::response::Response {
    if away.load(Ordering::Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    match service.oneshot(request).await {
        Ok(answer) => answer.map(Body::new).into_response(),
        Err(error) => {
            let text = format!("{error:?}");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}
