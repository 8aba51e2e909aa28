//! All layers together, on real connections: what the caller sees, and that the line tells the same.

#[path = "../common/mod.rs"]
mod common;
mod grpc_calls;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    routing::{any, get as on_get, post as on_post},
};
use bytes::Bytes;
use common::{
    Lines, Script,
    body::{Step, chain, map},
    get, grpc,
    lines::Line,
    wire::{ask, at, http1, http2, raw, read_until, serve},
};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use plimsoll::server::{
    access_log::AccessLogLayer, catch_panic::CatchPanicLayer, request_id::RequestIdLayer,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
};
use tokio_stream::StreamExt as _;
use tower::{Layer, Service, ServiceBuilder, layer::layer_fn};

macro_rules! layers {
    () => {
        ServiceBuilder::new()
            .layer(RequestIdLayer::new())
            .layer(AccessLogLayer::new())
            .layer(CatchPanicLayer::new())
    };
}
pub(crate) use layers;

/// Bodies that end in each way there is.
async fn body(request: Request<Body>) -> Response<Body> {
    let sized = request
        .uri()
        .query()
        .is_some_and(|query| query.contains("sized"));
    let mut steps = vec![Step::Data(b"half"), Step::Wait];
    match request.uri().path() {
        "/whole" => steps.push(Step::Data(b"half")),
        "/trailers" => {
            steps.push(Step::Data(b"half"));
            steps.push(Step::Trailers(map(&[("x-sum", "42")])));
        }
        "/fail" => steps.push(Step::Fail("the disk of db-3 is full".into())),
        "/panic" => steps.push(Step::Panic("secret-of-the-body")),
        "/short" => {}
        "/hang" => steps.push(Step::Hang),
        other => panic!("{other}"),
    }
    let mut response = Response::new(Body::new(Script::of(steps)));
    let headers = response.headers_mut();
    headers.insert("trailer", HeaderValue::from_static("x-sum"));
    if sized {
        headers.insert("content-length", HeaderValue::from_static("8"));
    }
    response
}

fn app() -> Router {
    Router::new()
        .route("/{way}", any(body))
        .route(
            "/echo",
            on_post(|request: Request<Body>| async { request.into_body() }),
        )
        .route("/read", on_post(|_: Bytes| async { "read" }))
        .layer(layers!())
}

fn fields<'a, const N: usize>(line: &'a Line, names: [&str; N]) -> [&'a str; N] {
    names.map(|name| line.get(name).map_or("-", String::as_str))
}

#[tokio::test]
async fn a_body_that_breaks_is_cut_and_told_in_both_versions_of_http() {
    let lines = Lines::listen();
    let address = serve(app()).await;
    for (client, protocol) in [(http1(), "http/1.1"), (http2(), "http/2")] {
        for (path, outcome, error) in [
            ("/fail", "body_error", "the disk of db-3 is full"),
            ("/fail?sized", "body_error", "the disk of db-3 is full"),
            ("/panic", "body_panic", "secret-of-the-body"),
            ("/panic?sized", "body_panic", "secret-of-the-body"),
            (
                "/short?sized",
                "body_error",
                "the body ended 4 bytes short of its content-length",
            ),
        ] {
            let response = ask(&client, address, get(path)).await;
            assert_eq!(response.status(), 200);
            let seen = response.into_body().collect().await.expect_err(path);
            let seen = chain(&seen);
            assert!(!seen.contains("db-3") && !seen.contains("secret"), "{seen}");
            if protocol == "http/2" {
                assert!(seen.contains("unexpected internal error"), "{path}: {seen}");
            }
            let line = lines.access(1).await.remove(0);
            assert_eq!(
                fields(
                    &line,
                    ["protocol", "status", "outcome", "error", "bytes_out"]
                ),
                [protocol, "200", outcome, error, "4"],
                "{path}"
            );
        }
        // The next calls of this client are unharmed.
        for (path, sum) in [
            ("/whole", None),
            ("/whole?sized", None),
            ("/trailers", Some("42")),
        ] {
            let mut request = get(path);
            request
                .headers_mut()
                .insert("te", HeaderValue::from_static("trailers"));
            let response = ask(&client, address, request).await;
            let whole = response.into_body().collect().await.expect("no error");
            let trailer = whole
                .trailers()
                .and_then(|trailers| trailers.get("x-sum"))
                .cloned();
            assert_eq!(
                trailer.as_ref().map(|sum| sum.to_str().expect("ASCII")),
                sum,
                "{path}"
            );
            assert_eq!(whole.to_bytes(), "halfhalf");
            let line = lines.access(1).await.remove(0);
            assert_eq!(
                fields(&line, ["outcome", "bytes_out"]),
                ["ok", "8"],
                "{path}"
            );
        }
    }
}

