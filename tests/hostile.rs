//! What broken code of users' and hostile callers cannot do: lose a line, put one call's facts into another's, end a
//! call that went well.

mod common;

use std::{
    convert::Infallible,
    error::Error,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use axum::body::Body;
use common::{
    Bomb, Lines, Script,
    body::{Step, read},
    get,
};
use http::{Request, Response, StatusCode};
use plimsoll::{
    context::{Failure, FieldValue, RequestId, TraceContext},
    server::{
        access_log::{self, AccessLogLayer},
        catch_panic::CatchPanicLayer,
        request_id::RequestIdLayer,
    },
    task,
};
use tower::{Layer as _, Service as _, ServiceBuilder, ServiceExt as _, service_fn};
use tracing::{Event, Subscriber, span};
use tracing_subscriber::{layer, layer::SubscriberExt as _};

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// How the text of an error is made.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Says {
    Panics,
    Fails,
    AsksForItsCall,
}

/// An error whose text is trouble.
#[derive(Debug)]
struct Trouble(Says);

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Says::Panics => panic!("in Display"),
            Says::Fails => Err(fmt::Error),
            Says::AsksForItsCall => {
                let added = access_log::field("from", "display");
                write!(f, "id {}, added {added}", RequestId::current().is_some())
            }
        }
    }
}

impl Error for Trouble {}

fn traced() -> Request<Body> {
    let mut request = get("/");
    let parent = TRACEPARENT.parse().expect("a header");
    request.headers_mut().insert("traceparent", parent);
    request
}

#[tokio::test]
async fn an_error_whose_text_is_trouble_ends_as_any_other() {
    for (says, told) in [
        (Says::Panics, "<panicked while it was formatted>"),
        (Says::Fails, "<could not be formatted>"),
        (Says::AsksForItsCall, "id true, added true"),
    ] {
        let lines = Lines::listen();
        let service = ServiceBuilder::new()
            .layer(RequestIdLayer::new())
            .layer(AccessLogLayer::new())
            .service(service_fn(move |_: Request<Body>| async move {
                Err::<Response<Script>, _>(Trouble(says))
            }));
        let error = service.oneshot(get("/")).await.expect_err("it failed");
        assert_eq!(error.0, says, "it passes unchanged");
        let line = lines.one();
        assert_eq!(line["outcome"], "server_error", "{says:?}");
        assert_eq!(line["error"], told);
    }
}

#[tokio::test]
async fn a_body_whose_error_is_trouble_is_cut_as_any_other() {
    for (says, told) in [
        (Says::Panics, "<panicked while it was formatted>"),
        (Says::Fails, "<could not be formatted>"),
        (Says::AsksForItsCall, "id true, added true"),
    ] {
        let lines = Lines::listen();
        let service = ServiceBuilder::new()
            .layer(RequestIdLayer::new())
            .layer(AccessLogLayer::new())
            .service(service_fn(move |_: Request<Body>| async move {
                let steps = [Step::Data(b"ok"), Step::Fail(Trouble(says).into())];
                Ok::<_, Infallible>(Response::new(Script::of(steps)))
            }));
        let response = service.oneshot(get("/")).await.expect("infallible");
        let mut body = Box::pin(response.into_body());
        use http_body_util::BodyExt as _;
        let first = body.frame().await.expect("a frame").expect("data");
        assert_eq!(first.into_data().expect("data"), "ok");
        assert!(body.frame().await.expect("a frame").is_err(), "cut");
        drop(body);
        let line = lines.one();
        assert_eq!(line["outcome"], "body_error", "{says:?}");
        assert_eq!(line["error"], told);
    }
}

#[tokio::test]
async fn a_cause_whose_text_panics_leaves_the_answer_as_it_is() {
    let lines = Lines::listen();
    let service = AccessLogLayer::new().layer(service_fn(|_: Request<Body>| async {
        let mut response = Response::new(Script::of([]));
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        let cause = Failure::upstream(Trouble(Says::Panics));
        response.extensions_mut().insert(cause);
        Ok::<_, Infallible>(response)
    }));
    let response = service.oneshot(get("/")).await.expect("infallible");
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    drop(response);
    assert_eq!(lines.one()["outcome"], "upstream_error");
}

