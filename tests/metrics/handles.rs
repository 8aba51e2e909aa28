//! Objectives, and what other layers tell.

use std::time::Duration;

use axum::{
    Router,
    http::StatusCode,
    routing::{get, post},
};
use plimsoll::{
    gauge::{Gauges, Kind, Metric, Reading},
    server::{catch_panic::CatchPanicLayer, metrics::Objective},
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
