//! Makes a span for each call that goes out, and passes it on to the service that is called.
//!
//! ```
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use opentelemetry::trace::TracerProvider;
//! use opentelemetry_sdk::trace::SdkTracerProvider;
//! use plimsoll::client::{propagate::PropagateLayer, trace_context::TraceContextLayer};
//! use tower::ServiceBuilder;
//!
//! # fn build() -> impl Sized {
//! let provider = SdkTracerProvider::builder().build(); // with an exporter of yours
//! let client = Client::builder(TokioExecutor::new()).build_http::<String>();
//! ServiceBuilder::new()
//!     .layer(TraceContextLayer::new(provider.tracer("shop")))
//!     .layer(PropagateLayer::new())
//!     .service(client)
//! # }
//! ```

use std::{
    borrow::Cow,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use opentelemetry::{
    KeyValue,
    trace::{SpanBuilder, SpanKind, Tracer},
};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    context::{TRACEPARENT, TRACESTATE},
    protocol::{GrpcCode, Methods, OTHER, Protocol},
    spans::{self, Live, Start, Starter},
};

#[cfg(feature = "tracing-opentelemetry")]
mod in_tracing;

/// Makes a CLIENT span for each call, with the names and attributes of OpenTelemetry's conventions, and sets the request's
/// `traceparent` and `tracestate` to it. There is no other state.
///
/// It is a child of the span that the code runs in, or of the call's as [`TraceContext::current`] tells. For HTTP it ends
/// with the head, as the conventions say; for gRPC with the status, wherever that is. The query is not recorded.
///
/// Place it inside of retries and timeouts and outside of `propagate`, which adds the request id: each attempt has a span.
///
/// [`TraceContext::current`]: crate::context::TraceContext::current
#[derive(Clone)]
pub struct TraceContextLayer {
    starter: Starter,
    server: Option<(Arc<str>, u16)>,
    methods: Arc<Methods>,
    on: bool,
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
            server: None,
            methods: Arc::new(Methods::chosen(None)),
            on: true,
        }
    }

    /// Another tracer, and all else as it is.
    pub(crate) fn tracer<T>(mut self, tracer: T) -> Self
    where
        T: Tracer + Send + Sync + 'static,
        T::Span: Send + Sync + 'static,
    {
        self.starter = Starter::with_tracer(tracer);
        self
    }

    /// Who is called, for requests that do not say so themselves: around a tonic `Channel` they have a path only.
    #[must_use]
    pub fn server(mut self, address: impl Into<Arc<str>>, port: u16) -> Self {
        self.server = Some((address.into(), port));
        self
    }

    /// Whether this layer does anything. Switched off it passes calls on as they are, of the same types; to be decided
    /// by configuration. Default: on.
    #[must_use]
    pub fn enabled(mut self, on: bool) -> Self {
        self.on = on;
        self
    }

    fn describe<B>(&self, request: &Request<B>, protocol: Protocol) -> SpanBuilder {
        let uri = request.uri();
        let mut attributes = Vec::with_capacity(6);
        let name = if protocol.is_grpc() {
            // It is the program's own: it names the methods that it calls.
            let method = uri.path().trim_start_matches('/').to_owned();
            attributes.push(KeyValue::new("rpc.system.name", "grpc"));
            attributes.push(KeyValue::new("rpc.method", method.clone()));
            method.into()
        } else {
            let method = self.methods.label(request.method());
            attributes.push(KeyValue::new("http.request.method", method.clone()));
            if let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) {
                let port = uri.port().map_or(String::new(), |port| format!(":{port}"));
                let full = format!("{scheme}://{host}{port}{}", uri.path());
                attributes.push(KeyValue::new("url.full", full));
            }
            if method == OTHER {
                Cow::Borrowed("HTTP")
            } else {
                method
            }
        };
        let default_port = if uri.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        let named = uri.host().map(|host| {
            let port = uri.port_u16().unwrap_or(default_port);
            (Arc::from(host), port)
        });
        if let Some((address, port)) = named.or_else(|| self.server.clone()) {
            attributes.push(KeyValue::new("server.address", address));
            attributes.push(KeyValue::new("server.port", i64::from(port)));
        }
        SpanBuilder::from_name(name)
            .with_kind(SpanKind::Client)
            .with_attributes(attributes)
    }
}

impl fmt::Debug for TraceContextLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceContextLayer")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for TraceContextLayer {
    type Service = WithSpan<S>;

    fn layer(&self, inner: S) -> WithSpan<S> {
        WithSpan {
            inner,
            start: Arc::clone(self.starter.get()),
            layer: self.clone(),
        }
    }
}

