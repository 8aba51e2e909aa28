//! What the metrics say, as the page needs it: one truth for the page and for whoever scrapes.

use std::collections::BTreeMap;

use opentelemetry::{Key, KeyValue};
use opentelemetry_sdk::metrics::data::{
    AggregatedMetrics, HistogramDataPoint, Metric, MetricData, ResourceMetrics, ScopeMetrics,
};

use super::guard::REFUSED;
use crate::{
    log,
    ops::health,
    outcome::{Fault, Outcome},
    panics::PANICS,
    server::{
        metrics::{
            DURATION_BOUNDARIES, ENDED, HTTP_DURATION, IN_FLIGHT, LABEL_OVERFLOW, OVERFLOW,
            QUEUE_WAIT, RPC_DURATION,
        },
        rate_limit,
    },
    task,
    telemetry::{EXPORT_ERRORS, SPANS_DROPPED},
};

/// Between the boundaries, and one past the last.
const BUCKETS: usize = DURATION_BOUNDARIES.len() + 1;

/// Counters that stand still while all is well.
fn trouble() -> [&'static str; 11] {
    [
        EXPORT_ERRORS,
        health::FAILURES.name(),
        LABEL_OVERFLOW,
        log::DROPPED.name(),
        log::WRITE_ERRORS.name(),
        REFUSED.name(),
        PANICS.name(),
        rate_limit::FAULTS.name(),
        SPANS_DROPPED,
        rate_limit::STORE_ERRORS.name(),
        task::DIED.name(),
    ]
}

/// All counts since the start, at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub(super) service: Option<String>,
    pub(super) version: Option<String>,
    /// `None` while no call is counted: there was none yet, or there is no `MetricsLayer`, or one that is off.
    pub(super) in_flight: Option<i64>,
    /// Calls that ended, by outcome.
    pub(super) outcomes: BTreeMap<String, u64>,
    pub(super) routes: BTreeMap<Place, Calls>,
    /// How long calls waited, by the limit that they waited for.
    pub(super) waits: BTreeMap<String, Times>,
    pub(super) trouble: Vec<Trouble>,
}

/// A route of HTTP with its method, or a method of gRPC.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) protocol: &'static str,
    pub(super) name: String,
}

/// The calls of one place.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Calls {
    pub(super) errors: u64,
    pub(super) times: Times,
}

/// How long calls took: how many between each two boundaries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Times([u64; BUCKETS]);

/// A counter that should stand still, and does not.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub(super) metric: &'static str,
    /// Such as `where=call`.
    pub(super) attributes: String,
    pub(super) count: u64,
}

impl Times {
    pub(super) fn count(&self) -> u64 {
        self.0.iter().copied().fold(0, u64::saturating_add)
    }

    /// Those that came since.
    pub(super) fn since(&self, before: &Self) -> Self {
        let mut since = *self;
        for (now, before) in since.0.iter_mut().zip(before.0) {
            *now = now.saturating_sub(before);
        }
        since
    }

    /// The time in seconds that this share of all did not exceed, as Prometheus' `histogram_quantile` reckons it. What
    /// is past the last boundary is told as that boundary.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let all = self.count();
        if all == 0 {
            return None;
        }
        let wanted = share * as_float(all);
        let (mut below, mut from) = (0.0, 0.0);
        for (calls, to) in self.0.iter().zip(DURATION_BOUNDARIES) {
            let calls = as_float(*calls);
            if calls > 0.0 && below + calls >= wanted {
                return Some(from + (to - from) * (wanted - below) / calls);
            }
            (below, from) = (below + calls, to);
        }
        Some(from)
    }

    fn add(&mut self, point: &HistogramDataPoint<f64>) {
        for (sum, calls) in self.0.iter_mut().zip(point.bucket_counts()) {
            *sum = sum.saturating_add(calls);
        }
    }
}

