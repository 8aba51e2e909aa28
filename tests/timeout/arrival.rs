//! What callers say of their deadline.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use http::{HeaderValue, Request, Response};
use plimsoll::{
    context::{Deadline, PeerAddr},
    server::timeout::TimeoutLayer,
};
use tower::{Service as _, ServiceExt as _};

use crate::{
    common::Dice,
    support::{App, app, call, grpc, http, millis, with},
};

/// Answers with what is left, in milliseconds; counts how often it was begun.
fn tells_what_is_left(layer: TimeoutLayer) -> (App, Arc<AtomicU32>) {
    let begun = Arc::<AtomicU32>::default();
    let counted = Arc::clone(&begun);
    let handler = move |_: Request<Body>| {
        counted.fetch_add(1, Ordering::Relaxed);
        async {
            let left = Deadline::current().map(|deadline| deadline.remaining().as_millis());
            let mut answer = Response::new(Body::from(format!("{left:?}")));
            let ok = HeaderValue::from_static("0");
            answer.headers_mut().insert("grpc-status", ok);
            answer
        }
    };
    (app(layer, handler), begun)
}

fn from(peer: &str, mut request: Request<Body>) -> Request<Body> {
    let peer = SocketAddr::new(peer.parse().expect("an address"), 4_711);
    request.extensions_mut().insert(PeerAddr(peer));
    request
}

