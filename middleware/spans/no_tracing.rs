use opentelemetry::{
    KeyValue,
    trace::{SpanContext, Status},
};

/// There is no other way than OpenTelemetry's own.
pub(crate) enum Span {}

impl Span {
    pub(super) fn context(&self) -> SpanContext {
        match *self {}
    }

    pub(super) fn entered(&self) -> &tracing::Span {
        match *self {}
    }

    pub(super) fn set(&self, _: KeyValue) {
        match *self {}
    }

    pub(super) fn set_status(&self, _: Status) {
        match *self {}
    }
}
