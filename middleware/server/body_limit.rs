//! Refuses requests whose body is too large.
//!
//! ```
//! # use axum::{Router, routing::post};
//! use plimsoll::server::body_limit::BodyLimitLayer;
//!
//! let app: Router = Router::new()
//!     .route("/orders", post(|order: String| async { "ordered" }))
//!     .layer(BodyLimitLayer::new(64 * 1024));
//! ```

use std::{
    error::Error,
    fmt,
    pin::Pin,
    sync::{
        Arc, Once,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header::CONTENT_LENGTH};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    context::{self, Cause, Scope},
    observe::{Around, BodyRefused, BoxError, Content, ResponseBody, ResponseFuture, wrap_request},
    outcome::Outcome,
    rejection::{Reason, Rejection},
};

const LAYER: &str = "body_limit";

/// Refuses requests whose body has more bytes than a cap: 413, for gRPC status 8. Clones share the cap.
///
/// A body whose length is told is refused before the service is called, and unread. Any other is counted while it is
/// read: over the cap the handler's read fails with [`BodyTooLarge`], and whatever it answers then, the caller gets 413.
/// Once the head has left, gRPC gets trailers with status 8 and HTTP is cut.
///
/// The type of the body stays: counting is possible for axum's and tonic's (features `axum`, `tonic`). Of any other type
/// only a body that tells a length within the cap is let pass.
///
/// Place it inside of `request_id`, `access_log` and `metrics`. It counts what it sees: inside of a layer that
/// decompresses, the decompressed bytes. Default: 2 MiB, as axum's extractors have it. (They keep their own, which
/// `axum::extract::DefaultBodyLimit` raises.)
#[derive(Clone, Debug)]
pub struct BodyLimitLayer {
    shared: Arc<Shared>,
    on: bool,
}

#[derive(Debug)]
struct Shared {
    max_bytes: AtomicU64,
    /// For a fault of the wiring, which is told once.
    told: Once,
}

impl BodyLimitLayer {
    /// Refuses bodies of more than so many bytes.
    pub fn new(max_bytes: u64) -> Self {
        Self {
            shared: Arc::new(Shared {
                max_bytes: AtomicU64::new(max_bytes),
                told: Once::new(),
            }),
            on: true,
        }
    }

    /// The most bytes of a body.
    pub fn max_bytes(&self) -> u64 {
        self.shared.max_bytes.load(Ordering::Relaxed)
    }

    /// Changes the cap while it runs, for bodies of calls that begin from now on.
    pub fn set_max_bytes(&self, max_bytes: u64) {
        self.shared.max_bytes.store(max_bytes, Ordering::Relaxed);
    }

    /// Whether this layer does anything. Switched off it passes calls on as they are, of the same types; to be decided
    /// by configuration. Default: on.
    #[must_use]
    pub fn enabled(mut self, on: bool) -> Self {
        self.on = on;
        self
    }
}

impl Default for BodyLimitLayer {
    fn default() -> Self {
        Self::new(2 * 1024 * 1024)
    }
}

/// The error with which reading a body fails once it is over the cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BodyTooLarge {
    /// The cap.
    pub max_bytes: u64,
}

impl fmt::Display for BodyTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the body of the request has more than {} bytes",
            self.max_bytes
        )
    }
}

impl Error for BodyTooLarge {}

impl BodyTooLarge {
    fn cause(self) -> Cause {
        Cause {
            outcome: Outcome::Rejected(Reason::TooLarge),
            layer: LAYER,
            error: self.to_string(),
        }
    }
}

impl<S> Layer<S> for BodyLimitLayer {
    type Service = BodyLimit<S>;

    fn layer(&self, inner: S) -> BodyLimit<S> {
        BodyLimit {
            inner,
            layer: self.clone(),
        }
    }
}

/// Service of [`BodyLimitLayer`].
#[derive(Clone, Debug)]
pub struct BodyLimit<S> {
    inner: S,
    layer: BodyLimitLayer,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for BodyLimit<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    S::Error: fmt::Display + 'static,
    ReqBody: Body + 'static,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<CappedBody<ResBody>, ()>>;
    type Error = S::Error;
    type Future = ResponseFuture<CappedFuture<S::Future>, ()>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        if !self.layer.on {
            let mut uncapped = Capped {
                inner: &mut self.inner,
                cap: Cap::of_nothing(),
            };
            return ResponseFuture::pass(&mut uncapped, request);
        }
        let mut scope = Scope::open(&mut request);
        match self.layer.admit(request) {
            (request, Some(cap)) => {
                let mut capped = Capped {
                    inner: &mut self.inner,
                    cap,
                };
                ResponseFuture::call(&mut capped, request, (), scope)
            }
            (request, None) => {
                let max_bytes = self.layer.max_bytes();
                let cause = BodyTooLarge { max_bytes }.cause();
                scope.update(|frame| frame.journal_mut().note(cause));
                let rejection = Rejection::new(Reason::TooLarge, LAYER);
                ResponseFuture::reject_reusing(rejection, request, (), scope)
            }
        }
    }
}

