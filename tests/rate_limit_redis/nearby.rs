//! What is decided without a round trip.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use axum::body::Body;
use http::{Request, StatusCode};
use plimsoll::{
    gauge::Gauges,
    server::rate_limit::{Key, Quota, RateLimitLayer, RedisRateLimitLayer, WhenAway},
};

use crate::{SECRET, admitted, call, header, limit, redis, send, server::Server};

fn lease(layer: RedisRateLimitLayer, calls: u32) -> RedisRateLimitLayer {
    layer.lease(NonZeroU32::new(calls).expect("above 0"))
}

#[tokio::test]
async fn whoever_was_just_refused_costs_no_round_trip() {
    let server = Server::start();
    let layer = limit("3/h", &redis(&server.url()), WhenAway::Closed).pre_check();
    assert_eq!(admitted(&layer, 3, SECRET).await, 3);
    let before = server.scripts().await;
    let asked = call(&layer, SECRET).await;
    // A refusal is believed for a second: the clock stands until all have asked. Nobody waits for anything meanwhile.
    tokio::time::pause();
    let nearby = call(&layer, SECRET).await;
    assert_eq!(nearby.status(), StatusCode::TOO_MANY_REQUESTS);
    for name in ["retry-after", "ratelimit", "ratelimit-policy"] {
        assert_eq!(header(&nearby, name), header(&asked, name), "{name}");
    }
    assert_eq!(admitted(&layer, 50, SECRET).await, 0);
    tokio::time::resume();
    assert_eq!(server.scripts().await, before + 1);
    assert_eq!(admitted(&layer, 9, "bob").await, 3);
    assert_eq!(layer.handle().decisions()[0].rejected, 52 + 6);
}

#[tokio::test]
async fn a_refusal_says_nothing_of_lighter_calls_that_fit() {
    let server = Server::start();
    let quota: Quota = "4/h".parse().expect("a quota");
    let layer = RateLimitLayer::new(Key::everyone(), quota)
        .weigh(|call| u32::from(call.headers.contains_key("x-api-key")) * 2 + 1)
        .in_redis(redis(&server.url()), WhenAway::Closed)
        .pre_check();
    // A call of `call` weighs 3.
    assert_eq!(admitted(&layer, 5, "ann").await, 1);
    let light = send(&layer, Request::new(Body::empty())).await;
    assert_eq!(light.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_busy_caller_is_admitted_in_batches_and_never_beyond_the_stated_bound() {
    let server = Server::start();
    let (rate, burst, batch) = (2_000_u32, 100_u32, 20_u32);
    let text = format!("{rate}/s burst {burst}");
    let run = Duration::from_millis(1_500);
    let began = Instant::now();
    let replicas = [(); 3].map(|()| {
        let layer = lease(limit(&text, &redis(&server.url()), WhenAway::Closed), batch);
        tokio::spawn(async move {
            let mut sum = 0;
            while began.elapsed() < run {
                sum += admitted(&layer, 1, SECRET).await;
            }
            sum
        })
    });
    let mut sum = 0;
    for replica in replicas {
        sum += replica.await.expect("no panic");
    }
    let most = f64::from(burst) + f64::from(rate) * began.elapsed().as_secs_f64();
    let bound = most + f64::from(3 * batch);
    assert!(f64::from(sum) <= bound + 1.0, "{sum} of {bound}");
    assert!(sum > 0);
}

#[tokio::test]
async fn what_was_taken_is_told_as_left_and_spares_round_trips() {
    let server = Server::start();
    let layer = limit("1000/d", &redis(&server.url()), WhenAway::Closed);
    let layer = lease(layer, 50);
    for turn in 1..=300 {
        let answer = call(&layer, SECRET).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let told = header(&answer, "ratelimit").expect("it is told");
        // What it took and has not spent is not spent.
        let left = format!("\"day\";r={};", 1_000 - turn);
        assert!(told.starts_with(&left), "{told}, and not {left}");
    }
    let scripts = server.scripts().await;
    assert!(scripts < 100, "{scripts} round trips for 300 calls");
}

#[tokio::test]
async fn errors_of_the_store_are_told_by_kind_and_policy() {
    let mut server = Server::start();
    let layer = limit("6/h", &redis(&server.url()), WhenAway::Open);
    assert_eq!(admitted(&layer, 1, SECRET).await, 1);
    server.kill();
    assert_eq!(admitted(&layer, 10, SECRET).await, 10);
    let handle = layer.handle();
    let mut errors = 0;
    handle.read(&mut |reading| {
        if reading.metric() != "plimsoll.store.errors" || reading.value() == 0 {
            return;
        }
        errors += reading.value();
        let told = |name| {
            let mut attributes = reading.attributes().iter();
            attributes.find(|told| told.0 == name).map(|told| told.1)
        };
        assert_eq!(
            (told("store"), told("policy")),
            (Some("redis"), Some("open"))
        );
        assert!(
            matches!(told("kind"), Some("connection" | "away")),
            "{reading:?}"
        );
    });
    assert_eq!(errors, 10);
    let names: Vec<&str> = handle
        .metrics()
        .iter()
        .map(|metric| metric.name())
        .collect();
    assert!(names.contains(&"plimsoll.store.errors"), "{names:?}");
}
