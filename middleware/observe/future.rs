use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    BoxError, ResponseBody,
    body::{Content, Rest},
    end::{CallFacts, End, Fault, Observer, Watch},
};
use crate::{
    context::{RequestId, Scope},
    rejection::Rejection,
};

pin_project! {
    /// A call until its head. Its output carries the [`ResponseBody`] that watches the rest.
    ///
    /// Dropping it drops the inner future, then tells the observer.
    #[must_use = "futures do nothing unless polled"]
    #[project = Projection]
    pub struct ResponseFuture<F, O>
    where
        O: Observer,
    {
        // `None` once it has ended, and when plimsoll answers itself.
        #[pin]
        inner: Option<F>,
        // The answer of plimsoll itself. Boxed, so that the futures of admitted calls stay small.
        answer: Option<Box<Response<Bytes>>>,
        watch: Watch<O>,
        scope: Scope,
        facts: CallFacts,
    }

    impl<F, O> PinnedDrop for ResponseFuture<F, O>
    where
        O: Observer,
    {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.inner.is_some() || this.watch.is_on() {
                let _entered = this.scope.enter();
                // Told after the future is gone and before the scope is left, should its destructor panic as well.
                let watch = this.watch.take();
                this.inner.set(None);
                drop(watch);
            }
        }
    }
}

impl<F, O: Observer> ResponseFuture<F, O> {
    /// Calls the service, watched by the observer within the scope.
    ///
    /// # Panics
    ///
    /// When the service panics in `call`; the observer is told.
    #[inline]
    pub fn call<S, B>(service: &mut S, request: Request<B>, observer: O, mut scope: Scope) -> Self
    where
        S: Service<Request<B>, Future = F>,
    {
        let facts = CallFacts::of(&request, &mut scope);
        let entered = scope.enter();
        // Told before the scope is left, should the service panic.
        let mut watch = Watch::new(observer);
        let guard = watch.guard();
        let inner = service.call(request);
        guard.disarm();
        drop(entered);
        Self {
            inner: Some(inner),
            answer: None,
            watch,
            scope,
            facts,
        }
    }

    /// Answers in place of the service, in the caller's protocol.
    #[inline]
    pub fn reject<B>(
        rejection: Rejection,
        request: &Request<B>,
        observer: O,
        mut scope: Scope,
    ) -> Self {
        let facts = CallFacts::of(request, &mut scope);
        let id = {
            let _entered = scope.enter();
            RequestId::current()
        };
        let answer = rejection.into_response(facts.protocol, id.as_ref());
        Self {
            inner: None,
            answer: Some(Box::new(answer)),
            watch: Watch::new(observer),
            scope,
            facts,
        }
    }
}

impl<F, O, B, E> Future for ResponseFuture<F, O>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: fmt::Display + 'static,
    O: Observer,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<B, O>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.answer.take() {
            Some(answer) => {
                let answer = answer.map(|bytes| Content::Own { bytes });
                Poll::Ready(Ok(this.head(answer, |content| content)))
            }
            None => this.poll_inner(context),
        }
    }
}

impl<F, O> Projection<'_, F, O>
where
    O: Observer,
{
    #[inline]
    fn poll_inner<B, E>(
        mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Response<ResponseBody<B, O>>, E>>
    where
        F: Future<Output = Result<Response<B>, E>>,
        E: fmt::Display + 'static,
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let entered = self.scope.enter();
        let inner = self.inner.as_mut().as_pin_mut();
        let inner = inner.expect("not polled again after it was ready");
        let guard = self.watch.guard();
        let polled = inner.poll(context);
        if polled.is_ready() {
            self.inner.set(None);
        }
        guard.disarm();
        match ready!(polled) {
            Ok(response) => {
                drop(entered);
                Poll::Ready(Ok(self.head(response, |inner| Content::Inner { inner })))
            }
            Err(error) => {
                self.watch.end(End::Failed(Fault::of_service(&error)));
                Poll::Ready(Err(error))
            }
        }
    }

    /// The head is there: from here on the body is watched.
    #[inline]
    fn head<A, B>(
        self,
        mut response: Response<A>,
        content: impl FnOnce(A) -> Content<B>,
    ) -> Response<ResponseBody<B, O>>
    where
        A: Body<Data = Bytes>,
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        if let Some(observer) = self.watch.observer() {
            let _entered = self.scope.enter();
            observer.on_head(&mut response);
        }
        let rest = Rest::of(&response, *self.facts);
        let (watch, scope) = (self.watch.take(), self.scope.take());
        response.map(|body| ResponseBody::new(content(body), rest, watch, scope))
    }
}

impl<F, O: Observer> fmt::Debug for ResponseFuture<F, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}
