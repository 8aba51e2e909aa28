//! Between the trace of a call, as headers tell it, and OpenTelemetry's.

use http::HeaderValue;
use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};

use crate::context::{self, TraceContext};

/// The flag of W3C Trace Context, level 2: the id of the trace is random.
const RANDOM: u8 = 0x02;

/// As a parent for spans of ours. A state that cannot be parsed is left out; a remote wish to be sampled need not be heard.
pub(crate) fn parent(trace: &TraceContext, may_sample: bool) -> SpanContext {
    let flags = u8::from_str_radix(trace.flags_hex(), 16).map_or(0, |flags| flags & 1);
    let flags = TraceFlags::new(if may_sample { flags } else { 0 });
    let state = trace.state().and_then(|state| state.to_str().ok());
    let state = state.and_then(|state| state.parse().ok());
    let trace_id = TraceId::from_hex(trace.trace_id()).unwrap_or(TraceId::INVALID);
    let span_id = SpanId::from_hex(trace.span_id()).unwrap_or(SpanId::INVALID);
    SpanContext::new(trace_id, span_id, flags, true, state.unwrap_or_default())
}

/// As a context that the spans of ours start in.
pub(crate) fn context_of(parent: Option<SpanContext>) -> Context {
    match parent {
        Some(parent) => Context::new().with_remote_span_context(parent),
        None => Context::new(),
    }
}

/// What the call tells of a span of ours: in its log lines, and to the services that it calls.
/// `None` for a span that no provider made.
pub(crate) fn told(span: &SpanContext, parent: Option<&TraceContext>) -> Option<TraceContext> {
    if !span.is_valid() {
        return None;
    }
    let (trace, id) = (span.trace_id().to_bytes(), span.span_id().to_bytes());
    let mut flags = span.trace_flags().to_u8();
    let continued =
        parent.filter(|parent| TraceId::from_hex(parent.trace_id()) == Ok(span.trace_id()));
    if let Some(parent) = continued {
        flags |= u8::from_str_radix(parent.flags_hex(), 16).map_or(0, |flags| flags & RANDOM);
    }
    Some(TraceContext::new(
        trace,
        id,
        flags,
        state_of(span, continued),
    ))
}

/// The state of a span; that of its parent as it came, unless a sampler changed it.
fn state_of(span: &SpanContext, parent: Option<&TraceContext>) -> Option<HeaderValue> {
    let came = parent.and_then(TraceContext::state);
    let parsed = came
        .and_then(|state| state.to_str().ok())
        .and_then(|state| state.parse::<TraceState>().ok());
    let now = span.trace_state();
    match (came, parsed) {
        (Some(came), Some(parsed)) if parsed == *now => Some(came.clone()),
        _ => HeaderValue::from_str(&now.header())
            .ok()
            .filter(|state| !state.is_empty()),
    }
}

/// The span that this code runs in: that of OpenTelemetry's current context, else the one that the call tells of.
pub(crate) fn around() -> Option<SpanContext> {
    let current = Context::map_current(|context| {
        let span = context.span();
        Some(span.span_context().clone()).filter(SpanContext::is_valid)
    });
    current.or_else(|| {
        context::current(|frame| frame.trace().map(|trace| parent(trace, true))).flatten()
    })
}
