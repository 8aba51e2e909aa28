//! Calls as a connection sees them: counted to their last byte, and ended honestly when the server cuts them off.

use std::{
    fmt,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;

use super::conn::{Call, Conn};
use crate::{
    clock,
    context::{self, PeerAddr},
    observe::{BoxError, Content},
    outcome::Outcome,
    protocol::Protocol,
    rejection::{Reason, Rejection},
};

const LAYER: &str = "serve";

/// The service of one connection.
#[derive(Debug)]
pub(super) struct Calls<S> {
    pub(super) service: S,
    pub(super) conn: Arc<Conn>,
    pub(super) peer: Option<SocketAddr>,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Calls<S>
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<B>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = Response<CallBody<B>>;
    type Error = S::Error;
    type Future = CallFuture<S::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let call = self.conn.begin();
        if let Some(peer) = self.peer {
            PeerAddr(peer).put_into(request.extensions_mut());
        }
        let protocol = Protocol::of(request.headers());
        CallFuture {
            inner: Some(self.service.call(request)),
            call: Some(call),
            protocol,
        }
    }
}

/// Drops a call that the server cuts off, so that its layers tell why.
fn cut_off(drop_it: impl FnOnce()) {
    context::while_cut(Outcome::Rejected(Reason::Drained), drop_it);
}

pin_project! {
    /// A call until its head.
    pub(super) struct CallFuture<F> {
        #[pin]
        inner: Option<F>,
        // `None` once the head is there.
        call: Option<Call>,
        protocol: Protocol,
    }

    impl<F> PinnedDrop for CallFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if let Some(call) = this.call.as_mut().filter(|call| call.is_cut()) {
                call.was_cut();
                cut_off(|| this.inner.set(None));
            }
        }
    }
}

impl<F, B, E> Future for CallFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<CallBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(call) = this.call.as_mut() else {
            return Poll::Pending;
        };
        if call.is_cut() {
            call.was_cut();
            cut_off(|| this.inner.set(None));
            let rejection = Rejection::new(Reason::Drained, LAYER);
            let response = rejection.into_response(*this.protocol, None);
            let call = this.call.take();
            return Poll::Ready(Ok(response.map(|bytes| CallBody {
                content: Content::Own { bytes },
                call,
                protocol: Protocol::Http,
            })));
        }
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        let response = ready!(inner.poll(context))?;
        this.inner.set(None);
        let protocol = *this.protocol;
        let call = this.call.take();
        Poll::Ready(Ok(response.map(|inner| CallBody {
            content: Content::Inner { inner },
            call,
            protocol,
        })))
    }
}

impl<F> fmt::Debug for CallFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallFuture").finish_non_exhaustive()
    }
}

pin_project! {
    /// The body of a call.
    pub(super) struct CallBody<B> {
        // Nothing once it has ended.
        #[pin]
        content: Content<B>,
        // `None` once it has ended.
        call: Option<Call>,
        protocol: Protocol,
    }

    impl<B> PinnedDrop for CallBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.content.is_inner()
                && let Some(call) = this.call.as_mut().filter(|call| call.is_cut())
            {
                call.was_cut();
                cut_off(|| this.content.set(Content::nothing()));
            }
        }
    }
}

impl<B> Body for CallBody<B>
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
        let mut inner = match this.content.as_mut().inner() {
            Ok(inner) => inner,
            Err(own) => return Poll::Ready(own.map(Ok)),
        };
        if let Some(call) = this.call.as_mut() {
            if call.is_cut() {
                call.was_cut();
                cut_off(|| this.content.set(Content::nothing()));
                return Poll::Ready(Some(last(*this.protocol)));
            }
            call.handed(None);
        }
        let polled = ready!(inner.as_mut().poll_frame(context));
        let goes_on =
            matches!(&polled, Some(Ok(frame)) if frame.is_data()) && !inner.is_end_stream();
        if !goes_on {
            this.content.set(Content::nothing());
        } else if let Some(call) = this.call.as_ref() {
            call.handed(Some(clock::now()));
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

impl<B> fmt::Debug for CallBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallBody").finish_non_exhaustive()
    }
}

/// The honest end of a body that is cut off: trailers for gRPC, a cut for HTTP.
fn last(protocol: Protocol) -> Result<Frame<Bytes>, BoxError> {
    match protocol {
        Protocol::Grpc => Ok(Frame::trailers(
            Rejection::new(Reason::Drained, LAYER).trailers(),
        )),
        Protocol::Http | Protocol::GrpcWeb | Protocol::GrpcWebText => Err(Drained.into()),
    }
}

#[derive(Debug)]
struct Drained;

impl fmt::Display for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the service is shutting down")
    }
}

impl std::error::Error for Drained {}
