//! Rejects calls at once when there are as many in flight as the service can bear.
//!
//! ```
//! # use axum::{Router, routing::get};
//! use plimsoll::{limit::Limit, server::load_shed::LoadShedLayer};
//!
//! let app: Router = Router::new()
//!     .route("/", get(|| async { "hello" }))
//!     .layer(LoadShedLayer::new(Limit::adaptive()));
//! ```
//!
//! Nobody waits here: a burst is rejected as much as an overload. Where a short wait is better than an error, which it
//! mostly is, take [`back_pressure`](crate::server::back_pressure).

use std::{
    fmt,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    context::Scope,
    limit::{Admission, Desk, Limit, Rules, rules},
    observe::{BoxError, ResponseBody, ResponseFuture},
};

const LAYER: &str = "load_shed";

/// Rejects calls above a limit: 503, for gRPC status 14, with the time after which a retry makes sense. Clones share
/// the limit, and so do other layers that were given a clone of it.
///
/// The inner service is not called for a rejected call, and nothing of its body is read. Where calls have
/// different priorities, a few places are kept for the higher ones as long as there are any.
///
/// Place it inside of `request_id`, `access_log` and `metrics`, and outside of `catch_panic` and of all that is dear.
#[derive(Clone, Debug)]
pub struct LoadShedLayer {
    desk: Desk,
    on: bool,
}

impl LoadShedLayer {
    /// Rejects what this limit has no place for.
    pub fn new(limit: Limit) -> Self {
        Self {
            desk: Desk::new(limit, LAYER),
            on: true,
        }
    }

    /// Whether this layer does anything. Switched off it passes calls on as they are, of the same types; to be decided
    /// by configuration. Default: on.
    #[must_use]
    pub fn enabled(mut self, on: bool) -> Self {
        self.on = on;
        self
    }

    rules!();

    fn with(self, change: impl FnOnce(&mut Rules)) -> Self {
        Self {
            desk: self.desk.with(change),
            ..self
        }
    }
}

impl<S> Layer<S> for LoadShedLayer {
    type Service = LoadShed<S>;

    fn layer(&self, inner: S) -> LoadShed<S> {
        LoadShed {
            inner,
            desk: self.desk.clone(),
            on: self.on,
        }
    }
}

/// Service of [`LoadShedLayer`].
#[derive(Clone)]
pub struct LoadShed<S> {
    inner: S,
    desk: Desk,
    on: bool,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for LoadShed<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    S::Error: fmt::Display + 'static,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<ResBody, Admission>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, Admission>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        if !self.on {
            return ResponseFuture::pass(&mut self.inner, request);
        }
        let mut scope = Scope::join(&request);
        let visit = self.desk.visit(&request, &mut scope);
        match self.desk.enter(&visit) {
            Ok(admission) => {
                let admission = admission.to(&mut request, &mut scope);
                ResponseFuture::call(&mut self.inner, request, admission, scope)
            }
            Err(no) => ResponseFuture::refuse(no, request, scope),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for LoadShed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadShed")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
