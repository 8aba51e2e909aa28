use super::TraceContextLayer;
use crate::spans::{InTracing, Starter};

impl TraceContextLayer {
    /// Makes spans of `tracing`, for a program whose subscriber has the layer of `tracing-opentelemetry`: spans of
    /// `tracing` within the call are then parts of its trace. It costs some times as much as a tracer. The spans have the
    /// target `plimsoll::call` and level INFO. Do not also use `AccessLogLayer::call_span`, which makes another.
    pub fn in_tracing() -> Self {
        Self::with(Starter::of(InTracing))
    }
}
