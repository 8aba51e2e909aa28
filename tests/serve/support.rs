//! A server to attack, and raw peers.

use std::{convert::Infallible, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::ConnectInfo,
    routing::{get, post},
};
use futures_util::stream;
use plimsoll::serve::{Closed, Connections, Control, Drain, Listener, Report, Server};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::timeout,
};

/// Longer than anything here takes; what is awaited comes much sooner.
pub(crate) const BOUND: Duration = Duration::from_secs(60);
/// A limit that is to be reached. One that is not is [`FAR`]: a machine may stand still for longer than this.
pub(crate) const LIMIT: Duration = Duration::from_millis(200);
pub(crate) const FAR: Duration = Duration::from_secs(3_600);

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

/// A server whose limits are far off, and which gives no notice: whatever is to be reached is set to [`LIMIT`].
pub(crate) fn server(app: Router) -> Server<Router> {
    Server::new(app)
        .head_timeout(FAR)
        .idle_timeout(FAR)
        .write_stall(FAR)
        .drain(ends_within(BOUND))
}

/// An end without notice, for which calls have so long.
pub(crate) fn ends_within(deadline: Duration) -> Drain {
    Drain::new().notice(Duration::ZERO).deadline(deadline)
}

/// Connections within the process. On a paused clock a limit is reached when nothing else is left to do, and not before.
pub(crate) struct Inside(mpsc::UnboundedReceiver<DuplexStream>);

/// The way to [`Inside`].
pub(crate) struct Dial(mpsc::UnboundedSender<DuplexStream>);

impl Inside {
    pub(crate) fn new() -> (Self, Dial) {
        let (dial, streams) = mpsc::unbounded_channel();
        (Self(streams), Dial(dial))
    }
}

impl Listener for Inside {
    type Stream = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, Option<SocketAddr>)> {
        match self.0.recv().await {
            Some(stream) => Ok((stream, None)),
            None => std::future::pending().await,
        }
    }
}

impl Dial {
    pub(crate) fn connect(&self) -> DuplexStream {
        let (client, stream) = duplex(64 * 1024);
        self.0.send(stream).expect("it listens");
        client
    }

    /// One call on a connection of its own, and what comes of it.
    pub(crate) async fn ask(&self, path: &str) -> String {
        let mut stream = self.connect();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        send(&mut stream, request.as_bytes()).await;
        until_closed(&mut stream).await
    }

    /// Whether nothing new is taken.
    pub(crate) fn is_refused(&self) -> bool {
        self.0.is_closed()
    }
}

/// Runs it without a network. The clock of the test is paused.
pub(crate) fn run_inside(server: Server<Router>) -> (Running, Dial) {
    let (inside, dial) = Inside::new();
    let server = server.listen(inside);
    let (connections, control) = (server.connections(), server.control());
    let running = Running {
        address: SocketAddr::from(([0; 4], 0)),
        connections,
        control,
        ended: tokio::spawn(server.run()),
    };
    (running, dial)
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

pub(crate) async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    stream.write_all(bytes).await.expect("sent");
}

/// All that comes until the connection ends, however it ends.
pub(crate) async fn until_closed(stream: &mut (impl AsyncRead + Unpin)) -> String {
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
