//! The names that the keys of a line bear.

use super::escape;
use super::line::Reserved;

/// Under which names, and in which units, a line tells its facts.
///
/// | plain | [`Otel`](Self::Otel) | [`Ecs`](Self::Ecs) | [`Gcp`](Self::Gcp) |
/// |---|---|---|---|
/// | `timestamp` | `timestamp` | `@timestamp` | `time` |
/// | `level` | `severity_text`, `severity_number` | `log.level` | `severity` |
/// | `target` | `target` | `log.logger` | `target` |
/// | `message` | `body` | `message` | `message` |
/// | `span` | `span` | `span.name` | `span` |
/// | `service` | `service.name` | `service.name` | `service` |
/// | `version` | `service.version` | `service.version` | `version` |
/// | `deployment` | `deployment.environment.name` | `service.environment` | `deployment` |
/// | `request_id` | `request_id` | `http.request.id` | `request_id` |
/// | `trace_id` | `trace_id`, with `trace_flags` | `trace.id` | `logging.googleapis.com/trace` |
/// | `span_id` | `span_id` | `span.id` | `logging.googleapis.com/spanId` |
///
/// and for lines that plimsoll itself writes, the access line above all:
///
/// | plain | `Otel` | `Ecs` | `Gcp` |
/// |---|---|---|---|
/// | `event` | `event_name` | `event.action` | `event` |
/// | `protocol` | `protocol` | `network.protocol` | `httpRequest.protocol` |
/// | `method` | `http.request.method` | the same | `httpRequest.requestMethod` |
/// | `path` | `url.path` | the same | `httpRequest.requestUrl` |
/// | `route` | `http.route` | `route` | `route` |
/// | `status` | `http.response.status_code` | the same | `httpRequest.status` |
/// | `grpc_status` | `rpc.response.status_code` | `grpc_status` | `grpc_status` |
/// | `error` | `exception.message` | `error.message` | `error` |
/// | `bytes_in` | `http.request.body.size` | `http.request.body.bytes` | `httpRequest.requestSize` |
/// | `bytes_out` | `http.response.body.size` | `http.response.body.bytes` | `httpRequest.responseSize` |
/// | `duration_ms` | `http.server.request.duration`, s | `event.duration`, ns | `httpRequest.latency`, such as `"0.25s"` |
/// | `ttfb_ms` | `plimsoll.time_to_head`, s | `ttfb_ms` | `ttfb_ms` |
/// | `queue_ms` | `plimsoll.queue.wait`, s | `queue_ms` | `queue_ms` |
/// | `client` | `client.address` | `client.ip` | `httpRequest.remoteIp` |
/// | `user_agent` | `user_agent.original` | the same | `httpRequest.userAgent` |
///
/// All other names stay. Lines are flat but for one thing: Google's log reads `httpRequest` only as a nested object,
/// so there it is one.
///
/// Sources: OpenTelemetry logs data model and semantic conventions 1.44, Elastic Common Schema 8, Google Cloud
/// structured logging.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Schema {
    /// plimsoll's own names. The default, since they are short and need no look-up to be understood.
    #[default]
    Plain,
    /// Names of the OpenTelemetry logs data model and semantic conventions.
    Otel,
    /// Names of the Elastic Common Schema.
    Ecs,
    /// Names that Google Cloud Logging gives a meaning to.
    Gcp,
}

/// What a number of milliseconds becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    AsIs,
    Seconds,
    Nanoseconds,
    /// A text such as `"0.25s"`.
    SecondsText,
}

impl Unit {
    pub(super) fn push(self, out: &mut Vec<u8>, value: f64) {
        match self {
            Self::AsIs => escape::push_float(out, value),
            Self::Seconds => escape::push_float(out, value / 1e3),
            // Saturates: what is no time at all (NaN) is 0.
            Self::Nanoseconds => escape::push_integer(out, (value * 1e6).round() as u64),
            Self::SecondsText => {
                out.push(b'"');
                escape::push_float(out, value / 1e3);
                out.extend_from_slice(b"s\"");
            }
        }
    }
}

/// The object into which `Gcp` puts what it knows of the call.
pub(super) const HTTP_REQUEST: &str = "httpRequest";

/// Where a field of one of our own lines goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) key: &'static str,
    pub(super) unit: Unit,
    /// Inside of [`HTTP_REQUEST`].
    pub(super) nested: bool,
}

const fn same(key: &'static str) -> Place {
    Place {
        key,
        unit: Unit::AsIs,
        nested: false,
    }
}

