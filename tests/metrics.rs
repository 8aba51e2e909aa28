//! What the metrics say of calls, read from the exporter.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    num::NonZeroUsize,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, Response, StatusCode, header::CONTENT_TYPE},
    routing::{get, post},
};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
    data::{AggregatedMetrics, MetricData},
};
use plimsoll::{
    gauge::{Gauges, Kind, Metric, Reading},
    server::{
        catch_panic::CatchPanicLayer,
        metrics::{MetricsLayer, Objective},
    },
};
use tower::{Service, ServiceExt, service_fn};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A provider whose metrics are read back.
struct Scrape {
    provider: SdkMeterProvider,
    exporter: InMemoryMetricExporter,
}

/// A value: that of a counter or gauge, or count and sum of a histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    Number(i64),
    Histogram(u64, f64),
}

type Values = BTreeMap<(String, String), Value>;

impl Scrape {
    fn new() -> Self {
        let exporter = InMemoryMetricExporter::default();
        let reader = PeriodicReader::builder(exporter.clone())
            .with_interval(Duration::from_secs(3_600))
            .build();
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        Self { provider, exporter }
    }

    fn layer(&self) -> MetricsLayer {
        MetricsLayer::new(&self.provider.meter("test"))
    }

    /// All values by name and attributes: `("plimsoll.requests", "outcome=ok,protocol=http/1.1")`.
    fn read(&self) -> Values {
        self.exporter.reset();
        self.provider.force_flush().expect("exported");
        let exported = self.exporter.get_finished_metrics().expect("metrics");
        let mut values = Values::new();
        let scopes = exported
            .iter()
            .flat_map(|resource| resource.scope_metrics());
        for metric in scopes.flat_map(|scope| scope.metrics()) {
            let mut put = |attributes: String, value| {
                let known = values.insert((metric.name().to_owned(), attributes), value);
                assert_eq!(known, None, "{} twice", metric.name());
            };
            match metric.data() {
                AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                    for point in sum.data_points() {
                        let value = i64::try_from(point.value()).expect("small");
                        put(text(point.attributes()), Value::Number(value));
                    }
                }
                AggregatedMetrics::U64(MetricData::Gauge(gauge)) => {
                    for point in gauge.data_points() {
                        let value = i64::try_from(point.value()).expect("small");
                        put(text(point.attributes()), Value::Number(value));
                    }
                }
                AggregatedMetrics::I64(MetricData::Sum(sum)) => {
                    for point in sum.data_points() {
                        put(text(point.attributes()), Value::Number(point.value()));
                    }
                }
                AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
                    for point in histogram.data_points() {
                        let boundaries: Vec<f64> = point.bounds().collect();
                        assert_eq!(
                            boundaries,
                            plimsoll::server::metrics::DURATION_BOUNDARIES,
                            "{}",
                            metric.name()
                        );
                        let value = Value::Histogram(point.count(), point.sum());
                        put(text(point.attributes()), value);
                    }
                }
                other => panic!("{}: {other:?}", metric.name()),
            }
            assert!(!metric.description().is_empty(), "{}", metric.name());
        }
        values
    }
}

fn text<'a>(attributes: impl Iterator<Item = &'a opentelemetry::KeyValue>) -> String {
    let mut pairs: Vec<String> = attributes
        .map(|pair| format!("{}={}", pair.key, pair.value))
        .collect();
    pairs.sort();
    pairs.join(",")
}

/// The values of one metric by their attributes.
fn of(values: &Values, name: &str) -> BTreeMap<String, Value> {
    values
        .iter()
        .filter(|((known, _), _)| known == name)
        .map(|((_, attributes), value)| (attributes.clone(), *value))
        .collect()
}

fn sum(values: &Values, name: &str) -> i64 {
    of(values, name)
        .values()
        .map(|value| match value {
            Value::Number(number) => *number,
            Value::Histogram(count, _) => i64::try_from(*count).expect("small"),
        })
        .sum()
}

fn outcomes(values: &Values) -> BTreeMap<String, i64> {
    let mut counts = BTreeMap::new();
    for (attributes, value) in of(values, "plimsoll.requests") {
        let outcome = attributes
            .split(',')
            .find_map(|pair| pair.strip_prefix("outcome="))
            .expect("an outcome");
        let Value::Number(number) = value else {
            panic!("a counter")
        };
        *counts.entry(outcome.to_owned()).or_default() += number;
    }
    counts
}

