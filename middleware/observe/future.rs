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
    BoxError, Content, ResponseBody,
    body::Rest,
    end::{CallFacts, End, Fault, Observer, Watch},
};
use crate::{context::Scope, rejection::Rejection};

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
        #[pin]
        stage: Stage<F>,
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
            if !this.stage.is_ended() || this.watch.is_on() {
                let _entered = this.scope.enter();
                // Told after the future is gone and before the scope is left, should its destructor panic as well.
                let mut watch = this.watch.take();
                let guard = watch.guard();
                this.stage.set(Stage::Ended);
                guard.disarm();
                drop(watch);
            }
        }
    }
}

pin_project! {
    /// Who answers.
    #[project = StageProjection]
    #[project_replace = Replaced]
    enum Stage<F> {
        Service {
            #[pin]
            future: F,
        },
        Plimsoll { answer: Response<Bytes> },
        Ended,
    }
}

impl<F> Stage<F> {
    fn is_ended(&self) -> bool {
        matches!(self, Self::Ended)
    }
}

impl<F, O: Observer> ResponseFuture<F, O> {
    /// Calls the service, watched by the observer within the scope.
    ///
    /// # Panics
    ///
    /// When the service panics in `call`; the observer is told.
    #[inline]
    pub fn call<S, B>(
        service: &mut S,
        mut request: Request<B>,
        observer: O,
        mut scope: Scope,
    ) -> Self
    where
        S: Service<Request<B>, Future = F>,
    {
        scope.mark(&mut request);
        let facts = CallFacts::of(&request, &mut scope);
        let entered = scope.enter();
        // Told before the scope is left, should the service panic.
        let mut watch = Watch::new(observer);
        let guard = watch.guard();
        let future = service.call(request);
        guard.disarm();
        drop(entered);
        Self {
            stage: Stage::Service { future },
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
        scope: Scope,
    ) -> Self {
        let mut future = Self::unanswered(request, observer, scope);
        let id = future.scope.request_id(request);
        let answer = rejection.into_response(future.facts.protocol, id.as_ref());
        future.stage = Stage::Plimsoll { answer };
        future
    }

    /// As [`ResponseFuture::reject`], and the answer takes over the memory of the request: for layers that reject in
    /// an overload, when answers must be cheap.
    #[inline]
    pub fn reject_reusing<B>(
        rejection: Rejection,
        request: Request<B>,
        observer: O,
        scope: Scope,
    ) -> Self {
        // Whole before anything of the request is dropped, which may panic: so the observer is told.
        let mut future = Self::unanswered(&request, observer, scope);
        let id = future.scope.request_id(&request);
        let (head, body) = request.into_parts();
        drop(body);
        let (protocol, id) = (future.facts.protocol, id.as_ref());
        let answer = rejection.answer(protocol, id, head.headers, head.extensions);
        future.stage = Stage::Plimsoll { answer };
        future
    }

    /// Calls the service and watches nothing: for a layer that is switched off. What the service answers passes as it
    /// is, and no call is made known to layers further in.
    #[inline]
    pub fn pass<S, B>(service: &mut S, request: Request<B>) -> Self
    where
        S: Service<Request<B>, Future = F>,
    {
        Self {
            stage: Stage::Service {
                future: service.call(request),
            },
            watch: Watch::of_nobody(),
            scope: Scope::of_nothing(),
            facts: CallFacts::of_nothing(),
        }
    }

    /// As [`ResponseFuture::reject_reusing`], for a layer that noted nothing of the call and whose part in it is over:
    /// the frame is given back at once, and nobody watches the answer.
    #[inline]
    pub(crate) fn refuse<B>(rejection: Rejection, request: Request<B>, mut scope: Scope) -> Self {
        let protocol = scope.protocol(&request);
        let id = scope.request_id(&request);
        drop(scope);
        let (head, body) = request.into_parts();
        drop(body);
        let answer = rejection.answer(protocol, id.as_ref(), head.headers, head.extensions);
        Self {
            stage: Stage::Plimsoll { answer },
            watch: Watch::of_nobody(),
            scope: Scope::of_nothing(),
            facts: CallFacts::of_nothing(),
        }
    }

    fn unanswered<B>(request: &Request<B>, observer: O, mut scope: Scope) -> Self {
        let facts = CallFacts::of(request, &mut scope);
        Self {
            stage: Stage::Ended,
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
        let mut this = self.project();
        match this.stage.as_mut().project() {
            StageProjection::Service { .. } => this.poll_service(context),
            StageProjection::Plimsoll { .. } => {
                let answered = this.stage.as_mut().project_replace(Stage::Ended);
                let Replaced::Plimsoll { answer } = answered else {
                    panic!("polled again after it was ready");
                };
                let mut answer = answer.map(|bytes| Content::Own { bytes });
                if !this.watch.is_on() {
                    let answer = answer.map(|own| ResponseBody::of_nobody(Some(own)));
                    return Poll::Ready(Ok(answer));
                }
                let entered = this.scope.enter();
                this.watch.head(&mut answer);
                drop(entered);
                Poll::Ready(Ok(this.watched(answer, |content| content)))
            }
            StageProjection::Ended => panic!("polled again after it was ready"),
        }
    }
}

impl<F, O> Projection<'_, F, O>
where
    O: Observer,
{
    #[inline]
    fn poll_service<B, E>(
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
        let StageProjection::Service { future } = self.stage.as_mut().project() else {
            panic!("polled again after it was ready");
        };
        let guard = self.watch.guard();
        let polled = future.poll(context);
        if polled.is_ready() {
            self.stage.set(Stage::Ended);
        }
        guard.disarm();
        match ready!(polled) {
            Ok(mut response) => {
                self.watch.head(&mut response);
                drop(entered);
                Poll::Ready(Ok(self.watched(response, |inner| Content::Inner { inner })))
            }
            Err(error) => {
                self.watch.end(End::Failed(Fault::of_service(&error)));
                Poll::Ready(Err(error))
            }
        }
    }

    /// The head is there: from here on the body is watched.
    #[inline]
    fn watched<A, B>(
        self,
        response: Response<A>,
        content: impl FnOnce(A) -> Content<B>,
    ) -> Response<ResponseBody<B, O>>
    where
        A: Body<Data = Bytes>,
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
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
