//! One line for each call, at its true end, that tells how it ended.

#[path = "../common/mod.rs"]
mod common;
mod whole;

use std::{
    convert::Infallible,
    future::{Future as _, poll_fn},
    num::NonZeroU32,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    routing::{get as on_get, post as on_post},
};
use bytes::Bytes;
use common::{
    Dice, Lines, Script, Yield,
    body::{Step, map},
    get, header,
    lines::Line,
    post,
};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use plimsoll::{
    context::{Failure, RequestId, in_current_call},
    observe::BoxError,
    rejection::{Reason, Rejection},
    server::{
        access_log::{self, AccessLogLayer},
        catch_panic::CatchPanicLayer,
        request_id::RequestIdLayer,
    },
};
use tower::{Layer as _, Service as _, ServiceBuilder, ServiceExt as _, service_fn};
use tracing::Level;

/// The line of one call that is answered so, read to its end.
async fn line_of(request: Request<Body>, response: Response<Script>) -> Line {
    line_by(AccessLogLayer::new(), request, response).await
}

async fn line_by(
    layer: AccessLogLayer,
    request: Request<Body>,
    response: Response<Script>,
) -> Line {
    let lines = Lines::listen();
    let mut response = Some(response);
    let service = service_fn(move |_: Request<Body>| {
        let response = response.take().expect("asked once");
        async { Ok::<_, Infallible>(response) }
    });
    let answer = layer
        .layer(service)
        .oneshot(request)
        .await
        .expect("infallible");
    assert_eq!(lines.take_access(), [], "before its end");
    common::body::read(answer.into_body()).await;
    lines.one()
}

fn response(status: u16, steps: impl IntoIterator<Item = Step>) -> Response<Script> {
    let mut response = Response::new(Script::of(steps));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

fn with(
    mut response: Response<Script>,
    pairs: &[(&'static str, &'static str)],
) -> Response<Script> {
    response.headers_mut().extend(map(pairs));
    response
}

/// These fields of a line, `-` for one that it has not.
fn fields<'a, const N: usize>(line: &'a Line, names: [&str; N]) -> [&'a str; N] {
    names.map(|name| line.get(name).map_or("-", String::as_str))
}

fn grpc() -> Request<Body> {
    post("application/grpc")
}

fn status(code: &'static str) -> Step {
    Step::Trailers(map(&[
        ("grpc-status", code),
        ("grpc-message", "no%20beans"),
    ]))
}

fn oh() -> Step {
    Step::Fail("oh".into())
}

