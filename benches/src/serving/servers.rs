//! The servers that are compared and attacked, each a process of its own.

use std::{
    convert::Infallible,
    future::ready,
    io::{self, BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    process::{Child, Command, Stdio},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    response::Response,
    routing::{get, post},
    serve::ListenerExt as _,
};
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full};
use plimsoll::{serve::Server, server::timeout::TimeoutLayer};
use tokio::net::TcpListener;
use tonic::{service::Routes, transport::server::TcpIncoming};

use crate::{
    bases,
    harness::loopback::{pinned, until_stdin_closes},
};

/// The word that makes this program one of these.
pub(crate) const SERVER: &str = "serve-server";

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loop {
    Plimsoll,
    Axum,
    /// With the peer's address for handlers, as ours and tonic's tell it.
    AxumPeers,
    Tonic,
    /// Plimsoll's with short limits, for attacks, on as many threads as there are cores.
    Attacked,
}

impl Loop {
    const ALL: [Self; 5] = [
        Self::Plimsoll,
        Self::Axum,
        Self::AxumPeers,
        Self::Tonic,
        Self::Attacked,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plimsoll => "plimsoll",
            Self::Axum => "axum::serve",
            Self::AxumPeers => "axum::serve with peers",
            Self::Tonic => "tonic",
            Self::Attacked => "attacked",
        }
    }
}

/// A server that runs; it ends when this is dropped, since its stdin closes then.
pub(super) struct Running {
    pub(super) process: Child,
    pub(super) port: u16,
}

impl Running {
    /// This program again, on one core.
    pub(super) fn on_core(core: &str, which: Loop) -> Result<Self, String> {
        Self::start(pinned(core)?, which, Stdio::inherit())
    }

    pub(super) fn start(mut command: Command, which: Loop, stderr: Stdio) -> Result<Self, String> {
        let mut process = command
            .args([SERVER, which.name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(|error| format!("{:?} does not start: {error}", command.get_program()))?;
        let mut answer = String::new();
        BufReader::new(process.stdout.as_mut().expect("stdout is a pipe"))
            .read_line(&mut answer)
            .map_err(|error| error.to_string())?;
        let port = answer.trim().parse();
        let port = port.map_err(|_| format!("{} told no port: {answer:?}", which.name()))?;
        Ok(Self { process, port })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        if let Err(error) = self.process.wait() {
            eprintln!("a server does not end: {error}");
        }
    }
}

/// The server's process.
pub(crate) fn serve(name: &str) -> Result<(), String> {
    let which = Loop::ALL.into_iter().find(|which| which.name() == name);
    let which = which.ok_or_else(|| format!("no loop is called {name}"))?;
    until_stdin_closes();
    let mut runtime = match which {
        Loop::Attacked => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = runtime.enable_all().build();
    let served = runtime.map_err(|error| error.to_string())?.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{}", listener.local_addr()?.port());
        run(which, listener).await
    });
    served.map_err(|error| error.to_string())
}

async fn run(which: Loop, listener: TcpListener) -> io::Result<()> {
    match which {
        Loop::Plimsoll => {
            Server::new(router()).listen(listener).run().await;
        }
        Loop::Attacked => {
            let rate = NonZeroU32::new(500).expect("above 0");
            let router = router().layer(TimeoutLayer::new().min_rate(rate, LIMIT));
            let server = Server::new(router).head_timeout(LIMIT).write_stall(LIMIT);
            server.listen(listener).run().await;
        }
        Loop::Axum | Loop::AxumPeers => {
            // As ours and tonic's: without Nagle's algorithm.
            let listener = listener.tap_io(|stream| {
                if let Err(error) = stream.set_nodelay(true) {
                    eprintln!("a connection stays with Nagle's algorithm: {error}");
                }
            });
            if which == Loop::AxumPeers {
                let router = router().into_make_service_with_connect_info::<SocketAddr>();
                axum::serve(listener, router).await?;
            } else {
                axum::serve(listener, router()).await?;
            }
        }
        Loop::Tonic => {
            let routes = Routes::from(router());
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let served = tonic::transport::Server::builder()
                .add_routes(routes)
                .serve_with_incoming(incoming);
            served.await.map_err(io::Error::other)?;
        }
    }
    Ok(())
}

/// What an attacker may take, of heads, bodies and reading.
pub(super) const LIMIT: Duration = Duration::from_secs(1);

fn router() -> Router {
    bases::router()
        .route("/shop/Order", post(order))
        .route("/endless", get(endless))
}

/// What tonic's code for a unary method does, without its decoding.
async fn order(message: Bytes) -> Response {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let trailers = ready(Some(Ok::<_, Infallible>(trailers)));
    let mut response = Response::new(Body::new(Full::new(message).with_trailers(trailers)));
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// More than anybody takes.
async fn endless() -> Body {
    Body::new(Endless(Bytes::from_static(&[b'x'; 64 * 1024])))
}

struct Endless(Bytes);

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(Some(Ok(http_body::Frame::data(self.0.clone()))))
    }
}
