//! On real servers: axum's over HTTP/1.1 and h2c, and tonic's own.

use std::{convert::Infallible, net::SocketAddr, num::NonZeroU32, time::Duration};

use axum::{
    Router,
    body::Body,
    routing::{get, post},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::channel::Channel;
use hyper::body::Incoming;
use plimsoll::server::{
    access_log::AccessLogLayer, body_limit::BodyLimitLayer, catch_panic::CatchPanicLayer,
    request_id::RequestIdLayer, timeout::TimeoutLayer,
};
use tokio_stream::StreamExt as _;
use tower::ServiceBuilder;

use crate::common::{
    Lines,
    body::{Got, read},
    grpc,
    wire::{ask, http1, http2, serve},
};

/// A bound on what never takes long.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    let bounded = tokio::time::timeout(Duration::from_secs(60), what);
    bounded.await.expect("it ends within a minute")
}

async fn whole(answer: Response<Incoming>) -> (http::response::Parts, Got) {
    let (head, body) = answer.into_parts();
    (head, read(body).await)
}

fn app(timeout: TimeoutLayer, cap: BodyLimitLayer) -> Router {
    let endless = async || {
        let first = tokio_stream::once(Ok::<_, Infallible>(Bytes::from_static(b"first ")));
        Body::from_stream(first.chain(tokio_stream::pending()))
    };
    Router::new()
        .route("/never", get(std::future::pending::<()>))
        .route("/endless", get(endless))
        .route("/echo", post(async |body: Bytes| body))
        .layer(
            ServiceBuilder::new()
                .layer(RequestIdLayer::new())
                .layer(AccessLogLayer::new())
                .layer(timeout)
                .layer(cap)
                .layer(CatchPanicLayer::new()),
        )
}

fn path(path: &str) -> Request<Body> {
    crate::common::get(path)
}

