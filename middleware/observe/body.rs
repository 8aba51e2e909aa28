use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header::CONTENT_LENGTH};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{
    BoxError, Content,
    end::{CallFacts, End, Fault, Observer, Watch},
};
use crate::{
    context::{self, Cause, Scope},
    outcome::Outcome,
    protocol::{GrpcCode, Protocol, code::GRPC_STATUS, status_in, web},
    rejection::{Reason, Rejection, broken_trailers},
};

pin_project! {
    /// The body of a call: what the service sends, unchanged, and an observer that hears how it ends.
    ///
    /// It forwards `size_hint`, `is_end_stream` and trailers, and is `Send` and `Sync` when the inner body is.
    pub struct ResponseBody<B, O>
    where
        O: Observer,
    {
        // `None` once it has ended.
        #[pin]
        inner: Option<Content<B>>,
        rest: Rest,
        watch: Watch<O>,
        scope: Scope,
    }

    impl<B, O> PinnedDrop for ResponseBody<B, O>
    where
        O: Observer,
    {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.inner.is_some() || this.watch.is_on() {
                let _entered = this.scope.enter();
                // Told after the body is gone and before the scope is left, should its destructor panic as well.
                let mut watch = this.watch.take();
                let guard = watch.guard();
                this.inner.set(None);
                guard.disarm();
                if this.rest.is_sent {
                    let trailers = this.rest.status.in_body();
                    watch.end(End::Complete { trailers });
                }
                drop(watch);
            }
        }
    }
}

/// What is still to come, as far as the head told.
#[derive(Debug)]
pub(super) struct Rest {
    status: Status,
    /// Bytes that are left to send, by `content-length` or an exact size.
    length: Option<u64>,
    /// Whether nothing is left, so that being dropped is a complete end.
    is_sent: bool,
}

/// Where the status of gRPC comes from.
#[derive(Debug)]
enum Status {
    /// There is none to come: HTTP, or a head that bore it.
    Settled,
    /// Nobody looks for one.
    Unwatched,
    /// In trailers.
    InTrailers,
    /// In a last frame within the body.
    InBody(Box<web::Scanner>),
}

impl<B, O> ResponseBody<B, O>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    O: Observer,
{
    #[inline]
    pub(super) fn new(content: Content<B>, rest: Rest, watch: Watch<O>, scope: Scope) -> Self {
        Self {
            inner: Some(content),
            rest,
            watch,
            scope,
        }
    }
}

impl<B, O: Observer> ResponseBody<B, O> {
    /// A body that nobody observes, of which there is nothing to be told at its end.
    #[inline]
    pub(super) fn of_nobody(content: Option<Content<B>>) -> Self {
        Self {
            inner: content,
            rest: Rest::unwatched(),
            watch: Watch::of_nobody(),
            scope: Scope::of_nothing(),
        }
    }
}

impl Rest {
    /// Of a body that passes as it is.
    fn unwatched() -> Self {
        Self {
            status: Status::Unwatched,
            length: None,
            is_sent: false,
        }
    }

    /// What is to come after this head.
    #[inline]
    pub(super) fn of<A: Body>(response: &Response<A>, facts: CallFacts) -> Self {
        if !facts.is_watched {
            return Self::unwatched();
        }
        let has_no_body = facts.has_no_body(response.status());
        let protocol = spoken(response, facts.protocol);
        let status = match protocol {
            Protocol::Http => Status::Settled,
            _ if has_no_body || response.headers().contains_key(GRPC_STATUS) => Status::Settled,
            Protocol::Grpc => Status::InTrailers,
            Protocol::GrpcWeb => Status::InBody(Box::new(web::Scanner::binary())),
            Protocol::GrpcWebText => Status::InBody(Box::new(web::Scanner::text())),
        };
        let length = match protocol {
            Protocol::Http if !has_no_body => length_of(response),
            _ => None,
        };
        let is_sent = status.is_settled()
            && (has_no_body || length == Some(0) || response.body().is_end_stream());
        Self {
            status,
            length,
            is_sent,
        }
    }
}

/// What the answer to a call of this protocol speaks. gRPC-Web may be answered in its other form, as `accept` asks for,
/// and in plain gRPC within a translator. An answer whose status is not 200 is HTTP's, of a router or a proxy: clients
/// of gRPC know what it means (`grpc/doc/http-grpc-status-mapping.md`).
#[inline]
fn spoken<A>(response: &Response<A>, asked: Protocol) -> Protocol {
    if asked == Protocol::Http || response.status() != StatusCode::OK {
        return Protocol::Http;
    }
    match Protocol::of(response.headers()) {
        Protocol::Http => asked,
        told => told,
    }
}

