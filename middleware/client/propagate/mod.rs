//! Passes the current call's id, trace and deadline on to the services that it calls.
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

use std::{
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    context::{self, CRITICALITY, Deadline, REQUEST_DEADLINE, REQUEST_ID, TRACEPARENT, TRACESTATE},
    protocol::{GRPC_TIMEOUT, GrpcTimeout, Protocol},
};

/// Adds `x-request-id`, `traceparent` and `tracestate` of the call that the code runs in to each outbound request, and
/// what is left of its [deadline](Deadline): `grpc-timeout` for gRPC, `x-request-deadline` for HTTP. That is a twentieth
/// less than what is left, from 1 to 100 ms, so that there is time to hear the answer. Where `load_shed` or `back_pressure` found
/// the call's priority, that goes along too (`x-criticality`).
/// Clones share nothing; there is no state.
///
/// A header that the request bears already is kept, so each is there once, however many of these layers, retries or
/// attempts there are; a request with a `traceparent` of its own keeps its own trace whole, and one with a shorter
/// deadline of its own keeps that. Outside of a call, and in a
/// task spawned without [`in_current_call`](crate::context::in_current_call), nothing is added.
///
/// Place it inside of retries and timeouts, next to the client: it is asked once for each attempt.
#[derive(Clone, Copy, Debug)]
pub struct PropagateLayer {
    on: bool,
}

impl PropagateLayer {
    /// A layer that passes on what the current call has.
    pub fn new() -> Self {
        Self { on: true }
    }

    /// Whether this layer does anything. Switched off it passes calls on as they are, of the same types; to be decided
    /// by configuration. Default: on.
    #[must_use]
    pub fn enabled(mut self, on: bool) -> Self {
        self.on = on;
        self
    }
}

impl Default for PropagateLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for PropagateLayer {
    type Service = Propagate<S>;

    fn layer(&self, inner: S) -> Propagate<S> {
        Propagate { inner, on: self.on }
    }
}

/// Service of [`PropagateLayer`].
#[derive(Clone, Debug)]
pub struct Propagate<S> {
    inner: S,
    on: bool,
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
        if !self.on {
            return self.inner.call(request);
        }
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
            if let Some(deadline) = frame.deadline() {
                tell(headers, deadline);
            }
        });
        self.inner.call(request)
    }
}

fn add(headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue) {
    headers.entry(name).or_insert_with(|| value.clone());
}

/// Tells what is left, less the time that the answer needs to be heard.
fn tell(headers: &mut HeaderMap, deadline: Deadline) {
    let left = deadline.remaining();
    let margin = left.checked_div(20).unwrap_or_default();
    let margin = margin.clamp(Duration::from_millis(1), Duration::from_millis(100));
    let left = left.saturating_sub(margin);
    let name = match Protocol::of(headers).is_grpc() {
        true => GRPC_TIMEOUT,
        false => REQUEST_DEADLINE,
    };
    let own = headers
        .get(&name)
        .and_then(|own| GrpcTimeout::parse(own.as_bytes()).ok());
    if own.is_none_or(|own| own.duration() > left) {
        headers.insert(name, GrpcTimeout::new(left).to_header());
    }
}
