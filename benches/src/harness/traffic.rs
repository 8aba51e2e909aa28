//! The calls that a case is measured by.

use std::{
    fmt::Debug,
    net::{Ipv4Addr, SocketAddr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
};

use axum::{body::Body, extract::ConnectInfo};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{ACCEPT, ACCEPT_ENCODING, HOST, USER_AGENT},
};
use http_body_util::BodyExt;
use tower::{Service, ServiceExt};

use super::sink;

/// What is being measured: something that can be called many times, and checks each call.
pub(crate) struct Subject {
    calls: Box<dyn FnMut(u64) -> Result<(), String>>,
    lines_per_call: u64,
}

impl Subject {
    /// A service, called with one kind of request.
    pub(crate) fn service<S, B>(service: S, traffic: Traffic) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + 'static,
        S::Error: Debug,
        B: http_body::Body,
        B::Error: Debug,
    {
        Self::of(service, Arc::new(traffic))
    }

    fn of<S, B>(mut service: S, traffic: Arc<Traffic>) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + 'static,
        S::Error: Debug,
        B: http_body::Body,
        B::Error: Debug,
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be built");
        let lines_per_call = traffic.lines;
        let calls = move |calls| {
            let all_calls = async {
                for _ in 0..calls {
                    call(&mut service, &traffic).await?;
                }
                Ok(())
            };
            runtime.block_on(tokio::task::unconstrained(all_calls))
        };
        Self {
            calls: Box::new(calls),
            lines_per_call,
        }
    }

    /// A service, called from two threads at once. Both make all the calls asked for.
    pub(crate) fn two_threads<S, B>(service: S, traffic: Traffic) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Debug,
        B: http_body::Body + 'static,
        B::Error: Debug,
    {
        let traffic = Arc::new(traffic);
        let mut helper = Helper::start({
            let (service, traffic) = (service.clone(), Arc::clone(&traffic));
            move || Self::of(service, traffic)
        });
        let mut own = Self::of(service, traffic);
        let calls = move |calls| {
            helper.ask(calls)?;
            own.call(calls)?;
            helper.done()
        };
        Self {
            calls: Box::new(calls),
            lines_per_call: 0,
        }
    }

    /// A plain function that writes one log line.
    pub(crate) fn line(mut write: impl FnMut() + 'static) -> Self {
        let calls = move |calls| {
            (0..calls).for_each(|_| write());
            Ok(())
        };
        Self {
            calls: Box::new(calls),
            lines_per_call: 1,
        }
    }

    /// Makes `calls` calls; returns after the last one, though its log line may still be on its way.
    pub(crate) fn call(&mut self, calls: u64) -> Result<(), String> {
        (self.calls)(calls)
    }

    /// Waits for the lines of `calls` calls made since there were `before` lines.
    pub(crate) fn settle(&self, before: u64, calls: u64) -> Result<(), String> {
        sink::settle(before + calls * self.lines_per_call)
    }
}

/// Another thread that makes calls when asked to.
struct Helper {
    orders: mpsc::Sender<u64>,
    answers: mpsc::Receiver<Result<(), String>>,
}

impl Helper {
    fn start(make: impl FnOnce() -> Subject + Send + 'static) -> Self {
        let (orders, asked) = mpsc::channel::<u64>();
        let (answer, answers) = mpsc::channel();
        thread::spawn(move || {
            let mut subject = make();
            for calls in asked {
                if answer.send(subject.call(calls)).is_err() {
                    return;
                }
            }
        });
        Self { orders, answers }
    }

    fn ask(&mut self, calls: u64) -> Result<(), String> {
        self.orders.send(calls).map_err(|error| error.to_string())
    }

    fn done(&mut self) -> Result<(), String> {
        self.answers.recv().map_err(|error| error.to_string())?
    }
}

async fn call<S, B>(service: &mut S, traffic: &Traffic) -> Result<(), String>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Debug,
    B: http_body::Body,
    B::Error: Debug,
{
    let failed = |error| format!("the service failed: {error:?}");
    let ready = service.ready().await.map_err(failed)?;
    let response = ready.call(traffic.request()).await.map_err(failed)?;
    if response.status() != traffic.expected {
        return Err(format!("answered {}", response.status()));
    }
    let mut body = pin!(response.into_body());
    while let Some(frame) = body.frame().await {
        frame.map_err(|error| format!("the body failed: {error:?}"))?;
    }
    Ok(())
}

