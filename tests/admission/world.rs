//! Real servers, and whoever calls them: plain axum, tonic's own and our loop, over HTTP/1.1, h2c and gRPC.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    routing::{any, get},
};
use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode};
use hyper::body::Incoming;
use plimsoll::{
    limit::{Limit, LimitHandle},
    rejection::Reason,
    serve,
    server::{
        access_log::AccessLogLayer, back_pressure::BackPressureLayer, load_shed::LoadShedLayer,
        request_id::RequestIdLayer, timeout::TimeoutLayer,
    },
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_stream::StreamExt as _;
use tonic::{
    Status,
    server::{NamedService, ServerStreamingService, UnaryService},
    service::Routes,
    transport,
};
use tower::{Service, util::Either};

use crate::{
    common::{
        grpc::{Messages, Raw, framed},
        header,
        wire::{self, HyperClient, http1, http2},
    },
    support::reason,
};

/// How long something may take that is not a matter of time.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    Axum,
    Tonic,
    Plimsoll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
    Grpc,
}

pub(crate) const SERVERS: [Server; 3] = [Server::Axum, Server::Tonic, Server::Plimsoll];
const LANGUAGES: [Speaks; 3] = [Speaks::Http1, Speaks::Http2, Speaks::Grpc];

/// Every server, whatever is spoken.
pub(crate) fn everywhere() -> impl Iterator<Item = (Server, Speaks)> {
    let pairs = |server| LANGUAGES.into_iter().map(move |speaks| (server, speaks));
    SERVERS.into_iter().flat_map(pairs)
}

type Stack = (
    RequestIdLayer,
    AccessLogLayer,
    TimeoutLayer,
    Either<LoadShedLayer, BackPressureLayer>,
);

/// Around all routes: calls are shed, or wait.
pub(crate) fn sheds(layer: LoadShedLayer) -> Stack {
    stack(TimeoutLayer::new(), Either::Left(layer))
}

pub(crate) fn waits(layer: BackPressureLayer) -> Stack {
    stack(TimeoutLayer::new(), Either::Right(layer))
}

pub(crate) fn stack(
    timeout: TimeoutLayer,
    admission: Either<LoadShedLayer, BackPressureLayer>,
) -> Stack {
    (
        RequestIdLayer::new(),
        AccessLogLayer::new(),
        timeout,
        admission,
    )
}

/// Where calls stand until they are let through, in the order of their coming.
pub(crate) struct Gate {
    permits: Semaphore,
    come: AtomicUsize,
}

impl Gate {
    fn new() -> Self {
        Self {
            permits: Semaphore::new(0),
            come: AtomicUsize::new(0),
        }
    }

    async fn pass(&self) {
        self.come.fetch_add(1, Ordering::SeqCst);
        let permit = self.permits.acquire().await;
        permit.expect("never closed").forget();
    }

    /// How many have come so far.
    pub(crate) fn come(&self) -> usize {
        self.come.load(Ordering::SeqCst)
    }

    pub(crate) fn lets(&self, calls: usize) {
        self.permits.add_permits(calls);
    }
}

/// A server and one who calls it.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) address: SocketAddr,
    pub(crate) gate: Arc<Gate>,
    pub(crate) speaks: Speaks,
    client: HyperClient,
}

impl World {
    /// `One` answers when the gate lets it, `Stream` with a body that ends when it is dropped, `Never` not at all.
    pub(crate) async fn new(server: Server, speaks: Speaks, stack: Stack) -> Self {
        let gate = Arc::new(Gate::new());
        let calls = Routes::new(Counter(Arc::clone(&gate)));
        let routes = calls.into_axum_router().merge(app(&gate));
        let address = match server {
            Server::Axum => axum_server(routes.layer(stack).merge(health())).await,
            Server::Tonic => tonic_server(routes, stack).await,
            Server::Plimsoll => plimsoll_server(routes.layer(stack).merge(health())).await,
        };
        let client = client(speaks);
        Self {
            address,
            gate,
            speaks,
            client,
        }
    }

    /// The same, of another caller with a connection of its own.
    pub(crate) fn another(&self) -> Self {
        self.speaking(self.speaks)
    }

    /// The same, of one who speaks otherwise.
    pub(crate) fn speaking(&self, speaks: Speaks) -> Self {
        Self {
            speaks,
            client: client(speaks),
            ..self.clone()
        }
    }