#[tokio::test]
async fn siblings_on_one_connection_live_on_when_a_body_panics() {
    let lines = Lines::listen();
    let address = serve(app()).await;
    let client = http2();
    let hanging = ask(&client, address, get("/hang")).await;
    for _ in 0..20 {
        let response = ask(&client, address, get("/panic")).await;
        assert!(response.into_body().collect().await.is_err());
    }
    let mut hanging = hanging.into_body();
    let frame = hanging.frame().await.expect("a frame").expect("data");
    assert_eq!(frame.into_data().expect("data"), "half");
    lines.access(20).await;
    drop(hanging);
    assert_eq!(lines.access(1).await[0]["outcome"], "client_gone_body");
}

#[tokio::test]
async fn a_head_and_its_likes_are_complete() {
    let lines = Lines::listen();
    let app = Router::new()
        .route("/none", on_get(|| async { StatusCode::NO_CONTENT }))
        .route("/same", on_get(|| async { StatusCode::NOT_MODIFIED }))
        .route("/some", on_get(|| async { "some" }))
        .layer(layers!());
    let address = serve(app).await;
    for client in [http1(), http2()] {
        for (method, path, bytes) in [
            ("GET", "/none", "0"),
            ("GET", "/same", "0"),
            ("GET", "/some", "4"),
            ("HEAD", "/some", "0"),
            ("HEAD", "/none", "0"),
        ] {
            let mut request = get(path);
            *request.method_mut() = method.parse().expect("a method");
            let response = ask(&client, address, request).await;
            response.into_body().collect().await.expect("no error");
            let line = lines.access(1).await.remove(0);
            assert_eq!(
                fields(&line, ["method", "outcome", "bytes_out"]),
                [method, "ok", bytes],
                "{path}"
            );
        }
    }
    let answer = raw(address, b"GET /some HTTP/1.0\r\n\r\n").await;
    assert!(answer.ends_with(b"some"));
    let line = lines.access(1).await.remove(0);
    assert_eq!(fields(&line, ["protocol", "outcome"]), ["http/1.0", "ok"]);
}

#[tokio::test]
async fn a_caller_that_goes_away_is_told_as_such() {
    let lines = Lines::listen();
    let begun = Arc::new(Notify::new());
    let tell = Arc::clone(&begun);
    let slow = async move || {
        tell.notify_one();
        std::future::pending::<()>().await;
    };
    let slow = Router::new().route("/slow", on_get(slow)).layer(layers!());
    let address = serve(slow.merge(app())).await;
    // Before the head: HTTP/1 closes the connection, HTTP/2 resets the stream.
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream
        .write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("it reads");
    begun.notified().await;
    drop(stream);
    let line = lines.access(1).await.remove(0);
    assert_eq!(
        fields(&line, ["protocol", "outcome", "status"]),
        ["http/1.1", "client_gone", "-"]
    );

    // In the body.
    for client in [http1(), http2()] {
        let mut body = ask(&client, address, get("/hang")).await.into_body();
        body.frame().await.expect("a frame").expect("data");
        drop(body);
        drop(client);
        let line = lines.access(1).await.remove(0);
        assert_eq!(
            fields(&line, ["outcome", "status", "bytes_out"]),
            ["client_gone_body", "200", "4"]
        );
    }
}

#[tokio::test]
async fn an_upload_that_is_cut_is_the_callers_fault() {
    let lines = Lines::listen();
    let address = serve(app()).await;
    for path in ["/read", "/echo"] {
        for (header, body) in [
            ("content-length: 100", "only this"),
            ("transfer-encoding: chunked", "5\r\nhello\r\n"),
            ("transfer-encoding: chunked", "5\r\nhello\r\nnonsense\r\n"),
        ] {
            let mut stream = TcpStream::connect(address).await.expect("it listens");
            let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\n{header}\r\n\r\n{body}");
            stream.write_all(head.as_bytes()).await.expect("it reads");
            stream.shutdown().await.expect("open");
            let mut rest = Vec::new();
            drop(stream.read_to_end(&mut rest).await);
            let line = lines.access(1).await.remove(0);
            assert_eq!(
                line["outcome"], "request_body_error",
                "{path} {header} {body:?}: {line:#?}"
            );
            assert_eq!(line["level"], "INFO", "{path} {header}");
        }
    }
}

