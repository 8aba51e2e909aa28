//! A panic is an honest answer, one line and a count, and harms nobody else.

#[path = "../common/mod.rs"]
mod common;
mod process;

use std::{
    convert::Infallible,
    num::NonZeroU32,
    panic::{panic_any, resume_unwind},
    pin::Pin,
    process::Output,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, routing::get as on_get};
use bytes::Bytes;
use common::{
    Bomb, Lines, Script, Yield,
    body::{Step, map, read},
    get, header,
    lines::Line,
    post,
    wire::{ask, http1, http2, serve},
};
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;
use plimsoll::{
    observe::BoxError,
    rejection::{Reason, Rejection},
    server::{
        access_log::AccessLogLayer,
        catch_panic::{CatchPanicLayer, PanicCounts},
        request_id::RequestIdLayer,
    },
};
use tower::{Layer as _, ServiceBuilder, ServiceExt as _, service_fn};

const SECRET: &str = "canary-of-the-panic";

/// Panics with a payload of this kind.
fn go_off(kind: &str) {
    match kind {
        "str" => panic!("canary-of-the-panic"),
        "string" => panic!("{SECRET} {}", 1),
        "int" => panic_any(7_i32),
        "error" => panic_any(BoxError::from(SECRET)),
        "resumed" => resume_unwind(Box::new(SECRET)),
        "bomb" => panic_any(Bomb("the payload panics in drop")),
        "expect" => {
            let number: Result<i32, _> = "canary".parse();
            number.expect(SECRET);
        }
        other => panic!("no such kind: {other}"),
    }
    unreachable!("it went off");
}

const KINDS: [&str; 7] = ["str", "string", "int", "error", "resumed", "bomb", "expect"];

/// A handler that panics.
async fn bang() {
    go_off("str");
}

/// Goes off in `call`, in the future, in the body, as the path says; the kind is in the query.
fn explosive(
    request: Request<Body>,
) -> impl Future<Output = Result<Response<Fuse>, Infallible>> + Send {
    let place = request.uri().path().trim_start_matches('/').to_owned();
    let kind = request.uri().query().unwrap_or("str").to_owned();
    if place == "call" {
        go_off(&kind);
    }
    async move {
        Yield::default().await;
        if place == "response" {
            go_off(&kind);
        }
        let steps = [Step::Data(b"ok"), Step::Wait];
        Ok(Response::new(Fuse {
            inner: Script::of(steps),
            kind: (place == "body").then_some(kind),
        }))
    }
}

/// A body that goes off at its end.
struct Fuse {
    inner: Script,
    kind: Option<String>,
}

impl http_body::Body for Fuse {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let (Poll::Ready(None), Some(kind)) = (&polled, &self.kind) {
            go_off(kind);
        }
        polled
    }
}

macro_rules! stack {
    ($catch:expr) => {
        ServiceBuilder::new()
            .layer(RequestIdLayer::new())
            .layer(AccessLogLayer::new())
            .layer($catch)
    };
}

/// The panic lines and the access line of one call.
fn told(lines: &Lines) -> (Vec<Line>, Line) {
    let (mut access, panics): (Vec<_>, Vec<_>) = lines
        .take()
        .into_iter()
        .partition(|line| line["target"] == "plimsoll::access");
    assert_eq!(access.len(), 1, "{access:#?}");
    (panics, access.remove(0))
}

