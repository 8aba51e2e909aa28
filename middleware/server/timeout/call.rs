use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::timing::{Phase, Timing};
use crate::{
    observe::{BodyRefused, BoxError, Content},
    rejection::Rejection,
};

/// The inner service, about to be called within the limits of one call.
pub(super) struct Starting<'a, S> {
    inner: &'a mut S,
    timing: Option<Timing>,
}

impl<'a, S> Starting<'a, S> {
    pub(super) fn of(inner: &'a mut S, timing: Timing) -> Self {
        Self {
            inner,
            timing: Some(timing),
        }
    }

    /// Within no limits.
    pub(super) fn untimed(inner: &'a mut S) -> Self {
        Self {
            inner,
            timing: None,
        }
    }
}

impl<S, B, ResBody> Service<Request<B>> for Starting<'_, S>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    ResBody: Body,
{
    type Response = Response<TimedBody<ResBody>>;
    type Error = S::Error;
    type Future = TimedFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> TimedFuture<S::Future> {
        TimedFuture {
            inner: Some(self.inner.call(request)),
            timing: self.timing.take(),
        }
    }
}

pin_project! {
    /// A future that is dropped when its time is up.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct TimedFuture<F> {
        // `None` once it has ended.
        #[pin]
        inner: Option<F>,
        timing: Option<Timing>,
    }
}

impl<F, B, E> Future for TimedFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<TimedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let inner = this.inner.as_mut().as_pin_mut();
        let inner = inner.expect("not polled again after it was ready");
        if let Poll::Ready(result) = inner.poll(context) {
            this.inner.set(None);
            let timing = this.timing.take();
            return Poll::Ready(result.map(|response| within(response, timing)));
        }
        let Some(timing) = this.timing else {
            return Poll::Pending;
        };
        let limit = ready!(timing.poll_exceeded(Phase::Head, context));
        let rejection = timing.exceed(limit);
        this.inner.set(None);
        *this.timing = None;
        Poll::Ready(Ok(answer(rejection)))
    }
}

/// A response, within what is left of the limits.
#[inline]
fn within<B: Body>(response: Response<B>, timing: Option<Timing>) -> Response<TimedBody<B>> {
    response.map(|inner| {
        let timing = timing.filter(|timing| !inner.is_end_stream() && timing.lasts());
        TimedBody {
            content: Content::Inner { inner },
            timing,
            is_begun: false,
        }
    })
}

#[cold]
fn answer<B>(rejection: Rejection) -> Response<TimedBody<B>> {
    Content::answer(rejection).map(|content| TimedBody {
        content,
        timing: None,
        is_begun: false,
    })
}

pin_project! {
    /// A body that ends with an error when its time is up.
    #[derive(Debug)]
    pub struct TimedBody<B> {
        // Nothing once its time was up.
        #[pin]
        content: Content<B>,
        // `None` where there is nothing to be timed.
        timing: Option<Timing>,
        is_begun: bool,
    }
}

impl<B> Body for TimedBody<B>
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
        let Some(timing) = this.timing.as_mut() else {
            return passed_on(inner.poll_frame(context));
        };
        // The first frame comes along with the head, which came in time.
        let was_begun = std::mem::replace(this.is_begun, true);
        let exceeded = match was_begun.then(|| timing.is_over()).flatten() {
            Some(limit) => limit,
            None => match inner.poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    timing.was_not_silent();
                    return Poll::Ready(Some(Ok(frame)));
                }
                Poll::Ready(last) => {
                    *this.timing = None;
                    return passed_on(Poll::Ready(last));
                }
                Poll::Pending => ready!(timing.poll_exceeded(Phase::Body, context)),
            },
        };
        let rejection = timing.exceed(exceeded);
        this.content.set(Content::nothing());
        *this.timing = None;
        Poll::Ready(Some(Err(BodyRefused(rejection).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}

fn passed_on<E: Into<BoxError>>(
    polled: Poll<Option<Result<Frame<Bytes>, E>>>,
) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
    polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
}
