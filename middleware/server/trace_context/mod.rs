//! Makes a span for each call, from its first to its last byte, as part of the caller's trace.
//!
//! ```
//! # use axum::{Router, routing::get};
//! use opentelemetry::trace::TracerProvider;
//! use opentelemetry_sdk::trace::SdkTracerProvider;
//! use plimsoll::server::trace_context::TraceContextLayer;
//!
//! let provider = SdkTracerProvider::builder().build(); // with an exporter of yours
//! let app: Router = Router::new()
//!     .route("/", get(|| async { "hello" }))
//!     .layer(TraceContextLayer::new(provider.tracer("shop")));
//! ```

mod active;
mod cap;
mod record;

#[cfg(feature = "tracing-opentelemetry")]
#[path = "in_tracing.rs"]
mod in_tracing;

use std::{
    collections::BTreeSet,
    fmt,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderName, Method, Request, Response};
use http_body::Body;
use opentelemetry::trace::Tracer;
use tower_layer::Layer;
use tower_service::Service;

use self::{active::Within, cap::Cap};
pub use self::{
    active::{ActiveBody, ActiveFuture},
    record::Traced,
};
use crate::{
    clock,
    context::Scope,
    gauge::{Gauges, Kind, Metric, Reading},
    observe::{BoxError, ResponseBody, ResponseFuture},
    protocol::Methods,
    spans::{Start, Starter},
};

/// What is done with the trace of a caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// The call joins it: the default, right behind a proxy or another service of yours.
    #[default]
    Join,
    /// The call begins a trace of its own with a link to the caller's: right at the edge, where a stranger could have all
    /// sampled, or mix its calls into a trace of yours.
    Restart,
}

/// Makes a SERVER span for each call, with the names and attributes of OpenTelemetry's conventions. Clones share their
/// counts.
///
/// The span lasts until the last byte, and its status comes from the true end: a status of gRPC in trailers, a body that
/// breaks, a caller that goes away. It is never set to `Ok`. Log lines of the call bear the ids of this span, and
/// [`propagate`](crate::client) passes them on.
///
/// Headers, the query and bodies are not recorded, unless a header is listed. What is malformed in `traceparent` is ignored.
///
/// Place it inside of `request_id` and outside of `access_log`; for axum in `Router::layer`, where the route is known.
#[derive(Clone)]
pub struct TraceContextLayer {
    starter: Starter,
    settings: Arc<Settings>,
}

#[derive(Clone)]
struct Settings {
    trust: Trust,
    cap: Option<Arc<Cap>>,
    methods: Methods,
    rpc_methods: BTreeSet<String>,
    headers: Vec<HeaderName>,
    on: bool,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    malformed: AtomicU64,
    over_cap: AtomicU64,
}

impl TraceContextLayer {
    /// Starts spans with this tracer.
    pub fn new<T>(tracer: T) -> Self
    where
        T: Tracer + Send + Sync + 'static,
        T::Span: Send + Sync + 'static,
    {
        Self::with(Starter::with_tracer(tracer))
    }

    /// Starts spans with a tracer of the global provider as it is when the layer is first applied to a service. Set the
    /// provider before: a tracer of an earlier one stays without effect for ever.
    pub fn global() -> Self {
        Self::with(Starter::global())
    }

    fn with(starter: Starter) -> Self {
        Self {
            starter,
            settings: Arc::new(Settings {
                trust: Trust::Join,
                cap: None,
                methods: Methods::chosen(None),
                rpc_methods: BTreeSet::new(),
                headers: Vec::new(),
                on: true,
                counts: Arc::default(),
            }),
        }
    }

    /// What is done with the trace of a caller. Default: [`Trust::Join`].
    #[must_use]
    pub fn trust(self, trust: Trust) -> Self {
        self.set(|settings| settings.trust = trust)
    }

    /// The most calls a second that are sampled because the caller says so. More of them are treated as if it said not to:
    /// a sampler that asks the parent drops them. Default: no limit, for callers that are services of yours.
    #[must_use]
    pub fn sampled_by_callers(self, per_second: NonZeroU32) -> Self {
        let cap = Arc::new(Cap::new(per_second, clock::now()));
        self.set(|settings| settings.cap = Some(cap))
    }

    /// The methods of gRPC that name spans, as `package.Service/Method`; spans of others are named `grpc`. Default: none.
    #[must_use]
    pub fn rpc_methods<N: Into<String>>(self, names: impl IntoIterator<Item = N>) -> Self {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        self.set(|settings| settings.rpc_methods.extend(names))
    }

    /// The methods of HTTP that name spans, at most 31; spans of others are named `HTTP`. Default: the comma separated
    /// list in `OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS`, else those of RFC 9110, PATCH and QUERY.
    #[must_use]
    pub fn known_methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        let methods: Vec<Method> = methods.into_iter().collect();
        self.set(|settings| settings.methods = Methods::chosen(Some(&methods)))
    }

    /// Headers of requests that are recorded, as `http.request.header.<name>`. Default: none.
    #[must_use]
    pub fn record_headers(self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.set(|settings| settings.headers.extend(names))
    }

    /// Whether this layer does anything. Switched off it passes calls on as they are, of the same types; to be decided
    /// by configuration. Default: on.
    #[must_use]
    pub fn enabled(self, on: bool) -> Self {
        self.set(|settings| settings.on = on)
    }

    fn set(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }
}

const IGNORED: Metric = Metric::new(
    "plimsoll.trace.ignored",
    Kind::Counter,
    "{request}",
    "Calls whose trace context was not obeyed, by reason.",
);

/// `plimsoll.trace.ignored` with `reason` = `malformed`, `over_cap`.
impl Gauges for TraceContextLayer {
    fn metrics(&self) -> &'static [Metric] {
        const { &[IGNORED] }
    }

    fn read(&self, tell: &mut dyn FnMut(Reading<'_>)) {
        let counts = &self.settings.counts;
        for (reason, count) in [
            ("malformed", &counts.malformed),
            ("over_cap", &counts.over_cap),
        ] {
            let count = count.load(Ordering::Relaxed);
            tell(Reading::new(&IGNORED, count).with(&[("reason", reason)]));
        }
    }
}

impl fmt::Debug for TraceContextLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceContextLayer")
            .field("trust", &self.settings.trust)
            .field("counts", &self.settings.counts)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for TraceContextLayer {
    type Service = WithSpan<S>;

    fn layer(&self, inner: S) -> WithSpan<S> {
        WithSpan {
            inner,
            start: Arc::clone(self.starter.get()),
            settings: Arc::clone(&self.settings),
        }
    }
}

/// Service of [`TraceContextLayer`].
#[derive(Clone)]
pub struct WithSpan<S> {
    inner: S,
    start: Arc<dyn Start>,
    settings: Arc<Settings>,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for WithSpan<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    S::Error: fmt::Display + 'static,
    ReqBody: Body + 'static,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<ActiveBody<ResBody>, Traced>>;
    type Error = S::Error;
    type Future = ResponseFuture<ActiveFuture<S::Future>, Traced>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        if !self.settings.on {
            let mut within = Within {
                context: None,
                inner: &mut self.inner,
            };
            return ResponseFuture::pass(&mut within, request);
        }
        let mut scope = Scope::open(&mut request);
        let (request, traced) = Traced::begin(request, &*self.start, &self.settings, &mut scope);
        let mut within = Within {
            context: traced.context(),
            inner: &mut self.inner,
        };
        ResponseFuture::call(&mut within, request, traced, scope)
    }
}

impl<S: fmt::Debug> fmt::Debug for WithSpan<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithSpan")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
