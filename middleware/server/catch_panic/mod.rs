//! Turns a panic into an honest answer, a line and a count.
//!
//! ```
//! # use axum::{Router, routing::get};
//! use plimsoll::server::catch_panic::CatchPanicLayer;
//!
//! async fn order() -> String {
//!     panic!("no such order")
//! }
//!
//! let app: Router = Router::new().route("/order", get(order)).layer(CatchPanicLayer::new());
//! ```

mod burst;

use std::{
    fmt, mem,
    num::NonZeroU32,
    pin::Pin,
    process,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    clock,
    context::{self, Cause, Scope},
    gauge::{Gauges, Metric, Reading},
    observe::{BodyPanicked, BoxError, Content, ResponseBody, ResponseFuture},
    outcome::Outcome,
    panics::{self, Fate, PanicFacts},
    rejection::{Reason, Rejection},
};
use burst::Burst;

const LAYER: &str = "catch_panic";

/// Catches panics of everything inside: in `call`, in the future, in the body of the response, in destructors; not in
/// `poll_ready`, nor in `size_hint` and `is_end_stream` of a body.
/// Clones share the counts and the memory of [`CatchPanicLayer::abort_after`].
///
/// Before the head the caller gets 500, for gRPC status 13; after it gRPC gets trailers with status 13 and HTTP is cut.
/// The text of the panic goes into one log line (`event="panic"`, ERROR) with its place, never to the caller.
/// The connection and its other calls live on.
///
/// Place it innermost of plimsoll's layers, so that the others see what became of the call; layers inside of it are
/// guarded too. It cannot help against a panic while another one unwinds, nor in a program built with
/// `panic = "abort"`: both end the process, after a last line that is flushed.
#[derive(Clone)]
pub struct CatchPanicLayer {
    state: Arc<State>,
    backtraces: bool,
    on: bool,
}

/// How many panics were caught, by place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PanicCounts {
    /// In `Service::call`, before there was a future.
    pub call: u64,
    /// In the future, before the head.
    pub response: u64,
    /// In the body, after the head.
    pub body: u64,
    /// In the destructor of a future or a body.
    pub drop: u64,
}

impl CatchPanicLayer {
    /// Catches panics, without backtraces and without ever ending the process.
    ///
    /// Installs a panic hook, once for the process: only a hook knows the place of a panic. It passes panics that this
    /// layer does not catch on to the hook that was there before. A hook that is set later hides the place.
    pub fn new() -> Self {
        panics::install_hook();
        Self {
            state: Arc::default(),
            backtraces: false,
            on: true,
        }
    }

    /// Captures a backtrace for the line of each panic. It costs some milliseconds each. Default: off.
    #[must_use]
    pub fn backtraces(mut self) -> Self {
        self.backtraces = true;
        self
    }

    /// Ends the process once there were so many panics within the window: a service that keeps panicking is better
    /// restarted, loudly. The log is flushed first (for up to 2 s), then the process aborts. Default: never.
    #[must_use]
    pub fn abort_after(mut self, panics: NonZeroU32, window: Duration) -> Self {
        self.state = Arc::new(State {
            burst: Some(Mutex::new(Burst::new(panics, window))),
            ..State::default()
        });
        self
    }

    /// Whether this layer does anything. Switched off it passes calls on as they are, of the same types; to be decided
    /// by configuration. Default: on.
    #[must_use]
    pub fn enabled(mut self, on: bool) -> Self {
        self.on = on;
        self
    }

    /// How many panics were caught so far.
    pub fn counts(&self) -> PanicCounts {
        let [call, response, body, drop] = [Place::Call, Place::Response, Place::Body, Place::Drop]
            .map(|place| self.state.count(place).load(Ordering::Relaxed));
        PanicCounts {
            call,
            response,
            body,
            drop,
        }
    }
}

impl Default for CatchPanicLayer {
    fn default() -> Self {
        Self::new()
    }
}

/// `plimsoll.panics` with `where` = `call`, `response`, `body`, `drop`.
impl Gauges for CatchPanicLayer {
    fn metrics(&self) -> &'static [Metric] {
        const { &[panics::PANICS] }
    }

    fn read(&self, tell: &mut dyn FnMut(Reading<'_>)) {
        let counts = self.counts();
        for (place, count) in [
            ("call", counts.call),
            ("response", counts.response),
            ("body", counts.body),
            ("drop", counts.drop),
        ] {
            tell(Reading::new(&panics::PANICS, count).with(&[("where", place)]));
        }
    }
}

impl fmt::Debug for CatchPanicLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let aborts = self.state.burst.is_some();
        let mut layer = f.debug_struct("CatchPanicLayer");
        layer
            .field("backtraces", &self.backtraces)
            .field("aborts", &aborts)
            .field("counts", &self.counts())
            .finish()
    }
}

impl<S> Layer<S> for CatchPanicLayer {
    type Service = CatchPanic<S>;

    fn layer(&self, inner: S) -> CatchPanic<S> {
        let catcher = Catcher {
            state: self.on.then(|| Arc::clone(&self.state)),
            backtraces: self.backtraces,
        };
        CatchPanic {
            inner: Guarded { inner, catcher },
        }
    }
}

/// Service of [`CatchPanicLayer`].
#[derive(Clone, Debug)]
pub struct CatchPanic<S> {
    inner: Guarded<S>,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for CatchPanic<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    S::Error: fmt::Display + 'static,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<GuardedBody<ResBody>, ()>>;
    type Error = S::Error;
    type Future = ResponseFuture<GuardedFuture<S::Future>, ()>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        if self.inner.catcher.state.is_none() {
            return ResponseFuture::pass(&mut self.inner, request);
        }
        let scope = Scope::open(&mut request);
        ResponseFuture::call(&mut self.inner, request, (), scope)
    }
}

