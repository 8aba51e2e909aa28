//! Names and attributes: from the conventions, from the router, never from a caller.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    num::NonZeroUsize,
};

use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode},
    routing::get,
};
use http_body_util::BodyExt;
use plimsoll::{server::metrics::MetricsLayer, telemetry::Setup};
use tower::{ServiceExt, service_fn};

use crate::support::*;

#[tokio::test]
async fn tells_the_conventions_names_and_attributes() {
    let scrape = Scrape::new();
    let app: Router = Router::new()
        .route("/orders/{id}", get(|| async { "on its way" }))
        .route("/broken", get(|| async { StatusCode::SERVICE_UNAVAILABLE }))
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(scrape.layer());
    for path in ["/orders/1", "/orders/2", "/broken", "/nowhere"] {
        call(app.clone(), request("GET", path)).await;
    }
    let values = scrape.read();
    let durations = of(&values, "http.server.request.duration");
    let common = "http.request.method=GET,http.response.status_code";
    let expected = [
        (
            format!(
                "error.type=503,{common}=503,http.route=/broken,network.protocol.version=1.1,url.scheme=http"
            ),
            1,
        ),
        (
            format!(
                "{common}=200,http.route=/orders/{{id}},network.protocol.version=1.1,url.scheme=http"
            ),
            2,
        ),
        (
            format!("{common}=404,network.protocol.version=1.1,url.scheme=http"),
            1,
        ),
    ];
    assert_eq!(durations.len(), expected.len(), "{durations:?}");
    for (attributes, expected) in expected {
        let value = durations.get(&attributes);
        assert!(
            matches!(value, Some(Value::Histogram(count, _)) if *count == expected),
            "{attributes}: {durations:?}"
        );
    }
    let heads = of(&values, "plimsoll.time_to_head");
    assert_eq!(heads.len(), 3);
    assert!(
        heads
            .keys()
            .all(|attributes| !attributes.contains("status"))
    );
    assert_eq!(
        of(&values, "http.server.active_requests"),
        BTreeMap::from([(
            "http.request.method=GET,url.scheme=http".to_owned(),
            Value::Number(0)
        )])
    );
    assert_eq!(
        of(&values, "plimsoll.requests")
            .get("http.request.method=GET,http.route=/orders/{id},outcome=ok,protocol=http/1.1"),
        Some(&Value::Number(2))
    );
    balanced(&values);
}

#[tokio::test]
async fn the_status_of_grpc_comes_from_where_it_is() {
    let scrape = Scrape::new();
    let layer = scrape
        .layer()
        .rpc_methods(["shop.Barista/Brew", "shop.Barista/Wash"]);
    let service = service_fn(|request: Request<Body>| async move {
        let mut response = Response::new(match request.uri().query() {
            Some("trailers") => frames(vec![data("x"), status("5")]),
            Some("broken") => frames(vec![data("x"), status("14")]),
            Some("silent") => frames(vec![data("x")]),
            Some("fails") => frames(vec![data("x"), Err("cable cut".into())]),
            Some("head") => Body::empty(),
            _ => frames(vec![data("x"), status("0")]),
        });
        if request.uri().query() == Some("head") {
            let code = "8".parse().expect("a value");
            response.headers_mut().insert("grpc-status", code);
        }
        Ok::<_, Infallible>(response)
    });
    let service = tower::Layer::layer(&layer, service);
    for path in [
        "/shop.Barista/Brew",
        "/shop.Barista/Brew?trailers",
        "/shop.Barista/Brew?broken",
    ] {
        call(service.clone(), grpc(path)).await;
    }
    for path in [
        "/shop.Barista/Wash?silent",
        "/shop.Barista/Wash?fails",
        "/shop.Barista/Wash?head",
    ] {
        call(service.clone(), grpc(path)).await;
    }
    call(service, grpc("/shop.Barista/Steal")).await;
    let values = scrape.read();
    let name = "rpc.response.status_code";
    let counts: BTreeMap<String, u64> = of(&values, "rpc.server.call.duration")
        .into_iter()
        .map(|(attributes, value)| match value {
            Value::Histogram(count, _) => (attributes, count),
            Value::Number(_) => panic!("a histogram"),
        })
        .collect();
    let expected = [
        (
            format!("rpc.method=shop.Barista/Brew,{name}=OK,rpc.system.name=grpc"),
            1,
        ),
        (
            format!("rpc.method=shop.Barista/Brew,{name}=NOT_FOUND,rpc.system.name=grpc"),
            1,
        ),
        (
            format!(
                "error.type=UNAVAILABLE,rpc.method=shop.Barista/Brew,{name}=UNAVAILABLE,rpc.system.name=grpc"
            ),
            1,
        ),
        (
            // What the caller was told: trailers that the body itself failed to bring.
            format!(
                "error.type=body_error,rpc.method=shop.Barista/Wash,{name}=INTERNAL,rpc.system.name=grpc"
            ),
            2,
        ),
        (
            format!("rpc.method=shop.Barista/Wash,{name}=RESOURCE_EXHAUSTED,rpc.system.name=grpc"),
            1,
        ),
        (
            format!("rpc.method=_OTHER,{name}=OK,rpc.system.name=grpc"),
            1,
        ),
    ];
    assert_eq!(counts, BTreeMap::from(expected));
    assert_eq!(
        outcomes(&values),
        BTreeMap::from([
            ("ok".to_owned(), 2),
            ("client_error".to_owned(), 2),
            ("server_error".to_owned(), 1),
            ("body_error".to_owned(), 2),
        ])
    );
    assert!(of(&values, "http.server.active_requests").is_empty());
    balanced(&values);
}