/// A request as hyper would make it, and what is to come of it.
pub(crate) struct Traffic {
    path: Bytes,
    headers: Vec<(HeaderName, Bytes)>,
    /// A `POST` with this body, unless it is empty.
    body: Bytes,
    expected: StatusCode,
    lines: u64,
    /// How many callers take turns; their addresses are told as axum tells them.
    peers: u32,
    turn: AtomicU32,
}

impl Traffic {
    /// `GET /menu` with four headers, answered 200, no log line.
    pub(crate) fn menu() -> Self {
        let received =
            Bytes::from_static(b"localhost:3000 plimsoll-benches/0.1 */* gzip, deflate, br");
        Self {
            path: Bytes::from_static(b"/menu"),
            headers: vec![
                (HOST, received.slice(0..14)),
                (USER_AGENT, received.slice(15..35)),
                (ACCEPT, received.slice(36..39)),
                (ACCEPT_ENCODING, received.slice(40..)),
            ],
            body: Bytes::new(),
            expected: StatusCode::OK,
            lines: 0,
            peers: 0,
            turn: AtomicU32::new(0),
        }
    }

    /// `POST /menu` with a body of 100 bytes that the handler reads.
    pub(crate) fn order() -> Self {
        let mut order = Self::menu();
        order.body = Bytes::from_static(&[b'x'; 100]);
        order.with_header("content-length", "100")
    }

    /// The handler is pending once.
    pub(crate) fn yielding(mut self) -> Self {
        self.path = Bytes::from_static(b"/yields");
        self
    }

    /// The answer is 413.
    pub(crate) fn too_large(mut self) -> Self {
        self.expected = StatusCode::PAYLOAD_TOO_LARGE;
        self
    }

    /// The client sends this header too.
    pub(crate) fn with_header(mut self, name: &'static str, value: &'static str) -> Self {
        let header = (
            HeaderName::from_static(name),
            Bytes::from_static(value.as_bytes()),
        );
        self.headers.push(header);
        self
    }

    /// The client sends a request id.
    pub(crate) fn with_id(mut self) -> Self {
        let id = Bytes::from_static(b"9f4c2a63-52f0-4c5b-9d6e-0d4f7a1b2c3d");
        self.headers
            .push((HeaderName::from_static("x-request-id"), id));
        self
    }

    /// The handler panics, and 500 is the answer.
    pub(crate) fn panicking(mut self) -> Self {
        self.path = Bytes::from_static(b"/panic");
        self.expected = StatusCode::INTERNAL_SERVER_ERROR;
        self
    }

    /// So many callers take turns, told apart by their address.
    pub(crate) fn with_peers(mut self, peers: u32) -> Self {
        self.peers = peers;
        self
    }

    /// The answer is 429.
    pub(crate) fn rejected(mut self) -> Self {
        self.expected = StatusCode::TOO_MANY_REQUESTS;
        self
    }

    /// The answer is 503.
    pub(crate) fn shed(mut self) -> Self {
        self.expected = StatusCode::SERVICE_UNAVAILABLE;
        self
    }

    /// Each call must write exactly one log line.
    pub(crate) fn logged(mut self) -> Self {
        self.lines = 1;
        self
    }

    /// One request: its header map has room for all headers at once, and their values share one buffer.
    fn request(&self) -> Request<Body> {
        let mut headers = HeaderMap::with_capacity(self.headers.len());
        for (name, value) in &self.headers {
            let value = HeaderValue::from_maybe_shared(value.clone()).expect("a legal value");
            headers.append(name, value);
        }
        let mut request = Request::new(Body::empty());
        if !self.body.is_empty() {
            *request.method_mut() = Method::POST;
            *request.body_mut() = Body::from(self.body.clone());
        }
        *request.uri_mut() = Uri::from_maybe_shared(self.path.clone()).expect("a legal path");
        *request.headers_mut() = headers;
        if self.peers > 0 {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.peers;
            request.extensions_mut().insert(ConnectInfo(peer(turn)));
        }
        request
    }
}

/// The address of a caller.
pub(crate) fn peer(turn: u32) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from_bits(0x0A00_0000 + turn), 4_711))
}
