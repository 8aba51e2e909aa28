//! Metrics as Prometheus' text, version 0.0.4, written straight from what the SDK collected: a label set is put into words
//! once, not once for each of its seventeen lines.

mod names;

use std::{
    collections::BTreeMap,
    fmt::{Display, Write as _},
    sync::{Arc, Weak},
    time::Duration,
};

use opentelemetry::{Key, KeyValue, Value};
use opentelemetry_sdk::{
    error::{OTelSdkError, OTelSdkResult},
    metrics::{
        InstrumentKind, ManualReader, Pipeline, Temporality,
        data::{AggregatedMetrics, Histogram, Metric, MetricData, ResourceMetrics, ScopeMetrics},
        reader::MetricReader,
    },
};

use self::names::Kind;

/// Reads when it is asked. Clones are one.
#[derive(Clone, Debug)]
pub(super) struct Reader(Arc<ManualReader>);

impl Reader {
    pub(super) fn new() -> Self {
        Self(Arc::new(ManualReader::builder().build()))
    }

    /// All metrics as they are now; `about` bytes of them, the last time.
    pub(super) fn text(&self, about: usize) -> Result<String, OTelSdkError> {
        let mut metrics = ResourceMetrics::default();
        self.0.collect(&mut metrics)?;
        Ok(render(&metrics, about))
    }
}

impl MetricReader for Reader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    /// Prometheus knows no other.
    fn temporality(&self, _: InstrumentKind) -> Temporality {
        Temporality::Cumulative
    }
}

/// All series of one name.
struct Family<'a> {
    kind: Kind,
    help: &'a str,
    metrics: Vec<&'a Metric>,
}

fn render(metrics: &ResourceMetrics, about: usize) -> String {
    let mut families = BTreeMap::new();
    for metric in metrics.scope_metrics().flat_map(ScopeMetrics::metrics) {
        let Some(kind) = Kind::of(metric.data()) else {
            continue;
        };
        let name = names::family(metric.name(), metric.unit(), kind);
        let family = families.entry(name).or_insert_with(|| Family {
            kind,
            help: metric.description(),
            metrics: Vec::new(),
        });
        // A name has one kind: that of who came first.
        if family.kind == kind {
            family.metrics.push(metric);
        }
    }
    let mut text = Text(String::with_capacity(about.saturating_add(about / 8)));
    let resource = labels(metrics.resource().iter());
    if !resource.is_empty() {
        text.head("target_info", Kind::Gauge, "Target metadata");
        text.line("target_info", &resource, 1);
    }
    for (name, family) in &families {
        text.head(name, family.kind, family.help);
        for metric in &family.metrics {
            match metric.data() {
                AggregatedMetrics::F64(data) => text.series(name, data),
                AggregatedMetrics::U64(data) => text.series(name, data),
                AggregatedMetrics::I64(data) => text.series(name, data),
            }
        }
    }
    text.0
}

struct Text(String);

impl Text {
    fn push(&mut self, parts: &[&str]) {
        for part in parts {
            self.0.push_str(part);
        }
    }

    fn value(&mut self, value: impl Display) {
        writeln!(self.0, " {value}").expect("a string takes all");
    }

    fn head(&mut self, name: &str, kind: Kind, help: &str) {
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        self.push(&["# HELP ", name, " ", &help, "\n"]);
        self.push(&["# TYPE ", name, " ", kind.word(), "\n"]);
    }

    fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        match labels {
            "" => self.push(&[name]),
            labels => self.push(&[name, "{", labels, "}"]),
        }
        self.value(value);
    }

    fn series<T: Display + Copy>(&mut self, name: &str, data: &MetricData<T>) {
        match data {
            MetricData::Sum(sum) => {
                for point in sum.data_points() {
                    self.line(name, &labels(pairs(point.attributes())), point.value());
                }
            }
            MetricData::Gauge(gauge) => {
                for point in gauge.data_points() {
                    self.line(name, &labels(pairs(point.attributes())), point.value());
                }
            }
            MetricData::Histogram(histogram) => self.histogram(name, histogram),
            MetricData::ExponentialHistogram(_) => {}
        }
    }

    fn histogram<T: Display + Copy>(&mut self, name: &str, histogram: &Histogram<T>) {
        let [bucket, sum, count] = ["bucket", "sum", "count"].map(|end| format!("{name}_{end}"));
        // They are those of all its points.
        let first = histogram.data_points().next();
        let bounds = first.into_iter().flat_map(|point| point.bounds());
        let bounds: Vec<String> = bounds.map(|bound| bound.to_string()).collect();
        for point in histogram.data_points() {
            let labels = labels(pairs(point.attributes()));
            let comma = if labels.is_empty() { "" } else { "," };
            let mut below = 0_u64;
            for (bound, calls) in bounds.iter().zip(point.bucket_counts()) {
                below = below.saturating_add(calls);
                self.push(&[&bucket, "{", &labels, comma, "le=\"", bound, "\"}"]);
                self.value(below);
            }
            self.push(&[&bucket, "{", &labels, comma, "le=\"+Inf\"}"]);
            self.value(point.count());
            self.line(&sum, &labels, point.sum());
            self.line(&count, &labels, point.count());
        }
    }
}