const fn timed(key: &'static str, unit: Unit) -> Place {
    Place {
        key,
        unit,
        nested: false,
    }
}

const fn http(key: &'static str) -> Place {
    Place {
        key,
        unit: Unit::AsIs,
        nested: true,
    }
}

/// Our own fields: their plain name, then their place in `Otel`, `Ecs` and `Gcp`.
const OWN: [(&str, [Place; 3]); 27] = {
    const fn row(
        name: &'static str,
        otel: Place,
        ecs: Place,
        gcp: Place,
    ) -> (&'static str, [Place; 3]) {
        (name, [otel, ecs, gcp])
    }
    const fn kept(name: &'static str) -> (&'static str, [Place; 3]) {
        (name, [same(name); 3])
    }
    [
        row(
            "event",
            same("event_name"),
            same("event.action"),
            same("event"),
        ),
        row(
            "request_id",
            same("request_id"),
            same("http.request.id"),
            same("request_id"),
        ),
        row(
            "trace_id",
            same("trace_id"),
            same("trace.id"),
            same("logging.googleapis.com/trace"),
        ),
        row(
            "span_id",
            same("span_id"),
            same("span.id"),
            same("logging.googleapis.com/spanId"),
        ),
        row(
            "protocol",
            same("protocol"),
            same("network.protocol"),
            http("protocol"),
        ),
        row(
            "method",
            same("http.request.method"),
            same("http.request.method"),
            http("requestMethod"),
        ),
        row(
            "path",
            same("url.path"),
            same("url.path"),
            http("requestUrl"),
        ),
        row("route", same("http.route"), same("route"), same("route")),
        row(
            "status",
            same("http.response.status_code"),
            same("http.response.status_code"),
            http("status"),
        ),
        row(
            "grpc_status",
            same("rpc.response.status_code"),
            same("grpc_status"),
            same("grpc_status"),
        ),
        kept("outcome"),
        kept("error_missing"),
        kept("layer"),
        kept("which"),
        row(
            "error",
            same("exception.message"),
            same("error.message"),
            same("error"),
        ),
        kept("also"),
        kept("attempts"),
        kept("stale"),
        row(
            "bytes_in",
            same("http.request.body.size"),
            same("http.request.body.bytes"),
            http("requestSize"),
        ),
        row(
            "bytes_out",
            same("http.response.body.size"),
            same("http.response.body.bytes"),
            http("responseSize"),
        ),
        row(
            "queue_ms",
            timed("plimsoll.queue.wait", Unit::Seconds),
            same("queue_ms"),
            same("queue_ms"),
        ),
        row(
            "ttfb_ms",
            timed("plimsoll.time_to_head", Unit::Seconds),
            same("ttfb_ms"),
            same("ttfb_ms"),
        ),
        row(
            "duration_ms",
            timed("http.server.request.duration", Unit::Seconds),
            timed("event.duration", Unit::Nanoseconds),
            Place {
                key: "latency",
                unit: Unit::SecondsText,
                nested: true,
            },
        ),
        row(
            "client",
            same("client.address"),
            same("client.ip"),
            http("remoteIp"),
        ),
        row(
            "user_agent",
            same("user_agent.original"),
            same("user_agent.original"),
            http("userAgent"),
        ),
        kept("request_id_replaced"),
        kept("deadline_capped"),
    ]
};

impl Schema {
    /// Where a field of one of our own lines goes; `None` if it keeps its name.
    pub(super) fn place(self, name: &str) -> Option<Place> {
        let (_, [otel, ecs, gcp]) = OWN.iter().find(|(plain, _)| *plain == name)?;
        match self {
            Self::Plain => None,
            Self::Otel => Some(*otel),
            Self::Ecs => Some(*ecs),
            Self::Gcp => Some(*gcp),
        }
    }

