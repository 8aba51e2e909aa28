//! Writes one line for each call, at its true end.
//!
//! ```
//! # use axum::{Router, routing::get};
//! use plimsoll::server::access_log::{self, AccessLogLayer};
//!
//! async fn order() -> &'static str {
//!     access_log::field("tenant", "acme");
//!     "one cappuccino"
//! }
//!
//! let app: Router = Router::new().route("/order", get(order)).layer(AccessLogLayer::new());
//! ```

mod failures;
mod record;

use std::{
    fmt,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;
use tracing::Level;

pub use self::{
    failures::{Failure, Failures},
    record::Record,
};
use crate::{
    context::{self, FieldValue, Scope},
    observe::{BoxError, ResponseBody, ResponseFuture},
    outcome::{Fault, Outcome},
};

/// The `tracing` target of the line.
pub const TARGET: &str = "plimsoll::access";

/// Writes one line for each call when it has really ended: after its last byte or trailers, or when its body failed,
/// the caller went away, or a panic went through. Clones share the counts.
///
/// The line is one `tracing` event with the target [`TARGET`]; what its fields mean is in `docs/access-log.md`.
/// Any subscriber can take it; [`log`](crate::log) makes flat JSON of it. Values of the query and of sensitive headers
/// are replaced in the path and in the texts of errors.
///
/// Place it inside of `request_id` and outside of everything whose end it should tell. A second one further in writes
/// nothing: a call has one line.
#[derive(Clone, Debug)]
pub struct AccessLogLayer {
    settings: Arc<Settings>,
}

#[derive(Clone, Debug)]
struct Settings {
    rejections: Level,
    client_errors: Level,
    sample_successes: Option<NonZeroU32>,
    redact_headers: Vec<HeaderName>,
    call_span: bool,
    on: bool,
    recent: Option<Failures>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    successes: AtomicU64,
    sampled_out: AtomicU64,
}

impl AccessLogLayer {
    /// Writes a line for every call: errors of the service at ERROR, rejections at WARN, the rest at INFO.
    pub fn new() -> Self {
        Self {
            settings: Arc::new(Settings {
                rejections: Level::WARN,
                client_errors: Level::INFO,
                sample_successes: None,
                redact_headers: Vec::new(),
                call_span: false,
                on: true,
                recent: None,
                counts: Arc::default(),
            }),
        }
    }

    /// The level of calls that were refused to keep the service upright. Default: WARN.
    #[must_use]
    pub fn rejections_at(self, level: Level) -> Self {
        self.with(|settings| settings.rejections = level)
    }

    /// The level of calls that failed by the caller's doing, or whose caller went away. Default: INFO.
    #[must_use]
    pub fn client_errors_at(self, level: Level) -> Self {
        self.with(|settings| settings.client_errors = level)
    }

    /// Writes only one in so many lines of calls that went well. Failures are always written.
    /// Default: all. [`AccessLogLayer::sampled_out`] counts the lines that were left out.
    #[must_use]
    pub fn sample_successes(self, one_in: NonZeroU32) -> Self {
        self.with(|settings| settings.sample_successes = Some(one_in))
    }

    /// More headers of requests whose values must not appear in texts of errors and panics, besides `authorization`,
    /// `cookie` and `proxy-authorization`. (No header is logged as such.)
    #[must_use]
    pub fn redact_headers(self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.with(|settings| settings.redact_headers.extend(names))
    }

    /// Runs each call in a `tracing` span named `call`, for subscribers that know calls by their spans. Default: off,
    /// since [`log`](crate::log) puts the ids of the call on every line without.
    #[must_use]
    pub fn call_span(self) -> Self {
        self.with(|settings| settings.call_span = true)
    }

    /// Whether this layer does anything. Switched off it passes calls on as they are, of the same types; to be decided
    /// by configuration. Default: on.
    #[must_use]
    pub fn enabled(self, on: bool) -> Self {
        self.with(|settings| settings.on = on)
    }

    /// Keeps the last calls that failed by the service's doing here too, for operators: `ops` shows them. Default: nowhere.
    #[must_use]
    pub fn recent(self, failures: &Failures) -> Self {
        self.with(|settings| settings.recent = Some(failures.clone()))
    }

    /// How many lines of calls that went well were left out by [`AccessLogLayer::sample_successes`].
    pub fn sampled_out(&self) -> u64 {
        self.settings.counts.sampled_out.load(Ordering::Relaxed)
    }

    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }
}

impl Default for AccessLogLayer {
    fn default() -> Self {
        Self::new()
    }
}

/// Adds a field to the line of the call that this code runs in. The last value of a name counts.
///
/// Returns whether it will be there: false outside of a call, in a task of its own, and past 32 fields.
/// A name that the line has already is written as `fields.<name>`.
pub fn field(name: &'static str, value: impl Into<FieldValue>) -> bool {
    // Made before the call is changed: this is code of users', which may ask for the call.
    let value = value.into();
    context::update(|frame| frame.is_read() && frame.journal_mut().set_field(name, value))
        .unwrap_or_default()
}

impl<S> Layer<S> for AccessLogLayer {
    type Service = AccessLog<S>;

    fn layer(&self, inner: S) -> AccessLog<S> {
        AccessLog {
            inner,
            settings: Arc::clone(&self.settings),
        }
    }
}

/// Service of [`AccessLogLayer`].
#[derive(Clone)]
pub struct AccessLog<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for AccessLog<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    S::Error: fmt::Display + 'static,
    ReqBody: Body + 'static,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<ResBody, Record>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, Record>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        if !self.settings.on {
            return ResponseFuture::pass(&mut self.inner, request);
        }
        let mut scope = Scope::open(&mut request);
        let more = &self.settings.redact_headers;
        if !more.is_empty() {
            scope.update(|frame| frame.secrets_mut().add_headers(request.headers(), more));
        }
        let mut record = Record::begin(&request, &self.settings, &mut scope);
        if !request.body().is_end_stream() {
            request = record.watch(request, &mut scope);
        }
        ResponseFuture::call(&mut self.inner, request, record, scope)
    }
}

impl<S: fmt::Debug> fmt::Debug for AccessLog<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// The level of a line, or `None` when it is left out.
    fn level(&self, outcome: Outcome) -> Option<Level> {
        match outcome.fault() {
            Fault::Nobody => self.samples().then_some(Level::INFO),
            Fault::Caller => Some(self.client_errors),
            Fault::Load => Some(self.rejections),
            Fault::Server => Some(Level::ERROR),
        }
    }

    fn samples(&self) -> bool {
        let Some(one_in) = self.sample_successes else {
            return true;
        };
        let before = self.counts.successes.fetch_add(1, Ordering::Relaxed);
        let sampled = before.is_multiple_of(one_in.get().into());
        if !sampled {
            self.counts.sampled_out.fetch_add(1, Ordering::Relaxed);
        }
        sampled
    }
}