/// An error that is its own cause.
#[derive(Debug, Default)]
struct Circle(AtomicUsize);

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = self.0.fetch_add(1, Ordering::Relaxed);
        assert!(times < 1_000, "asked without end");
        write!(f, "circle {times}")
    }
}

impl Error for Circle {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self)
    }
}

#[tokio::test]
async fn an_error_that_is_its_own_cause_is_told_a_few_times() {
    let lines = Lines::listen();
    let service = AccessLogLayer::new().layer(service_fn(|_: Request<Body>| async {
        let mut response = Response::new(Script::of([]));
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        let cause = Failure::new(Circle::default());
        response.extensions_mut().insert(cause);
        Ok::<_, Infallible>(response)
    }));
    let response = service.oneshot(get("/")).await.expect("infallible");
    read(response.into_body()).await;
    let line = lines.one();
    assert!(line["error"].starts_with("circle 0: circle 1: circle 2"));
    assert!(!line["error"].contains("panicked"), "{}", line["error"]);
}

#[test]
fn a_call_whose_destructor_panics_keeps_its_facts() {
    for with_body in [false, true] {
        let lines = Lines::listen();
        let service = service_fn(move |_: Request<Body>| async move {
            let _bomb = (!with_body).then(|| Bomb("the future panics in drop"));
            if !with_body {
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(Response::new(Script::of([Step::Hang]).with_bomb()))
        });
        // Without a layer that catches it.
        let mut service = AccessLogLayer::new().layer(service);
        let mut call = Box::pin(service.call(traced()));
        let waker = std::task::Waker::noop();
        let polled = call
            .as_mut()
            .poll(&mut std::task::Context::from_waker(waker));
        assert_eq!(polled.is_ready(), with_body);
        let dropped = catch_unwind(AssertUnwindSafe(|| drop((polled, call))));
        assert!(dropped.is_err(), "it panicked");
        let line = lines.one();
        assert_eq!(line["trace_id"], &TRACEPARENT[3..35], "{line:?}");
    }
}

/// A layer of somebody else's that panics once.
struct Fragile {
    on_enter: AtomicBool,
    on_event: AtomicBool,
}

impl Fragile {
    fn new(on_enter: bool, on_event: bool) -> Self {
        Self {
            on_enter: on_enter.into(),
            on_event: on_event.into(),
        }
    }
}

impl<S: Subscriber> tracing_subscriber::Layer<S> for Fragile {
    fn on_enter(&self, _: &span::Id, _: layer::Context<'_, S>) {
        assert!(!self.on_enter.swap(false, Ordering::Relaxed), "on_enter");
    }

    fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
        if event.metadata().target() == access_log::TARGET {
            assert!(!self.on_event.swap(false, Ordering::Relaxed), "on_event");
        }
    }
}

#[tokio::test]
async fn a_subscriber_that_panics_leaves_no_call_behind_on_its_thread() {
    let subscriber = tracing_subscriber::registry().with(Fragile::new(true, false));
    common::lines::others_may_listen();
    let _listening = tracing::subscriber::set_default(subscriber);
    let mut service =
        AccessLogLayer::new()
            .call_span()
            .layer(service_fn(|_: Request<Body>| async {
                Ok::<_, Infallible>(Response::new(Script::of([])))
            }));
    let called = catch_unwind(AssertUnwindSafe(|| drop(service.call(traced()))));
    assert!(called.is_err(), "the subscriber panicked");
    assert_eq!(TraceContext::current(), None, "of a call that is over");
}

#[tokio::test]
async fn a_subscriber_that_panics_at_the_line_of_a_call_leaves_its_answer() {
    let subscriber = tracing_subscriber::registry().with(Fragile::new(false, true));
    common::lines::others_may_listen();
    let _listening = tracing::subscriber::set_default(subscriber);
    let service = AccessLogLayer::new().layer(service_fn(|_: Request<Body>| async {
        let steps = [Step::Data(b"ok")];
        Ok::<_, Infallible>(Response::new(Script::of(steps)))
    }));
    let response = service.oneshot(get("/")).await.expect("infallible");
    assert_eq!(read(response.into_body()).await.text(), "ok");
}

/// A value that wants to know in which call it is logged.
struct Curious<'a>(&'a mut Option<RequestId>);

