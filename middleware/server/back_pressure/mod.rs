//! Lets calls wait a little when there are as many in flight as the service can bear.
//!
//! ```
//! # use axum::{Router, routing::get};
//! use plimsoll::{limit::Limit, server::back_pressure::BackPressureLayer};
//!
//! let app: Router = Router::new()
//!     .route("/", get(|| async { "hello" }))
//!     .layer(BackPressureLayer::new(Limit::adaptive()));
//! ```
//!
//! The room where they wait is bounded in time and in number, so that a burst is served and an overload is not
//! queued. The highest priority is called first, the lowest is sent away first. First come is first served as long as
//! the room empties now and then; once it has stood for longer than a burst lasts, the last one is, for it is the most likely
//! to be in time.

mod call;

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    context::Scope,
    limit::{Admission, Desk, Entered, Limit, Rules, Vacancy, rules},
    observe::{BoxError, ResponseBody, ResponseFuture},
};

pub use call::BackPressureFuture;
use call::{Queued, Stage};

const LAYER: &str = "back_pressure";

/// Holds calls back above a limit until there is a place, and rejects those for whom it would come too late: 503, for
/// gRPC status 14, with the time after which a retry makes sense; who has a deadline that cannot be met, 504 and 4.
/// Clones share the limit and the room, and so do other layers that were given a clone of the limit.
///
/// The inner service is not called before the call is let in, and nothing of its body is read until then, so that HTTP/2
/// holds the sender back. A call that is dropped while it waits leaves the room.
///
/// Place it inside of `request_id`, `access_log`, `metrics` and `timeout`, and outside of `catch_panic` and of all that is
/// dear.
#[derive(Clone, Debug)]
pub struct BackPressureLayer {
    desk: Desk,
    holds: bool,
    on: bool,
}

impl BackPressureLayer {
    /// Lets calls wait for a place in this limit.
    pub fn new(limit: Limit) -> Self {
        Self {
            desk: Desk::new(limit, LAYER),
            holds: false,
            on: true,
        }
    }

    /// Also is not ready while the room is full, so that a connection is not read from until there is room again.
    /// Default: off, since whoever asks then waits without a bound and is not told, and priorities cannot be known.
    ///
    /// For servers that ask a service before they read from a connection. Those of axum and tonic read first: for
    /// them it changes who waits, and nothing else.
    #[must_use]
    pub fn hold_connections(self) -> Self {
        Self {
            holds: true,
            ..self
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

impl<S> Layer<S> for BackPressureLayer {
    type Service = BackPressure<S>;

    fn layer(&self, inner: S) -> BackPressure<S> {
        BackPressure {
            inner,
            desk: self.desk.clone(),
            holds: self.holds && self.on,
            on: self.on,
            vacancy: None,
        }
    }
}

/// Service of [`BackPressureLayer`].
pub struct BackPressure<S> {
    inner: S,
    desk: Desk,
    holds: bool,
    on: bool,
    /// What this one waits for in `poll_ready`.
    vacancy: Option<Vacancy>,
}

/// A clone waits on its own.
impl<S: Clone> Clone for BackPressure<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            desk: self.desk.clone(),
            holds: self.holds,
            on: self.on,
            vacancy: None,
        }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for BackPressure<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    S::Error: fmt::Display + 'static,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<ResBody, Admission>>;
    type Error = S::Error;
    type Future = BackPressureFuture<S, ReqBody, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        if self.holds {
            let desk = &self.desk;
            let vacancy = self.vacancy.get_or_insert_with(|| desk.vacancy());
            if Pin::new(vacancy).poll(context).is_pending() {
                return Poll::Pending;
            }
            self.vacancy = None;
        }
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        if !self.on {
            return BackPressureFuture::of(Stage::Called {
                inner: ResponseFuture::pass(&mut self.inner, request),
            });
        }
        let mut scope = Scope::join(&request);
        let visit = self.desk.visit(&request, &mut scope);
        let stage = match self.desk.enter_or_wait(visit) {
            Ok(Entered::Now(admission)) => {
                let admission = admission.to(&mut request, &mut scope);
                Stage::Called {
                    inner: ResponseFuture::call(&mut self.inner, request, admission, scope),
                }
            }
            Ok(Entered::Later(waiting)) => {
                scope.own(&request);
                // Whoever waits keeps nothing reserved that readiness may stand for: its own service is asked when its turn
                // comes, and so tells what has become of it meanwhile.
                let service = self.inner.clone();
                // What readiness reserved goes back.
                self.inner = service.clone();
                let desk = self.desk.clone();
                Stage::waiting(Queued::new(desk, waiting, service, request, scope))
            }
            Err(no) => Stage::Called {
                inner: ResponseFuture::refuse(no, request, scope),
            },
        };
        BackPressureFuture::of(stage)
    }
}

impl<S: fmt::Debug> fmt::Debug for BackPressure<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackPressure")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
