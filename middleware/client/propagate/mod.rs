//! Passes the current call's id and trace on to the services that it calls.
//!
//! ```
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use plimsoll::client::propagate::PropagateLayer;
//! use tower::ServiceBuilder;
//!
//! # fn build() -> impl Sized {
//! let client = Client::builder(TokioExecutor::new()).build_http::<String>();
//! ServiceBuilder::new().layer(PropagateLayer::new()).service(client)
//! # }
//! ```
//!
//! The same around a tonic `Channel`, whose metadata are headers, and, with the feature `reqwest`, around a
//! `reqwest::Client`.

#[cfg(feature = "reqwest")]
mod reqwest;

use std::task::{Context, Poll};

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tower_layer::Layer;
use tower_service::Service;

use crate::context::{self, CRITICALITY, REQUEST_ID, TRACEPARENT, TRACESTATE};

/// Adds `x-request-id`, `traceparent`, `tracestate` and, where `load_shed` or `back_pressure` found it, the priority
/// (`x-criticality`) of the call that the code runs in to each outbound request.
/// Clones share nothing; there is no state.
///
/// A header that the request bears already is kept, so each is there once, however many of these layers, retries or
/// attempts there are; a request with a `traceparent` of its own keeps its own trace whole. Outside of a call, and in a
/// task spawned without [`in_current_call`](crate::context::in_current_call), nothing is added.
///
/// Place it inside of retries and timeouts, next to the client: it is asked once for each attempt.
#[derive(Clone, Copy, Debug, Default)]
pub struct PropagateLayer {
    _private: (),
}

impl PropagateLayer {
    /// A layer that passes on what the current call has.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<S> Layer<S> for PropagateLayer {
    type Service = Propagate<S>;

    fn layer(&self, inner: S) -> Propagate<S> {
        Propagate { inner }
    }
}

/// Service of [`PropagateLayer`].
#[derive(Clone, Debug)]
pub struct Propagate<S> {
    inner: S,
}

/// A request that is about to be sent: any that has headers.
pub trait Outbound {
    /// Its headers.
    fn headers_mut(&mut self) -> &mut HeaderMap;
}

impl<B> Outbound for Request<B> {
    fn headers_mut(&mut self) -> &mut HeaderMap {
        self.headers_mut()
    }
}

impl<S, R> Service<R> for Propagate<S>
where
    S: Service<R>,
    R: Outbound,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: R) -> S::Future {
        let headers = request.headers_mut();
        context::current(|frame| {
            if let Some(id) = frame.request_id() {
                add(headers, REQUEST_ID, id.header());
            }
            if let Some(priority) = frame.priority() {
                let label = HeaderValue::from_static(priority.label());
                add(headers, CRITICALITY, &label);
            }
            if let Some(trace) = frame.trace()
                && !headers.contains_key(TRACEPARENT)
            {
                headers.remove(TRACESTATE);
                add(headers, TRACEPARENT, trace.parent());
                if let Some(state) = trace.state() {
                    add(headers, TRACESTATE, state);
                }
            }
        });
        self.inner.call(request)
    }
}

fn add(headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue) {
    headers.entry(name).or_insert_with(|| value.clone());
}
