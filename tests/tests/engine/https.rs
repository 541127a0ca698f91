//! A model server behind TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use mlx_tests::{Authority, Certificate, ModelServer, TestServer, eventually};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::{Scene, available, start_worker};

#[tokio::test]
async fn a_server_behind_tls_answers_where_its_authority_is_trusted_and_only_there() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let models = ModelServer::start();
    let port = terminate(&authority.certify("localhost"), models.address()).await;
    let url = format!("https://localhost:{port}/v1");

    let bus = TestServer::start().await;
    let stranger = start_worker(&bus.embedded().client_url(), &url, &[], &[]);
    eventually("a line in the log", || stranger.log().contains("UnknownIssuer")).await;
    assert_eq!(models.listings(), 0, "{}", stranger.log());
    stranger.stop().await;
    bus.stop().await;

    let trusted = [("SSL_CERT_FILE", authority.file.to_str().unwrap())];
    let scene = Scene::at(&url, models, &[], &trusted).await;
    scene.until("a worker with models", |worker| !available(worker).is_empty()).await;
    assert_eq!(scene.answer().await.text(), "You said: hello there");
    scene.end().await;
}

/// Speaks TLS in front of a server that does not, and returns the port.
async fn terminate(certificate: &Certificate, server: SocketAddr) -> u16 {
    let chain = CertificateDer::pem_file_iter(&certificate.file).unwrap().collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(&certificate.key_file).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust us is none.
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut server = TcpStream::connect(server).await.unwrap();
                // Until either side ends it, in whichever way.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    port
}
