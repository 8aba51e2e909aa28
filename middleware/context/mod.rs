//! The facts of the current call.

use std::borrow::Cow;
#[cfg(test)]
use std::cell::RefCell;

/// The id of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The trace a call belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: String,
    span_id: String,
    flags: String,
}

impl TraceContext {
    /// The id of the trace, 32 hex digits.
    pub fn trace_id(&self) -> &str {
        &self.trace_id
    }

    /// The id of the span, 16 hex digits.
    pub fn span_id(&self) -> &str {
        &self.span_id
    }

    /// The flags, 2 hex digits.
    pub fn flags_hex(&self) -> &str {
        &self.flags
    }
}

/// Value of a handler's own field.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue {
    /// Text.
    Text(Cow<'static, str>),
    /// A signed integer.
    Signed(i64),
    /// An unsigned integer.
    Unsigned(u64),
    /// A number with a fraction.
    Float(f64),
    /// True or false.
    Bool(bool),
}

/// What is known of the call whose future is being polled.
#[derive(Default)]
pub(crate) struct Frame {
    request_id: Option<RequestId>,
    trace: Option<TraceContext>,
    fields: Vec<(&'static str, FieldValue)>,
}

impl Frame {
    pub(crate) fn request_id(&self) -> Option<&RequestId> {
        self.request_id.as_ref()
    }

    pub(crate) fn trace(&self) -> Option<&TraceContext> {
        self.trace.as_ref()
    }

    pub(crate) fn fields(&self) -> &[(&'static str, FieldValue)] {
        &self.fields
    }
}

#[cfg(test)]
thread_local! {
    static CURRENT: RefCell<Option<Frame>> = const { RefCell::new(None) };
}

/// Shows the frame of the current call.
#[cfg(not(test))]
pub(crate) fn current<R>(look: impl FnOnce(Option<&Frame>) -> R) -> R {
    look(None)
}

/// Shows the frame of the current call.
#[cfg(test)]
pub(crate) fn current<R>(look: impl FnOnce(Option<&Frame>) -> R) -> R {
    CURRENT.with_borrow(|frame| look(frame.as_ref()))
}

/// Runs `work` as part of a call.
#[cfg(test)]
pub(crate) fn pretend<R>(
    request_id: &str,
    fields: Vec<(&'static str, FieldValue)>,
    work: impl FnOnce() -> R,
) -> R {
    let frame = Frame {
        request_id: Some(RequestId(request_id.to_owned())),
        trace: Some(TraceContext {
            trace_id: "0af7651916cd43dd8448eb211c80319c".to_owned(),
            span_id: "b7ad6b7169203331".to_owned(),
            flags: "01".to_owned(),
        }),
        fields,
    };
    CURRENT.set(Some(frame));
    let done = work();
    CURRENT.set(None);
    done
}