impl From<Curious<'_>> for FieldValue {
    fn from(value: Curious<'_>) -> Self {
        *value.0 = RequestId::current();
        Self::Bool(true)
    }
}

#[tokio::test]
async fn a_value_may_ask_for_the_call_that_it_is_a_field_of() {
    let service = RequestIdLayer::new().layer(service_fn(|_: Request<Body>| async {
        let mut asked = None;
        assert!(access_log::field("curious", Curious(&mut asked)));
        assert_eq!(asked, RequestId::current());
        assert!(asked.is_some());
        Ok::<_, Infallible>(Response::new(Script::of([])))
    }));
    drop(service.oneshot(get("/")).await.expect("infallible"));
}

#[tokio::test]
async fn panics_that_the_handler_catches_itself_are_not_fatal() {
    let lines = Lines::listen();
    let service = ServiceBuilder::new()
        .layer(AccessLogLayer::new())
        .layer(CatchPanicLayer::new())
        .service(service_fn(|request: Request<Body>| async move {
            for text in ["one", "two"] {
                let caught = catch_unwind(|| std::panic::panic_any(text));
                assert!(caught.is_err());
            }
            assert!(request.uri().path() != "/panics", "three");
            Ok::<_, Infallible>(Response::new(Script::of([])))
        }));
    for (path, status, last) in [("/", 200, None), ("/panics", 500, Some("three"))] {
        let response = service.clone().oneshot(get(path)).await;
        assert_eq!(response.expect("infallible").status(), status);
        let told = lines.take_of("plimsoll::panic");
        let texts: Vec<_> = told.iter().map(|line| line["panic"].as_str()).collect();
        assert_eq!(
            texts,
            [Some("one"), Some("two"), last]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
        );
        for line in &told {
            assert!(!line.contains_key("fatal"), "{line:?}");
            assert_eq!(
                line.contains_key("caught_inside"),
                Some(&*line["panic"]) != last
            );
            assert!(line["location"].contains("hostile.rs"), "{line:?}");
        }
    }
}

#[tokio::test]
async fn a_task_of_a_call_tells_no_secret_of_it() {
    let lines = Lines::listen();
    let service = AccessLogLayer::new().layer(service_fn(|request: Request<Body>| async move {
        let token = request.headers()["authorization"]
            .to_str()
            .expect("ASCII")
            .to_owned();
        let query = request.uri().query().expect("a query").to_owned();
        let task = task::spawn("leaky", async move { panic!("no {token}, no {query}") });
        assert!(task.await.is_err());
        Ok::<_, Infallible>(Response::new(Script::of([])))
    }));
    let mut request = get("/?key=canary-of-the-query");
    let token = "Bearer canary-of-the-token".parse().expect("a header");
    request.headers_mut().insert("authorization", token);
    drop(service.oneshot(request).await.expect("infallible"));
    let told = lines.take_of("plimsoll::task");
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["panic"], "no REDACTED, no key=REDACTED");
}

/// A future that panics when it is polled, and again when it is dropped.
struct Twice(Arc<AtomicUsize>);

impl Future for Twice {
    type Output = ();

    fn poll(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        panic!("in poll")
    }
}

impl Drop for Twice {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
        assert!(std::thread::panicking(), "in drop");
    }
}

fn deaths_of(name: &str) -> u64 {
    let deaths = task::deaths();
    let death = deaths.iter().find(|(known, _)| *known == name);
    death.map_or(0, |(_, count)| *count)
}

#[tokio::test(start_paused = true)]
async fn a_supervised_task_outlives_every_panic() {
    let drops = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&drops);
    let twice = task::supervise("panics_twice", move || Twice(Arc::clone(&counted)));
    let made = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&made);
    let unmade = task::supervise("cannot_be_made", move || -> std::future::Ready<()> {
        counted.fetch_add(1, Ordering::Relaxed);
        panic!("in make")
    });
    // Restarts are due after 100 and 300 ms. The clock is paused: this takes no time.
    tokio::time::sleep(std::time::Duration::from_millis(350)).await;
    assert_eq!(drops.load(Ordering::Relaxed), 3);
    assert_eq!(deaths_of("panics_twice"), 3);
    assert_eq!(made.load(Ordering::Relaxed), 3);
    assert_eq!(deaths_of("cannot_be_made"), 3);
    twice.abort();
    unmade.abort();
}
