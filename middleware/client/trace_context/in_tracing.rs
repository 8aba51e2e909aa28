use super::TraceContextLayer;
use crate::spans::{InTracing, Starter};

impl TraceContextLayer {
    /// Makes spans of `tracing`, for a program whose subscriber has the layer of `tracing-opentelemetry`. They have the
    /// target `plimsoll::call` and level INFO.
    pub fn in_tracing() -> Self {
        Self::with(Starter::of(InTracing))
    }
}