    /// The names of what every line has.
    pub(super) fn base(self) -> &'static Base {
        match self {
            Self::Plain => &Base {
                timestamp: "timestamp",
                level: "level",
                severity_number: None,
                target: "target",
                service: "service",
                version: "version",
                deployment: "deployment",
                request_id: "request_id",
                trace_id: "trace_id",
                span_id: "span_id",
                trace_flags: None,
                message: "message",
                span: "span",
                levels: LEVELS,
            },
            Self::Otel => &Base {
                timestamp: "timestamp",
                level: "severity_text",
                severity_number: Some("severity_number"),
                target: "target",
                service: "service.name",
                version: "service.version",
                deployment: "deployment.environment.name",
                request_id: "request_id",
                trace_id: "trace_id",
                span_id: "span_id",
                trace_flags: Some("trace_flags"),
                message: "body",
                span: "span",
                levels: LEVELS,
            },
            Self::Ecs => &Base {
                timestamp: "@timestamp",
                level: "log.level",
                severity_number: None,
                target: "log.logger",
                service: "service.name",
                version: "service.version",
                deployment: "service.environment",
                request_id: "http.request.id",
                trace_id: "trace.id",
                span_id: "span.id",
                trace_flags: None,
                message: "message",
                span: "span.name",
                levels: LEVELS,
            },
            Self::Gcp => &Base {
                timestamp: "time",
                level: "severity",
                severity_number: None,
                target: "target",
                service: "service",
                version: "version",
                deployment: "deployment",
                request_id: "request_id",
                trace_id: "logging.googleapis.com/trace",
                span_id: "logging.googleapis.com/spanId",
                trace_flags: None,
                message: "message",
                span: "span",
                levels: ["DEBUG", "DEBUG", "INFO", "WARNING", "ERROR"],
            },
        }
    }

    /// Keys of every line that no user's field may take.
    pub(super) fn reserved(self) -> Reserved {
        Reserved::new(self.base().names(true))
    }

    /// As [`reserved`](Self::reserved), for the fields of the access line itself: it brings the ids.
    pub(super) fn reserved_for_access(self) -> Reserved {
        Reserved::new(self.base().names(false))
    }

    /// Keys that nobody but the access line itself may use in an access line.
    pub(super) fn reserved_in_access(self) -> Reserved {
        let own = OWN.iter().map(|(plain, _)| match self.place(plain) {
            None => plain,
            Some(place) if place.nested => HTTP_REQUEST,
            Some(place) => place.key,
        });
        Reserved::new(self.base().names(true).into_iter().chain(own))
    }
}

const LEVELS: [&str; 5] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"];

/// OpenTelemetry's numbers of [`LEVELS`] (logs data model, "Field: SeverityNumber").
pub(super) const SEVERITY_NUMBERS: [&str; 5] = ["1", "5", "9", "13", "17"];

/// The names of what every line has.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) timestamp: &'static str,
    pub(super) level: &'static str,
    pub(super) severity_number: Option<&'static str>,
    pub(super) target: &'static str,
    pub(super) service: &'static str,
    pub(super) version: &'static str,
    pub(super) deployment: &'static str,
    pub(super) request_id: &'static str,
    pub(super) trace_id: &'static str,
    pub(super) span_id: &'static str,
    pub(super) trace_flags: Option<&'static str>,
    pub(super) message: &'static str,
    pub(super) span: &'static str,
    /// From `TRACE` to `ERROR`.
    pub(super) levels: [&'static str; 5],
}

impl Base {
    fn names(&self, ids: bool) -> Vec<&'static str> {
        let mut names = vec![
            self.timestamp,
            self.level,
            self.target,
            self.service,
            self.version,
            self.deployment,
            self.message,
            self.span,
            "truncated",
        ];
        names.extend(self.severity_number);
        names.extend(self.trace_flags);
        if ids {
            names.extend([self.request_id, self.trace_id, self.span_id]);
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Schema; 4] = [Schema::Plain, Schema::Otel, Schema::Ecs, Schema::Gcp];

    #[test]
    fn no_schema_gives_two_facts_one_name() {
        for schema in ALL {
            let mut names = schema.base().names(false);
            names.extend(
                OWN.iter()
                    .filter_map(|(plain, _)| match schema.place(plain) {
                        None => Some(*plain),
                        Some(place) => (!place.nested).then_some(place.key),
                    }),
            );
            let all = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), all, "{schema:?}");
        }
    }

    #[test]
    fn the_ids_have_the_same_names_on_access_lines_as_on_others() {
        for schema in [Schema::Otel, Schema::Ecs, Schema::Gcp] {
            let key = |name| schema.place(name).expect("listed").key;
            let base = schema.base();
            assert_eq!(
                [key("request_id"), key("trace_id"), key("span_id")],
                [base.request_id, base.trace_id, base.span_id]
            );
        }
    }

    #[test]
    fn durations_follow_the_unit() {
        let shown = |unit: Unit| {
            let mut out = Vec::new();
            unit.push(&mut out, 250.5);
            String::from_utf8(out).expect("UTF-8")
        };
        assert_eq!(shown(Unit::AsIs), "250.5");
        assert_eq!(shown(Unit::Seconds), "0.2505");
        assert_eq!(shown(Unit::Nanoseconds), "250500000");
        assert_eq!(shown(Unit::SecondsText), "\"0.2505s\"");
    }
}
