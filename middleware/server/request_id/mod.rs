//! Gives each call an id that its log lines, its response and its outbound calls bear.
//!
//! ```
//! # use axum::{Router, routing::get};
//! use plimsoll::{context::RequestId, server::request_id::RequestIdLayer};
//!
//! async fn hello() -> String {
//!     let id = RequestId::current().expect("within a call");
//!     format!("hello, {id}")
//! }
//!
//! let app: Router = Router::new().route("/", get(hello)).layer(RequestIdLayer::new());
//! ```

mod make;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    context::{REQUEST_ID, RequestId, Scope},
    observe::{BoxError, Observer, ResponseBody, ResponseFuture},
};

#[cfg(feature = "tower-http")]
#[path = "tower_http.rs"]
mod tower_http_id;
#[cfg(not(feature = "tower-http"))]
#[path = "no_tower_http.rs"]
mod tower_http_id;

/// Whether an id that the caller sent is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// Keep it when it is well formed: the default, right behind a proxy or another service of yours.
    #[default]
    Keep,
    /// Always make a fresh one: right at the edge, where a stranger could reuse an id to blur your log.
    Replace,
}

/// Gives each call a [`RequestId`]. Clones share one configuration; there is no other state.
///
/// A well-formed id of the caller is kept ([`RequestId`] tells the alphabet), else a fresh one is made. It is put into
/// the request's extensions, its `x-request-id` header (in place of whatever was there), the response's `x-request-id`,
/// and the task, where [`RequestId::current`], the log and [`propagate`](crate::client) find it. With the feature
/// `tower-http` it is also set as that crate's `RequestId`.
///
/// Place it outermost, so that every response bears the id, rejections too. A second one further in finds the id and
/// leaves it.
#[derive(Clone, Debug)]
pub struct RequestIdLayer {
    settings: Arc<Settings>,
}

#[derive(Clone, Debug)]
struct Settings {
    inbound: Vec<HeaderName>,
    trust: Trust,
    make: make::Maker,
    on: bool,
}

impl RequestIdLayer {
    /// Reads `x-request-id`, then `x-correlation-id`, keeps a well-formed id, and makes UUIDs of version 4 (RFC 9562)
    /// from a cryptographic generator of the thread's, so that ids cannot be guessed and cost no system call.
    pub fn new() -> Self {
        let inbound = vec![REQUEST_ID, HeaderName::from_static("x-correlation-id")];
        Self {
            settings: Arc::new(Settings {
                inbound,
                trust: Trust::Keep,
                make: make::Maker::UuidV4,
                on: true,
            }),
        }
    }

    /// The headers, or gRPC metadata, in which a caller may send an id; the first that is present counts.
    #[must_use]
    pub fn inbound_headers(self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.with(|settings| settings.inbound = names.into_iter().collect())
    }

    /// Whether an id that the caller sent is kept. Default: [`Trust::Keep`].
    #[must_use]
    pub fn trust(self, trust: Trust) -> Self {
        self.with(|settings| settings.trust = trust)
    }

    /// Makes UUIDs of version 7, which sort by time and tell it.
    #[must_use]
    pub fn uuid_v7(self) -> Self {
        self.with(|settings| settings.make = make::Maker::UuidV7)
    }

    /// Makes ids in your own way. Called once for each call that needs one, on the path of the call.
    #[must_use]
    pub fn make_with(self, make: impl Fn() -> RequestId + Send + Sync + 'static) -> Self {
        self.with(|settings| settings.make = make::Maker::Own(Arc::new(make)))
    }

    /// Whether this layer does anything. Switched off it passes calls on as they are, of the same types; to be decided
    /// by configuration. Default: on.
    #[must_use]
    pub fn enabled(self, on: bool) -> Self {
        self.with(|settings| settings.on = on)
    }

    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }
}

impl Default for RequestIdLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for RequestIdLayer {
    type Service = WithRequestId<S>;

    fn layer(&self, inner: S) -> WithRequestId<S> {
        WithRequestId {
            inner,
            settings: Arc::clone(&self.settings),
        }
    }
}

/// Service of [`RequestIdLayer`].
#[derive(Clone)]
pub struct WithRequestId<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for WithRequestId<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    S::Error: fmt::Display + 'static,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<ResBody, SetHeader>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, SetHeader>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        if !self.settings.on {
            return ResponseFuture::pass(&mut self.inner, request);
        }
        let mut scope = Scope::of(&request);
        let known = request.extensions().get::<RequestId>().cloned();
        let (id, replaced) = known.map_or_else(
            || self.settings.identify(&mut request),
            |known| (known, false),
        );
        scope.update(|frame| frame.set_request_id(&id, replaced));
        ResponseFuture::call(&mut self.inner, request, SetHeader(id), scope)
    }
}

impl Settings {
    /// The id of the call, now also in the request, and whether it replaced one that was not kept.
    fn identify<B>(&self, request: &mut Request<B>) -> (RequestId, bool) {
        let (sent, kept) = self.sent(request.headers());
        let replaced = sent && kept.is_none();
        let id = kept.unwrap_or_else(|| self.make.make());
        request
            .headers_mut()
            .insert(REQUEST_ID, id.header().clone());
        tower_http_id::set(request.extensions_mut(), &id);
        request.extensions_mut().insert(id.clone());
        (id, replaced)
    }

    /// Whether the caller sent an id, and the id if it is to be kept.
    fn sent(&self, headers: &HeaderMap) -> (bool, Option<RequestId>) {
        for name in &self.inbound {
            if let Some(first) = headers.get(name) {
                let alone = headers.get_all(name).iter().nth(1).is_none();
                let kept = (alone && self.trust == Trust::Keep)
                    .then(|| RequestId::from_header(first).ok());
                return (true, kept.flatten());
            }
        }
        (false, None)
    }
}

impl<S: fmt::Debug> fmt::Debug for WithRequestId<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithRequestId")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// Puts the id on the response.
#[derive(Debug)]
pub struct SetHeader(RequestId);

impl Observer for SetHeader {
    fn on_head<B: Body>(&mut self, response: &mut Response<B>) {
        response
            .headers_mut()
            .insert(REQUEST_ID, self.0.header().clone());
    }
}
