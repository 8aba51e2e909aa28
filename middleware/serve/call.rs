//! Calls as a connection sees them: counted to their last byte, and ended honestly when the server cuts them off.

use std::{
    fmt,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version, header::UPGRADE};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;

use super::{
    conn::{Call, Conn},
    counts::Closed,
    heads::Framing,
};
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
        let is_two = request.version() == Version::HTTP_2;
        let body = framing(request.body());
        let call = self.conn.begin(body);
        if let Some(peer) = self.peer {
            PeerAddr(peer).put_into(request.extensions_mut());
        }
        // Over HTTP/1 only gRPC-Web is another one, and it sends a body: nothing else is looked at for that.
        let protocol = if is_two || body != Framing::None {
            Protocol::of(request.headers())
        } else {
            Protocol::Http
        };
        let is_tunnel = !is_two && request.method() == Method::CONNECT;
        if is_tunnel || (!is_two && request.headers().contains_key(UPGRADE)) {
            request.extensions_mut().insert(self.conn.handover());
        }
        CallFuture {
            inner: Some(self.service.call(request)),
            call: Some(call),
            protocol,
            is_two,
            is_tunnel,
        }
    }
}

/// What follows a head. Of HTTP/2 nobody asks.
fn framing(body: &Incoming) -> Framing {
    match body.size_hint().exact() {
        Some(0) => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
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
        is_two: bool,
        is_tunnel: bool,
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
                rest: Bytes::new(),
                call,
                protocol: Protocol::Http,
                is_two: false,
            })));
        }
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        let response = ready!(inner.poll(context))?;
        this.inner.set(None);
        let (protocol, is_two) = (*this.protocol, *this.is_two);
        if !is_two && (*this.is_tunnel || response.status() != StatusCode::OK) {
            note(call, *this.is_tunnel, &response);
        }
        let call = this.call.take();
        Poll::Ready(Ok(response.map(|inner| CallBody {
            content: Content::Inner { inner },
            rest: Bytes::new(),
            call,
            protocol,
            is_two,
        })))
    }
}

/// What an answer means for its connection of HTTP/1.
#[cold]
fn note<B>(call: &Call, is_tunnel: bool, response: &Response<B>) {
    match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => call.hands_over(),
        status if is_tunnel && status.is_success() => call.hands_over(),
        StatusCode::REQUEST_TIMEOUT => {
            let rejection = response.extensions().get::<Rejection>();
            if rejection.is_some_and(Rejection::is_of_slow_caller) {
                call.blame(Closed::BodySlow);
            }
        }
        _ => {}
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
        // What is left of a frame that is handed on in pieces.
        rest: Bytes,
        // `None` once it has ended.
        call: Option<Call>,
        protocol: Protocol,
        is_two: bool,
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
            // What HTTP/1 hands on waits for the socket alone, which is watched.
            if *this.is_two {
                call.handed(None);
            }
        }
        let polled = if this.rest.is_empty() {
            ready!(inner.as_mut().poll_frame(context)).map(|frame| frame.map_err(Into::into))
        } else {
            Some(Ok(Frame::data(std::mem::take(this.rest))))
        };
        let polled = match polled {
            Some(Ok(frame)) if *this.is_two => Some(Ok(piece(frame, this.rest))),
            other => other,
        };
        let is_data = matches!(&polled, Some(Ok(frame)) if frame.is_data());
        if is_data
            && *this.is_two
            && let Some(call) = this.call.as_ref()
        {
            // The last one, too, may never be taken.
            call.handed(Some(clock::now()));
        }
        if !is_data || (this.rest.is_empty() && inner.is_end_stream()) {
            this.content.set(Content::nothing());
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.rest.is_empty() {
            self.content.size_hint()
        } else {
            // Nobody asks in the midst of a frame; what is left of it counts only then.
            SizeHint::default()
        }
    }
}

impl<B> fmt::Debug for CallBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallBody").finish_non_exhaustive()
    }
}

/// What a stream of HTTP/2 hands on at once: what follows waits until the peer takes it, and how much a peer that takes
/// nothing makes the server hold is bounded.
const PIECE: usize = 64 * 1024;

/// The first piece of a frame; the others are left.
fn piece(frame: Frame<Bytes>, rest: &mut Bytes) -> Frame<Bytes> {
    match frame.into_data() {
        Ok(mut data) => {
            *rest = data.split_off(data.len().min(PIECE));
            Frame::data(data)
        }
        Err(frame) => frame,
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