#[tokio::test]
async fn axum_serves_it_over_both_versions_of_http() {
    let lines = Lines::listen();
    // Much longer than the way to the first bytes of a body.
    let timeout = TimeoutLayer::new().total(Duration::from_millis(500));
    let address = serve(app(timeout, BodyLimitLayer::new(100))).await;
    for client in [http1(), http2()] {
        let (head, got) =
            soon(async { whole(ask(&client, address, path("/never")).await).await }).await;
        assert_eq!(head.status, 504);
        assert!(
            got.text().contains(r#""reason":"timeout""#),
            "{}",
            got.text()
        );
        let (head, got) =
            soon(async { whole(ask(&client, address, path("/endless")).await).await }).await;
        assert_eq!((head.status.as_u16(), got.text()), (200, "first "));
        assert!(got.error.is_some(), "cut, not ended");
        let lines = soon(lines.access(2)).await;
        for line in lines {
            assert_eq!(
                (&line["outcome"][..], &line["which"][..]),
                ("timeout", "total")
            );
        }
    }
}

#[tokio::test]
async fn axum_counts_bodies_over_both_versions_of_http() {
    let lines = Lines::listen();
    let address = serve(app(TimeoutLayer::new(), BodyLimitLayer::new(100))).await;
    for client in [http1(), http2()] {
        for (bytes, is_sized, status) in [
            (100, true, 200),
            (101, true, 413),
            (100, false, 200),
            (101, false, 413),
        ] {
            let body = Bytes::from(vec![b'x'; bytes]);
            let body = match is_sized {
                true => Body::from(body),
                false => Body::from_stream(tokio_stream::once(Ok::<_, Infallible>(body))),
            };
            let request = Request::post("/echo").body(body).expect("a request");
            let (head, _) = soon(async { whole(ask(&client, address, request).await).await }).await;
            assert_eq!(head.status, status, "{bytes} {is_sized}");
        }
        let outcomes: Vec<_> = soon(lines.access(4))
            .await
            .iter()
            .map(|line| line["outcome"].clone())
            .collect();
        assert_eq!(outcomes, ["ok", "too_large", "ok", "too_large"]);
    }
}

#[tokio::test]
async fn a_slow_upload_is_answered_over_both_versions_of_http() {
    let rate = NonZeroU32::new(1_000_000).expect("above 0");
    let timeout = TimeoutLayer::new().min_rate(rate, Duration::from_millis(30));
    let address = serve(app(timeout, BodyLimitLayer::default())).await;
    for client in [http1(), http2()] {
        let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
        let request = Request::post("/echo")
            .body(Body::new(body))
            .expect("a request");
        sender
            .send_data(Bytes::from_static(b"slow"))
            .await
            .expect("room");
        let (head, _) = soon(async { whole(ask(&client, address, request).await).await }).await;
        assert_eq!(head.status, 408);
        assert_eq!(head.headers["plimsoll-reason"], "timeout");
        drop(sender);
    }
}

fn rpc(method: &str, message: &[u8], timeout: Option<&str>) -> Request<Body> {
    let mut request = Request::post(format!("/test.Calls/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    request
        .body(Body::from(grpc::framed(message)))
        .expect("a request")
}

async fn tonic_server(timeout: TimeoutLayer, cap: BodyLimitLayer) -> SocketAddr {
    let (address, incoming) = grpc::listen().await;
    let server = tonic::transport::Server::builder()
        .layer(RequestIdLayer::new())
        .layer(AccessLogLayer::new())
        .layer(timeout)
        .layer(cap)
        .layer(CatchPanicLayer::new())
        .add_service(grpc::Calls);
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

/// tonic's own timer would answer 1, CANCELLED. Many at once, so that some share its tick.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tonic_answers_deadline_exceeded_and_never_cancelled() {
    let layer = TimeoutLayer::new();
    let address = tonic_server(layer.clone(), BodyLimitLayer::default()).await;
    let client = http2();
    let mut calls = tokio::task::JoinSet::new();
    for timeout in ["200m", "225m", "250m", "275m", "300m"] {
        for _ in 0..100 {
            let client = client.clone();
            calls.spawn(async move {
                let answer = ask(&client, address, rpc("One", b"hang", Some(timeout))).await;
                let (head, got) = whole(answer).await;
                let code = head
                    .headers
                    .get("grpc-status")
                    .map(|code| code.to_str().expect("digits").to_owned());
                (
                    timeout,
                    code.or_else(|| got.trailer("grpc-status").map(str::to_owned)),
                )
            });
        }
    }
    for (timeout, code) in soon(calls.join_all()).await {
        assert_eq!(code.as_deref(), Some("4"), "{timeout}");
    }
    assert_eq!(layer.counts().deadline, 500);
}

#[tokio::test]
async fn tonic_serves_all_of_it() {
    let lines = Lines::listen();
    let address = tonic_server(TimeoutLayer::new(), BodyLimitLayer::new(100)).await;
    let client = http2();
    for (request, code, outcome, data) in [
        (rpc("One", b"hi", Some("9S")), "0", "ok", 7),
        // Much longer than the way to the first message.
        (rpc("Many", b"hang", Some("1S")), "4", "deadline", 9),
        (rpc("One", b"hi", Some("1Q")), "3", "malformed", 0),
        (rpc("One", b"hi", Some("0S")), "4", "deadline", 0),
        (rpc("One", &[b'x'; 95], None), "0", "ok", 100),
        (rpc("One", &[b'x'; 96], None), "8", "too_large", 0),
    ] {
        let (head, got) = soon(async { whole(ask(&client, address, request).await).await }).await;
        assert_eq!(head.status, 200);
        let trailers_only = head
            .headers
            .get("grpc-status")
            .map(|code| code.to_str().expect("digits"));
        assert_eq!(
            trailers_only.or(got.trailer("grpc-status")),
            Some(code),
            "{outcome}"
        );
        assert_eq!(got.data.len(), data, "{outcome}");
        assert_eq!(soon(lines.access(1)).await[0]["outcome"], outcome);
    }
    // What does not tell its length.
    let stream =
        tokio_stream::iter((0..20).map(|_| Ok::<_, Infallible>(grpc::framed(&[b'x'; 10]))));
    let mut request = rpc("One", b"", None);
    *request.body_mut() = Body::from_stream(stream);
    let (head, got) = soon(async { whole(ask(&client, address, request).await).await }).await;
    let code = head
        .headers
        .get("grpc-status")
        .map(|code| code.to_str().expect("digits"));
    assert_eq!(code.or(got.trailer("grpc-status")), Some("8"));
}

/// Of a unary method that takes messages in gzip, of so many bytes at most, and answers how many they were.
#[derive(Clone)]
struct Unpacks(Option<usize>);

impl tonic::server::NamedService for Unpacks {
    const NAME: &'static str = "test.Unpacks";
}

impl tower::Service<Request<tonic::body::Body>> for Unpacks {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let most = self.0;
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(grpc::Raw)
                .accept_compressed(tonic::codec::CompressionEncoding::Gzip)
                .apply_max_message_size_config(most, None);
            Ok(grpc.unary(Length, request).await)
        })
    }
}

