//! Spans of OpenTelemetry, which `trace_context` makes for calls that come in and go out: the two ways to make one,
//! behind one interface.

mod convert;

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
};

use opentelemetry::{
    Context, InstrumentationScope, KeyValue, global,
    trace::{SpanBuilder, SpanContext, Status, TraceContextExt, Tracer, TracerProvider},
};

#[cfg(not(feature = "tracing-opentelemetry"))]
#[path = "no_tracing.rs"]
mod tracing_way;
#[cfg(feature = "tracing-opentelemetry")]
#[path = "tracing.rs"]
mod tracing_way;

#[cfg(feature = "tracing-opentelemetry")]
pub(crate) use tracing_way::InTracing;

pub(crate) use convert::{around, context_of, parent, told};

/// What starts the spans of a layer; its clones share it.
#[derive(Clone)]
pub(crate) struct Starter(Arc<OnceLock<Arc<dyn Start>>>);

impl Starter {
    pub(crate) fn with_tracer<T>(tracer: T) -> Self
    where
        T: Tracer + Send + Sync + 'static,
        T::Span: Send + Sync + 'static,
    {
        Self::of(WithTracer(tracer))
    }

    pub(crate) fn of(start: impl Start + 'static) -> Self {
        let start: Arc<dyn Start> = Arc::new(start);
        Self(Arc::new(OnceLock::from(start)))
    }

    /// A tracer of the global provider, as it is when it is first asked for.
    pub(crate) fn global() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn get(&self) -> &Arc<dyn Start> {
        self.0.get_or_init(|| {
            let scope = InstrumentationScope::builder("plimsoll")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build();
            let tracer = global::tracer_provider().tracer_with_scope(scope);
            Arc::new(WithTracer(tracer))
        })
    }
}

/// Starts spans.
pub(crate) trait Start: Send + Sync {
    fn start(&self, builder: SpanBuilder, parent: &Context) -> Live;
}

/// With a tracer of OpenTelemetry.
struct WithTracer<T>(T);

impl<T> Start for WithTracer<T>
where
    T: Tracer + Send + Sync,
    T::Span: Send + Sync + 'static,
{
    fn start(&self, builder: SpanBuilder, parent: &Context) -> Live {
        let span = self.0.build_with_context(builder, parent);
        Live::Direct(parent.with_span(span))
    }
}

/// A span that has not ended.
pub(crate) enum Live {
    /// Of OpenTelemetry; the context that it is current in.
    Direct(Context),
    /// Of `tracing`.
    Tracing(tracing_way::Span),
}

impl Live {
    pub(crate) fn context(&self) -> SpanContext {
        match self {
            Self::Direct(context) => context.span().span_context().clone(),
            Self::Tracing(span) => span.context(),
        }
    }

    /// The context to be current while the call is polled; none where `tracing` sees to it.
    pub(crate) fn active(&self) -> Option<&Context> {
        match self {
            Self::Direct(context) => Some(context),
            Self::Tracing(_) => None,
        }
    }

    /// The span to be entered while the call is polled.
    pub(crate) fn entered(&self) -> Option<&tracing::Span> {
        match self {
            Self::Direct(_) => None,
            Self::Tracing(span) => Some(span.entered()),
        }
    }

    pub(crate) fn is_recording(&self) -> bool {
        match self {
            Self::Direct(context) => context.span().is_recording(),
            Self::Tracing(_) => true,
        }
    }

    pub(crate) fn set(&self, attribute: KeyValue) {
        match self {
            Self::Direct(context) => context.span().set_attribute(attribute),
            Self::Tracing(span) => span.set(attribute),
        }
    }

    /// Marks the call as failed. It is never marked as well: that would be final, and is for the service to say.
    pub(crate) fn fail(&self, description: Cow<'static, str>) {
        let status = Status::Error { description };
        match self {
            Self::Direct(context) => context.span().set_status(status),
            Self::Tracing(span) => span.set_status(status),
        }
    }

    pub(crate) fn end(&self) {
        match self {
            Self::Direct(context) => context.span().end(),
            // It ends when the last handle is dropped, which the scope of the call does right after.
            Self::Tracing(_) => {}
        }
    }
}
