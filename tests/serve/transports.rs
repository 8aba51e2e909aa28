//! TCP, Unix sockets, TLS; HTTP/1.1, HTTP/2, gRPC.

use std::sync::Arc;

use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use plimsoll::serve::Closed;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        pki_types::{PrivateKeyDer, ServerName},
    },
};

use crate::support::{Doors, app, run, send, server, until_closed};

#[tokio::test]
async fn handlers_know_the_peer() {
    let server = run(server(app(&Doors::default()))).await;
    assert!(server.ask("/peer").await.ends_with("127.0.0.1"));
}

#[tokio::test]
async fn a_unix_socket() {
    let folder = std::env::temp_dir().join(format!("plimsoll-serve-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("socket");
    let listener = UnixListener::bind(&path).expect("a socket");
    let server = server(app(&Doors::default())).listen(listener);
    let control = server.control();
    let ended = tokio::spawn(server.run());
    let mut stream = UnixStream::connect(&path).await.expect("a connection");
    let request = b"GET /ok HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("text");
    assert!(answer.ends_with("ok"), "{answer}");
    control.drain();
    ended.await.expect("no panic");
    std::fs::remove_dir_all(&folder).expect("removed");
}

fn certified() -> (ServerConfig, ClientConfig) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .expect("a configuration");
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a root");
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    (server, client)
}

#[tokio::test]
async fn tls_with_http2_and_http1() {
    let (config, client) = certified();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = server(app(&Doors::default())).listen_tls(listener, config);
    let (connections, control) = (server.connections(), server.control());
    let ended = tokio::spawn(server.run());
    for (protocol, version) in [
        ("h2", http::Version::HTTP_2),
        ("http/1.1", http::Version::HTTP_11),
    ] {
        let mut client = client.clone();
        client.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TcpStream::connect(address).await.expect("a connection");
        let stream = TlsConnector::from(Arc::new(client))
            .connect(name, stream)
            .await;
        let stream = stream.expect("a handshake");
        assert_eq!(
            stream.get_ref().1.alpn_protocol(),
            Some(protocol.as_bytes())
        );
        let uri = format!("https://localhost:{}/ok", address.port());
        let request = http::Request::get(uri)
            .version(version)
            .header("host", "localhost")
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .expect("a request");
        let io = TokioIo::new(stream);
        let response = if protocol == "h2" {
            let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
            let (mut sender, connection) = handshake.expect("a handshake");
            tokio::spawn(connection);
            sender.send_request(request).await
        } else {
            let handshake = hyper::client::conn::http1::handshake(io).await;
            let (mut sender, connection) = handshake.expect("a handshake");
            tokio::spawn(connection);
            sender.send_request(request).await
        };
        let response = response.expect("an answer");
        assert_eq!(response.version(), version);
        let body = response.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "ok");
    }
    // Who speaks something else, or nothing.
    for begin in [&b"GET /ok HTTP/1.1\r\n\r\n"[..], b""] {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        send(&mut stream, begin).await;
        until_closed(&mut stream).await;
    }
    crate::support::eventually(|| connections.closed(Closed::TlsFailed) == 2).await;
    control.drain();
    ended.await.expect("no panic");
}
