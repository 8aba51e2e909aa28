//! By which names the port may be called, and by whom.

use axum::{Router, body::Body};
use http::{Method, Request, StatusCode, header::HOST};
use plimsoll::ops::Ops;
use serde_json::{Value, json};

use crate::support::*;

/// What a browser sends for a page from a host without TLS, when the page reads from its own.
const BROWSER: (&str, &str) = ("accept-language", "en");

async fn asked(
    operators: &Router,
    method: Method,
    path: &str,
    host: &str,
    more: Option<(&str, &str)>,
) -> StatusCode {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, host);
    if let Some((name, value)) = more {
        request = request.header(name, value);
    }
    let request = request.body(Body::empty()).expect("a request");
    ask(operators, request).await.status()
}

#[tokio::test(start_paused = true)]
async fn a_name_that_was_made_to_lead_here_reads_nothing_by_a_browser() {
    let log = Log::listen();
    let shop = open();
    let evil = "evil.example:9090";
    let (get, post) = (Method::GET, Method::POST);
    let mut refused = 0;
    for (method, path) in [
        (&get, "/status"),
        (&get, "/status.json"),
        (&get, "/status/events"),
        (&get, "/metrics"),
        (&get, "/health"),
        (&get, "/readyz"),
        (&post, "/control/drain"),
    ] {
        for more in [
            BROWSER,
            ("origin", "http://evil.example:9090"),
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-mode", "cors"),
        ] {
            let status = asked(&shop.operators, method.clone(), path, evil, Some(more)).await;
            assert_eq!(status, StatusCode::MISDIRECTED_REQUEST, "{path} {more:?}");
            refused += 1;
        }
    }
    // Nobody's machines ask for these: no sign of a browser is needed.
    for path in ["/status", "/status.json", "/status/events"] {
        let status = asked(&shop.operators, get.clone(), path, evil, None).await;
        assert_eq!(status, StatusCode::MISDIRECTED_REQUEST, "{path}");
        refused += 1;
    }
    // Not even with the token.
    let mut request = posted("/control/limit", r#"{"limit":"orders","set":3}"#);
    let headers = request.headers_mut();
    headers.insert(HOST, evil.parse().expect("a value"));
    headers.insert(
        "origin",
        "http://evil.example:9090".parse().expect("a value"),
    );
    let response = ask(&shop.operators, request).await;
    assert_eq!(response.status(), StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(
        response.headers()["cross-origin-resource-policy"],
        "same-origin"
    );
    let told: Value = serde_json::from_slice(&body(response).await).expect("JSON");
    let error = told["error"].as_str().expect("why");
    assert!(
        error.contains("Ops::host") && !error.contains("evil"),
        "{error}"
    );
    refused += 1;
    assert!(shop.limit.is_adaptive());
    let series = "plimsoll_ops_refused_total{reason=\"host\"}";
    assert_eq!(shop.scraped(series).await, Some(refused));
    let lines = log.lines("host_refused");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(
        (&lines[0]["reason"], &lines[0]["path"], &lines[0]["error"]),
        (
            &json!("host"),
            &json!("/status"),
            &json!("it was for \"evil.example:9090\"")
        )
    );
}

#[tokio::test(start_paused = true)]
async fn machines_call_their_routes_by_any_name() {
    let shop = open();
    for path in ["/metrics", "/livez", "/readyz", "/startupz", "/health"] {
        for host in ["shop-ops.default.svc.cluster.local:9090", "10.0.0.7:9090"] {
            let agent = Some(("user-agent", "Prometheus/3.0"));
            for more in [None, agent] {
                let status = asked(&shop.operators, Method::GET, path, host, more).await;
                assert_eq!(status, StatusCode::OK, "{path} {host}");
            }
        }
        // By none at all, as HTTP/1.0 may.
        assert_eq!(shop.get_of_nobody(path).await, StatusCode::OK, "{path}");
    }
    for path in ["/status", "/status.json"] {
        let status = shop.get_of_nobody(path).await;
        assert_eq!(status, StatusCode::MISDIRECTED_REQUEST, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn browsers_open_it_by_address_as_localhost_and_by_names_that_were_given() {
    let shop = open();
    let given = Ops::new()
        .host("ops.example")
        .host("other.example")
        .routes();
    for (host, by_all, by_given) in [
        ("127.0.0.1:9090", true, true),
        ("[::1]:9090", true, true),
        ("localhost:9090", true, true),
        ("ops.example", false, true),
        ("OPS.example:9090", false, true),
        ("other.example", false, true),
        ("ops.example.evil.example", false, false),
    ] {
        for (operators, known) in [(&shop.operators, by_all), (&given, by_given)] {
            for path in ["/status", "/status.json"] {
                let status = asked(operators, Method::GET, path, host, Some(BROWSER)).await;
                let expected = if known { 200 } else { 421 };
                assert_eq!(status, expected, "{path} {host}");
            }
        }
        let expected = if by_all { 200 } else { 421 };
        let status = asked(
            &shop.operators,
            Method::GET,
            "/metrics",
            host,
            Some(BROWSER),
        )
        .await;
        assert_eq!(status, expected, "{host}");
    }
    // HTTP/2 has it in the URI.
    for (uri, status) in [
        ("http://ops.example:9090/status", StatusCode::OK),
        (
            "http://evil.example:9090/status",
            StatusCode::MISDIRECTED_REQUEST,
        ),
    ] {
        let request = Request::get(uri).body(Body::empty()).expect("a request");
        assert_eq!(ask(&given, request).await.status(), status, "{uri}");
    }
}