    pub(crate) fn request(&self, name: &str) -> Request<Body> {
        match self.speaks {
            Speaks::Http1 | Speaks::Http2 => crate::common::get(&format!("/{name}")),
            Speaks::Grpc => Request::post(format!("/test.Counter/{name}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Body::from(framed(b"espresso")))
                .expect("a request"),
        }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Response<Incoming> {
        let answer = wire::ask(&self.client, self.address, request);
        let answer = tokio::time::timeout(BOUND, answer).await;
        answer.expect("an answer")
    }

    /// Asks, and waits for the head.
    pub(crate) async fn ask(&self, name: &str) -> Response<Incoming> {
        self.send(self.request(name)).await
    }

    /// Lets a call be served, to its last byte.
    pub(crate) async fn is_served(&self) {
        self.gate.lets(1);
        let answer = self.ask("One").await;
        assert_eq!((answer.status(), reason(&answer)), (StatusCode::OK, None));
        let got = crate::common::body::read(answer.into_body()).await;
        let of_grpc = got.trailer("grpc-status");
        assert_eq!(of_grpc, (self.speaks == Speaks::Grpc).then_some("0"));
    }

    /// Calls in the background, to the end of the body, with what the head was.
    pub(crate) fn spawn(&self, name: &str) -> tokio::task::JoinHandle<Response<()>> {
        let (world, request) = (self.clone(), self.request(name));
        tokio::spawn(async move {
            let (head, body) = world.send(request).await.into_parts();
            crate::common::body::read(body).await;
            Response::from_parts(head, ())
        })
    }

    /// Rejected for this, as the protocol has it.
    #[track_caller]
    pub(crate) fn assert_rejected<B>(&self, answer: &Response<B>, expected: Reason) {
        assert_eq!(reason(answer), Some(expected.label()));
        let (status, code) = match self.speaks {
            Speaks::Grpc => (StatusCode::OK, Some(expected.grpc_code().digits())),
            Speaks::Http1 | Speaks::Http2 => (expected.status(), None),
        };
        assert_eq!(answer.status(), status);
        assert_eq!(header(answer, "grpc-status"), code);
    }

    /// When to come back, in the words of the protocol.
    pub(crate) fn hint<'a, B>(&self, answer: &'a Response<B>) -> Option<&'a str> {
        header(
            answer,
            match self.speaks {
                Speaks::Grpc => "grpc-retry-pushback-ms",
                Speaks::Http1 | Speaks::Http2 => "retry-after",
            },
        )
    }
}

fn client(speaks: Speaks) -> HyperClient {
    match speaks {
        Speaks::Http1 => http1(),
        Speaks::Http2 | Speaks::Grpc => http2(),
    }
}

pub(crate) fn with(mut request: Request<Body>, name: &'static str, value: &str) -> Request<Body> {
    let value = value.parse().expect("a value");
    let headers = request.headers_mut();
    headers.append(HeaderName::from_static(name), value);
    request
}

/// Waits until the handle says so.
pub(crate) async fn until(handle: &LimitHandle, is: impl Fn(&LimitHandle) -> bool) {
    let waited = tokio::time::timeout(BOUND, async {
        while !is(handle) {
            tokio::task::yield_now().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{handle:?}"));
}

pub(crate) async fn until_idle(limit: &Limit) {
    until(&limit.handle(), |handle| {
        (handle.in_flight(), handle.waiting(), handle.streams()) == (0, 0, 0)
    })
    .await;
}

fn app(gate: &Arc<Gate>) -> Router {
    let one = async |State(gate): State<Arc<Gate>>| {
        gate.pass().await;
        "espresso"
    };
    let stream = async || {
        let first = tokio_stream::once(Ok::<_, std::io::Error>("espresso"));
        Body::from_stream(first.chain(tokio_stream::pending()))
    };
    Router::new()
        .route("/One", any(one))
        .route("/Stream", get(stream))
        .route("/Never", any(std::future::pending::<()>))
        .with_state(Arc::clone(gate))
}

/// What no limit stands before.
pub(crate) fn health() -> Router {
    Router::new().route("/health", get(async || "fine"))
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

pub(crate) async fn axum_server(app: Router) -> SocketAddr {
    let (listener, address) = listener().await;
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(axum::serve(listener, app).into_future());
    address
}

async fn tonic_server(routes: Router, stack: Stack) -> SocketAddr {
    let (listener, address) = listener().await;
    let incoming = transport::server::TcpIncoming::from(listener);
    let server = transport::Server::builder()
        .accept_http1(true)
        .layer(stack)
        .add_routes(Routes::from(routes));
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

pub(crate) async fn plimsoll_server(app: Router) -> SocketAddr {
    let (listener, address) = listener().await;
    tokio::spawn(serve::Server::new(app).listen(listener).run());
    address
}

/// The routes of [`app`] as a service of gRPC.
#[derive(Clone)]
struct Counter(Arc<Gate>);

impl NamedService for Counter {
    const NAME: &'static str = "test.Counter";
}

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Service<Request<tonic::body::Body>> for Counter {
    type Response = Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = Answer<Result<Self::Response, Self::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let own = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Raw);
            Ok(match request.uri().path() {
                "/test.Counter/One" => grpc.unary(own, request).await,
                "/test.Counter/Stream" => grpc.server_streaming(own, request).await,
                _ => std::future::pending().await,
            })
        })
    }
}

impl UnaryService<Bytes> for Counter {
    type Response = Bytes;
    type Future = Answer<Result<tonic::Response<Bytes>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let gate = Arc::clone(&self.0);
        Box::pin(async move {
            gate.pass().await;
            Ok(tonic::Response::new(request.into_inner()))
        })
    }
}

impl ServerStreamingService<Bytes> for Counter {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Answer<Result<tonic::Response<Messages>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let first = tokio_stream::once(Ok(request.into_inner()));
        let stream: Messages = Box::pin(first.chain(tokio_stream::pending()));
        Box::pin(std::future::ready(Ok(tonic::Response::new(stream))))
    }
}