#[tokio::test]
async fn each_end_has_its_outcome_level_and_error() {
    let failure = || {
        let mut response = response(503, []);
        response
            .extensions_mut()
            .insert(Failure::new("the disk is full"));
        response
    };
    let rejected = |reason, which| {
        let rejection = Rejection::new(reason, "a_layer").with_which(which);
        let rejection = rejection.into_response(plimsoll::protocol::Protocol::Http, None);
        rejection.map(|_| Script::of([]))
    };
    for (case, request, response, expected) in [
        (
            "200",
            get("/"),
            response(200, []),
            ["INFO", "200", "-", "ok", "-"],
        ),
        (
            "304",
            get("/"),
            response(304, []),
            ["INFO", "304", "-", "ok", "-"],
        ),
        (
            "404",
            get("/"),
            response(404, []),
            ["INFO", "404", "-", "client_error", "-"],
        ),
        (
            "500",
            get("/"),
            response(500, []),
            ["ERROR", "500", "-", "server_error", "-"],
        ),
        (
            "503 and why",
            get("/"),
            failure(),
            ["ERROR", "503", "-", "server_error", "the disk is full"],
        ),
        (
            "body error",
            get("/"),
            response(200, [oh()]),
            ["ERROR", "200", "-", "body_error", "oh"],
        ),
        (
            "an error's body breaks",
            get("/"),
            response(404, [oh()]),
            ["ERROR", "404", "-", "body_error", "oh"],
        ),
        (
            "short",
            get("/"),
            with(
                response(200, [Step::Data(b"ok")]),
                &[("content-length", "5")],
            ),
            [
                "ERROR",
                "200",
                "-",
                "body_error",
                "the body ended 3 bytes short of its content-length",
            ],
        ),
        (
            "shed",
            get("/"),
            rejected(Reason::Shed, "a"),
            ["WARN", "503", "-", "shed", "-"],
        ),
        (
            "deadline",
            get("/"),
            rejected(Reason::Deadline, "a"),
            ["WARN", "504", "-", "deadline", "-"],
        ),
        (
            "malformed",
            get("/"),
            rejected(Reason::Malformed, "a"),
            ["INFO", "400", "-", "malformed", "-"],
        ),
        (
            "a timeout of ours",
            get("/"),
            rejected(Reason::Timeout, "a"),
            ["ERROR", "504", "-", "timeout", "-"],
        ),
        (
            "gRPC 0",
            grpc(),
            response(200, [status("0")]),
            ["INFO", "200", "OK", "ok", "-"],
        ),
        (
            "gRPC 5",
            grpc(),
            response(200, [status("5")]),
            ["INFO", "200", "NOT_FOUND", "client_error", "no beans"],
        ),
        (
            "gRPC 1",
            grpc(),
            response(200, [status("1")]),
            ["INFO", "200", "CANCELLED", "client_error", "no beans"],
        ),
        (
            "gRPC 14",
            grpc(),
            response(200, [status("14")]),
            ["ERROR", "200", "UNAVAILABLE", "server_error", "no beans"],
        ),
        (
            "gRPC 99",
            grpc(),
            response(200, [status("99")]),
            ["ERROR", "200", "UNKNOWN", "server_error", "no beans"],
        ),
        (
            "gRPC in the head",
            grpc(),
            with(
                response(200, []),
                &[("grpc-status", "8"), ("grpc-message", "too%20many")],
            ),
            [
                "INFO",
                "200",
                "RESOURCE_EXHAUSTED",
                "client_error",
                "too many",
            ],
        ),
        (
            "gRPC without a status",
            grpc(),
            response(200, [Step::Data(b"ok")]),
            [
                "ERROR",
                "200",
                "INTERNAL",
                "body_error",
                "missing grpc-status",
            ],
        ),
        (
            "gRPC with trailers but no status",
            grpc(),
            response(200, [Step::Trailers(map(&[]))]),
            [
                "ERROR",
                "200",
                "INTERNAL",
                "body_error",
                "missing grpc-status",
            ],
        ),
        (
            "gRPC that breaks",
            grpc(),
            response(200, [oh()]),
            ["ERROR", "200", "INTERNAL", "body_error", "oh"],
        ),
        (
            "gRPC to no route",
            grpc(),
            response(404, []),
            ["INFO", "404", "-", "client_error", "-"],
        ),
        (
            "a status of gRPC is none of HTTP's",
            get("/"),
            response(200, [status("5")]),
            ["INFO", "200", "-", "ok", "-"],
        ),
    ] {
        let line = line_of(request, response).await;
        let told = fields(
            &line,
            ["level", "status", "grpc_status", "outcome", "error"],
        );
        assert_eq!(told, expected, "{case}: {line:#?}");
        let missing = told[3] == "server_error" && told[4] == "-";
        assert_eq!(line.contains_key("error_missing"), missing, "{case}");
    }
}

#[tokio::test]
async fn a_rejection_tells_its_layer_and_which() {
    let rejection = Rejection::new(Reason::QueueTimeout, "back_pressure").with_which("idle");
    let rejection = rejection.into_response(plimsoll::protocol::Protocol::Http, None);
    let line = line_of(get("/"), rejection.map(|_| Script::of([]))).await;
    assert_eq!(
        fields(&line, ["outcome", "layer", "which"]),
        ["queue_timeout", "back_pressure", "idle"]
    );
}

