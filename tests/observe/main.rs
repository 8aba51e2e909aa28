//! The shared future and body: an observer hears the true end of each call once, and the caller never a better one.

#[path = "../common/mod.rs"]
mod common;
mod grpc;
mod rejected;

use std::{
    convert::Infallible,
    error::Error,
    fmt,
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use common::{
    Script, Yield,
    body::{Got, Step, map, read},
    get, header, post,
};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use plimsoll::{
    context::Scope,
    observe::{BoxError, End, Observer, ResponseBody, ResponseFuture},
};
use tower::{Layer, Service, ServiceExt as _, service_fn};

/// What observers were told, in order.
#[derive(Clone, Default)]
struct Ends(Arc<Mutex<Vec<String>>>);

impl Ends {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Watch(Ends);

impl Observer for Watch {
    fn on_end(self, end: End<'_>) {
        let text = match end {
            End::Complete { trailers: None } => "complete".to_owned(),
            End::Complete {
                trailers: Some(trailers),
            } => {
                let status = trailers.get("grpc-status");
                let status = status.map_or("none", |status| status.to_str().expect("ASCII"));
                format!("complete, status {status}")
            }
            End::Failed(fault) => format!("failed: {fault}"),
            End::Dropped => "dropped".to_owned(),
            End::Panicked => "panicked".to_owned(),
            other => format!("{other:?}"),
        };
        let mut ends = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        ends.push(text);
    }
}

/// A layer as somebody outside of plimsoll writes one.
#[derive(Clone, Default)]
struct WatchLayer(Ends);

impl<S> Layer<S> for WatchLayer {
    type Service = Watched<S>;

    fn layer(&self, inner: S) -> Watched<S> {
        Watched(inner, self.0.clone())
    }
}

#[derive(Clone)]
struct Watched<S>(S, Ends);

impl<S, A, B> Service<Request<A>> for Watched<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Error: fmt::Display + 'static,
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<B, Watch>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, Watch>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let scope = Scope::open(&mut request);
        ResponseFuture::call(&mut self.0, request, Watch(self.1.clone()), scope)
    }
}

/// Answers this request with that response, watched.
async fn answer(
    request: Request<Body>,
    response: Response<Script>,
) -> (Response<ResponseBody<Script, Watch>>, Ends) {
    let layer = WatchLayer::default();
    let mut response = Some(response);
    let service = service_fn(move |_| {
        let response = response.take().expect("asked once");
        async { Ok::<_, Infallible>(response) }
    });
    let response = layer.layer(service).oneshot(request).await;
    (response.expect("infallible"), layer.0)
}

/// The same, read to its end as a server does and dropped.
async fn answer_read(request: Request<Body>, response: Response<Script>) -> (Got, Vec<String>) {
    let (response, ends) = answer(request, response).await;
    let got = read(response.into_body()).await;
    (got, ends.take())
}

/// The same, dropped without a look at its body.
async fn answer_unread(request: Request<Body>, response: Response<Script>) -> Vec<String> {
    let (response, ends) = answer(request, response).await;
    assert_eq!(ends.take(), [""; 0], "told before its end");
    drop(response);
    ends.take()
}

fn response(steps: impl IntoIterator<Item = Step>) -> Response<Script> {
    Response::new(Script::of(steps))
}

fn with_length(length: &str, mut response: Response<Script>) -> Response<Script> {
    let length = length.parse().expect("a value");
    response.headers_mut().insert("content-length", length);
    response
}