/// What holds in every scrape.
fn balanced_in_motion(values: &Values) {
    let started = sum(values, "plimsoll.requests.started");
    let ended = sum(values, "plimsoll.requests");
    let in_flight = sum(values, "plimsoll.requests.in_flight");
    assert_eq!(started, ended + in_flight);
}

/// What holds at rest: durations may be ahead of the counts by what ended during the scrape.
fn balanced(values: &Values) {
    balanced_in_motion(values);
    let ended = sum(values, "plimsoll.requests");
    let durations =
        sum(values, "http.server.request.duration") + sum(values, "rpc.server.call.duration");
    assert_eq!(durations, ended);
}

fn request(method: &str, path: &str) -> Request<Body> {
    let request = Request::builder().method(method).uri(path);
    request.body(Body::empty()).expect("a request")
}

fn grpc(path: &str) -> Request<Body> {
    let mut request = request("POST", path);
    let media_type = "application/grpc".parse().expect("a value");
    request.headers_mut().insert(CONTENT_TYPE, media_type);
    request
}

/// Calls and reads the body to its end.
async fn call<S, B>(service: S, request: Request<Body>)
where
    S: Service<Request<Body>, Response = Response<B>>,
    B: http_body::Body,
{
    if let Ok(response) = service.oneshot(request).await {
        // A broken body is one of the ends that are counted.
        drop(response.into_body().collect().await);
    }
}

fn frames(frames: Vec<Result<Frame<Bytes>, Failure>>) -> Body {
    Body::new(StreamBody::new(tokio_stream::iter(frames)))
}

fn data(text: &'static str) -> Result<Frame<Bytes>, Failure> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

fn status(code: &'static str) -> Result<Frame<Bytes>, Failure> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.parse().expect("a value"));
    Ok(Frame::trailers(trailers))
}

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

#[tokio::test(start_paused = true)]
async fn time_runs_to_the_end_of_the_body() {
    let scrape = Scrape::new();
    let app: Router = Router::new()
        .route(
            "/stream",
            get(|| async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let chunks = tokio_stream::iter(0..5);
                let chunks = futures_util::StreamExt::then(chunks, |_| async {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    data("x")
                });
                Body::new(StreamBody::new(chunks))
            }),
        )
        .layer(scrape.layer());
    call(app, request("GET", "/stream")).await;
    let values = scrape.read();
    let seconds = |name| match of(&values, name).into_values().next() {
        Some(Value::Histogram(1, sum)) => sum,
        other => panic!("{name}: {other:?}"),
    };
    assert!((seconds("plimsoll.time_to_head") - 0.02).abs() < 0.002);
    assert!((seconds("http.server.request.duration") - 0.52).abs() < 0.002);
}