#[tokio::test(start_paused = true)]
async fn handlers_know_what_is_left() {
    let proxies = "10.0.0.0/8".parse().expect("a network");
    let layer = TimeoutLayer::new()
        .total(Duration::from_secs(10))
        .deadline_from(proxies);
    let (bounded, _) = tells_what_is_left(layer.clone());
    let (unbounded, _) = tells_what_is_left(TimeoutLayer::new());
    let friend = |value: &str| from("10.1.1.1", with(http(), &[("x-request-deadline", value)]));
    for (app, request, left, capped) in [
        (&bounded, http(), "Some(10000)", ""),
        (
            &bounded,
            with(grpc(), &[("grpc-timeout", "250m")]),
            "Some(249)",
            "",
        ),
        (
            &bounded,
            with(grpc(), &[("grpc-timeout", "99999999H")]),
            "Some(10000)",
            "true",
        ),
        (
            &bounded,
            with(http(), &[("grpc-timeout", "250m")]),
            "Some(10000)",
            "",
        ),
        (&bounded, friend("2S"), "Some(2000)", ""),
        (&bounded, friend("20S"), "Some(10000)", "true"),
        (
            &bounded,
            from("203.0.113.7", with(http(), &[("x-request-deadline", "2S")])),
            "Some(10000)",
            "",
        ),
        (
            &bounded,
            from(
                "203.0.113.7",
                with(http(), &[("x-request-deadline", "soon")]),
            ),
            "Some(10000)",
            "",
        ),
        (
            &bounded,
            with(http(), &[("x-request-deadline", "2S")]),
            "Some(10000)",
            "",
        ),
        (
            &bounded,
            from(
                "10.1.1.1",
                with(
                    grpc(),
                    &[("x-request-deadline", "1S"), ("grpc-timeout", "2S")],
                ),
            ),
            "Some(999)",
            "",
        ),
        (&unbounded, http(), "None", ""),
        (
            &unbounded,
            with(grpc(), &[("grpc-timeout", "24H")]),
            "Some(86399999)",
            "",
        ),
        (
            &unbounded,
            with(grpc(), &[("grpc-timeout", "99999999H")]),
            "Some(31536000000)",
            "true",
        ),
    ] {
        let asked = format!("{:?}", request.headers());
        let seen = call(app, request).await;
        assert_eq!(
            (seen.got.text(), seen.told("deadline_capped")),
            (left, capped),
            "{asked}"
        );
    }
    assert_eq!(layer.counts().capped, 2);
    assert_eq!(Deadline::current(), None, "no call, no deadline");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_refused_and_what_has_passed_never_begins() {
    let layer = TimeoutLayer::new().deadline_from("10.0.0.0/8".parse().expect("a network"));
    let (app, begun) = tells_what_is_left(layer.clone());
    let friend = |value: &str| from("10.1.1.1", with(http(), &[("x-request-deadline", value)]));
    for (request, status, code, reason) in [
        (
            with(grpc(), &[("grpc-timeout", "1Q")]),
            200,
            "3",
            "malformed",
        ),
        (with(grpc(), &[("grpc-timeout", "")]), 200, "3", "malformed"),
        (
            with(grpc(), &[("grpc-timeout", "100000000S")]),
            200,
            "3",
            "malformed",
        ),
        (
            with(grpc(), &[("grpc-timeout", "1S"), ("grpc-timeout", "1S")]),
            200,
            "3",
            "malformed",
        ),
        (friend("soon"), 400, "", "malformed"),
        (friend("-1S"), 400, "", "malformed"),
        (
            with(friend("1S"), &[("x-request-deadline", "2S")]),
            400,
            "",
            "malformed",
        ),
        (
            with(grpc(), &[("grpc-timeout", "0S")]),
            200,
            "4",
            "deadline",
        ),
        (
            with(grpc(), &[("grpc-timeout", "00000000n")]),
            200,
            "4",
            "deadline",
        ),
        (friend("0n"), 504, "", "deadline"),
    ] {
        let seen = call(&app, request).await;
        assert_eq!(seen.head.status(), status);
        assert_eq!(seen.header("grpc-status").unwrap_or_default(), code);
        assert_eq!(seen.header("plimsoll-reason"), Some(reason));
        assert_eq!(
            (seen.told("outcome"), seen.told("layer")),
            (reason, "timeout")
        );
        assert!(
            !seen.told("error").contains("1Q"),
            "nothing of the caller's is quoted"
        );
    }
    assert_eq!(begun.load(Ordering::Relaxed), 0, "no handler was begun");
    let counts = layer.counts();
    assert_eq!((counts.malformed, counts.deadline), (7, 3));
}

/// A call whose deadline passed in a queue outside of the layer is not begun: the time counts from its start.
#[tokio::test(start_paused = true)]
async fn the_time_counts_from_the_start_of_the_call() {
    let (inner, begun) = tells_what_is_left(TimeoutLayer::new());
    let outer = app(TimeoutLayer::new(), move |request| {
        let mut inner = inner.clone();
        async move {
            tokio::time::sleep(millis(2_000)).await; // sleeps: on a paused clock
            inner.call(request).await.expect("infallible")
        }
    });
    let seen = call(&outer, with(grpc(), &[("grpc-timeout", "3S")])).await;
    assert_eq!(seen.got.text(), "Some(999)");
    assert_eq!(begun.load(Ordering::Relaxed), 1);
}

/// 20,000 deadlines, a million with `PLIMSOLL_LONG=1`: each is read as it should be or refused, and nothing panics.
#[tokio::test(start_paused = true)]
async fn no_deadline_does_harm() {
    let long = std::env::var("PLIMSOLL_LONG").is_ok_and(|long| long == "1");
    let layer = TimeoutLayer::new().total(Duration::from_secs(10));
    let (mut app, begun) = tells_what_is_left(layer.clone());
    let (mut dice, all) = (Dice(7), if long { 1_000_000 } else { 20_000 });
    let mut refused = 0;
    for _ in 0..all {
        let mut text = Vec::new();
        for _ in 0..dice.roll(11) {
            text.push(match dice.roll(8) {
                0 => 0x20 + u8::try_from(dice.roll(0x5f)).expect("a byte"),
                1 => 0x80 + u8::try_from(dice.roll(0x80)).expect("a byte"),
                _ => b'0' + u8::try_from(dice.roll(10)).expect("a digit"),
            });
        }
        if dice.roll(2) == 0 {
            text.push(b"HMSmun"[usize::try_from(dice.roll(6)).expect("small")]);
        }
        let fits = matches!(text.split_last(), Some((unit, digits)) if b"HMSmun".contains(unit)
            && (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit));
        let zero = fits && text.iter().rev().skip(1).all(|digit| *digit == b'0');
        let mut request = grpc();
        let value = HeaderValue::from_bytes(&text).expect("a header");
        request.headers_mut().insert("grpc-timeout", value);
        let answer = app
            .ready()
            .await
            .expect("ready")
            .call(request)
            .await
            .expect("infallible");
        let code = match (fits, zero) {
            (false, _) => "3",
            (true, true) => "4",
            (true, false) => "0",
        };
        assert_eq!(answer.headers()["grpc-status"], code, "{text:?}");
        refused += u32::from(code != "0");
    }
    let counts = layer.counts();
    assert_eq!(counts.malformed + counts.deadline, u64::from(refused));
    assert_eq!(begun.load(Ordering::Relaxed), all - refused);
    assert!(refused > all / 10 && refused < all, "both were tried");
}