fn pairs<'a>(
    attributes: impl Iterator<Item = &'a KeyValue>,
) -> impl Iterator<Item = (&'a Key, &'a Value)> {
    attributes.map(|pair| (&pair.key, &pair.value))
}

/// Labels in words, in the order of their names: `method="GET",route="/"`. The values of names that become one are joined.
fn labels<'a>(pairs: impl Iterator<Item = (&'a Key, &'a Value)>) -> String {
    let named = pairs.map(|(key, value)| (names::label(key.as_str()), value));
    let mut named: Vec<_> = named.collect();
    named.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut text = String::new();
    let mut before = None;
    for (name, value) in &named {
        if before == Some(name) {
            text.pop();
            text.push(';');
        } else {
            if before.is_some() {
                text.push(',');
            }
            text.push_str(name);
            text.push_str("=\"");
        }
        before = Some(name);
        for character in value.as_str().chars() {
            match character {
                '\\' => text.push_str(r"\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str(r"\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    text
}

#[cfg(test)]
mod tests {
    use opentelemetry::metrics::MeterProvider as _;
    use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider};

    use super::*;

    #[test]
    fn is_written_as_prometheus_reads_it() {
        let reader = Reader::new();
        let provider = SdkMeterProvider::builder()
            .with_reader(reader.clone())
            .with_resource(Resource::builder_empty().with_service_name("shop").build())
            .build();
        let meter = provider.meter("test");
        let counter = meter.u64_counter("shop.orders");
        let counter = counter.with_description("Orders,\nall of them.").build();
        counter.add(
            3,
            &[
                KeyValue::new("b", "say \"hi\"\\\n"),
                KeyValue::new("a.x", 1),
            ],
        );
        counter.add(4, &[KeyValue::new("a.x", "1"), KeyValue::new("a_x", "2")]);
        meter
            .f64_gauge("shop.heat")
            .with_unit("Cel")
            .build()
            .record(-0.5, &[]);
        meter
            .i64_up_down_counter("shop.guests")
            .with_unit("{guest}")
            .build()
            .add(-2, &[]);
        // The kind of the first counts.
        meter.u64_gauge("shop.orders.total").build().record(1, &[]);
        let histogram = meter.f64_histogram("shop.wait").with_unit("s");
        let histogram = histogram.with_boundaries(vec![0.5, 2.0]).build();
        for wait in [0.25, 0.5, 1.0, 9.0] {
            histogram.record(wait, &[KeyValue::new("k", true)]);
        }
        let expected = "\
# HELP target_info Target metadata
# TYPE target_info gauge
target_info{service_name=\"shop\"} 1
# HELP shop_guests 
# TYPE shop_guests gauge
shop_guests -2
# HELP shop_heat_celsius 
# TYPE shop_heat_celsius gauge
shop_heat_celsius -0.5
# HELP shop_orders_total Orders,\\nall of them.
# TYPE shop_orders_total counter
shop_orders_total{a_x=\"1\",b=\"say \\\"hi\\\"\\\\\\n\"} 3
shop_orders_total{a_x=\"1;2\"} 4
# HELP shop_wait_seconds 
# TYPE shop_wait_seconds histogram
shop_wait_seconds_bucket{k=\"true\",le=\"0.5\"} 2
shop_wait_seconds_bucket{k=\"true\",le=\"2\"} 3
shop_wait_seconds_bucket{k=\"true\",le=\"+Inf\"} 4
shop_wait_seconds_sum{k=\"true\"} 10.75
shop_wait_seconds_count{k=\"true\"} 4
";
        let mut told: Vec<_> = reader
            .text(0)
            .expect("it is not shut down")
            .lines()
            .map(str::to_owned)
            .collect();
        let mut expected: Vec<_> = expected.lines().collect();
        // Series of one name come in any order.
        told.sort_unstable();
        expected.sort_unstable();
        assert_eq!(told, expected);
        provider.shutdown().expect("the first time");
        reader.text(0).expect_err("nothing is collected any more");
    }
}
