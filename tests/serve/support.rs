//! A server to attack, and raw peers.

use std::{convert::Infallible, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::ConnectInfo,
    routing::{get, post},
};
use futures_util::stream;
use plimsoll::serve::{Closed, Connections, Control, Drain, Report, Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
    time::timeout,
};

/// Longer than anything here takes; what is awaited comes much sooner.
pub(crate) const BOUND: Duration = Duration::from_secs(20);
/// The limits of the servers here.
pub(crate) const LIMIT: Duration = Duration::from_millis(200);

/// What handlers wait for.
#[derive(Clone, Default)]
pub(crate) struct Doors {
    pub(crate) begun: Arc<Notify>,
    pub(crate) go: Arc<Notify>,
}

pub(crate) fn app(doors: &Doors) -> Router {
    let waiting = doors.clone();
    Router::new()
        .route("/ok", get(|| async { "ok" }))
        .route("/peer", get(peer))
        .route(
            "/wait",
            get(async move || {
                waiting.begun.notify_one();
                waiting.go.notified().await;
                "waited"
            }),
        )
        .route("/endless", get(|| async { Body::from_stream(endless()) }))
        .route(
            "/forever",
            get(|| async { Body::from_stream(stream::pending::<Result<Bytes, Infallible>>()) }),
        )
        .route("/echo", post(|body: Bytes| async { body }))
}

async fn peer(ConnectInfo(peer): ConnectInfo<SocketAddr>) -> String {
    peer.ip().to_string()
}

/// More than any buffer between here and a peer holds.
fn endless() -> Pin<Box<dyn stream::Stream<Item = Result<Bytes, Infallible>> + Send>> {
    let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
    Box::pin(stream::repeat_with(move || Ok(chunk.clone())))
}

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Connections,
    pub(crate) control: Control,
    pub(crate) ended: JoinHandle<Report>,
}

/// A server with short limits and no notice.
pub(crate) fn server(app: Router) -> Server<Router> {
    Server::new(app)
        .head_timeout(LIMIT)
        .idle_timeout(LIMIT * 10)
        .write_stall(LIMIT)
        .drain(Drain::new().notice(Duration::ZERO).deadline(LIMIT * 10))
}

pub(crate) async fn run(server: Server<Router>) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = server.listen(listener);
    let (connections, control) = (server.connections(), server.control());
    Running {
        address,
        connections,
        control,
        ended: tokio::spawn(server.run()),
    }
}

impl Running {
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address)
            .await
            .expect("a connection")
    }

    pub(crate) async fn ask(&self, path: &str) -> String {
        let mut stream = self.connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        send(&mut stream, request.as_bytes()).await;
        until_closed(&mut stream).await
    }

    /// Waits until so many connections were closed for this reason.
    pub(crate) async fn closes(&self, reason: Closed, connections: u64) {
        eventually(|| self.connections.closed(reason) >= connections).await;
        assert_eq!(self.connections.closed(reason), connections);
    }

    pub(crate) async fn end(self) -> Report {
        self.control.drain();
        let report = timeout(BOUND, self.ended).await.expect("in time");
        report.expect("no panic")
    }
}

pub(crate) async fn send(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.expect("sent");
}

/// All that comes until the connection ends, however it ends.
pub(crate) async fn until_closed(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    // A reset is an end as well.
    let _ended = timeout(BOUND, stream.read_to_end(&mut read))
        .await
        .expect("closed in time");
    String::from_utf8_lossy(&read).into_owned()
}

/// Waits for what other tasks bring about.
pub(crate) async fn eventually(mut holds: impl FnMut() -> bool) {
    let turns = async {
        while !holds() {
            tokio::task::yield_now().await;
            // sleeps: a turn for the threads that serve, until the bound
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(BOUND, turns).await.expect("it comes to hold");
}
