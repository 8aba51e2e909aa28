//! Bodies of requests that come slowly.

use std::{num::NonZeroU32, time::Duration};

use axum::body::Body;
use http::{Request, Response, Version};
use http_body_util::BodyExt as _;
use plimsoll::server::timeout::TimeoutLayer;
use tower::ServiceExt as _;

use crate::{
    common::post,
    support::{app, call, grpc, http, millis, read_all, upload, with},
};

const KILO: &[u8] = &[b'x'; 1_000];

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn over_http2(mut request: Request<Body>) -> Request<Body> {
    *request.version_mut() = Version::HTTP_2;
    request
}

fn at_1000_after_2_s() -> TimeoutLayer {
    TimeoutLayer::new().min_rate(NonZeroU32::new(1_000).expect("above 0"), seconds(2))
}

#[tokio::test(start_paused = true)]
async fn the_clock_of_the_head_stands_still_while_the_caller_is_to_send() {
    let layer = || TimeoutLayer::new().head(seconds(5)).no_min_rate();
    // A minute of uploading, and an answer at once.
    let steps = vec![(seconds(20), KILO); 3];
    let seen = call(&app(layer(), read_all), upload(http(), steps.clone(), true)).await;
    assert_eq!((seen.got.text(), seen.after), ("3000 bytes", seconds(60)));
    // The same, and then the handler takes its time.
    let slow = async |request: Request<Body>| {
        read_all(request).await;
        std::future::pending().await
    };
    let seen = call(&app(layer(), slow), upload(http(), steps, true)).await;
    assert_eq!((seen.after, seen.told("which")), (seconds(65), "head"));
    // A body that nobody reads takes nothing off.
    let unread = async |request: Request<Body>| {
        let _kept = request;
        std::future::pending().await
    };
    let seen = call(&app(layer(), unread), upload(http(), vec![], false)).await;
    assert_eq!((seen.after, seen.told("which")), (seconds(5), "head"));
}

