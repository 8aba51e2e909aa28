//! One stack around axum and tonic, and what it does without being tuned.

use std::{convert::Infallible, num::NonZeroUsize, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Request,
    handler::Handler as _,
    response::Response,
    routing::{MethodRouter, get, post},
};
use http::StatusCode;
use http_body_util::BodyExt as _;
use plimsoll::{
    caller::Key,
    context::Deadline,
    limit::Limit,
    preset::{self, Layers, Part, Setup, Stack},
    server::rate_limit::Quota,
};
use tower::{Layer, Service, ServiceExt as _, service_fn};

use crate::common::{Lines, get as get_of, grpc::Calls, header, only_header, wire};

/// A stack of which nothing is global, and that the environment of the tests does not change.
fn shop() -> Setup {
    let none: [(&str, &str); 0] = [];
    preset::server("shop").variables(none)
}

fn built(setup: Setup) -> Stack {
    setup.build().expect("nothing is wrong with it")
}

/// The types of frameworks, unchanged: this is checked when it is compiled.
#[test]
fn it_goes_wherever_a_layer_goes_and_errors_keep_their_type() {
    #[derive(Debug)]
    struct Own;
    impl std::fmt::Display for Own {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("of its own")
        }
    }
    fn keeps<S>(_: &S)
    where
        S: Service<Request<Body>, Error = Own> + Clone + Send + Sync,
        S::Future: Send,
    {
    }
    let stack = built(shop());
    let handler = async |_: Request| "hello";
    let router: Router = Router::new()
        .route("/", get(handler))
        .route("/one", get(handler).layer(stack.layer()))
        .route("/two", get(handler.layer(stack.layer())))
        .route_layer(stack.layer())
        .layer(stack.layer());
    let methods: MethodRouter = post(handler).route_layer(stack.layer());
    let _nested: Router = Router::new().nest("/in", router).route("/", methods);
    let _server = tonic::transport::Server::builder()
        .layer(stack.layer())
        .add_service(Calls);
    let fails = service_fn(async |_: Request<Body>| Err::<Response<Body>, _>(Own));
    keeps(&stack.layer().layer(fails));
    fn is_shared<T: Clone + Send + Sync + 'static>(_: &T) {}
    is_shared(&stack);
    is_shared::<Layers>(&stack.layer());
}

#[tokio::test]
async fn untuned_it_tells_counts_guards_and_bounds() {
    let lines = Lines::listen();
    let stack = built(shop());
    let app = Router::new()
        .route("/", get(async || Deadline::current().is_none().to_string()))
        .route("/panic", get(async || -> String { panic!("oh no") }))
        .route("/echo", post(async |body: axum::body::Bytes| body))
        .layer(stack.layer());
    let answer = app.clone().oneshot(get_of("/")).await.expect("an answer");
    assert_eq!(only_header(&answer, "x-request-id").len(), 36);
    assert_eq!(header(&answer, "ratelimit"), None, "nobody has a quota");
    let body = answer.into_body().collect().await.expect("a body");
    assert_eq!(body.to_bytes(), "true", "streams may last");
    let panicked = app
        .clone()
        .oneshot(get_of("/panic"))
        .await
        .expect("an answer");
    assert_eq!(panicked.status(), StatusCode::INTERNAL_SERVER_ERROR);
    drop(panicked);
    let large = Request::post("/echo").body(Body::from(vec![0; (2 << 20) + 1]));
    let large = app
        .oneshot(large.expect("a request"))
        .await
        .expect("an answer");
    assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    drop(large);
    let told = lines.take_of("plimsoll::access");
    let outcomes: Vec<&str> = told.iter().map(|line| line["outcome"].as_str()).collect();
    assert_eq!(outcomes, ["ok", "panic", "too_large"]);
    assert_eq!(
        (stack.limit().admitted(), stack.limit().in_flight()),
        (3, 0)
    );
}

