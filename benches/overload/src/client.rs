//! Connections of the generator: HTTP/1.1 with keep-alive, and gRPC over a few HTTP/2 connections.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, sync::Mutex};
use tonic::Code;
use tonic_prost::ProstCodec;
use tower_service::Service;

use crate::{
    account::Answer,
    generator::{Dial, Link},
    schedule::Class,
    server::grpc::{Blob, ECHO},
};

/// Calls under way at once, over HTTP/1.1 as many connections.
pub(crate) const PLACES: usize = 512;
/// HTTP/2 connections that share the places: few enough streams on each that no server's default turns them away.
const H2_CONNECTIONS: usize = 8;

const CRITICALITY: &str = "x-criticality";
const HOST: HeaderValue = HeaderValue::from_static("localhost");

async fn connect(address: SocketAddr) -> io::Result<TokioIo<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(stream))
}

/// Opens HTTP/1.1 connections.
pub(crate) struct Http1 {
    pub(crate) address: SocketAddr,
}

/// One connection.
pub(crate) struct Http1Link(http1::SendRequest<Empty<Bytes>>);

impl Dial for Http1 {
    type Link = Http1Link;

    async fn dial(&self) -> io::Result<Http1Link> {
        let io = connect(self.address).await?;
        let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(Http1Link(sender))
    }
}

impl Link for Http1Link {
    async fn call(&mut self, class: Class) -> Option<Answer> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = Uri::from_static("/");
        request.headers_mut().insert(header::HOST, HOST);
        if let Some(class) = class.header() {
            let class = HeaderValue::from_static(class);
            request.headers_mut().insert(CRITICALITY, class);
        }
        self.0.ready().await.ok()?;
        let response = self.0.send_request(request).await.ok()?;
        let (head, body) = response.into_parts();
        body.collect().await.ok()?;
        Some(match head.status {
            StatusCode::OK => Answer::Served,
            StatusCode::SERVICE_UNAVAILABLE => Answer::Rejected {
                hint: head.headers.contains_key(header::RETRY_AFTER),
            },
            _ => Answer::Failed,
        })
    }
}

/// Hands out places on a few HTTP/2 connections.
pub(crate) struct Grpc {
    address: SocketAddr,
    connections: Mutex<Vec<Channel>>,
    next: AtomicUsize,
}

/// A tonic client on one of the connections.
pub(crate) struct GrpcLink(tonic::client::Grpc<Channel>);

/// One connection, which many calls share.
#[derive(Clone)]
pub(crate) struct Channel(http2::SendRequest<tonic::body::Body>);

impl Grpc {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            connections: Mutex::default(),
            next: AtomicUsize::new(0),
        }
    }
}

impl Dial for Grpc {
    type Link = GrpcLink;

    async fn dial(&self) -> io::Result<GrpcLink> {
        let mut connections = self.connections.lock().await;
        connections.retain(|channel| !channel.0.is_closed());
        if connections.len() < H2_CONNECTIONS {
            let io = connect(self.address).await?;
            let handshake = http2::handshake(TokioExecutor::new(), io).await;
            let (sender, connection) = handshake.map_err(io::Error::other)?;
            tokio::spawn(connection);
            connections.push(Channel(sender));
        }
        let next = self.next.fetch_add(1, Relaxed) % connections.len();
        let origin = format!("http://{}", self.address).parse();
        Ok(GrpcLink(tonic::client::Grpc::with_origin(
            connections[next].clone(),
            origin.map_err(io::Error::other)?,
        )))
    }
}

impl Link for GrpcLink {
    async fn call(&mut self, class: Class) -> Option<Answer> {
        let mut request = tonic::Request::new(Blob {
            data: Bytes::from_static(b"ping"),
        });
        if let Some(class) = class.header() {
            let class = class.parse().expect("a class is ASCII");
            request.metadata_mut().insert(CRITICALITY, class);
        }
        self.0.ready().await.ok()?;
        let codec = ProstCodec::<Blob, Blob>::default();
        let path = PathAndQuery::from_static(ECHO);
        match self.0.unary(request, path, codec).await {
            Ok(_) => Some(Answer::Served),
            Err(status) if status.code() == Code::Unavailable => {
                // Without the headers of an answer it is the connection that failed.
                let metadata = status.metadata();
                metadata.get("content-type")?;
                Some(Answer::Rejected {
                    hint: metadata.contains_key("grpc-retry-pushback-ms"),
                })
            }
            Err(_) => Some(Answer::Failed),
        }
    }
}

impl Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
