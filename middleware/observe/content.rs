//! What is sent: the body of the service, or the answer of plimsoll itself.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{context, rejection::Rejection};

pin_project! {
    /// The body of the service, or plimsoll's own.
    #[project = Projection]
    #[derive(Debug)]
    pub(crate) enum Content<B> {
        Inner {
            #[pin]
            inner: B,
        },
        Own { bytes: Bytes },
    }
}

impl<B> Content<B> {
    /// What is left once the service's body is gone.
    pub(crate) const fn nothing() -> Self {
        Self::Own {
            bytes: Bytes::new(),
        }
    }

    /// The answer to the current call in place of the service.
    pub(crate) fn answer(rejection: Rejection) -> Response<Self> {
        let known = context::current(|frame| (frame.protocol(), frame.request_id().cloned()));
        let (protocol, id) = known.unwrap_or_default();
        rejection
            .into_response(protocol, id.as_ref())
            .map(|bytes| Self::Own { bytes })
    }

    pub(crate) fn is_inner(&self) -> bool {
        matches!(self, Self::Inner { .. })
    }

    /// The body of the service, or what is left of plimsoll's own.
    #[inline]
    pub(crate) fn inner(self: Pin<&mut Self>) -> Result<Pin<&mut B>, Option<Frame<Bytes>>> {
        match self.project() {
            Projection::Inner { inner } => Ok(inner),
            Projection::Own { bytes } => {
                let bytes = mem::take(bytes);
                Err((!bytes.is_empty()).then(|| Frame::data(bytes)))
            }
        }
    }
}

impl<B> Body for Content<B>
where
    B: Body<Data = Bytes>,
{
    type Data = Bytes;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.inner() {
            Ok(inner) => inner.poll_frame(context),
            Err(own) => Poll::Ready(own.map(Ok)),
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Inner { inner } => inner.is_end_stream(),
            Self::Own { bytes } => bytes.is_empty(),
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Inner { inner } => inner.size_hint(),
            Self::Own { bytes } => {
                SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
            }
        }
    }
}
