use std::net::SocketAddr;

use axum::body::Body;
use http::{HeaderValue, Request, StatusCode};
use plimsoll::{
    caller::TrustedProxies,
    context::{PeerAddr, Priority},
    limit::{Gate, Limit},
    rejection::{Reason, Rejection, RetryHint},
    server::{catch_panic::CatchPanicLayer, load_shed::LoadShedLayer},
};
use tower::ServiceExt;

use crate::{
    common::{Lines, header, post},
    support::*,
};

#[tokio::test]
async fn rejects_above_the_limit_and_calls_nothing() {
    let (till, limit) = (Till::closed(), fixed(2));
    let service = till.behind(shedding(&limit));
    let first = [spawn(&service, request()), spawn(&service, request())];
    settle().await;
    let third = ask(&service, request()).await;
    assert_rejected(&third, Reason::Shed);
    assert_eq!(third.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(till.started(), 2);
    till.serve(3);
    for call in first {
        assert_served(&call.await.expect("it ends"));
    }
    assert_served(&ask(&service, request()).await);
    let handle = limit.handle();
    assert_eq!((handle.admitted(), rejected(&handle, Reason::Shed)), (3, 1));
    assert_eq!((handle.in_flight(), handle.limit()), (0, 2));
}

#[tokio::test]
async fn the_permit_is_held_until_the_body_ends() {
    let (till, limit) = (Till::closed(), fixed(1));
    let service = till.behind(shedding(&limit));
    till.serve(2);
    let streamed = ask(&service, request()).await;
    assert_eq!(limit.handle().in_flight(), 1);
    let second = ask(&service, request()).await;
    assert_rejected(&second, Reason::Shed);
    drop(streamed);
    assert_eq!(limit.handle().in_flight(), 0);
    let third = ask(&service, request()).await;
    let body = axum::body::to_bytes(third.into_body(), 100).await;
    assert_eq!(body.expect("a body"), "espresso");
    assert_eq!(limit.handle().in_flight(), 0);
}

#[tokio::test]
async fn grpc_is_told_14_and_when_to_come_back() {
    let limit = fixed(1);
    let (_, service, _first) = occupied(shedding(&limit)).await;
    let grpc = post("application/grpc");
    let answer = ask(&service, grpc).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(header(&answer, "grpc-status"), Some("14"));
    let pushback = header(&answer, "grpc-retry-pushback-ms").expect("a hint");
    let pushback: u64 = pushback.parse().expect("a number");
    assert!((1_000..2_000).contains(&pushback), "{pushback}");
    let http = ask(&service, request()).await;
    let seconds = header(&http, "retry-after").expect("a hint");
    assert!(["1", "2"].contains(&seconds), "{seconds}");
}

/// The hint is the time in which what is there will be served, up to twice as much.
#[tokio::test(start_paused = true)]
async fn the_hint_follows_the_rate_of_the_service() {
    let limit = fixed(20);
    let slow = tower::service_fn(|_: Request<Body>| async {
        // sleeps: on the paused clock
        tokio::time::sleep(ms(2_000)).await;
        Ok::<_, std::convert::Infallible>(http::Response::new(Body::empty()))
    });
    let service = tower::Layer::layer(&shedding(&limit), slow).any();
    for _ in 0..8 {
        let calls: Vec<_> = (0..20).map(|_| spawn(&service, request())).collect();
        for call in calls {
            drop(call.await.expect("it ends"));
        }
    }
    let _running: Vec<_> = (0..20).map(|_| spawn(&service, request())).collect();
    settle().await;
    let mut hints = Vec::new();
    for _ in 0..50 {
        let answer = ask(&service, request()).await;
        match answer
            .extensions()
            .get::<Rejection>()
            .and_then(Rejection::retry)
        {
            Some(RetryHint::After(hint)) => hints.push(hint.as_millis()),
            other => panic!("{other:?}"),
        }
    }
    // 20 calls at 10 a second.
    assert!(
        hints.iter().all(|hint| (1_900..4_200).contains(hint)),
        "{hints:?}"
    );
    hints.sort_unstable();
    hints.dedup();
    assert!(hints.len() > 40, "each is different: {hints:?}");
}

#[tokio::test]
async fn callers_may_be_told_not_to_come_back() {
    let limit = fixed(1);
    let till = Till::closed();
    let service = till.behind(shedding(&limit).never_retry());
    let _first = spawn(&service, request());
    settle().await;
    let grpc = ask(&service, post("application/grpc")).await;
    assert_eq!(header(&grpc, "grpc-retry-pushback-ms"), Some("-1"));
    let http = ask(&service, request()).await;
    assert_eq!(header(&http, "retry-after"), None);
}

#[tokio::test]
async fn layers_that_share_a_limit_share_one_count() {
    let (till, limit) = (Till::closed(), fixed(2));
    let one = till.behind(shedding(&limit));
    let other = till.behind(shedding(&limit));
    let waits = till.behind(queueing(&limit));
    let _first = spawn(&one, request());
    let _second = spawn(&waits, request());
    settle().await;
    let third = ask(&other, request()).await;
    assert_rejected(&third, Reason::Shed);
    assert_eq!(limit.handle().in_flight(), 2);
    // What is configured further has a count of its own.
    assert_eq!(limit.clone().named("another").handle().in_flight(), 0);
}

#[tokio::test]
async fn a_dry_run_counts_and_rejects_nothing() {
    let till = Till::closed();
    let limit = fixed(1).dry_run();
    let service = till.behind(shedding(&limit));
    let calls: Vec<_> = (0..3).map(|_| spawn(&service, request())).collect();
    settle().await;
    assert_eq!(till.started(), 3);
    let handle = limit.handle();
    assert_eq!((handle.in_flight(), handle.would_shed()), (3, 2));
    assert_eq!(handle.rejected(), []);
    handle.set_dry_run(false);
    let fourth = ask(&service, request()).await;
    assert_rejected(&fourth, Reason::Shed);
    till.serve(3);
    for call in calls {
        assert_served(&call.await.expect("it ends"));
    }
    assert_eq!(handle.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn higher_priorities_have_places_of_their_own_while_it_is_tight() {
    let (till, limit) = (Till::closed(), fixed(16));
    let service = till.behind(shedding(&limit).priority_by(by_header));
    let mut calls: Vec<_> = (0..16)
        .map(|_| spawn(&service, of(Priority::Sheddable)))
        .collect();
    settle().await;
    // The limit was reached, and there are some who matter more.
    for priority in [Priority::Critical, Priority::Sheddable] {
        let answer = ask(&service, of(priority)).await;
        assert_rejected(&answer, Reason::Shed);
    }
    till.serve(2);
    settle().await;
    assert_eq!(limit.handle().in_flight(), 14);
    let answer = spawn(&service, of(Priority::Critical));
    settle().await;
    assert_eq!(
        limit.handle().in_flight(),
        15,
        "the highest takes any place"
    );
    let low = ask(&service, of(Priority::Sheddable)).await;
    assert_rejected(&low, Reason::Shed);
    calls.push(answer);
    // A second without anybody of theirs, and without a full limit.
    tokio::time::advance(ms(1_100)).await;
    let low = spawn(&service, of(Priority::Sheddable));
    settle().await;
    assert_eq!(limit.handle().in_flight(), 16);
    calls.push(low);
    till.serve(16);
    for call in calls {
        assert_served(&call.await.expect("it ends"));
    }
    let shed = limit.handle().rejected();
    assert_eq!(shed.len(), 2, "{shed:?}");
}

#[tokio::test]
async fn the_priority_in_a_header_is_taken_from_trusted_peers_only() {
    let till = Till::closed();
    till.serve(100);
    let proxies: TrustedProxies = "10.0.0.0/8".parse().expect("a network");
    let seen = |peer: Option<&str>, header: &'static str| {
        let mut request = Request::builder()
            .uri("/orders")
            .body(Body::empty())
            .expect("a request");
        request
            .headers_mut()
            .insert("x-criticality", HeaderValue::from_static(header));
        if let Some(peer) = peer {
            let peer = SocketAddr::new(peer.parse().expect("an address"), 1);
            request.extensions_mut().insert(PeerAddr(peer));
        }
        request
    };
    let inner = tower::service_fn(|_: Request<Body>| async {
        let label = Priority::current().map_or("none", Priority::label);
        Ok::<_, std::convert::Infallible>(http::Response::new(Body::from(label)))
    });
    let layer = LoadShedLayer::new(fixed(9)).priority_from(proxies);
    let routed = layer
        .clone()
        .priority_of_routes([("/orders", Priority::Critical)]);
    // Whether another layer stands in between or not.
    let guarded = tower::Layer::layer(&CatchPanicLayer::new(), inner);
    let (plain, routed) = (
        tower::Layer::layer(&layer, inner).any(),
        tower::Layer::layer(&routed, guarded).any(),
    );
    let told = async |service: &Boxed, request| {
        let answer = ask(service, request).await;
        let body = axum::body::to_bytes(answer.into_body(), 100)
            .await
            .expect("a body");
        String::from_utf8(body.to_vec()).expect("text")
    };
    assert_eq!(
        told(&plain, seen(Some("10.1.2.3"), "sheddable")).await,
        "sheddable"
    );
    assert_eq!(
        told(&plain, seen(Some("203.0.113.7"), "critical-plus")).await,
        "none"
    );
    assert_eq!(told(&plain, seen(None, "critical-plus")).await, "none");
    assert_eq!(
        told(&plain, seen(Some("10.1.2.3"), "urgent!")).await,
        "none"
    );
    assert_eq!(
        told(&routed, seen(Some("10.1.2.3"), "sheddable")).await,
        "critical"
    );
}

#[tokio::test(start_paused = true)]
async fn one_caller_has_no_more_than_its_share_while_others_call() {
    let (till, limit) = (Till::closed(), fixed(10));
    let service = till.behind(shedding(&limit).fair_share(by_user()));
    let _hogs: Vec<_> = (0..1_000)
        .map(|_| spawn(&service, from_user("hog")))
        .collect();
    settle().await;
    let modest = ask(&service, from_user("modest")).await;
    assert_rejected(&modest, Reason::Shed);
    // As calls end, the hog falls back to its half.
    let mut held = Vec::new();
    for _ in 0..10 {
        till.serve(1);
        settle().await;
        let _again: Vec<_> = (0..100)
            .map(|_| spawn(&service, from_user("hog")))
            .collect();
        held.push(spawn(&service, from_user("modest")));
        settle().await;
    }
    let in_flight = limit.handle().in_flight();
    assert_eq!(in_flight, 10);
    let modest = held.iter().filter(|call| !call.is_finished()).count();
    assert!((4..=5).contains(&modest), "{modest} of 10");
}

struct Shut(Priority);

impl Gate for Shut {
    fn name(&self) -> &'static str {
        "disk"
    }

    fn admits(&self, priority: Priority, _: std::time::Instant) -> bool {
        priority <= self.0
    }
}

#[tokio::test]
async fn a_gate_is_asked_before_the_limit() {
    let till = Till::closed();
    till.serve(9);
    let limit = fixed(9);
    let layer = shedding(&limit)
        .priority_by(by_header)
        .gate(Shut(Priority::Critical));
    let service = till.behind(layer);
    assert_served(&ask(&service, of(Priority::Critical)).await);
    let answer = ask(&service, of(Priority::Normal)).await;
    assert_rejected(&answer, Reason::Shed);
    let rejection = answer.extensions().get::<Rejection>().expect("a rejection");
    assert_eq!(
        (rejection.layer(), rejection.which()),
        ("load_shed", Some("disk"))
    );
    assert_eq!(till.started(), 1);
}

#[tokio::test]
async fn a_stream_moves_out_of_the_limit_with_its_head() {
    let limit = fixed(1).max_streams(2);
    let events = tower::service_fn(|request: Request<Body>| async move {
        let mut response = http::Response::new(Body::from("data: 1\n\n"));
        if request.uri().path() == "/events" {
            let media_type = HeaderValue::from_static("text/event-stream; charset=utf-8");
            response.headers_mut().insert("content-type", media_type);
        }
        Ok::<_, std::convert::Infallible>(response)
    });
    let service = tower::Layer::layer(&shedding(&limit).streams(["/feed"]), events).any();
    let ask = async |path: &str| {
        let request = Request::builder()
            .uri(path)
            .body(Body::empty())
            .expect("a request");
        ask(&service, request).await
    };
    let handle = limit.handle();
    let (sse, feed) = (ask("/events").await, ask("/feed").await);
    assert_eq!((handle.in_flight(), handle.streams()), (0, 2));
    // A third is known to be one: there is no room for it. Another is found out too late, and is held to the limit.
    assert_rejected(&ask("/feed").await, Reason::Shed);
    let third = ask("/events").await;
    assert_served(&third);
    assert_eq!((handle.in_flight(), handle.streams()), (1, 2));
    assert_rejected(&ask("/").await, Reason::Shed);
    drop(third);
    assert_served(&ask("/").await);
    drop((sse, feed));
    assert_eq!((handle.in_flight(), handle.streams()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_operator_reads_of_it_once_in_ten_seconds() {
    let listening = Lines::listen();
    let limit = fixed(1).named("orders");
    let (till, service, first) = occupied(shedding(&limit)).await;
    for _ in 0..250 {
        let answer = ask(&service, request()).await;
        assert_rejected(&answer, Reason::Shed);
        tokio::time::advance(ms(100)).await;
    }
    till.serve(1);
    drop(first.await.expect("it ends"));
    drop((service, limit));
    let lines = listening.take_of("plimsoll::limit");
    let told: Vec<_> = lines.iter().map(|line| line["calls"].clone()).collect();
    assert_eq!(told, ["1", "100", "100", "49"], "{lines:?}");
    assert_eq!(&*lines[0]["limit"], "orders");
}

/// Its type can be named, and a limit in an `Option` of tower's is no trouble.
#[tokio::test]
async fn stands_in_any_stack() {
    fn layer(
        limit: Option<Limit>,
    ) -> tower::util::Either<LoadShedLayer, tower::layer::util::Identity> {
        tower::util::option_layer(limit.map(LoadShedLayer::new))
    }
    let till = Till::closed();
    till.serve(1);
    let service = tower::ServiceBuilder::new()
        .layer(tower_http::timeout::TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            ms(1_000),
        ))
        .layer(LoadShedLayer::new(fixed(1)))
        .service(till.behind(tower::layer::util::Identity::new()));
    let answer = service.oneshot(request()).await.expect("infallible");
    assert_served(&answer);
    drop(layer(None));
}
