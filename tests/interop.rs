//! In one stack with the layers of tower, tower-http and tonic: each does its work, in both orders.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use plimsoll::{
    client::propagate::PropagateLayer,
    context::RequestId,
    server::{
        access_log::AccessLogLayer, catch_panic::CatchPanicLayer, request_id::RequestIdLayer,
    },
};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_http::{
    ServiceBuilderExt,
    compression::CompressionLayer,
    cors::CorsLayer,
    decompression::DecompressionLayer,
    limit::RequestBodyLimitLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    timeout::TimeoutLayer,
    trace::TraceLayer,
};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    instrument::WithSubscriber,
};
use tracing_subscriber::{Layer, layer, prelude::*};

/// The access lines that a piece of code caused.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<BTreeMap<String, String>>>>);

impl Lines {
    fn take(&self) -> Vec<BTreeMap<String, String>> {
        std::mem::take(
            &mut *self
                .0
                .lock()
                .expect("no test panics while it holds the lock"),
        )
    }

    /// Runs a call and returns its access line: there must be one.
    async fn of<F: Future>(&self, call: F) -> (F::Output, BTreeMap<String, String>) {
        let output = call
            .with_subscriber(tracing_subscriber::registry().with(self.clone()))
            .await;
        let mut lines = self.take();
        assert_eq!(lines.len(), 1, "{lines:?}");
        (output, lines.remove(0))
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
        struct Fields(BTreeMap<String, String>);
        impl Visit for Fields {
            fn record_str(&mut self, field: &Field, value: &str) {
                self.0.insert(field.name().to_owned(), value.to_owned());
            }
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                self.0.insert(field.name().to_owned(), format!("{value:?}"));
            }
        }
        if event.metadata().target() == "plimsoll::access" {
            let mut fields = Fields(BTreeMap::new());
            event.record(&mut fields);
            self.0
                .lock()
                .expect("no test panics while it holds the lock")
                .push(fields.0);
        }
    }
}

const TEXT: &str =
    "a text that is long enough to be worth its compression, a text that is long enough";