/// Service of [`TraceContextLayer`].
#[derive(Clone)]
pub struct WithSpan<S> {
    inner: S,
    start: Arc<dyn Start>,
    layer: TraceContextLayer,
}

impl<S, A, B> Service<Request<A>> for WithSpan<S>
where
    S: Service<Request<A>, Response = Response<B>>,
{
    type Response = Response<SpanBody<B>>;
    type Error = S::Error;
    type Future = SpanFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        if !self.layer.on {
            return SpanFuture {
                inner: self.inner.call(request),
                call: Guard(None),
            };
        }
        let protocol = Protocol::of(request.headers());
        let builder = self.layer.describe(&request, protocol);
        let parent = spans::context_of(spans::around());
        let live = self.start.start(builder, &parent);
        if let Some(trace) = spans::told(&live.context(), None) {
            let headers = request.headers_mut();
            headers.insert(TRACEPARENT, trace.parent().clone());
            match trace.state() {
                Some(state) => headers.insert(TRACESTATE, state.clone()),
                None => headers.remove(TRACESTATE),
            };
        }
        let entered = live.entered().cloned();
        let _entered = entered.as_ref().map(tracing::Span::enter);
        let call = Guard(Some(Outbound { live, protocol }));
        SpanFuture {
            inner: self.inner.call(request),
            call,
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for WithSpan<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithSpan")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// A call that has not ended. Dropped before its end, it was given up.
struct Outbound {
    live: Live,
    protocol: Protocol,
}

impl Outbound {
    /// Ends it with a status of gRPC, any but 0 being an error to who called.
    fn end_rpc(&self, code: Option<GrpcCode>) {
        match code {
            Some(code) => {
                self.live
                    .set(KeyValue::new("rpc.response.status_code", code.name()));
                if code != GrpcCode::Ok {
                    self.fail(code.name().into());
                }
            }
            None => self.fail("missing_status".into()),
        }
    }

    fn end_http(&self, response: http::StatusCode) {
        let status = i64::from(response.as_u16());
        self.live
            .set(KeyValue::new("http.response.status_code", status));
        if response.is_client_error() || response.is_server_error() {
            self.fail(response.as_str().to_owned().into());
        }
    }

    fn fail(&self, error: Cow<'static, str>) {
        self.live.set(KeyValue::new("error.type", error));
        self.live.fail("".into());
    }
}

/// Ends the span of a call that nobody waits for any more.
struct Guard(Option<Outbound>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call.fail("cancelled".into());
            call.live.end();
        }
    }
}

pin_project! {
    /// Future of [`WithSpan`].
    pub struct SpanFuture<F> {
        #[pin]
        inner: F,
        call: Guard,
    }
}

impl<F, B, E> Future for SpanFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<SpanBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(context));
        let call = this.call.0.take();
        Poll::Ready(match result {
            Ok(response) => {
                let call = call.and_then(|call| call.after_head(&response));
                Ok(response.map(|inner| SpanBody {
                    inner,
                    call: Guard(call),
                }))
            }
            Err(error) => {
                if let Some(call) = call {
                    call.fail("transport_error".into());
                    call.live.end();
                }
                Err(error)
            }
        })
    }
}

impl Outbound {
    /// What is left to wait for: the status of gRPC in trailers.
    fn after_head<B>(self, response: &Response<B>) -> Option<Self> {
        if !self.protocol.is_grpc() {
            self.end_http(response.status());
        } else if let Some(code) = GrpcCode::of(response.headers()) {
            self.end_rpc(Some(code));
        } else {
            return Some(self);
        }
        self.live.end();
        None
    }

    fn after_body(self, trailers: Option<&HeaderMap>) {
        self.end_rpc(trailers.and_then(GrpcCode::of));
        self.live.end();
    }
}

pin_project! {
    /// Body of the responses of [`WithSpan`].
    pub struct SpanBody<B> {
        #[pin]
        inner: B,
        call: Guard,
    }
}

impl<B: Body> Body for SpanBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let polled = ready!(this.inner.poll_frame(context));
        match &polled {
            Some(Ok(frame)) if frame.is_data() => {}
            Some(Ok(frame)) => {
                if let Some(call) = this.call.0.take() {
                    call.after_body(frame.trailers_ref());
                }
            }
            Some(Err(_)) => {
                if let Some(call) = this.call.0.take() {
                    call.fail("transport_error".into());
                    call.live.end();
                }
            }
            None => {
                if let Some(call) = this.call.0.take() {
                    call.after_body(None);
                }
            }
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<F: fmt::Debug> fmt::Debug for SpanFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SpanFuture").field(&self.inner).finish()
    }
}

impl<B: fmt::Debug> fmt::Debug for SpanBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SpanBody").field(&self.inner).finish()
    }
}
