//! Ends calls that take too long, to their last byte, and tells handlers how much time is left.
//!
//! ```
//! # use axum::{Router, routing::get};
//! use std::time::Duration;
//! use plimsoll::{context::Deadline, server::timeout::TimeoutLayer};
//!
//! async fn order() -> String {
//!     let left = Deadline::current().expect("a total was set").remaining();
//!     format!("{left:?} left")
//! }
//!
//! let app: Router = Router::new()
//!     .route("/order", get(order))
//!     .layer(TimeoutLayer::new().total(Duration::from_secs(10)));
//! ```

mod asked;
mod call;
mod counts;
mod inflow;
mod settings;
mod timing;

use std::{
    fmt,
    num::NonZeroU32,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    caller::TrustedProxies,
    context::Scope,
    gauge::{Gauges, Metric, Reading},
    observe::{BoxError, ResponseBody, ResponseFuture},
};

pub use call::{TimedBody, TimedFuture};
pub use counts::TimeoutCounts;

use call::Starting;
use settings::{Pace, Settings, Shared};
use timing::Timing;

const LAYER: &str = "timeout";

/// Ends calls that take too long. Clones share the counts; a clone that is configured further has its own.
///
/// A call is over at the earliest of its caller's deadline and the limits of the server. Before the head the caller then
/// gets 504, for gRPC status 4; after it gRPC gets trailers with status 4 and HTTP is cut. The handler's future, or the
/// body it answered with, is dropped. For a handler that is ready at once no timer is touched.
///
/// | which | what is timed | default |
/// |---|---|---|
/// | `deadline` | the caller's: `grpc-timeout`, from trusted peers also `x-request-deadline` | – |
/// | `head` | the handler until its head, without the time that it waits for the caller's body | 60 s |
/// | `body` | the request's body, when it comes too slowly; answered with 408 | 500 bytes/s after 20 s, not for gRPC over HTTP/2 |
/// | `idle` | a response's body that has nothing to send | none |
/// | `total` | all, to the last byte | none |
///
/// Place it inside of `request_id`, `access_log` and `metrics`, outside of whatever waits, such as `back_pressure`, and
/// of `catch_panic`.
///
/// # Panics
///
/// The service panics where a handler is not ready at once in a runtime without tokio's timers.
#[derive(Clone)]
pub struct TimeoutLayer {
    shared: Arc<Shared>,
    on: bool,
}

impl TimeoutLayer {
    /// A minute until the head; bodies of HTTP requests must come at 500 bytes a second after 20 s; responses may last as
    /// long as they like. Callers' deadlines of gRPC are kept.
    pub fn new() -> Self {
        Self::of(Settings::default())
    }

    /// The most time from the start of a call to its last byte. It is also the most that a caller's deadline can be.
    /// Default: none, since streams may last for days.
    #[must_use]
    pub fn total(self, limit: impl Into<Option<Duration>>) -> Self {
        self.with(|settings| settings.total.set(limit.into()))
    }

    /// The most time that a handler takes until its head. While it waits for the caller's body this clock stands still
    /// (for axum's and tonic's bodies, features `axum` and `tonic`; else it runs on).
    /// Default: 60 s, after which nginx and the load balancers of clouds have given up and nobody hears the answer.
    #[must_use]
    pub fn head(self, limit: impl Into<Option<Duration>>) -> Self {
        self.with(|settings| settings.head.set(limit.into()))
    }

    /// The most time that the body of a response has nothing to send while the caller would take it.
    /// Default: none, since a stream of events may be silent for hours.
    #[must_use]
    pub fn idle(self, limit: impl Into<Option<Duration>>) -> Self {
        self.with(|settings| settings.idle.set(limit.into()))
    }

    /// The least rate at which the body of a request must come while the handler waits for it, of gRPC too. The grace is
    /// how long it may be silent, at the start and in between; bytes above the rate win it back.
    /// Default: 500 bytes a second and 20 s, as Apache's `RequestReadTimeout` has it, and for gRPC over HTTP/2 none,
    /// since its streams may be silent.
    #[must_use]
    pub fn min_rate(self, bytes_per_second: NonZeroU32, grace: Duration) -> Self {
        self.with(|settings| {
            settings.pace = Some(Pace {
                bytes_per_second,
                grace,
                of_grpc: true,
            });
        })
    }