#[tokio::test]
async fn a_panic_before_the_head_is_an_answer_in_the_callers_protocol() {
    let catch = CatchPanicLayer::new();
    let service = stack!(catch.clone()).service(service_fn(explosive));
    for place in ["call", "response"] {
        for kind in KINDS {
            for content_type in [
                "text/plain",
                "application/grpc",
                "application/grpc-web+proto",
                "application/grpc-web-text",
            ] {
                let case = format!("{place} {kind} {content_type}");
                let lines = Lines::listen();
                let mut request = post(content_type);
                *request.uri_mut() = format!("/{place}?{kind}").parse().expect("a path");
                let response = service.clone().oneshot(request).await.expect("infallible");
                let id = header(&response, "x-request-id").expect("an id").to_owned();
                assert_eq!(
                    header(&response, "plimsoll-reason"),
                    Some("panic"),
                    "{case}"
                );
                let rejection = response
                    .extensions()
                    .get::<Rejection>()
                    .expect("a rejection");
                assert_eq!(
                    (rejection.reason(), rejection.layer()),
                    (Reason::Panic, "catch_panic")
                );
                let is_grpc = content_type.contains("grpc");
                if is_grpc {
                    assert_eq!(response.status(), 200, "{case}");
                    assert_eq!(header(&response, "grpc-status"), Some("13"), "{case}");
                } else {
                    assert_eq!(response.status(), 500, "{case}");
                    assert_eq!(
                        header(&response, "content-type"),
                        Some("application/problem+json")
                    );
                    assert_eq!(header(&response, "cache-control"), Some("no-store"));
                }
                let shown = format!("{:?}", response.headers());
                assert!(!shown.contains("canary"), "{case}: {shown}");
                let got = read(response.into_body()).await;
                assert_eq!((&got.error, &got.trailers), (&None, &None), "{case}");
                assert!(!got.text().contains("canary"), "{case}: {}", got.text());
                if is_grpc {
                    assert_eq!(got.text(), "", "{case}");
                } else {
                    let problem: serde_json::Value =
                        serde_json::from_str(got.text()).expect("JSON");
                    assert_eq!(problem["reason"], "panic");
                    assert_eq!(problem["request_id"], id);
                }
                let (panics, access) = told(&lines);
                assert_eq!(panics.len(), 1, "{case}: {panics:#?}");
                let panic = &panics[0];
                assert_eq!(
                    ["target", "event", "level", "where", "current"]
                        .map(|name| panic[name].as_str()),
                    ["plimsoll::panic", "panic", "ERROR", place, &id],
                    "{case}"
                );
                let text = match kind {
                    "int" | "error" | "bomb" => "a panic whose payload is no text",
                    _ => SECRET,
                };
                assert!(panic["panic"].contains(text), "{case}: {panic:?}");
                assert_eq!(
                    panic.contains_key("location"),
                    kind != "resumed",
                    "{case}: {panic:?}"
                );
                assert!(
                    !panic.contains_key("fatal") && !panic.contains_key("backtrace"),
                    "{case}"
                );
                assert_eq!(access["outcome"], "panic", "{case}");
                assert_eq!(access["layer"], "catch_panic", "{case}");
                assert!(access["error"].contains(text), "{case}: {access:?}");
                assert!(!access.contains_key("also"), "{case}: {access:?}");
            }
        }
    }
    let each = u64::try_from(KINDS.len() * 4).expect("small");
    let counts = catch.counts();
    assert_eq!(
        [counts.call, counts.response, counts.body, counts.drop],
        [each, each, 0, 0]
    );
}

#[tokio::test]
async fn a_panic_in_the_body_cuts_http_and_ends_grpc_honestly() {
    let catch = CatchPanicLayer::new();
    let service = stack!(catch.clone()).service(service_fn(explosive));
    for kind in KINDS {
        for content_type in ["text/plain", "application/grpc"] {
            let lines = Lines::listen();
            let mut request = post(content_type);
            *request.uri_mut() = format!("/body?{kind}").parse().expect("a path");
            let response = service.clone().oneshot(request).await.expect("infallible");
            assert_eq!(response.status(), 200);
            let got = read(response.into_body()).await;
            assert_eq!(got.text(), "ok");
            if content_type == "text/plain" {
                assert_eq!(
                    got.error.as_deref(),
                    Some("the body of the response panicked")
                );
            } else {
                assert_eq!(got.error, None);
                assert_eq!(got.trailer("grpc-status"), Some("13"));
                assert_eq!(got.trailer("plimsoll-reason"), Some("panic"));
                assert!(!format!("{:?}", got.trailers).contains("canary"));
            }
            let (panics, access) = told(&lines);
            assert_eq!(panics.len(), 1, "{kind}: {panics:#?}");
            assert_eq!(panics[0]["where"], "body");
            assert_eq!(access["outcome"], "body_panic", "{kind}");
            assert_eq!(access["error"], panics[0]["panic"], "{kind}");
        }
    }
    assert_eq!(
        catch.counts().body,
        u64::try_from(KINDS.len() * 2).expect("small")
    );
}

