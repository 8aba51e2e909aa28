//! What can be changed while calls run, layer by layer.

use std::{convert::Infallible, num::NonZeroUsize, time::Duration};

use axum::body::Body;
use http::{Request, Response, StatusCode};
use plimsoll::{
    limit::Limit,
    server::{back_pressure::BackPressureLayer, body_limit::BodyLimitLayer, timeout::TimeoutLayer},
};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer as _, Service as _, ServiceExt as _, service_fn};

use crate::common::get;

const SECOND: Duration = Duration::from_secs(1);

async fn never(_: Request<Body>) -> Result<Response<Body>, Infallible> {
    std::future::pending().await
}

async fn ok(_: Request<Body>) -> Result<Response<Body>, Infallible> {
    Ok(Response::new(Body::empty()))
}

fn calls(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).expect("above 0")
}

#[tokio::test(start_paused = true)]
async fn timeouts_hold_for_calls_that_come_after() {
    let layer = TimeoutLayer::new().total(5 * SECOND);
    let mut service = layer.layer(service_fn(never));
    let mut before = task::spawn(service.call(get("/")));
    assert_pending!(before.poll());
    layer.set_total(SECOND);
    let mut after = task::spawn(service.call(get("/")));
    assert_pending!(after.poll());
    tokio::time::advance(SECOND).await;
    let answer = assert_ready!(after.poll()).expect("an answer");
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_pending!(before.poll());
    layer.set_total(None);
    layer.set_head(2 * SECOND);
    let started = tokio::time::Instant::now();
    let answer = service.call(get("/")).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(started.elapsed(), 2 * SECOND);
    let counts = layer.counts();
    assert_eq!((counts.total, counts.head), (1, 1), "one set of counts");
}

#[tokio::test]
async fn a_cap_of_bodies_holds_for_those_that_come_after() {
    let layer = BodyLimitLayer::new(10);
    let mut service = layer.layer(service_fn(ok));
    let mut ask = async |bytes: usize| {
        let request = Request::new(Body::from(vec![0; bytes]));
        service.call(request).await.expect("an answer").status()
    };
    assert_eq!(ask(11).await, StatusCode::PAYLOAD_TOO_LARGE);
    layer.set_max_bytes(11);
    assert_eq!((ask(11).await, layer.max_bytes()), (StatusCode::OK, 11));
    layer.set_max_bytes(5);
    assert_eq!(ask(6).await, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_room_grows_and_shrinks() {
    let limit = Limit::fixed(calls(1)).max_waiting(0);
    let handle = limit.handle();
    let service = BackPressureLayer::new(limit).layer(service_fn(never));
    let mut served = task::spawn(service.clone().oneshot(get("/")));
    assert_pending!(served.poll());
    let refused = service.clone().oneshot(get("/")).await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    handle.set_waiting(Some(1), Some(SECOND));
    let mut waits = task::spawn(service.clone().oneshot(get("/")));
    assert_pending!(waits.poll());
    assert_eq!(handle.waiting(), 1);
    let refused = service.clone().oneshot(get("/")).await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    handle.set_waiting(Some(0), Some(SECOND));
    assert_eq!(handle.waiting(), 1, "nobody is sent away");
    tokio::time::advance(SECOND + Duration::from_millis(1)).await;
    let timed_out = assert_ready!(waits.poll()).expect("an answer");
    assert_eq!(timed_out.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn an_adaptive_limit_moves_inside_its_new_bounds() {
    let limit = Limit::adaptive();
    let handle = limit.handle();
    assert_eq!(handle.limit(), 16);
    handle.set_between(calls(20), calls(50));
    assert_eq!(handle.limit(), 20);
    handle.set_between(calls(9), calls(2));
    assert_eq!(handle.limit(), 9);
    let fixed = Limit::fixed(calls(3)).handle();
    fixed.set_between(calls(20), calls(50));
    assert_eq!(fixed.limit(), 3);
    assert!(!fixed.is_dry_run());
}
