//! The instruments, and what each label is called.

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter, UpDownCounter},
};

use super::labels::{Labels, Wire};

/// The boundaries of every duration, in seconds (OpenTelemetry's semantic conventions for HTTP metrics).
pub const DURATION_BOUNDARIES: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

pub(crate) const HTTP_DURATION: &str = "http.server.request.duration";
pub(crate) const RPC_DURATION: &str = "rpc.server.call.duration";
pub(crate) const QUEUE_WAIT: &str = "plimsoll.queue.wait";
pub(crate) const ENDED: &str = "plimsoll.requests";
pub(crate) const IN_FLIGHT: &str = "plimsoll.requests.in_flight";
pub(crate) const LABEL_OVERFLOW: &str = "plimsoll.label_overflow";

/// The conventions are about to rename it to `rpc.status_code`.
const RPC_STATUS: &str = "rpc.response.status_code";
/// As the SDK marks what is past its own limit.
pub(crate) const OVERFLOW: &str = "otel.metric.overflow";

/// Every instrument of the layer's own.
pub(super) struct Instruments {
    pub(super) http_duration: Histogram<f64>,
    pub(super) rpc_duration: Histogram<f64>,
    pub(super) time_to_head: Histogram<f64>,
    pub(super) queue_wait: Histogram<f64>,
    pub(super) active: UpDownCounter<i64>,
    pub(super) started: Counter<u64>,
    pub(super) ended: Counter<u64>,
    pub(super) in_flight: UpDownCounter<i64>,
    pub(super) overflow: Counter<u64>,
    pub(super) slo_events: Counter<u64>,
    pub(super) slo_good: Counter<u64>,
}

impl Instruments {
    pub(super) fn of(meter: &Meter) -> Self {
        let seconds = |name: &'static str, description: &'static str| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(description)
                .with_boundaries(DURATION_BOUNDARIES.to_vec())
                .build()
        };
        let count = |name: &'static str, unit: &'static str, description: &'static str| {
            let counter = meter.u64_counter(name).with_unit(unit);
            counter.with_description(description).build()
        };
        let level = |name: &'static str, description: &'static str| {
            let counter = meter.i64_up_down_counter(name).with_unit("{request}");
            counter.with_description(description).build()
        };
        Self {
            http_duration: seconds(
                HTTP_DURATION,
                "Duration of HTTP requests, to the last byte of the response.",
            ),
            rpc_duration: seconds(
                RPC_DURATION,
                "Duration of gRPC calls, to the status at their end.",
            ),
            time_to_head: seconds(
                "plimsoll.time_to_head",
                "Time until the head of the response.",
            ),
            queue_wait: seconds(
                QUEUE_WAIT,
                "Time that calls waited to be let in, of those that had to.",
            ),
            active: level(
                "http.server.active_requests",
                "HTTP requests whose response has not ended.",
            ),
            started: count(
                "plimsoll.requests.started",
                "{request}",
                "Calls that began.",
            ),
            ended: count(ENDED, "{request}", "Calls that ended, by outcome."),
            in_flight: level(IN_FLIGHT, "Calls that have not ended."),
            overflow: count(
                LABEL_OVERFLOW,
                "{request}",
                "Calls counted without their labels, for lack of series.",
            ),
            slo_events: count(
                "plimsoll.slo.events",
                "{request}",
                "Calls that an objective is about.",
            ),
            slo_good: count(
                "plimsoll.slo.good_events",
                "{request}",
                "Calls that met their objective.",
            ),
        }
    }

    /// A call waited for this limit.
    pub(super) fn waited(&self, limit: &'static str, seconds: f64) {
        self.queue_wait
            .record(seconds, &[KeyValue::new("limit", limit)]);
    }

    pub(super) fn duration(&self, wire: Wire) -> &Histogram<f64> {
        if wire.is_grpc() {
            &self.rpc_duration
        } else {
            &self.http_duration
        }
    }
}

pub(super) fn protocol(wire: Wire) -> KeyValue {
    KeyValue::new("protocol", wire.label())
}

pub(super) fn scheme(https: bool) -> KeyValue {
    KeyValue::new("url.scheme", if https { "https" } else { "http" })
}

pub(super) fn method(name: String) -> KeyValue {
    KeyValue::new("http.request.method", name)
}

/// The names behind the numbers of some labels.
pub(super) struct Names {
    pub(super) method: String,
    /// The route, or the method of gRPC.
    pub(super) place: Option<String>,
}

impl Names {
    /// The attributes of the duration.
    pub(super) fn of_duration(&self, labels: &Labels) -> Vec<KeyValue> {
        if labels.is_overflow() {
            return vec![KeyValue::new(OVERFLOW, true)];
        }
        let mut attributes = self.of_head(labels);
        if labels.asked.wire.is_grpc() {
            let code = labels
                .grpc
                .map(|code| KeyValue::new(RPC_STATUS, code.name()));
            attributes.extend(code);
        } else if let Some(status) = labels.status {
            let status = i64::from(status.as_u16());
            attributes.push(KeyValue::new("http.response.status_code", status));
        }
        if let Some(error) = labels.error_type() {
            attributes.push(KeyValue::new("error.type", error));
        }
        attributes
    }

    /// The attributes of the time to the head.
    pub(super) fn of_head(&self, labels: &Labels) -> Vec<KeyValue> {
        if labels.is_overflow() {
            return vec![KeyValue::new(OVERFLOW, true)];
        }
        let wire = labels.asked.wire;
        if wire.is_grpc() {
            let mut attributes = vec![KeyValue::new("rpc.system.name", "grpc")];
            attributes.extend(
                self.place
                    .clone()
                    .map(|name| KeyValue::new("rpc.method", name)),
            );
            return attributes;
        }
        let mut attributes = vec![
            method(self.method.clone()),
            scheme(labels.asked.https),
            KeyValue::new("network.protocol.version", wire.version()),
        ];
        attributes.extend(self.route(wire));
        attributes
    }

    /// The attributes of the count of calls that ended.
    pub(super) fn of_count(&self, labels: &Labels) -> Vec<KeyValue> {
        let wire = labels.asked.wire;
        let mut attributes = vec![
            protocol(wire),
            KeyValue::new("outcome", labels.outcome.label()),
        ];
        if labels.is_overflow() {
            attributes.push(KeyValue::new(OVERFLOW, true));
        } else {
            attributes.push(method(self.method.clone()));
            attributes.extend(self.route(wire));
        }
        attributes
    }

    fn route(&self, wire: Wire) -> Option<KeyValue> {
        let place = if wire.is_grpc() {
            None
        } else {
            self.place.clone()
        };
        place.map(|route| KeyValue::new("http.route", route))
    }
}