fn with_status(status: u16, mut response: Response<Script>) -> Response<Script> {
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

fn head() -> Request<Body> {
    let mut request = get("/");
    *request.method_mut() = http::Method::HEAD;
    request
}

fn oh() -> Step {
    Step::Fail("oh".into())
}

#[tokio::test]
async fn a_body_that_is_read_to_its_end_is_complete() {
    let trailers = || Step::Trailers(map(&[("x-sum", "1")]));
    for (case, response, data, expected) in [
        ("no body", response([]), "", "complete"),
        ("data", response([Step::Data(b"ok")]), "ok", "complete"),
        (
            "data that waits",
            response([Step::Wait, Step::Data(b"ok"), Step::Wait]),
            "ok",
            "complete",
        ),
        (
            "empty chunks",
            response([Step::Data(b""), Step::Data(b"ok"), Step::Data(b"")]),
            "ok",
            "complete",
        ),
        (
            "trailers",
            response([Step::Data(b"ok"), trailers()]),
            "ok",
            "complete, status none",
        ),
        (
            "trailers alone",
            response([trailers()]),
            "",
            "complete, status none",
        ),
        (
            "a status of gRPC is none of HTTP's business",
            response([Step::Trailers(map(&[("grpc-status", "5")]))]),
            "",
            "complete, status 5",
        ),
        (
            "its length",
            with_length("2", response([Step::Data(b"ok")])),
            "ok",
            "complete",
        ),
        (
            "its length, then trailers",
            with_length("2", response([Step::Data(b"ok"), trailers()])),
            "ok",
            "complete, status none",
        ),
        (
            "a length that is no number",
            with_length("two", response([Step::Data(b"ok")])),
            "ok",
            "complete",
        ),
        (
            "trailers of gRPC after the end that it told",
            Response::new(Script::of([Step::Data(b"ok")]).telling_its_end()),
            "ok",
            "complete",
        ),
    ] {
        let (got, ends) = answer_read(get("/"), response).await;
        assert_eq!((got.text(), &got.error), (data, &None), "{case}");
        assert_eq!(ends, [expected], "{case}");
    }
}

#[tokio::test]
async fn a_body_whose_last_byte_is_out_is_complete_without_a_last_poll() {
    let one_frame = |response: Response<Script>| async {
        let (response, ends) = answer(get("/"), response).await;
        let mut body = response.into_body();
        body.frame().await.expect("a frame").expect("no error");
        assert_eq!(ends.take(), [""; 0], "more may come");
        drop(body);
        ends.take()
    };
    let ok = || Step::Data(b"ok");
    for (case, response, expected) in [
        (
            "its length is reached",
            with_length("2", response([ok(), Step::Hang])),
            "complete",
        ),
        (
            "its size is reached",
            Response::new(Script::of([ok(), Step::Hang]).with_size(2)),
            "complete",
        ),
        (
            "it says so",
            Response::new(Script::of([ok()]).telling_its_end()),
            "complete",
        ),
        ("nothing says so", response([ok()]), "dropped"),
        (
            "a byte is missing",
            with_length("3", response([ok(), Step::Data(b"!")])),
            "dropped",
        ),
    ] {
        assert_eq!(one_frame(response).await, [expected], "{case}");
    }
}

#[tokio::test]
async fn a_response_without_a_body_is_complete_though_nobody_looks_at_it() {
    let ok = || response([Step::Data(b"ok")]);
    for (case, request, response, expected) in [
        ("HEAD", head(), ok(), "complete"),
        (
            "HEAD with a length",
            head(),
            with_length("2", ok()),
            "complete",
        ),
        (
            "HEAD of an error",
            head(),
            with_status(500, ok()),
            "complete",
        ),
        ("204", get("/"), with_status(204, ok()), "complete"),
        (
            "304",
            get("/"),
            with_status(304, with_length("2", ok())),
            "complete",
        ),
        ("101", get("/"), with_status(101, ok()), "complete"),
        (
            "length 0",
            get("/"),
            with_length("0", response([])),
            "complete",
        ),
        (
            "an end that is told",
            get("/"),
            Response::new(Script::of([]).telling_its_end()),
            "complete",
        ),
        ("a body", get("/"), ok(), "dropped"),
        (
            "205 may have one",
            get("/"),
            with_status(205, ok()),
            "dropped",
        ),
    ] {
        assert_eq!(answer_unread(request, response).await, [expected], "{case}");
    }
}

#[tokio::test]
async fn a_body_that_fails_or_falls_short_is_cut() {
    for (case, response, error) in [
        ("at once", response([oh()]), "oh"),
        ("after data", response([Step::Data(b"ok"), oh()]), "oh"),
        (
            "after its length",
            with_length("2", response([Step::Data(b"ok"), oh()])),
            "oh",
        ),
        (
            "short",
            with_length("5", response([Step::Data(b"ok")])),
            "the body ended 3 bytes short of its content-length",
        ),
        (
            "short of its size",
            Response::new(Script::of([Step::Data(b"ok")]).with_size(3)),
            "the body ended 1 bytes short of its content-length",
        ),
    ] {
        let (got, ends) = answer_read(get("/"), response).await;
        assert_eq!(got.error.as_deref(), Some(error), "{case}");
        assert_eq!(ends, [format!("failed: {error}")], "{case}");
    }
}

#[tokio::test]
async fn nothing_comes_after_the_end() {
    let more = || [Step::Data(b"more"), oh(), Step::Panic("polled again")];
    let status = || Step::Trailers(map(&[("grpc-status", "0")]));
    for (case, request, first) in [
        ("the end", get("/"), Step::End),
        ("trailers", get("/"), Step::Trailers(map(&[]))),
        ("an error", get("/"), oh()),
        ("the trailers of gRPC", post("application/grpc"), status()),
        ("an error of gRPC", post("application/grpc"), oh()),
        ("an end of gRPC", post("application/grpc"), Step::End),
        (
            "an end of gRPC-Web",
            post("application/grpc-web"),
            Step::End,
        ),
    ] {
        let steps = [first].into_iter().chain(more());
        let (response, ends) = answer(request, response(steps)).await;
        let mut body = response.into_body();
        // One frame, or none: the end.
        drop(body.frame().await);
        assert_eq!(ends.take().len(), 1, "{case}");
        for _ in 0..3 {
            assert!(body.is_end_stream(), "{case}");
            assert_eq!(body.size_hint().exact(), Some(0), "{case}");
            assert!(body.frame().await.is_none(), "{case}");
        }
        drop(body);
        assert_eq!(ends.take(), [""; 0], "{case}: told once");
    }
}

#[tokio::test]
async fn size_and_end_are_those_of_the_inner_body() {
    let (response, _) = answer(
        get("/"),
        Response::new(
            Script::of([Step::Data(b"ok")])
                .with_size(2)
                .telling_its_end(),
        ),
    )
    .await;
    let mut body = response.into_body();
    assert_eq!(body.size_hint().exact(), Some(2));
    assert!(!body.is_end_stream());
    body.frame().await.expect("a frame").expect("data");
    assert!(body.is_end_stream());
}

// ---- the future

/// Answers with what the future becomes.
fn watched<F, B, E>(
    future: F,
) -> (
    impl Future<Output = Result<Response<ResponseBody<B, Watch>>, E>>,
    Ends,
)
where
    F: Future<Output = Result<Response<B>, E>>,
    E: fmt::Display + 'static,
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let layer = WatchLayer::default();
    let mut future = Some(future);
    let mut service = layer.layer(service_fn(move |_: Request<Body>| {
        future.take().expect("called once")
    }));
    (service.call(get("/")), layer.0)
}

