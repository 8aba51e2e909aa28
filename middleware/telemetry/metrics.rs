use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use opentelemetry_sdk::{
    error::{OTelSdkError, OTelSdkResult},
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
};

use super::counts::{Counts, Exporter};
use crate::panics::{self, Fate};

/// An exporter whose failures are counted. A panic is one of them: it must not end the thread that exports.
#[derive(Debug)]
pub(super) struct Counted<E> {
    pub(super) inner: E,
    pub(super) counts: Arc<Counts>,
}

impl<E: PushMetricExporter> PushMetricExporter for Counted<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let mut exporting = pin!(self.inner.export(metrics));
        let result = poll_fn(|context| {
            let polled = panics::catch("task", false, || exporting.as_mut().poll(context));
            polled.unwrap_or_else(|facts| {
                facts.write_line(Fate::Caught);
                let what = "the exporter panicked".to_owned();
                Poll::Ready(Err(OTelSdkError::InternalFailure(what)))
            })
        })
        .await;
        if let Err(error) = &result {
            self.counts.failed(Exporter::Metrics, &error.to_string());
        }
        result
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.inner.temporality()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Panicking;

    impl PushMetricExporter for Panicking {
        async fn export(&self, _: &ResourceMetrics) -> OTelSdkResult {
            panic!("no collector")
        }

        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }

        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }

        fn temporality(&self) -> Temporality {
            Temporality::Cumulative
        }
    }

    #[tokio::test]
    async fn an_exporter_that_panics_has_failed_and_may_go_on() {
        let counts = Arc::new(Counts::default());
        let exporter = Counted {
            inner: Panicking,
            counts: Arc::clone(&counts),
        };
        for failures in 1..=2 {
            let result = exporter.export(&ResourceMetrics::default()).await;
            assert!(result.is_err());
            assert_eq!(counts.read().export_errors, failures);
        }
    }
}