#[tokio::test]
async fn one_stack_serves_grpc_too() {
    let stack = built(shop());
    let routes = tonic::service::Routes::new(Calls).into_axum_router();
    let address = wire::serve(routes.layer(stack.layer())).await;
    let request = http::Request::post(format!("http://{address}/test.Calls/One"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::from(&b"\0\0\0\0\x02hi"[..]))
        .expect("a request");
    let answer = wire::http2().request(request).await.expect("an answer");
    assert_eq!(only_header(&answer, "x-request-id").len(), 36);
    let body = answer.into_body().collect().await.expect("a whole body");
    let trailers = body.trailers().expect("a status");
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(stack.limit().admitted(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_handler_has_half_a_minute() {
    let stack = built(shop());
    let never = service_fn(async |_: Request<Body>| {
        std::future::pending::<Result<Response<Body>, Infallible>>().await
    });
    let started = tokio::time::Instant::now();
    let answer = stack.layer().layer(never).oneshot(get_of("/")).await;
    assert_eq!(
        answer.expect("an answer").status(),
        StatusCode::GATEWAY_TIMEOUT
    );
    assert_eq!(started.elapsed(), Duration::from_secs(30));
}

async fn ok(stack: &Stack) -> Response<String> {
    let hello = service_fn(async |_: Request<Body>| {
        Ok::<_, Infallible>(Response::new(Body::from("hello")))
    });
    let answer = stack.layer().layer(hello).oneshot(get_of("/")).await;
    let (head, body) = answer.expect("an answer").into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    Response::from_parts(head, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn a_part_that_is_left_out_does_nothing() {
    let lines = Lines::listen();
    let every = [
        Part::Log,
        Part::Telemetry,
        Part::RequestId,
        Part::TraceContext,
        Part::AccessLog,
        Part::Metrics,
        Part::Timeout,
        Part::RateLimit,
        Part::BackPressure,
        Part::BodyLimit,
        Part::CatchPanic,
    ];
    let none = every.into_iter().fold(shop(), Setup::without);
    let stack = built(none);
    let answer = ok(&stack).await;
    assert_eq!(
        (answer.headers().len(), answer.body().as_str()),
        (0, "hello")
    );
    assert_eq!((lines.take().len(), stack.limit().admitted()), (0, 0));
    for (layer, state) in stack.layers() {
        assert!(state.starts_with("off"), "{layer}: {state}");
    }
}

#[tokio::test]
async fn the_program_gives_quotas_and_a_limit_of_its_own() {
    let limit = Limit::fixed(NonZeroUsize::new(7).expect("above 0"));
    let quota = Quota::per_second(1).whole().expect("a quota");
    let setup = shop().limit(limit.clone());
    let stack = built(setup.rate_limit(Key::everyone(), quota));
    assert_eq!(ok(&stack).await.status(), StatusCode::OK);
    let refused = ok(&stack).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(only_header(&refused, "x-request-id").len(), 36);
    assert_eq!((limit.handle().admitted(), stack.limit().limit()), (1, 7));
    let handle = stack.rate_limit().expect("there are quotas");
    assert_eq!(handle.decisions()[0].rejected, 1);
}

#[test]
fn it_tells_what_holds_and_not_what_was_set() {
    let state = |stack: &Stack, name: &str| {
        let mut all = stack.layers().into_iter();
        let found = all.find(|(layer, _)| *layer == name);
        found.map(|(_, state)| state).expect("it is there")
    };
    let stack = built(shop());
    let calls = |number| NonZeroUsize::new(number).expect("above 0");
    stack.limit().hold(calls(7));
    let limit = state(&stack, "back_pressure");
    assert!(limit.starts_with("on: limit 7 (held), "), "{limit}");
    assert!(stack.limit().adapt());
    let limit = state(&stack, "back_pressure");
    assert!(limit.contains("(adaptive, 1 to 1000000)"), "{limit}");
    stack.limit().set_between(calls(3), calls(40));
    stack
        .limit()
        .set_waiting(Some(9), Some(Duration::from_millis(250)));
    let limit = state(&stack, "back_pressure");
    assert!(limit.contains("(adaptive, 3 to 40)"), "{limit}");
    let waits = ", may wait: 9 calls, 250ms";
    assert!(limit.ends_with(waits), "{limit}");
    stack.timeout().set_head(Duration::from_secs(5));
    stack.timeout().set_total(Duration::from_secs(60));
    stack.timeout().set_idle(Duration::from_millis(1_500));
    let timeout = state(&stack, "timeout");
    let times = "on: head 5s, total 1m, idle 1500ms, ";
    assert!(timeout.starts_with(times), "{timeout}");
    stack.timeout().set_head(None);
    let timeout = state(&stack, "timeout");
    assert!(timeout.starts_with("on: head none, "), "{timeout}");
    stack.body_limit().set_max_bytes(64 << 10);
    assert_eq!(state(&stack, "body_limit"), "on: max 64 KiB");
    let fixed = built(shop().set("back_pressure.limit", "3"));
    let limit = state(&fixed, "back_pressure");
    assert!(limit.starts_with("on: limit 3 (fixed), "), "{limit}");
}

/// A rate that nobody asked for is not that of gRPC, whose streams may be silent.
#[test]
fn a_grace_alone_changes_the_grace_alone() {
    let rate = |of: &str, value: &str| {
        let stack = built(shop().set(of, value));
        format!("{:?}", stack.timeout())
    };
    let grace = rate("timeout.body_grace", "5s");
    assert!(grace.contains("grace: 5s, of_grpc: false"), "{grace}");
    let both = rate("timeout.body_min_rate", "1 KiB");
    assert!(both.contains("1024, grace: 20s, of_grpc: true"), "{both}");
}

#[test]
fn it_tells_an_operator_what_is_on() {
    let set = [
        ("PLIMSOLL_RATE_LIMIT_QUOTAS", "100/s burst 50"),
        ("PLIMSOLL_RATE_LIMIT_KEY", "peer"),
        ("PLIMSOLL_RATE_LIMIT_DRY_RUN", "true"),
        ("PLIMSOLL_TIMEOUT_TOTAL", "1m"),
        ("PLIMSOLL_ACCESS_LOG_ENABLED", "false"),
    ];
    let stack = built(preset::server("shop").variables(set));
    let expected = "\
Stack(shop) {
    request_id: on: trust keep, make uuid_v4,
    trace_context: on: trust join, sampled by callers none,
    access_log: off,
    metrics: on: max series 1800,
    timeout: on: head 30s, total 1m, idle none, body at least 500 B, after 20s,
    rate_limit: on: 100/s burst 50 by peer, dry run,
    back_pressure: on: limit 16 (adaptive, 1 to 1000000), 0 in flight, 0 waiting, may wait: as is found out calls, as is found out,
    body_limit: on: max 2 MiB,
    catch_panic: on: backtraces false,
}";
    assert_eq!(format!("{stack:#?}"), expected);
}
