//! A provider whose metrics are read back, and calls to be counted.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, Request, Response, header::CONTENT_TYPE},
};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
    data::{AggregatedMetrics, MetricData},
};
use plimsoll::server::metrics::MetricsLayer;
use tower::{Service, ServiceExt};

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A provider whose metrics are read back.
pub(crate) struct Scrape {
    pub(crate) provider: SdkMeterProvider,
    exporter: InMemoryMetricExporter,
}

/// A value: that of a counter or gauge, or count and sum of a histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    Number(i64),
    Histogram(u64, f64),
}

pub(crate) type Values = BTreeMap<(String, String), Value>;

impl Scrape {
    pub(crate) fn new() -> Self {
        let exporter = InMemoryMetricExporter::default();
        let reader = PeriodicReader::builder(exporter.clone())
            .with_interval(Duration::from_secs(3_600))
            .build();
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        Self { provider, exporter }
    }

    pub(crate) fn layer(&self) -> MetricsLayer {
        MetricsLayer::new(&self.provider.meter("test"))
    }

    /// All values by name and attributes: `("plimsoll.requests", "outcome=ok,protocol=http/1.1")`.
    pub(crate) fn read(&self) -> Values {
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

pub(crate) fn text<'a>(attributes: impl Iterator<Item = &'a opentelemetry::KeyValue>) -> String {
    let mut pairs: Vec<String> = attributes
        .map(|pair| format!("{}={}", pair.key, pair.value))
        .collect();
    pairs.sort();
    pairs.join(",")
}

/// The values of one metric by their attributes.
pub(crate) fn of(values: &Values, name: &str) -> BTreeMap<String, Value> {
    values
        .iter()
        .filter(|((known, _), _)| known == name)
        .map(|((_, attributes), value)| (attributes.clone(), *value))
        .collect()
}

pub(crate) fn sum(values: &Values, name: &str) -> i64 {
    of(values, name)
        .values()
        .map(|value| match value {
            Value::Number(number) => *number,
            Value::Histogram(count, _) => i64::try_from(*count).expect("small"),
        })
        .sum()
}

pub(crate) fn outcomes(values: &Values) -> BTreeMap<String, i64> {
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
pub(crate) fn balanced_in_motion(values: &Values) {
    let started = sum(values, "plimsoll.requests.started");
    let ended = sum(values, "plimsoll.requests");
    let in_flight = sum(values, "plimsoll.requests.in_flight");
    assert_eq!(started, ended + in_flight);
}

/// What holds at rest: durations may be ahead of the counts by what ended during the scrape.
pub(crate) fn balanced(values: &Values) {
    balanced_in_motion(values);
    let ended = sum(values, "plimsoll.requests");
    let durations =
        sum(values, "http.server.request.duration") + sum(values, "rpc.server.call.duration");
    assert_eq!(durations, ended);
}

pub(crate) fn request(method: &str, path: &str) -> Request<Body> {
    let request = Request::builder().method(method).uri(path);
    request.body(Body::empty()).expect("a request")
}

pub(crate) fn grpc(path: &str) -> Request<Body> {
    let mut request = request("POST", path);
    let media_type = "application/grpc".parse().expect("a value");
    request.headers_mut().insert(CONTENT_TYPE, media_type);
    request
}

/// Calls and reads the body to its end.
pub(crate) async fn call<S, B>(service: S, request: Request<Body>)
where
    S: Service<Request<Body>, Response = Response<B>>,
    B: http_body::Body,
{
    if let Ok(response) = service.oneshot(request).await {
        // A broken body is one of the ends that are counted.
        drop(response.into_body().collect().await);
    }
}

pub(crate) fn frames(frames: Vec<Result<Frame<Bytes>, Failure>>) -> Body {
    Body::new(StreamBody::new(tokio_stream::iter(frames)))
}

pub(crate) fn data(text: &'static str) -> Result<Frame<Bytes>, Failure> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

pub(crate) fn status(code: &'static str) -> Result<Frame<Bytes>, Failure> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.parse().expect("a value"));
    Ok(Frame::trailers(trailers))
}