#[tokio::test]
async fn an_error_before_the_head_passes_unchanged_and_is_told() {
    let (future, ends) = watched(async { Err::<Response<Script>, &str>("no beans") });
    assert_eq!(future.await.err(), Some("no beans"));
    assert_eq!(ends.take(), ["failed: no beans"]);
}

#[tokio::test]
async fn a_call_that_is_dropped_before_its_head_is_told_after_its_future_is_gone() {
    let (future, ends) = watched(std::future::pending::<Result<Response<Script>, Infallible>>());
    drop(future);
    assert_eq!(ends.take(), ["dropped"], "never polled");

    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let (future, ends) = watched(async move {
        let _held = held;
        Yield::default().await;
        std::future::pending::<Result<Response<Script>, Infallible>>().await
    });
    let mut future = Box::pin(future);
    poll_fn(|context| {
        assert!(future.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    assert_eq!(ends.take(), [""; 0]);
    drop(future);
    assert_eq!(ends.take(), ["dropped"]);
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[tokio::test]
async fn a_body_that_is_dropped_in_the_midst_is_told() {
    let (response, ends) = answer(get("/"), response([Step::Data(b"ok"), Step::Hang])).await;
    let mut body = response.into_body();
    body.frame().await.expect("a frame").expect("data");
    drop(body);
    assert_eq!(ends.take(), ["dropped"]);
}

/// Runs this and says whether it panicked.
fn panics(run: impl FnOnce()) -> bool {
    std::panic::catch_unwind(AssertUnwindSafe(run)).is_err()
}

/// Polls once and catches a panic, as a layer further out may.
async fn poll_catching<F: Future>(mut future: Pin<&mut F>) -> Option<Poll<F::Output>> {
    poll_fn(|context| {
        let polled =
            std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))).ok();
        Poll::Ready(polled)
    })
    .await
}

#[test]
fn a_panic_in_call_is_told() {
    let layer = WatchLayer::default();
    let mut service = layer.layer(service_fn(
        |_| -> std::future::Ready<Result<Response<Script>, Infallible>> { panic!("in call") },
    ));
    assert!(panics(|| drop(service.call(get("/")))));
    assert_eq!(layer.0.take(), ["panicked"]);
}

#[tokio::test]
async fn a_panic_in_poll_is_told_though_it_is_caught_before_the_future_is_dropped() {
    let (future, ends) = watched(async {
        Yield::default().await;
        if true {
            panic!("in poll");
        }
        Ok::<Response<Script>, Infallible>(response([]))
    });
    let mut future = Box::pin(future);
    assert!(poll_catching(future.as_mut()).await.is_some());
    assert!(poll_catching(future.as_mut()).await.is_none());
    drop(future);
    assert_eq!(ends.take(), ["panicked"]);
}

#[tokio::test]
async fn a_panic_in_the_body_is_told_though_it_is_caught_before_the_body_is_dropped() {
    let (response, ends) = answer(
        get("/"),
        with_length("9", response([Step::Data(b"ok"), Step::Panic("in body")])),
    )
    .await;
    let mut body = response.into_body();
    body.frame().await.expect("a frame").expect("data");
    assert!(poll_catching(pin!(body.frame())).await.is_none());
    drop(body);
    assert_eq!(ends.take(), ["panicked"]);
}

#[tokio::test]
async fn a_panic_in_a_destructor_is_told_once() {
    let (response, ends) = answer(
        get("/"),
        Response::new(Script::of([Step::Hang]).with_bomb()),
    )
    .await;
    assert!(panics(|| drop(response)));
    assert_eq!(ends.take(), ["panicked"]);

    let bomb = common::Bomb("the future panics in drop");
    let (future, ends) = watched(async move {
        let _bomb = bomb;
        std::future::pending::<Result<Response<Script>, Infallible>>().await
    });
    assert!(panics(|| drop(future)));
    assert_eq!(ends.take(), ["panicked"]);
}

#[tokio::test]
async fn a_panic_of_somebody_else_leaves_the_next_call_alone() {
    let (future, _) = watched(async {
        if true {
            panic!("in poll");
        }
        Ok::<Response<Script>, Infallible>(response([]))
    });
    assert!(poll_catching(pin!(future)).await.is_none());
    assert!(plimsoll::context::RequestId::current().is_none());
    let (got, ends) = answer_read(get("/"), response([Step::Data(b"ok")])).await;
    assert_eq!((got.text(), ends), ("ok", vec!["complete".to_owned()]));
}

#[test]
fn futures_and_bodies_are_send_and_sync_when_the_inner_ones_are() {
    fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<ResponseFuture<std::future::Ready<()>, ()>>();
    is_send_and_sync::<ResponseBody<http_body_util::Full<Bytes>, ()>>();
    is_send_and_sync::<
        ResponseBody<http_body_util::Full<Bytes>, plimsoll::server::access_log::Record>,
    >();
}

#[tokio::test]
async fn a_head_may_be_added_to() {
    struct Sign;

    impl Observer for Sign {
        fn on_head<B: http_body::Body>(&mut self, response: &mut Response<B>) {
            let value = http::HeaderValue::from_static("here");
            response.headers_mut().insert("x-sign", value);
        }
    }

    let mut request = get("/");
    let scope = Scope::open(&mut request);
    let mut service = service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(response([])) });
    let response = ResponseFuture::call(&mut service, request, Sign, scope)
        .await
        .expect("infallible");
    assert_eq!(header(&response, "x-sign"), Some("here"));
}