impl Figures {
    pub(super) fn of(metrics: &ResourceMetrics) -> Self {
        let attribute = |key: &'static str| {
            let value = metrics.resource().get(&Key::from_static_str(key));
            value.map(|value| value.as_str().into_owned())
        };
        let mut figures = Self {
            service: attribute("service.name"),
            version: attribute("service.version"),
            ..Self::default()
        };
        for metric in metrics.scope_metrics().flat_map(ScopeMetrics::metrics) {
            figures.take(metric);
        }
        figures
    }

    /// How many calls ended so since the start.
    pub(super) fn ended(&self, with: impl Fn(Fault) -> bool) -> u64 {
        let wanted = self.outcomes.iter().filter(|(label, _)| {
            // What is not known is nobody's good news.
            with(Outcome::of_label(label).map_or(Fault::Server, Outcome::fault))
        });
        wanted.map(|(_, count)| *count).fold(0, u64::saturating_add)
    }

    fn take(&mut self, metric: &Metric) {
        match metric.name() {
            ENDED => sums(metric, |attribute, count| {
                let outcome = attribute("outcome").unwrap_or_default();
                let known = self.outcomes.entry(outcome).or_default();
                *known = known.saturating_add(count);
            }),
            IN_FLIGHT => {
                if let AggregatedMetrics::I64(MetricData::Sum(sum)) = metric.data() {
                    let points = sum.data_points().map(|point| point.value());
                    self.in_flight = Some(points.fold(0, i64::saturating_add));
                }
            }
            HTTP_DURATION => histograms(metric, |attribute, point| {
                let method = attribute("http.request.method").unwrap_or_default();
                let route = attribute("http.route");
                let route = route.unwrap_or_else(|| unmatched(attribute));
                self.called("http", format!("{method} {route}"), attribute, point);
            }),
            RPC_DURATION => histograms(metric, |attribute, point| {
                let method = attribute("rpc.method").unwrap_or_else(|| unmatched(attribute));
                self.called("grpc", method, attribute, point);
            }),
            QUEUE_WAIT => histograms(metric, |attribute, point| {
                let limit = attribute("limit").unwrap_or_default();
                self.waits.entry(limit).or_default().add(point);
            }),
            name => {
                if let Some(name) = trouble().into_iter().find(|trouble| *trouble == name) {
                    self.note(name, metric);
                }
            }
        }
    }

    fn called(
        &mut self,
        protocol: &'static str,
        name: String,
        attribute: &dyn Fn(&str) -> Option<String>,
        point: &HistogramDataPoint<f64>,
    ) {
        let calls = self.routes.entry(Place { protocol, name }).or_default();
        calls.times.add(point);
        if attribute("error.type").is_some() {
            calls.errors = calls.errors.saturating_add(point.count());
        }
    }

    fn note(&mut self, name: &'static str, metric: &Metric) {
        if let AggregatedMetrics::U64(MetricData::Sum(sum)) = metric.data() {
            for point in sum.data_points().filter(|point| point.value() > 0) {
                let attributes = point.attributes();
                let attributes =
                    attributes.map(|pair| format!("{}={}", pair.key, pair.value.as_str()));
                self.trouble.push(Trouble {
                    metric: name,
                    attributes: attributes.collect::<Vec<_>>().join(" "),
                    count: point.value(),
                });
            }
            let order = |trouble: &Trouble| (trouble.metric, trouble.attributes.clone());
            self.trouble.sort_by_cached_key(order);
        }
    }
}

/// What stands for the route of a call that has none in the metrics.
fn unmatched(attribute: &dyn Fn(&str) -> Option<String>) -> String {
    match attribute(OVERFLOW) {
        Some(_) => "(past the limit of series)".to_owned(),
        None => "(no route)".to_owned(),
    }
}

fn sums(metric: &Metric, mut take: impl FnMut(&dyn Fn(&str) -> Option<String>, u64)) {
    if let AggregatedMetrics::U64(MetricData::Sum(sum)) = metric.data() {
        for point in sum.data_points() {
            take(&|key| find(point.attributes(), key), point.value());
        }
    }
}

fn histograms(
    metric: &Metric,
    mut take: impl FnMut(&dyn Fn(&str) -> Option<String>, &HistogramDataPoint<f64>),
) {
    if let AggregatedMetrics::F64(MetricData::Histogram(histogram)) = metric.data() {
        for point in histogram.data_points() {
            take(&|key| find(point.attributes(), key), point);
        }
    }
}

fn find<'a>(mut pairs: impl Iterator<Item = &'a KeyValue>, key: &str) -> Option<String> {
    let pair = pairs.find(|pair| pair.key.as_str() == key)?;
    Some(pair.value.as_str().into_owned())
}

pub(super) fn as_float(count: u64) -> f64 {
    // Exact below 2^53.
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(pairs: &[(usize, u64)]) -> Times {
        let mut times = Times::default();
        for (bucket, count) in pairs {
            times.0[*bucket] = *count;
        }
        times
    }

    #[test]
    fn quantiles_lie_where_prometheus_sees_them() {
        assert_eq!(Times::default().quantile(0.5), None);
        // All below 5 ms: halfway.
        assert_eq!(times(&[(0, 10)]).quantile(0.5), Some(0.0025));
        // 90 of 100 below 5 ms, 10 between 0.1 and 0.25 s.
        let mixed = times(&[(0, 90), (6, 10)]);
        assert_eq!(mixed.quantile(0.9), Some(0.005));
        let p95 = mixed.quantile(0.95).expect("there are some");
        assert!((p95 - 0.175).abs() < 1e-9, "{p95}");
        // Past the last boundary.
        assert_eq!(times(&[(BUCKETS - 1, 3)]).quantile(0.5), Some(10.0));
        assert_eq!(mixed.since(&times(&[(0, 80), (6, 20)])).count(), 10);
    }

    #[test]
    fn an_outcome_that_is_not_known_counts_as_an_error() {
        let shed = Figures {
            outcomes: [("ok", 5), ("shed", 3), ("panic", 2), ("of_tomorrow", 1)]
                .map(|(name, count)| (name.to_owned(), count))
                .into(),
            ..Figures::default()
        };
        assert_eq!(shed.ended(|fault| fault == Fault::Load), 3);
        assert_eq!(shed.ended(|fault| fault == Fault::Server), 3);
        assert_eq!(shed.ended(|_| true), 11);
    }
}