#[tokio::test]
async fn levels_are_set_for_rejections_and_errors_of_callers() {
    let layer = || {
        AccessLogLayer::new()
            .client_errors_at(Level::DEBUG)
            .rejections_at(Level::TRACE)
    };
    let line = line_by(layer(), get("/"), response(404, [])).await;
    assert_eq!(line["level"], "DEBUG");
    let rejection = Rejection::new(Reason::Shed, "x");
    let rejection = rejection.into_response(plimsoll::protocol::Protocol::Http, None);
    let line = line_by(layer(), get("/"), rejection.map(|_| Script::of([]))).await;
    assert_eq!(line["level"], "TRACE");
    assert_eq!(
        line_by(layer(), get("/"), response(500, [])).await["level"],
        "ERROR"
    );
}

#[tokio::test]
async fn an_error_of_the_service_is_told_with_its_chain() {
    #[derive(Debug)]
    struct NoBeans(std::io::Error);
    impl std::fmt::Display for NoBeans {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("no beans")
        }
    }
    impl std::error::Error for NoBeans {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
    let lines = Lines::listen();
    let service = service_fn(|_: Request<Body>| async {
        let error = NoBeans(std::io::Error::other("the disk is full"));
        Err::<Response<Body>, BoxError>(error.into())
    });
    let answer = AccessLogLayer::new().layer(service).oneshot(get("/")).await;
    assert_eq!(answer.expect_err("it passes").to_string(), "no beans");
    let line = lines.one();
    assert_eq!(
        fields(&line, ["level", "outcome", "error", "status", "ttfb_ms"]),
        [
            "ERROR",
            "server_error",
            "no beans: the disk is full",
            "-",
            "-"
        ]
    );
}

#[tokio::test]
async fn a_failure_keeps_its_cause_through_every_layer() {
    let lines = Lines::listen();
    let app = Router::new()
        .route(
            "/",
            on_get(|| async {
                let failure = Failure::new(std::io::Error::other("the disk is full"));
                (StatusCode::BAD_GATEWAY, axum::Extension(failure))
            }),
        )
        .layer(CatchPanicLayer::new())
        .layer(AccessLogLayer::new());
    drop(app.oneshot(get("/")).await);
    assert_eq!(lines.one()["error"], "the disk is full");
}

#[tokio::test]
async fn the_first_cause_is_the_outcome_and_later_ones_are_told_beside_it() {
    let lines = Lines::listen();
    // The request's body breaks, the handler answers 200 all the same, then the response breaks too.
    let app = Router::new()
        .route(
            "/",
            on_post(|request: Request<Body>| async {
                assert!(request.into_body().collect().await.is_err());
                Body::new(Script::of([Step::Data(b"ok"), oh()]))
            }),
        )
        .layer(AccessLogLayer::new());
    let mut request = post("text/plain");
    *request.body_mut() = Body::new(Script::of([Step::Data(b"abc"), Step::Fail("cut".into())]));
    let answer = app.oneshot(request).await.expect("infallible");
    assert!(answer.into_body().collect().await.is_err());
    let line = lines.one();
    assert_eq!(
        fields(&line, ["outcome", "error", "bytes_in"]),
        ["request_body_error", "cut", "3"]
    );
    assert_eq!(line["also"], "body_error: oh");
}

