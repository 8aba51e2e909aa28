//! Calls as a connection sees them: counted to their last byte, and ended honestly when the server cuts them off.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Extensions, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use pin_project_lite::pin_project;

use super::{
    conn::{Call, Conn},
    counts::Closed,
    heads::Framing,
};
use crate::{
    context,
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
    /// What each request is told.
    pub(super) known: Extensions,
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

    #[inline]
    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let is_two = request.version() == Version::HTTP_2;
        let body = framing(request.body());
        let call = if is_two {
            self.conn.begin_stream()
        } else {
            self.conn.begin(body)
        };
        // Over HTTP/1 only gRPC-Web is another one, and it sends a body: nothing else is looked at for that.
        let protocol = if is_two || body != Framing::None {
            Protocol::of(request.headers())
        } else {
            Protocol::Http
        };
        let is_tunnel = !is_two && request.method() == Method::CONNECT;
        // The library puts it there when another protocol is asked for.
        if !is_two && request.extensions().get::<OnUpgrade>().is_some() {
            request.extensions_mut().insert(self.conn.handover());
        }
        request.extensions_mut().extend(self.known.clone());
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
                rest: None,
                call,
                protocol: Protocol::Http,
                is_two: false,
                is_handed: false,
                last_frames: LAST_FRAMES,
            })));
        }
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        let Poll::Ready(response) = inner.poll(context) else {
            call.waits();
            return Poll::Pending;
        };
        let response = response?;
        this.inner.set(None);
        let (protocol, is_two) = (*this.protocol, *this.is_two);
        if !is_two && (*this.is_tunnel || response.status() != StatusCode::OK) {
            note(call, *this.is_tunnel, &response);
        }
        let call = this.call.take();
        Poll::Ready(Ok(response.map(|inner| CallBody {
            content: Content::Inner { inner },
            rest: None,
            call,
            protocol,
            is_two,
            is_handed: false,
            last_frames: LAST_FRAMES,
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
        rest: Option<Bytes>,
        // `None` once it has ended.
        call: Option<Call>,
        protocol: Protocol,
        is_two: bool,
        // Whether a part was handed on and nothing asked for since.
        is_handed: bool,
        // What may still be handed on once the call is to be cut off.
        last_frames: u8,
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
        let is_cut = this.call.as_ref().is_some_and(Call::is_cut);
        if let Some(call) = this.call.as_mut()
            && std::mem::take(this.is_handed)
        {
            call.taken();
        }
        let polled = if is_cut && *this.last_frames == 0 {
            Poll::Pending
        } else if let Some(rest) = this.rest.take() {
            Poll::Ready(Some(Ok(Frame::data(rest))))
        } else {
            let polled = inner.as_mut().poll_frame(context);
            polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
        };
        let Poll::Ready(mut polled) = polled else {
            let Some(call) = this.call.as_mut() else {
                return Poll::Pending;
            };
            if !is_cut {
                call.waits();
                return Poll::Pending;
            }
            call.was_cut();
            cut_off(|| this.content.set(Content::nothing()));
            return Poll::Ready(Some(last(*this.protocol)));
        };
        if is_cut {
            *this.last_frames = this.last_frames.saturating_sub(1);
        }
        let data = match &mut polled {
            Some(Ok(frame)) => frame.data_mut(),
            _ => None,
        };
        let is_data = data.is_some();
        // What HTTP/1 hands on waits for the socket alone, which is watched.
        if *this.is_two
            && let Some(data) = data
        {
            if data.len() > PIECE {
                *this.rest = Some(data.split_off(PIECE));
            }
            *this.is_handed = true;
        }
        if !is_data || (this.rest.is_none() && inner.is_end_stream()) {
            this.content.set(Content::nothing());
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.rest.is_none() {
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

/// An answer that is there when its call is to be cut off is whole: its data and trailers, should they come apart. One that
/// goes on and on ends nevertheless.
const LAST_FRAMES: u8 = 4;

/// What a stream of HTTP/2 hands on at once: what follows waits until the peer takes it, and how much a peer that takes
/// nothing makes the server hold is bounded.
const PIECE: usize = 64 * 1024;

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
