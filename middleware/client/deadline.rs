//! Does not send what nobody waits for any more.
//!
//! ```
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use plimsoll::client::{deadline::DeadlineLayer, propagate::PropagateLayer};
//! use tower::ServiceBuilder;
//!
//! # fn build() -> impl Sized {
//! let client = Client::builder(TokioExecutor::new()).build_http::<String>();
//! ServiceBuilder::new()
//!     .layer(DeadlineLayer::new())
//!     .layer(PropagateLayer::new())
//!     .service(client)
//! # }
//! ```

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    context::{Deadline, RequestId},
    gauge::{Gauges, Kind, Metric, Reading},
    observe::Content,
    protocol::Protocol,
    rejection::{Reason, Rejection},
};

const LAYER: &str = "deadline";

const UNSENT: Metric = Metric::new(
    "plimsoll.deadline.unsent",
    Kind::Counter,
    "{call}",
    "Outbound calls that were not sent, because the deadline of the call that made them had passed.",
);

/// Answers an outbound call in place of the service when the [`Deadline`] of the call that makes it has passed: 504, for
/// gRPC status 4, reason `deadline`. Nothing is sent. Outside of a call, and without a deadline, all is sent.
/// Clones share the count.
///
/// Place it outside of `propagate`, and inside of retries: it is asked once for each attempt.
#[derive(Clone, Debug)]
pub struct DeadlineLayer {
    unsent: Arc<AtomicU64>,
    on: bool,
}

impl DeadlineLayer {
    /// A layer that has kept nothing back yet.
    pub fn new() -> Self {
        Self {
            unsent: Arc::default(),
            on: true,
        }
    }

    /// Whether this layer does anything. Switched off it passes calls on as they are, of the same types; to be decided
    /// by configuration. Default: on.
    #[must_use]
    pub fn enabled(mut self, on: bool) -> Self {
        self.on = on;
        self
    }

    /// How many calls were not sent.
    pub fn unsent(&self) -> u64 {
        self.unsent.load(Ordering::Relaxed)
    }
}

impl Default for DeadlineLayer {
    fn default() -> Self {
        Self::new()
    }
}

/// `plimsoll.deadline.unsent`.
impl Gauges for DeadlineLayer {
    fn metrics(&self) -> &'static [Metric] {
        const { &[UNSENT] }
    }

    fn read(&self, tell: &mut dyn FnMut(Reading<'_>)) {
        tell(Reading::new(&UNSENT, self.unsent()));
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = WithinDeadline<S>;

    fn layer(&self, inner: S) -> WithinDeadline<S> {
        WithinDeadline {
            inner,
            layer: self.clone(),
        }
    }
}

/// Service of [`DeadlineLayer`].
#[derive(Clone, Debug)]
pub struct WithinDeadline<S> {
    inner: S,
    layer: DeadlineLayer,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for WithinDeadline<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body<Data = Bytes>,
{
    type Response = Response<MaybeSent<ResBody>>;
    type Error = S::Error;
    type Future = SendFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        if !self.layer.on || Deadline::current().is_none_or(|deadline| !deadline.has_passed()) {
            return SendFuture {
                inner: Some(self.inner.call(request)),
                answer: None,
            };
        }
        self.layer.unsent.fetch_add(1, Ordering::Relaxed);
        let rejection = Rejection::new(Reason::Deadline, LAYER);
        let protocol = Protocol::of(request.headers());
        let answer = rejection.into_response(protocol, RequestId::current().as_ref());
        SendFuture {
            inner: None,
            answer: Some(Box::new(answer)),
        }
    }
}

pin_project! {
    /// The call of the service, or the answer in its place.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct SendFuture<F> {
        // `None` when it was too late.
        #[pin]
        inner: Option<F>,
        // Boxed, so that the futures of calls that are sent stay small.
        answer: Option<Box<Response<Bytes>>>,
    }
}

impl<F, B, E> Future for SendFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<MaybeSent<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Some(inner) = this.inner.as_pin_mut() {
            let result = ready!(inner.poll(context));
            return Poll::Ready(result.map(|answer| {
                answer.map(|inner| MaybeSent {
                    content: Content::Inner { inner },
                })
            }));
        }
        let answer = this.answer.take();
        let answer = answer.expect("not polled again after it was ready");
        Poll::Ready(Ok(answer.map(|bytes| MaybeSent {
            content: Content::Own { bytes },
        })))
    }
}

pin_project! {
    /// The body of the service's answer, or of the one in its place.
    #[derive(Debug)]
    pub struct MaybeSent<B> {
        #[pin]
        content: Content<B>,
    }
}

impl<B> Body for MaybeSent<B>
where
    B: Body<Data = Bytes>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.project().content.poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}