/// The bytes that the head promises.
fn length_of<B: Body>(response: &Response<B>) -> Option<u64> {
    match response.headers().get(CONTENT_LENGTH) {
        Some(length) => length.to_str().ok()?.parse().ok(),
        None => response.body().size_hint().exact(),
    }
}

impl<B, O> Body for ResponseBody<B, O>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    O: Observer,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        if let Status::Unwatched = this.rest.status {
            return pass(this.inner, context);
        }
        let _entered = this.scope.enter();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        let guard = this.watch.guard();
        let polled = inner.poll_frame(context);
        if ends(&polled) {
            this.inner.set(None);
        }
        guard.disarm();
        match ready!(polled) {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    if let Some(observer) = this.watch.observer() {
                        observer.on_data(data.len());
                    }
                    this.rest.took(data);
                    if let Some(inner) = this.inner.as_mut().as_pin_mut() {
                        this.rest.is_sent |= this.rest.status.is_settled() && inner.is_end_stream();
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                let mut trailers = match frame.into_trailers() {
                    Ok(trailers) => trailers,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                };
                this.rest.complete(&mut trailers);
                this.watch.end(End::Complete {
                    trailers: Some(&trailers),
                });
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Some(Err(error)) => {
                let error = error.into();
                let last = this.rest.failed(&*error);
                this.watch
                    .end(End::Failed(Fault::of(&*error).told_by(&last)));
                Poll::Ready(Some(last.map(Last::into_frame).ok_or(error)))
            }
            None => match this.rest.ended() {
                Ended::Well(trailers) => {
                    this.watch.end(End::Complete {
                        trailers: trailers.as_deref(),
                    });
                    Poll::Ready(None)
                }
                Ended::Short(error, last) => {
                    this.watch
                        .end(End::Failed(Fault::of(&*error).told_by(&last)));
                    Poll::Ready(Some(last.map(Last::into_frame).ok_or(error)))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        // Until gRPC's status is out there is something to come, though the inner body may have ended.
        self.inner
            .as_ref()
            .is_none_or(|inner| self.rest.status.is_settled() && inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// Of a body that nobody observes: it passes as it is.
#[inline]
fn pass<B>(
    mut inner: Pin<&mut Option<Content<B>>>,
    context: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BoxError>>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let Some(content) = inner.as_mut().as_pin_mut() else {
        return Poll::Ready(None);
    };
    let polled = content.poll_frame(context);
    if ends(&polled) {
        inner.set(None);
    }
    polled.map_err(Into::into)
}

/// Whether nothing comes after this: trailers, an error or the end.
#[inline]
fn ends<E>(polled: &Poll<Option<Result<Frame<Bytes>, E>>>) -> bool {
    match polled {
        Poll::Pending => false,
        Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
        Poll::Ready(Some(Err(_)) | None) => true,
    }
}

/// An empty body that nobody observes: what layers further out answer with that answer in the service's place, as
/// tower-http's `TimeoutLayer` and `CorsLayer` do.
impl<B, O> Default for ResponseBody<B, O>
where
    O: Observer,
{
    fn default() -> Self {
        Self::of_nobody(None)
    }
}

/// How a body ended that said nothing more.
enum Ended {
    Well(Option<Box<HeaderMap>>),
    /// It owed something: the error, and the frame that tells the caller, if there can be one.
    Short(BoxError, Option<Last>),
}

/// The last frame of a stream of gRPC that broke, and the status in it.
pub(super) struct Last {
    pub(super) code: Option<GrpcCode>,
    frame: Frame<Bytes>,
}

impl Last {
    fn into_frame(self) -> Frame<Bytes> {
        self.frame
    }
}

impl Status {
    fn is_settled(&self) -> bool {
        match self {
            Self::Settled | Self::Unwatched => true,
            Self::InTrailers => false,
            Self::InBody(scanner) => scanner
                .trailers()
                .is_some_and(|trailers| trailers.contains_key(GRPC_STATUS)),
        }
    }

    /// The trailers of gRPC-Web that have passed.
    fn in_body(&self) -> Option<&HeaderMap> {
        match self {
            Self::Settled | Self::Unwatched | Self::InTrailers => None,
            Self::InBody(scanner) => scanner.trailers(),
        }
    }

    /// The last frame of a body that broke: trailers for gRPC, nothing for HTTP, which is cut.
    fn broken(&self, trailers: HeaderMap) -> Option<Last> {
        let code = GrpcCode::of(&trailers);
        let frame = match self {
            Self::Settled | Self::Unwatched => return None,
            Self::InTrailers => Frame::trailers(trailers),
            Self::InBody(scanner) => Frame::data(scanner.frame_of(&trailers)?),
        };
        Some(Last { code, frame })
    }
}

impl Rest {
    fn took(&mut self, data: &Bytes) {
        if let Some(left) = &mut self.length {
            *left = left.saturating_sub(u64::try_from(data.len()).unwrap_or(u64::MAX));
            self.is_sent |= *left == 0;
        }
        if let Status::InBody(scanner) = &mut self.status {
            scanner.take(data);
            self.is_sent |= self.status.is_settled();
        }
    }

    /// Trailers are the end. For gRPC they must bear a status.
    fn complete(&mut self, trailers: &mut HeaderMap) {
        if matches!(self.status, Status::InTrailers) && !trailers.contains_key(GRPC_STATUS) {
            note(&MissingStatus);
            trailers.extend(broken_trailers(GrpcCode::Internal, MISSING_STATUS));
        }
        self.status = Status::Settled;
    }

    fn failed(&mut self, error: &(dyn std::error::Error + 'static)) -> Option<Last> {
        if is_panic(error) {
            // It was noted where it was caught.
            return self
                .status
                .broken(Rejection::new(Reason::Panic, "").trailers());
        }
        if let Some(refused) = refused(error) {
            // So was it.
            return self.status.broken(refused.0.trailers());
        }
        note(error);
        // A broken stream did not go well, whatever its error says.
        let code = status_in(error).filter(|&code| code != GrpcCode::Ok);
        let code = code.unwrap_or(GrpcCode::Internal);
        self.status
            .broken(broken_trailers(code, "the response broke off"))
    }

    fn ended(&mut self) -> Ended {
        let trailers = self.status.in_body().cloned().map(Box::new);
        let error: BoxError = match self.length {
            _ if !self.status.is_settled() => MissingStatus.into(),
            Some(left @ 1..) => ShortBody { left }.into(),
            _ => return Ended::Well(trailers),
        };
        note(&*error);
        let last = self
            .status
            .broken(broken_trailers(GrpcCode::Internal, MISSING_STATUS));
        Ended::Short(error, last)
    }
}

fn note(error: &(dyn std::error::Error + 'static)) {
    context::note(Cause {
        outcome: Outcome::BodyError,
        layer: "",
        error: context::chain(error),
    });
}

/// Whether a panic that was caught further in is what this tells of, wrapped or not.
fn is_panic(error: &(dyn std::error::Error + 'static)) -> bool {
    error.is::<BodyPanicked>() || error.source().is_some_and(is_panic)
}

/// What a layer further in ended the body for, wrapped or not.
fn refused<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a BodyRefused> {
    error
        .downcast_ref()
        .or_else(|| error.source().and_then(refused))
}

/// The error with which a layer ends a body after its head. The layer has noted why.
#[derive(Debug)]
pub(crate) struct BodyRefused(pub(crate) Rejection);

impl fmt::Display for BodyRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.reason().message())
    }
}

impl std::error::Error for BodyRefused {}

/// The error that cuts a body whose panic was caught.
#[derive(Debug)]
pub(crate) struct BodyPanicked;

impl fmt::Display for BodyPanicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body of the response panicked")
    }
}

impl std::error::Error for BodyPanicked {}

const MISSING_STATUS: &str = "missing grpc-status";

#[derive(Debug)]
struct MissingStatus;

impl fmt::Display for MissingStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MISSING_STATUS)
    }
}

impl std::error::Error for MissingStatus {}

#[derive(Debug)]
struct ShortBody {
    left: u64,
}

impl fmt::Display for ShortBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the body ended {} bytes short of its content-length",
            self.left
        )
    }
}

impl std::error::Error for ShortBody {}

impl<B, O: Observer> fmt::Debug for ResponseBody<B, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("rest", &self.rest)
            .finish_non_exhaustive()
    }
}
