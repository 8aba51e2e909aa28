//! Counts and times each call by how it really ended, into OpenTelemetry.
//!
//! ```
//! # use axum::{Router, routing::get};
//! use opentelemetry::metrics::MeterProvider;
//! use opentelemetry_sdk::metrics::SdkMeterProvider;
//! use plimsoll::server::metrics::MetricsLayer;
//!
//! let provider = SdkMeterProvider::builder().build(); // with a reader of yours
//! let app: Router = Router::new()
//!     .route("/", get(|| async { "hello" }))
//!     .layer(MetricsLayer::new(&provider.meter("shop")));
//! ```

mod books;
mod call;
mod hash;
mod instruments;
mod labels;
mod objective;
mod series;
mod watch;

use std::{
    fmt,
    num::NonZeroUsize,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response, uri::Scheme};
use http_body::Body;
use opentelemetry::{InstrumentationScope, global, metrics::Meter};
use tower_layer::Layer;
use tower_service::Service;

pub(crate) use self::instruments::{
    ENDED, HTTP_DURATION, IN_FLIGHT, LABEL_OVERFLOW, OVERFLOW, QUEUE_WAIT, RPC_DURATION,
};
use self::{books::Books, labels::Wire, watch::Handle};
pub use self::{call::Counted, instruments::DURATION_BOUNDARIES, objective::Objective};
use crate::{
    context::{Route, Scope},
    gauge::Gauges,
    observe::{BoxError, ResponseBody, ResponseFuture, Witness},
    outcome::Outcome,
};

/// Below the limit of the SDK (2,000 a metric), so that ours is met first: past the SDK's, each record takes a lock that
/// all threads share.
const MAX_SERIES: usize = 1_800;

/// Counts calls, times them to their last byte, and knows how many are in flight. Clones share one set of books.
///
/// What ends a call also names it: a status of gRPC in trailers, a body that breaks, a caller that goes away and a panic
/// are told apart, and a call is in flight until then. All labels come from closed sets or from the router.
/// `docs/metrics.md` lists the metrics.
///
/// A call is entered in the books of its thread and handed to the instruments when metrics are collected, or in batches
/// in between, so that threads do not wait for each other.
///
/// Place it inside of `request_id` and outside of everything whose end it should count; for axum in `Router::layer`,
/// where the matched route is known. Give each server one layer: two on one meter both count.
#[derive(Clone)]
pub struct MetricsLayer {
    /// `None`: the global provider's, asked for when the layer is applied.
    meter: Option<Meter>,
    settings: Settings,
    books: Arc<OnceLock<Arc<Books>>>,
}

#[derive(Clone, Debug)]
struct Settings {
    known_methods: Option<Vec<Method>>,
    rpc_methods: Vec<String>,
    max_series: usize,
    scheme: Option<Scheme>,
    watched: Vec<Handle>,
    objectives: Vec<Objective>,
    on: bool,
}

impl MetricsLayer {
    /// Records with this meter. Its provider must be that of `opentelemetry_sdk`, or one whose instruments can be bound.
    pub fn new(meter: &Meter) -> Self {
        Self::with(Some(meter.clone()))
    }

    /// Records with a meter of the global provider as it is when the layer is first applied to a service. Set the
    /// provider before: a meter of an earlier one stays without effect for ever.
    pub fn global() -> Self {
        Self::with(None)
    }

    fn with(meter: Option<Meter>) -> Self {
        Self {
            meter,
            settings: Settings {
                known_methods: None,
                rpc_methods: Vec::new(),
                max_series: MAX_SERIES,
                scheme: None,
                watched: Vec::new(),
                objectives: Vec::new(),
                on: true,
            },
            books: Arc::default(),
        }
    }

    /// The methods of gRPC that are named in metrics, as `package.Service/Method`. A caller may send any path, so all
    /// others are `_OTHER`. Default: none.
    #[must_use]
    pub fn rpc_methods<N: Into<String>>(self, names: impl IntoIterator<Item = N>) -> Self {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        self.set(|settings| settings.rpc_methods.extend(names))
    }

