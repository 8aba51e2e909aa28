//! What goes out of a call that has a deadline.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt as _;
use plimsoll::{
    client::{deadline::DeadlineLayer, propagate::PropagateLayer},
    context::{Deadline, in_current_call},
    gauge::Gauges as _,
    protocol::GrpcTimeout,
    rejection::Rejection,
    server::timeout::TimeoutLayer,
};
use tower::{ServiceBuilder, ServiceExt as _, service_fn, util::BoxCloneService};

use crate::support::{app, call, grpc, http, millis, with};

type Client = BoxCloneService<Request<Body>, Response<Body>, Infallible>;

/// A client whose server tells in its body what it was told of the deadline; and how often that was asked.
fn client(layer: &DeadlineLayer) -> (Client, Arc<AtomicU32>) {
    let sent = Arc::<AtomicU32>::default();
    let counted = Arc::clone(&sent);
    let stub = service_fn(move |request: Request<Body>| {
        counted.fetch_add(1, Ordering::Relaxed);
        let told = told(request.headers());
        async move { Ok::<_, Infallible>(Response::new(Body::from(told))) }
    });
    let client = ServiceBuilder::new()
        .layer(layer.clone())
        .layer(PropagateLayer::new())
        .service(stub);
    let client = client.map_response(|answer| answer.map(Body::new));
    (BoxCloneService::new(client), sent)
}

fn told(headers: &HeaderMap) -> String {
    ["grpc-timeout", "x-request-deadline"]
        .iter()
        .filter_map(|name| {
            let value = headers.get(*name)?;
            let left = GrpcTimeout::parse(value.as_bytes()).expect("a deadline");
            Some(format!("{name}={}", left.duration().as_millis()))
        })
        .collect()
}

fn ask(
    client: &Client,
    request: Request<Body>,
) -> impl Future<Output = Response<Body>> + Send + use<> {
    let answer = client.clone().oneshot(request);
    async { answer.await.expect("infallible") }
}

/// What a handler hears that asks so, after so long.
async fn heard(layer: TimeoutLayer, wait: Duration, make: fn() -> Request<Body>) -> String {
    let (client, _) = client(&DeadlineLayer::new());
    let handler = move |_: Request<Body>| {
        let client = client.clone();
        async move {
            tokio::time::sleep(wait).await; // sleeps: on a paused clock
            ask(&client, make()).await
        }
    };
    call(&app(layer, handler), http())
        .await
        .got
        .text()
        .to_owned()
}

#[tokio::test(start_paused = true)]
async fn who_is_called_hears_of_less_than_what_is_left() {
    let ten = || TimeoutLayer::new().total(Duration::from_secs(10));
    let own = |value| with(grpc(), &[("grpc-timeout", value)]);
    for (layer, wait, make, expected) in [
        (ten(), 0, http as fn() -> _, "x-request-deadline=9900"),
        (ten(), 9_000, http, "x-request-deadline=950"),
        (ten(), 9_990, grpc, "grpc-timeout=9"),
        (ten(), 1_000, grpc, "grpc-timeout=8900"),
        // A shorter one of its own stays, a longer one does not, and what is none is made one.
        (
            ten(),
            0,
            || with(grpc(), &[("grpc-timeout", "1S")]),
            "grpc-timeout=1000",
        ),
        (
            ten(),
            0,
            || with(grpc(), &[("grpc-timeout", "20S")]),
            "grpc-timeout=9900",
        ),
        (
            ten(),
            0,
            || with(http(), &[("x-request-deadline", "soon")]),
            "x-request-deadline=9900",
        ),
        (TimeoutLayer::new(), 0, http, ""),
    ] {
        assert_eq!(heard(layer, millis(wait), make).await, expected);
    }
    let (client, _) = client(&DeadlineLayer::new());
    let outside = ask(&client, own("20S")).await.into_body().collect().await;
    assert_eq!(
        outside.expect("a body").to_bytes(),
        "grpc-timeout=20000",
        "no call, no deadline"
    );
}

#[tokio::test]
async fn what_is_too_late_is_not_sent() {
    let layer = DeadlineLayer::new();
    let (client, sent) = client(&layer);
    // A handler that keeps its thread is polled to its end, however late that is.
    let handler = move |_: Request<Body>| {
        let client = client.clone();
        async move {
            while Deadline::current().is_some_and(|deadline| !deadline.has_passed()) {
                std::hint::spin_loop();
            }
            let late = ask(&client, grpc()).await;
            assert_eq!(late.headers()["grpc-status"], "4");
            let rejection = late.extensions().get::<Rejection>();
            assert_eq!(rejection.map(Rejection::layer), Some("deadline"));
            let late = ask(&client, http()).await;
            assert_eq!(late.status(), 504);
            assert_eq!(late.headers()["plimsoll-reason"], "deadline");
            let problem = late.into_body().collect().await.expect("a body").to_bytes();
            assert!(problem.starts_with(b"{\"type\""), "{problem:?}");
            Response::new(Body::empty())
        }
    };
    drop(call(&app(TimeoutLayer::new().total(millis(5)), handler), http()).await);
    assert_eq!((sent.load(Ordering::Relaxed), layer.unsent()), (0, 2));
    let mut told = Vec::new();
    layer.read(&mut |reading| told.push((reading.metric(), reading.value())));
    assert_eq!(told, [("plimsoll.deadline.unsent", 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_outlives_its_call_has_no_deadline() {
    let (client, sent) = client(&DeadlineLayer::new());
    let handler = move |_: Request<Body>| {
        let client = client.clone();
        async move {
            let task = tokio::spawn(in_current_call(async move {
                tokio::time::sleep(millis(600)).await; // sleeps: on a paused clock
                ask(&client, http()).await.into_body().collect().await
            }));
            let heard = tokio::spawn(task)
                .await
                .expect("no panic")
                .expect("no panic");
            Response::new(Body::from(heard.expect("a body").to_bytes()))
        }
    };
    // The call itself may take longer than its handler's task.
    let seen = call(
        &app(TimeoutLayer::new().total(millis(900)), handler),
        http(),
    )
    .await;
    assert_eq!((seen.got.text(), sent.load(Ordering::Relaxed)), ("", 1));
}
