//! How calls end, and how long they took.

use std::{
    collections::BTreeMap,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body::Frame;
use http_body_util::StreamBody;
use plimsoll::server::catch_panic::CatchPanicLayer;
use tower::ServiceExt;

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn time_runs_to_the_end_of_the_body() {
    let scrape = Scrape::new();
    let app: Router = Router::new()
        .route(
            "/stream",
            get(|| async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let chunks = tokio_stream::iter(0..5);
                let chunks = futures_util::StreamExt::then(chunks, |_| async {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    data("x")
                });
                Body::new(StreamBody::new(chunks))
            }),
        )
        .layer(scrape.layer());
    call(app, request("GET", "/stream")).await;
    let values = scrape.read();
    let seconds = |name| match of(&values, name).into_values().next() {
        Some(Value::Histogram(1, sum)) => sum,
        other => panic!("{name}: {other:?}"),
    };
    assert!((seconds("plimsoll.time_to_head") - 0.02).abs() < 0.002);
    assert!((seconds("http.server.request.duration") - 0.52).abs() < 0.002);
}

#[tokio::test]
async fn every_end_is_counted_once_and_told_apart() {
    let scrape = Scrape::new();
    let app: Router = Router::new()
        .route("/ok", get(|| async { "ok" }))
        .route(
            "/cut",
            get(|| async { frames(vec![data("x"), Err("cable cut".into())]) }),
        )
        .route("/panic", get(|| async { panic!("oh") as &'static str }))
        .route("/wait", get(std::future::pending::<()>))
        .route(
            "/endless",
            get(|| async {
                Body::new(StreamBody::new(tokio_stream::pending::<
                    Result<Frame<Bytes>, Failure>,
                >()))
            }),
        )
        .layer((scrape.layer(), CatchPanicLayer::new()));
    for path in ["/ok", "/cut", "/panic"] {
        call(app.clone(), request("GET", path)).await;
    }
    assert!(
        app.clone()
            .oneshot(request("GET", "/wait"))
            .now_or_never()
            .is_none()
    );
    let response = app
        .clone()
        .oneshot(request("GET", "/endless"))
        .await
        .expect("infallible");
    assert_eq!(sum(&scrape.read(), "plimsoll.requests.in_flight"), 1);
    drop(response);
    let values = scrape.read();
    let expected = [
        "ok",
        "body_error",
        "panic",
        "client_gone",
        "client_gone_body",
    ];
    let expected: BTreeMap<String, i64> = expected.map(|name| (name.to_owned(), 1)).into();
    assert_eq!(outcomes(&values), expected);
    balanced(&values);
    assert_eq!(sum(&values, "plimsoll.requests.in_flight"), 0);
}

#[tokio::test]
async fn ten_thousand_cancels_leave_nothing_in_flight() {
    let scrape = Scrape::new();
    let app: Router = Router::new()
        .route(
            "/yields/{n}",
            get(
                |axum::extract::Path(n): axum::extract::Path<u32>| async move {
                    for _ in 0..n {
                        tokio::task::yield_now().await;
                    }
                    frames(vec![data("a"), data("b")])
                },
            ),
        )
        .layer(scrape.layer());
    let mut state = 1_u64;
    for _ in 0..10_000 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let (yields, polls) = (state >> 61, (state >> 58) & 7);
        let mut future = Box::pin(
            app.clone()
                .oneshot(request("GET", &format!("/yields/{yields}"))),
        );
        let mut context = Context::from_waker(std::task::Waker::noop());
        for _ in 0..polls {
            if let Poll::Ready(Ok(response)) = future.as_mut().poll(&mut context) {
                let mut body = response.into_body();
                if state & 1 == 0 {
                    assert!(
                        http_body::Body::poll_frame(Pin::new(&mut body), &mut context).is_ready()
                    );
                }
                break;
            }
        }
        drop(future);
        if state.is_multiple_of(997) {
            assert!(sum(&scrape.read(), "plimsoll.requests.in_flight") >= 0);
        }
    }
    let values = scrape.read();
    assert_eq!(sum(&values, "plimsoll.requests.in_flight"), 0);
    assert_eq!(sum(&values, "http.server.active_requests"), 0);
    // Polled zero times, the router itself was never called.
    assert!(sum(&values, "plimsoll.requests.started") > 8_000);
    balanced(&values);
}