    /// The grace of the rate that there is, which holds for those for whom it did.
    pub(crate) fn grace(self, grace: Duration) -> Self {
        self.with(|settings| {
            settings.pace = settings.pace.map(|pace| Pace { grace, ..pace });
        })
    }

    /// Lets bodies of requests come as slowly as they like.
    #[must_use]
    pub fn no_min_rate(self) -> Self {
        self.with(|settings| settings.pace = None)
    }

    /// Peers whose `x-request-deadline` is kept; from others the header is not looked at.
    /// Default: nobody. (`grpc-timeout` is kept from everyone: it is part of gRPC, and can only shorten a call.)
    #[must_use]
    pub fn deadline_from(self, peers: TrustedProxies) -> Self {
        self.with(|settings| settings.trusted = Some(peers))
    }

    /// Whether this layer does anything. Switched off it passes calls on as they are, of the same types; to be decided
    /// by configuration. Default: on.
    #[must_use]
    pub fn enabled(mut self, on: bool) -> Self {
        self.on = on;
        self
    }

    /// Changes [`total`](Self::total) while it runs, for calls that begin from now on.
    pub fn set_total(&self, limit: impl Into<Option<Duration>>) {
        self.shared.settings.total.set(limit.into());
    }

    /// Changes [`head`](Self::head) while it runs. A call that runs already is held to it when its timer rings next.
    pub fn set_head(&self, limit: impl Into<Option<Duration>>) {
        self.shared.settings.head.set(limit.into());
    }

    /// Changes [`idle`](Self::idle) while it runs. A call that runs already is held to it when its timer rings next.
    pub fn set_idle(&self, limit: impl Into<Option<Duration>>) {
        self.shared.settings.idle.set(limit.into());
    }

    /// The [`total`](Self::total) as it is now.
    pub(crate) fn current_total(&self) -> Option<Duration> {
        self.shared.settings.total.get()
    }

    /// The [`head`](Self::head) as it is now.
    pub(crate) fn current_head(&self) -> Option<Duration> {
        self.shared.settings.head.get()
    }

    /// The [`idle`](Self::idle) as it is now.
    pub(crate) fn current_idle(&self) -> Option<Duration> {
        self.shared.settings.idle.get()
    }

    /// What happened so far.
    pub fn counts(&self) -> TimeoutCounts {
        self.shared.counts.read()
    }

    fn with(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.shared.settings.clone();
        change(&mut settings);
        Self::of(settings).enabled(self.on)
    }

    fn of(settings: Settings) -> Self {
        Self {
            shared: Arc::new(Shared {
                settings,
                counts: Default::default(),
            }),
            on: true,
        }
    }
}

impl Default for TimeoutLayer {
    fn default() -> Self {
        Self::new()
    }
}

/// `plimsoll.timeouts` by `which`; `plimsoll.deadline.malformed`, `plimsoll.deadline.capped`.
impl Gauges for TimeoutLayer {
    fn metrics(&self) -> &'static [Metric] {
        counts::METRICS
    }

    fn read(&self, tell: &mut dyn FnMut(Reading<'_>)) {
        self.counts().tell(tell);
    }
}

impl fmt::Debug for TimeoutLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TimeoutLayer")
            .field(&self.shared.settings)
            .finish()
    }
}

impl<S> Layer<S> for TimeoutLayer {
    type Service = Timeout<S>;

    fn layer(&self, inner: S) -> Timeout<S> {
        Timeout {
            inner,
            shared: Arc::clone(&self.shared),
            on: self.on,
        }
    }
}

/// Service of [`TimeoutLayer`].
#[derive(Clone)]
pub struct Timeout<S> {
    inner: S,
    shared: Arc<Shared>,
    on: bool,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Timeout<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    S::Error: fmt::Display + 'static,
    ReqBody: Body + 'static,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<TimedBody<ResBody>, ()>>;
    type Error = S::Error;
    type Future = ResponseFuture<TimedFuture<S::Future>, ()>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        if !self.on {
            return ResponseFuture::pass(&mut Starting::untimed(&mut self.inner), request);
        }
        let mut scope = Scope::open(&mut request);
        match Timing::begin(&self.shared, &request, &mut scope) {
            Ok(mut timing) => {
                let request = timing.watch(request, &mut scope);
                let mut starting = Starting::of(&mut self.inner, timing);
                ResponseFuture::call(&mut starting, request, (), scope)
            }
            Err(rejection) => ResponseFuture::reject_reusing(rejection, request, (), scope),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Timeout<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timeout")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
