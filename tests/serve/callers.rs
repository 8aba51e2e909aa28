//! Callers over each transport, speaking each protocol.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use axum::Router;
use bytes::Bytes;
use http::{Request, Response, Version, header::CONTENT_TYPE};
use http_body_util::Empty;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use plimsoll::serve::{Connections, Control, Report, Server};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        pki_types::{PrivateKeyDer, ServerName},
    },
};

use crate::support::BOUND;

/// How a server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Unix,
    Tls,
}

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
    Grpc,
}

pub(crate) const TRANSPORTS: [Transport; 3] = [Transport::Tcp, Transport::Unix, Transport::Tls];
pub(crate) const PROTOCOLS: [Protocol; 3] = [Protocol::Http1, Protocol::Http2, Protocol::Grpc];

/// All nine.
pub(crate) fn ways() -> impl Iterator<Item = (Transport, Protocol)> {
    TRANSPORTS
        .into_iter()
        .flat_map(|transport| PROTOCOLS.map(|protocol| (transport, protocol)))
}

pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Where a server is.
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
    Tls(SocketAddr, Box<ClientConfig>),
}

/// A server on one transport.
pub(crate) struct Served {
    place: Place,
    pub(crate) connections: Connections,
    pub(crate) control: Control,
    pub(crate) ended: JoinHandle<Report>,
}

pub(crate) async fn serve(server: Server<Router>, transport: Transport) -> Served {
    let (server, place) = match transport {
        Transport::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            (server.listen(listener), Place::Tcp(address))
        }
        Transport::Unix => {
            static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
            let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let name = format!("plimsoll-serve-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let listener = UnixListener::bind(&path).expect("a socket");
            (server.listen(listener), Place::Unix(path))
        }
        Transport::Tls => {
            let (config, client) = certified();
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            (
                server.listen_tls(listener, config),
                Place::Tls(address, Box::new(client)),
            )
        }
    };
    let (connections, control) = (server.connections(), server.control());
    Served {
        place,
        connections,
        control,
        ended: tokio::spawn(server.run()),
    }
}

impl Served {
    /// A connection on which this is to be spoken.
    pub(crate) async fn connect(&self, protocol: Protocol) -> Box<dyn Io> {
        match &self.place {
            Place::Tcp(address) => {
                Box::new(TcpStream::connect(address).await.expect("a connection"))
            }
            Place::Unix(path) => Box::new(UnixStream::connect(path).await.expect("a connection")),
            Place::Tls(address, config) => {
                let alpn: &[u8] = match protocol {
                    Protocol::Http1 => b"http/1.1",
                    Protocol::Http2 | Protocol::Grpc => b"h2",
                };
                let mut config = (**config).clone();
                config.alpn_protocols = vec![alpn.to_vec()];
                let name = ServerName::try_from("localhost").expect("a name");
                let stream = TcpStream::connect(address).await.expect("a connection");
                let stream = TlsConnector::from(Arc::new(config)).connect(name, stream);
                let stream = stream.await.expect("a handshake");
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
                Box::new(stream)
            }
        }
    }

    /// A caller with a connection of its own.
    pub(crate) async fn caller(&self, protocol: Protocol) -> Caller {
        let io = TokioIo::new(self.connect(protocol).await);
        match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await.expect("a handshake");
                tokio::spawn(connection);
                Caller::One(sender)
            }
            Protocol::Http2 | Protocol::Grpc => {
                let handshake = http2::handshake(TokioExecutor::new(), io).await;
                let (sender, connection) = handshake.expect("a handshake");
                tokio::spawn(connection);
                Caller::Two(sender, protocol)
            }
        }
    }

    /// Whether nothing new is taken.
    pub(crate) fn refuses(&self) -> bool {
        match &self.place {
            Place::Tcp(address) | Place::Tls(address, _) => {
                std::net::TcpStream::connect(address).is_err()
            }
            Place::Unix(path) => std::os::unix::net::UnixStream::connect(path).is_err(),
        }
    }

    pub(crate) async fn end(self) -> Report {
        self.control.drain();
        let report = timeout(BOUND, self.ended).await.expect("in time");
        if let Place::Unix(path) = &self.place {
            std::fs::remove_file(path).expect("it is there");
        }
        report.expect("no panic")
    }
}

pub(crate) enum Caller {
    One(http1::SendRequest<Empty<Bytes>>),
    Two(http2::SendRequest<Empty<Bytes>>, Protocol),
}

impl Caller {
    /// Sends a call; what is returned waits for its head.
    pub(crate) fn call(
        &mut self,
        path: &str,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + Send + use<> {
        let request = |uri: String, version| {
            let request = Request::get(uri)
                .version(version)
                .header("host", "localhost");
            request.body(Empty::new()).expect("a request")
        };
        let url = format!("http://localhost{path}");
        let sent: std::pin::Pin<Box<dyn Future<Output = _> + Send>> = match self {
            Self::One(sender) => {
                Box::pin(sender.send_request(request(path.to_owned(), Version::HTTP_11)))
            }
            Self::Two(sender, protocol) => {
                let mut request = request(url, Version::HTTP_2);
                if *protocol == Protocol::Grpc {
                    let grpc = http::HeaderValue::from_static("application/grpc");
                    request.headers_mut().insert(CONTENT_TYPE, grpc);
                }
                Box::pin(sender.send_request(request))
            }
        };
        sent
    }

    /// Waits until it may call again.
    pub(crate) async fn ready(&mut self) -> hyper::Result<()> {
        match self {
            Self::One(sender) => sender.ready().await,
            Self::Two(sender, _) => sender.ready().await,
        }
    }
}

pub(crate) fn certified() -> (ServerConfig, ClientConfig) {
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