#[tokio::test(start_paused = true)]
async fn a_body_below_its_rate_ends_the_call() {
    for (layer, request, steps, after, text) in [
        // Silent from the start: the grace is all it gets.
        (at_1000_after_2_s(), http(), vec![], seconds(2), None),
        (at_1000_after_2_s(), grpc(), vec![], seconds(2), None),
        (TimeoutLayer::new(), http(), vec![], seconds(20), None),
        // At half the rate: each second costs half a second of grace.
        (
            at_1000_after_2_s(),
            http(),
            vec![(seconds(1), &KILO[..500]); 60],
            seconds(3),
            None,
        ),
        // At the rate, for as long as it takes.
        (
            at_1000_after_2_s(),
            http(),
            vec![(seconds(1), KILO); 60],
            seconds(60),
            Some("60000 bytes"),
        ),
        // In time, for a limit that would have hit a handler.
        (
            TimeoutLayer::new().head(seconds(5)),
            http(),
            vec![(seconds(2), KILO); 6],
            seconds(12),
            Some("6000 bytes"),
        ),
        // Streams of gRPC may be silent unless a rate was asked for.
        (
            TimeoutLayer::new(),
            over_http2(grpc()),
            vec![(seconds(3_600), KILO)],
            seconds(3_600),
            Some("1000 bytes"),
        ),
        // What only says that it is gRPC may not, and gRPC-Web sends one message.
        (TimeoutLayer::new(), grpc(), vec![], seconds(20), None),
        (
            TimeoutLayer::new(),
            over_http2(post("application/grpc-web")),
            vec![],
            seconds(20),
            None,
        ),
    ] {
        let is_grpc = request.headers().contains_key("content-type");
        let ends = text.is_some();
        let seen = call(&app(layer.clone(), read_all), upload(request, steps, ends)).await;
        assert_eq!(seen.after, after);
        if let Some(text) = text {
            assert_eq!(seen.got.text(), text);
            continue;
        }
        assert_eq!(seen.head.status(), if is_grpc { 200 } else { 408 });
        assert_eq!(seen.header("grpc-status"), is_grpc.then_some("4"));
        assert_eq!(seen.header("plimsoll-reason"), Some("timeout"));
        if !is_grpc {
            let problem: serde_json::Value = serde_json::from_slice(&seen.got.data).expect("JSON");
            assert_eq!(
                (&problem["status"], &problem["reason"], &problem["title"]),
                (&408.into(), &"timeout".into(), &"Request Timeout".into())
            );
            assert_eq!(
                problem["detail"],
                "the body of the request comes too slowly"
            );
            assert_eq!(seen.header("cache-control"), Some("no-store"));
            assert_eq!(
                problem["request_id"],
                seen.header("x-request-id").expect("an id")
            );
        }
        assert_eq!(
            (seen.told("outcome"), seen.told("which")),
            ("request_body_error", "body")
        );
        assert_eq!(
            (seen.told("layer"), seen.told("level")),
            ("timeout", "INFO")
        );
        assert_eq!(layer.counts().body, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_slows_down_after_the_head_ends_the_call_too() {
    let echo = async |request: Request<Body>| Response::new(request.into_body());
    for request in [http(), grpc()] {
        let is_grpc = request.headers().contains_key("content-type");
        let steps = vec![(millis(10), &b"abc"[..]), (seconds(1), b"def")];
        let seen = call(
            &app(at_1000_after_2_s(), echo),
            upload(request, steps, false),
        )
        .await;
        assert_eq!(seen.got.text(), "abcdef");
        assert_eq!(
            (seen.told("outcome"), seen.told("which")),
            ("request_body_error", "body")
        );
        assert_eq!(seen.got.trailer("grpc-status"), is_grpc.then_some("4"));
        assert_eq!(seen.got.error.is_some(), !is_grpc);
    }
}

/// The task that reads is not the one that waits for the head.
#[tokio::test(start_paused = true)]
async fn a_body_that_is_read_in_another_task_is_timed_as_well() {
    let handler = async |request: Request<Body>| {
        let reading = tokio::spawn(request.into_body().collect());
        assert!(
            reading.await.expect("no panic").is_err(),
            "never ends by itself"
        );
        Response::new(Body::empty())
    };
    let layer = at_1000_after_2_s().head(seconds(30));
    let seen = call(
        &app(layer, handler),
        upload(http(), vec![(seconds(1), KILO)], false),
    )
    .await;
    assert_eq!(seen.told("outcome"), "request_body_error");
    // It is looked for when the head would have been due, if nothing else woke the call.
    assert!(seen.after <= seconds(31), "{:?}", seen.after);
}

#[tokio::test(start_paused = true)]
async fn the_callers_deadline_holds_while_its_body_comes() {
    let request = upload(
        with(grpc(), &[("grpc-timeout", "5S")]),
        vec![(seconds(1), KILO); 60],
        true,
    );
    let seen = call(&app(at_1000_after_2_s(), read_all), request).await;
    assert_eq!(
        (seen.after, seen.told("outcome")),
        (millis(4_999), "deadline")
    );
}

/// Nothing wakes the call when that task has read the body.
#[tokio::test(start_paused = true)]
async fn a_handler_that_lets_another_task_read_on_is_timed_when_that_has_ended() {
    let handler = async |request: Request<Body>| {
        let mut reading = Box::pin(request.into_body().collect());
        tokio::select! {
            biased;
            _ = &mut reading => unreachable!("it comes after 3 s"),
            () = std::future::ready(()) => {}
        }
        tokio::spawn(reading);
        std::future::pending().await
    };
    let layer = TimeoutLayer::new().head(seconds(5)).no_min_rate();
    let request = upload(http(), vec![(seconds(3), KILO)], true);
    let seen = call(&app(layer, handler), request).await;
    assert_eq!(seen.after, seconds(8));
    assert_eq!(
        (seen.told("outcome"), seen.told("which")),
        ("timeout", "head")
    );
}

#[tokio::test(start_paused = true)]
async fn no_limit_at_all_for_the_head_keeps_nobody_busy_while_the_caller_sends() {
    let layer = TimeoutLayer::new().head(Duration::ZERO).no_min_rate();
    let call = app(layer, read_all).oneshot(upload(http(), vec![], false));
    let mut call = tokio_test::task::spawn(call);
    for _ in 0..3 {
        assert!(call.poll().is_pending());
    }
    assert!(!call.is_woken());
}
