mod facts;

use std::{
    cell::RefCell,
    fmt, mem,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, Request, Uri, header::CONTENT_TYPE};
use tracing::{Span, span};

use super::{
    Cause, Deadline, FieldValue, Journal, Priority, RequestId, Secrets, TRACEPARENT, TraceContext,
    kept::{self, Free},
};
use crate::{clock, observe::Intake, protocol::Protocol};

thread_local! {
    /// The frame of the call that is being polled on this thread.
    static CURRENT: RefCell<Option<Box<Frame>>> = const { RefCell::new(None) };
    /// Frames of calls that have ended.
    static FREE: Free<Frame> = const { Free::none() };
}

/// Marks a request whose call has a frame. A request with an id needs no other mark.
#[derive(Clone, Copy)]
struct InCall;

/// What is known of one call while it runs.
#[derive(Default)]
pub(crate) struct Frame {
    started: Option<Instant>,
    protocol: Protocol,
    request_id: Option<RequestId>,
    id_replaced: bool,
    trace: Option<TraceContext>,
    secrets: Secrets,
    /// What was read of the request's body, once a layer watches it.
    intake: Option<Arc<Intake>>,
    /// When the call is over, and whether its caller asked for more time than it was given.
    deadline: Option<Deadline>,
    deadline_capped: bool,
    /// Which of several limits ended the call after its head.
    which: Option<&'static str>,
    /// How much the call matters, once a layer found out.
    priority: Option<Priority>,
    /// The limit that the call waited for last, and for how long.
    queued: Option<(&'static str, Duration)>,
    /// Whether a layer writes the line of the call.
    has_line: bool,
    /// Whether this is the frame of a task that may outlive the call: nobody reads what is noted there.
    of_task: bool,
    /// Made at the first entry: most calls have none.
    journal: Option<Box<Journal>>,
}

impl Frame {
    #[inline]
    fn of<B>(request: &Request<B>) -> Box<Self> {
        let mut frame = kept::take(&FREE);
        frame.read(request.headers(), request.uri());
        frame
    }

    /// One pass over the headers, for all that is wanted of them.
    #[inline]
    fn read(&mut self, headers: &HeaderMap, uri: &Uri) {
        let (mut traced, mut typed) = (false, false);
        for (name, value) in headers {
            if *name == CONTENT_TYPE {
                // The first counts, as it does for `Protocol::of`.
                if !mem::replace(&mut typed, true) {
                    self.protocol = Protocol::of_media_type(value.as_bytes());
                }
            } else if *name == TRACEPARENT {
                traced = true;
            } else if Secrets::REQUEST_HEADERS.contains(name) {
                self.secrets.add(value);
            }
        }
        if traced {
            self.trace = TraceContext::of(headers);
        }
        if uri.query().is_some() {
            self.secrets.set_query(uri.path_and_query());
        }
    }

    /// Leaves nothing of the call behind, and the frame to another one.
    #[inline]
    fn give_back(self: Box<Self>) {
        kept::keep(&FREE, self, Self::clear);
    }

    #[inline]
    fn clear(&mut self) {
        let Self {
            started,
            protocol,
            request_id,
            id_replaced,
            trace,
            secrets,
            intake,
            deadline,
            deadline_capped,
            which,
            priority,
            queued,
            has_line,
            of_task,
            journal,
        } = self;
        *started = None;
        *protocol = Protocol::Http;
        *request_id = None;
        *id_replaced = false;
        *trace = None;
        secrets.clear();
        *intake = None;
        *deadline = None;
        *deadline_capped = false;
        *which = None;
        *priority = None;
        *queued = None;
        *has_line = false;
        *of_task = false;
        *journal = None;
    }

