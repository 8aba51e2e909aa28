//! Export to a collector and to a scraper, and what is said when it fails.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
    routing::{get, post},
};
use http_body_util::BodyExt;
use opentelemetry::trace::{Span, Tracer};
use opentelemetry_proto::tonic::collector::{
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use plimsoll::{
    server::{metrics::MetricsLayer, trace_context::TraceContextLayer},
    telemetry::{Otlp, Setup, SetupError, Telemetry},
};
use prost::Message;
use tokio::net::{TcpListener, TcpSocket};
use tokio_stream::wrappers::TcpListenerStream;
use tower::ServiceExt;

/// Longer than any export takes that ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a collector was sent.
#[derive(Clone, Default)]
struct Received {
    traces: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    metrics: Arc<Mutex<Vec<ExportMetricsServiceRequest>>>,
}

impl Received {
    fn span_names(&self) -> Vec<String> {
        let traces = self.traces.lock().expect("no panic");
        let scopes = traces
            .iter()
            .flat_map(|request| &request.resource_spans)
            .flat_map(|resource| &resource.scope_spans);
        scopes
            .flat_map(|scope| &scope.spans)
            .map(|span| span.name.clone())
            .collect()
    }

    fn metric_names(&self) -> Vec<String> {
        let metrics = self.metrics.lock().expect("no panic");
        let scopes = metrics
            .iter()
            .flat_map(|request| &request.resource_metrics)
            .flat_map(|resource| &resource.scope_metrics);
        scopes
            .flat_map(|scope| &scope.metrics)
            .map(|metric| metric.name.clone())
            .collect()
    }

    fn services(&self) -> Vec<String> {
        let traces = self.traces.lock().expect("no panic");
        let resources = traces
            .iter()
            .flat_map(|request| &request.resource_spans)
            .filter_map(|spans| spans.resource.as_ref());
        resources
            .flat_map(|resource| &resource.attributes)
            .filter(|pair| pair.key == "service.name")
            .map(|pair| format!("{:?}", pair.value))
            .collect()
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        self.traces
            .lock()
            .expect("no panic")
            .push(request.into_inner());
        Ok(tonic::Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Received {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, tonic::Status> {
        self.metrics
            .lock()
            .expect("no panic")
            .push(request.into_inner());
        Ok(tonic::Response::new(Default::default()))
    }
}

async fn bind() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, format!("http://{address}"))
}

async fn grpc_collector() -> (Received, String) {
    let (listener, url) = bind().await;
    let received = Received::default();
    let server = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(received.clone()))
        .add_service(MetricsServiceServer::new(received.clone()))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    (received, url)
}

async fn http_collector() -> (Received, String) {
    let (listener, url) = bind().await;
    let received = Received::default();
    let (traces, metrics) = (received.clone(), received.clone());
    let app = Router::new()
        .route(
            "/v1/traces",
            post(async move |body: bytes::Bytes| {
                let request = ExportTraceServiceRequest::decode(body).expect("protobuf");
                traces.traces.lock().expect("no panic").push(request);
            }),
        )
        .route(
            "/v1/metrics",
            post(async move |body: bytes::Bytes| {
                let request = ExportMetricsServiceRequest::decode(body).expect("protobuf");
                metrics.metrics.lock().expect("no panic").push(request);
            }),
        );
    tokio::spawn(axum::serve(listener, app).into_future());
    (received, url)
}

fn app(telemetry: &Telemetry) -> Router {
    Router::new()
        .route("/orders/{id}", get(|| async { "on its way" }))
        .layer(MetricsLayer::new(telemetry.meter()))
        .layer(TraceContextLayer::new(telemetry.tracer().clone()))
        .merge(telemetry.metrics_route())
}

async fn get_text(app: &Router, path: &str) -> (StatusCode, String) {
    let request = Request::get(path).body(Body::empty()).expect("a request");
    let response = app.clone().oneshot(request).await.expect("infallible");
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    (status, String::from_utf8(body.to_vec()).expect("text"))
}

async fn exports_all_at_the_shutdown(protocol: Otlp, received: Received, url: String) {
    let telemetry = Setup::new()
        .service("reception")
        .otlp_endpoint(url)
        .otlp_protocol(protocol)
        .init()
        .expect("set up");
    let app = app(&telemetry);
    for number in 0..3 {
        get_text(&app, &format!("/orders/{number}")).await;
    }
    telemetry.shutdown(PATIENCE).await.expect("all is exported");
    assert_eq!(received.span_names(), ["GET /orders/{id}"; 3]);
    let metrics = received.metric_names();
    for name in [
        "http.server.request.duration",
        "plimsoll.requests",
        "plimsoll.export.errors",
    ] {
        assert!(
            metrics.iter().any(|known| known == name),
            "{name}: {metrics:?}"
        );
    }
    assert!(received.services()[0].contains("reception"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exports_over_grpc() {
    let (received, url) = grpc_collector().await;
    exports_all_at_the_shutdown(Otlp::Grpc, received, url).await;
}

#[tokio::test]
async fn exports_over_grpc_on_a_runtime_of_one_thread() {
    let (received, url) = grpc_collector().await;
    exports_all_at_the_shutdown(Otlp::Grpc, received, url).await;
}

#[tokio::test]
async fn exports_over_http() {
    let (received, url) = http_collector().await;
    exports_all_at_the_shutdown(Otlp::Http, received, url).await;
}

/// On a paused clock, on which a call takes no time.
#[tokio::test(start_paused = true)]
async fn a_scraper_gets_prometheus_text() {
    let telemetry = Setup::new().service("reception").init().expect("set up");
    let app = app(&telemetry);
    get_text(&app, "/orders/5").await;
    let (status, text) = get_text(&app, "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    for line in [
        "http_server_request_duration_seconds_bucket{http_request_method=\"GET\",http_response_status_code=\"200\",http_route=\"/orders/{id}\",network_protocol_version=\"1.1\",url_scheme=\"http\",le=\"0.005\"} 1",
        "plimsoll_requests_total{http_request_method=\"GET\",http_route=\"/orders/{id}\",outcome=\"ok\",protocol=\"http/1.1\"} 1",
        "plimsoll_requests_in_flight{protocol=\"http/1.1\"} 0",
        "plimsoll_spans_dropped_total{exporter=\"otlp_traces\"} 0",
    ] {
        assert!(text.lines().any(|known| known == line), "{line}\n{text}");
    }
    assert!(text.contains("service_name=\"reception\""));
    // The exporters have a thread of their own, for which no clock stands still.
    tokio::time::resume();
    telemetry.shutdown(PATIENCE).await.expect("nothing is lost");
}

#[tokio::test]
async fn scrapers_that_do_not_read_are_limited() {
    let telemetry = Setup::new().init().expect("set up");
    let app = app(&telemetry);
    let scrape = || {
        let request = Request::get("/metrics")
            .body(Body::empty())
            .expect("a request");
        app.clone().oneshot(request)
    };
    let mut unread = Vec::new();
    for _ in 0..4 {
        unread.push(scrape().await.expect("infallible"));
    }
    assert!(
        unread
            .iter()
            .all(|response| response.status() == StatusCode::OK)
    );
    let refused = scrape().await.expect("infallible");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(unread);
    assert_eq!(get_text(&app, "/metrics").await.0, StatusCode::OK);
    telemetry.shutdown(PATIENCE).await.expect("nothing is lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_hangs_loses_no_more_than_is_said() {
    const SPANS: u64 = 10_000;
    // It accepts connections and never answers.
    let (_listener, url) = bind().await;
    let telemetry = Setup::new()
        .otlp_endpoint(url)
        .otlp_protocol(Otlp::Grpc)
        .init()
        .expect("set up");
    for _ in 0..SPANS {
        telemetry.tracer().start("work").end();
    }
    let dropped = telemetry.counts().spans_dropped;
    assert!(
        (SPANS - 2_048 - 512..=SPANS - 2_048).contains(&dropped),
        "{dropped}"
    );
    let (_, text) = get_text(&telemetry.metrics_route(), "/metrics").await;
    assert!(text.contains("plimsoll_spans_dropped_total"), "{text}");
    let error = telemetry.shutdown(Duration::from_millis(300)).await;
    let error = error.expect_err("it hangs").to_string();
    assert!(
        error.contains(&format!("{} spans lost", SPANS - dropped)),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_is_counted() {
    // The port is taken, so that nobody else gets it, and nobody listens.
    let taken = TcpSocket::new_v4().expect("a socket");
    let free = "127.0.0.1:0".parse().expect("an address");
    taken.bind(free).expect("a port");
    let url = format!("http://{}", taken.local_addr().expect("an address"));
    let telemetry = Setup::new()
        .otlp_endpoint(url)
        .otlp_protocol(Otlp::Http)
        .init()
        .expect("set up");
    telemetry.tracer().start("work").end();
    let error = telemetry.shutdown(PATIENCE).await;
    let error = error.expect_err("nobody is there").to_string();
    assert!(error.contains("1 spans lost"), "{error}");
}

#[test]
fn grpc_without_a_runtime_is_an_error() {
    let setup = Setup::new()
        .otlp_endpoint("http://127.0.0.1:1")
        .otlp_protocol(Otlp::Grpc);
    assert!(matches!(setup.init(), Err(SetupError::NoRuntime { .. })));
}