impl BodyLimitLayer {
    /// The request, its body counted from here on if it has one; without a cap if it is to be refused.
    #[inline]
    fn admit<B: Body + 'static>(&self, request: Request<B>) -> (Request<B>, Option<Cap>) {
        let max_bytes = self.max_bytes();
        let (hint, length) = (request.body().size_hint(), length(request.headers()));
        if hint.lower() > max_bytes || length.is_some_and(|length| length > max_bytes) {
            return (request, None);
        }
        if request.body().is_end_stream() {
            return (request, Some(Cap::of_nothing()));
        }
        let cap = Cap {
            max_bytes,
            exceeded: Some(Arc::default()),
        };
        let (head, body) = request.into_parts();
        match wrap_request(body, cap.clone()) {
            Ok(counted) => (Request::from_parts(head, counted), Some(cap)),
            Err(body) => {
                let request = Request::from_parts(head, body);
                let fits = hint.upper().is_some_and(|upper| upper <= max_bytes);
                if !fits {
                    self.tell_wiring::<B>();
                }
                (request, fits.then(Cap::of_nothing))
            }
        }
    }

    #[cold]
    fn tell_wiring<B>(&self) {
        self.shared.told.call_once(|| {
            tracing::error!(
                event = "body_limit_uncounted",
                body = std::any::type_name::<B>(),
                "bodies of this type cannot be counted, and are refused: is the feature `axum` or `tonic` on?"
            );
        });
    }
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What a call and the body of its request share.
#[derive(Clone, Debug)]
struct Cap {
    max_bytes: u64,
    /// `None` where nothing is counted.
    exceeded: Option<Arc<AtomicBool>>,
}

impl Cap {
    fn of_nothing() -> Self {
        Self {
            max_bytes: 0,
            exceeded: None,
        }
    }

    fn is_exceeded(&self) -> bool {
        let exceeded = self.exceeded.as_ref();
        exceeded.is_some_and(|exceeded| exceeded.load(Ordering::Relaxed))
    }

    fn exceed(&self) {
        if let Some(exceeded) = &self.exceeded {
            exceeded.store(true, Ordering::Relaxed);
        }
    }

    fn error(&self) -> BodyTooLarge {
        BodyTooLarge {
            max_bytes: self.max_bytes,
        }
    }

    /// Answers in place of the handler. The body may have been read in a task that knows nothing of the call, so that
    /// it is noted here, where it counts once.
    #[cold]
    fn refuse(&self) -> Rejection {
        context::note(self.error().cause());
        Rejection::new(Reason::TooLarge, LAYER)
    }
}

impl Around for Cap {
    fn around<B>(self, body: B) -> impl Body<Data = Bytes, Error = BoxError> + Send + 'static
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        CountedBody {
            inner: Some(body),
            left: self.max_bytes,
            cap: self,
        }
    }
}

pin_project! {
    /// The body of a request that is counted.
    struct CountedBody<B> {
        // `None` once it was too large.
        #[pin]
        inner: Option<B>,
        left: u64,
        cap: Cap,
    }
}

impl<B> Body for CountedBody<B>
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
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        let frame = match ready!(inner.poll_frame(context)) {
            Some(Ok(frame)) => frame,
            last => return Poll::Ready(last.map(|frame| frame.map_err(Into::into))),
        };
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        let left = this
            .left
            .checked_sub(u64::try_from(bytes).unwrap_or(u64::MAX));
        match left {
            Some(left) => {
                *this.left = left;
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                this.cap.exceed();
                context::note(this.cap.error().cause());
                // What is still to come is not taken from the caller.
                this.inner.set(None);
                Poll::Ready(Some(Err(this.cap.error().into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

/// The inner service, about to be called with a body that is counted.
struct Capped<'a, S> {
    inner: &'a mut S,
    cap: Cap,
}

impl<S, B, ResBody> Service<Request<B>> for Capped<'_, S>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    ResBody: Body,
{
    type Response = Response<CappedBody<ResBody>>;
    type Error = S::Error;
    type Future = CappedFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> CappedFuture<S::Future> {
        CappedFuture {
            inner: self.inner.call(request),
            cap: self.cap.clone(),
        }
    }
}

pin_project! {
    /// A future whose answer counts for nothing once the body of its request was too large.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct CappedFuture<F> {
        #[pin]
        inner: F,
        cap: Cap,
    }
}

impl<F, B, E> Future for CappedFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<CappedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(context));
        if this.cap.is_exceeded() {
            // The service's own answer goes first: what it does when it is dropped is of this call.
            drop(result);
            return Poll::Ready(Ok(answer(this.cap.refuse())));
        }
        let cap = this.cap.clone();
        Poll::Ready(result.map(|response| {
            response.map(|inner| CappedBody {
                content: Content::Inner { inner },
                cap,
            })
        }))
    }
}

fn answer<B>(rejection: Rejection) -> Response<CappedBody<B>> {
    Content::answer(rejection).map(|content| CappedBody {
        content,
        cap: Cap::of_nothing(),
    })
}

pin_project! {
    /// A body that has no clean end once the body of its request was too large.
    #[derive(Debug)]
    pub struct CappedBody<B> {
        // Nothing once it was broken off.
        #[pin]
        content: Content<B>,
        cap: Cap,
    }
}

impl<B> Body for CappedBody<B>
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
        let polled = ready!(inner.poll_frame(context));
        let is_last = !matches!(&polled, Some(Ok(frame)) if frame.is_data());
        if is_last && this.cap.is_exceeded() {
            let rejection = this.cap.refuse();
            this.content.set(Content::nothing());
            return Poll::Ready(Some(Err(BodyRefused(rejection).into())));
        }
        Poll::Ready(polled.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}