#[tokio::test]
async fn every_end_is_counted_once_and_told_apart() {
    let scrape = Scrape::new();
    let app: Router = Router::new()
        .route("/ok", get(|| async { "ok" }))
        .route(
            "/cut",
            get(|| async { frames(vec![data("x"), Err("cable cut".into())]) }),
        )
        .route("/panic", get(|| async { panic!("oh") as &'static str }))
        .route("/wait", get(std::future::pending::<()>))
        .route(
            "/endless",
            get(|| async {
                Body::new(StreamBody::new(tokio_stream::pending::<
                    Result<Frame<Bytes>, Failure>,
                >()))
            }),
        )
        .layer((scrape.layer(), CatchPanicLayer::new()));
    for path in ["/ok", "/cut", "/panic"] {
        call(app.clone(), request("GET", path)).await;
    }
    assert!(
        app.clone()
            .oneshot(request("GET", "/wait"))
            .now_or_never()
            .is_none()
    );
    let response = app
        .clone()
        .oneshot(request("GET", "/endless"))
        .await
        .expect("infallible");
    assert_eq!(sum(&scrape.read(), "plimsoll.requests.in_flight"), 1);
    drop(response);
    let values = scrape.read();
    let expected = [
        "ok",
        "body_error",
        "panic",
        "client_gone",
        "client_gone_body",
    ];
    let expected: BTreeMap<String, i64> = expected.map(|name| (name.to_owned(), 1)).into();
    assert_eq!(outcomes(&values), expected);
    balanced(&values);
    assert_eq!(sum(&values, "plimsoll.requests.in_flight"), 0);
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
    const CALLS: usize = 20_000;
    let scrape = Scrape::new();
    let app: Router = Router::new()
        .route("/orders/{id}", get(|| async { "on its way" }))
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(scrape.layer().rpc_methods(["shop.Barista/Brew"]));
    for number in 0..CALLS {
        let random = number.wrapping_mul(2_654_435_761) % 1_000_003;
        let request = match number % 4 {
            0 => request("GET", &format!("/{random}?x={random}")),
            1 => request("GET", &format!("/orders/{random}")),
            2 => request(&format!("M{random}"), "/nowhere"),
            _ => grpc(&format!("/shop.X{random}/Y")),
        };
        call(app.clone(), request).await;
    }
    let values = scrape.read();
    assert_eq!(
        sum(&values, "plimsoll.requests"),
        i64::try_from(CALLS).expect("small")
    );
    assert_eq!(of(&values, "http.server.request.duration").len(), 3);
    assert_eq!(of(&values, "rpc.server.call.duration").len(), 1);
    let other = of(&values, "plimsoll.requests");
    assert!(
        other
            .keys()
            .any(|attributes| attributes.contains("http.request.method=_OTHER"))
    );
    balanced(&values);
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

#[tokio::test]
async fn ten_thousand_cancels_leave_nothing_in_flight() {
    let scrape = Scrape::new();
    let app: Router = Router::new()
        .route(
            "/yields/{n}",
            get(
                |axum::extract::Path(n): axum::extract::Path<u32>| async move {
                    for _ in 0..n {
                        tokio::task::yield_now().await;
                    }
                    frames(vec![data("a"), data("b")])
                },
            ),
        )
        .layer(scrape.layer());
    let mut state = 1_u64;
    for _ in 0..10_000 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let (yields, polls) = (state >> 61, (state >> 58) & 7);
        let mut future = Box::pin(
            app.clone()
                .oneshot(request("GET", &format!("/yields/{yields}"))),
        );
        let mut context = Context::from_waker(std::task::Waker::noop());
        for _ in 0..polls {
            if let Poll::Ready(Ok(response)) = future.as_mut().poll(&mut context) {
                let mut body = response.into_body();
                if state & 1 == 0 {
                    assert!(
                        http_body::Body::poll_frame(Pin::new(&mut body), &mut context).is_ready()
                    );
                }
                break;
            }
        }
        drop(future);
        if state.is_multiple_of(997) {
            assert!(sum(&scrape.read(), "plimsoll.requests.in_flight") >= 0);
        }
    }
    let values = scrape.read();
    assert_eq!(sum(&values, "plimsoll.requests.in_flight"), 0);
    assert_eq!(sum(&values, "http.server.active_requests"), 0);
    // Polled zero times, the router itself was never called.
    assert!(sum(&values, "plimsoll.requests.started") > 8_000);
    balanced(&values);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_books_balance_in_every_scrape_and_exactly_at_rest() {
    let scrape = Scrape::new();
    let app: Router = Router::new()
        .route("/{n}", get(|| async { tokio::task::yield_now().await }))
        .layer(scrape.layer());
    let callers = (0..4).map(|_| {
        let app = app.clone();
        async move {
            for number in 0..5_000 {
                call(app.clone(), request("GET", &format!("/{number}"))).await;
            }
        }
    });
    let callers = tokio::task::JoinSet::from_iter(callers);
    while !callers.is_empty() && sum(&scrape.read(), "plimsoll.requests") < 15_000 {
        let values = scrape.read();
        let in_flight = sum(&values, "plimsoll.requests.in_flight");
        assert!((0..=4).contains(&in_flight), "{in_flight}");
        balanced_in_motion(&values);
        tokio::task::yield_now().await;
    }
    callers.join_all().await;
    let values = scrape.read();
    assert_eq!(sum(&values, "plimsoll.requests"), 20_000);
    balanced(&values);
}

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

#[tokio::test]
async fn clones_and_routes_share_one_set_of_books() {
    let scrape = Scrape::new();
    let layer = scrape.layer();
    let one: Router = Router::new()
        .route("/", get(|| async {}))
        .layer(layer.clone());
    let two: Router = Router::new()
        .route("/", get(|| async {}).post(|| async {}))
        .route("/b", get(|| async {}))
        .layer(layer);
    call(one, request("GET", "/")).await;
    for (method, path) in [("GET", "/"), ("POST", "/"), ("GET", "/b")] {
        call(two.clone(), request(method, path)).await;
    }
    let values = scrape.read();
    assert_eq!(sum(&values, "plimsoll.requests"), 4);
    assert_eq!(of(&values, "http.server.request.duration").len(), 3);
}