#[tokio::test]
async fn a_panic_in_a_destructor_is_caught_counted_and_told() {
    let catch = CatchPanicLayer::new();
    // Of the future, when the caller goes away.
    let lines = Lines::listen();
    let service = stack!(catch.clone()).service(service_fn(|_: Request<Body>| async {
        let _bomb = Bomb("in the drop of the future");
        std::future::pending::<Result<Response<Script>, Infallible>>().await
    }));
    let mut call = Box::pin(service.oneshot(get("/")));
    std::future::poll_fn(|context| Poll::Ready(call.as_mut().poll(context).is_pending())).await;
    drop(call);
    let (panics, access) = told(&lines);
    assert_eq!(panics.len(), 1);
    assert_eq!(
        (panics[0]["where"].as_str(), access["outcome"].as_str()),
        ("drop", "client_gone")
    );

    // Of the future, after it answered: the answer is not to be trusted.
    let service = stack!(catch.clone()).service(service_fn(|_: Request<Body>| Late {
        bomb: Some(Bomb("in the drop of a future that answered")),
    }));
    let response = service.oneshot(get("/")).await.expect("infallible");
    assert_eq!(response.status(), 500);
    drop(read(response.into_body()).await);
    assert_eq!(told(&lines).1["outcome"], "panic");

    // Of the body, at its end and before it.
    for (steps, outcome) in [(vec![], "ok"), (vec![Step::Hang], "client_gone_body")] {
        let mut body = Some(Script::of(steps).with_bomb());
        let service = stack!(catch.clone()).service(service_fn(move |_: Request<Body>| {
            let body = body.take().expect("called once");
            async { Ok::<_, Infallible>(Response::new(body)) }
        }));
        let response = service.oneshot(get("/")).await.expect("infallible");
        let mut body = Box::pin(response.into_body());
        std::future::poll_fn(|context| {
            drop(http_body::Body::poll_frame(body.as_mut(), context));
            Poll::Ready(())
        })
        .await;
        drop(body);
        let (panics, access) = told(&lines);
        assert_eq!((panics.len(), panics[0]["where"].as_str()), (1, "drop"));
        assert_eq!(access["outcome"], outcome);
    }
    assert_eq!(catch.counts().drop, 4);
}

/// A future that answers at once and panics when it is dropped.
struct Late {
    bomb: Option<Bomb>,
}

impl Future for Late {
    type Output = Result<Response<Script>, Infallible>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        assert!(self.bomb.is_some());
        Poll::Ready(Ok(Response::new(Script::of([]))))
    }
}

#[tokio::test]
async fn ordinary_answers_pass_as_they_are() {
    let service = CatchPanicLayer::new().layer(service_fn(|_: Request<Body>| async {
        let steps = [Step::Data(b"ok"), Step::Trailers(map(&[("x-sum", "1")]))];
        let mut response = Response::new(Script::of(steps).with_size(2));
        response.headers_mut().extend(map(&[("x-own", "yes")]));
        Ok::<_, Infallible>(response)
    }));
    let response = service.oneshot(get("/")).await.expect("infallible");
    assert_eq!(header(&response, "x-own"), Some("yes"));
    assert_eq!(http_body::Body::size_hint(response.body()).exact(), Some(2));
    let got = read(response.into_body()).await;
    assert_eq!((got.text(), got.trailer("x-sum")), ("ok", Some("1")));
}

