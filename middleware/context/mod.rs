//! The facts of a call that layers, handlers and the log share.
//!
//! What a handler may want lies in the request's extensions ([`RequestId`]) or is asked of it ([`PeerAddr::of`],
//! [`Route::of`]). Code that has no request at hand asks the task: [`RequestId::current`], [`TraceContext::current`], [`Deadline::current`].
//! Behind that is one frame a call: the outermost layer of plimsoll makes it, the inner ones join it, and it is in
//! place of the thread whenever the future or a body of the call is polled.

mod cut;
mod deadline;
mod failure;
mod frame;
mod handover;
mod journal;
mod kept;
mod peer;
mod priority;
mod request_id;
mod secrets;
mod spawn;
mod trace;

pub(crate) use cut::{cut_off, while_cut};
pub use deadline::{Deadline, REQUEST_DEADLINE};
pub use failure::Failure;
pub(crate) use failure::{chain, said};
pub use frame::Scope;
#[cfg(test)]
pub(crate) use frame::pretend;
pub(crate) use frame::{Frame, current, note, update};
pub(crate) use handover::{Belongings, Handover};
pub use journal::FieldValue;
pub(crate) use journal::{Cause, Journal};
pub(crate) use kept::{Free, Keep, Kept};
pub(crate) use peer::prepared;
pub use peer::{PeerAddr, Route};
pub use priority::{CRITICALITY, InvalidPriority, Priority};
pub use request_id::{InvalidRequestId, REQUEST_ID, RequestId};
pub(crate) use secrets::{REDACTED, Secrets, redact};
pub use spawn::{InCall, in_current_call};
pub use trace::{TRACEPARENT, TRACESTATE, TraceContext};
