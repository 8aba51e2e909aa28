//! Callers of each protocol, who write down what they sent and check what they see.

use std::{
    collections::BTreeSet,
    mem,
    net::{Shutdown, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, sync::Semaphore, task::JoinSet};

use crate::{
    Counts,
    server::{Begun, Server},
};

/// Callers of HTTP/1.1, each on a connection of its own.
const HTTP1: usize = 8;
/// Callers of HTTP/2 and of gRPC, so many of whom share a connection.
const HTTP2: usize = 16;
const GRPC: usize = 16;
const SHARE: usize = 8;

/// A connection goes away under its calls once in so many rounds.
const DISCONNECTS: u64 = 16;
/// And so many of each kind are under way then.
const UNDER_WAY: u32 = 3;

/// Calls that are answered to the end, and how.
const HTTP: [(&str, &str, &str, u16); 18] = [
    ("GET", "/ok", "ok", 200),
    ("GET", "/items/7", "ok", 200),
    ("POST", "/echo", "ok", 200),
    ("GET", "/ok", "ok", 200),
    ("GET", "/nowhere", "client_error", 404),
    ("GET", "/items/8", "ok", 200),
    ("GET", "/ok", "ok", 200),
    ("GET", "/panic", "panic", 500),
    ("POST", "/echo", "ok", 200),
    ("GET", "/ok", "ok", 200),
    ("DELETE", "/ok", "client_error", 405),
    ("GET", "/ok", "ok", 200),
    ("GET", "/broken", "server_error", 502),
    ("GET", "/ok", "ok", 200),
    ("GET", "/limited", "", 0),
    ("GET", "/ok", "ok", 200),
    ("GET", "/nowhere", "client_error", 404),
    ("GET", "/ok", "ok", 200),
];
const RPC: [(&str, &str, &str, &str); 15] = [
    ("One", "x", "ok", "0"),
    ("One", "x", "ok", "0"),
    ("Many", "x", "ok", "0"),
    ("One", "fail", "client_error", "9"),
    ("One", "x", "ok", "0"),
    ("Many", "cut", "client_error", "9"),
    ("One", "x", "ok", "0"),
    ("None", "x", "server_error", "12"),
    ("One", "x", "ok", "0"),
    ("One", "panic", "panic", "13"),
    ("One", "x", "ok", "0"),
    ("Many", "panic", "body_panic", "13"),
    ("Many", "x", "ok", "0"),
    ("Many", "fail", "client_error", "9"),
    ("One", "x", "ok", "0"),
];

/// What callers sent.
#[derive(Default)]
pub(crate) struct Sent {
    pub(crate) by_outcome: Counts,
    pub(crate) ids: BTreeSet<String>,
    /// Calls of the route that is limited.
    pub(crate) limited: u64,
}

pub(crate) struct Callers {
    /// A permit for each call that was made.
    made: Arc<Semaphore>,
    running: JoinSet<Sent>,
    sent: Sent,
}

/// Lets them make so many calls in all, and a few more.
pub(crate) async fn start(server: &Server, calls: i64) -> Callers {
    let left = Arc::new(AtomicI64::new(calls));
    let made = Arc::new(Semaphore::new(0));
    let mut running = JoinSet::new();
    let mut shared = None::<Connection>;
    for number in 0..HTTP1 + HTTP2 + GRPC {
        let (protocol, address) = match number {
            _ if number < HTTP1 => ("http/1.1", server.http),
            _ if number < HTTP1 + HTTP2 => ("http/2", server.http),
            _ => ("grpc", server.grpc),
        };
        let connection = match &shared {
            Some(connection) if number % SHARE != 0 => connection.shared(),
            _ => Connection::open(protocol, address).await,
        };
        shared = (number >= HTTP1).then(|| connection.shared());
        let caller = Caller {
            number,
            protocol,
            address,
            connection,
            begun: server.begun.clone(),
            sent: Sent::default(),
        };
        running.spawn(caller.call_until_none(Arc::clone(&left), Arc::clone(&made)));
    }
    Callers {
        made,
        running,
        sent: Sent::default(),
    }
}

impl Callers {
    /// Waits until so many more calls were made. `false` once no more are made.
    pub(crate) async fn have_made(&mut self, calls: u32) -> bool {
        loop {
            tokio::select! {
                made = self.made.acquire_many(calls) => {
                    made.expect("never closed").forget();
                    return true;
                }
                done = self.running.join_next() => match done {
                    Some(done) => self.sent.add(done.expect("a caller saw what it should not")),
                    None => return false,
                }
            }
        }
    }

    pub(crate) fn sent(self) -> Sent {
        self.sent
    }
}

impl Sent {
    fn add(&mut self, other: Self) {
        for (key, calls) in other.by_outcome {
            *self.by_outcome.entry(key).or_default() += calls;
        }
        self.ids.extend(other.ids);
        self.limited += other.limited;
    }
}

/// A connection, and its socket to cut it by.
struct Connection {
    sender: Sender,
    socket: Arc<std::net::TcpStream>,
}

enum Sender {
    /// One call at a time.
    One(http1::SendRequest<Full<Bytes>>),
    Many(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    async fn open(protocol: &str, address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.expect("it listens");
        socket.set_nodelay(true).expect("a socket");
        let socket = socket.into_std().expect("a socket");
        let handle = Arc::new(socket.try_clone().expect("a socket"));
        let io = TokioIo::new(TcpStream::from_std(socket).expect("a socket"));
        // That it breaks is for the calls on it to say.
        let sender = if protocol == "http/1.1" {
            let (sender, connection) = http1::handshake(io).await.expect("HTTP/1");
            tokio::spawn(async { drop(connection.await) });
            Sender::One(sender)
        } else {
            let opened = http2::handshake(TokioExecutor::new(), io).await;
            let (sender, connection) = opened.expect("HTTP/2");
            tokio::spawn(async { drop(connection.await) });
            Sender::Many(sender)
        };
        Self {
            sender,
            socket: handle,
        }
    }

    /// The same connection, for one more caller.
    fn shared(&self) -> Self {
        let Sender::Many(sender) = &self.sender else {
            unreachable!("HTTP/1 has one call at a time");
        };
        Self {
            sender: Sender::Many(sender.clone()),
            socket: Arc::clone(&self.socket),
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Many(sender) => sender.send_request(request).await,
        }
    }

    /// Sends it at once, in the order of calls, and waits for nothing.
    fn post(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + use<> {
        match &mut self.sender {
            Sender::One(_) => unreachable!("HTTP/1 has one call at a time"),
            Sender::Many(sender) => sender.send_request(request),
        }
    }

    /// It goes away at once, whatever is under way.
    fn cut(&self) {
        // Where the server was faster it is gone already.
        drop(self.socket.shutdown(Shutdown::Both));
    }
}

struct Caller {
    number: usize,
    protocol: &'static str,
    address: SocketAddr,
    connection: Connection,
    begun: Begun,
    sent: Sent,
}

impl Caller {
    async fn call_until_none(mut self, left: Arc<AtomicI64>, made: Arc<Semaphore>) -> Sent {
        let mut round = 0;
        while left.load(Ordering::Relaxed) > 0 {
            let before = self.sent.ids.len();
            match self.protocol {
                "grpc" => self.rpc_round().await,
                _ => self.http_round().await,
            }
            if round % DISCONNECTS == 0 && self.protocol != "http/1.1" {
                self.disconnect().await;
            }
            round += 1;
            let calls = self.sent.ids.len() - before;
            left.fetch_sub(i64::try_from(calls).expect("small"), Ordering::Relaxed);
            made.add_permits(calls);
        }
        self.sent
    }

    /// A request that is written down with the outcome that it will have.
    fn request(&mut self, method: &str, path: &str, outcome: &str) -> Request<Full<Bytes>> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = format!("call-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        // A connection of HTTP/1 sends the path only.
        let uri = match self.protocol {
            "http/1.1" => path.to_owned(),
            _ => format!("http://{}{path}", self.address),
        };
        let body = match method {
            "POST" => Bytes::from_static(b"some bytes"),
            _ => Bytes::new(),
        };
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("host", "test")
            .header("x-tenant", "acme")
            .header("x-request-id", &id)
            .body(Full::new(body));
        self.sent.ids.insert(id);
        if !outcome.is_empty() {
            self.count(outcome);
        }
        request.expect("a request")
    }

    fn count(&mut self, outcome: &str) {
        let key = (self.protocol.to_owned(), outcome.to_owned());
        *self.sent.by_outcome.entry(key).or_default() += 1;
    }

    fn rpc(&mut self, method: &str, message: &str, outcome: &str) -> Request<Full<Bytes>> {
        let path = format!("/test.Calls/{method}");
        let mut request = self.request("POST", &path, outcome);
        let headers = request.headers_mut();
        headers.insert("content-type", "application/grpc".parse().expect("a value"));
        headers.insert("te", "trailers".parse().expect("a value"));
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len()).expect("short"));
        frame.put(message.as_bytes());
        *request.body_mut() = Full::new(frame.freeze());
        request
    }

    /// The head and the body to its end.
    async fn whole(&mut self, request: Request<Full<Bytes>>) -> (http::response::Parts, HeaderMap) {
        let response = self.connection.send(request).await.expect("an answer");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body");
        (head, body.trailers().cloned().unwrap_or_default())
    }

    async fn http_round(&mut self) {
        for (method, path, outcome, status) in HTTP {
            let request = self.request(method, path, outcome);
            let (head, _) = self.whole(request).await;
            if outcome.is_empty() {
                self.sent.limited += 1;
                match head.status.as_u16() {
                    200 => self.count("ok"),
                    429 => self.count("rate_limited"),
                    other => panic!("{path}: {other}"),
                }
            } else {
                assert_eq!(head.status, status, "{path}");
            }
        }
        for (path, outcome) in [("/cut", "body_error"), ("/body-panic", "body_panic")] {
            let request = self.request("GET", path, outcome);
            if let Ok(response) = self.connection.send(request).await {
                let end = response.into_body().collect().await;
                end.expect_err("L5: nobody takes half a body for a whole one");
            }
            self.renew().await;
        }
        drop(self.first_frame().await);
        self.renew().await;
        let path = format!("/hang/{}", self.number);
        let request = self.request("GET", &path, "client_gone");
        let (begun, number) = (self.begun.clone(), self.number);
        tokio::select! {
            _ = self.connection.send(request) => panic!("it hangs"),
            () = begun.wait(number, 1) => {}
        }
        self.renew().await;
    }

    /// A body that has begun and never ends.
    async fn first_frame(&mut self) -> Incoming {
        let request = match self.protocol {
            "grpc" => self.rpc("Many", "hang", "client_gone_body"),
            _ => self.request("GET", "/endless", "client_gone_body"),
        };
        let response = self.connection.send(request).await.expect("a head");
        let mut body = response.into_body();
        let first = body.frame().await.expect("a first frame");
        first.expect("it has not gone wrong");
        body
    }

    /// A connection of HTTP/1 ends with a call that was not.
    async fn renew(&mut self) {
        if matches!(self.connection.sender, Sender::One(_)) {
            self.connection.cut();
            self.connection = Connection::open(self.protocol, self.address).await;
        }
    }

    async fn rpc_round(&mut self) {
        for (method, message, outcome, status) in RPC {
            let request = self.rpc(method, message, outcome);
            let (head, trailers) = self.whole(request).await;
            let told = trailers
                .get("grpc-status")
                .or(head.headers.get("grpc-status"));
            assert_eq!(told.expect("a status"), status, "{method} {message}");
        }
        drop(self.first_frame().await);
        self.begin_to_hang().await;
    }

    /// A call that hangs and is given up. Frames are read in order: the answer to the second shows that the first has come.
    async fn begin_to_hang(&mut self) {
        let first = self.rpc("One", "hang", "client_gone");
        let first = self.connection.post(first);
        let second = self.rpc("One", "x", "ok");
        tokio::select! {
            _ = first => panic!("it hangs"),
            _ = self.whole(second) => {}
        }
    }

    /// A connection goes away under its calls.
    async fn disconnect(&mut self) {
        let own = Connection::open(self.protocol, self.address).await;
        let shared = mem::replace(&mut self.connection, own);
        let mut waiting = Vec::new();
        for _ in 0..UNDER_WAY {
            let request = match self.protocol {
                "grpc" => self.rpc("One", "hang", "client_gone"),
                _ => self.request("GET", &format!("/hang/{}", self.number), "client_gone"),
            };
            waiting.push(self.connection.post(request));
        }
        let mut bodies = Vec::new();
        for _ in 0..UNDER_WAY {
            bodies.push(self.first_frame().await);
        }
        if self.protocol != "grpc" {
            self.begun.wait(self.number, UNDER_WAY).await;
        }
        self.connection.cut();
        self.connection = shared;
    }
}
