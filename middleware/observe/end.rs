use std::{any::Any, error::Error, fmt, mem};

use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;

use super::body::Last;
use crate::{
    context::{self, Scope},
    protocol::{GrpcCode, Protocol},
};

/// The error type of [`ResponseBody`](super::ResponseBody): whatever the inner body's error is, boxed.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// How a call ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum End<'a> {
    /// The last byte was handed on. For gRPC the trailers, also those that gRPC-Web sends within the body.
    Complete {
        /// The trailers, if there were any.
        trailers: Option<&'a HeaderMap>,
    },
    /// The service returned `Err`, or the response's body failed.
    Failed(Fault<'a>),
    /// Dropped before its end: the caller is gone, or an outer layer gave up.
    Dropped,
    /// A panic went through it.
    Panicked,
}

/// An error that ended a call. Displays the whole chain, as far as its type tells it.
pub struct Fault<'a> {
    kind: Kind<'a>,
    grpc_code: Option<GrpcCode>,
}

enum Kind<'a> {
    Chain(&'a (dyn Error + 'static)),
    Text(&'a dyn fmt::Display),
}

impl<'a> Fault<'a> {
    pub(crate) fn of(error: &'a (dyn Error + 'static)) -> Self {
        Self {
            kind: Kind::Chain(error),
            grpc_code: None,
        }
    }

    /// The same, as this frame tells it to the caller.
    pub(super) fn told_by(mut self, last: &Option<Last>) -> Self {
        self.grpc_code = last.as_ref().and_then(|last| last.code);
        self
    }

    /// The status that a caller who speaks gRPC was told in the service's place, once the head had gone.
    pub fn grpc_code(&self) -> Option<GrpcCode> {
        self.grpc_code
    }

    /// The error of a service need not be an [`Error`]: a [`BoxError`] is none, and tells its chain all the same.
    pub(crate) fn of_service<E: fmt::Display + 'static>(error: &'a E) -> Self {
        match (error as &dyn Any).downcast_ref::<BoxError>() {
            Some(error) => Self::of(&**error),
            None => Self {
                kind: Kind::Text(error),
                grpc_code: None,
            },
        }
    }
}

impl fmt::Display for Fault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Chain(error) => f.write_str(&context::chain(error)),
            Kind::Text(error) => f.write_str(&context::said(error)),
        }
    }
}

impl fmt::Debug for Fault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fault({self})")
    }
}

/// Watches one call.
///
/// It runs within the call's [`Scope`](crate::context::Scope). Give back what must be given back in `Drop`: that runs
/// right after `on_end`, whichever way the call ends.
pub trait Observer: Sized {
    /// The head is about to leave. It may be added to.
    fn on_head<B: Body>(&mut self, _response: &mut Response<B>) {}

    /// So many bytes of the body are about to leave.
    fn on_data(&mut self, _bytes: usize) {}

    /// The call has ended. Called exactly once.
    fn on_end(self, _end: End<'_>) {}
}

/// For layers that only need the honest end.
impl Observer for () {}

/// Makes sure that an observer hears of the end once, also when nobody else tells it.
#[derive(Debug)]
pub(crate) struct Watch<O: Observer>(Option<O>);

impl<O: Observer> Watch<O> {
    pub(crate) fn new(observer: O) -> Self {
        Self(Some(observer))
    }

    pub(crate) fn of_nobody() -> Self {
        Self(None)
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn observer(&mut self) -> Option<&mut O> {
        self.0.as_mut()
    }

    #[inline]
    pub(crate) fn head<B: Body>(&mut self, response: &mut Response<B>) {
        if let Some(observer) = &mut self.0 {
            observer.on_head(response);
        }
    }

    /// The watch itself, for the body that outlives the future.
    pub(crate) fn take(&mut self) -> Self {
        Self(self.0.take())
    }

    pub(crate) fn end(&mut self, end: End<'_>) {
        if let Some(observer) = self.0.take() {
            observer.on_end(end);
        }
    }

    /// Tells of a panic that passes until the guard is [disarmed](PanicGuard::disarm). Whoever catches it further out
    /// may drop the call when nothing unwinds any more.
    #[inline]
    pub(crate) fn guard(&mut self) -> PanicGuard<'_, O> {
        PanicGuard(self)
    }
}

/// See [`Watch::guard`].
#[must_use = "it tells of a panic when it is dropped"]
pub(crate) struct PanicGuard<'a, O: Observer>(&'a mut Watch<O>);

impl<O: Observer> PanicGuard<'_, O> {
    #[inline]
    pub(crate) fn disarm(self) {
        mem::forget(self);
    }
}

impl<O: Observer> Drop for PanicGuard<'_, O> {
    fn drop(&mut self) {
        self.0.end(End::Panicked);
    }
}

impl<O: Observer> Drop for Watch<O> {
    fn drop(&mut self) {
        if self.0.is_some() {
            self.end(End::Dropped);
        }
    }
}

/// What the end of a response depends on, and only the request and the head tell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallFacts {
    pub(crate) protocol: Protocol,
    head_only: bool,
    /// Whether anybody wants to know of the end.
    pub(super) is_watched: bool,
}

impl CallFacts {
    #[inline]
    pub(crate) fn of<B>(request: &Request<B>, scope: &mut Scope) -> Self {
        Self {
            protocol: scope.protocol(request),
            head_only: *request.method() == Method::HEAD,
            is_watched: true,
        }
    }

    /// Of a call that nobody watches.
    pub(super) fn of_nothing() -> Self {
        Self {
            protocol: Protocol::Http,
            head_only: false,
            is_watched: false,
        }
    }

    /// Whether no body follows the head, whatever its headers say (RFC 9110, section 6.4.1).
    #[inline]
    pub(crate) fn has_no_body(self, status: StatusCode) -> bool {
        let bodiless = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
        self.head_only || status.is_informational() || bodiless.contains(&status)
    }
}
