//! The server whose books are read: axum and tonic, all layers around both.

use std::{collections::BTreeMap, net::SocketAddr, num::NonZeroU32, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::Path,
    http::{Request, StatusCode},
    routing::{get, post},
};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use plimsoll::{
    log::Writer,
    server::{
        access_log::AccessLogLayer,
        catch_panic::CatchPanicLayer,
        metrics::MetricsLayer,
        rate_limit::{Key, Quota, RateLimitHandle, RateLimitLayer},
        request_id::RequestIdLayer,
        trace_context::TraceContextLayer,
    },
    task::Deaths,
    telemetry::{Setup, Telemetry},
};
use tokio::sync::Semaphore;
use tower::ServiceExt as _;

use crate::{
    Counts,
    common::{
        Script,
        body::Step,
        grpc::{Calls, listen},
        wire::serve,
    },
};

/// How many calls of the limited route pass at once.
const BURST: u32 = 500;

pub(crate) struct Server {
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
    pub(crate) limit: RateLimitHandle,
    /// A permit for each call that has begun to hang, by caller.
    pub(crate) begun: Begun,
    metrics: Router,
    _telemetry: Telemetry,
}

#[derive(Clone)]
pub(crate) struct Begun(Arc<[Semaphore]>);

impl Begun {
    fn new() -> Self {
        Self((0..64).map(|_| Semaphore::new(0)).collect())
    }

    fn tell(&self, caller: usize) {
        self.0[caller].add_permits(1);
    }

    /// Waits until so many calls of this caller have begun.
    pub(crate) async fn wait(&self, caller: usize, calls: u32) {
        let begun = self.0[caller].acquire_many(calls).await;
        begun.expect("never closed").forget();
    }
}

impl Server {
    pub(crate) async fn start(log: &Writer) -> Self {
        let telemetry = Setup::new().service("ledger").init().expect("set up");
        let panics = CatchPanicLayer::new();
        let layers = (
            RequestIdLayer::new(),
            TraceContextLayer::new(telemetry.tracer().clone()),
            AccessLogLayer::new(),
            MetricsLayer::new(telemetry.meter())
                .rpc_methods(["test.Calls/One", "test.Calls/Many"])
                .watch(panics.clone())
                .watch(log.clone())
                .watch(Deaths),
            panics,
        );
        let key = Key::by(|call| call.headers.get("x-tenant").cloned());
        let second = Quota::per_second(NonZeroU32::MIN.get());
        let quota = second.burst(BURST).expect("a quota");
        let limit = RateLimitLayer::new(key, quota);
        let handle = limit.handle();
        let begun = Begun::new();
        let app = routes(begun.clone(), limit).layer(layers.clone());
        let http = serve(app).await;
        let (grpc, incoming) = listen().await;
        let tonic = tonic::transport::Server::builder()
            .layer(layers)
            .add_service(Calls)
            .serve_with_incoming(incoming);
        tokio::spawn(tonic);
        Self {
            http,
            grpc,
            limit: handle,
            begun,
            metrics: telemetry.metrics_route(),
            _telemetry: telemetry,
        }
    }

    pub(crate) async fn scrape(&self) -> Scrape {
        let request = Request::get("/metrics").body(Body::empty());
        let request = request.expect("a request");
        let answer = self.metrics.clone().oneshot(request).await;
        let body = answer.expect("infallible").into_body().collect().await;
        let text = body.expect("a body").to_bytes();
        Scrape::read(std::str::from_utf8(&text).expect("text"))
    }
}

fn routes(begun: Begun, limit: RateLimitLayer) -> Router {
    let hang = async move |Path(caller): Path<usize>| {
        begun.tell(caller);
        std::future::pending::<()>().await;
    };
    Router::new()
        .route("/ok", get(|| async { "ok" }))
        .route("/items/{id}", get(|Path(id): Path<String>| async { id }))
        .route("/echo", post(|body: Bytes| async { body }))
        .route("/broken", get(|| async { StatusCode::BAD_GATEWAY }))
        .route("/panic", get(|| async { panic!("oh") as &'static str }))
        .route("/cut", get(|| body(Step::Fail("cable cut".into()))))
        .route("/body-panic", get(|| body(Step::Panic("oh"))))
        .route("/endless", get(|| body(Step::Hang)))
        .route("/hang/{caller}", get(hang))
        .route("/limited", get(|| async { "ok" }).layer(limit))
}

/// A body that goes wrong after its beginning.
async fn body(last: Step) -> Body {
    Body::new(Script::of([Step::Data(b"half"), Step::Wait, last]))
}

/// What `/metrics` told: by name, the labels as text and the value.
pub(crate) struct Scrape(BTreeMap<String, Vec<(String, i64)>>);

impl Scrape {
    fn read(text: &str) -> Self {
        let mut values = BTreeMap::<String, Vec<(String, i64)>>::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            // Sums of seconds are no whole numbers, and nobody asks for them.
            if let Ok(value) = value.parse() {
                let series = (labels.to_owned(), value);
                values.entry(name.to_owned()).or_default().push(series);
            }
        }
        Self(values)
    }

    /// The sum of all series of this name whose labels hold this text.
    pub(crate) fn sum(&self, name: &str, labels: &str) -> i64 {
        let series = self.0.get(name).map_or(&[][..], Vec::as_slice);
        let wanted = series.iter().filter(|(told, _)| told.contains(labels));
        wanted.map(|(_, value)| value).sum()
    }

    /// Calls that ended.
    pub(crate) fn requests(&self) -> Counts {
        let mut counts = Counts::new();
        for (labels, value) in &self.0["plimsoll_requests_total"] {
            let told = |name: &str| {
                let (_, rest) = labels.split_once(&format!("{name}=\"")).expect(name);
                rest.split('"').next().expect(name).to_owned()
            };
            let calls = u64::try_from(*value).expect("it counts");
            *counts
                .entry((told("protocol"), told("outcome")))
                .or_default() += calls;
        }
        counts.retain(|_, calls| *calls > 0);
        counts
    }
}