/// The inner service, with its panics caught. What it returns runs within a [`Scope`].
#[derive(Clone, Debug)]
struct Guarded<S> {
    inner: S,
    catcher: Catcher,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Guarded<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Response = Response<GuardedBody<ResBody>>;
    type Error = S::Error;
    type Future = GuardedFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let catcher = self.catcher.clone();
        let mut future = GuardedFuture {
            inner: None,
            catcher,
        };
        self.catcher.catch(Place::Call, || {
            future.inner = Some(self.inner.call(request))
        });
        future
    }
}

pin_project! {
    /// A future whose panics are caught.
    #[derive(Debug)]
    pub struct GuardedFuture<F> {
        // `None` when `call` panicked already, and once it has ended.
        #[pin]
        inner: Option<F>,
        // Goes on into the body.
        catcher: Catcher,
    }

    impl<F> PinnedDrop for GuardedFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.inner.is_some() {
                this.catcher.drop_guarded(|| this.inner.set(None));
            }
        }
    }
}

impl<F, B, E> Future for GuardedFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<GuardedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let catcher = this.catcher;
        // Written in place: what a closure returns through the unwinder is copied.
        let mut polled = None;
        if let Some(inner) = this.inner.as_mut().as_pin_mut() {
            catcher.catch(Place::Response, || polled = Some(inner.poll(context)));
        }
        let Some(polled) = polled else {
            catcher.drop_guarded(|| this.inner.set(None));
            return Poll::Ready(Ok(catcher.answer()));
        };
        let result = ready!(polled);
        if catcher
            .catch(Place::Drop, || this.inner.set(None))
            .is_none()
        {
            catcher.drop_guarded(move || drop(result));
            return Poll::Ready(Ok(catcher.answer()));
        }
        Poll::Ready(result.map(|response| {
            let catcher = mem::take(catcher);
            response.map(|inner| GuardedBody {
                content: Content::Inner { inner },
                catcher,
            })
        }))
    }
}

pin_project! {
    /// A body whose panics are caught: they end it with an error.
    #[derive(Debug)]
    pub struct GuardedBody<B> {
        // Nothing once it has panicked.
        #[pin]
        content: Content<B>,
        catcher: Catcher,
    }

    impl<B> PinnedDrop for GuardedBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.content.is_inner() {
                let gone = || this.content.set(Content::nothing());
                this.catcher.drop_guarded(gone);
            }
        }
    }
}

impl<B> Body for GuardedBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let inner = match this.content.as_mut().inner() {
            Ok(inner) => inner,
            Err(own) => return Poll::Ready(own.map(Ok)),
        };
        let mut polled = None;
        this.catcher
            .catch(Place::Body, || polled = Some(inner.poll_frame(context)));
        match polled {
            Some(polled) => polled.map(|frame| frame.map(|frame| frame.map_err(Into::into))),
            None => {
                let gone = || this.content.set(Content::nothing());
                this.catcher.drop_guarded(gone);
                Poll::Ready(Some(Err(BodyPanicked.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}

/// Where a panic was caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Call,
    Response,
    Body,
    Drop,
}

impl Place {
    fn label(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Response => "response",
            Self::Body => "body",
            Self::Drop => "drop",
        }
    }

    fn outcome(self) -> Outcome {
        match self {
            Self::Body => Outcome::BodyPanic,
            Self::Call | Self::Response | Self::Drop => Outcome::Rejected(Reason::Panic),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    call: AtomicU64,
    response: AtomicU64,
    body: AtomicU64,
    drop: AtomicU64,
    burst: Option<Mutex<Burst>>,
}

impl State {
    fn count(&self, place: Place) -> &AtomicU64 {
        match place {
            Place::Call => &self.call,
            Place::Response => &self.response,
            Place::Body => &self.body,
            Place::Drop => &self.drop,
        }
    }

    #[cold]
    fn caught(&self, place: Place, facts: &PanicFacts) {
        self.count(place).fetch_add(1, Ordering::Relaxed);
        facts.write_line(Fate::Caught);
        if let Some(burst) = &self.burst {
            let too_many = burst
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .add(clock::now());
            if too_many {
                tracing::error!(target: "plimsoll::panic", event = "abort", "too many panics: the process aborts");
                panics::last_words();
                process::abort();
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Catcher {
    /// `None`: it catches nothing and lets all pass.
    state: Option<Arc<State>>,
    backtraces: bool,
}

impl Catcher {
    /// Runs this. When it panics, that is what became of the call, and there is no result.
    #[inline]
    fn catch<R>(&self, place: Place, run: impl FnOnce() -> R) -> Option<R> {
        let Some(state) = &self.state else {
            return Some(run());
        };
        match panics::catch(place.label(), self.backtraces, run) {
            Ok(result) => Some(result),
            Err(facts) => {
                context::note(Cause {
                    outcome: place.outcome(),
                    layer: LAYER,
                    error: facts.text.clone(),
                });
                state.caught(place, &facts);
                None
            }
        }
    }

    /// Runs a destructor. What became of the call was settled before it.
    fn drop_guarded(&self, run: impl FnOnce()) {
        let Some(state) = &self.state else {
            return run();
        };
        if let Err(facts) = panics::catch(Place::Drop.label(), self.backtraces, run) {
            state.caught(Place::Drop, &facts);
        }
    }

    fn answer<B>(&self) -> Response<GuardedBody<B>> {
        Content::answer(Rejection::new(Reason::Panic, LAYER)).map(|content| GuardedBody {
            content,
            catcher: self.clone(),
        })
    }
}