fn routes() -> Router {
    Router::new()
        .route("/text", get(async || TEXT).post(async |body: Bytes| body))
        .route(
            "/id",
            get(async || RequestId::current().expect("within a call").to_string()),
        )
        .route(
            "/panic",
            get(async || -> &'static str { panic!("on demand") }),
        )
        .route("/never", get(std::future::pending::<&'static str>))
}

fn request(path: &str) -> Request<Body> {
    Request::get(path)
        .header("x-request-id", "of-the-caller")
        .body(Body::empty())
        .expect("valid")
}

async fn bytes_of(answer: Response<Body>) -> Bytes {
    answer
        .into_body()
        .collect()
        .await
        .expect("a whole body")
        .to_bytes()
}

macro_rules! stacks {
    ($theirs:expr) => {
        [
            (
                "theirs inside",
                routes().layer(
                    ServiceBuilder::new()
                        .layer(RequestIdLayer::new())
                        .layer(AccessLogLayer::new())
                        .layer(CatchPanicLayer::new())
                        .layer($theirs),
                ),
            ),
            (
                "theirs outside",
                routes().layer(
                    ServiceBuilder::new()
                        .layer($theirs)
                        .layer(RequestIdLayer::new())
                        .layer(AccessLogLayer::new())
                        .layer(CatchPanicLayer::new()),
                ),
            ),
        ]
    };
}

#[tokio::test]
async fn trace_and_compression_work_on_either_side() {
    for (place, app) in stacks!((TraceLayer::new_for_http(), CompressionLayer::new())) {
        let mut asked = request("/text");
        asked
            .headers_mut()
            .insert("accept-encoding", http::HeaderValue::from_static("gzip"));
        let call = async {
            let plain = ServiceBuilder::new()
                .layer(DecompressionLayer::new())
                .service(app);
            let answer = plain.oneshot(asked).await.expect("an answer");
            assert_eq!(answer.headers()["x-request-id"], "of-the-caller", "{place}");
            answer
                .into_body()
                .collect()
                .await
                .expect("a whole body")
                .to_bytes()
        };
        let (body, line) = Lines::default().of(call).await;
        assert_eq!(body, TEXT, "{place}");
        assert_eq!(
            (line["status"].as_str(), line["outcome"].as_str()),
            ("200", "ok"),
            "{place}"
        );
        let sent: usize = line["bytes_out"].parse().expect("a number");
        assert_eq!(
            sent < TEXT.len(),
            place == "theirs inside",
            "the bytes that pass by are counted: {sent}, {place}"
        );
    }
}

#[tokio::test]
async fn a_panic_beside_trace_and_compression_is_a_500() {
    for (place, app) in stacks!((TraceLayer::new_for_http(), CompressionLayer::new())) {
        let (answer, line) = Lines::default()
            .of(async {
                app.oneshot(request("/panic"))
                    .await
                    .expect("an answer")
                    .status()
            })
            .await;
        assert_eq!(
            (answer, line["outcome"].as_str()),
            (StatusCode::INTERNAL_SERVER_ERROR, "panic"),
            "{place}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_tower_http_is_a_server_error() {
    for (place, app) in stacks!(TimeoutLayer::with_status_code(
        StatusCode::GATEWAY_TIMEOUT,
        Duration::from_secs(1)
    )) {
        let (status, line) = Lines::default()
            .of(async {
                app.oneshot(request("/never"))
                    .await
                    .expect("an answer")
                    .status()
            })
            .await;
        assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{place}");
        let expected = if place == "theirs inside" {
            "server_error"
        } else {
            "client_gone"
        };
        assert_eq!(
            line["outcome"], expected,
            "what is dropped from outside looks like a caller that left: {place}"
        );
    }
}

#[tokio::test]
async fn cors_and_limits_work_on_either_side() {
    for (place, app) in stacks!((CorsLayer::permissive(), RequestBodyLimitLayer::new(4))) {
        let small = Request::post("/text")
            .header("origin", "http://a")
            .body(Body::from("1234"))
            .expect("valid");
        let large = Request::post("/text")
            .header("content-length", "5")
            .body(Body::from("12345"))
            .expect("valid");
        let answer = app.clone().oneshot(small).await.expect("an answer");
        assert_eq!(
            answer.headers()["access-control-allow-origin"],
            "*",
            "{place}"
        );
        assert_eq!(bytes_of(answer.map(Body::new)).await, "1234", "{place}");
        assert_eq!(
            app.oneshot(large).await.expect("an answer").status(),
            StatusCode::PAYLOAD_TOO_LARGE,
            "{place}"
        );
    }
}

/// With the feature `tower-http`, its layers and ours mean the same id.
#[tokio::test]
async fn the_id_is_that_of_tower_http() {
    let name = HeaderName::from_static("x-request-id");
    let handler = async |request: Request<Body>| {
        let theirs = request
            .extensions()
            .get::<tower_http::request_id::RequestId>()
            .expect("set")
            .header_value()
            .clone();
        let ours = request
            .extensions()
            .get::<RequestId>()
            .expect("set")
            .clone();
        assert_eq!(theirs, ours.header());
        assert_eq!(request.headers().get_all("x-request-id").iter().count(), 1);
        ours.to_string()
    };
    let app = Router::new().route("/", get(handler)).layer(
        ServiceBuilder::new()
            .layer(RequestIdLayer::new())
            .layer(SetRequestIdLayer::new(name.clone(), MakeRequestUuid))
            .layer(PropagateRequestIdLayer::new(name.clone())),
    );
    for sent in [Some("of-the-caller"), Some("not \"safe\""), None] {
        let mut asked = Request::get("/").body(Body::empty()).expect("valid");
        if let Some(sent) = sent {
            asked
                .headers_mut()
                .insert(name.clone(), http::HeaderValue::from_static(sent));
        }
        let answer = app.clone().oneshot(asked).await.expect("an answer");
        let ids: Vec<_> = answer.headers().get_all(&name).iter().cloned().collect();
        assert_eq!(ids.len(), 1);
        assert_eq!(bytes_of(answer).await, ids[0].as_bytes());
        assert_eq!(ids[0] == "of-the-caller", sent == Some("of-the-caller"));
    }
}

/// An id that tower-http's layer made further out is found.
#[tokio::test]
async fn an_id_that_tower_http_made_is_kept() {
    let name = HeaderName::from_static("x-request-id");
    let app = routes().layer(
        ServiceBuilder::new()
            .layer(SetRequestIdLayer::new(name, MakeRequestUuid))
            .layer(RequestIdLayer::new()),
    );
    let answer = app
        .oneshot(Request::get("/id").body(Body::empty()).expect("valid"))
        .await
        .expect("an answer");
    let id = answer.headers()["x-request-id"].clone();
    assert_eq!(bytes_of(answer).await, id.as_bytes());
}

/// tower-http's shorthands for a `ServiceBuilder` take our layers too.
#[tokio::test]
async fn stands_in_a_service_builder_with_other_layers_of_tower() {
    let app = ServiceBuilder::new()
        .concurrency_limit(3)
        .layer(RequestIdLayer::new())
        .layer(AccessLogLayer::new())
        .map_request_body(Body::new)
        .layer(CatchPanicLayer::new())
        .map_response_body(Body::new)
        .service(routes());
    let answer = app
        .oneshot(request("/id").map(|_| Full::from("unused")))
        .await
        .expect("an answer");
    assert_eq!(bytes_of(answer.map(Body::new)).await, "of-the-caller");
}

/// A gRPC service without generated code: it answers with the id of the call.
#[derive(Clone)]
struct Echo;

impl tonic::server::NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl Service<Request<tonic::body::Body>> for Echo {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        assert_ne!(request.uri().path(), "/test.Echo/Panic", "on demand");
        let id = RequestId::current().expect("within a call");
        let status = tonic::Status::not_found(format!(
            "said {} {:?}",
            id,
            request.headers().get_all("x-request-id").iter().count()
        ));
        ready(Ok(status.into_http()))
    }
}

#[tokio::test]
async fn stands_in_a_server_and_around_a_channel_of_tonic() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("an address");
    let server = tonic::transport::Server::builder()
        .accept_http1(true)
        .layer(RequestIdLayer::new())
        .layer(AccessLogLayer::new())
        .layer(CatchPanicLayer::new())
        .layer(TraceLayer::new_for_grpc())
        .layer(tonic_web::GrpcWebLayer::new())
        .add_service(Echo)
        .serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener));
    let server = tokio::spawn(server);
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let channel = channel.connect().await.expect("it listens");
    let client = ServiceBuilder::new()
        .layer(PropagateLayer::new())
        .service(channel);

    // Within a call of ours: the id goes along.
    let relay = Router::new()
        .route(
            "/{method}",
            get(
                async move |axum::extract::Path(method): axum::extract::Path<String>| {
                    let asked = Request::post(format!("http://{address}/test.Echo/{method}"))
                        .header("content-type", "application/grpc");
                    let asked = asked.body(tonic::body::Body::empty()).expect("valid");
                    let answer = client.clone().oneshot(asked).await.expect("an answer");
                    let status =
                        tonic::Status::from_header_map(answer.headers()).expect("a status");
                    assert_eq!(answer.headers()["x-request-id"], "of-the-caller");
                    format!("{:?} {}", status.code(), status.message())
                },
            ),
        )
        .layer(RequestIdLayer::new());
    let answer = relay
        .clone()
        .oneshot(request("/Say"))
        .await
        .expect("an answer");
    assert_eq!(
        bytes_of(answer.map(Body::new)).await,
        "NotFound said of-the-caller 1"
    );
    let answer = relay.oneshot(request("/Panic")).await.expect("an answer");
    let told = bytes_of(answer.map(Body::new)).await;
    assert!(
        told.starts_with(b"Internal ") && !told.ends_with(b"demand"),
        "{told:?}"
    );
    server.abort();
}
