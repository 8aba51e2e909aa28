use opentelemetry::{
    Context, KeyValue,
    trace::{SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt},
};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::{Live, Start};

/// With spans of `tracing`, which the subscriber's layer of tracing-opentelemetry exports.
pub(crate) struct InTracing;

impl Start for InTracing {
    fn start(&self, builder: SpanBuilder, parent: &Context) -> Live {
        let kind = match builder.span_kind {
            Some(SpanKind::Client) => "client",
            _ => "server",
        };
        let span = tracing::info_span!(
            target: "plimsoll::call",
            parent: None,
            "call",
            otel.name = &*builder.name,
            otel.kind = kind,
        );
        if span.set_parent(parent.clone()).is_err() {
            // swallow: none, the program has no layer that exports spans, so there is nothing to lose
            return Live::Tracing(Span(span));
        }
        for link in builder.links.into_iter().flatten() {
            span.add_link(link.span_context);
        }
        for attribute in builder.attributes.into_iter().flatten() {
            span.set_attribute(attribute.key, attribute.value);
        }
        Live::Tracing(Span(span))
    }
}

/// A span of `tracing`.
pub(crate) struct Span(tracing::Span);

impl Span {
    pub(super) fn context(&self) -> SpanContext {
        self.0.context().span().span_context().clone()
    }

    pub(super) fn entered(&self) -> &tracing::Span {
        &self.0
    }

    pub(super) fn set(&self, attribute: KeyValue) {
        self.0.set_attribute(attribute.key, attribute.value);
    }

    pub(super) fn set_status(&self, status: Status) {
        self.0.set_status(status);
    }
}
