//! The service that stands inside of a layer, and what it observes.

use std::{
    collections::VecDeque,
    error::Error,
    fmt,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use tower::Service;

/// What a probe has seen; its clones see the same.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<SeenInner>);

#[derive(Default)]
pub(crate) struct SeenInner {
    calls: AtomicUsize,
    unready: AtomicUsize,
    last: Mutex<Option<Request<Full<Bytes>>>>,
    token: Arc<()>,
}

impl Seen {
    pub(crate) fn calls(&self) -> usize {
        self.0.calls.load(Ordering::Relaxed)
    }

    pub(crate) fn unready(&self) -> usize {
        self.0.unready.load(Ordering::Relaxed)
    }

    /// How many futures and bodies there are.
    pub(crate) fn held(&self) -> usize {
        Arc::strong_count(&self.0.token) - 1
    }

    pub(crate) fn last(&self) -> Request<Full<Bytes>> {
        self.0
            .last
            .lock()
            .expect("no test panics while it holds the lock")
            .take()
            .expect("there was a call")
    }
}

/// Lets futures and bodies through, or makes them wait.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(AtomicBool, Mutex<Option<Waker>>)>);

impl Gate {
    pub(crate) fn close(&self) {
        self.0.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn open(&self) {
        self.0.0.store(false, Ordering::Relaxed);
        if let Some(waker) = self
            .0
            .1
            .lock()
            .expect("no test panics while it holds the lock")
            .take()
        {
            waker.wake();
        }
    }

    fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.0.0.load(Ordering::Relaxed) {
            *self
                .0
                .1
                .lock()
                .expect("no test panics while it holds the lock") = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProbeError(pub(crate) u32);

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {} of the inner service", self.0)
    }
}

impl Error for ProbeError {}

/// The inner service. A clone of it is not ready.
pub(crate) struct Probe {
    pub(crate) seen: Seen,
    pub(crate) ready: bool,
    pub(crate) gate: Gate,
    pub(crate) fails: bool,
    pub(crate) body: ProbeBody,
}

impl Probe {
    pub(crate) fn new() -> (Self, Seen) {
        let seen = Seen::default();
        let probe = Self {
            seen: seen.clone(),
            ready: false,
            gate: Gate::default(),
            fails: false,
            body: ProbeBody::of([]),
        };
        (probe, seen)
    }
}

impl Clone for Probe {
    fn clone(&self) -> Self {
        Self {
            seen: self.seen.clone(),
            ready: false,
            gate: self.gate.clone(),
            fails: self.fails,
            body: self.body.clone(),
        }
    }
}

impl Service<Request<Full<Bytes>>> for Probe {
    type Response = Response<ProbeBody>;
    type Error = ProbeError;
    type Future = ProbeFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ProbeError>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> ProbeFuture {
        let seen = &self.seen.0;
        seen.calls.fetch_add(1, Ordering::Relaxed);
        if !std::mem::take(&mut self.ready) {
            seen.unready.fetch_add(1, Ordering::Relaxed);
        }
        *seen
            .last
            .lock()
            .expect("no test panics while it holds the lock") = Some(request);
        let token = Arc::clone(&seen.token);
        let body = ProbeBody {
            _token: Some(Arc::clone(&token)),
            ..self.body.clone()
        };
        ProbeFuture {
            gate: self.gate.clone(),
            answer: Some(if self.fails {
                Err(ProbeError(7))
            } else {
                Ok(body)
            }),
            _token: token,
        }
    }
}

pub(crate) struct ProbeFuture {
    pub(crate) gate: Gate,
    answer: Option<Result<ProbeBody, ProbeError>>,
    _token: Arc<()>,
}

impl Future for ProbeFuture {
    type Output = Result<Response<ProbeBody>, ProbeError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.gate.poll(context).map(|()| {
            self.answer.take().expect("polled once").map(|body| {
                let mut answer = Response::builder()
                    .version(http::Version::HTTP_2)
                    .header("x-own", "kept");
                answer
                    .extensions_mut()
                    .expect("valid")
                    .insert("an extension");
                answer.body(body).expect("valid")
            })
        })
    }
}

/// Some data, then trailers or an error if it has any.
#[derive(Clone, Default)]
pub(crate) struct ProbeBody {
    pub(crate) data: VecDeque<&'static str>,
    pub(crate) trailers: bool,
    pub(crate) fails: bool,
    pub(crate) unsized_: bool,
    pub(crate) gate: Gate,
    /// Held for as long as the body is there.
    pub(crate) _token: Option<Arc<()>>,
}

impl ProbeBody {
    pub(crate) fn of<const N: usize>(data: [&'static str; N]) -> Self {
        Self {
            data: data.into(),
            ..Self::default()
        }
    }
}

impl Body for ProbeBody {
    type Data = Bytes;
    type Error = ProbeError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProbeError>>> {
        self.gate.poll(context).map(|()| {
            if let Some(data) = self.data.pop_front() {
                return Some(Ok(Frame::data(Bytes::from(data))));
            }
            if std::mem::take(&mut self.trailers) {
                let trailers = HeaderMap::from_iter([(
                    http::HeaderName::from_static("x-checksum"),
                    HeaderValue::from(9),
                )]);
                return Some(Ok(Frame::trailers(trailers)));
            }
            std::mem::take(&mut self.fails).then_some(Err(ProbeError(8)))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && !self.trailers && !self.fails
    }

    fn size_hint(&self) -> SizeHint {
        if self.unsized_ || self.fails {
            return SizeHint::default();
        }
        SizeHint::with_exact(self.data.iter().map(|data| data.len() as u64).sum())
    }
}

/// A service that cannot leave its thread.
#[derive(Clone)]
pub(crate) struct OnOneThread(pub(crate) Rc<()>);

impl Service<Request<Full<Bytes>>> for OnOneThread {
    type Response = Response<Full<Bytes>>;
    type Error = ProbeError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ProbeError>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ProbeError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
        let held = Rc::clone(&self.0);
        Box::pin(async move {
            drop(held);
            Ok(Response::new(Full::from("rc")))
        })
    }
}
