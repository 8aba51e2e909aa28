//! Makes the span current while what is inside runs, so that spans which the service starts are its children.

use std::{
    fmt,
    pin::Pin,
    task::{Context as Poller, Poll, ready},
};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use opentelemetry::Context;
use pin_project_lite::pin_project;
use tower_service::Service;

/// The inner service within a context, for one call.
pub(super) struct Within<'a, S> {
    pub(super) inner: &'a mut S,
    pub(super) context: Option<Context>,
}

impl<S, A, B> Service<Request<A>> for Within<'_, S>
where
    S: Service<Request<A>, Response = Response<B>>,
{
    type Response = Response<ActiveBody<B>>;
    type Error = S::Error;
    type Future = ActiveFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Poller<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let _attached = self.context.clone().map(Context::attach);
        ActiveFuture {
            inner: self.inner.call(request),
            context: self.context.take(),
        }
    }
}

pin_project! {
    /// A future that runs within a context of OpenTelemetry.
    pub struct ActiveFuture<F> {
        #[pin]
        inner: F,
        context: Option<Context>,
    }
}

impl<F, B, E> Future for ActiveFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ActiveBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, poller: &mut Poller<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let _attached = this.context.clone().map(Context::attach);
        let result = ready!(this.inner.poll(poller));
        let context = this.context.take();
        Poll::Ready(result.map(|response| response.map(|inner| ActiveBody { inner, context })))
    }
}

pin_project! {
    /// A body that runs within a context of OpenTelemetry.
    pub struct ActiveBody<B> {
        #[pin]
        inner: B,
        context: Option<Context>,
    }
}

impl<B: Body> Body for ActiveBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        poller: &mut Poller<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let _attached = this.context.clone().map(Context::attach);
        this.inner.poll_frame(poller)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<F: fmt::Debug> fmt::Debug for ActiveFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ActiveFuture").field(&self.inner).finish()
    }
}

impl<B: fmt::Debug> fmt::Debug for ActiveBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ActiveBody").field(&self.inner).finish()
    }
}
