//! What could not be exported: counted, and said in the log now and then.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use opentelemetry::{
    KeyValue,
    metrics::{Meter, ObservableCounter},
};

use crate::clock;

pub(crate) const EXPORT_ERRORS: &str = "plimsoll.export.errors";
pub(crate) const SPANS_DROPPED: &str = "plimsoll.spans.dropped";

/// At most one line of a kind in this time.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// Who exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exporter {
    Traces,
    Metrics,
    Scrape,
}

impl Exporter {
    const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Scrape];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Traces => "otlp_traces",
            Self::Metrics => "otlp_metrics",
            Self::Scrape => "prometheus",
        }
    }
}

/// What could not be exported since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportCounts {
    /// Exports that failed: of spans and of metrics over OTLP, and answers to scrapers.
    pub export_errors: u64,
    /// Spans that were lost: for lack of room in the queue, by exports that failed, or at a shutdown that took too long.
    pub spans_dropped: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    errors: [AtomicU64; 3],
    dropped: AtomicU64,
    failed_lines: Alarm,
    dropped_lines: Alarm,
}

impl Counts {
    pub(super) fn read(&self) -> ExportCounts {
        let errors = self.errors.iter();
        ExportCounts {
            export_errors: errors
                .map(|count| count.load(Ordering::Relaxed))
                .fold(0, u64::saturating_add),
            spans_dropped: self.dropped.load(Ordering::Relaxed),
        }
    }

    fn errors_of(&self, exporter: Exporter) -> &AtomicU64 {
        let [traces, metrics, scrape] = &self.errors;
        match exporter {
            Exporter::Traces => traces,
            Exporter::Metrics => metrics,
            Exporter::Scrape => scrape,
        }
    }

    /// An export has failed.
    pub(super) fn failed(&self, exporter: Exporter, error: &str) {
        self.errors_of(exporter).fetch_add(1, Ordering::Relaxed);
        if let Some(times) = self.failed_lines.rings(1) {
            tracing::warn!(
                target: "plimsoll::telemetry",
                event = "export_failed",
                exporter = exporter.label(),
                error,
                times,
                "metrics or traces could not be exported",
            );
        }
    }

    /// Spans are lost.
    pub(super) fn dropped(&self, spans: u64, reason: &'static str) {
        if spans == 0 {
            return;
        }
        self.dropped.fetch_add(spans, Ordering::Relaxed);
        if let Some(spans) = self.dropped_lines.rings(spans) {
            tracing::warn!(
                target: "plimsoll::telemetry",
                event = "spans_dropped",
                reason,
                spans,
                "spans were lost",
            );
        }
    }

    /// Tells them as metrics, from now on.
    pub(super) fn tell(self: &Arc<Self>, meter: &Meter) {
        let counts = Arc::clone(self);
        let _errors: ObservableCounter<u64> = meter
            .u64_observable_counter(EXPORT_ERRORS)
            .with_unit("{export}")
            .with_description("Exports of metrics and traces that failed.")
            .with_callback(move |observer| {
                for exporter in Exporter::ALL {
                    let count = counts.errors_of(exporter).load(Ordering::Relaxed);
                    observer.observe(count, &[KeyValue::new("exporter", exporter.label())]);
                }
            })
            .build();
        let counts = Arc::clone(self);
        let _dropped: ObservableCounter<u64> = meter
            .u64_observable_counter(SPANS_DROPPED)
            .with_unit("{span}")
            .with_description("Spans that were lost before or during their export.")
            .with_callback(move |observer| {
                let exporter = KeyValue::new("exporter", Exporter::Traces.label());
                observer.observe(counts.dropped.load(Ordering::Relaxed), &[exporter]);
            })
            .build();
    }
}

/// Says when a line is due, and how much has happened since the one before.
#[derive(Debug, Default)]
struct Alarm(Mutex<(Option<Instant>, u64)>);

impl Alarm {
    fn rings(&self, more: u64) -> Option<u64> {
        let now = clock::now();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, since) = &mut *state;
        *since = since.saturating_add(more);
        let due = last.is_none_or(|last| now.saturating_duration_since(last) >= BETWEEN_LINES);
        due.then(|| {
            *last = Some(now);
            std::mem::take(since)
        })
    }
}
