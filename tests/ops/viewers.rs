//! Server-sent events: how many look, and what the slow ones cost.

use std::time::Duration;

use axum::body::Body;
use http::StatusCode;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use crate::support::*;

/// The next event; `None` at the end.
async fn next(events: &mut Body) -> Option<Value> {
    let frame = timeout(BOUND, events.frame()).await.expect("in time")?;
    let bytes = frame.expect("no error").into_data().expect("data");
    let text = String::from_utf8(bytes.to_vec()).expect("text");
    let data = text
        .strip_prefix("event: status\nretry: 1000\ndata: ")
        .expect("the form of events");
    let data = data.strip_suffix("\n\n").expect("the end of an event");
    assert!(!data.contains('\n'));
    Some(serde_json::from_str(data).expect("JSON"))
}

async fn look(shop: &Shop) -> Body {
    let response = shop.get("/status/events").await;
    assert_eq!(response.status(), StatusCode::OK);
    response.into_body()
}

#[tokio::test(start_paused = true)]
async fn the_history_comes_first_and_then_each_second() {
    let shop = open();
    sleep(Duration::from_millis(60_500)).await;
    let mut events = look(&shop).await;
    let first = next(&mut events).await.expect("the history");
    let samples = first["samples"].as_array().expect("samples").len();
    assert!((60..=61).contains(&samples), "{samples}");
    let last = |status: &Value| {
        status["samples"]
            .as_array()
            .and_then(|all| all.last()?[0].as_u64())
    };
    let mut before = last(&first).expect("one");
    for _ in 0..5 {
        let began = Instant::now();
        let event = next(&mut events).await.expect("an event");
        assert!(began.elapsed() <= Duration::from_secs(1));
        assert_eq!(event["samples"].as_array().map(Vec::len), Some(5));
        let now = last(&event).expect("one");
        assert_eq!(now, before + 1);
        before = now;
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_is_seen_within_two_seconds() {
    let shop = open();
    let mut events = look(&shop).await;
    next(&mut events).await.expect("the history");
    sleep(Duration::from_secs(10)).await;
    next(&mut events).await.expect("the one before");
    let began = Instant::now();
    shop.call("/menu", "acme").await;
    loop {
        let event = next(&mut events).await.expect("an event");
        if event["calls"]["rate"]
            .as_f64()
            .is_some_and(|rate| rate > 0.0)
        {
            assert_eq!(event["routes"][0]["route"], "GET /menu");
            break;
        }
    }
    assert!(began.elapsed() <= Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn so_many_look_and_no_more() {
    let shop = open();
    let mut seats = Vec::new();
    for _ in 0..16 {
        seats.push(look(&shop).await);
    }
    let full = shop.get("/status/events").await;
    assert_eq!(full.status(), StatusCode::SERVICE_UNAVAILABLE);
    // Others read on.
    assert_eq!(shop.get("/status.json").await.status(), StatusCode::OK);
    drop(seats.pop());
    seats.push(look(&shop).await);
    assert_eq!(
        shop.get("/status/events").await.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    // They all see the same.
    sleep(Duration::from_secs(1)).await;
    for seat in &mut seats {
        next(seat).await.expect("the history");
        next(seat).await.expect("an event");
    }
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_keeps_no_seat_and_gets_nothing_but_the_newest() {
    let shop = open();
    let mut awake = look(&shop).await;
    let mut asleep = Vec::new();
    for _ in 0..15 {
        asleep.push(look(&shop).await);
    }
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(29) {
        next(&mut awake).await.expect("an event");
    }
    assert_eq!(
        shop.get("/status/events").await.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    // Of 29 events it takes the history, which it was promised, and the newest.
    let mut slow = asleep.pop().expect("one of them");
    next(&mut slow).await.expect("the history");
    let newest = next(&mut slow).await.expect("the newest");
    let late = next(&mut awake).await.expect("the one after");
    let last = |status: &Value| status["samples"][4][0].as_u64().expect("a number");
    assert!(last(&late) - last(&newest) <= 1);
    while began.elapsed() < Duration::from_secs(32) {
        next(&mut awake).await.expect("an event");
    }
    // A seat of one that sleeps is given away, that of the slow one is not.
    let mut fresh = look(&shop).await;
    next(&mut fresh).await.expect("the history");
    next(&mut slow).await.expect("an event");
    let mut ended = 0;
    for mut viewer in asleep {
        ended += u32::from(next(&mut viewer).await.is_none());
    }
    assert_eq!(ended, 1);
}