    /// The methods of HTTP that are named in metrics, at most 31; all others are `_OTHER`. Default: the comma separated
    /// list in `OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS`, else those of RFC 9110, PATCH and QUERY.
    #[must_use]
    pub fn known_methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        let methods = methods.into_iter().collect();
        self.set(|settings| settings.known_methods = Some(methods))
    }

    /// The most sets of labels that are told apart. A call past it is counted under `otel.metric.overflow` and in
    /// `plimsoll.label_overflow`, and belongs to no objective. Default: 1,800, right below the limit of 2,000 that the
    /// SDK has for each metric: give the views of the durations a higher one together with this.
    #[must_use]
    pub fn max_series(self, series: NonZeroUsize) -> Self {
        self.set(|settings| settings.max_series = series.get())
    }

    /// What `url.scheme` says. Default: the scheme in the request, which HTTP/2 always has and HTTP/1 seldom, else
    /// `http`. Set it behind a proxy that ends TLS.
    #[must_use]
    pub fn scheme(self, scheme: Scheme) -> Self {
        self.set(|settings| settings.scheme = Some(scheme))
    }

    /// Also tells the numbers of this handle whenever metrics are collected. Give each handle to one layer only.
    #[must_use]
    pub fn watch(self, handle: impl Gauges + 'static) -> Self {
        self.set(|settings| settings.watched.push(Handle(Arc::new(handle))))
    }

    /// Also counts which calls meet this objective.
    #[must_use]
    pub fn objective(self, objective: Objective) -> Self {
        self.set(|settings| settings.objectives.push(objective))
    }

    /// Whether this layer does anything. Switched off it passes calls on as they are, of the same types, has no
    /// instruments and tells of no handle; to be decided by configuration. Default: on.
    #[must_use]
    pub fn enabled(self, on: bool) -> Self {
        self.set(|settings| settings.on = on)
    }

    /// What is set after the layer was applied goes into books of their own.
    fn set(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self.books = Arc::default();
        self
    }

    fn books(&self) -> &Arc<Books> {
        self.books.get_or_init(|| match &self.meter {
            Some(meter) => Books::open(meter, self.settings.clone()),
            None => {
                let scope = InstrumentationScope::builder("plimsoll")
                    .with_version(env!("CARGO_PKG_VERSION"))
                    .build();
                Books::open(&global::meter_with_scope(scope), self.settings.clone())
            }
        })
    }
}

impl fmt::Debug for MetricsLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsLayer")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for MetricsLayer {
    type Service = Metrics<S>;

    fn layer(&self, inner: S) -> Metrics<S> {
        Metrics {
            inner,
            books: self.settings.on.then(|| Arc::clone(self.books())),
            https: self.settings.scheme.as_ref().map(is_https),
        }
    }
}

fn is_https(scheme: &Scheme) -> bool {
    *scheme == Scheme::HTTPS
}

/// Service of [`MetricsLayer`].
#[derive(Clone)]
pub struct Metrics<S> {
    inner: S,
    /// `None` when it is switched off.
    books: Option<Arc<Books>>,
    https: Option<bool>,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Metrics<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    S::Error: fmt::Display + 'static,
    ReqBody: Body + 'static,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<ResBody, Counted>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, Counted>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    #[inline]
    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let Some(books) = &self.books else {
            return ResponseFuture::pass(&mut self.inner, request);
        };
        let mut scope = Scope::open(&mut request);
        let started = scope.started();
        let protocol = scope.protocol(&request);
        let uri = request.uri();
        let https = self.https;
        let (ledger, asked) = books.begin(
            Wire::of(protocol, request.version()),
            request.method(),
            https.unwrap_or_else(|| uri.scheme().is_some_and(is_https)),
            Route::pattern(request.extensions()),
            uri.path(),
        );
        let mut witness = Witness::of(protocol);
        // Most requests have no body: they stay where they are, and that is not little to move.
        if !request.body().is_end_stream() {
            request = witness.watch(request, &mut scope);
        }
        let counted = Counted {
            ledger,
            witness,
            asked,
            started,
            head_at: None,
            outcome: Outcome::ClientGone,
        };
        ResponseFuture::call(&mut self.inner, request, counted, scope)
    }
}

impl<S: fmt::Debug> fmt::Debug for Metrics<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
