//! Sets up the export of metrics and traces, and ends it in the right order.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use axum::{Router, routing::get};
//! use plimsoll::server::{metrics::MetricsLayer, trace_context::TraceContextLayer};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let log = plimsoll::log::init()?;
//!     let telemetry = plimsoll::telemetry::init()?;
//!     let app = Router::new()
//!         .route("/", get(|| async { "hello" }))
//!         .layer(MetricsLayer::new(telemetry.meter()))
//!         .layer(TraceContextLayer::new(telemetry.tracer().clone()))
//!         .merge(telemetry.metrics_route());
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!     axum::serve(listener, app).await?;
//!     telemetry.shutdown(Duration::from_secs(5)).await?; // after the last call, before the log
//!     drop(log);
//!     Ok(())
//! }
//! ```

mod counts;
mod metrics;
mod prometheus;
mod registry;
mod scrape;
mod setup;
mod spans;

use std::{error::Error, fmt, sync::Arc, time::Duration};

use axum::Router;
use opentelemetry::metrics::Meter;
use opentelemetry_sdk::{
    error::{OTelSdkError, OTelSdkResult},
    metrics::SdkMeterProvider,
    trace::{SdkTracer, SdkTracerProvider},
};

use self::{counts::Counts, prometheus::Reader, spans::SpanQueue};
pub use self::{
    counts::ExportCounts,
    setup::{Otlp, Setup, SetupError},
};
pub(crate) use self::{
    counts::{EXPORT_ERRORS, SPANS_DROPPED},
    registry::Registry,
};
use crate::task::{self, Undone};

/// Starts the export with all defaults, as the standard `OTEL_*` variables say. [`Setup`] has the settings.
///
/// # Errors
///
/// [`SetupError`], which names the setting that is wrong.
pub fn init() -> Result<Telemetry, SetupError> {
    Setup::new().init()
}

/// The program's metrics and traces. Keep it until the last call has ended, then call [`Telemetry::shutdown`].
///
/// Dropped without that, what has not been exported yet is lost, which is counted and said in the log.
#[must_use = "what has not been exported is lost unless it is shut down"]
pub struct Telemetry {
    meter: Meter,
    tracer: SdkTracer,
    reader: Option<Reader>,
    meters: SdkMeterProvider,
    tracers: SdkTracerProvider,
    spans: Option<SpanQueue>,
    counts: Arc<Counts>,
}

impl Telemetry {
    /// For `MetricsLayer::new`, and instruments of your own.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// For `TraceContextLayer::new`, the layer of `tracing-opentelemetry`, and spans of your own.
    pub fn tracer(&self) -> &SdkTracer {
        &self.tracer
    }

    /// `GET /metrics` in Prometheus' text format, for the service's router or that of a port for operators.
    ///
    /// The text is made on a thread of its own, one at a time. At most four scrapers are answered at once, others
    /// get 503, so that those who read slowly hold a known amount of memory and nothing else.
    pub fn metrics_route(&self) -> Router {
        scrape::route(self.reader.clone(), Arc::clone(&self.counts))
    }

    /// For those who read the metrics within the process; `None` if `OTEL_SDK_DISABLED` is set: there are none to read.
    pub(crate) fn registry(&self) -> Option<Registry> {
        self.reader.clone().map(|reader| Registry {
            reader,
            meter: self.meter.clone(),
        })
    }

    /// What could not be exported so far.
    pub fn counts(&self) -> ExportCounts {
        self.counts.read()
    }

    /// Exports what is left, spans first, then metrics, and stops; waits for at most this long. Call it when the last
    /// call has ended and before the log ends. The runtime goes on meanwhile.
    ///
    /// Cancel: the export goes on in its thread for as long; nobody hears how it ended.
    ///
    /// # Errors
    ///
    /// [`ShutdownError`] if not all could be exported.
    pub async fn shutdown(self, patience: Duration) -> Result<(), ShutdownError> {
        self.end(patience).await
    }

    /// As [`Telemetry::shutdown`], for somebody who shares it.
    pub(crate) async fn end(&self, patience: Duration) -> Result<(), ShutdownError> {
        let lost_before = self.counts.read().spans_dropped;
        let (meters, tracers) = (self.meters.clone(), self.tracers.clone());
        // Exporters wait for the runtime, which must not wait for them.
        let end = task::blocking("shutdown", move || {
            let traces = tracers.shutdown_with_timeout(patience);
            let metrics = meters.shutdown_with_timeout(patience);
            first_failure([("traces", traces), ("metrics", metrics)])
        });
        let failed = match tokio::time::timeout(patience, end).await {
            Ok(Ok(failed)) => failed,
            Ok(Err(Undone::Panicked)) => Some(("exporters", "panicked".to_owned())),
            Ok(Err(Undone::NoThread(source))) => return Err(ShutdownError::Thread { source }),
            Err(_) => {
                self.abandon();
                Some(("exporters", format!("not done within {patience:?}")))
            }
        };
        let lost = self.counts.read().spans_dropped.saturating_sub(lost_before);
        match failed {
            None if lost == 0 => Ok(()),
            failed => {
                let (what, why) = failed.unwrap_or(("traces", "spans were lost".to_owned()));
                Err(ShutdownError::Failed {
                    what,
                    why,
                    spans_lost: lost,
                })
            }
        }
    }

    /// Counts the spans that nobody waits for as lost.
    fn abandon(&self) {
        if let Some(spans) = &self.spans {
            spans.abandon();
        }
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry")
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

fn first_failure(results: [(&'static str, OTelSdkResult); 2]) -> Option<(&'static str, String)> {
    results.into_iter().find_map(|(what, result)| match result {
        Ok(()) | Err(OTelSdkError::AlreadyShutdown) => None,
        Err(error) => Some((what, error.to_string())),
    })
}

/// Why a shutdown did not export all.
#[derive(Debug)]
#[non_exhaustive]
pub enum ShutdownError {
    /// Something was not exported.
    Failed {
        /// `traces`, `metrics` or `exporters`.
        what: &'static str,
        /// What was said about it.
        why: String,
        /// Spans that were lost during the shutdown.
        spans_lost: u64,
    },
    /// No thread could be started for it.
    Thread {
        /// Why.
        source: std::io::Error,
    },
}

impl fmt::Display for ShutdownError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed {
                what,
                why,
                spans_lost,
            } => write!(
                f,
                "{what} were not all exported ({spans_lost} spans lost): {why}"
            ),
            Self::Thread { .. } => f.write_str("no thread could be started for the last export"),
        }
    }
}

impl Error for ShutdownError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed { .. } => None,
            Self::Thread { source } => Some(source),
        }
    }
}
