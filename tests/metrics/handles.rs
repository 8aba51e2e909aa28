//! Objectives, and what other layers tell.

use std::time::Duration;

use axum::{
    Router,
    http::StatusCode,
    routing::{get, post},
};
use plimsoll::{
    gauge::{Gauges, Kind, Metric, Reading},
    server::{
        catch_panic::CatchPanicLayer,
        metrics::Objective,
        rate_limit::{Key, Quota, RateLimitLayer},
    },
};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn objectives_count_what_was_in_time_and_not_our_fault() {
    let scrape = Scrape::new();
    let orders = Objective::new("orders", Duration::from_millis(300))
        .method(http::Method::POST)
        .route("/orders/{n}");
    let handler = |axum::extract::Path(n): axum::extract::Path<u64>| async move {
        tokio::time::sleep(Duration::from_millis(n % 1_000)).await;
        StatusCode::from_u16(u16::try_from(n / 1_000).expect("small")).expect("a status")
    };
    let app: Router = Router::new()
        .route("/orders/{n}", post(handler).get(handler))
        .layer(scrape.layer().objective(orders));
    for n in [201_010, 201_299, 201_301, 404_010, 500_010] {
        call(app.clone(), request("POST", &format!("/orders/{n}"))).await;
    }
    call(app, request("GET", "/orders/200010")).await;
    let values = scrape.read();
    assert_eq!(sum(&values, "plimsoll.slo.events"), 5);
    assert_eq!(sum(&values, "plimsoll.slo.good_events"), 3);
    assert!(of(&values, "plimsoll.slo.events").contains_key("slo=orders"));
}

#[tokio::test]
async fn handles_are_asked_when_metrics_are_collected() {
    const LIMIT: Metric = Metric::new("test.limit", Kind::Gauge, "{permit}", "A limit.");
    struct Limit;
    impl Gauges for Limit {
        fn metrics(&self) -> &'static [Metric] {
            const { &[LIMIT] }
        }
        fn read(&self, tell: &mut dyn FnMut(Reading<'_>)) {
            tell(Reading::new(&LIMIT, 7).with(&[("limit", "db"), ("state", "in_use")]));
        }
    }
    let scrape = Scrape::new();
    let panics = CatchPanicLayer::new();
    let layer = scrape
        .layer()
        .watch(panics.clone())
        .watch(Limit)
        .watch(plimsoll::task::Deaths);
    let app: Router = Router::new()
        .route("/", get(|| async { panic!("oh") as &'static str }))
        .layer((layer, panics));
    for expected in 1..=3 {
        call(app.clone(), request("GET", "/")).await;
        let values = scrape.read();
        assert_eq!(
            of(&values, "plimsoll.panics").get("where=response"),
            Some(&Value::Number(expected))
        );
        assert_eq!(
            of(&values, "test.limit").get("limit=db,state=in_use"),
            Some(&Value::Number(7))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_tells_what_it_decided() {
    let scrape = Scrape::new();
    let key = Key::by(|call| call.headers.get("x-tenant").cloned());
    let quota = Quota::per_second(1).burst(3).expect("a quota");
    let limit = RateLimitLayer::new(key, quota);
    let app: Router = Router::new()
        .route("/", get(|| async {}).layer(limit.clone()))
        .layer(scrape.layer().watch(limit.handle()));
    for rejected in [2, 7] {
        for _ in 0..5 {
            let mut request = request("GET", "/");
            let tenant = "acme".parse().expect("a value");
            request.headers_mut().insert("x-tenant", tenant);
            call(app.clone(), request).await;
        }
        let values = scrape.read();
        let decisions = of(&values, "plimsoll.rate_limit.decisions");
        for (decision, expected) in [
            ("admitted", 3),
            ("rejected", rejected),
            ("would_reject", 0),
            ("degraded", 0),
        ] {
            let attributes = format!("decision={decision},policy=default");
            let told = decisions.get(&attributes);
            assert_eq!(told, Some(&Value::Number(expected)), "{decisions:?}");
        }
        assert_eq!(sum(&values, "plimsoll.rate_limit.keys"), 1);
        // Seen is what was let through and what was turned away.
        let ended = outcomes(&values);
        assert_eq!((ended["ok"], ended["rate_limited"]), (3, rejected));
        balanced(&values);
    }
}
