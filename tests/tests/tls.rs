//! A farm across networks that others read: HTTPS before the scheduler, TLS to PostgreSQL.

use std::{net::SocketAddr, sync::Arc};

use tests::{
    Process,
    certificate::Certificate,
    dailies,
    farm::{Farm, TIMES},
    postgres::Postgres,
};
use tokio::{io::copy_bidirectional, net::TcpListener, net::TcpStream, runtime::Runtime};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

/// What an operator puts before a scheduler: ends TLS and passes everything on to `to`.
fn front(runtime: &Runtime, certificate: &Certificate, to: SocketAddr) -> u16 {
    let chain = vec![CertificateDer::from_pem_file(certificate.file()).expect("PEM")];
    let key = PrivateKeyDer::from_pem_file(certificate.key_file()).expect("PEM");
    let tls = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("ring knows them")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("they fit");
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)));
    let listener = listener.expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    runtime.spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut secure = acceptor.accept(socket).await.ok()?;
                let mut plain = TcpStream::connect(to).await.ok()?;
                copy_bidirectional(&mut secure, &mut plain).await.ok()
            });
        }
    });
    port
}

#[test]
fn agents_and_commands_reach_a_scheduler_behind_https_if_they_trust_it() {
    let farm = Farm::start();
    let runtime = Runtime::new().expect("a runtime starts");
    let certificate = Certificate::make();
    let address = farm.api.base_url.trim_start_matches("http://");
    let address = address.trim_end_matches("/v1").parse().expect("HOST:PORT");
    let port = front(&runtime, &certificate, address);
    let url = format!("https://localhost:{port}");

    let data = farm.folder.path().join("data");
    let token = data.join("agent-token");
    let scratch = farm.folder.path().join("scratch");
    let trusted = certificate.file();
    let trust = ("SSL_CERT_FILE", trusted.to_str().expect("UTF-8"));
    let arguments = ["agent", "--scheduler", &url, "--token-file"];
    let arguments = arguments.map(str::to_string).into_iter().chain([
        token.display().to_string(),
        "--scratch".into(),
        scratch.display().to_string(),
    ]);
    let arguments: Vec<String> = arguments.collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let settings: Vec<_> = TIMES.iter().copied().chain([trust]).collect();
    let _agent = Process::start(&arguments, &settings);

    let submit = |trusted: &str| {
        let mut command = dailies();
        command.args(["submit", "--url", &url, "--data"]).arg(&data);
        command.args(["--size", "64x64", "--seconds", "2", "--wait"]);
        command.args(["--", "a red ball falls"]);
        let ended = command.env("SSL_CERT_FILE", trusted).output();
        ended.expect("it starts")
    };
    let film = submit(trust.1);
    let said = String::from_utf8_lossy(&film.stderr).into_owned();
    assert!(film.status.success(), "{said}");

    // Whom another authority vouches for is a stranger.
    let other = Certificate::make();
    let stranger = submit(other.file().to_str().expect("UTF-8"));
    let said = String::from_utf8_lossy(&stranger.stderr).into_owned();
    assert!(!stranger.status.success());
    assert!(said.contains("certificate"), "{said}");
}

#[test]
fn a_farm_reaches_a_postgresql_that_takes_nobody_without_tls() {
    let certificate = Certificate::make();
    let Some(server) = Postgres::start_secure(&certificate) else {
        println!("skipped: no PostgreSQL");
        return;
    };
    let file = certificate.file().display().to_string();
    let url = format!("{}?sslmode=verify-full&sslrootcert={file}", server.url());
    let farm = Farm::start_on(Some(url));
    let _agent = farm.agent();
    let id = farm.submit_as("normal", 3, 4);
    farm.wait_for_film(&id);
}
