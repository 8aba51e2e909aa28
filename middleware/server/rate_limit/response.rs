//! The future and the body of a call. Both are the service's own, with a rejection in its place where there is one:
//! nothing is boxed, and no more is watched than what a call is charged for.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::admission::{Admission, Charge};
use crate::{context::RequestId, observe::Content, protocol::Protocol, rejection::Rejection};

pin_project! {
    /// A call until its head.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
        admission: Admission,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Called {
            #[pin]
            inner: F,
        },
        // `None` once it was told.
        Rejected {
            answer: Option<Response<Bytes>>,
        },
    }
}

impl<F> ResponseFuture<F> {
    #[inline]
    pub(super) fn call(inner: F, admission: Admission) -> Self {
        Self {
            state: State::Called { inner },
            admission,
        }
    }

    /// The answer takes over the memory of the request.
    #[inline]
    pub(super) fn reject<B>(
        rejection: Rejection,
        request: Request<B>,
        admission: Admission,
    ) -> Self {
        let (head, _body) = request.into_parts();
        let protocol = Protocol::of(&head.headers);
        let id = head.extensions.get::<RequestId>().cloned();
        let id = id.or_else(RequestId::current);
        let answer = rejection.answer(protocol, id.as_ref(), head.headers, head.extensions);
        Self {
            state: State::Rejected {
                answer: Some(answer),
            },
            admission,
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = match this.state.project() {
            StateProjection::Called { inner } => {
                ready!(inner.poll(context))?.map(|inner| Content::Inner { inner })
            }
            StateProjection::Rejected { answer } => {
                let answer = answer.take();
                let answer = answer.expect("not polled again after it was ready");
                answer.map(|bytes| Content::Own { bytes })
            }
        };
        this.admission.tell(response.headers_mut());
        let mut charge = this.admission.charge.take();
        if let Some(charge) = &mut charge {
            charge.head(response.status());
        }
        Poll::Ready(Ok(response.map(|content| ResponseBody { content, charge })))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("admission", &self.admission)
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// The body of a call: what the service sends, unchanged, or the rejection.
    #[derive(Debug)]
    pub struct ResponseBody<B> {
        #[pin]
        content: Content<B>,
        charge: Option<Box<Charge>>,
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.content.poll_frame(context));
        if let Some(charge) = this.charge {
            match &frame {
                Some(Ok(frame)) if !frame.is_trailers() => {
                    charge.sent(frame.data_ref().map_or(0, Bytes::len));
                }
                // The end.
                _ => *this.charge = None,
            }
        }
        Poll::Ready(frame)
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}

/// An empty body: what layers further out answer with that answer in the service's place.
impl<B> Default for ResponseBody<B> {
    fn default() -> Self {
        Self {
            content: Content::nothing(),
            charge: None,
        }
    }
}
