//! What operators and their machines read.

use std::{
    future::pending,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use http::{
    Method, Request, StatusCode,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST},
};
use plimsoll::{
    limit::Limit,
    ops::{
        Controls, Ops,
        health::{Check, Health},
    },
    server::access_log::Failures,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::*;

/// Two samples, on a clock that takes no time for it.
async fn sampled() {
    // sleeps: on the paused clock
    sleep(Duration::from_millis(2_100)).await;
}

#[tokio::test(start_paused = true)]
async fn every_route_answers_as_what_it_is() {
    let shop = open();
    for (path, status, content_type) in [
        ("/status", 200, "text/html; charset=utf-8"),
        ("/status.json", 200, "application/json"),
        ("/status/events", 200, "text/event-stream"),
        ("/metrics", 200, "text/plain; version=0.0.4; charset=utf-8"),
        ("/livez", 200, "application/json"),
        ("/readyz", 200, "application/json"),
        ("/startupz", 200, "application/json"),
        ("/health", 200, "application/health+json"),
        ("/control/drain", 405, ""),
        ("/status/else", 404, ""),
    ] {
        let response = shop.get(path).await;
        assert_eq!(response.status(), status, "{path}");
        let headers = response.headers();
        if !content_type.is_empty() {
            assert_eq!(headers[CONTENT_TYPE], content_type, "{path}");
        }
        if path.starts_with("/status") && status == 200 {
            assert_eq!(headers["cross-origin-resource-policy"], "same-origin");
            assert_eq!(headers["x-content-type-options"], "nosniff");
            assert!(
                headers[CACHE_CONTROL]
                    .to_str()
                    .expect("text")
                    .starts_with("no-")
            );
            assert!(
                !headers.contains_key("access-control-allow-origin"),
                "{path}"
            );
        }
    }
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let request = Request::builder().method(&method).uri("/status.json");
        let request = request.header(HOST, "localhost");
        let request = request.body(Body::empty()).expect("a request");
        let status = ask(&shop.operators, request).await.status();
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_page_may_run_nothing_but_itself() {
    let shop = open();
    let response = shop.get("/status").await;
    let policy = response.headers()[CONTENT_SECURITY_POLICY]
        .to_str()
        .expect("text")
        .to_owned();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'sha256-"),
        "{policy}"
    );
    for part in [
        "connect-src 'self'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ] {
        assert!(policy.contains(part), "{part} in {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(response.headers()["x-frame-options"], "DENY");
    let page = String::from_utf8(body(response).await).expect("text");
    assert!(page.len() < 64 * 1024, "{} bytes", page.len());
}

#[tokio::test(start_paused = true)]
async fn the_status_tells_what_happened() {
    let shop = open();
    sampled().await;
    for _ in 0..12 {
        assert_eq!(shop.call("/menu", "acme").await, StatusCode::OK);
    }
    for _ in 0..3 {
        assert_eq!(
            shop.call("/broken", "acme").await,
            StatusCode::INTERNAL_SERVER_ERROR
        );
    }
    shop.call("/%3Cimg%20src=x%20onerror=alert(1)%3E/1", "other")
        .await;
    let mut rejected = 0;
    for _ in 0..30 {
        let status = shop.call("/menu", "a-secret-tenant").await;
        rejected += u64::from(status == StatusCode::TOO_MANY_REQUESTS);
    }
    assert_eq!(rejected, 10);
    sampled().await;
    let status = shop.status().await;

    let service = &status["service"];
    assert_eq!(
        (&service["name"], &service["version"]),
        (&json!("shop"), &json!("a1b2c3"))
    );
    assert_eq!(service["draining"], false);
    let outcomes = &status["calls"]["outcomes"];
    assert_eq!(outcomes["server_error"], 3);
    assert_eq!(outcomes["rate_limited"], 10);
    assert_eq!(status["calls"]["in_flight"], 0);
    assert!(status["calls"]["errors_rate"].as_f64().expect("a rate") > 0.0);
    assert_eq!(status["rejections"][0]["reason"], "rate_limited");
    assert_eq!(status["rejections"][0]["calls"], 10);

    let routes = status["routes"].as_array().expect("routes");
    let route = |name: &str| {
        let route = routes.iter().find(|route| route["route"] == name);
        route.unwrap_or_else(|| panic!("{name} in {routes:?}"))
    };
    assert_eq!(route("GET /menu")["calls_1m"], 42);
    assert_eq!(route("GET /menu")["errors_1m"], 0);
    assert_eq!(route("GET /broken")["errors_1m"], 3);
    assert!(route("GET /menu")["p99_ms"].as_f64().expect("a time") > 0.0);
    assert_eq!(routes[0]["route"], "GET /menu", "the busiest first");
    // One truth: what is scraped says the same.
    assert_eq!(shop.scraped("plimsoll_requests_total{http_request_method=\"GET\",http_route=\"/broken\",outcome=\"server_error\",protocol=\"http/1.1\"}").await, Some(3));

    let limit = &status["limits"][0];
    assert_eq!(
        (&limit["name"], &limit["limit"]),
        (&json!("orders"), &json!(16))
    );
    assert_eq!(limit["admitted"], 36);
    let rate_limit = &status["rate_limits"][0];
    assert_eq!(rate_limit["policies"][0]["quotas"], "10/s burst 20");
    assert_eq!(rate_limit["policies"][0]["rejected"], 10);
    let offender = rate_limit["offenders"][0]["key"].as_str().expect("a key");
    assert!(offender.starts_with('#'), "{offender}");
    assert!(!status.to_string().contains("secret"), "{status}");

    let failures = status["failures"].as_array().expect("failures");
    assert_eq!(failures.len(), 3);
    for failure in failures {
        assert_eq!(failure["route"], "/broken");
        assert_eq!(
            (&failure["status"], &failure["outcome"]),
            (&json!(500), &json!("server_error"))
        );
        assert_eq!(failure["request_id"].as_str().map(str::len), Some(36));
    }
    assert_eq!(status["health"]["status"], "degraded");
    assert_eq!(status["health"]["checks"][0]["name"], "database");
    assert_eq!(status["layers"][0]["name"], "timeout");
    assert_eq!(status["connections"]["open"], 0);
    assert_eq!(status["controls"], json!({ "on": true, "drain": true }));
}

#[tokio::test(start_paused = true)]
async fn what_callers_and_errors_say_stays_text_of_json() {
    let shop = open();
    shop.call("/%3Cimg%20src=x%20onerror=alert(1)%3E/1", "a")
        .await;
    shop.call(&format!("/{}", "%3Cscript%3E"), "a").await;
    sampled().await;
    let status = shop.status().await;
    // It is there as it is: making text of it is the page's work, which the test in a browser sees.
    assert_eq!(status["layers"][0]["state"], format!("on: 30 s {CANARY}"));
    assert_eq!(status["health"]["checks"][0]["error"], CANARY);
    let page = String::from_utf8(body(shop.get("/status").await).await).expect("text");
    assert!(!page.contains("canary") && !page.contains("onerror="));
}

#[tokio::test(start_paused = true)]
async fn the_history_is_there_for_whoever_comes_late_and_grows_no_further() {
    let shop = open();
    for _ in 0..100 {
        shop.call("/menu", "acme").await;
        sleep(Duration::from_secs(4)).await;
    }
    let status = shop.status().await;
    let samples = status["samples"].as_array().expect("samples");
    assert_eq!(samples.len(), 300);
    let number = |sample: &Value| sample[0].as_u64().expect("a number");
    let first = number(&samples[0]);
    assert!(first >= 99, "{first}");
    for (at, sample) in (first..).zip(samples) {
        assert_eq!(number(sample), at);
        assert_eq!(
            sample[5][0],
            json!([16, 0, 0]),
            "the limit, in flight, waiting"
        );
    }
    // A call each four seconds, over five of them.
    let route = &status["routes"][0];
    assert!(
        (14..=17).contains(&route["calls_1m"].as_u64().expect("calls")),
        "{route}"
    );
    assert!(status.to_string().len() < 40_000);
}

#[tokio::test(start_paused = true)]
async fn a_router_that_is_given_nothing_shows_that() {
    let operators = Ops::new().routes();
    sampled().await;
    let status = status_of(&operators).await;
    assert_eq!(status["calls"]["rate"], Value::Null);
    assert_eq!(status["controls"], json!({ "on": false, "drain": false }));
    for empty in ["limits", "rate_limits", "layers"] {
        assert_eq!(status[empty], json!([]), "{empty}");
    }
    // Without metrics nobody knows: an empty list would be good news.
    for unknown in ["routes", "rejections", "trouble"] {
        assert_eq!(status[unknown], Value::Null, "{unknown}");
    }
    assert!(
        status["samples"]
            .as_array()
            .is_some_and(|samples| samples.len() >= 2)
    );
    let request = Request::get("/metrics")
        .body(Body::empty())
        .expect("a request");
    assert_eq!(
        ask(&operators, request).await.status(),
        StatusCode::NOT_FOUND
    );
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_without_numbers_once_the_metrics_are_shut_down() {
    let shop = open();
    sampled().await;
    assert_eq!(shop.call("/menu", "acme").await, StatusCode::OK);
    sampled().await;
    assert_eq!(shop.status().await["calls"]["in_flight"], 0);
    let Shop {
        telemetry,
        operators,
        ..
    } = shop;
    // It is waited for in real time: the exporters have a thread of their own, for which no clock stands still.
    tokio::time::resume();
    telemetry.shutdown(BOUND).await.expect("nothing is left");
    tokio::time::pause();
    sampled().await;
    let status = status_of(&operators).await;
    assert_eq!(status["limits"][0]["name"], "orders");
    assert_eq!(
        status["service"]["name"], "shop",
        "a name is no number of yesterday"
    );
    let calls = json!({
        "in_flight": null,
        "rate": null,
        "errors_rate": null,
        "rejected_rate": null,
        "outcomes": null,
    });
    assert_eq!(status["calls"], calls);
    assert_eq!(status["routes"], Value::Null);
    assert_eq!(status["limits"][0]["wait"]["waited_1m"], 0);
}

#[tokio::test(start_paused = true)]
async fn while_a_check_hangs_what_it_said_last_is_shown_with_its_age() {
    let hangs = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&hangs);
    let ask = move || {
        let hangs = asked.load(Ordering::Relaxed);
        async move {
            if hangs {
                pending::<()>().await;
            }
            Ok::<(), io::Error>(())
        }
    };
    let health = Health::new().check(Check::new("database", ask).keep(Duration::ZERO));
    let operators = Ops::new().health(&health).routes();
    let age = |status: &Value| {
        let check = &status["health"]["checks"][0];
        assert_eq!(
            (&check["name"], &check["status"]),
            (&json!("database"), &json!("ok"))
        );
        check["age_ms"].as_f64().expect("an age")
    };
    let status = status_of(&operators).await;
    assert_eq!(status["health"]["status"], "ok");
    assert!(age(&status) < 500.0, "{status}");
    hangs.store(true, Ordering::Relaxed);
    health.drain();
    let status = status_of(&operators).await;
    assert!(age(&status) >= 500.0, "{status}");
    // Nobody has to be asked for that.
    assert_eq!(status["health"]["status"], "draining");
}

#[tokio::test(start_paused = true)]
async fn sampling_ends_with_the_last_of_the_router() {
    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let operators = Ops::new()
        .layer("held", move || format!("{held:?}"))
        .routes();
    let clone = operators.clone();
    drop(operators);
    sampled().await;
    assert_eq!(Arc::strong_count(&alive), 2);
    drop(clone);
    sampled().await;
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_panics_when_it_is_asked_ends_nothing() {
    let operators = Ops::new().layer("odd", || panic!("asked")).routes();
    for _ in 0..2 {
        let status = status_of(&operators).await;
        assert!(status["error"].is_string(), "{status}");
    }
}

#[test]
fn what_is_printed_of_it_names_the_parts_and_no_token() {
    let limit = Limit::adaptive().named("orders");
    let ops = Ops::new()
        .limit(&limit.handle())
        .failures(&Failures::new())
        .layer("timeout", String::new)
        .controls(Controls::with_token(TOKEN).expect("long"));
    let printed = format!("{ops:?}");
    assert!(
        printed.contains("orders") && printed.contains("timeout"),
        "{printed}"
    );
    assert!(!printed.contains(TOKEN));
}
