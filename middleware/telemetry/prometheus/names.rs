//! What Prometheus calls things, by OpenTelemetry's rules ("Prometheus and OpenMetrics compatibility").

use std::borrow::Cow;

use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};

/// How the values of a name follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    /// `None` for what the text cannot tell.
    pub(super) fn of(data: &AggregatedMetrics) -> Option<Self> {
        match data {
            AggregatedMetrics::F64(data) => Self::of_data(data),
            AggregatedMetrics::U64(data) => Self::of_data(data),
            AggregatedMetrics::I64(data) => Self::of_data(data),
        }
    }

    fn of_data<T>(data: &MetricData<T>) -> Option<Self> {
        match data {
            MetricData::Sum(sum) if sum.is_monotonic() => Some(Self::Counter),
            MetricData::Sum(_) | MetricData::Gauge(_) => Some(Self::Gauge),
            MetricData::Histogram(_) => Some(Self::Histogram),
            MetricData::ExponentialHistogram(_) => None,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The name of a metric: with its unit in words and, for a counter, `_total`.
pub(super) fn family(name: &str, unit: &str, kind: Kind) -> String {
    let mut family = clean(name, ":").into_owned();
    let total = (kind == Kind::Counter).then_some("total");
    for end in [unit_in_words(unit, kind).as_deref(), total] {
        let end = end.filter(|end| !family.ends_with(&format!("_{end}")));
        if let Some(end) = end {
            family.push('_');
            family.push_str(end);
        }
    }
    family
}

/// The name of a label.
pub(super) fn label(name: &str) -> Cow<'_, str> {
    clean(name, "")
}

/// Only letters, digits, underscores and these; no digit in front.
fn clean<'a>(name: &'a str, also: &str) -> Cow<'a, str> {
    let fits = |character: char| {
        character.is_ascii_alphanumeric() || character == '_' || also.contains(character)
    };
    let digit = name.starts_with(|first: char| first.is_ascii_digit());
    if !digit && name.chars().all(fits) {
        return Cow::Borrowed(name);
    }
    let front = digit.then_some('_');
    let rest = name.chars().map(|one| if fits(one) { one } else { '_' });
    Cow::Owned(front.into_iter().chain(rest).collect())
}

/// `{call}` and what is not known has no word.
fn unit_in_words(unit: &str, kind: Kind) -> Option<Cow<'static, str>> {
    if let Some((of, per)) = unit.split_once('/') {
        let per = per_word(per)?;
        return Some(match word(of) {
            Some(of) => format!("{of}_per_{per}").into(),
            None => format!("per_{per}").into(),
        });
    }
    match unit {
        "1" => (kind == Kind::Gauge).then_some(Cow::Borrowed("ratio")),
        unit => word(unit).map(Cow::Borrowed),
    }
}

fn word(unit: &str) -> Option<&'static str> {
    Some(match unit {
        "d" => "days",
        "h" => "hours",
        "min" => "minutes",
        "s" => "seconds",
        "ms" => "milliseconds",
        "us" => "microseconds",
        "ns" => "nanoseconds",
        "By" => "bytes",
        "KiBy" => "kibibytes",
        "MiBy" => "mebibytes",
        "GiBy" => "gibibytes",
        "TiBy" => "tibibytes",
        "KBy" => "kilobytes",
        "MBy" => "megabytes",
        "GBy" => "gigabytes",
        "TBy" => "terabytes",
        "m" => "meters",
        "V" => "volts",
        "A" => "amperes",
        "J" => "joules",
        "W" => "watts",
        "g" => "grams",
        "Cel" => "celsius",
        "Hz" => "hertz",
        "%" => "percent",
        _ => return None,
    })
}

fn per_word(unit: &str) -> Option<&'static str> {
    Some(match unit {
        "s" => "second",
        "m" | "min" => "minute",
        "h" => "hour",
        "d" => "day",
        "w" => "week",
        "mo" => "month",
        "y" => "year",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_stand_behind_names() {
        for (name, unit, kind, expected) in [
            (
                "http.server.request.duration",
                "s",
                Kind::Histogram,
                "http_server_request_duration_seconds",
            ),
            (
                "plimsoll.requests",
                "{request}",
                Kind::Counter,
                "plimsoll_requests_total",
            ),
            (
                "bytes.total",
                "By",
                Kind::Counter,
                "bytes_total_bytes_total",
            ),
            ("sent_bytes", "By", Kind::Gauge, "sent_bytes"),
            ("speed", "m/s", Kind::Gauge, "speed_meters_per_second"),
            ("rate", "{call}/s", Kind::Gauge, "rate_per_second"),
            ("share", "1", Kind::Gauge, "share_ratio"),
            ("share", "1", Kind::Counter, "share_total"),
            ("2.5-fold:x y", "odd", Kind::Gauge, "_2_5_fold:x_y"),
        ] {
            assert_eq!(family(name, unit, kind), expected);
        }
        assert_eq!(label("a:b.c"), "a_b_c");
    }
}