#[tokio::test]
async fn a_line_tells_what_was_asked() {
    let lines = Lines::listen();
    let app = Router::new()
        .route("/orders/{id}", on_post(|body: Bytes| async move { body }))
        .layer(AccessLogLayer::new());
    let address = "192.0.2.7:4711"
        .parse::<std::net::SocketAddr>()
        .expect("an address");
    let request = Request::builder()
        .method("POST")
        .uri("/orders/7?token=t0ken&verbose")
        .header("user-agent", "test/1")
        .header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        .extension(plimsoll::context::PeerAddr(address))
        .body(Body::from("hello"))
        .expect("a request");
    let answer = app.oneshot(request).await.expect("infallible");
    answer.into_body().collect().await.expect("no error");
    let line = lines.one();
    assert_eq!(
        fields(
            &line,
            [
                "event",
                "protocol",
                "method",
                "path",
                "route",
                "bytes_in",
                "bytes_out"
            ]
        ),
        [
            "request",
            "http/1.1",
            "POST",
            "/orders/7?token=REDACTED&REDACTED",
            "/orders/{id}",
            "5",
            "5"
        ]
    );
    assert_eq!(
        fields(&line, ["client", "user_agent", "trace_id", "span_id"]),
        [
            "192.0.2.7",
            "test/1",
            "0af7651916cd43dd8448eb211c80319c",
            "b7ad6b7169203331"
        ]
    );
    assert_eq!(line.get("request_id"), None);
}

