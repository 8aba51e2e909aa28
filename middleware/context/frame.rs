use std::{cell::RefCell, fmt, sync::Arc, time::Instant};

use http::Request;
use tracing::{Span, span};

use super::{Cause, FieldValue, Journal, RequestId, Secrets, TraceContext};
use crate::{clock, observe::Intake};

thread_local! {
    /// The frame of the call that is being polled on this thread.
    static CURRENT: RefCell<Option<Frame>> = const { RefCell::new(None) };
}

/// Marks a request whose call has a frame. It has no size, so it costs no allocation of its own.
#[derive(Clone, Copy)]
struct InCall;

/// What is known of one call while it runs.
pub(crate) struct Frame {
    started: Instant,
    request_id: Option<RequestId>,
    id_replaced: bool,
    trace: Option<TraceContext>,
    secrets: Option<Secrets>,
    /// What was read of the request's body, once a layer watches it.
    intake: Option<Arc<Intake>>,
    /// Made at the first entry: most calls have none.
    journal: Option<Box<Journal>>,
}

impl Frame {
    fn new(trace: Option<TraceContext>) -> Self {
        Self {
            started: clock::now(),
            request_id: None,
            id_replaced: false,
            trace,
            secrets: None,
            intake: None,
            journal: None,
        }
    }

    /// When the outermost layer took the call.
    fn started(&self) -> Instant {
        self.started
    }

    pub(crate) fn request_id(&self) -> Option<&RequestId> {
        self.request_id.as_ref()
    }

    pub(crate) fn id_replaced(&self) -> bool {
        self.id_replaced
    }

    /// Sets the id, unless a layer further out did.
    pub(crate) fn set_request_id(&mut self, id: &RequestId, replaced: bool) {
        if self.request_id.is_none() {
            self.request_id = Some(id.clone());
            self.id_replaced = replaced;
        }
    }

    pub(crate) fn trace(&self) -> Option<&TraceContext> {
        self.trace.as_ref()
    }

    /// The fields that handlers added to the line of the call.
    pub(crate) fn fields(&self) -> &[(&'static str, FieldValue)] {
        self.journal
            .as_ref()
            .map_or(&[], |journal| journal.fields())
    }

    /// What was noted, to judge by it.
    #[inline]
    pub(crate) fn journal(&self) -> Option<&Journal> {
        self.journal.as_deref()
    }

    pub(crate) fn journal_mut(&mut self) -> &mut Journal {
        self.journal.get_or_insert_default()
    }

    pub(crate) fn intake(&self) -> Option<&Arc<Intake>> {
        self.intake.as_ref()
    }

    pub(crate) fn set_intake(&mut self, intake: Arc<Intake>) {
        self.intake = Some(intake);
    }

    pub(crate) fn secrets(&self) -> Option<&Secrets> {
        self.secrets.as_ref()
    }

    pub(crate) fn secrets_mut(&mut self) -> &mut Secrets {
        self.secrets.get_or_insert_default()
    }

    /// What a task that outlives the call may know of it: its ids.
    pub(super) fn ids(&self) -> Self {
        Self {
            request_id: self.request_id.clone(),
            id_replaced: self.id_replaced,
            trace: self.trace.clone(),
            started: self.started,
            secrets: None,
            intake: None,
            journal: None,
        }
    }
}

/// Looks at the frame of the current call. `None` outside of a call.
#[inline]
pub(crate) fn current<R>(look: impl FnOnce(&Frame) -> R) -> Option<R> {
    CURRENT
        .try_with(|current| current.try_borrow().ok()?.as_ref().map(look))
        .ok()
        .flatten()
}

/// Changes the frame of the current call. `None` outside of a call.
pub(crate) fn update<R>(change: impl FnOnce(&mut Frame) -> R) -> Option<R> {
    CURRENT
        .try_with(|current| current.try_borrow_mut().ok()?.as_mut().map(change))
        .ok()
        .flatten()
}

/// Notes why the current call goes wrong. The first cause is its outcome, later ones are told beside it.
/// Outside of a call there is no line to tell it in.
pub(crate) fn note(cause: Cause) {
    update(|frame| frame.journal_mut().note(cause));
}

/// A layer's hold on the frame of its call: owned by the outermost, joined by the others.
///
/// For layers written outside of plimsoll: [`Scope::open`] in `call`, then hand it to
/// [`ResponseFuture`](crate::observe::ResponseFuture).
pub struct Scope {
    frame: Option<Frame>,
    span: Span,
}

impl Scope {
    /// Joins the frame of this request's call, or makes one.
    #[inline]
    pub fn open<B>(request: &mut Request<B>) -> Self {
        let extensions = request.extensions();
        let joined = extensions.get::<InCall>().is_some() && current(|_| ()).is_some();
        let frame = (!joined).then(|| {
            request.extensions_mut().insert(InCall);
            Frame::new(TraceContext::of(request.headers()))
        });
        Self {
            frame,
            span: Span::none(),
        }
    }

    /// A scope that shows these ids and owns nothing else.
    pub(super) fn of_ids(ids: Option<Frame>) -> Self {
        Self {
            frame: ids,
            span: Span::current(),
        }
    }

    /// When the outermost layer took the call.
    pub(crate) fn started(&mut self) -> Instant {
        let _entered = self.enter();
        current(Frame::started).unwrap_or_else(clock::now)
    }

    /// Also enters this span whenever the scope is entered.
    pub(crate) fn set_span(&mut self, span: Span) {
        self.span = span;
    }

    /// Puts the frame in place until the guard is dropped.
    #[inline]
    pub fn enter(&mut self) -> Entered<'_> {
        let owned = self.frame.is_some();
        if owned {
            swap(&mut self.frame);
        }
        let Self { frame, span } = self;
        Entered {
            slot: owned.then_some(frame),
            _span: span.enter(),
        }
    }

    /// The hold itself, for the body that outlives the future. What stays behind holds nothing.
    pub(crate) fn take(&mut self) -> Self {
        Self {
            frame: self.frame.take(),
            span: std::mem::replace(&mut self.span, Span::none()),
        }
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("owned", &self.frame.is_some())
            .finish_non_exhaustive()
    }
}

/// Exchanges the frame in the slot for the one of the thread.
#[inline]
fn swap(slot: &mut Option<Frame>) {
    // swallow: none, a thread that ends runs no calls, and a frame that is being looked at is the current one already
    let _unswapped = CURRENT.try_with(|current| {
        if let Ok(mut current) = current.try_borrow_mut() {
            std::mem::swap(&mut *current, slot);
        }
    });
}

/// Takes the frame out again when dropped, also while unwinding.
#[derive(Debug)]
#[must_use = "the frame is taken out again when this is dropped"]
pub struct Entered<'a> {
    slot: Option<&'a mut Option<Frame>>,
    _span: span::Entered<'a>,
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            swap(slot);
        }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("request_id", &self.request_id)
            .finish_non_exhaustive()
    }
}
