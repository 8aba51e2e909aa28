//! Spans of calls that come in and go out, read from the exporter.

mod hostile;
mod interleaved;

use std::{collections::BTreeMap, convert::Infallible, num::NonZeroU32};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderName, Request, Response, StatusCode},
    routing::get,
};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use opentelemetry::trace::{SpanKind, Status, TracerProvider};
use opentelemetry_sdk::trace::{
    InMemorySpanExporter, Sampler, SdkTracer, SdkTracerProvider, SpanData,
};
use plimsoll::{
    client::{self, propagate::PropagateLayer},
    context::TraceContext,
    server::{
        catch_panic::CatchPanicLayer,
        trace_context::{TraceContextLayer, Trust},
    },
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

struct Spans {
    provider: SdkTracerProvider,
    exporter: InMemorySpanExporter,
}

impl Spans {
    fn new() -> Self {
        Self::sampled(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
    }

    fn sampled(sampler: Sampler) -> Self {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .with_sampler(sampler)
            .build();
        Self { provider, exporter }
    }

    fn tracer(&self) -> SdkTracer {
        self.provider.tracer("test")
    }

    fn layer(&self) -> TraceContextLayer {
        TraceContextLayer::new(self.tracer())
    }

    fn read(&self) -> Vec<SpanData> {
        self.exporter.get_finished_spans().expect("spans")
    }

    fn only(&self) -> SpanData {
        let mut spans = self.read();
        assert_eq!(spans.len(), 1, "{spans:?}");
        spans.remove(0)
    }
}

fn attributes(span: &SpanData) -> BTreeMap<String, String> {
    let pairs = span.attributes.iter();
    pairs
        .map(|pair| (pair.key.to_string(), pair.value.to_string()))
        .collect()
}

fn request(path: &str, headers: &[(&'static str, &str)]) -> Request<Body> {
    let mut request = Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).expect("a request")
}

fn traced(path: &str, flags: &str) -> Request<Body> {
    let parent = format!("00-{TRACE}-{SPAN}-{flags}");
    request(
        path,
        &[
            ("traceparent", &parent),
            ("tracestate", "a=1"),
            ("tracestate", "b=2"),
        ],
    )
}

async fn call<S, B>(service: S, request: Request<Body>)
where
    S: Service<Request<Body>, Response = Response<B>>,
    B: http_body::Body,
{
    if let Ok(response) = service.oneshot(request).await {
        drop(response.into_body().collect().await);
    }
}

fn frames(frames: Vec<Result<Frame<Bytes>, Failure>>) -> Body {
    Body::new(StreamBody::new(tokio_stream::iter(frames)))
}

fn data() -> Result<Frame<Bytes>, Failure> {
    Ok(Frame::data(Bytes::from_static(b"x")))
}

fn status(code: &'static str) -> Result<Frame<Bytes>, Failure> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.parse().expect("a value"));
    Ok(Frame::trailers(trailers))
}

#[tokio::test]
async fn a_call_is_a_span_of_the_callers_trace() {
    let spans = Spans::new();
    let app: Router = Router::new()
        .route(
            "/orders/{id}",
            get(|| async {
                let trace = TraceContext::current().expect("in a trace");
                format!(
                    "{} {}",
                    trace.parent().to_str().expect("text"),
                    trace.state().expect("a state").to_str().expect("text")
                )
            }),
        )
        .layer(spans.layer());
    let mut request = traced("/orders/5?secret=1", "01");
    let agent = "curl".parse().expect("a value");
    request.headers_mut().insert("user-agent", agent);
    let response = app.oneshot(request).await.expect("infallible");
    let told = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    let span = spans.only();
    assert_eq!(span.name, "GET /orders/{id}");
    assert_eq!(span.span_kind, SpanKind::Server);
    assert_eq!(span.status, Status::Unset);
    assert_eq!(span.span_context.trace_id().to_string(), TRACE);
    assert_eq!(span.parent_span_id.to_string(), SPAN);
    let own = format!("00-{TRACE}-{}-01 a=1,b=2", span.span_context.span_id());
    assert_eq!(told, own, "what handlers and log lines see is this span");
    let expected = [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("http.route", "/orders/{id}"),
        ("network.protocol.version", "1.1"),
        ("url.path", "/orders/5"),
        ("url.scheme", "http"),
    ];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(
        attributes(&span),
        BTreeMap::from(expected),
        "no header and no query"
    );
}

#[tokio::test]
async fn the_status_comes_from_the_true_end() {
    let spans = Spans::new();
    let app: Router = Router::new()
        .route("/missing", get(|| async { StatusCode::NOT_FOUND }))
        .route("/broken", get(|| async { StatusCode::BAD_GATEWAY }))
        .route(
            "/cut",
            get(|| async { frames(vec![data(), Err("cable cut".into())]) }),
        )
        .route("/panic", get(|| async { panic!("oh") as &'static str }))
        .route("/wait", get(std::future::pending::<()>))
        .layer((spans.layer(), CatchPanicLayer::new()));
    for (path, status, error) in [
        ("/missing", Status::Unset, None),
        ("/broken", Status::error(""), Some("502")),
        ("/cut", Status::error("body_error"), Some("body_error")),
        ("/panic", Status::error("panic"), Some("panic")),
        ("/wait", Status::error("client_gone"), Some("client_gone")),
    ] {
        spans.exporter.reset();
        call(app.clone(), request(path, &[])).now_or_never();
        let span = spans.only();
        assert_eq!(span.status, status, "{path}");
        let told = attributes(&span).get("error.type").cloned();
        assert_eq!(told.as_deref(), error, "{path}");
    }
}

#[tokio::test]
async fn the_status_of_grpc_comes_from_where_it_is() {
    let spans = Spans::new();
    let service = service_fn(|request: Request<Body>| async move {
        Ok::<_, Infallible>(Response::new(match request.uri().path() {
            "/shop.Barista/Brew" => frames(vec![data(), status("0")]),
            "/shop.Barista/Wash" => frames(vec![data(), status("14")]),
            "/shop.Barista/Sell" => frames(vec![data(), status("8")]),
            _ => frames(vec![data()]),
        }))
    });
    let layer = spans.layer().rpc_methods([
        "shop.Barista/Brew",
        "shop.Barista/Wash",
        "shop.Barista/Sell",
    ]);
    let service = layer.layer(service);
    for (path, name, code, expected) in [
        (
            "/shop.Barista/Brew",
            "shop.Barista/Brew",
            Some("OK"),
            Status::Unset,
        ),
        (
            "/shop.Barista/Wash",
            "shop.Barista/Wash",
            Some("UNAVAILABLE"),
            Status::error(""),
        ),
        (
            "/shop.Barista/Sell",
            "shop.Barista/Sell",
            Some("RESOURCE_EXHAUSTED"),
            Status::Unset,
        ),
        // It had none, so its caller was told one.
        (
            "/x.Y/Z",
            "grpc",
            Some("INTERNAL"),
            Status::error("body_error"),
        ),
    ] {
        spans.exporter.reset();
        let media_type = [("content-type", "application/grpc")];
        call(service.clone(), request(path, &media_type)).await;
        let span = spans.only();
        assert_eq!(span.name, name);
        assert_eq!(span.status, expected, "{path}");
        let told = attributes(&span).get("rpc.response.status_code").cloned();
        assert_eq!(told.as_deref(), code, "{path}");
    }
}

#[tokio::test]
async fn at_the_edge_a_trace_begins_anew_with_a_link() {
    let spans = Spans::new();
    let app: Router = Router::new()
        .route("/", get(|| async {}))
        .layer(spans.layer().trust(Trust::Restart));
    call(app, traced("/", "01")).await;
    let span = spans.only();
    assert_ne!(span.span_context.trace_id().to_string(), TRACE);
    assert_eq!(span.parent_span_id.to_string(), "0".repeat(16));
    let link = span.links.iter().next().expect("a link");
    assert_eq!(link.span_context.trace_id().to_string(), TRACE);
}

#[tokio::test(start_paused = true)]
async fn callers_have_no_more_sampled_than_they_may() {
    let spans = Spans::sampled(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)));
    let layer = spans
        .layer()
        .sampled_by_callers(NonZeroU32::new(3).expect("not zero"));
    let app: Router = Router::new().route("/", get(|| async {})).layer(layer);
    for _ in 0..10 {
        call(app.clone(), traced("/", "01")).await;
    }
    call(app.clone(), traced("/", "00")).await;
    call(app.clone(), request("/", &[])).await;
    assert_eq!(spans.read().len(), 3);
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    call(app, traced("/", "01")).await;
    assert_eq!(spans.read().len(), 4);
}

#[tokio::test]
async fn without_a_provider_the_trace_passes_through() {
    let app: Router = Router::new()
        .route(
            "/",
            get(|| async {
                let trace = TraceContext::current().expect("in a trace");
                trace.parent().to_str().expect("text").to_owned()
            }),
        )
        .layer(TraceContextLayer::global());
    let response = app.oneshot(traced("/", "01")).await.expect("infallible");
    let told = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    assert_eq!(told, format!("00-{TRACE}-{SPAN}-01"));
}

#[tokio::test]
async fn only_headers_that_are_listed_are_recorded() {
    let spans = Spans::new();
    let layer = spans
        .layer()
        .record_headers([HeaderName::from_static("x-tenant")]);
    let app: Router = Router::new().route("/", get(|| async {})).layer(layer);
    call(
        app,
        request(
            "/",
            &[("x-tenant", "acme"), ("authorization", "Bearer secret")],
        ),
    )
    .await;
    let attributes = attributes(&spans.only());
    assert_eq!(
        attributes
            .get("http.request.header.x-tenant")
            .map(String::as_str),
        Some("[\"acme\"]")
    );
    assert!(!format!("{attributes:?}").contains("secret"));
}

#[tokio::test]
async fn calls_that_go_out_are_spans_of_the_calls_trace() {
    let spans = Spans::new();
    let outbound = ServiceBuilder::new()
        .layer(client::trace_context::TraceContextLayer::new(
            spans.tracer(),
        ))
        .layer(PropagateLayer::new())
        .service(service_fn(|request: Request<Body>| async move {
            let parents = request.headers().get_all("traceparent").iter();
            let parents: Vec<_> = parents.map(|value| value.to_str().expect("text")).collect();
            Ok::<_, Infallible>(Response::new(Body::from(parents.join(","))))
        }));
    let app: Router = Router::new()
        .route(
            "/",
            get(move || async move {
                let request = request("http://barista:50051/brew?secret=1", &[]);
                let response = outbound.oneshot(request).await.expect("infallible");
                Body::new(response.into_body())
            }),
        )
        .layer(spans.layer());
    let response = app.oneshot(traced("/", "01")).await.expect("infallible");
    let sent = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    let all = spans.read();
    let of = |kind: &SpanKind| {
        all.iter()
            .find(|span| span.span_kind == *kind)
            .expect("a span")
    };
    let (client, server) = (of(&SpanKind::Client), of(&SpanKind::Server));
    assert_eq!(client.parent_span_id, server.span_context.span_id());
    assert_eq!(client.span_context.trace_id().to_string(), TRACE);
    assert_eq!(
        sent,
        format!("00-{TRACE}-{}-01", client.span_context.span_id())
    );
    assert_eq!(client.name, "GET");
    let told = attributes(client);
    assert_eq!(
        told.get("url.full").map(String::as_str),
        Some("http://barista:50051/brew")
    );
    assert_eq!(told.get("server.port").map(String::as_str), Some("50051"));
}

#[tokio::test]
async fn a_client_of_grpc_has_the_status_of_the_trailers() {
    let spans = Spans::new();
    let layer =
        client::trace_context::TraceContextLayer::new(spans.tracer()).server("barista", 50_051);
    let service = layer.layer(service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(Response::new(frames(vec![data(), status("5")])))
    }));
    let request = request(
        "/shop.Barista/Brew",
        &[("content-type", "application/grpc")],
    );
    call(service, request).await;
    let span = spans.only();
    assert_eq!(span.name, "shop.Barista/Brew");
    assert_eq!(span.status, Status::error(""));
    let told = attributes(&span);
    assert_eq!(
        told.get("rpc.response.status_code").map(String::as_str),
        Some("NOT_FOUND")
    );
    assert_eq!(
        told.get("server.address").map(String::as_str),
        Some("barista")
    );
}

#[tokio::test]
async fn a_span_of_tracing_joins_the_same_trace_and_is_the_parent_of_others() {
    use tracing_subscriber::layer::SubscriberExt;
    let spans = Spans::new();
    let subscriber = tracing_subscriber::registry()
        .with(tracing_opentelemetry::layer().with_tracer(spans.tracer()));
    // Tests beside this one have no subscriber. Were it the only one, the first of them to come to a place in the code
    // would answer for all whether anybody listens there.
    let _another = tracing::Dispatch::new(tracing_subscriber::registry());
    let guard = tracing::subscriber::set_default(subscriber);
    let app: Router = Router::new()
        .route(
            "/orders/{id}",
            get(|| async {
                tracing::info_span!("grind").in_scope(|| ());
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    TraceContext::current()
                        .expect("in a trace")
                        .span_id()
                        .to_owned(),
                )
            }),
        )
        .layer(TraceContextLayer::in_tracing());
    let response = app
        .oneshot(traced("/orders/5", "01"))
        .await
        .expect("infallible");
    let told = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    drop(guard);
    let all = spans.read();
    let of = |name: &str| all.iter().find(|span| span.name == name).expect("a span");
    let (call, inner) = (of("GET /orders/{id}"), of("grind"));
    assert_eq!(call.parent_span_id.to_string(), SPAN);
    assert_eq!(call.span_context.trace_id().to_string(), TRACE);
    assert_eq!(call.span_kind, SpanKind::Server);
    assert_eq!(call.status, Status::error(""));
    assert_eq!(
        attributes(call)
            .get("http.response.status_code")
            .map(String::as_str),
        Some("503")
    );
    assert_eq!(inner.parent_span_id, call.span_context.span_id());
    assert_eq!(told, call.span_context.span_id().to_string());
}