#[tokio::test]
async fn strange_requests_have_lines_too() {
    let lines = Lines::listen();
    let app = Router::new()
        .route("/", on_get(|| async {}))
        .layer(AccessLogLayer::new());
    let mut strange = get("/");
    strange.headers_mut().insert(
        "user-agent",
        HeaderValue::from_bytes(b"\xff\x80").expect("a value"),
    );
    strange.headers_mut().append(
        "content-type",
        HeaderValue::from_bytes(b"\xff").expect("a value"),
    );
    strange
        .headers_mut()
        .append("content-type", HeaderValue::from_static("application/grpc"));
    strange
        .headers_mut()
        .insert("x-long", "x".repeat(100_000).parse().expect("a value"));
    let mut star = get("/");
    *star.uri_mut() = "*".parse().expect("a URI");
    *star.method_mut() = http::Method::OPTIONS;
    let mut connect = get("/");
    *connect.uri_mut() = "example.com:443".parse().expect("a URI");
    *connect.method_mut() = http::Method::CONNECT;
    let mut absolute = get("/");
    *absolute.uri_mut() = "http://user:pass@example.com/?secret=1"
        .parse()
        .expect("a URI");
    let mut long = get("/");
    *long.uri_mut() = format!("/{}?{}", "p".repeat(30_000), "q".repeat(30_000))
        .parse()
        .expect("a URI");
    for (case, request) in [
        ("no text", strange),
        ("*", star),
        ("connect", connect),
        ("absolute", absolute),
        ("long", long),
    ] {
        let answer = app.clone().oneshot(request).await.expect("infallible");
        drop(answer.into_body().collect().await);
        let line = lines.one();
        let text = format!("{line:?}");
        assert!(
            !text.contains("pass") && !text.contains("secret=1"),
            "{case}: {text}"
        );
        assert!(!text.contains("qqq"), "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn times_are_those_of_the_head_and_of_the_true_end() {
    let lines = Lines::listen();
    let service = AccessLogLayer::new().layer(service_fn(|_: Request<Body>| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok::<_, Infallible>(response(200, [Step::Data(b"a"), Step::Data(b"b")]))
    }));
    let answer = service.oneshot(get("/")).await.expect("infallible");
    let mut body = answer.into_body();
    body.frame().await.expect("a frame").expect("data");
    tokio::time::advance(Duration::from_micros(300_500)).await;
    drop(body.collect().await);
    let line = lines.one();
    // The timer's wheel has slots of a millisecond.
    assert!(
        ["20.0", "21.0", "20", "21"].contains(&&*line["ttfb_ms"]),
        "{line:?}"
    );
    assert!(
        ["320.5", "321.5"].contains(&&*line["duration_ms"]),
        "{line:?}"
    );
}

#[tokio::test]
async fn the_callers_end_is_told_as_such() {
    let lines = Lines::listen();
    let mut hanging = AccessLogLayer::new().layer(service_fn(|_: Request<Body>| async {
        Yield::default().await;
        std::future::pending::<Result<Response<Script>, Infallible>>().await
    }));
    let mut call = Box::pin(hanging.call(get("/")));
    poll_fn(|context| {
        assert!(call.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    drop(call);
    assert_eq!(
        fields(&lines.one(), ["outcome", "level", "status"]),
        ["client_gone", "INFO", "-"]
    );

    let halfway = AccessLogLayer::new().layer(service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(response(200, [Step::Data(b"half"), Step::Hang]))
    }));
    let mut body = halfway
        .oneshot(get("/"))
        .await
        .expect("infallible")
        .into_body();
    body.frame().await.expect("a frame").expect("data");
    drop(body);
    assert_eq!(
        fields(&lines.one(), ["outcome", "level", "status", "bytes_out"]),
        ["client_gone_body", "INFO", "200", "4"]
    );
}

// ---- fields of handlers

#[tokio::test]
async fn handlers_add_fields_to_their_own_line_only() {
    assert!(!access_log::field("tenant", "nobody"), "outside of a call");
    let service = service_fn(|_: Request<Body>| async {
        assert!(access_log::field("tenant", "acme"));
        assert!(access_log::field("count", 3));
        Yield::default().await;
        assert!(access_log::field("count", 4_u64));
        let bare = tokio::spawn(async { access_log::field("late", true) });
        assert!(!bare.await.expect("no panic"), "in a task of its own");
        let carried = tokio::spawn(in_current_call(async { access_log::field("late", true) }));
        assert!(
            !carried.await.expect("no panic"),
            "in a task of its own, with the ids"
        );
        let supervised = plimsoll::task::spawn("t", async { access_log::field("late", true) });
        assert!(
            !supervised.await.expect("no panic"),
            "in a task of its own, with the ids"
        );
        Ok::<_, Infallible>(response(200, [Step::Data(b"ok")]))
    });
    let answer = AccessLogLayer::new().layer(service).oneshot(get("/")).await;
    common::body::read(answer.expect("infallible").into_body()).await;
    assert!(!access_log::field("tenant", "nobody"), "after the call");
}

#[tokio::test]
async fn more_fields_than_a_line_takes_are_refused() {
    const NAMES: [&str; 40] = {
        let mut names = [""; 40];
        let all = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN";
        let mut at = 0;
        while at < 40 {
            names[at] = all.split_at(at).1;
            at += 1;
        }
        names
    };
    let service = AccessLogLayer::new().layer(service_fn(|_: Request<Body>| async {
        let taken = NAMES
            .iter()
            .filter(|name| access_log::field(name, 1))
            .count();
        assert_eq!(taken, 32);
        assert!(access_log::field(NAMES[0], 2), "an old one may change");
        Ok::<_, Infallible>(response(200, []))
    }));
    drop(service.oneshot(get("/")).await);
}

// ---- sampling

#[tokio::test]
async fn one_in_so_many_successes_is_written_and_every_failure() {
    let lines = Lines::listen();
    let layer = AccessLogLayer::new().sample_successes(NonZeroU32::new(10).expect("not zero"));
    let app = Router::new()
        .route("/ok", on_get(|| async { "ok" }).post(|| async { "ok" }))
        .route("/ok/too", on_get(|| async { "ok" }))
        .route("/err", on_get(|| async { StatusCode::BAD_GATEWAY }))
        .layer(layer.clone());
    for _ in 0..50 {
        for path in ["/ok", "/ok/too", "/err", "/nowhere"] {
            let answer = app.clone().oneshot(get(path)).await.expect("infallible");
            drop(answer.into_body().collect().await);
        }
    }
    let written = lines.take_access();
    let count = |outcome: &str| {
        written
            .iter()
            .filter(|line| line["outcome"] == outcome)
            .count()
    };
    assert_eq!(
        [count("ok"), count("server_error"), count("client_error")],
        [10, 50, 50]
    );
    assert_eq!(layer.sampled_out(), 90);
}
