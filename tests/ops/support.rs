//! A service with a router for operators, without a network in between.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, routing::get};
use http::{HeaderName, Request, Response, StatusCode, header::HOST};
use http_body_util::BodyExt as _;
use plimsoll::{
    caller::Key,
    context::PeerAddr,
    limit::{Limit, LimitHandle},
    log::{JsonLayer, Writer},
    ops::{
        Controls, Ops,
        health::{Check, Health},
    },
    serve::Connections,
    server::{
        access_log::{AccessLogLayer, Failures},
        load_shed::LoadShedLayer,
        metrics::MetricsLayer,
        rate_limit::{Quotas, RateLimitHandle, RateLimitLayer},
        request_id::RequestIdLayer,
    },
    telemetry::{Setup, Telemetry},
};
use serde_json::Value;
use tower::ServiceExt as _;
use tracing::{Dispatch, subscriber::DefaultGuard};
use tracing_subscriber::{layer::SubscriberExt as _, registry};

pub(crate) const TOKEN: &str = "an-operators-token-0123456789";
pub(crate) const CANARY: &str = "<script>window.canary=1</script>";
/// Longer than anything here takes.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// A service, and what its operators have.
pub(crate) struct Shop {
    pub(crate) app: Router,
    pub(crate) operators: Router,
    pub(crate) limit: LimitHandle,
    pub(crate) rate_limit: RateLimitHandle,
    pub(crate) drained: Arc<AtomicUsize>,
    pub(crate) telemetry: Telemetry,
}

pub(crate) fn telemetry() -> Telemetry {
    let setup = Setup::new()
        .service("shop")
        .attribute("service.version", "a1b2c3");
    setup.init().expect("nothing of it is wrong")
}

/// With everything on it.
pub(crate) fn open() -> Shop {
    open_with(Controls::with_token(TOKEN).ok())
}

pub(crate) fn open_with(controls: Option<Controls>) -> Shop {
    let telemetry = telemetry();
    let limit = Limit::adaptive().named("orders");
    let quotas: Quotas = "10/s burst 20".parse().expect("quotas");
    let rate_limit = RateLimitLayer::new(
        Key::header(HeaderName::from_static("x-tenant")).or(Key::peer()),
        quotas,
    );
    let failures = Failures::new();
    let health = Health::new().check(
        Check::new("database", || async { Err(io::Error::other(CANARY)) })
            .not_critical()
            .keep(Duration::ZERO),
    );
    let app = Router::new()
        .route("/menu", get(|| async { "espresso" }))
        .route(
            "/broken",
            get(|| async { (StatusCode::INTERNAL_SERVER_ERROR, CANARY) }),
        )
        .route("/<img src=x onerror=alert(1)>/{x}", get(|| async { "odd" }))
        .layer((
            RequestIdLayer::new(),
            AccessLogLayer::new().recent(&failures),
            MetricsLayer::new(telemetry.meter()),
            rate_limit.clone(),
            LoadShedLayer::new(limit.clone()),
        ));
    let drained = Arc::new(AtomicUsize::new(0));
    let drains = Arc::clone(&drained);
    let operators = Ops::new()
        .telemetry(&telemetry)
        .health(&health)
        .limit(&limit.handle())
        .rate_limit(&rate_limit.handle())
        .connections(&Connections::new())
        .failures(&failures)
        .layer("timeout", || format!("on: 30 s {CANARY}"))
        .on_drain(move || {
            drains.fetch_add(1, Ordering::Relaxed);
        })
        .controls(controls)
        .routes();
    Shop {
        app,
        operators,
        limit: limit.handle(),
        rate_limit: rate_limit.handle(),
        drained,
        telemetry,
    }
}

impl Shop {
    /// Calls the service as a caller of this tenant.
    pub(crate) async fn call(&self, path: &str, tenant: &str) -> StatusCode {
        let request = Request::get(path).header("x-tenant", tenant);
        let request = request.body(Body::empty()).expect("a request");
        let response = self.app.clone().oneshot(request).await.expect("infallible");
        let status = response.status();
        response.into_body().collect().await.expect("a body");
        status
    }

    pub(crate) async fn get(&self, path: &str) -> Response<Body> {
        let request = Request::get(path).header(HOST, "127.0.0.1:9090");
        let request = request.body(Body::empty()).expect("a request");
        ask(&self.operators, request).await
    }

    /// As who does not say whom it calls.
    pub(crate) async fn get_of_nobody(&self, path: &str) -> StatusCode {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        ask(&self.operators, request).await.status()
    }

    pub(crate) async fn status(&self) -> Value {
        status_of(&self.operators).await
    }

    /// Asks for a change as the page does.
    pub(crate) async fn change(&self, path: &str, json: &str) -> (StatusCode, Value) {
        self.send(posted(path, json)).await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> (StatusCode, Value) {
        let response = ask(&self.operators, request).await;
        let status = response.status();
        let body = body(response).await;
        (status, serde_json::from_slice(&body).expect("JSON"))
    }

    /// What a scrape tells of this series.
    pub(crate) async fn scraped(&self, series: &str) -> Option<u64> {
        let text = body(self.get("/metrics").await).await;
        let text = String::from_utf8(text).expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.map(|value| value.trim().parse().expect("a number"))
    }
}

pub(crate) fn posted(path: &str, json: &str) -> Request<Body> {
    let peer: SocketAddr = "192.0.2.7:4711".parse().expect("an address");
    Request::post(path)
        .header(HOST, "localhost:9090")
        .header("origin", "http://localhost:9090")
        .header("sec-fetch-site", "same-origin")
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("x-forwarded-for", "203.0.113.99")
        .header("content-type", "application/json")
        .extension(PeerAddr(peer))
        .body(Body::from(json.to_owned()))
        .expect("a request")
}

pub(crate) async fn ask(operators: &Router, request: Request<Body>) -> Response<Body> {
    operators
        .clone()
        .oneshot(request)
        .await
        .expect("infallible")
}

/// What the page is told.
pub(crate) async fn status_of(operators: &Router) -> Value {
    let request = Request::get("/status.json").header(HOST, "localhost");
    let request = request.body(Body::empty()).expect("a request");
    let response = ask(operators, request).await;
    assert_eq!(response.status(), StatusCode::OK);
    serde_json::from_slice(&body(response).await).expect("JSON")
}

pub(crate) async fn body(response: Response<Body>) -> Vec<u8> {
    let body = response.into_body().collect().await.expect("a body");
    body.to_bytes().to_vec()
}

/// The lines of the log.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl io::Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log of this thread, as long as this lives.
pub(crate) struct Log {
    memory: Memory,
    writer: Writer,
    _guard: DefaultGuard,
}

impl Log {
    pub(crate) fn listen() -> Self {
        // The only subscriber of a process is asked but once for a place in the code, on whichever thread is there first:
        // it may be that of a test without a log.
        static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(registry()));
        LazyLock::force(&ANOTHER);
        let memory = Memory::default();
        let writer = Writer::new(memory.clone()).expect("a thread");
        let layer = JsonLayer::new(writer.clone());
        Self {
            memory,
            writer,
            _guard: tracing::subscriber::set_default(registry().with(layer)),
        }
    }

    /// The lines of this event so far.
    pub(crate) fn lines(&self, event: &str) -> Vec<Value> {
        self.writer.flush(BOUND).expect("written");
        let all = self.memory.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = all
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        let lines = lines.map(|line| serde_json::from_slice(line).expect("JSON"));
        lines
            .filter(|line: &Value| line["event"] == event)
            .collect()
    }
}