    /// When the first layer asked: the start of the call.
    pub(crate) fn started(&mut self) -> Instant {
        *self.started.get_or_insert_with(clock::now)
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(crate) fn request_id(&self) -> Option<&RequestId> {
        self.request_id.as_ref()
    }

    /// Whether this is the frame of the call with this id, as far as ids tell.
    #[inline]
    fn is_of(&self, id: Option<&RequestId>) -> bool {
        match (id, &self.request_id) {
            (Some(id), Some(own)) => id == own,
            _ => true,
        }
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

    /// Sets the trace that the call belongs to from here on.
    pub(crate) fn set_trace(&mut self, trace: Option<TraceContext>) {
        self.trace = trace;
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

    /// Whether the line of the call is still to be claimed. From now on it is.
    pub(crate) fn claim_line(&mut self) -> bool {
        !mem::replace(&mut self.has_line, true)
    }

    /// Whether what is noted here is read at the end of the call.
    pub(crate) fn is_read(&self) -> bool {
        !self.of_task
    }

    /// What a task that outlives the call may know of it: its ids, and what its lines must not tell.
    pub(super) fn ids(&self) -> Box<Self> {
        Box::new(Self {
            protocol: self.protocol,
            request_id: self.request_id.clone(),
            id_replaced: self.id_replaced,
            trace: self.trace.clone(),
            secrets: self.secrets.clone(),
            priority: self.priority,
            of_task: true,
            ..Self::default()
        })
    }
}

/// Looks at the frame of the current call. `None` outside of a call.
#[inline]
pub(crate) fn current<R>(look: impl FnOnce(&Frame) -> R) -> Option<R> {
    CURRENT
        .try_with(|current| current.try_borrow().ok()?.as_deref().map(look))
        .ok()
        .flatten()
}

/// Changes the frame of the current call. `None` outside of a call.
pub(crate) fn update<R>(change: impl FnOnce(&mut Frame) -> R) -> Option<R> {
    CURRENT
        .try_with(|current| current.try_borrow_mut().ok()?.as_deref_mut().map(change))
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
    /// Of the outermost layer only.
    frame: Option<Box<Frame>>,
    /// Whether the frame of the thread is that of the call.
    joined: bool,
    /// Whether the call has a frame that was not at hand, as in the worker of tower's `Buffer`.
    strayed: bool,
    /// Whether the request is yet to be marked, so that layers further in join.
    unmarked: bool,
    span: Span,
}

impl Scope {
    /// Joins the frame of this request's call, or makes one. Layers further in join that once
    /// [`ResponseFuture::call`](crate::observe::ResponseFuture::call) has passed the request on.
    #[inline]
    pub fn open<B>(request: &mut Request<B>) -> Self {
        let mut scope = Self::of(request);
        scope.unmarked = scope.frame.is_some();
        scope
    }

    /// Marks the request, so that layers further in find that its call has a frame.
    #[inline]
    pub(crate) fn mark<B>(&mut self, request: &mut Request<B>) {
        if mem::take(&mut self.unmarked) {
            request.extensions_mut().insert(InCall);
        }
    }

    /// As [`Scope::open`], for the layer that is about to mark the request with its id.
    #[inline]
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let mut scope = Self::join(request);
        scope.own(request);
        scope
    }

    /// Joins the frame of this request's call, if it is at hand. Else there is none until this is to [own](Self::own) one:
    /// for layers that may answer before.
    #[inline]
    pub(crate) fn join<B>(request: &Request<B>) -> Self {
        let extensions = request.extensions();
        let id = extensions.get::<RequestId>();
        let marked = id.is_some() || extensions.get::<InCall>().is_some();
        let joined = marked && current(|frame| frame.is_of(id)).unwrap_or_default();
        let mut scope = Self::holding(None, Span::none());
        scope.joined = joined;
        scope.strayed = marked && !joined;
        scope
    }

    /// Makes a frame, unless there is one. Layers further in join it if something is [told](Self::tell) there.
    #[inline]
    pub(crate) fn own<B>(&mut self, request: &Request<B>) {
        if !self.joined && self.frame.is_none() {
            let mut frame = Frame::of(request);
            if self.strayed {
                frame.request_id = request.extensions().get().cloned();
            }
            self.frame = Some(frame);
        }
    }

    /// Notes something for layers further in.
    pub(crate) fn tell(&mut self, change: impl FnOnce(&mut Frame)) {
        self.unmarked = self.frame.is_some();
        self.update(change);
    }

    /// Joins the frame of the call once this runs within it. What was noted elsewhere comes along.
    #[cold]
    fn return_home(&mut self) {
        let Some(own) = &mut self.frame else {
            return;
        };
        let returned = own.request_id.is_some()
            && update(|frame| {
                let home = frame.request_id == own.request_id;
                if home && let Some(journal) = own.journal.take() {
                    frame.journal_mut().append(*journal);
                }
                home
            })
            .unwrap_or_default();
        if returned {
            self.strayed = false;
            self.joined = true;
            if let Some(own) = self.frame.take() {
                own.give_back();
            }
        }
    }

    /// A scope that shows these ids and owns nothing else.
    pub(super) fn of_ids(ids: Option<Box<Frame>>) -> Self {
        Self::holding(ids, Span::current())
    }

    /// A scope of no call.
    pub(crate) fn of_nothing() -> Self {
        Self::holding(None, Span::none())
    }

    #[inline]
    fn holding(frame: Option<Box<Frame>>, span: Span) -> Self {
        Self {
            frame,
            joined: false,
            strayed: false,
            unmarked: false,
            span,
        }
    }

    /// Changes the frame. `None` where there is none, or another task holds it.
    #[inline]
    pub(crate) fn update<R>(&mut self, change: impl FnOnce(&mut Frame) -> R) -> Option<R> {
        match &mut self.frame {
            Some(frame) => Some(change(frame)),
            None if self.joined => update(change),
            None => None,
        }
    }

    /// When the call began.
    #[inline]
    pub(crate) fn started(&mut self) -> Instant {
        self.update(Frame::started).unwrap_or_else(clock::now)
    }

    /// What the call speaks.
    #[inline]
    pub(crate) fn protocol<B>(&mut self, request: &Request<B>) -> Protocol {
        self.update(|frame| frame.protocol)
            .unwrap_or_else(|| Protocol::of(request.headers()))
    }

    /// The id of the call, if it has one.
    #[inline]
    pub(crate) fn request_id<B>(&mut self, request: &Request<B>) -> Option<RequestId> {
        self.update(|frame| frame.request_id.clone())
            .unwrap_or_else(|| request.extensions().get().cloned())
    }

    /// Also enters this span whenever the scope is entered.
    pub(crate) fn set_span(&mut self, span: Span) {
        self.span = span;
    }

    /// Puts the frame in place until the guard is dropped.
    #[inline]
    pub(crate) fn enter(&mut self) -> Entered<'_> {
        if self.strayed {
            self.return_home();
        }
        let owned = self.frame.is_some();
        if owned {
            swap(&mut self.frame);
        }
        // First this: a subscriber may panic when it is told of the span.
        let slot = Slot(owned.then_some(&mut self.frame));
        Entered {
            _slot: slot,
            _span: self.span.enter(),
        }
    }

    /// The hold itself, for the body that outlives the future. What stays behind holds nothing.
    pub(crate) fn take(&mut self) -> Self {
        Self {
            frame: self.frame.take(),
            joined: self.joined,
            strayed: self.strayed,
            unmarked: false,
            span: mem::replace(&mut self.span, Span::none()),
        }
    }
}

impl Drop for Scope {
    #[inline]
    fn drop(&mut self) {
        if let Some(frame) = self.frame.take() {
            frame.give_back();
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
fn swap(slot: &mut Option<Box<Frame>>) {
    // swallow: none, a thread that ends runs no calls, and a frame that is being looked at is the current one already
    let _unswapped = CURRENT.try_with(|current| {
        if let Ok(mut current) = current.try_borrow_mut() {
            mem::swap(&mut *current, slot);
        }
    });
}

/// Takes the frame out again when dropped, also while unwinding.
#[derive(Debug)]
#[must_use = "the frame is taken out again when this is dropped"]
pub(crate) struct Entered<'a> {
    _slot: Slot<'a>,
    _span: span::Entered<'a>,
}

/// Where a frame goes back to that is in place.
#[derive(Debug)]
struct Slot<'a>(Option<&'a mut Option<Box<Frame>>>);

impl Drop for Slot<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(slot) = self.0.take() {
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

/// Runs this as if within a call with this id, a trace and these fields.
#[cfg(test)]
pub(crate) fn pretend<R>(
    id: &str,
    fields: Vec<(&'static str, FieldValue)>,
    run: impl FnOnce() -> R,
) -> R {
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = Request::builder().header(TRACEPARENT, parent).body(());
    let mut scope = Scope::open(&mut request.expect("a request"));
    scope.update(|frame| {
        frame.set_request_id(&RequestId::parse(id).expect("an id"), false);
        for (name, value) in fields {
            assert!(frame.journal_mut().set_field(name, value));
        }
    });
    let _entered = scope.enter();
    run()
}