#[tokio::test]
async fn requests_are_pipelined_and_answered_in_order() {
    let lines = Lines::listen();
    let address = serve(app()).await;
    let call = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n{more}\r\n");
    let three = [
        call("/whole", ""),
        call("/whole?sized", ""),
        call("/whole", "connection: close\r\n"),
    ];
    let answer = raw(address, three.concat().as_bytes()).await;
    let answer = String::from_utf8(answer.to_vec()).expect("UTF-8");
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 3);
    let ids: Vec<_> = answer
        .lines()
        .filter_map(|line| line.strip_prefix("x-request-id: "))
        .map(str::to_owned)
        .collect();
    let logged: Vec<_> = lines
        .access(3)
        .await
        .iter()
        .map(|line| line["request_id"].clone())
        .collect();
    assert_eq!(logged, ids);
}

#[tokio::test]
async fn a_connection_that_is_upgraded_is_carried_untouched() {
    let lines = Lines::listen();
    let upgrade = |mut request: Request<Body>| async move {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgraded.await.expect("it is upgraded"));
            let mut bytes = [0; 4];
            while stream.read_exact(&mut bytes).await.is_ok() {
                bytes.reverse();
                stream.write_all(&bytes).await.expect("it reads");
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response
            .headers_mut()
            .extend(map(&[("connection", "upgrade"), ("upgrade", "backwards")]));
        response
    };
    let app = Router::new().route("/", on_get(upgrade)).layer(layers!());
    let address = serve(app).await;
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let head = "GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: backwards\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("it reads");
    let answer = read_until(&mut stream, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert!(answer.contains("x-request-id: "), "{answer}");
    for (word, backwards) in [(b"\0\xffab", b"ba\xff\0"), (b"drow", b"word")] {
        stream.write_all(word).await.expect("it reads");
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.expect("it answers");
        assert_eq!(&answer, backwards);
    }
    let line = lines.access(1).await.remove(0);
    assert_eq!(
        fields(&line, ["status", "outcome", "bytes_out"]),
        ["101", "ok", "0"]
    );
}

#[tokio::test]
async fn the_callers_address_is_told_by_axum_and_tonic() {
    let lines = Lines::listen();
    let app = Router::new()
        .route(
            "/",
            on_get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }),
        )
        .layer(layers!());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move {
        axum::serve(listener, app)
            .await
            .expect("it serves for ever")
    });
    ask(&http1(), address, get("/"))
        .await
        .into_body()
        .collect()
        .await
        .expect("no error");
    assert_eq!(lines.access(1).await[0]["client"], "127.0.0.1");

    let channel = grpc::channel(grpc_calls::tonic_server(layers!()).await).await;
    grpc::one(channel, "hi").await.expect("ok");
    assert_eq!(lines.access(1).await[0]["client"], "127.0.0.1");
}

#[tokio::test]
async fn an_error_of_the_service_ends_its_connection_and_has_a_line() {
    #[derive(Clone)]
    struct Failing;
    impl Service<Request<hyper::body::Incoming>> for Failing {
        type Response = Response<http_body_util::Full<Bytes>>;
        type Error = std::io::Error;
        type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<hyper::body::Incoming>) -> Self::Future {
            std::future::ready(Err(std::io::Error::other("no beans")))
        }
    }
    let lines = Lines::listen();
    let service = layers!()
        .layer(layer_fn(|service: Failing| service))
        .service(Failing);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper_util::service::TowerToHyperService::new(service.clone());
            let builder =
                hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
            drop(
                builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        }
        Ok::<_, Infallible>(())
    });
    assert_eq!(raw(address, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await, "");
    let line = lines.access(1).await.remove(0);
    assert_eq!(
        fields(&line, ["outcome", "error", "status"]),
        ["server_error", "no beans", "-"]
    );
}