struct Length;

impl tonic::server::UnaryService<Bytes> for Length {
    type Response = Bytes;
    type Future = std::future::Ready<Result<tonic::Response<Bytes>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let length = request.into_inner().len().to_string();
        std::future::ready(Ok(tonic::Response::new(length.into())))
    }
}

/// tonic decompresses inside of every layer, and caps what each message becomes; the layer caps what came.
#[tokio::test]
async fn a_compressed_message_of_grpc_is_capped_as_it_came_and_as_what_it_becomes() {
    let bomb = crate::body_limit::gzipped(1_000_000).await;
    let large = crate::body_limit::gzipped(5 << 20).await;
    assert!(
        bomb.len() < 10_000 && large.len() > 2_000,
        "{} {}",
        bomb.len(),
        large.len()
    );
    for (message, most, cap, code, text) in [
        (&bomb, None, 2 << 20, "0", "1000000"),
        // Over tonic's own default of 4 MiB, though a few thousand bytes came.
        (&large, None, 2 << 20, "8", ""),
        (&bomb, Some(999_999), 2 << 20, "8", ""),
        // More came than the layer takes.
        (&bomb, None, 500, "8", ""),
    ] {
        let (address, incoming) = grpc::listen().await;
        let server = tonic::transport::Server::builder()
            .layer(BodyLimitLayer::new(cap))
            .add_service(Unpacks(most));
        tokio::spawn(server.serve_with_incoming(incoming));
        let routes = tonic::service::Routes::new(Unpacks(most)).into_axum_router();
        let on_axum = serve(routes.layer(BodyLimitLayer::new(cap))).await;
        for address in [address, on_axum] {
            let mut framed = grpc::framed(message).to_vec();
            framed[0] = 1;
            let request = Request::post("/test.Unpacks/Length")
                .header("content-type", "application/grpc")
                .header("grpc-encoding", "gzip")
                .header("te", "trailers")
                .body(Body::from(framed))
                .expect("a request");
            let (head, got) =
                soon(async { whole(ask(&http2(), address, request).await).await }).await;
            let trailers_only = head.headers.get("grpc-status");
            let told = trailers_only.map(|code| code.to_str().expect("digits"));
            assert_eq!(
                told.or(got.trailer("grpc-status")),
                Some(code),
                "{most:?} {cap}"
            );
            assert_eq!(got.data.get(5..).unwrap_or_default(), text.as_bytes());
            let ours = head.headers.contains_key("plimsoll-reason");
            assert_eq!(ours, cap == 500, "{most:?} {cap}");
        }
    }
}

/// Where tonic's routes are served by another server there is no timer but ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_tonics_server_a_deadline_is_never_told_as_cancelled() {
    let layer = TimeoutLayer::new();
    let routes = tonic::service::Routes::new(grpc::Calls).into_axum_router();
    let address = serve(routes.layer(layer.clone())).await;
    let client = http2();
    let mut calls = tokio::task::JoinSet::new();
    for timeout in ["1n", "100u", "1m", "2m", "5m"] {
        for _ in 0..100 {
            let client = client.clone();
            calls.spawn(async move {
                let answer = ask(&client, address, rpc("One", b"hang", Some(timeout))).await;
                let code = answer.headers().get("grpc-status").cloned();
                (timeout, code.expect("trailers only"))
            });
        }
    }
    for (timeout, code) in soon(calls.join_all()).await {
        assert_eq!(code, "4", "{timeout}");
    }
    assert_eq!(layer.counts().deadline, 500);
}