#[tokio::test]
async fn an_answer_of_grpc_to_a_call_of_http_counts_by_its_status() {
    let scrape = Scrape::new();
    let service = service_fn(|request: Request<Body>| async move {
        let mut response = Response::new(match request.uri().path() {
            "/trailers" => frames(vec![data("x"), status("14")]),
            _ => Body::empty(),
        });
        let headers = response.headers_mut();
        headers.insert("content-type", "application/grpc".parse().expect("a value"));
        if request.uri().path() == "/head" {
            headers.insert("grpc-status", "12".parse().expect("a value"));
        }
        Ok::<_, Infallible>(response)
    });
    let service = tower::Layer::layer(&scrape.layer(), service);
    for path in ["/head", "/trailers"] {
        call(service.clone(), request("GET", path)).await;
    }
    let values = scrape.read();
    let failed = BTreeMap::from([("server_error".to_owned(), 2)]);
    assert_eq!(outcomes(&values), failed);
    let durations = of(&values, "http.server.request.duration");
    let rest = "http.request.method=GET,http.response.status_code=200,network.protocol.version=1.1,url.scheme=http";
    let expected = ["UNAVAILABLE", "UNIMPLEMENTED"].map(|code| format!("error.type={code},{rest}"));
    assert_eq!(durations.into_keys().collect::<Vec<_>>(), expected);
    balanced(&values);
}

#[tokio::test]
async fn an_error_of_the_service_counts_without_a_status() {
    let scrape = Scrape::new();
    let failing = service_fn(|_: Request<Body>| async {
        Err::<Response<Body>, _>(Failure::from("no beans"))
    });
    call(
        tower::Layer::layer(&scrape.layer(), failing),
        request("GET", "/"),
    )
    .await;
    let values = scrape.read();
    let durations = of(&values, "http.server.request.duration");
    let attributes = "error.type=server_error,http.request.method=GET,network.protocol.version=1.1,url.scheme=http";
    assert_eq!(durations.keys().collect::<Vec<_>>(), [attributes]);
}

#[tokio::test]
async fn nothing_that_a_caller_sends_makes_a_series() {
    const CALLS: u64 = 20_000;
    let telemetry = Setup::new().init().expect("set up");
    let app: Router = Router::new()
        .route("/orders/{id}", get(|| async { "on its way" }))
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(MetricsLayer::new(telemetry.meter()).rpc_methods(["shop.Barista/Brew"]));
    let metrics = telemetry.metrics_route();
    let noisy = |kind: u64, noise: &str| {
        let mut request = match kind {
            0 => request("GET", &format!("/{noise}?x={noise}")),
            1 => request("GET", &format!("/orders/{noise}")),
            2 => request(&format!("M{noise}"), "/nowhere"),
            3 => request(&format!("M{noise}"), &format!("/orders/{noise}")),
            4 => grpc(&format!("/shop.X{noise}/Y")),
            _ => grpc(&format!("/shop.Barista/Brew{noise}")),
        };
        for name in ["host", "user-agent", "x-request-id"] {
            let value = noise.parse().expect("a value");
            request.headers_mut().insert(name, value);
        }
        request
    };
    for kind in 0..6 {
        call(app.clone(), noisy(kind, "first")).await;
    }
    let before = series(&text_of(&metrics).await);
    let mut dice = 1_u64;
    for number in 0..CALLS {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        call(app.clone(), noisy(number % 6, &format!("{dice:x}"))).await;
    }
    let text = text_of(&metrics).await;
    assert_eq!(series(&text), before, "a label set each, and it was there");
    assert!(text.len() < 1 << 20, "{} bytes", text.len());
    let calls: u64 = text
        .lines()
        .filter(|line| line.starts_with("plimsoll_requests_total"))
        .map(|line| line.rsplit(' ').next().and_then(|value| value.parse().ok()))
        .map(|value: Option<u64>| value.expect("a count"))
        .sum();
    assert_eq!(calls, CALLS + 6);
    assert!(
        text.contains("http_request_method=\"_OTHER\"") && text.contains("rpc_method=\"_OTHER\"")
    );
}

/// What `GET /metrics` answers.
async fn text_of(metrics: &Router) -> String {
    let answer = metrics.clone().oneshot(request("GET", "/metrics")).await;
    let body = answer.expect("infallible").into_body().collect().await;
    String::from_utf8(body.expect("a body").to_bytes().to_vec()).expect("text")
}

/// The series in a scrape, without their values.
fn series(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()))
        .collect()
}

#[tokio::test]
async fn past_the_cap_calls_share_one_series_and_are_counted() {
    let scrape = Scrape::new();
    let layer = scrape
        .layer()
        .max_series(NonZeroUsize::new(3).expect("not zero"));
    let service = service_fn(|request: Request<Body>| async move {
        let status = request.uri().path().trim_start_matches('/').parse();
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status.expect("a status");
        Ok::<_, Infallible>(response)
    });
    let service = tower::Layer::layer(&layer, service);
    for status in 200..240 {
        call(service.clone(), request("GET", &format!("/{status}"))).await;
    }
    call(service, request("GET", "/200")).await;
    let values = scrape.read();
    let durations = of(&values, "http.server.request.duration");
    assert_eq!(durations.len(), 4);
    assert!(matches!(
        durations.get("otel.metric.overflow=true"),
        Some(Value::Histogram(37, _))
    ));
    assert_eq!(
        of(&values, "plimsoll.label_overflow"),
        BTreeMap::from([(
            "instrument=http.server.request.duration".to_owned(),
            Value::Number(37)
        )])
    );
    assert_eq!(sum(&values, "http.server.active_requests"), 0);
    balanced(&values);
}
