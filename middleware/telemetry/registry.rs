//! The program's metrics, for those who read them within the process.

use opentelemetry::metrics::Meter;
use opentelemetry_sdk::{
    error::OTelSdkError,
    metrics::{data::ResourceMetrics, reader::MetricReader as _},
};

use super::prometheus::Reader;

/// Reads what a scrape would tell. Clones are one.
#[derive(Clone)]
pub(crate) struct Registry {
    pub(super) reader: Reader,
    pub(super) meter: Meter,
}

impl Registry {
    /// All metrics as they are now. For a thread where work may block.
    pub(crate) fn read(&self) -> Result<ResourceMetrics, OTelSdkError> {
        let mut metrics = ResourceMetrics::default();
        self.reader.collect(&mut metrics)?;
        Ok(metrics)
    }

    /// For instruments of one's own.
    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }
}