#[tokio::test]
async fn panics_of_every_route_and_clone_count_together_and_harm_no_other_call() {
    let catch = CatchPanicLayer::new();
    let app = Router::new()
        .route("/ok", on_get(|| async { "ok" }))
        .route("/a", on_get(bang).post(bang))
        .route("/b/{id}", on_get(bang))
        .layer(catch.clone())
        .layer(RequestIdLayer::new());
    let address = serve(app).await;
    for client in [http1(), http2()] {
        for round in 0..500 {
            let path = ["/ok", "/a", "/b/7"][round % 3];
            let response = ask(&client, address, get(path)).await;
            let status = if path == "/ok" { 200 } else { 500 };
            assert_eq!(response.status(), status);
            response.into_body().collect().await.expect("no error");
        }
    }
    let counts = catch.counts();
    let PanicCounts { response, .. } = counts;
    assert_eq!(response, 2 * 333);
    let answer = ask(&http2(), address, get("/ok")).await;
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn a_layer_within_may_catch_its_own() {
    let lines = Lines::listen();
    let app = Router::new()
        .route("/", on_get(bang))
        .layer(tower_http::catch_panic::CatchPanicLayer::new())
        .layer(CatchPanicLayer::new())
        .layer(AccessLogLayer::new());
    for _ in 0..3 {
        let response = app.clone().oneshot(get("/")).await.expect("infallible");
        assert_eq!(response.status(), 500);
        drop(response.into_body().collect().await);
        let (panics, access) = told(&lines);
        assert_eq!(panics.len(), 1, "{panics:#?}");
        assert_eq!(panics[0]["caught_inside"], "true");
        assert!(!panics[0].contains_key("fatal"), "{panics:#?}");
        assert_eq!(access["outcome"], "server_error");
    }
}

#[tokio::test]
async fn several_panics_that_a_handler_caught_are_not_fatal() {
    let lines = Lines::listen();
    let catch = CatchPanicLayer::new();
    let service = stack!(catch.clone()).service(service_fn(|request: Request<Body>| async move {
        for _ in 0..3 {
            assert!(std::panic::catch_unwind(|| panic!("caught by the handler")).is_err());
        }
        if request.uri().path() == "/panic" {
            panic!("not caught by the handler");
        }
        Ok::<_, Infallible>(Response::new(Script::of([])))
    }));
    for path in ["/", "/panic"] {
        let response = service
            .clone()
            .oneshot(get(path))
            .await
            .expect("infallible");
        drop(read(response.into_body()).await);
        let (panics, access) = told(&lines);
        for panic in &panics {
            assert!(!panic.contains_key("fatal"), "{panics:#?}");
            assert!(panic.contains_key("location"), "{panics:#?}");
        }
        assert_eq!(panics.len(), if path == "/" { 3 } else { 4 }, "{panics:#?}");
        if path == "/panic" {
            assert_eq!(access["error"], "not caught by the handler");
        }
    }
    assert_eq!(catch.counts().response, 1);
}

#[tokio::test]
async fn a_layer_that_is_applied_twice_catches_once() {
    let (outer, inner) = (CatchPanicLayer::new(), CatchPanicLayer::new());
    let lines = Lines::listen();
    let service = ServiceBuilder::new()
        .layer(AccessLogLayer::new())
        .layer(outer.clone())
        .layer(inner.clone())
        .service(service_fn(explosive));
    for path in ["/call", "/response", "/body"] {
        let response = service
            .clone()
            .oneshot(get(path))
            .await
            .expect("infallible");
        drop(read(response.into_body()).await);
        let (panics, _) = told(&lines);
        assert_eq!(panics.len(), 1, "{panics:#?}");
    }
    assert_eq!(outer.counts(), PanicCounts::default());
    let counts = inner.counts();
    assert_eq!([counts.call, counts.response, counts.body], [1, 1, 1]);
}

#[tokio::test]
async fn a_backtrace_is_captured_when_asked_for() {
    let lines = Lines::listen();
    let service = stack!(CatchPanicLayer::new().backtraces()).service(service_fn(explosive));
    let response = service.oneshot(get("/response")).await.expect("infallible");
    drop(read(response.into_body()).await);
    let (panics, _) = told(&lines);
    assert!(panics[0]["backtrace"].contains("go_off"), "{panics:?}");
}

#[tokio::test]
async fn a_panic_text_that_quotes_the_request_is_redacted() {
    let lines = Lines::listen();
    let service =
        stack!(CatchPanicLayer::new()).service(service_fn(|request: Request<Body>| async move {
            if true {
                panic!("{:?} {}", request.headers(), request.uri());
            }
            Ok::<_, Infallible>(Response::new(Script::of([])))
        }));
    let mut request = get("/?key=canary-query");
    let name = HeaderName::from_static("authorization");
    request
        .headers_mut()
        .insert(name, HeaderValue::from_static("Bearer canary-token"));
    let response = service.oneshot(request).await.expect("infallible");
    drop(read(response.into_body()).await);
    let text = format!("{:?}", lines.take());
    assert!(
        text.contains("REDACTED") && !text.contains("canary"),
        "{text}"
    );
}
